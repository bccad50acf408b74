//! The files of an [`Access`]: bounded, plain files, and secrets only where not everybody can read them.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::Deserialize;

use super::{Access, Login};

/// The largest file that is read: all the CAs of a system are 250 KiB.
const MAX_BYTES: u64 = 4 << 20;
/// What MQTT can carry of a name or a password, in bytes.
const MAX_LOGIN_BYTES: usize = 65_535;

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

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
enum Problem {
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
pub(super) struct Named<'a> {
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
    pub(super) fn refuse(self, why: impl Into<String>) -> FileError {
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
    fn public(self) -> Result<String, FileError> {
        let (text, hidden) = self.text()?;
        // Certificate and key are sometimes kept in one file.
        if !hidden && text.contains("PRIVATE KEY-----") {
            return Err(self.fail(Problem::Exposed));
        }
        Ok(text)
    }

    /// The text of a file that not everybody may read.
    fn secret(self) -> Result<String, FileError> {
        let (text, hidden) = self.text()?;
        if !hidden {
            return Err(self.fail(Problem::Exposed));
        }
        Ok(text)
    }
}

/// The text of a file that not everybody may read: a private key, for whatever it is.
///
/// # Errors
/// It is not there, not plain, too large, no text, or everybody may read it.
pub fn secret(what: &'static str, path: &Path) -> Result<String, FileError> {
    Named { what, path }.secret()
}

/// The certificates of a PEM file, at least one.
pub(super) fn certificates(file: Named<'_>) -> Result<Vec<CertificateDer<'static>>, FileError> {
    let text = file.public()?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    match found {
        Ok(found) if found.is_empty() => {
            Err(file.refuse("no certificate in it; PEM is expected (BEGIN CERTIFICATE)"))
        }
        Ok(found) => Ok(found),
        Err(error) => Err(file.refuse(format!("no PEM: {error}"))),
    }
}

/// The private key of a PEM file.
pub(super) fn key(file: Named<'_>) -> Result<PrivateKeyDer<'static>, FileError> {
    let text = file.secret()?;
    if text.contains("BEGIN ENCRYPTED PRIVATE KEY") || text.contains("Proc-Type: 4,ENCRYPTED") {
        return Err(
            file.refuse("the key has a passphrase, which nobody could type here; store it without")
        );
    }
    PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|_| {
        file.refuse("no private key in it; PEM is expected (BEGIN PRIVATE KEY and the like)")
    })
}

/// The login, if there is one.
pub(super) fn login(access: &Access) -> Result<Option<Login>, FileError> {
    if let Some(path) = &access.credentials_file {
        return credentials(path).map(Some);
    }
    let (Some(username), Some(path)) = (&access.username, &access.password_file) else {
        return Ok(None);
    };
    let file = Named {
        what: "password",
        path,
    };
    let text = file.secret()?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    let password = line.strip_suffix('\r').unwrap_or(line);
    if password.contains('\n') {
        return Err(file.refuse("more than one line; it must hold the password alone"));
    }
    sound(file, username, password).map(Some)
}

/// Name and password of a TOML file.
fn credentials(path: &Path) -> Result<Login, FileError> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Credentials {
        username: String,
        password: String,
    }
    let file = Named {
        what: "broker credentials",
        path,
    };
    let text = file.secret()?;
    let read: Credentials = toml::from_str(&text).map_err(|error| {
        file.refuse(format!(
            "{}; write username = \"...\" and password = \"...\"",
            error.message().trim()
        ))
    })?;
    sound(file, &read.username, &read.password)
}

fn sound(file: Named<'_>, username: &str, password: &str) -> Result<Login, FileError> {
    for (part, text) in [("username", username), ("password", password)] {
        if text.is_empty() {
            return Err(file.refuse(format!("the {part} is empty")));
        }
        if text.len() > MAX_LOGIN_BYTES {
            return Err(file.refuse(format!("the {part} is longer than MQTT can carry")));
        }
    }
    Ok(Login {
        username: username.to_owned(),
        password: password.to_owned(),
    })
}
