//! Where a broker is and how to be let in: one URL and one set of options for every program that
//! talks to one. What the options name is read anew for each connection ([`Keeper`]), so that renewed
//! certificates and passwords are taken without a restart.
//!
//! | module | job |
//! | --- | --- |
//! | [`url`] | `mqtt://HOST[:PORT]`, `mqtts://HOST[:PORT]` |
//! | [`files`] | reads the files of an [`Access`], and refuses those that everybody may read |
//! | [`tls`] | the TLS of a connection, from what was read |
//! | [`publisher`] | publishes with QoS 1, and says of each message what became of it |
//! | [`subscription`] | a session that is kept up, whatever happens to its connection |
//! | [`failure`] | why a connection failed: of a kind that can be counted, and what to do |

pub mod failure;
pub mod files;
pub mod publisher;
pub mod subscription;
pub mod tls;
pub mod url;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use rumqttc::{MqttOptions, TlsConfiguration, Transport};
use rustls::ClientConfig;

pub use crate::key_file::FileError;
pub use failure::{Failure, Kind};
pub use url::{BrokerUrl, UrlError};

/// What a broker is shown, and what it must show: nothing here is secret, it names the files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// The CAs that may have signed the broker's certificate, PEM; none: those of this system.
    pub ca_file: Option<PathBuf>,
    /// The certificate to show the broker, with its chain, PEM.
    pub cert_file: Option<PathBuf>,
    /// Its private key, PEM.
    pub key_file: Option<PathBuf>,
    /// A TOML file with `username` and `password`.
    pub credentials_file: Option<PathBuf>,
    /// The user's name, if not in the file above.
    pub username: Option<String>,
    /// A file that holds the password and nothing else.
    pub password_file: Option<PathBuf>,
}

/// Options that contradict each other.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum OptionsError {
    /// Files for TLS, and a URL without.
    #[error("{url} is without TLS, so {option} would not be used; write mqtts:// or leave it out")]
    NoTls {
        /// The broker.
        url: BrokerUrl,
        /// What is too much.
        option: &'static str,
    },
    /// One of two that are nothing without each other.
    #[error("{given} needs {missing}; give both")]
    Half {
        /// What is there.
        given: &'static str,
        /// What is not.
        missing: &'static str,
    },
    /// Two logins.
    #[error(
        "the login is given twice: by --broker.credentials-file, and by --broker.username with \
         --broker.password-file; leave one out"
    )]
    TwoLogins,
}

/// A broker, and how to be let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broker {
    url: BrokerUrl,
    access: Access,
}

impl Broker {
    /// Puts the two together.
    ///
    /// # Errors
    /// The options contradict each other or the URL.
    pub fn new(url: BrokerUrl, access: Access) -> Result<Self, OptionsError> {
        let tls_only = [
            ("--broker.ca-file", &access.ca_file),
            ("--broker.cert-file", &access.cert_file),
            ("--broker.key-file", &access.key_file),
        ];
        if let Some((option, _)) = tls_only.iter().find(|(_, file)| file.is_some())
            && !url.tls
        {
            return Err(OptionsError::NoTls { url, option });
        }
        both(
            ("--broker.cert-file", access.cert_file.is_some()),
            ("--broker.key-file", access.key_file.is_some()),
        )?;
        both(
            ("--broker.username", access.username.is_some()),
            ("--broker.password-file", access.password_file.is_some()),
        )?;
        if access.credentials_file.is_some() && access.username.is_some() {
            return Err(OptionsError::TwoLogins);
        }
        Ok(Self { url, access })
    }

    /// A broker that lets everybody in, over TCP without TLS or with the CAs of this system.
    pub fn anonymous(url: BrokerUrl) -> Self {
        Self {
            url,
            access: Access::default(),
        }
    }

    /// Where it is.
    pub fn url(&self) -> &BrokerUrl {
        &self.url
    }

    /// How to be let in.
    pub fn access(&self) -> &Access {
        &self.access
    }

    /// Whether the broker is on this machine, by its address.
    pub fn is_loopback(&self) -> bool {
        self.url.is_loopback()
    }

    /// What is not wrong and should be known: a password that everybody on the way can read.
    pub fn warning(&self) -> Option<String> {
        let login = self.access.credentials_file.is_some() || self.access.username.is_some();
        (login && !self.url.tls && !self.url.is_loopback()).then(|| {
            format!(
                "{}: the password goes over the network in the clear; write mqtts://{}",
                self.url, self.url.host
            )
        })
    }

    /// Reads what the options name.
    ///
    /// # Errors
    /// A file is not there, not what it should be, or readable by those it must not be.
    pub fn read(&self) -> Result<Entry, FileError> {
        let login = files::login(&self.access)?;
        let tls = match self.url.tls {
            true => Some(tls::config(&self.access)?),
            false => None,
        };
        Ok(Entry { login, tls })
    }
}

fn both(one: (&'static str, bool), other: (&'static str, bool)) -> Result<(), OptionsError> {
    let half = |given: (&'static str, bool), missing: (&'static str, bool)| OptionsError::Half {
        given: given.0,
        missing: missing.0,
    };
    match (one.1, other.1) {
        (true, false) => Err(half(one, other)),
        (false, true) => Err(half(other, one)),
        _ => Ok(()),
    }
}

impl fmt::Display for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.url.fmt(f)
    }
}

/// A login.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// The user's name.
    pub username: String,
    /// The password.
    pub password: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Login({:?}, ...)", self.username)
    }
}

/// What was read, ready for a connection.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The login; none is anonymous, or by certificate.
    pub login: Option<Login>,
    /// TLS, if the URL asks for it.
    pub tls: Option<Arc<ClientConfig>>,
}

impl Entry {
    /// Puts it into the options of a connection.
    pub fn apply(self, options: &mut MqttOptions) {
        if let Some(login) = self.login {
            options.set_credentials(login.username, login.password);
        }
        options.set_transport(match self.tls {
            Some(config) => Transport::tls_with_config(TlsConfiguration::Rustls(config)),
            None => Transport::tcp(),
        });
    }
}

/// Reads a broker's files for each connection, and keeps what was right last.
#[derive(Debug)]
pub struct Keeper {
    broker: Broker,
    last: Option<Entry>,
    said: Option<String>,
}

/// What [`Keeper::renew`] found.
#[derive(Debug)]
pub struct Renewal {
    /// What to connect with.
    pub entry: Entry,
    /// Why the files of now are not used, but what was read before.
    pub broken: Option<FileError>,
    /// Whether that was not so at the last connection, and should be said.
    pub news: bool,
}

impl Keeper {
    /// Nothing is read yet.
    pub fn new(broker: Broker) -> Self {
        Self {
            broker,
            last: None,
            said: None,
        }
    }

    /// The broker.
    pub fn broker(&self) -> &Broker {
        &self.broker
    }

    /// What to connect with now: what the files hold, or, where a renewal went wrong, what they held
    /// when they were right.
    ///
    /// # Errors
    /// The files are not right and never were.
    pub fn renew(&mut self) -> Result<Renewal, FileError> {
        match (self.broker.read(), &self.last) {
            (Ok(entry), _) => {
                self.last = Some(entry.clone());
                self.said = None;
                Ok(Renewal {
                    entry,
                    broken: None,
                    news: false,
                })
            }
            (Err(error), Some(last)) => {
                let text = Some(error.to_string());
                let news = self.said != text;
                self.said = text;
                Ok(Renewal {
                    entry: last.clone(),
                    broken: Some(error),
                    news,
                })
            }
            (Err(error), None) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests;
