//! `vmkpi-pages DIR`: manual pages and completions of the three programs, made of the definitions by which they read
//! their command lines and configuration files, so that neither can say what is not so. Never part of a program.
//!
//! | module | job |
//! | --- | --- |
//! | [`manual`] | a page for each command and subcommand |
//! | [`files`] | a page for each configuration file |
//! | [`completions`] | what bash, zsh and fish complete |
//!
//! Manual pages go to `DIR/PROGRAM/man`, completions to `DIR/PROGRAM/bash`, `zsh` and `fish`, by the names under which
//! they are installed.

mod completions;
mod files;
mod manual;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::Command;

/// One of the three programs.
struct Program {
    /// What it takes.
    command: Command,
    /// The section of the manual that it belongs to: 1, for everybody; 8, for the administrator.
    section: &'static str,
    /// Further pages to look at.
    see_also: &'static [(&'static str, &'static str)],
}

fn main() -> Result<()> {
    let folder = std::env::args_os().nth(1);
    let folder = PathBuf::from(folder.context("usage: vmkpi-pages DIR")?);
    for program in programs() {
        let folder = folder.join(program.command.get_name());
        write_all(&folder.join("man"), manual::pages(&program)?)?;
        for (shell, file) in completions::files(&program.command) {
            write_all(&folder.join(shell), [file])?;
        }
    }
    for (program, page) in files::pages()? {
        write_all(&folder.join(program).join("man"), [page])?;
    }
    Ok(())
}

fn programs() -> [Program; 3] {
    [
        Program {
            command: vmkpi::command::command(),
            section: "1",
            see_also: &[("vmkpi-guest", "8"), ("vmkpi-host", "8")],
        },
        Program {
            command: vmkpi_guest::cli::command(),
            section: "8",
            see_also: &[("vmkpi-guest.toml", "5"), ("vmkpi-host", "8")],
        },
        Program {
            command: vmkpi_host::cli::command(),
            section: "8",
            see_also: &[
                ("vmkpi-host.toml", "5"),
                ("vmkpi", "1"),
                ("vmkpi-guest", "8"),
            ],
        },
    ]
}

/// A file's name and content.
type File = (String, Vec<u8>);

fn write_all(folder: &Path, files: impl IntoIterator<Item = File>) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    for (name, content) in files {
        let path = folder.join(name);
        std::fs::write(&path, content).with_context(|| path.display().to_string())?;
    }
    Ok(())
}
