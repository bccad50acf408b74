//! Manual pages and completions, as they are in the packages.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};
use vmkpi_tests::scratch::Scratch;

use super::built::{Built, PACKAGES};
use super::require;

#[test]
fn manual_pages_render_without_a_warning() -> Result<()> {
    let Some(scratch) = unpacked(&[("/usr/bin/man", "man-db")])? else {
        return Ok(());
    };
    let folder = scratch.path().join("usr/share/man");
    let mut pages = Vec::new();
    for section in ["man1", "man5", "man8"] {
        pages.extend(files(&folder.join(section))?);
    }
    for page in &pages {
        let shown = Command::new("man")
            .args(["--warnings", "--encoding=UTF-8", "-l"])
            .arg(page)
            .env("LC_ALL", "C.UTF-8")
            .env("MANWIDTH", "80")
            .output()?;
        let words = String::from_utf8_lossy(&shown.stderr);
        let good = shown.status.success() && words.is_empty() && shown.stdout.len() > 400;
        ensure!(good, "{}: {words}", page.display());
    }
    for name in [
        "man1/vmkpi-watch.1.gz",
        "man1/vmkpi-collect-status.1.gz",
        "man8/vmkpi-guest-context-where.8.gz",
    ] {
        ensure!(folder.join(name).is_file(), "{name} is not there");
    }
    let internal = |page: &&PathBuf| page.to_string_lossy().contains("demo-");
    ensure!(
        pages.iter().find(internal).is_none(),
        "an internal command has a page"
    );
    Ok(())
}

#[test]
fn each_shell_reads_its_completions() -> Result<()> {
    let shells = [("/usr/bin/zsh", "zsh"), ("/usr/bin/fish", "fish")];
    let Some(scratch) = unpacked(&shells)? else {
        return Ok(());
    };
    let share = scratch.path().join("usr/share");
    for program in PACKAGES {
        let zsh = share.join(format!("zsh/vendor-completions/_{program}"));
        // Sourced as zsh's own loader does it: the file defines the function and is told of its program.
        let load = format!(
            "autoload -U compinit && compinit -D -u && source {} && whence -f _{program}",
            zsh.display()
        );
        says("zsh", &["-f", "-c", &load], &format!("_{program} ()"))?;
        let fish = share.join(format!("fish/vendor_completions.d/{program}.fish"));
        let ask = format!("source {}; complete -C '{program} '", fish.display());
        let subcommand = if program == "vmkpi" {
            "watch"
        } else {
            "status"
        };
        says("fish", &["--no-config", "-c", &ask], subcommand)?;
        let bash = share.join(format!("bash-completion/completions/{program}"));
        let load = format!("source {}; complete -p {program}", bash.display());
        says("bash", &["-c", &load], "-F _vmkpi")?;
    }
    Ok(())
}

fn says(shell: &str, arguments: &[&str], expected: &str) -> Result<()> {
    let output = Command::new(shell).args(arguments).output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    let words = String::from_utf8_lossy(&output.stderr);
    let good = output.status.success() && words.is_empty() && said.contains(expected);
    ensure!(good, "{shell} {arguments:?}: {said}{words}");
    Ok(())
}

/// All packages, unpacked in one folder.
fn unpacked(tools: &[(&str, &str)]) -> Result<Option<Scratch>> {
    let Some(built) = Built::get()? else {
        return Ok(None);
    };
    if !require(tools, false)? {
        return Ok(None);
    }
    let scratch = Scratch::new()?;
    for package in PACKAGES {
        built.unpack(package, scratch.path())?;
    }
    Ok(Some(scratch))
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder)?;
    Ok(entries
        .map(|entry| entry.map(|e| e.path()))
        .collect::<Result<_, _>>()?)
}
