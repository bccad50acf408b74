//! Why an image is not read.

use std::io;

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
    /// At the entry with this path.
    pub fn at(self, path: &str) -> ReadError {
        match self {
            Self::Io(error) => ReadError::Io(error),
            Self::Refused(refusal) => ReadError::Entry {
                path: path.to_owned(),
                refusal,
            },
        }
    }
}
