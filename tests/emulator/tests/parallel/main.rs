//! Many at once, on the emulated host: more prepares than there are places, and a thousand random events with
//! hooks and daemons that die. Two lines say how it went; anything else is a failure, in words.
//!
//! Without libtest, so that the lines reach the terminal. `cargo test --test parallel -- rounds` runs one
//! part (`a16`, `l40s`, `rounds`); `SEED=` repeats the choices of the rounds, `ROUNDS=` makes more or fewer
//! of them.

mod calls;
mod domains;
mod eyes;
mod hand;
mod oracle;
mod rounds;
mod storm;
mod turn;

use std::process::ExitCode;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

/// What went wrong, in words, one thing on a line.
type Wrong = String;
/// A part of this test, which says in a line how it went.
type Part = fn() -> Result<String, Wrong>;

/// A hook that hangs is a failure, too, and not a test that never ends.
const LIMIT: Duration = Duration::from_secs(600);

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let parts: [(&str, Part); 3] = [("a16", storm::a16), ("l40s", storm::l40s), ("rounds", rounds::main)];
    let mut failed = false;
    for (name, part) in parts {
        if !wanted.is_empty() && !wanted.iter().any(|wanted| name.contains(wanted.as_str())) {
            continue;
        }
        let (tell, told) = channel();
        // A panic drops the sender, and is told as such.
        std::thread::spawn(move || tell.send(part()));
        match told.recv_timeout(LIMIT) {
            Ok(Ok(line)) => println!("{line}"),
            Ok(Err(wrong)) => {
                failed = true;
                println!("parallel: {name} failed:\n{wrong}");
            }
            Err(why) => {
                failed = true;
                let hangs = why == RecvTimeoutError::Timeout;
                println!("parallel: {name} {}", if hangs { "hangs" } else { "panicked" });
            }
        }
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
