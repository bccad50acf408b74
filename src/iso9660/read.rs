//! Reads an image of whoever made it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;

use sha2::{Digest as _, Sha256};

use super::descriptor::Descriptor;
use super::error::{Fault, ReadError, Refusal};
use super::record::{PARENT, Record, SELF, flags};
use super::rock_ridge::{self, Fields};
use super::{DESCRIPTOR_OFFSET, Limits, ReadAt, SECTOR, TreeDigest};
use crate::context::is_legal_name;

/// Bytes hashed at once.
const CHUNK: usize = 64 << 10;

/// What an image holds. Paths are relative to its top, names joined by `/`, each legal by [`is_legal_name`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    /// The volume label.
    pub label: String,
    /// Where each file is: its first byte, and how many it has.
    pub files: BTreeMap<String, (u64, u64)>,
    /// Its directories, those on the way to a file included, the top not.
    pub directories: BTreeSet<String>,
    /// Bytes of the volume.
    pub size: u64,
    /// What the image says that its [`TreeDigest`] is, if it does.
    pub tree: Option<TreeDigest>,
}

/// What an image holds. Names are those of Rock Ridge if it is there, else the plain ones in small letters; Joliet's
/// are not read.
///
/// # Errors
/// See [`ReadError`]. One entry that is not legal refuses the whole image.
pub fn read<R: ReadAt + ?Sized>(image: &R, limits: Limits) -> Result<Index, ReadError> {
    let there = image.bytes()?;
    if there < DESCRIPTOR_OFFSET + SECTOR as u64 {
        return Err(ReadError::Foreign);
    }
    let mut sector = [0; SECTOR];
    image.read_exact_at(&mut sector, DESCRIPTOR_OFFSET)?;
    let descriptor = Descriptor::parse(&sector)?;
    let size = descriptor.size;
    if size > limits.bytes {
        let limit = limits.bytes;
        return Err(ReadError::TooLarge { bytes: size, limit });
    }
    if size > there {
        return Err(ReadError::Truncated {
            volume: size,
            image: there,
        });
    }
    let mut walk = Walk::new(image, size, limits);
    walk.all(descriptor.root)?;
    Ok(Index {
        label: descriptor.label,
        files: walk.files,
        directories: walk.directories,
        size,
        tree: descriptor.tree,
    })
}

/// The SHA-256 of a file of an image.
///
/// # Errors
/// It cannot be read.
pub fn digest<R: ReadAt + ?Sized>(image: &R, (start, length): (u64, u64)) -> io::Result<[u8; 32]> {
    let chunk = usize::try_from(length).map_or(CHUNK, |length| length.min(CHUNK));
    let (mut hash, mut chunk) = (Sha256::new(), vec![0; chunk]);
    let mut done = 0;
    while done < length {
        let part = usize::try_from(length - done).map_or(CHUNK, |left| left.min(chunk.len()));
        image.read_exact_at(&mut chunk[..part], start + done)?;
        hash.update(&chunk[..part]);
        done += part as u64;
    }
    Ok(hash.finalize().into())
}

/// A directory that is to be read.
struct Directory {
    path: String,
    depth: usize,
    sector: u32,
    length: u32,
}

impl Directory {
    /// Its path as it can be shown.
    fn shown(&self) -> String {
        match self.path.as_str() {
            "" => "/".to_owned(),
            path => path.to_owned(),
        }
    }
}

/// The way through the directories.
struct Walk<'a, R: ?Sized> {
    image: &'a R,
    volume: u64,
    limits: Limits,
    /// Bytes of each system use field that are another's; absent: there is no Rock Ridge.
    skip: Option<usize>,
    waiting: VecDeque<Directory>,
    /// First sectors of the directories so far.
    seen: BTreeSet<u32>,
    /// Bytes of directories, and of files, that are left: none can be more than the volume has.
    directory_bytes: u64,
    file_bytes: u64,
    files: BTreeMap<String, (u64, u64)>,
    directories: BTreeSet<String>,
}

impl<'a, R: ReadAt + ?Sized> Walk<'a, R> {
    fn new(image: &'a R, volume: u64, limits: Limits) -> Self {
        Self {
            image,
            volume,
            limits,
            skip: None,
            waiting: VecDeque::new(),
            seen: BTreeSet::new(),
            directory_bytes: volume,
            file_bytes: 0,
            files: BTreeMap::new(),
            directories: BTreeSet::new(),
        }
    }

    fn all(&mut self, (sector, length): (u32, u32)) -> Result<(), ReadError> {
        let root = Directory {
            path: String::new(),
            depth: 0,
            sector,
            length,
        };
        self.enter(root)
            .map_err(|fault| Fault::from(fault).at("/"))?;
        while let Some(directory) = self.waiting.pop_front() {
            self.directory(&directory)?;
        }
        Ok(())
    }

    /// Notes a directory that is to be read, if it can be one.
    fn enter(&mut self, directory: Directory) -> Result<(), Refusal> {
        self.extent(directory.sector, directory.length)?;
        let left = self.directory_bytes.checked_sub(directory.length.into());
        self.directory_bytes = left.ok_or(Refusal::Loop)?;
        if !self.seen.insert(directory.sector) {
            return Err(Refusal::Loop);
        }
        self.waiting.push_back(directory);
        Ok(())
    }

    /// The first byte of an extent that is within the volume.
    fn extent(&self, sector: u32, length: u32) -> Result<u64, Refusal> {
        let start = u64::from(sector) * SECTOR as u64;
        match start + u64::from(length) <= self.volume {
            true => Ok(start),
            false => Err(Refusal::PastEnd),
        }
    }

    fn directory(&mut self, directory: &Directory) -> Result<(), ReadError> {
        let here = || directory.shown();
        let start = u64::from(directory.sector) * SECTOR as u64;
        let (mut sector, mut number) = ([0; SECTOR], 0);
        let length = u64::from(directory.length);
        for offset in (0..length).step_by(SECTOR) {
            let part = usize::try_from(length - offset).map_or(SECTOR, |left| left.min(SECTOR));
            let sector = &mut sector[..part];
            self.image.read_exact_at(sector, start + offset)?;
            let mut rest: &[u8] = sector;
            // A record of length 0: the next one is in the next sector.
            while let Some(length) = rest.first().map(|b| usize::from(*b)).filter(|l| *l > 0) {
                let bytes = rest.get(..length).and_then(Record::parse);
                let record = bytes.ok_or_else(|| Fault::from(Refusal::Record).at(&here()))?;
                self.record(directory, number, &record)?;
                (number, rest) = (number + 1, &rest[length..]);
            }
        }
        match number {
            0 | 1 => Err(Fault::from(Refusal::Record).at(&here())),
            _ => Ok(()),
        }
    }

    /// One record: the first two are the directory's own and its parent's.
    fn record(
        &mut self,
        directory: &Directory,
        number: usize,
        record: &Record<'_>,
    ) -> Result<(), ReadError> {
        let special = |due: &[u8]| match record.identifier == due {
            true => Ok(()),
            false => Err(Fault::from(Refusal::Record).at(&directory.shown())),
        };
        match number {
            0 => {
                special(SELF)?;
                if directory.depth == 0 {
                    self.skip = rock_ridge::announced(record.system_use);
                }
                Ok(())
            }
            1 => special(PARENT),
            _ => self.entry(directory, record),
        }
    }

    fn entry(&mut self, directory: &Directory, record: &Record<'_>) -> Result<(), ReadError> {
        if self.files.len() + self.directories.len() >= self.limits.entries {
            return Err(ReadError::TooMany(self.limits.entries));
        }
        let fields = match self.skip {
            Some(skip) => {
                let own = record.system_use.get(skip..).unwrap_or_default();
                Fields::read(self.image, self.volume, own)
                    .map_err(|fault| fault.at(&join(&directory.path, &shown(record.identifier))))?
            }
            None => Fields::default(),
        };
        let is_directory = record.flags & flags::DIRECTORY != 0;
        let judged = judge(record, &fields, is_directory);
        let name = fields.name.unwrap_or_else(|| plain_name(record.identifier));
        let path = join(&directory.path, &shown(&name));
        judged.map_err(|refusal| Fault::from(refusal).at(&path))?;
        if !std::str::from_utf8(&name).is_ok_and(is_legal_name) {
            return Err(Fault::from(Refusal::Name).at(&path));
        }
        self.place(directory, path, is_directory, record)
    }

    /// Takes a file or directory whose name is legal.
    fn place(
        &mut self,
        inside: &Directory,
        path: String,
        is_directory: bool,
        record: &Record<'_>,
    ) -> Result<(), ReadError> {
        let depth = inside.depth + 1;
        let refuse = |refusal: Refusal| Fault::from(refusal).at(&path);
        if depth > self.limits.depth {
            return Err(refuse(Refusal::TooDeep(self.limits.depth)));
        }
        if self.files.contains_key(&path) || self.directories.contains(&path) {
            return Err(refuse(Refusal::Duplicate));
        }
        if is_directory {
            let directory = Directory {
                path: path.clone(),
                depth,
                sector: record.sector,
                length: record.length,
            };
            self.enter(directory).map_err(refuse)?;
            self.directories.insert(path);
            return Ok(());
        }
        let start = match record.length {
            // It is nowhere.
            0 => 0,
            length => self.extent(record.sector, length).map_err(refuse)?,
        };
        self.file_bytes += u64::from(record.length);
        if self.file_bytes > self.limits.bytes {
            let (bytes, limit) = (self.file_bytes, self.limits.bytes);
            return Err(ReadError::TooLarge { bytes, limit });
        }
        self.files.insert(path, (start, record.length.into()));
        Ok(())
    }
}

/// Whether a record is of a plain file or directory.
fn judge(record: &Record<'_>, fields: &Fields, is_directory: bool) -> Result<(), Refusal> {
    if let Some(refusal) = fields.refusal {
        return Err(refusal);
    }
    if fields.directory.is_some_and(|said| said != is_directory) {
        return Err(Refusal::Record);
    }
    match record.plain && record.flags & (flags::MULTI_EXTENT | flags::ASSOCIATED) == 0 {
        true => Ok(()),
        false => Err(Refusal::Pieces),
    }
}

/// A path, for what is in a directory.
fn join(directory: &str, name: &str) -> String {
    match directory {
        "" => name.to_owned(),
        _ => format!("{directory}/{name}"),
    }
}

/// A name as it can be shown.
fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

/// The name that a plain identifier stands for: small letters, without version and empty extension.
fn plain_name(identifier: &[u8]) -> Vec<u8> {
    let name = identifier.split(|b| *b == b';').next();
    let name = name.unwrap_or(identifier);
    let name = name.strip_suffix(b".").unwrap_or(name);
    name.to_ascii_lowercase()
}
