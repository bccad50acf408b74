//! Where settings come from, and which of them wins.

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::file::{MAX_FILE_BYTES, Reader};
use super::nearest::nearest;
use super::problem::Problems;
use super::units::read_bounded;
use super::{SETTINGS, Settings};

/// Read if it is there and no other is named.
pub const DEFAULT_FILE: &str = "/etc/vmkpi/guest.toml";

/// What the names of environment variables begin with.
pub(super) const ENV_PREFIX: &str = "VMKPI_GUEST_";

/// Names the configuration file.
const FILE_VARIABLE: &str = "VMKPI_GUEST_CONFIG";

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

/// What was read.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The values.
    pub settings: Settings,
    /// The file, if there was one.
    pub file: Option<PathBuf>,
}

impl Sources {
    /// Reads file, environment and flags.
    ///
    /// # Errors
    /// Everything that is wrong with any of them.
    pub fn load(&self) -> Result<Loaded, Problems> {
        let mut settings = Settings::default();
        let mut problems = Problems::default();
        let file = self.read_file(&mut settings, &mut problems);
        self.read_environment(&mut settings, &mut problems);
        for (flag, text) in &self.flags {
            apply(
                flag,
                &format!("--{flag}"),
                text,
                &mut settings,
                &mut problems,
            );
        }
        match problems.0.is_empty() {
            true => Ok(Loaded { settings, file }),
            false => Err(problems),
        }
    }

    fn variable(&self, name: &str) -> Option<&str> {
        let found = self.environment.iter().find(|(key, _)| key == name);
        found
            .map(|(_, value)| value.as_str())
            .filter(|v| !v.is_empty())
    }

    fn read_file(&self, settings: &mut Settings, problems: &mut Problems) -> Option<PathBuf> {
        let named = self
            .file
            .clone()
            .or_else(|| self.variable(FILE_VARIABLE).map(PathBuf::from));
        let path = named.clone().unwrap_or_else(|| DEFAULT_FILE.into());
        let name = path.display().to_string();
        match read_bounded(&path, MAX_FILE_BYTES) {
            Ok(text) => {
                if let Err(message) = trusted(&path) {
                    problems.add(&name, "", message);
                }
                let mut reader = Reader::new(&name, &text);
                reader.read(settings);
                problems.0.append(&mut reader.problems.0);
                Some(path)
            }
            Err(error) if error.kind() == ErrorKind::NotFound && named.is_none() => None,
            Err(error) => {
                problems.add(&name, "", format!("it cannot be read: {error}"));
                None
            }
        }
    }

    fn read_environment(&self, settings: &mut Settings, problems: &mut Problems) {
        if let Some(text) = self.variable(LOG_VARIABLE) {
            apply("log-level", LOG_VARIABLE, text, settings, problems);
        }
        for (name, text) in &self.environment {
            // As with many programs, an empty variable is as good as none.
            if !name.starts_with(ENV_PREFIX) || name == FILE_VARIABLE || text.is_empty() {
                continue;
            }
            match SETTINGS.iter().find(|setting| setting.env() == *name) {
                Some(setting) => apply(setting.flag, name, text, settings, problems),
                None => {
                    let known: Vec<String> = SETTINGS.iter().map(super::Setting::env).collect();
                    let message = match nearest(name, known.iter().map(String::as_str)) {
                        Some(near) => format!("unknown variable; did you mean {near}?"),
                        None => "unknown variable".into(),
                    };
                    problems.add(name, "", message);
                }
            }
        }
    }
}

fn apply(flag: &str, at: &str, text: &str, settings: &mut Settings, problems: &mut Problems) {
    let Some(setting) = SETTINGS.iter().find(|setting| setting.flag == flag) else {
        return problems.add(at, "", "unknown setting");
    };
    if let Err(message) = setting.set(settings, text) {
        problems.add(at, "", message);
    }
}

/// The file names commands that this program runs, so nobody else may be able to write it.
fn trusted(path: &Path) -> Result<(), String> {
    let found = std::fs::metadata(path).map_err(|e| e.to_string())?;
    let me = nix::unistd::geteuid().as_raw();
    if found.mode() & 0o022 != 0 {
        return Err("others may write it, and it may name commands to run: chmod go-w".into());
    }
    if found.uid() != me && found.uid() != 0 {
        return Err("it belongs to another user, and it may name commands to run: chown it".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests;
