//! What is said about the command line elsewhere, held against the command line itself: `virt-mdev(8)` and the
//! completions of the shells.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process;

use clap::{Command, CommandFactory, ValueHint};
use clap_complete::aot::{Shell, generate};

use super::Arguments;

const MANUAL: &str = include_str!("../../packaging/man/virt-mdev.8");

fn command() -> Command {
    let mut command = Arguments::command();
    command.build();
    command
}

/// Long options, `--help` left out: it is everywhere the same, and the synopsis has it.
fn options(verb: &Command) -> Vec<String> {
    let longs =
        verb.get_arguments().filter(|argument| !argument.is_hide_set()).filter_map(|it| it.get_long());
    longs.filter(|long| !["help", "version"].contains(long)).map(str::to_owned).collect()
}

/// What the manual's list of verbs says about this one, up to the next verb.
fn entry(verb: &str, verbs: &[String]) -> Option<String> {
    let of = |line: &str| {
        let rest = line.strip_prefix(".It Cm ")?;
        verbs.iter().find(|verb| rest.split(' ').next() == Some(verb))
    };
    let mut current = None;
    let mut its = Vec::new();
    for line in MANUAL.lines() {
        current = if line.starts_with(".Sh ") { None } else { of(line).or(current) };
        if current.is_some_and(|current| current == verb) {
            its.push(line);
        }
    }
    (!its.is_empty()).then(|| its.join("\n"))
}

/// The lines of the synopsis for this verb, which may be called in several ways.
fn synopsis(verb: &str) -> Option<String> {
    let (_, rest) = MANUAL.split_once(".Sh SYNOPSIS\n")?;
    let (synopsis, _) = rest.split_once(".Sh ")?;
    let begins = |one: &&str| one.lines().next().is_some_and(|line| line.split(' ').nth(1) == Some(verb));
    let its: Vec<&str> = synopsis.split(".Nm virt-mdev\n").filter(begins).collect();
    (!its.is_empty()).then(|| its.join("\n"))
}

/// `--dry-run` is `Fl Fl dry-run` there.
fn has_option(text: &str, long: &str) -> bool {
    text.lines().any(|line| flags(line).any(|flag| flag == long))
}

fn flags(line: &str) -> impl Iterator<Item = &str> {
    let words = || line.strip_prefix('.').unwrap_or_default().split(' ');
    words()
        .zip(words().skip(1))
        .zip(words().skip(2))
        .filter(|(two, _)| *two == ("Fl", "Fl"))
        .map(|(_, flag)| flag)
}

/// Every word of a positional argument's name (`DOMAIN|UUID`) is set as an argument.
fn has_argument(text: &str, name: &str) -> bool {
    let set = |word: &str| {
        text.lines().any(|line| {
            let mut words = line.split([' ', '.']).skip_while(|word| *word != "Ar");
            words.any(|found| found == word)
        })
    };
    name.to_lowercase().split('|').all(set)
}

#[test]
fn the_manual_has_every_verb_and_every_option() {
    let command = command();
    let verbs: Vec<String> = command.get_subcommands().map(|verb| verb.get_name().to_owned()).collect();
    let mut missing = Vec::new();
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        let name = verb.get_name();
        for (where_, text) in [("synopsis", synopsis(name)), ("list of verbs", entry(name, &verbs))] {
            let Some(text) = text else {
                missing.push(format!("{name} is not in the {where_}"));
                continue;
            };
            for long in options(verb).iter().filter(|long| !has_option(&text, long)) {
                missing.push(format!("--{long} is not with {name} in the {where_}"));
            }
            for argument in verb.get_positionals() {
                let value = argument.get_value_names().map(|names| names.join("|")).unwrap_or_default();
                if !has_argument(&text, &value) {
                    missing.push(format!("the argument {value} is not with {name} in the {where_}"));
                }
            }
        }
    }
    assert!(missing.is_empty(), "packaging/man/virt-mdev.8: {missing:#?}");
}

#[test]
fn the_manual_has_no_option_that_is_gone() {
    let known: BTreeSet<String> =
        command().get_subcommands().flat_map(options).chain(["help", "version"].map(str::to_owned)).collect();
    let said: BTreeSet<String> = MANUAL
        .lines()
        .flat_map(|line| flags(line).map(|flag| flag.trim_end_matches(',').to_owned()))
        .collect();
    assert_eq!(said.difference(&known).collect::<Vec<_>>(), Vec::<&String>::new());
}

/// The files are in the repository so that neither the programs nor the package's build need `clap_complete`.
#[test]
fn the_completions_are_those_of_the_command_line() {
    let mut stale = Vec::new();
    for (shell, file) in
        [(Shell::Bash, "virt-mdev.bash"), (Shell::Zsh, "_virt-mdev"), (Shell::Fish, "virt-mdev.fish")]
    {
        let mut text = Vec::new();
        generate(shell, &mut for_shells(), "virt-mdev", &mut text);
        // Where the program's name has a dash, clap_complete looks for the verbs under another name than it has given
        // them (https://github.com/clap-rs/clap/issues/6421), and offers nothing after a verb.
        let text = String::from_utf8(text).unwrap().replace("virt__subcmd__mdev__", "virt__mdev__");
        let path = completions().join(file);
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&path, &text).unwrap();
        } else if fs::read_to_string(&path).unwrap_or_default() != text {
            stale.push(file);
        }
    }
    assert!(stale.is_empty(), "{stale:?}: UPDATE=1 cargo test completions writes them anew");
}

/// What bash offers after `virt-mdev VERB`.
#[test]
fn bash_completes_every_verb_and_its_options() {
    let script = completions().join("virt-mdev.bash");
    let offered = |words: &[&str]| {
        let function = "source \"$1\"; shift; COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); \
            _virt__mdev virt-mdev \"${@: -1}\" \"${@: -2:1}\"; printf '%s\\n' \"${COMPREPLY[@]}\"";
        let mut bash = process::Command::new("bash");
        let output = bash.args(["-c", function, "bash"]).arg(&script).arg("virt-mdev").args(words).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let shown = for_shells();
    let verbs = offered(&[""]);
    for verb in shown.get_subcommands() {
        assert!(verbs.iter().any(|word| word == verb.get_name()), "{} is not in {verbs:?}", verb.get_name());
        let options = offered(&[verb.get_name(), "--"]);
        for long in verb.get_arguments().filter_map(clap::Arg::get_long) {
            assert!(options.contains(&format!("--{long}")), "--{long} is not in {options:?}");
        }
    }
    assert!(!verbs.iter().any(|word| word == "autostart"), "what is hidden is not offered");
}

fn completions() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/completions")
}

/// What is offered when the tab key is pressed: no hidden verbs, and no files where none are wanted.
fn for_shells() -> Command {
    let whole = Arguments::command();
    let verbs = whole.get_subcommands().filter(|verb| !verb.is_hide_set()).cloned().map(|verb| {
        verb.mut_args(|argument| match argument.get_value_hint() {
            ValueHint::Unknown if argument.get_action().takes_values() => {
                argument.value_hint(ValueHint::Other)
            }
            _ => argument,
        })
    });
    Command::new("virt-mdev")
        .version(env!("CARGO_PKG_VERSION"))
        .disable_help_subcommand(true)
        .args(whole.get_arguments().cloned())
        .subcommands(verbs)
}
