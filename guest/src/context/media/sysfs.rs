//! What the kernel shows of drives, and how often it asks them whether their medium changed.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Whether it is the kernel name of a CD-ROM drive.
pub fn is_drive(name: &str) -> bool {
    name.strip_prefix("sr").is_some_and(|number| {
        (1..=4).contains(&number.len()) && number.bytes().all(|b| b.is_ascii_digit())
    })
}

/// The drives, by name, at most `limit` of them.
pub fn drives(sys: &Path, limit: usize) -> Vec<String> {
    let entries = fs::read_dir(sys).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut drives: Vec<_> = names.filter(|name| is_drive(name)).collect();
    drives.sort();
    drives.truncate(limit);
    drives
}

/// A drive's folder.
#[derive(Clone, Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// Of that drive.
    pub fn of(sys: &Path, drive: &str) -> Self {
        Self(sys.join(drive))
    }

    /// How often its medium changed, as far as the kernel knows (since Linux 5.15).
    pub fn changes(&self) -> Option<u64> {
        self.number("diskseq")
    }

    fn number<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        fs::read_to_string(self.0.join(name))
            .ok()?
            .trim_end()
            .parse()
            .ok()
    }
}

/// That the kernel asks a drive often enough; it is asked as often as before when this goes.
#[derive(Debug)]
pub struct Polling {
    file: PathBuf,
    /// What was there: milliseconds, or -1 for the system's default, which is off without udev.
    before: i64,
    now: i64,
}

impl Polling {
    /// As it is. `None`: the kernel does not ask this drive at all.
    pub fn of(folder: &Folder) -> Option<Self> {
        let before = folder.number("events_poll_msecs")?;
        Some(Self {
            file: folder.0.join("events_poll_msecs"),
            before,
            now: before,
        })
    }

    /// Has it asked at least that often. Says whether it is.
    pub fn every(&mut self, interval: Duration) -> bool {
        let wanted = i64::try_from(interval.as_millis()).unwrap_or(i64::MAX);
        let due = match self.before {
            often if (1..=wanted).contains(&often) => often,
            _ => wanted,
        };
        if due != self.now && fs::write(&self.file, due.to_string()).is_ok() {
            self.now = due;
        }
        (1..=due).contains(&self.now)
    }
}

impl Drop for Polling {
    fn drop(&mut self) {
        if self.now != self.before {
            // The drive may be gone.
            let _ = fs::write(&self.file, self.before.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drives_are_those_of_cd_roms() {
        let sys = tempfile::tempdir().unwrap();
        for name in ["sr1", "sr0", "sda", "sr", "srx", "sr0p1", "sr12345"] {
            fs::create_dir(sys.path().join(name)).unwrap();
        }
        assert_eq!(drives(sys.path(), 16), ["sr0", "sr1"]);
        assert_eq!(drives(sys.path(), 1), ["sr0"]);
        assert!(drives(&sys.path().join("absent"), 16).is_empty());
    }

    #[test]
    fn the_kernel_asks_as_often_as_needed_and_then_as_before() {
        let sys = tempfile::tempdir().unwrap();
        let file = sys.path().join("sr0/events_poll_msecs");
        let folder = Folder::of(sys.path(), "sr0");
        let (fast, slow) = (Duration::from_millis(20), Duration::from_millis(100));
        assert!(Polling::of(&folder).is_none());
        fs::create_dir(sys.path().join("sr0")).unwrap();
        for (before, slowly) in [
            ("-1\n", "100"),
            ("0\n", "100"),
            ("2000\n", "100"),
            ("50\n", "50"),
        ] {
            fs::write(&file, before).unwrap();
            let said = || fs::read_to_string(&file).unwrap().trim_end().to_owned();
            let mut polling = Polling::of(&folder).unwrap();
            assert!(polling.every(slow));
            assert_eq!(said(), slowly);
            assert!(polling.every(fast));
            assert_eq!(said(), "20");
            assert!(polling.every(slow));
            assert_eq!(said(), slowly);
            drop(polling);
            assert_eq!(said(), before.trim_end());
        }
    }

    #[test]
    fn changes_are_counted_by_the_kernel() {
        let sys = tempfile::tempdir().unwrap();
        let folder = Folder::of(sys.path(), "sr0");
        assert_eq!(folder.changes(), None);
        fs::create_dir(sys.path().join("sr0")).unwrap();
        fs::write(sys.path().join("sr0/diskseq"), "17\n").unwrap();
        assert_eq!(folder.changes(), Some(17));
    }
}
