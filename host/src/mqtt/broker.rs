//! Where the broker is and how to log in: `mqtt://HOST[:PORT]`, and a file for the password, which
//! has no place on a command line.

use std::fmt;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::str::FromStr;

use serde::Deserialize;

/// MQTT's registered port.
const DEFAULT_PORT: u16 = 1883;

/// A broker's address, and the login it wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broker {
    /// Its host name or address.
    pub host: String,
    /// Its TCP port.
    pub port: u16,
    /// The login; none is anonymous.
    pub credentials: Option<Credentials>,
}

/// A login.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credentials {
    /// The user's name.
    pub username: String,
    /// The password.
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({:?}, ...)", self.username)
    }
}

/// Why a broker's URL or login is refused.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// Not a URL of the supported form.
    #[error("{0:?} is no broker URL: write mqtt://HOST:PORT")]
    Url(String),
    /// The file of the login cannot be read.
    #[error("broker credentials {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// Others than its owner and group may read the file.
    #[error("broker credentials {0}: everybody may read it; chmod o-rwx it")]
    Exposed(String),
    /// The file is not what is expected.
    #[error(
        "broker credentials {path}: {message}; write username = \"...\" and password = \"...\""
    )]
    Format {
        /// The file.
        path: String,
        /// What is wrong.
        message: String,
    },
}

impl FromStr for Broker {
    type Err = BrokerError;

    fn from_str(text: &str) -> Result<Self, BrokerError> {
        let refuse = || BrokerError::Url(text.to_owned());
        let rest = text.strip_prefix("mqtt://").ok_or_else(refuse)?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = match rest.strip_prefix('[') {
            Some(v6) => {
                let (host, port) = v6.split_once(']').ok_or_else(refuse)?;
                let port = match port {
                    "" => None,
                    port => Some(port.strip_prefix(':').ok_or_else(refuse)?),
                };
                (host, port)
            }
            None => match rest.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (rest, None),
            },
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
        if host.is_empty() || !host.chars().all(plain) {
            return Err(refuse());
        }
        let port = match port {
            Some(port) => port.parse().map_err(|_| refuse())?,
            None => DEFAULT_PORT,
        };
        Ok(Self {
            host: host.to_owned(),
            port,
            credentials: None,
        })
    }
}

impl fmt::Display for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "mqtt://[{}]:{}", self.host, self.port),
            false => write!(f, "mqtt://{}:{}", self.host, self.port),
        }
    }
}

impl Credentials {
    /// Reads a login from a TOML file with `username` and `password`.
    ///
    /// # Errors
    /// The file cannot be read, everybody may read it, or it holds something else.
    pub fn read(path: &Path) -> Result<Self, BrokerError> {
        let name = path.display().to_string();
        let read = |source| BrokerError::Read {
            path: name.clone(),
            source,
        };
        if std::fs::metadata(path).map_err(read)?.mode() & 0o007 != 0 {
            return Err(BrokerError::Exposed(name));
        }
        let text = std::fs::read_to_string(path).map_err(read)?;
        toml::from_str(&text).map_err(|e| BrokerError::Format {
            path: name,
            message: e.message().trim().to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn broker_urls_are_read_and_written() {
        for (text, host, port) in [
            ("mqtt://127.0.0.1:1884", "127.0.0.1", 1884),
            ("mqtt://broker.example", "broker.example", 1883),
            ("mqtt://[::1]:5/", "::1", 5),
            ("mqtt://[::1]", "::1", 1883),
        ] {
            let broker: Broker = text.parse().unwrap();
            assert_eq!((broker.host.as_str(), broker.port), (host, port));
            assert_eq!(broker.to_string().parse::<Broker>().unwrap(), broker);
        }
        for bad in [
            "",
            "localhost:1883",
            "mqtts://h",
            "mqtt://",
            "mqtt://h:x",
            "mqtt://h:70000",
            "mqtt://u:p@h:1883",
            "mqtt://[::1",
            "mqtt://h/path",
            "mqtt://[::1]x",
        ] {
            assert!(bad.parse::<Broker>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_login_that_everybody_may_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("login.toml");
        std::fs::write(&path, "username = \"u\"\npassword = \"p\"\n").unwrap();
        let mode = |m| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(m)).unwrap();
        mode(0o644);
        assert!(matches!(
            Credentials::read(&path),
            Err(BrokerError::Exposed(_))
        ));
        mode(0o640);
        let read = Credentials::read(&path).unwrap();
        assert_eq!(format!("{read:?}"), "Credentials(\"u\", ...)");
        std::fs::write(&path, "user = \"u\"\n").unwrap();
        assert!(matches!(
            Credentials::read(&path),
            Err(BrokerError::Format { .. })
        ));
    }
}
