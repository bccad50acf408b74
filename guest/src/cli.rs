//! The command line: what was asked, from arguments and the environment. Flags come from [`SETTINGS`].

use std::ffi::OsString;

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::settings::{Kind, SETTINGS, Setting, Settings, Sources};

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

/// What `run` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunMode {
    /// Runs.
    Serve,
    /// Says what is wrong with the configuration.
    Check,
    /// Shows the configuration as a file.
    PrintConfig,
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
    let sources = sources(matches, environment);
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
        _ => {
            let mode = match (matches.get_flag("check"), matches.get_flag("print-config")) {
                (true, _) => RunMode::Check,
                (_, true) => RunMode::PrintConfig,
                _ => RunMode::Serve,
            };
            Invocation::Run(sources, mode)
        }
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
        .args(common(&SETTINGS.iter().map(|s| s.key).collect::<Vec<_>>()))
        .arg(flag(
            "check",
            "Say what is wrong with the configuration, and run nothing",
        ))
        .arg(flag(
            "print-config",
            "Show the configuration as an annotated file, and run nothing",
        ))
}

fn status() -> Command {
    Command::new("status")
        .about("Show what is stored, what was refused and why, and what to do")
        .args(common(&["state", "log_level"]))
        .arg(
            option(
                "format",
                "FORMAT",
                "A table for people, or one JSON object for programs",
            )
            .value_parser(PossibleValuesParser::new(["table", "json"]))
            .default_value("table"),
        )
        .arg(flag(
            "check",
            "Exit with 1 when something needs attention, for monitoring",
        ))
}

fn seal() -> Command {
    Command::new("seal")
        .about("Encrypt standard input for the VM's owner: `cmd | vmkpi-guest seal --point encrypted/x > /kpi/encrypted/x`")
        .args(common(&["vm", "primary_key_file", "log_level"]))
        .mut_arg("primary-key-file", |arg| arg.alias("key").visible_alias("key"))
        .arg(option("point", "POINT", "Where the result will be written: encrypted/NAME").required(true))
}

/// `--config`, and the flags of the settings with those keys.
fn common(keys: &[&str]) -> Vec<Arg> {
    let defaults = Settings::default();
    let config = option(
        "config",
        "FILE",
        "The configuration file, which must be there; otherwise /etc/vmkpi/guest.toml, which need not [env: VMKPI_GUEST_CONFIG=]",
    );
    SETTINGS
        .iter()
        .filter(|setting| keys.contains(&setting.key))
        .map(|setting| setting_flag(setting, &defaults))
        .chain([config])
        .collect()
}

fn setting_flag(setting: &'static Setting, defaults: &Settings) -> Arg {
    let default = setting.get(defaults);
    let default = default.map_or(String::new(), |value| format!(" [default: {value}]"));
    let help = format!("{}{default} [env: {}=]", setting.help, setting.env());
    let arg = option(setting.flag, setting.value, &help);
    match setting.kind {
        // The flag alone means true; `--FLAG=false` overrules a file.
        Kind::Boolean => arg
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true"),
        _ => arg,
    }
}

fn option(name: &'static str, value: &'static str, help: &str) -> Arg {
    Arg::new(name)
        .long(name)
        .value_name(value)
        .help(help.to_owned())
}

fn flag(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name)
        .long(name)
        .help(help)
        .action(ArgAction::SetTrue)
}

fn text<'a>(matches: &'a ArgMatches, name: &str) -> Option<&'a str> {
    matches
        .try_get_one::<String>(name)
        .ok()
        .flatten()
        .map(String::as_str)
}

fn sources(matches: &ArgMatches, environment: Vec<(String, String)>) -> Sources {
    Sources {
        file: text(matches, "config").map(Into::into),
        environment,
        flags: SETTINGS
            .iter()
            .filter_map(|s| Some((s.flag, text(matches, s.flag)?.to_owned())))
            .collect(),
    }
}
