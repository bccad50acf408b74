//! What the partition is, in as few words as possible. Read it as the specification: two directories, files,
//! open files with a draft each, and a row for each close or sync that returned 0 after a change.

use std::collections::BTreeMap;

use nix::errno::Errno;
use vmkpi_guest::csv;

use crate::ops::{Answer, Flags, LIMIT, NAMES, Op, Out, Path, SLOTS, STANDARD_MODE, UNENCRYPTED};

#[derive(Clone, Debug)]
struct File {
    /// The name it has, or had last.
    path: Path,
    linked: bool,
    /// Of the last store; a scratch file's: of the last close.
    bytes: Vec<u8>,
    /// Whether the bytes are a store's.
    stored: bool,
    mode: u16,
}

#[derive(Clone, Debug)]
struct Open {
    file: usize,
    flags: Flags,
    position: usize,
    /// The bytes as this open file sees them, if they are not the file's.
    draft: Option<Vec<u8>>,
    changed: bool,
    /// A write went over the limit.
    over: bool,
    /// When the draft last changed.
    touched: usize,
}

#[derive(Clone, Debug, Default)]
pub struct Spec {
    files: Vec<File>,
    names: BTreeMap<Path, usize>,
    opens: Vec<Option<Open>>,
    descriptors: [Option<usize>; SLOTS],
    clock: usize,
    /// Every row, by name, in order.
    pub rows: BTreeMap<Path, Vec<Vec<u8>>>,
}

fn is_scratch(path: Path) -> bool {
    NAMES[path.1].starts_with('.')
}

impl Spec {
    /// What a call answers; `None` when it makes no sense now.
    pub fn step(&mut self, op: &Op) -> Option<Answer> {
        match *op {
            Op::Open(slot, path, flags) => self.descriptors[slot]
                .is_none()
                .then(|| self.open(slot, path, flags)),
            Op::Dup(from, to) => {
                let open = self.descriptors[from].filter(|_| self.descriptors[to].is_none())?;
                self.descriptors[to] = Some(open);
                Some(Ok(Out::Done))
            }
            Op::Stat(path) => Some(self.find(path).map(|file| self.stat(file))),
            Op::Chmod(path, mode) => Some(self.find(path).map(|file| self.chmod(file, mode))),
            Op::Truncate(path, size) => Some(self.truncate(path, size)),
            Op::Unlink(path) => Some(self.find(path).map(|file| {
                self.names.remove(&path);
                self.files[file].linked = false;
                Out::Done
            })),
            Op::Rename(from, to) => Some(self.rename(from, to)),
            Op::List(area) => {
                let names = self.names.keys().filter(|path| path.0 == area);
                let mut names: Vec<_> = names.map(|path| NAMES[path.1].to_owned()).collect();
                names.sort();
                Some(Ok(Out::Names(names)))
            }
            ref op => {
                let (slot, op) = (op.slot()?, op.clone());
                let open = self.descriptors[slot]?;
                self.descriptor(slot, open, &op)
            }
        }
    }

    fn descriptor(&mut self, slot: usize, at: usize, op: &Op) -> Option<Answer> {
        let open = self.opens[at].as_mut()?;
        let (file, flags, position) = (open.file, open.flags, open.position);
        Some(match *op {
            Op::Close(_) => {
                self.descriptors[slot] = None;
                let saved = self.save(at);
                if !self.descriptors.contains(&Some(at)) {
                    self.opens[at] = None;
                }
                saved
            }
            Op::Fsync(_) => self.save(at),
            // Where an append leaves the position is the kernel's matter, not the partition's.
            Op::Write(..) | Op::Read(..) | Op::SeekEnd(_)
                if flags.append && !matches!(op, Op::Write(..)) =>
            {
                return None;
            }
            Op::Write(_, text) => self.write(at, None, text.as_bytes()),
            Op::Pwrite(_, offset, text) => self.write(at, Some(offset), text.as_bytes()),
            Op::Read(_, size) => {
                let read = self.read(at, position, size);
                if let (Ok(Out::Bytes(bytes)), Some(open)) = (&read, &mut self.opens[at]) {
                    open.position += bytes.len();
                }
                read
            }
            Op::Pread(_, offset, size) => self.read(at, offset, size),
            Op::SeekEnd(_) => {
                let end = self.size(file);
                self.opens[at].as_mut()?.position = end;
                Ok(Out::Number(end as u64))
            }
            Op::Ftruncate(_, size) => self.ftruncate(at, size),
            Op::Fstat(_) => Ok(self.stat(file)),
            Op::Fchmod(_, mode) => Ok(self.chmod(file, mode)),
            _ => return None,
        })
    }

    fn find(&self, path: Path) -> Result<usize, Errno> {
        self.names.get(&path).copied().ok_or(Errno::ENOENT)
    }

    /// A name is taken by its twin in another case as long as that has a table, or a file that may get one.
    fn check_new(&self, path: Path) -> Result<(), Errno> {
        let is_twin = |other: Path| {
            other.0 == path.0
                && other.1 != path.1
                && NAMES[other.1].eq_ignore_ascii_case(NAMES[path.1])
        };
        let open = |file: usize| self.opens.iter().flatten().any(|open| open.file == file);
        let mut files = self.files.iter().enumerate();
        let held = files.any(|(i, file)| is_twin(file.path) && (file.linked || open(i)));
        match held || self.rows.keys().any(|stored| is_twin(*stored)) {
            true => Err(Errno::EEXIST),
            false => Ok(()),
        }
    }

    fn open(&mut self, slot: usize, path: Path, flags: Flags) -> Answer {
        let file = match self.find(path) {
            Ok(_) if flags.create && flags.exclusive => return Err(Errno::EEXIST),
            Ok(file) => file,
            Err(_) if !flags.create => return Err(Errno::ENOENT),
            Err(_) => {
                self.check_new(path)?;
                self.files.push(File {
                    path,
                    linked: true,
                    bytes: Vec::new(),
                    stored: false,
                    mode: STANDARD_MODE,
                });
                self.names.insert(path, self.files.len() - 1);
                self.files.len() - 1
            }
        };
        self.clock += 1;
        // O_EXCL makes O_TRUNC pointless, and the kernel leaves it out.
        let truncate = flags.truncate && !(flags.create && flags.exclusive);
        self.opens.push(Some(Open {
            file,
            flags,
            position: 0,
            draft: truncate.then(Vec::new),
            changed: false,
            over: false,
            touched: self.clock,
        }));
        self.descriptors[slot] = Some(self.opens.len() - 1);
        Ok(Out::Done)
    }

    /// What an open file sees: its draft, or the last store.
    fn view(&self, at: usize) -> Vec<u8> {
        let Some(open) = &self.opens[at] else {
            return Vec::new();
        };
        open.draft
            .clone()
            .unwrap_or_else(|| self.files[open.file].bytes.clone())
    }

    /// The draft that changed last is what everyone's stat shows.
    fn size(&self, file: usize) -> usize {
        let drafts = self
            .opens
            .iter()
            .flatten()
            .filter(|o| o.file == file && o.draft.is_some());
        let latest = drafts.max_by_key(|open| open.touched);
        latest
            .and_then(|o| o.draft.as_ref())
            .map_or(self.files[file].bytes.len(), Vec::len)
    }

    fn stat(&self, file: usize) -> Out {
        Out::Stat {
            size: self.size(file) as u64,
            mode: self.files[file].mode,
            links: u64::from(self.files[file].linked),
        }
    }

    fn chmod(&mut self, file: usize, mode: u16) -> Out {
        self.files[file].mode = mode;
        Out::Done
    }

    fn read(&self, at: usize, offset: usize, size: usize) -> Answer {
        if !self.opens[at].as_ref().is_some_and(|open| open.flags.read) {
            return Err(Errno::EBADF);
        }
        let bytes = self.view(at);
        let from = offset.min(bytes.len());
        Ok(Out::Bytes(
            bytes[from..(from + size).min(bytes.len())].to_vec(),
        ))
    }

    fn write(&mut self, at: usize, offset: Option<usize>, data: &[u8]) -> Answer {
        let mut bytes = self.view(at);
        self.clock += 1;
        let Some(open) = self.opens[at].as_mut().filter(|open| open.flags.write) else {
            return Err(Errno::EBADF);
        };
        if data.is_empty() {
            return Ok(Out::Number(0));
        }
        let from = match open.flags.append {
            true => bytes.len(),
            false => offset.unwrap_or(open.position),
        };
        (open.touched, open.changed) = (self.clock, true);
        let end = from + data.len();
        open.over |= end > LIMIT;
        if end <= LIMIT {
            bytes.resize(bytes.len().max(end), 0);
            bytes[from..end].copy_from_slice(data);
        }
        open.draft = Some(bytes);
        if end > LIMIT {
            return Err(Errno::EFBIG);
        }
        if offset.is_none() {
            open.position = end;
        }
        Ok(Out::Number(data.len() as u64))
    }

    fn ftruncate(&mut self, at: usize, size: usize) -> Answer {
        let mut bytes = self.view(at);
        self.clock += 1;
        let Some(open) = self.opens[at].as_mut().filter(|open| open.flags.write) else {
            return Err(Errno::EINVAL);
        };
        if size > LIMIT {
            return Err(Errno::EFBIG);
        }
        if size == 0 {
            open.over = false;
        }
        if bytes.len() != size || open.draft.is_some() {
            open.changed |= bytes.len() != size;
            bytes.resize(size, 0);
            (open.draft, open.touched) = (Some(bytes), self.clock);
        }
        Ok(Out::Done)
    }

    /// By name: as if it were opened, cut and closed.
    fn truncate(&mut self, path: Path, size: usize) -> Answer {
        let file = self.find(path)?;
        let flags = Flags {
            read: false,
            write: true,
            create: false,
            exclusive: false,
            truncate: false,
            append: false,
        };
        self.opens.push(Some(Open {
            file,
            flags,
            position: 0,
            draft: None,
            changed: false,
            over: false,
            touched: 0,
        }));
        let at = self.opens.len() - 1;
        let done = self.ftruncate(at, size).and_then(|_| self.save(at));
        self.opens[at] = None;
        done
    }

    /// A close or sync: one row, if anything has changed. Whoever is told an error may try again.
    fn save(&mut self, at: usize) -> Answer {
        let Some(open) = self.opens[at].as_mut() else {
            return Err(Errno::EBADF);
        };
        let file = &mut self.files[open.file];
        let Some(draft) = open.draft.clone() else {
            return Ok(Out::Done);
        };
        if open.over && (open.changed || is_scratch(file.path)) {
            return Err(Errno::EFBIG);
        }
        if is_scratch(file.path) {
            (file.bytes, open.draft, open.changed) = (draft, None, false);
            return Ok(Out::Done);
        }
        if draft.is_empty() {
            open.changed = false;
        }
        if open.changed {
            store(&mut self.rows, file.path, &draft)?;
            (file.bytes, file.stored, open.draft, open.changed) = (draft, true, None, false);
        }
        Ok(Out::Done)
    }

    /// Onto a KPI's name it is a store; the name keeps its bytes when there is nothing to store.
    fn rename(&mut self, from: Path, to: Path) -> Answer {
        let file = self.find(from)?;
        if from.0 != to.0 {
            return Err(Errno::EXDEV);
        }
        if from == to {
            return Ok(Out::Done);
        }
        let replaced = self.find(to).ok();
        if replaced.is_none() && !is_scratch(to) {
            self.check_new(to)?;
        }
        let File { bytes, stored, .. } = self.files[file].clone();
        let (bytes, stored) = if is_scratch(to) {
            (bytes, false)
        } else if stored || is_scratch(from) && !bytes.is_empty() {
            store(&mut self.rows, to, &bytes)?;
            (bytes, true)
        } else {
            replaced.map_or((Vec::new(), false), |old| {
                (self.files[old].bytes.clone(), self.files[old].stored)
            })
        };
        if let Some(old) = replaced {
            self.files[old].linked = false;
        }
        self.names.remove(&from);
        self.names.insert(to, file);
        let file = &mut self.files[file];
        (file.path, file.bytes, file.stored) = (to, bytes, stored);
        Ok(Out::Done)
    }

    /// What is in memory alone is gone after a remount.
    pub fn remount(&mut self) {
        self.opens.clear();
        self.descriptors = [None; SLOTS];
        let files = &self.files;
        self.names.retain(|_, file| files[*file].stored);
    }

    /// Every name with its bytes and mode.
    pub fn contents(&self) -> BTreeMap<Path, (Vec<u8>, u16)> {
        let file = |file: &usize| (self.files[*file].bytes.clone(), self.files[*file].mode);
        self.names
            .iter()
            .map(|(path, at)| (*path, file(at)))
            .collect()
    }

    /// Bytes that are nowhere but in memory: drafts, scratch files, removed files that are open.
    pub fn in_memory(&self) -> usize {
        let opens = || self.opens.iter().flatten();
        let drafts: usize = opens().filter_map(|o| o.draft.as_ref()).map(Vec::len).sum();
        let open = |file: usize| opens().any(|o| o.file == file);
        let files = self.files.iter().enumerate();
        let held = files.filter(|(i, f)| {
            if f.linked {
                is_scratch(f.path)
            } else {
                open(*i)
            }
        });
        drafts + held.map(|(_, file)| file.bytes.len()).sum::<usize>()
    }
}

fn store(rows: &mut BTreeMap<Path, Vec<Vec<u8>>>, path: Path, bytes: &[u8]) -> Result<(), Errno> {
    if path.0 == UNENCRYPTED {
        csv::parse(bytes, 1000).map_err(|_| Errno::EINVAL)?;
    }
    rows.entry(path).or_default().push(bytes.to_vec());
    Ok(())
}
