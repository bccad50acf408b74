//! The partition on a real mount: plain system calls.

use std::fs::{File, Permissions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;

use nix::errno::Errno;

use crate::Driver;
use crate::common::{Guest, close};
use crate::ops::{AREAS, Answer, Flags, NAMES, Op, Out, Path, SLOTS};

pub struct Mount {
    guest: Guest,
    files: [Option<File>; SLOTS],
}

fn done(result: std::io::Result<()>) -> Answer {
    result.map(|()| Out::Done).map_err(errno)
}

#[expect(clippy::needless_pass_by_value, reason = "as map_err wants it")]
fn errno(error: std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap())
}

fn stat(found: std::io::Result<std::fs::Metadata>) -> Answer {
    let found = found.map_err(errno)?;
    Ok(Out::Stat {
        size: found.len(),
        mode: (found.mode() & 0o7777) as u16,
        links: found.nlink(),
    })
}

impl Mount {
    pub fn new() -> Self {
        let limit = crate::ops::LIMIT.to_string();
        Self {
            guest: Guest::start_with(&["--max-store-bytes", &limit]),
            files: Default::default(),
        }
    }

    fn path(&self, path: Path) -> PathBuf {
        self.guest.mount().join(AREAS[path.0]).join(NAMES[path.1])
    }

    fn open(&mut self, slot: usize, path: Path, flags: Flags) -> Answer {
        // Not std's flags: it refuses combinations that the kernel takes.
        let mut raw = match (flags.read, flags.write) {
            (true, true) => nix::fcntl::OFlag::O_RDWR,
            (false, true) => nix::fcntl::OFlag::O_WRONLY,
            _ => nix::fcntl::OFlag::O_RDONLY,
        };
        for (wanted, flag) in [
            (flags.create, nix::fcntl::OFlag::O_CREAT),
            (flags.exclusive, nix::fcntl::OFlag::O_EXCL),
            (flags.truncate, nix::fcntl::OFlag::O_TRUNC),
            (flags.append, nix::fcntl::OFlag::O_APPEND),
        ] {
            raw.set(flag, wanted);
        }
        let mode = nix::sys::stat::Mode::from_bits_truncate(0o640);
        let file = nix::fcntl::open(&self.path(path), raw, mode)?;
        self.files[slot] = Some(file.into());
        Ok(Out::Done)
    }

    fn file(&mut self, slot: usize) -> &mut File {
        self.files[slot].as_mut().unwrap()
    }

    fn on_descriptor(&mut self, op: &Op) -> Answer {
        match *op {
            Op::Dup(from, to) => {
                let twin = self.file(from).try_clone().map_err(errno)?;
                self.files[to] = Some(twin);
                Ok(Out::Done)
            }
            Op::Close(slot) => done(close(self.files[slot].take().unwrap())),
            Op::Fsync(slot) => done(self.file(slot).sync_all()),
            Op::Write(slot, text) => number(self.file(slot).write(text.as_bytes())),
            Op::Pwrite(slot, offset, text) => {
                number(self.file(slot).write_at(text.as_bytes(), offset as u64))
            }
            Op::Read(slot, size) => {
                let mut bytes = vec![0; size];
                let read = self.file(slot).read(&mut bytes).map_err(errno)?;
                bytes.truncate(read);
                Ok(Out::Bytes(bytes))
            }
            Op::Pread(slot, offset, size) => {
                let mut bytes = vec![0; size];
                let read = self
                    .file(slot)
                    .read_at(&mut bytes, offset as u64)
                    .map_err(errno)?;
                bytes.truncate(read);
                Ok(Out::Bytes(bytes))
            }
            Op::SeekEnd(slot) => {
                let end = self.file(slot).seek(SeekFrom::End(0)).map_err(errno)?;
                Ok(Out::Number(end))
            }
            Op::Ftruncate(slot, size) => done(self.file(slot).set_len(size as u64)),
            Op::Fstat(slot) => stat(self.file(slot).metadata()),
            Op::Fchmod(slot, mode) => {
                let mode = Permissions::from_mode(mode.into());
                done(self.file(slot).set_permissions(mode))
            }
            _ => unreachable!("{op:?}"),
        }
    }
}

fn number(result: std::io::Result<usize>) -> Answer {
    result.map(|n| Out::Number(n as u64)).map_err(errno)
}

impl Driver for Mount {
    fn step(&mut self, op: &Op) -> Answer {
        match *op {
            Op::Open(slot, path, flags) => self.open(slot, path, flags),
            Op::Stat(path) => stat(std::fs::metadata(self.path(path))),
            Op::Chmod(path, mode) => {
                let mode = Permissions::from_mode(mode.into());
                done(std::fs::set_permissions(self.path(path), mode))
            }
            Op::Truncate(path, size) => {
                Ok(nix::unistd::truncate(&self.path(path), size as i64).map(|()| Out::Done)?)
            }
            Op::Unlink(path) => done(std::fs::remove_file(self.path(path))),
            Op::Rename(from, to) => done(std::fs::rename(self.path(from), self.path(to))),
            Op::List(area) => {
                let listed = std::fs::read_dir(self.guest.path(AREAS[area])).unwrap();
                let names = listed.map(|entry| entry.unwrap().file_name().into_string().unwrap());
                let mut names: Vec<_> = names.collect();
                names.sort();
                Ok(Out::Names(names))
            }
            _ => self.on_descriptor(op),
        }
    }

    fn remount(&mut self) {
        self.files = Default::default();
        assert_eq!(self.guest.terminate().0, Some(0));
        self.guest.restart();
    }

    fn state(&self) -> PathBuf {
        self.guest.state()
    }

    fn in_memory(&self) -> Option<usize> {
        None
    }
}
