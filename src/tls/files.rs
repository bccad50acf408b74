//! Certificates and keys of PEM files.

use std::path::{Path, PathBuf};

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::key_file::{FileError, Named};

/// The files of one end of mutual TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MutualFiles {
    /// What is shown, with its chain, PEM.
    pub cert: PathBuf,
    /// Its private key, PEM, which not everybody may read.
    pub key: PathBuf,
    /// The CAs that may have signed what the other end shows, PEM. No other counts.
    pub ca: PathBuf,
}

/// What the files hold.
pub(super) struct Material {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
    pub(super) roots: RootCertStore,
}

impl MutualFiles {
    pub(super) fn read(&self) -> Result<Material, FileError> {
        let file = |what, path| Named { what, path };
        Ok(Material {
            roots: roots(&self.ca)?,
            chain: certificates(file("certificate", &self.cert))?,
            key: private_key(file("private key", &self.key))?,
        })
    }

    /// Certificate and key are not of each other.
    pub(super) fn mismatch(&self, error: &rustls::Error) -> FileError {
        let (what, path) = ("certificate", self.cert.as_path());
        let key = self.key.display();
        Named { what, path }.refuse(format!("it does not go with {key}: {error}"))
    }

    /// The CA's file holds what no CA has.
    pub(super) fn bad_ca(&self, why: impl std::fmt::Display) -> FileError {
        let (what, path) = ("CA", self.ca.as_path());
        Named { what, path }.refuse(why.to_string())
    }
}

/// The CAs of a PEM file.
///
/// # Errors
/// It cannot be read, or holds something else.
pub(crate) fn roots(path: &Path) -> Result<RootCertStore, FileError> {
    let file = Named { what: "CA", path };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file)? {
        roots
            .add(certificate)
            .map_err(|e| file.refuse(format!("a certificate in it is none of a CA: {e}")))?;
    }
    Ok(roots)
}

/// The certificates of a PEM file, at least one.
pub(crate) fn certificates(file: Named<'_>) -> Result<Vec<CertificateDer<'static>>, FileError> {
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
pub(crate) fn private_key(file: Named<'_>) -> Result<PrivateKeyDer<'static>, FileError> {
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
