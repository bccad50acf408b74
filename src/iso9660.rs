//! Images of contexts: ISO 9660 (ECMA-119) with Rock Ridge names (SUSP 1.12, RRIP 1.12), written so that the same
//! files give the same bytes, and read from whoever made them. The reader is for hostile bytes: all that it does is
//! bounded by [`Limits`], and one entry that is no plain file or directory refuses the whole image.
//!
//! Images that are written here carry the [`TreeDigest`] of their files: whoever has read one can prove that it was
//! one, and not half of it and half of another that took its place in the drive meanwhile.

mod descriptor;
mod error;
mod read;
mod record;
mod rock_ridge;
mod tree;
mod write;

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use sha2::{Digest as _, Sha256};

use crate::context::{MAX_DEPTH, MAX_ENTRIES, MAX_IMAGE_BYTES};

pub use descriptor::Descriptor;
pub use error::{ReadError, Refusal};
pub use read::{Index, digest, read};
pub use write::{WriteError, write};

/// Bytes of a logical sector; the only block size that is written or read.
pub const SECTOR: usize = 2048;

/// Where the primary volume descriptor is, in bytes.
pub const DESCRIPTOR_OFFSET: u64 = 16 * SECTOR as u64;

/// The most characters of a volume label.
pub const MAX_LABEL: usize = 32;

/// What stands before the digest in the primary volume descriptor's application use.
const DIGEST_MARK: &[u8; 18] = b"VMKPI TREE SHA256 ";

/// Where it stands there.
const DIGEST_AT: usize = 883;

/// What an image may hold at most.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of the volume, and of all its files together.
    pub bytes: u64,
    /// Files and directories.
    pub entries: usize,
    /// Names in a path.
    pub depth: usize,
}

impl Default for Limits {
    /// A context's.
    fn default() -> Self {
        Self {
            bytes: MAX_IMAGE_BYTES,
            entries: MAX_ENTRIES,
            depth: MAX_DEPTH,
        }
    }
}

/// What an image is read from.
pub trait ReadAt {
    /// Fills `buffer` with what is there from `offset` on.
    ///
    /// # Errors
    /// There is less, or it cannot be read.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// How many bytes there are.
    ///
    /// # Errors
    /// The system does not say.
    fn bytes(&self) -> io::Result<u64>;
}

/// A regular file; a device has no size of which this would know.
impl ReadAt for File {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, buffer, offset)
    }

    fn bytes(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}

impl ReadAt for [u8] {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let there = self.get(start..).and_then(|rest| rest.get(..buffer.len()));
        buffer.copy_from_slice(there.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn bytes(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }
}

/// The SHA-256 of a tree of files: of each directory's path, and of each file's path and content.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TreeDigest(pub [u8; 32]);

impl TreeDigest {
    /// Of these directories and files, both in the order of their paths; a file with the SHA-256 of its content.
    pub fn of<'a>(
        directories: impl IntoIterator<Item = &'a str>,
        files: impl IntoIterator<Item = (&'a str, [u8; 32])>,
    ) -> Self {
        let mut hash = Sha256::new_with_prefix(b"vmkpi tree\n");
        // Lengths before texts: no two trees give the same bytes.
        let path = |hash: &mut Sha256, kind: u8, path: &str| {
            hash.update([kind]);
            hash.update((path.len() as u64).to_be_bytes());
            hash.update(path);
        };
        for directory in directories {
            path(&mut hash, b'd', directory);
        }
        for (file, content) in files {
            path(&mut hash, b'f', file);
            hash.update(content);
        }
        Self(hash.finalize().into())
    }
}

impl fmt::Display for TreeDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for TreeDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TreeDigest({self})")
    }
}

#[cfg(test)]
mod tests;
