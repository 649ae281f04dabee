//! Processes that can be suspended, copied and taken up again: the shipped code is run from its start with the
//! answers that it was given before, and suspended where it is about to change something. What has been found out
//! about it is kept as a tree of histories, so that the same history is run once.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::panic::{self, AssertUnwindSafe};
use std::rc::Rc;
use std::time::Duration;

use virt_mdev::host::Host;

use crate::memory::{Answers, Memory, Op, Seen, Sim, View, Who};

/// How a process has ended: what it said, or why it failed.
pub(crate) type Ended = Result<String, String>;

/// A step from one history to a longer one: from where, with which answer, and what of that matters.
type Step = (At, Seen, Seen);

/// A place in the tree of histories.
pub(crate) type At = usize;

/// A program: shipped code with its arguments.
pub(crate) type Program = Rc<dyn Fn(&Host) -> Ended>;

struct Node {
    program: usize,
    /// The history before, and the answer that led here.
    before: Option<Step>,
    /// Locks that were let go since.
    released: Vec<String>,
    next: Next,
    after: HashMap<Seen, At>,
}

#[derive(Clone)]
enum Next {
    Op(Rc<Op>),
    Ended(Rc<Ended>),
}

/// Where a process has come to.
pub(crate) enum Come {
    /// It is about to do this.
    To(At),
    /// It has ended.
    End(Rc<Ended>),
}

/// An operation that was answered: the locks that were let go before it, the answer, and what of that matters.
type Found = (Vec<String>, Op, Seen, Seen);

/// All programs and their histories.
pub(crate) struct Histories {
    programs: Vec<(View, Program)>,
    roots: HashMap<usize, At>,
    nodes: Vec<Node>,
    matters: Matters,
}

/// What of an answer makes a difference to the process: answers of which the same matters are one.
pub(crate) type Matters = fn(&Sim, Who, &Op, Seen) -> Seen;

/// What a suspended process is unwound with.
struct Pause;

/// Answers from a log, then from the host for as long as nothing is changed.
struct Script {
    who: Who,
    log: RefCell<std::vec::IntoIter<Seen>>,
    sim: RefCell<Sim>,
    released: RefCell<Vec<String>>,
    /// What was asked beyond the log, and answered.
    found: RefCell<Vec<Found>>,
    matters: Matters,
    wanted: RefCell<Option<Op>>,
    live: Cell<bool>,
}

impl Answers for Script {
    fn ask(&self, op: Op) -> Seen {
        let logged = self.log.borrow_mut().next();
        if let Some(seen) = logged {
            self.released.borrow_mut().clear();
            self.live.set(self.log.borrow().len() == 0);
            return seen;
        }
        let mut sim = self.sim.borrow_mut();
        if !sim.is_effect(&op) {
            let seen = sim.act(self.who, &op).unwrap();
            let matters = (self.matters)(&sim, self.who, &op, seen.clone());
            self.found.borrow_mut().push((self.released.take(), op, seen.clone(), matters));
            return seen;
        }
        drop(sim);
        *self.wanted.borrow_mut() = Some(op);
        panic::resume_unwind(Box::new(Pause));
    }

    fn unlock(&self, path: &str) {
        // While it is being unwound it lets go of nothing: it is suspended.
        if self.wanted.borrow().is_none() {
            self.released.borrow_mut().push(path.to_owned());
            if self.live.get() {
                self.sim.borrow_mut().unlock(self.who, path);
            }
        }
    }

    fn slept(&self, _: Duration) {}
}

impl Histories {
    /// None yet.
    pub(crate) fn new(matters: Matters) -> Self {
        Self { programs: Vec::new(), roots: HashMap::new(), nodes: Vec::new(), matters }
    }

    /// A new program.
    pub(crate) fn add(&mut self, view: View, program: Program) -> usize {
        self.programs.push((view, program));
        self.programs.len() - 1
    }

    /// What a process is about to do.
    pub(crate) fn op(&self, at: At) -> Rc<Op> {
        match &self.nodes[at].next {
            Next::Op(op) => op.clone(),
            Next::Ended(_) => unreachable!("it has ended"),
        }
    }

    /// Starts a process: it comes to the first thing that it changes.
    fn start(&mut self, sim: &mut Sim, who: Who, program: usize) -> Come {
        match self.roots.get(&program) {
            Some(root) => self.on(sim, who, *root),
            None => self.run(sim, who, program, None),
        }
    }

    /// Whether what a process is about to do makes no difference to anybody else.
    pub(crate) fn is_private(&self, sim: &Sim, at: At) -> bool {
        matches!(&self.nodes[at].next, Next::Op(op) if sim.is_private(op))
    }

    /// Starts a process; what it looks at before its first lock, the name of a domain for its words and whether there is
    /// a record at all, it looks at when it gets that. `None`: it has to wait.
    pub(crate) fn begin(&mut self, sim: &mut Sim, who: Who, program: usize) -> Option<Come> {
        match self.start(sim, who, program) {
            Come::To(at) if matches!(&*self.op(at), Op::Lock(_)) => self.step(sim, who, at),
            come => Some(come),
        }
    }

    /// Does what a process is about to do, and goes on to the next thing that it changes. `None`: it waits for a lock.
    pub(crate) fn step(&mut self, sim: &mut Sim, who: Who, at: At) -> Option<Come> {
        let op = self.op(at);
        let seen = sim.act(who, &op)?;
        Some(self.after(sim, who, at, seen))
    }

    fn after(&mut self, sim: &mut Sim, who: Who, at: At, seen: Seen) -> Come {
        let matters = (self.matters)(sim, who, &self.op(at), seen.clone());
        match self.nodes[at].after.get(&matters) {
            Some(next) => {
                for path in &self.nodes[*next].released {
                    sim.unlock(who, path);
                }
                self.on(sim, who, *next)
            }
            None => self.run(sim, who, self.nodes[at].program, Some((at, seen, matters))),
        }
    }

    /// Goes on from here to where something is changed.
    fn on(&mut self, sim: &mut Sim, who: Who, at: At) -> Come {
        match self.nodes[at].next.clone() {
            Next::Ended(ended) => Come::End(ended),
            Next::Op(op) if sim.is_effect(&op) => Come::To(at),
            Next::Op(op) => {
                let seen = sim.act(who, &op).unwrap();
                self.after(sim, who, at, seen)
            }
        }
    }

    /// Runs the program itself, from its start.
    fn run(&mut self, sim: &mut Sim, who: Who, program: usize, before: Option<Step>) -> Come {
        let mut log = Vec::new();
        let mut back = before.clone();
        while let Some((at, seen, _)) = back.take() {
            log.push(seen);
            back.clone_from(&self.nodes[at].before);
        }
        log.reverse();
        let live = Cell::new(log.is_empty());
        let script = Rc::new(Script {
            who,
            log: RefCell::new(log.into_iter()),
            sim: RefCell::new(std::mem::take(sim)),
            released: RefCell::default(),
            found: RefCell::default(),
            wanted: RefCell::default(),
            matters: self.matters,
            live,
        });
        let (view, run) = self.programs[program].clone();
        let host = Host::on(Memory::seeing(&script, view));
        let result = panic::catch_unwind(AssertUnwindSafe(|| run(&host)));
        *sim = script.sim.take();
        let ended = match result {
            Ok(ended) => Next::Ended(Rc::new(ended)),
            Err(paused) if paused.is::<Pause>() => Next::Op(Rc::new(script.wanted.take().unwrap())),
            Err(defect) => Next::Ended(Rc::new(Err(format!("{DEFECT}{}", said(&*defect))))),
        };
        let mut before = before;
        for (released, op, seen, matters) in script.found.take() {
            let at = self.insert(program, before, released, Next::Op(Rc::new(op)));
            before = Some((at, seen, matters));
        }
        let at = self.insert(program, before, script.released.take(), ended.clone());
        match ended {
            Next::Ended(ended) => Come::End(ended),
            Next::Op(_) => Come::To(at),
        }
    }

    fn insert(&mut self, program: usize, before: Option<Step>, released: Vec<String>, next: Next) -> At {
        let at = self.nodes.len();
        match &before {
            Some((before, _, matters)) => drop(self.nodes[*before].after.insert(matters.clone(), at)),
            None => drop(self.roots.insert(program, at)),
        }
        self.nodes.push(Node { program, before, released, next, after: HashMap::new() });
        at
    }
}

/// Begins what a program that panicked is said to have said.
pub(crate) const DEFECT: &str = "it panicked: ";

fn said(defect: &dyn Any) -> String {
    defect
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| defect.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_default()
}
