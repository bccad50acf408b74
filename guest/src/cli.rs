//! The command line: what was asked, from arguments and the environment. Flags come from [`CATALOGUE`].

use std::ffi::OsString;

use clap::{Arg, Command};
pub use vmkpi::settings::flags::RunMode;
use vmkpi::settings::flags::{format, option, switch, text};

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
    /// Show or apply the context.
    Context {
        /// Where the socket is, and the rest.
        sources: Sources,
        /// What of it.
        question: Question,
        /// Whether programs read it.
        json: bool,
    },
    /// Encrypt standard input for the owner.
    Seal {
        /// The VM and the key.
        sources: Sources,
        /// For which point.
        point: String,
    },
}

/// What `vmkpi-guest context` is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// Layers, hooks and problems.
    Layers,
    /// Which layers have a path.
    Where(String),
    /// What the last changes changed.
    Changes,
    /// To read everything again and to run the hooks.
    Apply,
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
    let (inner, of) = matches.subcommand().unwrap_or(("", matches));
    let sources = CATALOGUE.sources(of, environment);
    Ok(match name {
        "status" => Invocation::Status {
            sources,
            json: text(matches, "format") == Some("json"),
            check: matches.get_flag("check"),
        },
        "context" => Invocation::Context {
            sources,
            question: match inner {
                "where" => Question::Where(text(of, "path").unwrap_or_default().into()),
                "changes" => Question::Changes,
                "apply" => Question::Apply,
                _ => Question::Layers,
            },
            json: text(of, "format") == Some("json"),
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
        .subcommand(context())
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
        .arg(format())
        .arg(switch(
            "check",
            "Exit with 1 when something needs attention, for monitoring",
        ))
}

fn context() -> Command {
    let one = |name, about| {
        let command = Command::new(name).about(about);
        command
            .args(CATALOGUE.flags(&["state", "log_level"]))
            .arg(format())
    };
    let path = Arg::new("path")
        .value_name("PATH")
        .help("A path below the context partition, with or without where it is mounted")
        .required(true);
    one(
        "context",
        "Show the context's layers, its hooks, and what is wrong",
    )
    .args_conflicts_with_subcommands(true)
    .subcommand(
        one(
            "where",
            "Show which layers have a path, and which of them is shown",
        )
        .arg(path),
    )
    .subcommand(one("changes", "Show what the last changes changed"))
    .subcommand(one(
        "apply",
        "Read the directories again, run all hooks as after a first start, and wait for them",
    ))
}

fn seal() -> Command {
    Command::new("seal")
        .about("Encrypt standard input for the VM's owner: `cmd | vmkpi-guest seal --point encrypted/x > /kpi/encrypted/x`")
        .args(CATALOGUE.flags(&["vm", "primary_key_file", "log_level"]))
        .mut_arg("primary-key-file", |arg| arg.alias("key").visible_alias("key"))
        .arg(option("point", "POINT", "Where the result will be written: encrypted/NAME").required(true))
}
