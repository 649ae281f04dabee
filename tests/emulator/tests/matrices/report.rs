//! What was tried and what came of it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::labels;
use crate::stage::Told;

/// A kind of effect: operations, and where. One that must be there is missed if it is not.
struct Kind {
    name: &'static str,
    operations: &'static [&'static str],
    path: &'static str,
    must: bool,
}

const fn kind(name: &'static str, operations: &'static [&'static str], path: &'static str) -> Kind {
    Kind { name, operations, path, must: true }
}

/// Every effect is of one of these kinds, the first that fits.
const KINDS: [Kind; 16] = [
    kind("sysfs write", &["write"], "/sys/*"),
    kind("record file", &["create"], "/run/virt-mdev/domains/*"),
    kind("record write", &["write"], "/run/virt-mdev/domains/*"),
    kind("record rename", &["rename"], "/run/virt-mdev/domains/*"),
    kind("record removal", &["unlink"], "/run/virt-mdev/domains/*"),
    kind("claim", &["symlink"], "/run/virt-mdev/devices/*"),
    kind("claim removal", &["unlink"], "/run/virt-mdev/devices/*"),
    kind("index link", &["symlink"], "/run/virt-mdev/by-name/*"),
    kind("index removal", &["unlink"], "/run/virt-mdev/by-name/*"),
    kind("lock file", &["create"], "/run/virt-mdev/locks/*"),
    kind("node owner", &["chown"], "/dev/vfio/*"),
    kind("node mode", &["chmod"], "/dev/vfio/*"),
    kind("node context", &["setxattr"], "/dev/vfio/*"),
    kind("AppArmor file", &["write", "create", "rename", "unlink"], "/etc/apparmor.d/libvirt/*"),
    kind("directory", &["mkdir"], "/run/virt-mdev*"),
    Kind {
        name: "new record truncated",
        operations: &["open"],
        path: "/run/virt-mdev/domains/*.new",
        must: false,
    },
];

/// The kind of an effect, by its line in the log.
pub(crate) fn kind_of(effect: &str) -> Option<&'static str> {
    let mut words = effect.split(' ');
    let (operation, path) = (words.next()?, words.next()?);
    let fits = |kind: &&Kind| {
        kind.operations.contains(&operation) && virt_mdev_emulator::fault::fits(kind.path, path)
    };
    KINDS.iter().find(fits).map(|kind| kind.name)
}

/// A matrix: how many points, how many of them hold, and why the others do not.
#[derive(Default)]
struct Matrix {
    points: usize,
    failures: Vec<String>,
    kinds: BTreeMap<&'static str, usize>,
}

/// Both matrices, filled by several threads.
pub(crate) struct Report {
    /// Whether there is a `virt-mdev reconcile`.
    pub(crate) reconcile: bool,
    crash: Mutex<Matrix>,
    errno: Mutex<Matrix>,
    broken: Mutex<Vec<String>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Matrix {
    fn add(&mut self, title: impl FnOnce() -> String, verdict: Told<()>) {
        self.points += 1;
        if let Err(why) = verdict {
            self.failures.push(format!("{}\n    {why}", title()));
        }
    }
}

impl Report {
    pub(crate) fn new(reconcile: bool) -> Self {
        Self { reconcile, crash: Mutex::default(), errno: Mutex::default(), broken: Mutex::default() }
    }

    /// One more effect of this kind at which a process was killed.
    pub(crate) fn point_of(&self, kind: &'static str) {
        *lock(&self.crash).kinds.entry(kind).or_default() += 1;
    }

    /// One more operation of this kind that failed.
    pub(crate) fn operation_of(&self, kind: &'static str) {
        *lock(&self.errno).kinds.entry(kind).or_default() += 1;
    }

    pub(crate) fn crash(&self, title: impl FnOnce() -> String, verdict: Told<()>) {
        lock(&self.crash).add(title, verdict);
    }

    pub(crate) fn errno(&self, title: impl FnOnce() -> String, verdict: Told<()>) {
        lock(&self.errno).add(title, verdict);
    }

    /// Something that is no point of a matrix went wrong.
    pub(crate) fn broken(&self, why: String) {
        lock(&self.broken).push(why);
    }

    /// Prints everything; says whether all holds. `whole`: nothing was left out.
    pub(crate) fn print(&self, whole: bool) -> bool {
        let mut holds = true;
        let crash_kinds: Vec<_> = KINDS.iter().map(|kind| (kind.name, kind.must)).collect();
        let errno_kinds: Vec<_> =
            crate::operations::OPERATIONS.iter().map(|operation| (*operation, true)).collect();
        for (name, matrix, kinds) in
            [("crash", &self.crash, crash_kinds), ("errno", &self.errno, errno_kinds)]
        {
            let matrix = lock(matrix);
            if matrix.points == 0 && !whole {
                continue;
            }
            for failure in &matrix.failures {
                println!("{name} matrix: {failure}");
            }
            let count = |kind: &str| matrix.kinds.get(kind).copied().unwrap_or(0);
            let counts: Vec<String> =
                kinds.iter().map(|(kind, _)| format!("{kind} {}", count(kind))).collect();
            println!("{name} points: {}", counts.join(", "));
            // In a user namespace there is nobody to give a node to.
            let possible = |kind: &str| labels::is_root() || !matches!(kind, "node owner" | "chown");
            let must = |(kind, must): &&(&str, bool)| whole && *must && possible(kind);
            for (kind, _) in kinds.iter().filter(must).filter(|(kind, _)| count(kind) == 0) {
                println!("{name} matrix: no point of the kind \"{kind}\", which must be there");
                holds = false;
            }
            // Once more the first of them, where whoever reads only the end finds it.
            if let Some(failure) = matrix.failures.first() {
                let short: String = failure.chars().take(1000).collect();
                println!("{name} matrix, the first that failed: {short}");
            }
            println!("{name} matrix: {}/{}", matrix.points - matrix.failures.len(), matrix.points);
            holds &= matrix.failures.is_empty() && matrix.points > 0;
        }
        for why in lock(&self.broken).iter() {
            println!("matrices: {why}");
            holds = false;
        }
        holds
    }
}
