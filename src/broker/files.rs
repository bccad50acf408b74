//! The files of an [`Access`].

use std::path::Path;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::Deserialize;

use super::{Access, Login};
use crate::key_file::{FileError, Named};

/// What MQTT can carry of a name or a password, in bytes.
const MAX_LOGIN_BYTES: usize = 65_535;

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
