//! The settings for people: an annotated file.

use std::fmt::Write as _;

use super::{Catalogue, Kind, Setting};

impl<S: Default> Catalogue<S> {
    /// A file with every key, its help and its value in `settings`; a key without a value is commented out.
    pub fn example(&self, settings: &S) -> String {
        let Self {
            program,
            default_file,
            env_prefix,
            ..
        } = self;
        let mut text = format!(
            "# {program} reads this file as {default_file}. What is left out has the value shown here; {env_prefix}*\n\
             # in the environment and flags are stronger. `{program} run --check` says what is wrong with it.\n",
        );
        let mut section = "";
        for setting in self.settings {
            let (of, name) = setting.section();
            if setting.kind == Kind::Map {
                section = setting.key;
                map(setting, settings, &mut text);
                continue;
            }
            if of != section {
                section = of;
                // Writing to a String cannot fail.
                let _ = write!(text, "\n[{section}]");
            }
            let _ = write!(text, "\n# {}.\n", setting.help);
            let _ = match setting.get(settings) {
                Some(value) => writeln!(text, "{name} = {}", literal(setting.kind, &value)),
                None => writeln!(text, "# {name} = {}", setting.sample),
            };
        }
        for tables in self.tables {
            (tables.write)(settings, &mut text);
        }
        text
    }
}

/// A section with a line for each of its names.
fn map<S>(setting: &Setting<S>, settings: &S, text: &mut String) {
    let _ = write!(text, "\n[{}]\n# {}.\n", setting.key, setting.help);
    let values = setting.get(settings);
    let Some(values) = values.filter(|values| !values.is_empty()) else {
        let _ = writeln!(text, "# {}", setting.sample);
        return;
    };
    for (name, value) in values.lines().filter_map(|line| line.split_once('=')) {
        let _ = writeln!(text, "{} = {}", quote(name), quote(value));
    }
}

/// The value as TOML.
fn literal(kind: Kind, value: &str) -> String {
    match kind {
        Kind::Integer | Kind::Boolean => value.into(),
        Kind::Text | Kind::Mode | Kind::Account | Kind::Map => quote(value),
    }
}

/// A basic string of TOML: the same escapes as JSON's.
pub fn quote(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_default()
}
