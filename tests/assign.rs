//! `virt-mdev assign` on hosts of `tests/hosts`, but for virsh: what would be written, or why it is refused. Each line of
//! `assign/commands` names a host and what is typed; `UPDATE=1 cargo test --test assign` writes `assign/expected` anew.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may fail"
)]

mod support;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use clap::Parser;
use support::tree::Tree;
use virt_mdev::cli::Failure;
use virt_mdev::cli::assign::{Assign, changed, devices};
use virt_mdev::domain::snippet;

#[derive(Parser)]
struct Typed {
    #[command(flatten)]
    asked: Assign,
}

const VM: &str = include_str!("assign/vm.xml");

/// What the command would print with `--print`, and what stands in its way.
fn answer(tree: &Tree, asked: &Assign) -> Result<String, Failure> {
    let (given, notes) = devices(&tree.host(), VM, asked.wish.as_ref().unwrap(), asked)?;
    let after = changed(&tree.host(), VM, &given, asked.force)?;
    // The definition has grown by what is printed, and is the same otherwise.
    let lines = |text: &str| text.lines().map(|line| line.trim().to_owned()).collect::<Vec<_>>();
    let (before, shown) = (lines(VM), lines(&snippet(&given)));
    let mut rest = lines(&after);
    for line in &before {
        rest.remove(rest.iter().position(|other| other == line).unwrap_or_else(|| panic!("{line} is gone")));
    }
    for line in rest {
        assert!(shown.contains(&line), "{line} is not shown");
    }
    Ok(notes.iter().fold(snippet(&given), |said, note| said + "note: " + note + "\n"))
}

#[test]
fn every_command_is_answered_as_expected() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let mut answers = String::new();
    for line in fs::read_to_string(here.join("assign/commands")).unwrap().lines() {
        let Some((host, command)) = line.split_once(": ").filter(|_| !line.starts_with('#')) else {
            continue;
        };
        let mut description = toml::Table::new();
        description.insert("host".to_owned(), host.into());
        let tree = Tree::build(&here.join("hosts"), &description);
        // The kernel makes another one at each read, which a file does not.
        tree.write("proc/sys/kernel/random/uuid", "a0000000-0000-4000-8000-000000000001\n");
        tree.write("etc/libvirt/qemu/vm1.xml", VM);
        tree.write("etc/libvirt/qemu/other.xml", include_str!("assign/other.xml"));
        let before = tree.listing();
        // As a shell would take it, as far as it is needed here.
        let words = command.split('"').enumerate().flat_map(|(n, part)| match n % 2 {
            0 => part.split_whitespace().map(str::to_owned).collect(),
            _ => vec![part.to_owned()],
        });
        let answer = match Typed::try_parse_from(std::iter::once("assign".to_owned()).chain(words)) {
            Err(error) => error.to_string().lines().next().unwrap().to_owned() + "\n",
            Ok(typed) => answer(&tree, &typed.asked).unwrap_or_else(|failure| {
                let hint = failure.hint.map(|hint| format!("hint: {hint}\n")).unwrap_or_default();
                format!("error: {}\n{hint}", failure.text)
            }),
        };
        assert_eq!(tree.listing(), before, "{command}: the host has changed");
        let answer = answer.replace(&tree.root_text(), "");
        let _ = write!(answers, "# on {host}\n$ virt-mdev assign {command}\n{answer}\n");
    }
    let expected = here.join("assign/expected");
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&expected, &answers).unwrap();
    }
    assert!(
        fs::read_to_string(&expected).unwrap_or_default() == answers,
        "answered otherwise now:\n{answers}"
    );
}

/// It has its function all the same: who starts it may have mended it until then.
#[test]
fn a_domain_with_a_mistake_in_its_metadata_has_its_function() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let mut description = toml::Table::new();
    description.insert("host".to_owned(), "l40s".into());
    let tree = Tree::build(&here.join("hosts"), &description);
    let other = include_str!("assign/other.xml");
    let mistaken = other.replace("type=\"1145\"", "tpye=\"1145\"");
    tree.write("etc/libvirt/qemu/render2.xml", &mistaken);
    // libvirt would not read it either.
    tree.write("etc/libvirt/qemu/render3.xml", other.split("<devices>").next().unwrap());
    let asked =
        |words: &[&str]| Typed::try_parse_from(["assign", "vm1", "1145"].iter().chain(words)).unwrap().asked;
    let given = answer(&tree, &asked(&[])).unwrap();
    assert!(given.contains("parent=\"0000:41:00.6\""), "{given}");
    let refused = answer(&tree, &asked(&["--parent", "0000:41:00.5"])).unwrap_err();
    assert!(refused.text.ends_with("1 in use by the definition of render2"), "{}", refused.text);
    // Nor does a mistake of its own make it free.
    let (wish, asked) = (asked(&[]).wish.unwrap(), asked(&["--parent", "0000:41:00.5"]));
    std::fs::remove_file(tree.host().path("etc/libvirt/qemu/render2.xml")).unwrap();
    let refused = devices(&tree.host(), &mistaken, &wish, &asked).unwrap_err();
    assert!(refused.text.ends_with("1 in use by the definition of the domain itself"), "{}", refused.text);
}
