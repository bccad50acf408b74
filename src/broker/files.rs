//! The login in the files of an [`Access`].

use std::path::Path;

use serde::Deserialize;

use super::{Access, Login};
use crate::key_file::{FileError, Named};

/// What MQTT can carry of a name or a password, in bytes.
const MAX_LOGIN_BYTES: usize = 65_535;

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
