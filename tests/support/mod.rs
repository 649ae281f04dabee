//! What several tests share.
#![allow(unreachable_pub, reason = "each test uses its part")]

pub mod tree;
