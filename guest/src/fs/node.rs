//! A file of the partition and its name. Pure: no disk, no kernel.

use std::ffi::OsStr;
use std::sync::Arc;

use nix::errno::Errno;
use vmkpi::clock::Timestamp;
use vmkpi::name::{Area, KpiName, MAX_NAME_BYTES, NameError};

use super::Fh;
use crate::store::Point;

/// A file's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Name {
    /// It is stored under this name.
    Kpi(Arc<KpiName>),
    /// It begins with a dot: held in memory, never stored.
    Scratch(Arc<str>),
}

impl Name {
    /// The name that a program gave, if it is one.
    ///
    /// # Errors
    /// ENAMETOOLONG over [`MAX_NAME_BYTES`]; EINVAL for what is no KPI name.
    pub fn new(name: &OsStr) -> Result<Self, Errno> {
        if name.len() > MAX_NAME_BYTES {
            return Err(Errno::ENAMETOOLONG);
        }
        let text = name.to_str().ok_or(Errno::EINVAL)?;
        match text.parse::<KpiName>() {
            Ok(name) => Ok(Self::Kpi(Arc::new(name))),
            Err(NameError::Scratch(_)) => Ok(Self::Scratch(text.into())),
            Err(NameError::TooLong(_)) => Err(Errno::ENAMETOOLONG),
            Err(_) => Err(Errno::EINVAL),
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Kpi(name) => name.as_str(),
            Self::Scratch(name) => name,
        }
    }
}

/// A file.
#[derive(Debug)]
pub struct Node {
    /// Its directory.
    pub area: Area,
    /// Its name; the last one it had when it was removed or replaced.
    pub name: Name,
    /// Whether the name still leads to it.
    pub linked: bool,
    /// Bytes of its last store.
    pub size: u64,
    /// When that was; of a file never stored, when it was made; of a scratch file, the last write.
    pub mtime: Timestamp,
    /// When its mode or its names last changed, if that is later.
    pub ctime: Timestamp,
    /// Its permission bits, if they were ever changed.
    pub mode: Option<u16>,
    /// Whether it was ever stored: otherwise it is in memory alone.
    pub stored: bool,
    /// Stores handed over and not yet done.
    pub pending: u32,
    /// Open handles.
    pub handles: u32,
    /// Times that the kernel was told of it and has not forgotten it: it may open it still.
    pub lookups: u64,
    /// Whether its name is taken for it.
    pub claimed: bool,
    /// Those of them that hold bytes of their own, the one that changed last at the end.
    pub drafts: Vec<Fh>,
    /// The file's bytes: a scratch file's, or a removed one's for those who have it open; of a stored
    /// one a copy to spare reading them again.
    pub bytes: Option<Arc<Vec<u8>>>,
    /// Whether a removed file's bytes had to be let go.
    pub lost: bool,
    /// Whether the kernel was told attributes that it would otherwise keep.
    pub told: bool,
}

impl Node {
    /// A file just made, or found in the store.
    pub fn new(area: Area, name: Name, mtime: Timestamp) -> Self {
        Self {
            area,
            name,
            linked: true,
            size: 0,
            mtime,
            ctime: mtime,
            mode: None,
            stored: false,
            pending: 0,
            handles: 0,
            lookups: 0,
            claimed: true,
            drafts: Vec::new(),
            bytes: None,
            lost: false,
            told: false,
        }
    }

    /// Whether its name begins with a dot.
    pub fn is_scratch(&self) -> bool {
        matches!(self.name, Name::Scratch(_))
    }

    /// The point that the file's stores go to; none for scratch.
    pub fn point(&self) -> Option<Point> {
        match &self.name {
            Name::Kpi(name) => Some(Point {
                area: self.area,
                name: Arc::clone(name),
            }),
            Name::Scratch(_) => None,
        }
    }

    /// Whether the store knows the file, or is about to.
    pub fn in_store(&self) -> bool {
        self.linked && !self.is_scratch() && (self.stored || self.pending > 0)
    }

    /// Bytes that are nowhere but here, and bytes that are a copy of what is in the store.
    pub fn held(&self) -> (usize, usize) {
        let held = self.bytes.as_ref().map_or(0, |b| b.len());
        match self.is_scratch() || !self.linked {
            true => (held, 0),
            false => (0, held),
        }
    }

    /// Size of the file in bytes, but for drafts.
    pub fn file_size(&self) -> u64 {
        match self.is_scratch() {
            true => self.bytes.as_ref().map_or(0, |b| b.len() as u64),
            false => self.size,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_checked_before_it_is_one() {
        use std::os::unix::ffi::OsStrExt as _;
        for (bad, errno) in [
            (&b"a\nb"[..], Errno::EINVAL),
            (b"\xff", Errno::EINVAL),
            (b"sqlite_master", Errno::EINVAL),
            (&[b'x'; 201], Errno::ENAMETOOLONG),
            (&[b'.'; 201], Errno::ENAMETOOLONG),
        ] {
            assert_eq!(Name::new(OsStr::from_bytes(bad)).unwrap_err(), errno);
        }
        let name = |text: &str| Name::new(OsStr::new(text)).unwrap();
        assert!(matches!(name(".tmp"), Name::Scratch(_)));
        assert!(matches!(name("a\"; DROP TABLE x;--"), Name::Kpi(_)));
    }
}
