//! Settings on the command line.

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, ArgMatches};

use super::{Catalogue, Kind, Setting, Sources};

/// What a daemon's `run` does, by its switches `--check` and `--print-config`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunMode {
    /// Runs.
    Serve,
    /// Says what is wrong with the configuration.
    Check,
    /// Shows the configuration as a file.
    PrintConfig,
}

impl RunMode {
    /// What the switches say; whoever asks for both gets the check.
    pub fn of(matches: &ArgMatches) -> Self {
        match (matches.get_flag("check"), matches.get_flag("print-config")) {
            (true, _) => Self::Check,
            (_, true) => Self::PrintConfig,
            _ => Self::Serve,
        }
    }
}

impl<S: Default> Catalogue<S> {
    /// `--config`, and the flags of the settings with those keys; of all without any.
    pub fn flags(&'static self, keys: &[&str]) -> Vec<Arg> {
        let defaults = S::default();
        let help = format!(
            "The configuration file, which must be there; otherwise {}, which need not [env: {}=]",
            self.default_file,
            self.file_variable()
        );
        let wanted = |setting: &&Setting<S>| keys.is_empty() || keys.contains(&setting.key);
        let settings = self.settings.iter().filter(wanted);
        settings
            .map(|setting| self.flag(setting, &defaults))
            .chain([option("config", "FILE", &help)])
            .collect()
    }

    fn flag(&self, setting: &'static Setting<S>, defaults: &S) -> Arg {
        let default = setting.get(defaults).filter(|value| !value.is_empty());
        let default = default.map_or(String::new(), |value| format!(" [default: {value}]"));
        let help = format!("{}{default} [env: {}=]", setting.help, self.env(setting));
        let arg = option(setting.flag, setting.value, &help);
        match setting.kind {
            // The flag alone means true; `--FLAG=false` overrules a file.
            Kind::Boolean => arg
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("true"),
            Kind::Map => arg.action(ArgAction::Append),
            _ => arg,
        }
    }

    /// What a command was started with.
    pub fn sources(&self, matches: &ArgMatches, environment: Vec<(String, String)>) -> Sources {
        let mut flags = Vec::new();
        for setting in self.settings {
            let given = matches.try_get_many::<String>(setting.flag).ok().flatten();
            flags.extend(
                given
                    .into_iter()
                    .flatten()
                    .map(|v| (setting.flag, v.clone())),
            );
        }
        Sources {
            file: text(matches, "config").map(Into::into),
            environment,
            flags,
        }
    }
}

/// `--format`, for whoever shows something.
pub fn format() -> Arg {
    option(
        "format",
        "FORMAT",
        "A table for people, or one JSON object for programs",
    )
    .value_parser(PossibleValuesParser::new(["table", "json"]))
    .default_value("table")
}

/// An option with a value.
pub fn option(name: &'static str, value: &'static str, help: &str) -> Arg {
    Arg::new(name)
        .long(name)
        .value_name(value)
        .help(help.to_owned())
}

/// An option without one.
pub fn switch(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name)
        .long(name)
        .help(help)
        .action(ArgAction::SetTrue)
}

/// The value of an option, if it was given and the command has it.
pub fn text<'a>(matches: &'a ArgMatches, name: &str) -> Option<&'a str> {
    matches
        .try_get_one::<String>(name)
        .ok()
        .flatten()
        .map(String::as_str)
}
