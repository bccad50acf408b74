//! The images on disk: one file for each VM and class, named by what is in it.
//!
//! `vmkpi-CLASS-UUID-DIGEST.iso`: the digest is of the files in it, so a name that is known says that nothing is to be
//! written, here and at another host: the same path there is the same content. Files are ours alone (0600), as they say
//! what VMs are told; libvirt gives them to QEMU's user while they are in a drive (`dynamic_ownership`).

use std::collections::{BTreeSet, HashSet};
use std::fs::{DirBuilder, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest as _, Sha256};
use vmkpi::context::Class;

use super::render::Files;

/// What images' names begin with.
const PREFIX: &str = "vmkpi-";
/// What they end with.
const ENDING: &str = ".iso";
/// What the names of files begin with that are not whole yet.
const UNFINISHED: &str = ".vmkpi-";
/// Bytes of the digest in a name.
const DIGEST_BYTES: usize = 16;

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The directory, or a file in it.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The files are none that an image can hold.
    #[error("the layer cannot be written as ISO 9660: {0}")]
    Layer(String),
}

/// An image that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Where it is.
    pub path: PathBuf,
    /// What is in it: so many hexadecimal digits of a SHA-256.
    pub digest: String,
    /// Whether it had to be written.
    pub written: bool,
}

/// The directory of images.
#[derive(Clone, Debug)]
pub struct Images {
    directory: PathBuf,
    /// Images that we know to be whole.
    whole: Arc<Mutex<HashSet<PathBuf>>>,
}

impl Images {
    /// Makes the directory if need be. QEMU may enter it and not list it; what others began and did not end is removed.
    ///
    /// # Errors
    /// It cannot be made, or is not ours.
    pub fn open(directory: &Path) -> Result<Self, ImageError> {
        let fail = |source| failed(directory, source);
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o711);
        builder.create(directory).map_err(fail)?;
        std::fs::set_permissions(directory, Permissions::from_mode(0o711)).map_err(fail)?;
        let images = Self {
            directory: std::path::absolute(directory).map_err(fail)?,
            whole: Arc::default(),
        };
        for (name, path) in images.names()? {
            if name.starts_with(UNFINISHED) {
                std::fs::remove_file(&path).map_err(|source| failed(&path, source))?;
            }
        }
        Ok(images)
    }

    /// Where a VM's image with these files is.
    pub fn path(&self, class: &Class, uuid: &str, digest: &str) -> PathBuf {
        self.directory
            .join(format!("{PREFIX}{class}-{uuid}-{digest}{ENDING}"))
    }

    /// Makes the image of these files, unless it is there.
    ///
    /// # Errors
    /// The files are none that an image can hold, or the disk fails.
    pub fn make(&self, class: &Class, uuid: &str, files: &Files) -> Result<Image, ImageError> {
        let digest = digest(&class.label(), files);
        let path = self.path(class, uuid, &digest);
        let known = self.whole().contains(&path) && path.exists();
        let mut written = false;
        if !known {
            let bytes = vmkpi::iso9660::write(&class.label(), files)
                .map_err(|error| ImageError::Layer(error.to_string()))?;
            if !is_whole(&path, &bytes) {
                self.put(&path, &bytes)?;
                written = true;
            }
            self.whole().insert(path.clone());
        }
        Ok(Image {
            path,
            digest,
            written,
        })
    }

    fn put(&self, path: &Path, bytes: &[u8]) -> Result<(), ImageError> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let unfinished = self.directory.join(name.replacen(PREFIX, UNFINISHED, 1));
        let write = || -> io::Result<()> {
            let _ = std::fs::remove_file(&unfinished);
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&unfinished)?;
            file.write_all(bytes)?;
            std::fs::rename(&unfinished, path)
        };
        write().map_err(|source| {
            let _ = std::fs::remove_file(&unfinished);
            failed(path, source)
        })
    }

    /// Removes a VM's images of the class but this one; how many there were.
    ///
    /// # Errors
    /// The directory cannot be read, or a file not removed.
    pub fn keep_only(
        &self,
        class: &Class,
        uuid: &str,
        kept: Option<&Path>,
    ) -> Result<usize, ImageError> {
        self.remove_if(|path, image| {
            image.uuid == uuid && image.class == class.as_str() && kept != Some(path)
        })
    }

    /// Removes all images of a VM; how many there were.
    ///
    /// # Errors
    /// The directory cannot be read, or a file not removed.
    pub fn remove(&self, uuid: &str) -> Result<usize, ImageError> {
        self.remove_if(|_, image| image.uuid == uuid)
    }

    /// The UUIDs of the VMs that have images.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn owners(&self) -> Result<BTreeSet<String>, ImageError> {
        let names = self.names()?;
        let owners = names
            .iter()
            .filter_map(|(name, _)| Some(named(name)?.uuid.to_owned()));
        Ok(owners.collect())
    }

    fn remove_if(&self, unwanted: impl Fn(&Path, &Named<'_>) -> bool) -> Result<usize, ImageError> {
        let mut removed = 0;
        for (name, path) in self.names()? {
            if !named(&name).is_some_and(|image| unwanted(&path, &image)) {
                continue;
            }
            self.whole().remove(&path);
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(failed(&path, error));
                }
                _ => removed += 1,
            }
        }
        Ok(removed)
    }

    fn names(&self) -> Result<Vec<(String, PathBuf)>, ImageError> {
        let fail = |source| failed(&self.directory, source);
        let entries = std::fs::read_dir(&self.directory).map_err(fail)?;
        let entries: Vec<_> = entries.collect::<io::Result<_>>().map_err(fail)?;
        let names = entries.into_iter();
        let names = names.map(|e| (e.file_name().to_string_lossy().into_owned(), e.path()));
        Ok(names.collect())
    }

    fn whole(&self) -> std::sync::MutexGuard<'_, HashSet<PathBuf>> {
        self.whole.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether an image of an earlier daemon is as it should be; QEMU may have it open. One that we may not read is in a
/// drive now, given to QEMU's user by libvirt.
fn is_whole(path: &Path, bytes: &[u8]) -> bool {
    match std::fs::read(path) {
        Ok(there) => there == bytes,
        Err(error) => error.kind() == io::ErrorKind::PermissionDenied,
    }
}

/// The parts of an image's name.
struct Named<'a> {
    class: &'a str,
    uuid: &'a str,
}

/// A class has no `-`, and a UUID 36 characters.
fn named(name: &str) -> Option<Named<'_>> {
    let rest = name.strip_prefix(PREFIX)?.strip_suffix(ENDING)?;
    let (class, rest) = rest.split_once('-')?;
    let (uuid, digest) = rest.split_at_checked(36)?;
    class.parse::<Class>().ok()?;
    let digest = digest.strip_prefix('-')?;
    let hex = |text: &str| text.bytes().all(|b| b.is_ascii_hexdigit());
    let good = digest.len() == 2 * DIGEST_BYTES && hex(digest) && hex(&uuid.replace('-', ""));
    good.then_some(Named { class, uuid })
}

/// Whether a file is an image of the class, of whatever VM, on whatever host, by its name.
pub fn is_of(path: &Path, class: &Class) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.and_then(named)
        .is_some_and(|image| image.class == class.as_str())
}

fn digest(label: &str, files: &Files) -> String {
    let mut hash = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    part(label.as_bytes());
    for (path, bytes) in files {
        part(path.as_bytes());
        part(bytes);
    }
    let digest = hash.finalize();
    digest[..DIGEST_BYTES]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn failed(path: &Path, source: io::Error) -> ImageError {
    ImageError::Io {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests;
