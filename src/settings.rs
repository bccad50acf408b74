//! How a daemon is told what to do. Each has one [`Catalogue`], in which every setting stands once: its key in
//! the configuration file, its flag, its environment variable, its help, how it is read and how it is written.
//! The command line, the file's reader, the annotated example and docs/CONFIGURATION.md come of it.
//!
//! ```text
//! defaults <── /etc/vmkpi/NAME.toml <── VMKPI_NAME_* <── flags        (the later wins)
//! ```

mod example;
mod file;
pub mod flags;
mod nearest;
mod problem;
mod sources;
pub mod units;

pub use example::quote;
pub use file::{Notes, Value, text_of};
pub use problem::{Problem, Problems};
pub use sources::{Loaded, Sources};

/// What a value looks like in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A string.
    Text,
    /// An integer that is not negative.
    Integer,
    /// true or false.
    Boolean,
    /// A string of octal digits.
    Mode,
    /// A name, or a number.
    Account,
    /// A section of names with a string each. As text each is NAME=VALUE; the flag is given once for each, the
    /// environment variable holds them with commas between, and what is stronger replaces the names it has.
    Map,
}

impl Kind {
    /// The kind in words.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Text => "a string",
            Self::Integer => "a whole number",
            Self::Boolean => "true or false",
            Self::Mode => "octal digits in a string, such as \"0660\"",
            Self::Account => "a name or a number",
            Self::Map => "a section of names with a string each",
        }
    }
}

/// One setting of a program whose settings are an `S`.
pub struct Setting<S> {
    /// Its key in the file, with the section before a dot.
    pub key: &'static str,
    /// Its flag, without the dashes.
    pub flag: &'static str,
    /// What stands for the value in help.
    pub value: &'static str,
    /// What it is, in a line.
    pub help: &'static str,
    /// What it looks like.
    pub kind: Kind,
    /// Whether SIGHUP changes it in a program that runs.
    pub reloads: bool,
    /// Reads it from text, or says why not.
    pub set: fn(&mut S, &str) -> Result<(), String>,
    /// Writes it as text; none when it is not set. A map has a line for each name.
    pub get: fn(&S) -> Option<String>,
    /// TOML that stands, commented out, where there is no value.
    pub sample: &'static str,
}

impl<S> Setting<S> {
    /// Its value as text.
    pub fn get(&self, settings: &S) -> Option<String> {
        (self.get)(settings)
    }

    /// Sets it from text.
    ///
    /// # Errors
    /// Why the text is no value of it.
    pub fn set(&self, settings: &mut S, text: &str) -> Result<(), String> {
        (self.set)(settings, text)
    }

    /// Section and name of its key.
    fn section(&self) -> (&'static str, &'static str) {
        self.key.rsplit_once('.').unwrap_or(("", self.key))
    }
}

/// What the file may hold beside settings: an array of tables, which has no flags.
pub struct Tables<S> {
    /// Its key in the file.
    pub key: &'static str,
    /// Reads it into the settings, and notes what is wrong with it.
    pub read: for<'a> fn(&mut Notes<'a>, &Value<'a>, &mut S),
    /// Writes it, with its help, at the end of the annotated file.
    pub write: fn(&S, &mut String),
    /// Its keys, and what each is.
    pub reference: fn() -> Vec<(&'static str, &'static str)>,
}

/// Everything that a program can be told.
pub struct Catalogue<S: 'static> {
    /// The program, as its user calls it.
    pub program: &'static str,
    /// The file that is read if it is there and no other is named.
    pub default_file: &'static str,
    /// The longest file that is read, in bytes.
    pub max_file_bytes: usize,
    /// What the names of its environment variables begin with.
    pub env_prefix: &'static str,
    /// The settings, in the order in which file, help and reference show them.
    pub settings: &'static [Setting<S>],
    /// What else the file may hold.
    pub tables: &'static [Tables<S>],
    /// What somebody who can write the file can do with it, after "and it may".
    pub peril: &'static str,
}

impl<S: Default> Catalogue<S> {
    /// The environment variable of a setting.
    pub fn env(&self, setting: &Setting<S>) -> String {
        let name = setting.flag.replace(['-', '.'], "_").to_ascii_uppercase();
        format!("{}{name}", self.env_prefix)
    }

    /// The environment variable that names the configuration file.
    fn file_variable(&self) -> String {
        format!("{}CONFIG", self.env_prefix)
    }

    /// The keys of all settings whose values differ.
    pub fn changed(&self, a: &S, b: &S) -> Vec<&'static Setting<S>> {
        let differs = |setting: &&Setting<S>| setting.get(a) != setting.get(b);
        self.settings.iter().filter(differs).collect()
    }
}
