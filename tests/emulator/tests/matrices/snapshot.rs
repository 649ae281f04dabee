//! What there is on a host, and how it differs from what should be there.

use crate::labels;

/// What the kernel shows, and what is recorded. Numbers of processes are names in it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Snapshot {
    pub(crate) hardware: Vec<String>,
    pub(crate) records: Vec<String>,
}

impl Snapshot {
    /// How this differs from what it should be; nothing if it does not.
    pub(crate) fn differs(&self, expected: &Self) -> Option<String> {
        let of = |snapshot: &Self| -> Vec<String> {
            snapshot.hardware.iter().chain(&snapshot.records).cloned().collect()
        };
        let (own, other) = (of(self), of(expected));
        let missing = other.iter().filter(|line| !own.contains(line)).map(|line| format!("- {line}"));
        let more = own.iter().filter(|line| !other.contains(line)).map(|line| format!("+ {line}"));
        let lines: Vec<String> = missing.chain(more).collect();
        (!lines.is_empty()).then(|| lines.join("\n    "))
    }

    /// The same, of what is not recorded only: devices, and who may open them.
    pub(crate) fn differs_in_hardware(&self, expected: &Self) -> Option<String> {
        let of = |snapshot: &Self| Self { hardware: snapshot.hardware.clone(), records: Vec::new() };
        of(self).differs(&of(expected))
    }

    /// The same, of devices only.
    pub(crate) fn differs_in_devices(&self, expected: &Self) -> Option<String> {
        self.without_labels().differs_in_hardware(&expected.without_labels())
    }

    /// All but who may open what.
    pub(crate) fn without_labels(&self) -> Self {
        let others = self.hardware.iter().filter(|line| !labels::is_about(line));
        Self { hardware: others.cloned().collect(), records: self.records.clone() }
    }

    /// Who may open what.
    pub(crate) fn labels(&self) -> impl Iterator<Item = &String> {
        self.hardware.iter().filter(|line| labels::is_about(line))
    }
}
