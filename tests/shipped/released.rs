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

/// What runs elsewhere is what runs on a desk, and no more is believed there than what was looked at.
#[test]
fn the_forge_runs_what_a_desk_runs_and_pins_what_it_takes() -> Result<()> {
    let workflows = root().join(".github/workflows");
    for name in ["ci.yml", "audit.yml", "release.yml"] {
        let text = std::fs::read_to_string(workflows.join(name))?;
        let taken = text
            .lines()
            .filter_map(|l| l.split_once("uses: ")?.1.split(' ').next());
        for action in taken.filter(|action| !action.starts_with("./")) {
            let pin = action.split_once('@').map_or("", |(_, pin)| pin);
            let digits = pin.bytes().filter(u8::is_ascii_hexdigit).count();
            ensure!(
                pin.len() == 40 && digits == 40,
                "{name}: {action} is not pinned"
            );
        }
    }
    let says = |name: &str, command: &str| -> Result<()> {
        let text = std::fs::read_to_string(workflows.join(name))?;
        ensure!(text.contains(command), "{name} does not run {command}");
        Ok(())
    };
    says("ci.yml", "run: .ci/run\n")?;
    says(
        "audit.yml",
        "cargo deny --locked --workspace --all-features check\n",
    )?;
    says("release.yml", "make deb\n")?;
    says("release.yml", "tools/release-notes.sh")
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
