//! Files of keys, certificates and passwords: bounded, plain files, and secrets only where not everybody can
//! read them.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// The largest file that is read: all the CAs of a system are 250 KiB.
const MAX_BYTES: u64 = 4 << 20;

/// What is wrong with a file, and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{what} {}: {problem}", path.display())]
pub struct FileError {
    /// What the file should be.
    what: &'static str,
    /// The file.
    path: PathBuf,
    /// What is wrong.
    problem: Problem,
}

impl FileError {
    /// Whether the file was read, and holds something else.
    pub fn is_of_another_kind(&self) -> bool {
        matches!(self.problem, Problem::Content(_))
    }
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Problem {
    #[error("{0}")]
    Read(#[from] std::io::Error),
    #[error("everybody may read it; chmod o= it")]
    Exposed,
    #[error("everybody may write to it; chmod o-w it")]
    Writable,
    #[error("no plain file")]
    NotPlain,
    #[error("larger than {} MiB", MAX_BYTES >> 20)]
    Large,
    #[error("no text")]
    NoText,
    #[error("{0}")]
    Content(String),
}

/// Where a problem was found.
#[derive(Clone, Copy)]
pub(crate) struct Named<'a> {
    pub what: &'static str,
    pub path: &'a Path,
}

impl Named<'_> {
    fn fail(self, problem: impl Into<Problem>) -> FileError {
        FileError {
            what: self.what,
            path: self.path.to_owned(),
            problem: problem.into(),
        }
    }

    /// What the file holds is not what it should.
    pub(crate) fn refuse(self, why: impl Into<String>) -> FileError {
        self.fail(Problem::Content(why.into()))
    }

    /// The file's text, and whether not everybody may read it.
    fn text(self) -> Result<(String, bool), FileError> {
        // Asked before it is opened: opening a pipe waits for whoever writes.
        let plain = std::fs::metadata(self.path).map_err(|e| self.fail(e))?;
        if !plain.is_file() {
            return Err(self.fail(Problem::NotPlain));
        }
        let file = File::open(self.path).map_err(|e| self.fail(e))?;
        let mode = file.metadata().map_err(|e| self.fail(e))?.mode();
        if mode & 0o002 != 0 {
            return Err(self.fail(Problem::Writable));
        }
        let mut bytes = Vec::new();
        let read = file.take(MAX_BYTES + 1).read_to_end(&mut bytes);
        if read.map_err(|e| self.fail(e))? as u64 > MAX_BYTES {
            return Err(self.fail(Problem::Large));
        }
        let text = String::from_utf8(bytes).map_err(|_| self.fail(Problem::NoText))?;
        Ok((text, mode & 0o004 == 0))
    }

    /// The text of a file that everybody may read.
    pub(crate) fn public(self) -> Result<String, FileError> {
        let (text, hidden) = self.text()?;
        // Certificate and key are sometimes kept in one file.
        if !hidden && text.contains("PRIVATE KEY-----") {
            return Err(self.fail(Problem::Exposed));
        }
        Ok(text)
    }

    /// The text of a file that not everybody may read.
    pub(crate) fn secret(self) -> Result<String, FileError> {
        let (text, hidden) = self.text()?;
        if !hidden {
            return Err(self.fail(Problem::Exposed));
        }
        Ok(text)
    }
}

/// The signing key of a file that not everybody may read.
///
/// # Errors
/// It cannot be read, everybody may read it, or it holds no Ed25519 private key.
#[cfg(feature = "sign")]
pub fn signing_key(path: &Path) -> Result<crate::sign::SigningKey, FileError> {
    let file = Named {
        what: "signing key",
        path,
    };
    let text = file.secret()?;
    crate::sign::SigningKey::from_pem(&text).map_err(|error| file.refuse(error.to_string()))
}

/// The public key of who signs, in a file that not everybody may write to.
///
/// # Errors
/// It cannot be read, everybody may write to it, or it holds no Ed25519 public key.
#[cfg(feature = "sign")]
pub fn verifying_key(path: &Path) -> Result<crate::sign::VerifyingKey, FileError> {
    let file = Named {
        what: "public key",
        path,
    };
    let text = file.public()?;
    crate::sign::VerifyingKey::from_text(&text).map_err(|error| file.refuse(error.to_string()))
}

/// The key that envelopes are opened with, in a file that not everybody may read.
///
/// # Errors
/// It cannot be read, everybody may read it, or it holds no RSA private key.
#[cfg(feature = "open")]
pub fn opening_key(path: &Path) -> Result<crate::open::OpeningKey, FileError> {
    let file = Named {
        what: "private key",
        path,
    };
    let text = file.secret()?;
    crate::open::OpeningKey::from_pem(&text).map_err(|error| file.refuse(error.to_string()))
}

/// The key that is sealed to, in a file that not everybody may write to.
///
/// # Errors
/// It cannot be read, everybody may write to it, or it holds no RSA public key.
#[cfg(feature = "seal")]
pub fn sealing_key(path: &Path) -> Result<crate::seal::SealingKey, FileError> {
    let file = Named {
        what: "public key",
        path,
    };
    let text = file.public()?;
    crate::seal::SealingKey::from_pem(&text).map_err(|error| file.refuse(error.to_string()))
}
