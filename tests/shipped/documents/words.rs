//! docs/TROUBLESHOOTING.md is found by what a program has said: each of its headings is something that one says.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Result, ensure};

use super::{page, root};

/// Where the programs' words are.
const SOURCES: [&str; 3] = ["src", "guest/src", "host/src"];
/// Below this heading the words are the system's.
const SYSTEM: &str = "What the system says";
/// Below this one headings are names of alerts.
const ALERTS: &str = "Alerts";

/// The sources' text, without what breaks a literal into lines.
fn sources(folder: &Path, all: &mut Vec<String>) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            sources(&path, all)?;
        } else if path.extension().is_some_and(|e| e == "rs") && !path.ends_with("tests.rs") {
            let text = std::fs::read_to_string(path)?;
            let said = text
                .split("#[cfg(test)]\nmod tests {")
                .next()
                .unwrap_or_default();
            let comment = |line: &&str| !line.trim_start().starts_with("//");
            let said: Vec<&str> = said.lines().filter(comment).collect();
            all.push(joined(&said.join("\n")));
        }
    }
    Ok(())
}

/// Literals in one piece, and quotes as they are printed.
fn joined(text: &str) -> String {
    let mut joined = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\\\n") {
        joined.push_str(before);
        rest = after.trim_start();
    }
    joined.push_str(rest);
    joined.replace("\\\"", "\"")
}

/// Whether somebody says this; `…` is anything.
fn is_said(words: &str, sources: &[String]) -> bool {
    let pieces: Vec<&str> = words
        .split('…')
        .filter(|piece| !piece.trim().is_empty())
        .collect();
    let says = |source: &&String| {
        let mut rest = source.as_str();
        pieces.iter().all(|piece| match rest.split_once(*piece) {
            Some((_, after)) => {
                rest = after;
                true
            }
            None => false,
        })
    };
    sources.iter().find(says).is_some()
}

/// Whether the system has this word for an error.
fn is_the_systems(words: &str) -> bool {
    (1..134).any(|number| {
        let error = std::io::Error::from_raw_os_error(number).to_string();
        error.starts_with(&format!("{words} ("))
    })
}

#[test]
fn every_error_text_in_troubleshooting_is_printed_by_somebody() -> Result<()> {
    let mut all = Vec::new();
    for folder in SOURCES {
        sources(&root().join(folder), &mut all)?;
    }
    let text = page("docs/TROUBLESHOOTING.md")?;
    let (mut section, mut seen, mut wrong) = ("", 0, Vec::new());
    for (number, line) in text.prose() {
        if let Some(heading) = line.strip_prefix("## ") {
            section = heading;
        }
        let Some(heading) = line.strip_prefix("### ").filter(|_| section != ALERTS) else {
            continue;
        };
        let words = heading.trim_matches('`');
        seen += 1;
        let there = match section {
            SYSTEM => is_the_systems(words),
            _ => words.len() > 8 && is_said(words, &all),
        };
        if !there {
            wrong.push(format!("line {number}: nobody says {words:?}"));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    ensure!(seen > 20, "only {seen} error texts");
    Ok(())
}

/// The alerts that Prometheus is given.
const RULES: &str = "packaging/prometheus/vmkpi.rules.yml";

#[test]
fn every_alert_is_explained_where_it_leads_and_nothing_else_is() -> Result<()> {
    let text = page("docs/TROUBLESHOOTING.md")?;
    let (_, section) = text.text.split_once("\n## Alerts\n").unwrap_or_default();
    let explained: BTreeSet<&str> = section
        .lines()
        .filter_map(|line| line.strip_prefix("### "))
        .collect();
    let Ok(rules) = std::fs::read_to_string(root().join(RULES)) else {
        eprintln!("skipped: there is no {RULES}");
        return Ok(());
    };
    let alerts: BTreeSet<&str> = rules
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("- alert: "))
        .collect();
    ensure!(
        explained == alerts,
        "{:?}",
        explained.symmetric_difference(&alerts)
    );
    Ok(())
}

#[test]
fn words_are_found_across_the_lines_of_a_literal_and_others_are_not() {
    let source = joined("\"cannot open {path}: \\\n     ask \\\"root\\\"\"");
    let sources = [source];
    assert!(is_said("cannot open …: ask \"root\"", &sources));
    assert!(!is_said("cannot close …", &sources));
    assert!(!is_said("ask … cannot open", &sources));
    assert!(is_the_systems("No space left on device") && !is_the_systems("No space"));
}
