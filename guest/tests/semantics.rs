//! docs/SEMANTICS.md against a real mount: every line of its tables is tried, and every try is a line.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests: a panic is a failed test"
)]

mod common;

use std::collections::BTreeMap;
use std::process::Command;

use common::Guest;

fn documented() -> BTreeMap<String, String> {
    let text = include_str!("../../docs/SEMANTICS.md");
    text.lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| ")?.split(" | ");
            let (what, errno) = (cells.next()?, cells.next()?);
            errno
                .starts_with('E')
                .then(|| (what.to_owned(), errno.to_owned()))
        })
        .collect()
}

#[test]
fn every_call_answers_as_the_document_says() {
    let guest = Guest::start();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/semantics.py");
    let tried = Command::new("python3")
        .arg(script)
        .arg(guest.mount())
        .output()
        .unwrap();
    assert!(
        tried.status.success(),
        "{}",
        String::from_utf8_lossy(&tried.stderr)
    );
    let seen: BTreeMap<String, String> = serde_json::from_slice(&tried.stdout).unwrap();
    let documented = documented();
    assert!(documented.len() > 30);
    assert_eq!(seen, documented);
    // What was refused is there to be read, and nothing crashed.
    let status = guest.status();
    assert!(status["refused_total"].as_i64().unwrap() >= 5, "{status}");
    guest.write("unencrypted/after", "1\n").unwrap();
}
