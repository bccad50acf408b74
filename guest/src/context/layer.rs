//! A layer: the files of one medium or directory, read in full. Its content lies in a file of its own that nobody else
//! writes, and stays readable for as long as anybody holds the layer, whatever becomes of the medium.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use vmkpi::context::Class;

/// Where a file's content is in the layer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Its first byte.
    pub offset: u64,
    /// Its length in bytes.
    pub length: u64,
    /// The SHA-256 of its content: files with the same one are the same version.
    pub digest: [u8; 32],
}

/// A layer. Paths are relative to its top, names joined by `/`, each legal by [`vmkpi::context::is_legal_name`].
#[derive(Debug)]
pub struct Layer {
    /// Whose it is.
    pub class: Class,
    /// Its files by path.
    pub files: BTreeMap<String, Extent>,
    /// Its directories by path, those on the way to a file included, the top not.
    pub directories: BTreeSet<String>,
    content: File,
}

impl Layer {
    /// A layer whose content lies in `content`.
    pub fn new(
        class: Class,
        files: BTreeMap<String, Extent>,
        directories: BTreeSet<String>,
        content: File,
    ) -> Self {
        Self {
            class,
            files,
            directories,
            content,
        }
    }

    /// Whether another has the same files with the same content, and the same directories.
    pub fn is_same_as(&self, other: &Self) -> bool {
        let version = |(path, extent): (&'_ String, &Extent)| (path.clone(), extent.digest);
        self.class == other.class
            && self.directories == other.directories
            && self.files.len() == other.files.len()
            && self
                .files
                .iter()
                .map(version)
                .eq(other.files.iter().map(version))
    }

    /// At most `size` bytes of a file, from `offset` on; fewer at its end.
    ///
    /// # Errors
    /// The content cannot be read.
    pub fn read(&self, file: &Extent, offset: u64, size: usize) -> io::Result<Vec<u8>> {
        let left = file.length.saturating_sub(offset);
        let size = size.min(usize::try_from(left).unwrap_or(usize::MAX));
        let mut bytes = vec![0; size];
        self.content
            .read_exact_at(&mut bytes, file.offset + offset)?;
        Ok(bytes)
    }
}
