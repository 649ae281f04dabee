//! Nothing is left behind, whatever dies and whatever fails: the crash matrix and the errno matrix, over the shipped
//! programs on emulated hosts.
//!
//! Arguments choose: `crash`, `errno`, a host, words of a shape's or an event's name. `--agent` is this program's own.

mod agent;
mod crash;
mod errno;
mod labels;
mod life;
mod look;
mod operations;
mod report;
mod shapes;
mod snapshot;
mod stage;
mod state;

use std::collections::{BTreeMap, VecDeque};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use life::{Event, Life};
use report::Report;
use shapes::{Backend, Shape};
use stage::{Stage, Told};

/// A matrix of one event of one shape.
struct Job {
    crash: bool,
    shape: Shape,
    event: Event,
}

impl Job {
    fn title(&self) -> String {
        let matrix = if self.crash { "crash" } else { "errno" };
        format!("{matrix}: {}, {}", self.shape.title(), self.event.title())
    }
}

type Lives = Mutex<BTreeMap<(&'static str, String), Arc<Life>>>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|argument| argument == "--agent") {
        return match agent::serve() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("agent: {error}");
                ExitCode::FAILURE
            }
        };
    }
    let wanted: Vec<String> = arguments.into_iter().filter(|argument| !argument.starts_with("--")).collect();
    let start = Instant::now();
    let has_reconcile =
        std::process::Command::new(stage::built("virt-mdev")).args(["reconcile", "--help"]).output();
    let report = Report::new(has_reconcile.is_ok_and(|output| output.status.success()));
    if !report.reconcile {
        report.broken("there is no `virt-mdev reconcile`: that recovery is left out".to_owned());
    }
    let jobs: Mutex<VecDeque<Job>> = Mutex::new(
        all().into_iter().filter(|job| wanted.iter().all(|word| job.title().contains(word))).collect(),
    );
    let lives = Lives::default();
    let cpus = sched_getaffinity(Pid::from_raw(0)).unwrap_or_default();
    let cpus: Vec<usize> = (0..CpuSet::count()).filter(|cpu| cpus.is_set(*cpu) == Ok(true)).take(8).collect();
    std::thread::scope(|scope| {
        for (number, cpu) in cpus.iter().enumerate() {
            let (jobs, lives, report) = (&jobs, &lives, &report);
            scope.spawn(move || {
                // A host and its programs talk to each other all the time, each waiting for the other: on one
                // processor that takes a fifth of the time.
                let mut own = CpuSet::new();
                let _ = own.set(*cpu).and_then(|()| sched_setaffinity(Pid::from_raw(0), &own));
                work(number, jobs, lives, report);
            });
        }
    });
    let holds = report.print(wanted.is_empty());
    println!("matrices: {:.0} s on {} processors", start.elapsed().as_secs_f64(), cpus.len());
    if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// All jobs; those that take longest first, those of one host together.
fn all() -> Vec<Job> {
    let mut jobs = Vec::new();
    for backend in Backend::ALL.into_iter().rev() {
        for shape in shapes::shapes(backend) {
            for event in Event::ALL {
                jobs.push(Job { crash: true, shape: shape.clone(), event });
            }
        }
    }
    for backend in Backend::ALL {
        for shape in shapes::shapes(backend) {
            for event in Event::ALL.into_iter().filter(|event| errno::concerns(&shape, *event)) {
                jobs.push(Job { crash: false, shape: shape.clone(), event });
            }
        }
    }
    jobs
}

fn work(number: usize, jobs: &Mutex<VecDeque<Job>>, lives: &Lives, report: &Report) {
    let mut stage: Option<Stage> = None;
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let Some(job) = job else { return };
        let start = Instant::now();
        if let Err(why) = explore(&mut stage, number, &job, lives, report) {
            report.broken(format!("{}: {why}", job.title()));
            stage = None;
        }
        if std::env::var_os("VIRT_MDEV_MATRIX_TIMES").is_some() {
            eprintln!("{:.2} s  {}", start.elapsed().as_secs_f64(), job.title());
        }
    }
}

fn explore(stage: &mut Option<Stage>, number: usize, job: &Job, lives: &Lives, report: &Report) -> Told<()> {
    let config = if job.crash { crash::CONFIG } else { errno::CONFIG };
    let stage = match stage {
        Some(stage) => {
            stage.take_up(&job.shape, config)?;
            stage
        }
        None => stage.insert(Stage::start(&job.shape, config, number)?),
    };
    let key = (job.shape.backend.host(), job.shape.name.to_owned());
    let known = lives.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
    let life = match known {
        Some(life) => life,
        None => {
            let life = Arc::new(errno::in_time(|| Life::record(stage, &job.shape))?);
            lives.lock().unwrap_or_else(PoisonError::into_inner).insert(key, life.clone());
            life
        }
    };
    stage.learn(&life.states());
    let explore = if job.crash { crash::explore } else { errno::explore };
    explore(stage, &job.shape, &life, job.event, report)
}
