//! `virsh`, asked on a person's behalf: the only way in which a verb changes a domain. Never from the hook, whose caller
//! waits for it and would be asked in its turn.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::Failure;
use crate::domain::MAX_XML;

const PROGRAM: &str = "virsh";
/// The host's own VMs, as for root; for whoever is not root, virsh would ask the session's daemon, whose QEMU may open
/// none of our devices.
const URI: &str = "qemu:///system";
/// Where a person names another one; virsh knows both.
const URI_GIVEN: [&str; 2] = ["VIRSH_DEFAULT_CONNECT_URI", "LIBVIRT_DEFAULT_URI"];

/// A question that the daemon has not answered by then it will not answer. What changes something may take as long as it
/// likes: the daemon goes on with it whatever becomes of virsh.
const PATIENCE: Duration = Duration::from_secs(60);
/// What only asks.
const QUESTIONS: [&str; 4] = ["domstate", "dominfo", "dumpxml", "uri"];

/// More than virsh has to say when it fails, a hook's words among them.
const MAX_ERROR: usize = 64 * 1024;

/// What `virsh ARGUMENTS` prints. Where it fails: its own words on one line, and the hint of a hook of ours as the hint.
///
/// A domain is best passed as `--domain=NAME`, which a name with a dash in front cannot turn into an option.
pub fn virsh(arguments: &[&str]) -> Result<String, Failure> {
    let mut command = Command::new(PROGRAM);
    if !URI_GIVEN.iter().any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty())) {
        command.args(["-c", URI]);
    }
    let patience = arguments.first().filter(|verb| QUESTIONS.contains(verb)).map(|_| PATIENCE);
    run(command.args(arguments), MAX_XML, patience)
}

/// XML for a command that wants the name of a file. It lies in memory and goes with us: it may hold passwords, and
/// nothing of it is left whatever ends us.
#[derive(Debug)]
pub struct XmlFile(File);

impl XmlFile {
    /// Holds `xml`.
    pub fn new(xml: &str) -> Result<Self, Failure> {
        let failed = |error: &io::Error| {
            Failure::new(format!("cannot keep XML in memory for virsh: {}", crate::words::errno(error)))
        };
        // Not closed on exec: virsh opens its own copy by name.
        let memory = memfd_create("virt-mdev-xml", MemfdFlags::empty());
        let mut file = File::from(memory.map_err(|errno| failed(&errno.into()))?);
        file.write_all(xml.as_bytes()).map_err(|error| failed(&error))?;
        Ok(Self(file))
    }

    /// What virsh finds it under.
    pub fn path(&self) -> String {
        format!("/proc/self/fd/{}", self.0.as_raw_fd())
    }
}

/// Runs a program that answers in English and has nobody to ask; `limit` bytes of its output are taken at most. One that
/// has not ended when `patience` is over is killed.
fn run(command: &mut Command, limit: usize, patience: Option<Duration>) -> Result<String, Failure> {
    let program = command.get_program().to_string_lossy().into_owned();
    command.env("LC_ALL", "C").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let failed = |doing: &str, error: &io::Error| {
        Failure::new(format!("cannot {doing} {program}: {}", crate::words::errno(error)))
    };
    let mut child = command.spawn().map_err(|error| Failure {
        hint: (error.kind() == io::ErrorKind::NotFound).then(|| {
            "it comes with libvirt's clients (package libvirt-clients, or libvirt-client)".to_owned()
        }),
        ..failed("run", &error)
    })?;
    // Read beside the output: a program that fills one pipe would wait for us while we wait at the other.
    let (ends, ended) = mpsc::channel();
    let watch = patience.and_then(|patience| {
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw)?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        Some(thread::spawn(move || {
            let late = ended.recv_timeout(patience) == Err::<(), _>(RecvTimeoutError::Timeout);
            late && pidfd_send_signal(&pidfd, Signal::KILL).is_ok()
        }))
    });
    let errors = child.stderr.take().map(|pipe| thread::spawn(|| bounded(pipe, MAX_ERROR)));
    let output = child.stdout.take().map(|pipe| bounded(pipe, limit)).transpose();
    let status = child.wait().map_err(|error| failed("wait for", &error))?;
    drop(ends);
    let errors = errors.and_then(|reader| reader.join().ok()?.ok()).unwrap_or_default();
    if let (true, Some(patience)) = (watch.is_some_and(|watch| watch.join().unwrap_or(false)), patience) {
        return Err(Failure {
            hint: Some(
                "is libvirt's daemon stuck? `systemctl status libvirtd` (or virtqemud) may tell".to_owned(),
            ),
            ..Failure::new(format!("{program} has not answered within {patience:?}"))
        });
    }
    let output = output.map_err(|error| failed("read from", &error))?.unwrap_or_default();
    if !status.success() {
        return Err(in_words(&program, &String::from_utf8_lossy(&errors), &status.to_string()));
    }
    if output.len() > limit {
        return Err(Failure::new(format!("{program} has printed more than {limit} bytes")));
    }
    String::from_utf8(output).map_err(|bad| {
        Failure::new(format!(
            "{program} has printed what is not UTF-8 at byte {}",
            bad.utf8_error().valid_up_to()
        ))
    })
}

/// All that comes, so that nobody gets stuck writing to us, and of that one byte more than `limit` at most.
fn bounded(mut pipe: impl Read, limit: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    pipe.by_ref().take(limit as u64 + 1).read_to_end(&mut bytes)?;
    io::copy(&mut pipe, &mut io::sink())?;
    Ok(bytes)
}

/// `error: Failed to start domain 'vm1'` and what follows, of which virsh gives each cause a line, as one sentence.
fn in_words(program: &str, errors: &str, status: &str) -> Failure {
    let (mut causes, mut hint) = (Vec::new(), None);
    for line in errors.lines().map(str::trim).filter(|line| !line.is_empty()) {
        match line.strip_prefix("hint: ") {
            Some(words) => hint = Some(shown(words)),
            None => causes.push(shown(line.strip_prefix("error: ").unwrap_or(line))),
        }
    }
    match causes.as_slice() {
        [] => Failure::new(format!("{program} failed and said nothing ({status})")),
        causes => Failure { hint, ..Failure::new(causes.join(": ")) },
    }
}

/// Whole: here the end is the cause.
fn shown(text: &str) -> String {
    crate::words::escaped(&text.replace('\t', " "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, limit: usize) -> Result<String, Failure> {
        run(Command::new("sh").args(["-c", script]), limit, None)
    }

    #[test]
    fn what_it_prints_is_taken_whole_or_not_at_all() {
        assert_eq!(shell("echo $LC_ALL; cat", 9).unwrap(), "C\n", "nobody is asked");
        assert_eq!(shell("printf 12345", 5).unwrap(), "12345");
        let refused = |script, limit| shell(script, limit).unwrap_err().text;
        assert_eq!(refused("printf 123456", 5), "sh has printed more than 5 bytes");
        assert_eq!(refused("printf 'a\\377'", 5), "sh has printed what is not UTF-8 at byte 1");
        // More than a pipe holds, on both.
        let much = "head -c 300000 /dev/zero >&2; head -c 300000 /dev/zero; echo error: no >&2; exit 1";
        assert!(shell(much, 5).is_err());
    }

    #[test]
    fn one_that_does_not_answer_is_not_waited_for() {
        let asked = |script: &str, patience| {
            run(Command::new("sh").args(["-c", script]), 9, Some(patience)).map_err(|failure| failure.text)
        };
        assert_eq!(asked("echo here", Duration::from_secs(60)), Ok("here\n".to_owned()));
        // With what it has said, and without.
        for script in ["exec sleep 60", "echo here; exec sleep 60", "exec >&- 2>&-; exec sleep 60"] {
            let late = asked(script, Duration::from_millis(50));
            assert_eq!(late, Err("sh has not answered within 50ms".to_owned()), "{script}");
        }
    }

    #[test]
    fn a_failure_is_virshs_own_words_on_one_line() {
        let cases = [
            (
                "error: Failed to start domain 'vm1'\nerror: Hook script execution failed: internal error: Child process \
                 (x) unexpected exit status 1: error: vm1: no room\nhint: stop vm2\n\n",
                "Failed to start domain 'vm1': Hook script execution failed: internal error: Child process (x) \
                 unexpected exit status 1: error: vm1: no room",
                Some("stop vm2"),
            ),
            ("error: a\tb\u{1b}[31m", "a b\\u{1b}[31m", None),
            ("", "virsh failed and said nothing (exit status: 1)", None),
        ];
        for (errors, text, hint) in cases {
            let failure = in_words("virsh", errors, "exit status: 1");
            assert_eq!((failure.text.as_str(), failure.hint.as_deref()), (text, hint));
        }
        assert_eq!(shell("exit 3", 5).unwrap_err().text, "sh failed and said nothing (exit status: 3)");
    }

    #[test]
    fn a_program_that_is_not_there_is_named_with_what_brings_it() {
        let failure = run(&mut Command::new("/nowhere/virsh"), 5, None).unwrap_err();
        assert_eq!(failure.text, "cannot run /nowhere/virsh: No such file or directory (ENOENT, 2)");
        assert!(failure.hint.is_some());
    }

    #[test]
    fn a_program_reads_xml_under_the_name_that_it_is_given() {
        let file = XmlFile::new("<a>ä</a>").unwrap();
        assert_eq!(run(Command::new("cat").arg(file.path()), 99, None).unwrap(), "<a>ä</a>");
    }
}
