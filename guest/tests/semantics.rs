//! docs/SEMANTICS.md against a real mount: every line of its tables and every sentence of its text is tried,
//! and every try is in it.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests: a panic is a failed test"
)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use common::Guest;

const DOCUMENT: &str = include_str!("../../docs/SEMANTICS.md");

fn documented() -> BTreeMap<String, String> {
    DOCUMENT
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| ")?.split(" | ");
            let (what, errno) = (cells.next()?, cells.next()?);
            errno
                .starts_with('E')
                .then(|| (what.to_owned(), errno.to_owned()))
        })
        .collect()
}

/// The names of the tests behind the sentences. Panics when there is a sentence without one.
fn named() -> BTreeSet<String> {
    let (_, body) = DOCUMENT.split_once("\n## ").unwrap();
    let is_text = |line: &&str| !line.starts_with('|') && !line.starts_with('#');
    let text: Vec<&str> = format!("## {body}")
        .leak()
        .lines()
        .filter(is_text)
        .flat_map(str::split_whitespace)
        .collect();
    let text = text.join(" ");
    let mut names = BTreeSet::new();
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (sentence, after) = rest
            .split_once(" <!-- ")
            .unwrap_or_else(|| panic!("no test behind: {rest}"));
        assert!(
            sentence.ends_with('.') && !sentence.contains(". "),
            "not one sentence: {sentence}"
        );
        let (tests, after) = after.split_once(" -->").unwrap();
        names.extend(tests.split(", ").map(str::to_owned));
        rest = after.trim_start();
    }
    names
}

fn python(guest: &Guest, script: &str, phase: &str) -> serde_json::Value {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let tried = Command::new("python3")
        .arg("-B")
        .arg(tests.join(script))
        .arg(guest.mount())
        .arg(guest.state())
        .arg(phase)
        .output()
        .unwrap();
    assert!(
        tried.status.success(),
        "{}",
        String::from_utf8_lossy(&tried.stderr)
    );
    serde_json::from_slice(&tried.stdout).unwrap()
}

#[test]
fn every_call_answers_as_the_document_says() {
    let guest = Guest::start();
    let tried = python(&guest, "semantics.py", "");
    let seen: BTreeMap<String, String> = serde_json::from_value(tried).unwrap();
    let documented = documented();
    assert!(documented.len() > 30);
    assert_eq!(seen, documented);
    // What was refused is there to be read, and nothing crashed.
    let status = guest.status();
    assert!(status["refused_total"].as_i64().unwrap() >= 5, "{status}");
    guest.write("unencrypted/after", "1\n").unwrap();
}

#[test]
fn every_sentence_is_true() {
    let mut guest = Guest::start();
    let mut tried = python(&guest, "semantics_said.py", "first");
    assert_eq!(guest.terminate().0, Some(0));
    guest.restart();
    let after = python(&guest, "semantics_said.py", "after");
    let tried = tried.as_object_mut().unwrap();
    tried.extend(after.as_object().unwrap().clone());
    tried.remove("before_remount");
    let wrong: Vec<String> = tried
        .iter()
        .filter_map(|(name, wrong)| Some(format!("{name}: {}", wrong.as_str()?)))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let (rust, said): (BTreeSet<_>, BTreeSet<_>) = named()
        .into_iter()
        .partition(|name| name.starts_with("rust:"));
    assert_eq!(tried.keys().cloned().collect::<BTreeSet<_>>(), said);
    let sources = sources();
    for name in rust {
        let function = format!("fn {}(", name.trim_start_matches("rust:"));
        assert!(sources.contains(&function), "there is no {function}");
    }
}

/// The text of every Rust test of this folder.
fn sources() -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "rs"))
        .map(|path| std::fs::read_to_string(path).unwrap())
        .collect()
}
