//! The calls that random programs are made of, and what they answer.

use nix::errno::Errno;

/// Bytes of one store at most.
pub const LIMIT: usize = 64;
/// The names that are tried. Two differ in case alone, two are scratch.
pub const NAMES: [&str; 5] = ["a", "b", "A", ".s", ".t"];
pub const AREAS: [&str; 2] = ["unencrypted", "encrypted"];
pub const UNENCRYPTED: usize = 0;
/// File descriptors.
pub const SLOTS: usize = 4;
pub const STANDARD_MODE: u16 = 0o666;

/// A file's place: directory and name.
pub type Path = (usize, usize);

#[derive(Clone, Copy, Debug)]
pub struct Flags {
    pub read: bool,
    pub write: bool,
    pub create: bool,
    pub exclusive: bool,
    pub truncate: bool,
    pub append: bool,
}

#[derive(Clone, Debug)]
pub enum Op {
    Open(usize, Path, Flags),
    Dup(usize, usize),
    Close(usize),
    Fsync(usize),
    Write(usize, &'static str),
    Pwrite(usize, usize, &'static str),
    Read(usize, usize),
    Pread(usize, usize, usize),
    SeekEnd(usize),
    Ftruncate(usize, usize),
    Fstat(usize),
    Fchmod(usize, u16),
    Stat(Path),
    Chmod(Path, u16),
    Truncate(Path, usize),
    Unlink(Path),
    Rename(Path, Path),
    List(usize),
}

/// What a call returns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Out {
    Done,
    Bytes(Vec<u8>),
    Number(u64),
    Stat { size: u64, mode: u16, links: u64 },
    Names(Vec<String>),
}

pub type Answer = Result<Out, Errno>;

impl Op {
    /// The descriptor it is called on.
    pub fn slot(&self) -> Option<usize> {
        match *self {
            Self::Close(slot)
            | Self::Fsync(slot)
            | Self::Write(slot, _)
            | Self::Pwrite(slot, ..)
            | Self::Read(slot, _)
            | Self::Pread(slot, ..)
            | Self::SeekEnd(slot)
            | Self::Ftruncate(slot, _)
            | Self::Fstat(slot)
            | Self::Fchmod(slot, _) => Some(slot),
            _ => None,
        }
    }
}
