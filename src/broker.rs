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
//! | `resumed` | a session that an earlier life of the program has left |
//! | [`failure`] | why a connection failed: of a kind that can be counted, and what to do |

pub mod failure;
pub mod files;
pub mod publisher;
mod resumed;
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
        option: String,
    },
    /// One of two that are nothing without each other.
    #[error("{given} needs {missing}; give both")]
    Half {
        /// What is there.
        given: String,
        /// What is not.
        missing: String,
    },
    /// Two logins.
    #[error(
        "the login is given twice: by --{0}.credentials-file, and by --{0}.username with \
         --{0}.password-file; leave one out"
    )]
    TwoLogins(&'static str),
}

/// A broker, and how to be let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broker {
    url: BrokerUrl,
    access: Access,
    /// What its options begin with, where one is named to people.
    options: &'static str,
}

/// What the options of a program's only broker begin with.
const OPTIONS: &str = "broker";

impl Broker {
    /// Puts the two together.
    ///
    /// # Errors
    /// The options contradict each other or the URL.
    pub fn new(url: BrokerUrl, access: Access) -> Result<Self, OptionsError> {
        Self::of(OPTIONS, url, access)
    }

    /// The same of a broker whose options begin with `--OPTIONS`, in a program that knows several.
    ///
    /// # Errors
    /// The options contradict each other or the URL.
    pub fn of(options: &'static str, url: BrokerUrl, access: Access) -> Result<Self, OptionsError> {
        let option = |name: &str| format!("--{options}.{name}");
        let tls_only = [
            ("ca-file", &access.ca_file),
            ("cert-file", &access.cert_file),
            ("key-file", &access.key_file),
        ];
        if let Some((name, _)) = tls_only.iter().find(|(_, file)| file.is_some())
            && !url.tls
        {
            let option = option(name);
            return Err(OptionsError::NoTls { url, option });
        }
        both(
            ("cert-file", access.cert_file.is_some()),
            ("key-file", access.key_file.is_some()),
        )
        .and(both(
            ("username", access.username.is_some()),
            ("password-file", access.password_file.is_some()),
        ))
        .map_err(|(given, missing)| OptionsError::Half {
            given: option(given),
            missing: option(missing),
        })?;
        if access.credentials_file.is_some() && access.username.is_some() {
            return Err(OptionsError::TwoLogins(options));
        }
        Ok(Self {
            url,
            access,
            options,
        })
    }

    /// A broker that lets everybody in, over TCP without TLS or with the CAs of this system.
    pub fn anonymous(url: BrokerUrl) -> Self {
        Self {
            url,
            access: Access::default(),
            options: OPTIONS,
        }
    }

    /// How an option of it is written, as `--broker.NAME`.
    pub fn option(&self, name: &str) -> String {
        format!("--{}.{name}", self.options)
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
            true => Some(tls::config(self)?),
            false => None,
        };
        Ok(Entry { login, tls })
    }
}

type Given = (&'static str, bool);

/// Two options that are nothing without each other: what is given, and what is missing.
fn both(one: Given, other: Given) -> Result<(), (&'static str, &'static str)> {
    match (one.1, other.1) {
        (true, false) => Err((one.0, other.0)),
        (false, true) => Err((other.0, one.0)),
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
