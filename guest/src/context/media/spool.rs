//! From a medium to a layer: it is copied in full into a file without a name, the drive is let go of, and then it is
//! read.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use vmkpi::context::{Class, MAX_IMAGE_BYTES};
use vmkpi::iso9660::{
    self, DESCRIPTOR_OFFSET, Descriptor, Limits, ReadAt, ReadError, SECTOR, TreeDigest,
};

use super::source::Source;
use crate::context::layer::{Extent, Layer};

/// What the names of spools begin with, in the moment in which they have one.
const PREFIX: &str = "medium-";

/// Bytes read at once.
const CHUNK: usize = 128 << 10;

/// Where a medium's descriptor is.
pub type Sector = [u8; SECTOR];

/// A medium that is a layer.
pub struct Taken {
    /// What it holds.
    pub layer: Layer,
    /// The same for the same tree.
    pub tree: TreeDigest,
}

/// Why a medium is none.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// For as long as it is there.
    #[error("refused: {0}")]
    Refused(String),
    /// It is worth another try.
    #[error("{0}")]
    Again(String),
}

/// What a drive holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Held {
    /// Nothing.
    Nothing,
    /// Something with this sector.
    Medium(Box<Sector>),
}

/// The folder of spools.
#[derive(Clone, Debug)]
pub struct Spool(PathBuf);

impl Spool {
    /// Makes the folder, and removes what a program that was killed has left there.
    ///
    /// # Errors
    /// It cannot be made or read.
    pub fn open(folder: &Path) -> io::Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let ours = |name: &str| name.starts_with(PREFIX);
            if entry.file_name().to_str().is_some_and(ours) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(Self(folder.to_owned()))
    }

    /// A file without a name, of which nothing is left however the program ends.
    fn file(&self) -> io::Result<File> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = self
            .0
            .join(format!("{PREFIX}{}-{number}", std::process::id()));
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        fs::remove_file(&path)?;
        Ok(file)
    }

    /// Reads the medium of a class whose descriptor was just seen, when its drive had changed so often.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn take<S: Source>(
        &self,
        source: &S,
        (medium, changes): (S::Medium, Option<u64>),
        class: &Class,
        sector: &Sector,
    ) -> Result<Taken, Failure> {
        let descriptor = Descriptor::parse(sector).map_err(|error| refused(&error))?;
        if descriptor.size > MAX_IMAGE_BYTES {
            let (bytes, limit) = (descriptor.size, MAX_IMAGE_BYTES);
            return Err(refused(&ReadError::TooLarge { bytes, limit }));
        }
        let spooled = self.copy(&medium, descriptor.size)?;
        // Opened anew: what was read before is not read from memory.
        drop(medium);
        let again = held(source).map_err(|error| unreadable(&error))?.0;
        let copied = file_sector(&spooled).map_err(|error| self.unwritable(&error))?;
        let same = again == Held::Medium(Box::new(*sector)) && copied == *sector;
        if !same || source.changes() != changes {
            return Err(Failure::Again(
                "the medium was changed while it was read".into(),
            ));
        }
        layer(class, spooled)
    }

    /// Copies the volume.
    fn copy(&self, medium: &impl ReadAt, bytes: u64) -> Result<File, Failure> {
        let mut file = self.file().map_err(|error| self.unwritable(&error))?;
        let mut chunk = vec![0; CHUNK];
        for offset in (0..bytes).step_by(CHUNK) {
            let part = usize::try_from(bytes - offset).map_or(CHUNK, |left| left.min(CHUNK));
            let part = &mut chunk[..part];
            medium
                .read_exact_at(part, offset)
                .map_err(|error| match error.kind() {
                    ErrorKind::UnexpectedEof => Failure::Again(format!(
                        "its image is truncated: the volume has {bytes} bytes, and fewer are there"
                    )),
                    _ => unreadable(&error),
                })?;
            file.write_all(part)
                .map_err(|error| self.unwritable(&error))?;
        }
        Ok(file)
    }

    fn unwritable(&self, error: &io::Error) -> Failure {
        Failure::Again(format!(
            "cannot copy it to {}: {error}: make room there",
            self.0.display()
        ))
    }
}

fn unreadable(error: &io::Error) -> Failure {
    Failure::Again(format!("cannot read the drive: {error}"))
}

/// What a drive holds now, and the medium itself. One that is too short for a descriptor is like one that is blank.
///
/// # Errors
/// The drive cannot be read.
pub fn held<S: Source>(source: &S) -> io::Result<(Held, Option<S::Medium>)> {
    let Some(medium) = source.open()? else {
        return Ok((Held::Nothing, None));
    };
    let mut sector = Box::new([0; SECTOR]);
    match medium.read_exact_at(&mut sector[..], DESCRIPTOR_OFFSET) {
        Ok(()) => Ok((Held::Medium(sector), Some(medium))),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok((Held::Nothing, None)),
        Err(error) => Err(error),
    }
}

fn file_sector(file: &File) -> io::Result<Sector> {
    let mut sector = [0; SECTOR];
    ReadAt::read_exact_at(file, &mut sector, DESCRIPTOR_OFFSET)?;
    Ok(sector)
}

/// The layer that a copy is.
fn layer(class: &Class, spooled: File) -> Result<Taken, Failure> {
    let unreadable = |error: io::Error| Failure::Again(format!("cannot read its copy: {error}"));
    let index = match iso9660::read(&spooled, Limits::default()) {
        Ok(index) => index,
        Err(ReadError::Io(error)) => return Err(unreadable(error)),
        Err(error) => return Err(refused(&error)),
    };
    let mut files = BTreeMap::new();
    for (path, (offset, length)) in index.files {
        let digest = iso9660::digest(&spooled, (offset, length)).map_err(unreadable)?;
        files.insert(
            path,
            Extent {
                offset,
                length,
                digest,
            },
        );
    }
    let digests = files
        .iter()
        .map(|(path, extent)| (path.as_str(), extent.digest));
    let tree = TreeDigest::of(index.directories.iter().map(String::as_str), digests);
    if index.tree.is_some_and(|said| said != tree) {
        return Err(Failure::Again(
            "its files are not those that its digest is of: it is damaged, or was changed while it was read".into(),
        ));
    }
    let layer = Layer::new(class.clone(), files, index.directories, spooled);
    Ok(Taken { layer, tree })
}

fn refused(error: &ReadError) -> Failure {
    Failure::Refused(error.to_string())
}
