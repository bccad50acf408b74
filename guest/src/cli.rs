//! The command line: what was asked, from arguments and the environment. Flags come from [`CATALOGUE`].

use std::ffi::OsString;

use clap::Command;
use clap::builder::PossibleValuesParser;
pub use vmkpi::settings::flags::RunMode;
use vmkpi::settings::flags::{option, switch, text};

use crate::settings::{CATALOGUE, Sources};

/// What a program is asked to do.
#[derive(Debug)]
pub enum Invocation {
    /// Serve the partition.
    Run(Sources, RunMode),
    /// Show what is.
    Status {
        /// Where the databases are, and the rest.
        sources: Sources,
        /// Whether programs read it.
        json: bool,
        /// Whether the exit status says that all is well.
        check: bool,
    },
    /// Encrypt standard input for the owner.
    Seal {
        /// The VM and the key.
        sources: Sources,
        /// For which point.
        point: String,
    },
}

/// Reads arguments and environment.
///
/// # Errors
/// What clap says: bad usage, or `--help` and `--version`.
pub fn parse(
    arguments: impl IntoIterator<Item = OsString>,
    environment: Vec<(String, String)>,
) -> Result<Invocation, clap::Error> {
    let matches = command().try_get_matches_from(arguments)?;
    let (name, matches) = matches.subcommand().unwrap_or(("", &matches));
    let sources = CATALOGUE.sources(matches, environment);
    Ok(match name {
        "status" => Invocation::Status {
            sources,
            json: text(matches, "format") == Some("json"),
            check: matches.get_flag("check"),
        },
        "seal" => Invocation::Seal {
            sources,
            point: text(matches, "point").unwrap_or_default().into(),
        },
        _ => Invocation::Run(sources, RunMode::of(matches)),
    })
}

/// The program's commands, flags and help.
pub fn command() -> Command {
    Command::new("vmkpi-guest")
        .version(env!("CARGO_PKG_VERSION"))
        .about(
            "Carries an application's KPIs out of a virtual machine: mounts a partition in which each closed file \
             becomes a row on disk, and hands the rows to the host until they are acknowledged.",
        )
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(run())
        .subcommand(status())
        .subcommand(seal())
}

fn run() -> Command {
    Command::new("run")
        .about("Mount the partition and serve it until SIGTERM")
        .args(CATALOGUE.flags(&[]))
        .arg(switch(
            "check",
            "Say what is wrong with the configuration, and run nothing",
        ))
        .arg(switch(
            "print-config",
            "Show the configuration as an annotated file, and run nothing",
        ))
}

fn status() -> Command {
    Command::new("status")
        .about("Show what is stored, what was refused and why, and what to do")
        .args(CATALOGUE.flags(&["state", "log_level"]))
        .arg(
            option(
                "format",
                "FORMAT",
                "A table for people, or one JSON object for programs",
            )
            .value_parser(PossibleValuesParser::new(["table", "json"]))
            .default_value("table"),
        )
        .arg(switch(
            "check",
            "Exit with 1 when something needs attention, for monitoring",
        ))
}

fn seal() -> Command {
    Command::new("seal")
        .about("Encrypt standard input for the VM's owner: `cmd | vmkpi-guest seal --point encrypted/x > /kpi/encrypted/x`")
        .args(CATALOGUE.flags(&["vm", "primary_key_file", "log_level"]))
        .mut_arg("primary-key-file", |arg| arg.alias("key").visible_alias("key"))
        .arg(option("point", "POINT", "Where the result will be written: encrypted/NAME").required(true))
}
