//! Which questions were heard: the last `issued` of each topic, and what of it is on disk. A mark on disk is ahead of
//! what was heard by [`AHEAD_US`], so that it is written once in so long and not for each question; after a restart
//! what was issued up to there is refused, as it may have been heard.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use vmkpi::query::{Late, judge};

/// How far marks on disk are ahead, in microseconds.
const AHEAD_US: u64 = 5_000_000;
/// A mark older than this by now, in microseconds, is forgotten: what it is there to refuse is refused as old, but by
/// a clock that was set back by a day.
const FORGET_US: u64 = 86_400_000_000;
/// The file in the state directory.
const FILE: &str = "questions.json";

/// What was heard, in memory: the judge.
#[derive(Debug, Default)]
pub(super) struct Marks {
    heard: BTreeMap<String, u64>,
    /// What was issued up to here may have been heard, whatever its topic.
    floor: u64,
}

impl Marks {
    /// Judges a question on `topic` at `now`, and notes it if it counts.
    ///
    /// # Errors
    /// It does not count, and why.
    pub(super) fn hear(&mut self, topic: &str, issued: u64, now: u64) -> Result<(), Late> {
        let last = self.heard.get(topic).copied().unwrap_or_default();
        judge(issued, now, last.max(self.floor))?;
        self.heard.insert(topic.to_owned(), issued);
        Ok(())
    }
}

/// What is on disk.
#[derive(Clone, Debug)]
pub(super) struct Record {
    path: PathBuf,
    reserved: BTreeMap<String, u64>,
}

impl Record {
    /// Reads what an earlier daemon left in the directory `state`, at `now`. What cannot be read, or is not there, is
    /// as if everything issued before now had been heard.
    pub(super) fn open(state: &Path, now: u64) -> (Self, Marks) {
        let path = state.join(FILE);
        let read = std::fs::read(&path);
        let read = read.and_then(|bytes| Ok(serde_json::from_slice(&bytes)?));
        let (reserved, floor): (BTreeMap<String, u64>, u64) = match read {
            Ok(reserved) => (reserved, 0),
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::error!(file = %path.display(), %error, "which questions were heard cannot be read; those issued before now are refused");
                }
                (BTreeMap::new(), now)
            }
        };
        let marks = Marks {
            heard: reserved.clone(),
            floor,
        };
        (Self { path, reserved }, marks)
    }

    /// Whether a question that was issued at `issued` needs another mark on disk.
    pub(super) fn lacks(&self, topic: &str, issued: u64) -> bool {
        self.reserved.get(topic).is_none_or(|mark| issued > *mark)
    }

    /// Sets the mark for a question; [`Self::save`] brings it to disk.
    pub(super) fn reserve(&mut self, topic: &str, issued: u64) {
        let mark = self.reserved.entry(topic.to_owned()).or_default();
        *mark = (*mark).max(issued.saturating_add(AHEAD_US));
    }

    /// Brings the marks to disk, whole or not at all; forgets those of long ago.
    ///
    /// # Errors
    /// They cannot be written: what was reserved since the last time counts for nothing.
    pub(super) fn save(&mut self, now: u64) -> io::Result<()> {
        let since = now.saturating_sub(FORGET_US);
        self.reserved.retain(|_, mark| *mark > since);
        let new = self.path.with_extension("new");
        let mut file = File::create(&new)?;
        file.write_all(&serde_json::to_vec(&self.reserved)?)?;
        file.sync_all()?;
        std::fs::rename(&new, &self.path)?;
        let folder = self.path.parent().unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_000_000_000_000;

    #[test]
    fn a_question_is_heard_once_also_by_the_next_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let (mut record, mut marks) = Record::open(dir.path(), NOW - 1);
        assert_eq!(marks.hear("a", NOW, NOW), Ok(()));
        assert!(record.lacks("a", NOW));
        record.reserve("a", NOW);
        record.save(NOW).unwrap();
        assert_eq!(marks.hear("a", NOW, NOW), Err(Late::Repeated));
        // As many as come within the mark need no further one.
        assert_eq!(marks.hear("a", NOW + AHEAD_US, NOW), Ok(()));
        assert!(!record.lacks("a", NOW + AHEAD_US));
        assert!(record.lacks("a", NOW + AHEAD_US + 1) && record.lacks("b", NOW));
        let (record, mut marks) = Record::open(dir.path(), NOW);
        for issued in [NOW - 1, NOW, NOW + AHEAD_US] {
            assert_eq!(marks.hear("a", issued, NOW), Err(Late::Repeated));
        }
        assert_eq!(marks.hear("a", NOW + AHEAD_US + 1, NOW), Ok(()));
        assert_eq!(marks.hear("b", NOW, NOW), Ok(()), "another topic");
        assert!(record.lacks("a", NOW + AHEAD_US + 1));
    }

    #[test]
    fn a_file_that_is_gone_or_broken_lets_nothing_of_before_through() {
        let dir = tempfile::tempdir().unwrap();
        for broken in [None, Some("{\"a\":"), Some("[]")] {
            if let Some(text) = broken {
                std::fs::write(dir.path().join(FILE), text).unwrap();
            }
            let (_, mut marks) = Record::open(dir.path(), NOW);
            assert_eq!(marks.hear("a", NOW, NOW), Err(Late::Repeated), "{broken:?}");
            assert_eq!(marks.hear("a", NOW + 1, NOW), Ok(()), "{broken:?}");
        }
    }

    #[test]
    fn marks_of_long_ago_are_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let (mut record, _) = Record::open(dir.path(), NOW);
        record.reserve("a", NOW);
        record.reserve("b", NOW + 2 * FORGET_US);
        record.save(NOW + FORGET_US + AHEAD_US).unwrap();
        let (record, _) = Record::open(dir.path(), NOW);
        assert_eq!(record.reserved.len(), 1);
    }
}
