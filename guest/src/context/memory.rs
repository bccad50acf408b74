//! What is remembered over a restart: the generation, what the last changes changed, and what the hooks were told last.
//! Each is a file in the state directory that is replaced as a whole.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use vmkpi::clock::Timestamp;
use vmkpi::context::Class;

use super::change::{Change, Entries};

/// The most changes that are remembered, and the most paths of each.
pub const MAX_HISTORY: usize = 16;
/// The most paths of a change that are remembered; the rest is counted.
pub const MAX_PATHS: usize = 256;

const SHOWN: &str = "shown.json";
const TOLD: &str = "told.json";

/// What was counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// The number of the last change.
    pub generation: u64,
    /// The last changes, the latest last.
    pub history: Vec<Counted>,
}

/// A change of the tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    /// Its number.
    pub generation: u64,
    /// When.
    pub time: Timestamp,
    /// How many paths changed.
    pub paths: usize,
    /// The first of them.
    pub changes: Vec<Change>,
}

impl Shown {
    /// Notes one more change.
    pub fn count(&mut self, changes: &[Change], time: Timestamp) {
        self.generation += 1;
        self.history.push(Counted {
            generation: self.generation,
            time,
            paths: changes.len(),
            changes: changes.iter().take(MAX_PATHS).cloned().collect(),
        });
        let over = self.history.len().saturating_sub(MAX_HISTORY);
        self.history.drain(..over);
    }
}

/// What the hooks were told last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// The generation that it was.
    pub generation: u64,
    /// The classes of the layers.
    pub classes: Vec<Class>,
    /// The tree.
    pub entries: Entries,
}

/// Where it is remembered.
#[derive(Clone, Debug)]
pub struct Memory(PathBuf);

impl Memory {
    /// In a directory, which is made if it is not there.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn open(directory: &Path) -> io::Result<Self> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)?;
        Ok(Self(directory.to_owned()))
    }

    /// What was counted.
    pub fn shown(&self) -> Shown {
        self.read(SHOWN).unwrap_or_default()
    }

    /// What the hooks were told; `None` if they never were.
    pub fn told(&self) -> Option<Told> {
        self.read(TOLD)
    }

    /// Remembers what was counted.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn keep_shown(&self, shown: &Shown) -> io::Result<()> {
        self.write(SHOWN, shown)
    }

    /// Remembers what the hooks were told.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn keep_told(&self, told: &Told) -> io::Result<()> {
        self.write(TOLD, told)
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        let path = self.0.join(name);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::error!(file = %path.display(), %error, "what was remembered of the context cannot be read; it begins anew");
                return None;
            }
        };
        let read = serde_json::from_slice(&text);
        read.inspect_err(|error| {
            tracing::error!(file = %path.display(), %error, "what was remembered of the context is not readable; it begins anew");
        })
        .ok()
    }

    fn write<T: Serialize>(&self, name: &str, value: &T) -> io::Result<()> {
        let (path, new) = (self.0.join(name), self.0.join(format!("{name}.new")));
        let mut file = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(&serde_json::to_vec(value)?)?;
        file.sync_all()?;
        std::fs::rename(&new, &path)?;
        File::open(&self.0)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::change::Kind;

    #[test]
    fn generations_and_what_was_told_survive_and_history_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let memory = Memory::open(&dir.path().join("context")).unwrap();
        assert_eq!((memory.shown(), memory.told()), (Shown::default(), None));
        let change = Change {
            path: "a".into(),
            change: Kind::Added,
            layer: "service".parse().unwrap(),
        };
        let mut shown = Shown::default();
        for _ in 0..40 {
            shown.count(&vec![change.clone(); 300], Timestamp::from_micros(1));
        }
        memory.keep_shown(&shown).unwrap();
        let told = Told {
            generation: 40,
            classes: vec!["service".parse().unwrap()],
            entries: Entries::new(),
        };
        memory.keep_told(&told).unwrap();
        assert_eq!((memory.shown(), memory.told()), (shown.clone(), Some(told)));
        assert_eq!((shown.generation, shown.history.len()), (40, MAX_HISTORY));
        let last = &shown.history[MAX_HISTORY - 1];
        assert_eq!((last.paths, last.changes.len()), (300, MAX_PATHS));
        std::fs::write(dir.path().join("context/shown.json"), "{").unwrap();
        assert_eq!(memory.shown(), Shown::default());
    }
}
