//! Reads an image of whoever made it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;

use sha2::{Digest as _, Sha256};

use super::record::{PARENT, Record, SELF, both_16, both_32, flags};
use super::rock_ridge::{self, Fields};
use super::{
    DESCRIPTOR_OFFSET, DIGEST_AT, DIGEST_MARK, Limits, MAX_LABEL, ReadAt, SECTOR, TreeDigest,
};
use crate::context::is_legal_name;

/// What a primary volume descriptor begins with: its type, the standard's name, its version (ECMA-119, 8.4).
const PRIMARY: &[u8] = b"\x01CD001\x01";

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

/// Why an image is not read. All but [`ReadError::Io`] are for ever, as long as its bytes stay.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The bytes cannot be had.
    #[error("the image cannot be read")]
    Io(#[from] io::Error),
    /// It begins with no descriptor of a volume.
    #[error("it is no ISO 9660 image: it has no primary volume descriptor in sector 16")]
    Foreign,
    /// The descriptor says what cannot be.
    #[error("its volume descriptor is damaged: {0}")]
    Descriptor(&'static str),
    /// The volume ends behind the image's end.
    #[error("it is truncated: the volume has {volume} bytes, and {image} are there")]
    Truncated {
        /// Bytes of the volume, by its descriptor.
        volume: u64,
        /// Bytes that are there.
        image: u64,
    },
    /// The volume, or all of its files, are larger than allowed.
    #[error("it has {bytes} bytes: a context has at most {limit}")]
    TooLarge {
        /// How many it has.
        bytes: u64,
        /// How many it may have.
        limit: u64,
    },
    /// There are too many entries.
    #[error("it has more than {0} files and directories, which is the most of a context")]
    TooMany(usize),
    /// An entry is not what a context may hold.
    #[error("{path:?} {refusal}")]
    Entry {
        /// Its path, as far as it can be told.
        path: String,
        /// What is wrong with it.
        refusal: Refusal,
    },
}

/// What is wrong with an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Contexts hold no links.
    #[error("is a symbolic link: put the file itself there")]
    SymbolicLink,
    /// Nor these.
    #[error("is a device, a socket or a pipe: a context holds files and directories")]
    Special,
    /// Its extent is outside of the volume.
    #[error("lies past the end of the volume")]
    PastEnd,
    /// Multi-extent, interleaved, with an attribute record, on another volume, or associated.
    #[error(
        "is not in one piece: write the image without multiple extents, volumes or interleaving"
    )]
    Pieces,
    /// It leads to a directory that is elsewhere in the tree, or to records of another one.
    #[error("is a directory that is in the tree already, or overlaps another")]
    Loop,
    /// There are two of that name.
    #[error("is there twice")]
    Duplicate,
    /// Its name is not legal.
    #[error(
        "has a name that is not legal: UTF-8 without control characters or /, up to 255 bytes, not . or .."
    )]
    Name,
    /// It is too deep.
    #[error("is too deep: at most {0} names lead to a file")]
    TooDeep(usize),
    /// Its directory record is damaged.
    #[error("has a directory record that is damaged")]
    Record,
    /// Its Rock Ridge fields are damaged.
    #[error("has Rock Ridge fields that {0}")]
    Fields(&'static str),
    /// Rock Ridge puts deep directories elsewhere.
    #[error(
        "is relocated: write the image with deep directories in place, as xorriso does, or mkisofs -D"
    )]
    Relocated,
    /// It is compressed or sparse.
    #[error("is compressed or sparse: write it as it is")]
    Compressed,
}

/// Why an entry is not read, before its path is known.
pub enum Fault {
    Io(io::Error),
    Refused(Refusal),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl Fault {
    fn at(self, path: &str) -> ReadError {
        match self {
            Self::Io(error) => ReadError::Io(error),
            Self::Refused(refusal) => ReadError::Entry {
                path: path.to_owned(),
                refusal,
            },
        }
    }
}

/// What the primary volume descriptor says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// The volume label, without the spaces behind it.
    pub label: String,
    /// Bytes of the volume.
    pub size: u64,
    /// The digest of its tree, if it says one.
    pub tree: Option<TreeDigest>,
    root: (u32, u32),
}

impl Descriptor {
    /// The label of one that may be damaged otherwise; `None`: it is no primary volume descriptor.
    pub fn label_of(sector: &[u8; SECTOR]) -> Option<String> {
        sector
            .starts_with(PRIMARY)
            .then(|| label(&sector[40..40 + MAX_LABEL]))
    }

    /// Reads it from the sector at [`DESCRIPTOR_OFFSET`].
    ///
    /// # Errors
    /// It is none, or damaged.
    pub fn parse(sector: &[u8; SECTOR]) -> Result<Self, ReadError> {
        if !sector.starts_with(PRIMARY) {
            return Err(ReadError::Foreign);
        }
        let damaged = ReadError::Descriptor;
        if both_16(&sector[128..]) != Some(SECTOR as u16) {
            return Err(damaged("its blocks have not 2048 bytes"));
        }
        let sectors = both_32(&sector[80..]).ok_or(damaged("its size is two sizes"))?;
        let size = u64::from(sectors) * SECTOR as u64;
        if size < DESCRIPTOR_OFFSET + SECTOR as u64 {
            return Err(damaged("its volume ends before it"));
        }
        let root = Record::parse(&sector[156..190]).ok_or(damaged("the root has no record"))?;
        if root.flags & flags::DIRECTORY == 0 || !root.plain {
            return Err(damaged("the root is no directory in one piece"));
        }
        Ok(Self {
            label: label(&sector[40..40 + MAX_LABEL]),
            size,
            tree: tree(&sector[DIGEST_AT..]),
            root: (root.sector, root.length),
        })
    }
}

/// A label of whoever's making is shown, and compared with those of classes.
fn label(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim_end_matches([' ', '\0']);
    text.replace(char::is_control, "\u{fffd}")
}

fn tree(bytes: &[u8]) -> Option<TreeDigest> {
    let digits = bytes.strip_prefix(DIGEST_MARK)?.first_chunk::<64>()?;
    let mut digest = [0; 32];
    for (byte, pair) in digest.iter_mut().zip(digits.chunks(2)) {
        let pair = std::str::from_utf8(pair).ok()?;
        *byte = u8::from_str_radix(pair, 16).ok()?;
    }
    Some(TreeDigest(digest))
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
