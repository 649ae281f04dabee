//! Help is read on a terminal of 80 columns and one screen, by somebody who looks for what to type.

use clap::CommandFactory;

/// Columns, and lines of one screen.
const SCREEN: (usize, usize) = (80, 40);

/// What `virt-mdev VERB --help` prints, and `-h`.
fn judge(arguments: &[&str], wrong: &mut Vec<String>) {
    let name = arguments.join(" ");
    let printed = super::Arguments::command().try_get_matches_from(arguments).unwrap_err();
    let help = printed.render().to_string();
    if !help.starts_with("Example: ") || !help.lines().next().is_some_and(|line| line.contains("virt-mdev")) {
        wrong.push(format!("{name} does not start with an example:\n{help}"));
    }
    for line in help.lines().filter(|line| line.chars().count() > SCREEN.0) {
        wrong.push(format!("{name} has a line of {} columns: {line}", line.chars().count()));
    }
    if help.lines().count() > SCREEN.1 {
        wrong.push(format!("{name} has {} lines", help.lines().count()));
    }
}

#[test]
fn every_help_fits_a_screen_and_starts_with_an_example() {
    let command = super::Arguments::command();
    let mut wrong = Vec::new();
    for help in ["--help", "-h"] {
        judge(&["virt-mdev", help], &mut wrong);
        for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
            judge(&["virt-mdev", verb.get_name(), help], &mut wrong);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
