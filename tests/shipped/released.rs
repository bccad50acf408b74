//! What docs/RELEASING.md asks of a version, checked for the one that is in the making.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use vmkpi_tests::process::program;

const VERSION: &str = env!("CARGO_PKG_VERSION");

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The heading of each version in CHANGELOG.md, newest first: version, and the date or "unreleased".
fn headings(changelog: &str) -> Vec<(&str, &str)> {
    let heads = changelog.lines().filter_map(|l| l.strip_prefix("## "));
    heads
        .filter_map(|h| h.strip_suffix(')')?.split_once(" ("))
        .collect()
}

fn is_date(text: &str) -> bool {
    let form = |(at, b): (usize, u8)| match at {
        4 | 7 => b == b'-',
        _ => b.is_ascii_digit(),
    };
    text.len() == 10 && text.bytes().enumerate().all(form)
}

#[test]
fn the_version_is_the_programs_and_has_its_section_in_the_changelog() -> Result<()> {
    for name in ["vmkpi", "vmkpi-guest", "vmkpi-host"] {
        let output = Command::new(program(name)?).arg("--version").output()?;
        let said = String::from_utf8(output.stdout)?;
        ensure!(said.trim() == format!("{name} {VERSION}"), "{said}");
    }
    let changelog = std::fs::read_to_string(root().join("CHANGELOG.md"))?;
    let headings = headings(&changelog);
    let first = headings.first().context("no version in CHANGELOG.md")?;
    ensure!(
        first.0 == VERSION,
        "{} is the newest of CHANGELOG.md",
        first.0
    );
    for (version, when) in headings {
        let unreleased = when == "unreleased" && version == VERSION;
        ensure!(
            unreleased || is_date(when),
            "{version}: {when:?} is no date"
        );
    }
    Ok(())
}

/// The notes of a release are its section; tools/release-notes.sh prints it for the forge.
#[test]
fn the_notes_of_a_release_are_its_section() -> Result<()> {
    let script = root().join("tools/release-notes.sh");
    let output = Command::new(&script).arg(VERSION).output()?;
    let notes = String::from_utf8(output.stdout)?;
    ensure!(
        output.status.success() && notes.contains("### Added"),
        "{notes}"
    );
    ensure!(!notes.contains("\n## "), "more than one section");
    let unknown = Command::new(&script).arg("99.0.0").output()?;
    let said = String::from_utf8(unknown.stderr)?;
    ensure!(
        !unknown.status.success() && said.contains("99.0.0"),
        "{said}"
    );
    Ok(())
}

/// A change of the version is a change of one line: no other manifest has a version of its own.
#[test]
fn the_version_stands_in_one_place() -> Result<()> {
    for member in ["", "guest/", "host/", "tests/", "benches/"] {
        let path = root().join(format!("{member}Cargo.toml"));
        let manifest: toml::Table = std::fs::read_to_string(&path)?.parse()?;
        let inherits = manifest["package"]["version"]["workspace"].as_bool();
        ensure!(inherits == Some(true), "{}", path.display());
    }
    Ok(())
}
