//! A domain says in its XML which mediated devices it wants; this makes them exist just before QEMU needs them, and
//! takes them away when the domain has gone. There is no daemon: libvirt's qemu hook calls a small program.
//!
//! ```text
//! argv + XML ──► Event, Domain ──► Requests ──► Plan (Steps) ──► execute ──► Record
//! ```
//!
//! Everything up to [`plan`] is pure; [`step::Step`] is the only thing that passes from thought to effect; effects live in
//! [`host`], the [`record`] and the doors. Below stand what all use, what the flow is made of, and the doors.

pub mod ids;
pub mod refusal;
pub mod words;

pub mod accounts;
pub mod arrival;
pub mod backend;
pub mod config;
pub mod definitions;
pub mod domain;
pub mod event;
pub mod execute;
pub mod host;
pub mod labels;
pub mod placement;
pub mod plan;
pub mod qemu_conf;
pub mod ready;
pub mod reap;
pub mod record;
pub mod request;
pub mod seen;
pub mod start;
pub mod startable;
pub mod step;
pub mod undo;

pub mod arrive;
pub mod attach;
pub mod autostart;
pub mod cli;
pub mod hook;
pub mod lost;
pub mod prepare;
pub mod relabel;
