//! The partition without a kernel: what the kernel does (descriptors, positions) is done here.

use std::ffi::OsStr;
use std::path::Path as DiskPath;
use std::sync::Arc;
use std::sync::mpsc::channel;

use nix::errno::Errno;
use tempfile::TempDir;
use vmkpi::name::Area;
use vmkpi_guest::config::Limits;
use vmkpi_guest::counters::Counters;
use vmkpi_guest::feed::Feed;
use vmkpi_guest::fs::tree::area_ino;
use vmkpi_guest::fs::{Attr, Change, Done, OpenMode, Partition};
use vmkpi_guest::store::Store;

use crate::Driver;
use crate::ops::{Answer, Flags, LIMIT, NAMES, Op, Out, Path, SLOTS, UNENCRYPTED};

struct Open {
    fh: u64,
    ino: u64,
    flags: Flags,
    position: usize,
}

pub struct Core {
    dir: TempDir,
    partition: Partition,
    opens: Vec<Open>,
    descriptors: [Option<usize>; SLOTS],
}

fn open(dir: &DiskPath) -> Partition {
    let limits = Limits {
        store_bytes: LIMIT,
        ..Limits::default()
    };
    let feed = Arc::new(Feed::new().unwrap());
    let opened = Store::open(dir, limits, Arc::new(Counters::default()), feed).unwrap();
    Partition::new(opened.store, opened.files, limits)
}

fn parent(area: usize) -> u64 {
    area_ino(if area == UNENCRYPTED {
        Area::Unencrypted
    } else {
        Area::Encrypted
    })
}

fn name(path: Path) -> &'static OsStr {
    OsStr::new(NAMES[path.1])
}

fn waited(start: impl FnOnce(Done)) -> Answer {
    let (tell, told) = channel();
    start(Box::new(move |result| tell.send(result).unwrap()));
    told.recv().unwrap().map(|()| Out::Done)
}

fn stat(attr: Attr) -> Out {
    Out::Stat {
        size: attr.size,
        mode: attr.mode.unwrap_or(0o666),
        links: attr.links.into(),
    }
}

impl Core {
    pub fn new() -> Self {
        // What is on disk survives no power cut here: memory is as good, and faster.
        let dir = TempDir::new_in("/dev/shm")
            .or_else(|_| TempDir::new())
            .unwrap();
        let partition = open(dir.path());
        Self {
            dir,
            partition,
            opens: Vec::new(),
            descriptors: [None; SLOTS],
        }
    }

    fn find(&self, path: Path) -> Result<Attr, Errno> {
        self.partition.lookup(parent(path.0), name(path))
    }

    fn open(&mut self, slot: usize, path: Path, flags: Flags) -> Answer {
        let mode = OpenMode {
            write: flags.write,
            truncate: flags.truncate && !(flags.create && flags.exclusive),
            exclusive: flags.create && flags.exclusive,
        };
        let (ino, fh) = match flags.create {
            true => {
                let (attr, fh) = self.partition.create(parent(path.0), name(path), mode)?;
                (attr.ino, fh)
            }
            false => {
                let ino = self.find(path)?.ino;
                (ino, self.partition.open(ino, mode)?)
            }
        };
        self.opens.push(Open {
            fh,
            ino,
            flags,
            position: 0,
        });
        self.descriptors[slot] = Some(self.opens.len() - 1);
        Ok(Out::Done)
    }

    fn change(&self, ino: u64, fh: Option<u64>, change: Change) -> Answer {
        let (tell, told) = channel();
        let done = Box::new(move |result| tell.send(result).unwrap());
        self.partition.setattr(ino, fh, change, done);
        told.recv().unwrap().map(|_| Out::Done)
    }

    fn write(&mut self, slot: usize, offset: Option<usize>, data: &[u8]) -> Answer {
        let open = &mut self.opens[self.descriptors[slot].unwrap()];
        if !open.flags.write {
            return Err(Errno::EBADF);
        }
        let at = offset.unwrap_or(open.position);
        let at = (!open.flags.append).then_some(at as u64);
        self.partition.write(open.fh, at, data)?;
        if offset.is_none() {
            open.position += data.len();
        }
        Ok(Out::Number(data.len() as u64))
    }

    fn read(&mut self, slot: usize, offset: Option<usize>, size: usize) -> Answer {
        let open = &mut self.opens[self.descriptors[slot].unwrap()];
        if !open.flags.read {
            return Err(Errno::EBADF);
        }
        let at = offset.unwrap_or(open.position) as u64;
        let bytes = self.partition.read(open.fh, at, size, <[u8]>::to_vec)?;
        if offset.is_none() {
            open.position += bytes.len();
        }
        Ok(Out::Bytes(bytes))
    }

    fn close(&mut self, slot: usize) -> Answer {
        let at = self.descriptors[slot].take().unwrap();
        let fh = self.opens[at].fh;
        let saved = waited(|done| self.partition.save(fh, done));
        if !self.descriptors.contains(&Some(at)) {
            self.partition.release(fh);
        }
        saved
    }

    fn list(&self, area: usize) -> Answer {
        let mut names = Vec::new();
        // One entry at a time, as the smallest buffer would.
        let mut place = 0;
        while let Some((next, entry)) = {
            let mut found = None;
            let each = |entry: vmkpi_guest::fs::Entry| {
                found = Some((entry.offset, entry.name));
                true
            };
            self.partition.readdir(parent(area), place, each)?;
            found
        } {
            place = next;
            names.push(entry);
        }
        names.retain(|name| name != "." && name != "..");
        names.sort();
        Ok(Out::Names(names))
    }
}

impl Driver for Core {
    fn step(&mut self, op: &Op) -> Answer {
        let opened = |slot: usize| &self.opens[self.descriptors[slot].unwrap()];
        let resize = |size: usize| Change {
            size: Some(size as u64),
            mode: None,
        };
        let chmod = |mode: u16| Change {
            size: None,
            mode: Some(mode),
        };
        match *op {
            Op::Open(slot, path, flags) => self.open(slot, path, flags),
            Op::Dup(from, to) => {
                self.descriptors[to] = self.descriptors[from];
                Ok(Out::Done)
            }
            Op::Close(slot) => self.close(slot),
            Op::Fsync(slot) => waited(|done| self.partition.save(opened(slot).fh, done)),
            Op::Write(slot, text) => self.write(slot, None, text.as_bytes()),
            Op::Pwrite(slot, offset, text) => self.write(slot, Some(offset), text.as_bytes()),
            Op::Read(slot, size) => self.read(slot, None, size),
            Op::Pread(slot, offset, size) => self.read(slot, Some(offset), size),
            Op::SeekEnd(slot) => {
                let size = self.partition.getattr(opened(slot).ino)?.size;
                self.opens[self.descriptors[slot].unwrap()].position = size as usize;
                Ok(Out::Number(size))
            }
            Op::Ftruncate(slot, _) if !opened(slot).flags.write => Err(Errno::EINVAL),
            Op::Ftruncate(slot, size) => {
                let open = opened(slot);
                self.change(open.ino, Some(open.fh), resize(size))
            }
            Op::Fstat(slot) => self.partition.getattr(opened(slot).ino).map(stat),
            Op::Fchmod(slot, mode) => self.change(opened(slot).ino, None, chmod(mode)),
            Op::Stat(path) => self.find(path).map(stat),
            Op::Chmod(path, mode) => self.change(self.find(path)?.ino, None, chmod(mode)),
            Op::Truncate(path, size) => self.change(self.find(path)?.ino, None, resize(size)),
            Op::Unlink(path) => {
                waited(|done| self.partition.unlink(parent(path.0), name(path), done))
            }
            Op::Rename(from, to) => waited(|done| {
                let (from, to) = ((parent(from.0), name(from)), (parent(to.0), name(to)));
                self.partition.rename(from, to, false, done);
            }),
            Op::List(area) => self.list(area),
        }
    }

    fn remount(&mut self) {
        self.partition.store().close();
        self.partition = open(self.dir.path());
        self.opens.clear();
        self.descriptors = [None; SLOTS];
    }

    fn state(&self) -> std::path::PathBuf {
        self.dir.path().into()
    }

    fn in_memory(&self) -> Option<usize> {
        Some(self.partition.usage().2)
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.partition.store().close();
    }
}
