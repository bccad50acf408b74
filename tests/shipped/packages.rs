//! The Debian packages, installed, upgraded and removed in a clean root that systemd boots.

#[path = "packages/built.rs"]
mod built;
#[path = "packages/clouded.rs"]
mod clouded;
#[path = "packages/installed.rs"]
mod installed;
#[path = "packages/machine.rs"]
mod machine;
#[path = "packages/pages.rs"]
mod pages;
#[path = "packages/upgraded.rs"]
mod upgraded;

use std::io::Write as _;
use std::path::Path;

use anyhow::{Result, bail};

/// How long anything of a booted machine may take, in seconds.
const PATIENCE: u64 = 120;

/// Whether the tools, by their files, and their packages are there; if not, it is said.
///
/// # Errors
/// They are not, in continuous integration, where nothing is skipped.
fn require(needed: &[(&str, &str)], root: bool) -> Result<bool> {
    let absent = |(file, _): &&(&str, &str)| !Path::new(file).exists();
    let mut missing: Vec<&str> = needed.iter().filter(absent).map(|n| n.1).collect();
    if root && !rustix::process::geteuid().is_root() {
        missing.push("(and be root)");
    }
    if missing.is_empty() {
        return Ok(true);
    }
    let missing = missing.join(" ");
    if std::env::var_os("CI").is_some_and(|ci| ci == "true") {
        bail!("no packages: install {missing}");
    }
    writeln!(std::io::stderr(), "skipped, no packages: install {missing}")?;
    Ok(false)
}
