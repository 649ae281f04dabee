//! Every interleaving of what two domains and a reconcile do on a card with two places, with the death of any process after
//! each of its effects and of libvirt's daemon at any time; where both want the same device, of their looks at claims and
//! devices, too (`FINE=1`: everywhere, which takes six minutes). What runs is the shipped code; the kernel is the emulator's
//! model.

#[path = "interleavings/memory.rs"]
mod memory;
#[path = "interleavings/process.rs"]
mod process;
#[path = "interleavings/system.rs"]
mod system;

use std::collections::HashSet;
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Instant;

use memory::Broken;
use system::{Move, Shape, State, System};

const A: &str = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";
const B: &str = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1002";
const C: &str = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1003";
const D: &str = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1004";

const SHAPES: [Shape; 5] = [
    Shape {
        name: "two places each",
        wanted: [&[A, B], &[C, D]],
        hand: None,
        both_fit: false,
        deaths: 1,
        fine: false,
    },
    Shape {
        name: "one place each",
        wanted: [&[A], &[B]],
        hand: None,
        both_fit: true,
        deaths: 2,
        fine: false,
    },
    Shape {
        name: "the same device",
        wanted: [&[A], &[A]],
        hand: None,
        both_fit: false,
        deaths: 2,
        fine: true,
    },
    Shape {
        name: "a place taken by hand",
        wanted: [&[A], &[B]],
        hand: Some(C),
        both_fit: true,
        deaths: 1,
        fine: false,
    },
    Shape {
        name: "the device made by hand",
        wanted: [&[A], &[B]],
        hand: Some(A),
        both_fit: true,
        deaths: 1,
        fine: false,
    },
];

/// What an exploration has found.
#[derive(Default)]
struct Found {
    states: u64,
    ends: u64,
    none_started: u64,
    violation: Option<String>,
}

/// One state on the way, and what has not been tried in it.
struct Frame {
    state: State,
    moves: Vec<Move>,
    made: Option<Move>,
    moved: bool,
}

fn explore(system: &mut System<'_>) -> Found {
    let mut found = Found::default();
    let mut known = HashSet::new();
    let mut ends = HashSet::new();
    let start = system.start();
    known.insert(start.key());
    let moves = system.moves(&start);
    let mut way = vec![Frame { state: start, moves, made: None, moved: false }];
    while let Some(frame) = way.last_mut() {
        let Some(step) = frame.moves.pop() else {
            let frame = way.pop().unwrap();
            if !frame.moved {
                found.ends += 1;
                found.none_started += u64::from(system.none_started(&frame.state));
                let judged = match system.is_over(&frame.state) {
                    false => Err("nobody can go on".to_owned()),
                    true if ends.insert(system.end(&frame.state)) => system.recover(&frame.state),
                    true => Ok(()),
                };
                if let Err(why) = judged {
                    way.push(frame);
                    found.violation = Some(tell(system, &way, None, &why));
                    return found;
                }
            }
            continue;
        };
        match system.make(&frame.state, step) {
            Ok(None) => {}
            Ok(Some(mut state)) => {
                frame.moved = true;
                frame.made = Some(step);
                if known.insert(state.key()) {
                    found.states += 1;
                    if let Err(why) = system.check(&mut state) {
                        found.violation = Some(tell(system, &way, Some(step), &why));
                        return found;
                    }
                    let moves = system.moves(&state);
                    way.push(Frame { state, moves, made: None, moved: false });
                }
            }
            Err(why) => {
                found.violation = Some(tell(system, &way, Some(step), &why));
                return found;
            }
        }
    }
    found
}

/// The whole schedule, step by step.
fn tell(system: &System<'_>, way: &[Frame], last: Option<Move>, why: &str) -> String {
    let mut text = String::new();
    for (number, frame) in way.iter().enumerate() {
        let made = if number + 1 == way.len() { last } else { frame.made };
        if let Some(made) = made {
            text += &format!("{:4}. {}\n", number + 1, system.words(&frame.state, made));
        }
    }
    let state = way.last().map(|frame| frame.state.show()).unwrap_or_default();
    format!("{why}\n{text}the host before the last step:\n{state}")
}

/// Something broken, and the number of the shape in which that shows.
const BROKEN: [(Broken, usize); 4] =
    [(Broken::Locks, 1), (Broken::Daemons, 1), (Broken::Nodes, 1), (Broken::Links, 2)];

/// What is printed, how many states there were, and whether all is well.
type Judged = (String, u64, bool);
type Job<'a> = Box<dyn FnOnce() -> Judged + Send + 'a>;

/// The lines about one shape, how many states it has, and whether all is well.
fn judge(shape: &Shape) -> Judged {
    let begun = Instant::now();
    let mut system = System::new(shape, Broken::Nothing);
    let found = explore(&mut system);
    let mut text = format!(
        "  {}: {} states, {} ends, {} of them with no domain started, {} devices that nobody can tell from ours, {:.0} s",
        shape.name,
        found.states,
        found.ends,
        found.none_started,
        system.undecidable,
        begun.elapsed().as_secs_f64()
    );
    if let Some(violation) = &found.violation {
        text += &format!("\nVIOLATION ({}): {violation}", shape.name);
    }
    (text, found.states, found.violation.is_none())
}

/// A checker that finds nothing may be one that cannot find anything.
fn finds(broken: Broken, shape: &Shape) -> Judged {
    let violation = explore(&mut System::new(shape, broken)).violation;
    match violation.as_deref().and_then(|violation| violation.lines().next()) {
        Some(why) => (format!("  with broken {broken:?}, as it should be: {why}"), 0, true),
        None => (format!("VIOLATION: with broken {broken:?} nothing is found"), 0, false),
    }
}

fn main() -> ExitCode {
    // One shape while something is being looked for: SHAPE="same device".
    let only = std::env::var("SHAPE").ok();
    let fits = |shape: &&Shape| only.as_deref().is_none_or(|only| shape.name.contains(only));
    let mut jobs: Vec<Job<'_>> = Vec::new();
    for shape in SHAPES.iter().filter(fits) {
        jobs.push(Box::new(|| judge(shape)));
    }
    for (broken, shape) in BROKEN.iter().filter(|_| only.is_none()) {
        jobs.push(Box::new(|| finds(*broken, &SHAPES[*shape])));
    }
    let jobs = Mutex::new(jobs.into_iter());
    let sums = Mutex::new((0, 0));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let job = jobs.lock().unwrap().next();
                    let Some(job) = job else { return };
                    let (text, states, well) = job();
                    let mut sums = sums.lock().unwrap();
                    println!("{text}");
                    *sums = (sums.0 + states, sums.1 + u64::from(!well));
                }
            });
        }
    });
    let (states, violations) = sums.into_inner().unwrap();
    println!("interleavings: {states} states, {violations} violations");
    if violations == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
