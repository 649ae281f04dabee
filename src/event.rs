//! The hook's argument vector → [`Event`]: one table, from libvirt's hook documentation (`docs/hooks.rst`).

/// What libvirt is about to do with a domain, or has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Before libvirt looks at any device: the devices are made here.
    Prepare,
    /// The security labels are known, QEMU is not yet forked.
    Start,
    /// The virtual CPUs run.
    Started,
    /// QEMU has ended; libvirt still has to restore labels on the devices.
    Stopped,
    /// libvirt has let everything go: the devices are taken away here.
    Release,
    /// The daemon has restarted and found the domain running. An exit status other than 0 would kill it.
    Reconnect,
    /// Destination of a migration, before prepare.
    Migrate,
    /// Before prepare of a domain whose state was saved.
    Restore,
}

/// What an [`Event`] means to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Create the domain's devices; may refuse.
    Prepare,
    /// The nodes of the domain's devices get its labels; may refuse.
    Label,
    /// The record says that the domain runs.
    Follow,
    /// The record is compared with the host.
    Compare,
    /// Take away what the record says.
    Release,
    /// A domain comes: whether it can be here, and with which devices; may refuse, creates nothing.
    Arrive,
    /// Nothing at all: not even stdin is read.
    Nothing,
}

impl Action {
    /// Whether libvirt heeds a refusal, and makes it an error of whoever has asked for the domain. It kills the domain if a
    /// reconnect fails, and ignores the status of a release.
    pub fn may_refuse(self) -> bool {
        match self {
            Self::Prepare | Self::Label | Self::Arrive => true,
            Self::Follow | Self::Compare | Self::Release | Self::Nothing => false,
        }
    }
}

/// `NAME OPERATION SUBOPERATION` of the hook's arguments (the fourth says why, and nothing depends on it).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The domain's name.
    pub name: String,
    /// What libvirt is doing.
    pub event: Event,
}

const TABLE: [(&str, &str, Event, Action); 8] = [
    ("prepare", "begin", Event::Prepare, Action::Prepare),
    ("start", "begin", Event::Start, Action::Label),
    ("started", "begin", Event::Started, Action::Follow),
    // libvirt has yet to restore the labels of the device: too early to remove it.
    ("stopped", "end", Event::Stopped, Action::Nothing),
    ("release", "end", Event::Release, Action::Release),
    ("reconnect", "begin", Event::Reconnect, Action::Compare),
    // Also called for an offline migration, with no release after it: nothing may be created there.
    ("migrate", "begin", Event::Migrate, Action::Arrive),
    ("restore", "begin", Event::Restore, Action::Arrive),
];

impl Call {
    /// The call that these arguments (without the program's name) make; `None` for operations we do not know,
    /// which a newer libvirt may have (and `attach`, which is documented and never called).
    pub fn parse(args: &[String]) -> Option<Self> {
        let [name, operation, sub, ..] = args else { return None };
        TABLE
            .iter()
            .find(|(op, of, ..)| op == operation && of == sub)
            .map(|(.., event, _)| Self { name: name.clone(), event: *event })
    }
}

impl Event {
    /// What is done at this event.
    pub fn action(self) -> Action {
        TABLE.iter().find(|(.., event, _)| *event == self).map_or(Action::Nothing, |(.., action)| *action)
    }

    /// The operation's word, as in libvirt's arguments.
    pub fn word(self) -> &'static str {
        TABLE.iter().find(|(.., event, _)| *event == self).map_or("", |(word, ..)| word)
    }

    /// The event of an operation's word.
    pub fn from_word(word: &str) -> Option<Self> {
        TABLE.iter().find(|(op, ..)| *op == word).map(|(.., event, _)| *event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(text: &str) -> Option<Event> {
        let args: Vec<String> = text.split(' ').map(str::to_owned).collect();
        Call::parse(&args).map(|call| call.event)
    }

    #[test]
    fn every_operation_of_libvirt_is_known_and_others_are_ignored() {
        for (args, event) in [
            ("vm prepare begin -", Some(Event::Prepare)),
            ("vm start begin -", Some(Event::Start)),
            ("vm started begin -", Some(Event::Started)),
            ("vm stopped end -", Some(Event::Stopped)),
            ("vm release end shutdown", Some(Event::Release)),
            ("vm release end -", Some(Event::Release)),
            ("vm reconnect begin -", Some(Event::Reconnect)),
            ("vm migrate begin -", Some(Event::Migrate)),
            ("vm restore begin -", Some(Event::Restore)),
            ("vm attach begin -", None),
            ("vm prepare end -", None),
            ("vm thaw begin -", None),
            ("vm prepare", None),
            ("vm", None),
        ] {
            assert_eq!(call(args), event, "{args}");
        }
    }

    #[test]
    fn words_and_events_go_both_ways() {
        for (word, _, event, action) in TABLE {
            assert_eq!(Event::from_word(word), Some(event));
            assert_eq!(event.word(), word);
            assert_eq!(event.action(), action);
        }
    }
}
