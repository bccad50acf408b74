//! A disk whose power can fail: what was not synced survives or not, each sector by a coin, and of the
//! names made, changed and removed since the directory was synced only the first so many. Weaker than a
//! journalling file system, which keeps more; no stronger promise than POSIX's is used.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};

use super::seed::Seed;

/// What a disk writes whole or not at all.
pub const SECTOR_BYTES: usize = 512;

/// A file's number.
pub type Ino = u64;

type Names = BTreeMap<OsString, Ino>;

/// A file, as programs see it and as it is on the disk.
#[derive(Clone, Default)]
pub struct File {
    pub live: Vec<u8>,
    /// A socket: only its name matters.
    pub socket: bool,
    disk: Vec<u8>,
    dirty: BTreeSet<usize>,
}

/// A change of the directory; no number: the name is gone.
type Change = (OsString, Option<Ino>);

/// One directory of files.
#[derive(Clone, Default)]
pub struct Disk {
    pub names: Names,
    files: HashMap<Ino, File>,
    names_on_disk: Names,
    /// Not synced yet, in order; what belongs to one call is one element.
    changes: Vec<Vec<Change>>,
    last: Ino,
}

impl File {
    fn touch(&mut self, from: usize, to: usize) {
        self.dirty
            .extend(from / SECTOR_BYTES..to.div_ceil(SECTOR_BYTES));
    }

    pub fn write(&mut self, at: usize, data: &[u8]) {
        let end = at + data.len();
        if self.live.len() < end {
            self.touch(self.live.len(), end);
            self.live.resize(end, 0);
        }
        self.live[at..end].copy_from_slice(data);
        self.touch(at, end);
    }

    pub fn resize(&mut self, length: usize) {
        let (low, high) = (length.min(self.live.len()), length.max(self.live.len()));
        self.touch(low, high);
        self.live.resize(length, 0);
    }

    pub fn sync(&mut self) {
        for sector in std::mem::take(&mut self.dirty) {
            self.put(sector);
        }
        self.disk.resize(self.live.len(), 0);
    }

    /// A sync that fails as Linux' do: what it could not write is taken for written, and programs still
    /// read it, until the power fails.
    pub fn fail_to_sync(&mut self) {
        self.dirty.clear();
    }

    /// Copies a sector of what programs see to the disk.
    fn put(&mut self, sector: usize) {
        let from = (sector * SECTOR_BYTES).min(self.live.len());
        let to = (from + SECTOR_BYTES).min(self.live.len());
        if self.disk.len() < to {
            self.disk.resize(to, 0);
        }
        self.disk[from..to].copy_from_slice(&self.live[from..to]);
    }

    /// The length is metadata, and reaches the disk apart from the sectors.
    fn fail(&mut self, seed: &mut Seed) {
        let length = match seed.coin() {
            true => self.live.len(),
            false => self.disk.len(),
        };
        for sector in std::mem::take(&mut self.dirty) {
            if seed.coin() {
                self.put(sector);
            }
        }
        self.disk.resize(length, 0);
        self.live.clone_from(&self.disk);
    }
}

impl Disk {
    pub fn file(&mut self, ino: Ino) -> Option<&mut File> {
        self.files.get_mut(&ino)
    }

    pub fn create(&mut self, name: &OsStr, socket: bool) -> Ino {
        // 1 is the directory.
        self.last = self.last.max(1) + 1;
        let file = File {
            socket,
            ..File::default()
        };
        self.files.insert(self.last, file);
        self.change(vec![(name.into(), Some(self.last))]);
        self.last
    }

    pub fn remove(&mut self, name: &OsStr) -> bool {
        let known = self.names.contains_key(name);
        if known {
            self.change(vec![(name.into(), None)]);
        }
        known
    }

    pub fn rename(&mut self, from: &OsStr, to: &OsStr) -> bool {
        let Some(ino) = self.names.get(from).copied() else {
            return false;
        };
        self.change(vec![(from.into(), None), (to.into(), Some(ino))]);
        true
    }

    fn change(&mut self, changes: Vec<Change>) {
        apply(&mut self.names, &changes);
        self.changes.push(changes);
    }

    pub fn sync_names(&mut self) {
        self.changes.clear();
        self.names_on_disk.clone_from(&self.names);
    }

    /// The power fails: what a machine finds that boots from this disk.
    pub fn after_power_cut(&self, seed: &mut Seed) -> Self {
        let mut found = self.clone();
        let kept = seed.below(self.changes.len() as u64 + 1) as usize;
        for changes in &self.changes[..kept] {
            apply(&mut found.names_on_disk, changes);
        }
        found.changes.clear();
        found.names.clone_from(&found.names_on_disk);
        let named: BTreeSet<Ino> = found.names.values().copied().collect();
        found.files.retain(|ino, _| named.contains(ino));
        // In order, so that a seed always means the same.
        for ino in named {
            if let Some(file) = found.files.get_mut(&ino) {
                file.fail(seed);
            }
        }
        found
    }
}

fn apply(names: &mut Names, changes: &[Change]) {
    for (name, ino) in changes {
        match ino {
            Some(ino) => names.insert(name.clone(), *ino),
            None => names.remove(name),
        };
    }
}
