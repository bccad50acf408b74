//! Where settings come from, and which of them wins.

use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use super::file::{Notes, Reader};
use super::nearest::nearest;
use super::problem::Problems;
use super::units::read_bounded;
use super::{Catalogue, Kind, Setting};

/// What other programs for `tracing` call the log level; ours is stronger.
const LOG_VARIABLE: &str = "RUST_LOG";

/// Everything that a program was started with. It can be read again.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The file that `--config` names.
    pub file: Option<PathBuf>,
    /// The environment.
    pub environment: Vec<(String, String)>,
    /// Flags, without the dashes, and their values.
    pub flags: Vec<(&'static str, String)>,
}

impl Sources {
    fn variable(&self, name: &str) -> Option<&str> {
        let found = self.environment.iter().find(|(key, _)| key == name);
        found
            .map(|(_, value)| value.as_str())
            .filter(|v| !v.is_empty())
    }
}

/// What was read.
#[derive(Clone, Debug)]
pub struct Loaded<S> {
    /// The values.
    pub settings: S,
    /// The file, if there was one.
    pub file: Option<PathBuf>,
}

impl<S: Default> Catalogue<S> {
    /// Reads file, environment and flags.
    ///
    /// # Errors
    /// Everything that is wrong with any of them.
    pub fn load(&self, sources: &Sources) -> Result<Loaded<S>, Problems> {
        match self.read(sources) {
            (loaded, problems) if problems.0.is_empty() => Ok(loaded),
            (_, problems) => Err(problems),
        }
    }

    /// The same, with what could be read and everything that could not, for who has more to find fault with.
    pub fn read(&self, sources: &Sources) -> (Loaded<S>, Problems) {
        let mut reading = Reading {
            catalogue: self,
            sources,
            settings: S::default(),
            problems: Problems::default(),
        };
        let file = reading.file();
        reading.environment();
        reading.flags();
        let settings = reading.settings;
        (Loaded { settings, file }, reading.problems)
    }
}

/// On the way from sources to settings.
struct Reading<'a, S: 'static> {
    catalogue: &'a Catalogue<S>,
    sources: &'a Sources,
    settings: S,
    problems: Problems,
}

impl<S: Default> Reading<'_, S> {
    fn file(&mut self) -> Option<PathBuf> {
        let variable = self.catalogue.file_variable();
        let named = self.sources.file.clone();
        let named = named.or_else(|| self.sources.variable(&variable).map(PathBuf::from));
        let path = named
            .clone()
            .unwrap_or_else(|| self.catalogue.default_file.into());
        let name = path.display().to_string();
        match read_bounded(&path, self.catalogue.max_file_bytes) {
            Ok(text) => {
                if let Err(message) = trusted(&path, self.catalogue.peril) {
                    self.problems.add(&name, "", message);
                }
                let mut reader = Reader {
                    catalogue: self.catalogue,
                    notes: Notes::new(self.catalogue.program, &name, &text),
                    settings: &mut self.settings,
                };
                reader.read();
                self.problems.0.append(&mut reader.notes.problems.0);
                Some(path)
            }
            Err(error) if error.kind() == ErrorKind::NotFound && named.is_none() => None,
            Err(error) => {
                self.problems
                    .add(&name, "", format!("it cannot be read: {error}"));
                None
            }
        }
    }

    fn environment(&mut self) {
        if let Some(text) = self.sources.variable(LOG_VARIABLE) {
            self.apply("log-level", LOG_VARIABLE, [text]);
        }
        let (prefix, file) = (self.catalogue.env_prefix, self.catalogue.file_variable());
        for (name, text) in &self.sources.environment {
            // As with many programs, an empty variable is as good as none.
            if !name.starts_with(prefix) || *name == file || text.is_empty() {
                continue;
            }
            let known = self.catalogue.settings.iter();
            match known.clone().find(|s| self.catalogue.env(s) == *name) {
                Some(setting) if setting.kind == Kind::Map => {
                    self.apply(setting.flag, name, text.split(','));
                }
                Some(setting) => self.apply(setting.flag, name, [text.as_str()]),
                None => {
                    let known: Vec<String> = known.map(|s| self.catalogue.env(s)).collect();
                    let message = match nearest(name, known.iter().map(String::as_str)) {
                        Some(near) => format!("unknown variable; did you mean {near}?"),
                        None => "unknown variable".into(),
                    };
                    self.problems.add(name, "", message);
                }
            }
        }
    }

    fn flags(&mut self) {
        let flags = &self.sources.flags;
        for (place, (flag, _)) in flags.iter().enumerate() {
            if flags[..place].iter().any(|(before, _)| before == flag) {
                continue;
            }
            let values = flags.iter().filter(|(other, _)| other == flag);
            let values = values.map(|(_, text)| text.as_str());
            self.apply(flag, &format!("--{flag}"), values);
        }
    }

    /// Sets what one source says of a setting: a value, or of a map several, each of another name.
    fn apply<'t>(&mut self, flag: &str, at: &str, texts: impl IntoIterator<Item = &'t str>) {
        let mut settings = self.catalogue.settings.iter();
        let Some(setting) = settings.find(|setting| setting.flag == flag) else {
            return self.problems.add(at, "", "unknown setting");
        };
        let mut names: Vec<&str> = Vec::new();
        for text in texts {
            let name = text.split_once('=').map_or(text, |(name, _)| name);
            if setting.kind == Kind::Map && names.contains(&name) {
                let message = format!("{name:?} is named twice");
                self.problems.add(at, "", message);
                continue;
            }
            names.push(name);
            if let Err(message) = self.set(setting, text) {
                self.problems.add(at, "", message);
            }
        }
    }

    fn set(&mut self, setting: &Setting<S>, text: &str) -> Result<(), String> {
        match setting.kind {
            Kind::Map if !text.contains('=') => Err(format!("{text:?}: write {}", setting.value)),
            _ => setting.set(&mut self.settings, text),
        }
    }
}

/// What the file names has consequences, so nobody else may be able to write it.
fn trusted(path: &Path, peril: &str) -> Result<(), String> {
    let found = std::fs::metadata(path).map_err(|e| e.to_string())?;
    // /dev/null says nothing, whoever writes it.
    if found.file_type().is_char_device() {
        return Ok(());
    }
    let me = effective_user();
    if found.mode() & 0o022 != 0 {
        return Err(format!(
            "others may write it, and it may {peril}: chmod go-w"
        ));
    }
    if found.uid() != me && found.uid() != 0 {
        return Err(format!(
            "it belongs to another user, and it may {peril}: chown it"
        ));
    }
    Ok(())
}

/// Who runs the program (proc_pid_status(5): real, effective, saved, file system).
fn effective_user() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mut lines = status.lines();
    let users = lines.find_map(|line| line.strip_prefix("Uid:"));
    users
        .and_then(|users| users.split_whitespace().nth(1)?.parse().ok())
        .unwrap_or(0)
}
