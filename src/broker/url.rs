//! A broker's URL: `mqtt://HOST[:PORT]`, or `mqtts://` with TLS. No login: whoever lists processes
//! reads command lines.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// MQTT's registered ports, without TLS and with.
const PORTS: [u16; 2] = [1883, 8883];

/// Where a broker is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BrokerUrl {
    /// Whether to speak TLS with it.
    pub tls: bool,
    /// Its name or address; its certificate must be for it.
    pub host: String,
    /// Its TCP port.
    pub port: u16,
}

/// Why a broker's URL is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum UrlError {
    /// Not a URL of the supported form.
    #[error("{0:?} is no broker: write mqtt://HOST[:PORT], or mqtts://HOST[:PORT] for TLS")]
    Form(String),
    /// Another transport, or another word for one.
    #[error("{0}:// is no broker's scheme here: write mqtt://, or mqtts:// for TLS")]
    Scheme(String),
    /// A login in it. Not repeated: it may be a password.
    #[error(
        "no login in a broker's URL, where every user of this machine could read it: name a file with it, as \
         --broker.credentials-file does"
    )]
    Login,
}

impl BrokerUrl {
    /// Whether nothing leaves this machine.
    pub fn is_loopback(&self) -> bool {
        match self.host.parse::<IpAddr>() {
            Ok(address) => address.is_loopback(),
            Err(_) => self.host.eq_ignore_ascii_case("localhost"),
        }
    }
}

impl FromStr for BrokerUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        if text.contains('@') {
            return Err(UrlError::Login);
        }
        let refuse = || UrlError::Form(text.to_owned());
        let (scheme, rest) = text.split_once("://").ok_or_else(refuse)?;
        let tls = match scheme {
            "mqtt" => false,
            "mqtts" => true,
            _ => return Err(UrlError::Scheme(scheme.to_owned())),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = split(rest).ok_or_else(refuse)?;
        let port = match port {
            Some(port) => port.parse().ok().filter(|port| *port != 0),
            None => Some(PORTS[usize::from(tls)]),
        };
        Ok(Self {
            tls,
            host: host.to_owned(),
            port: port.ok_or_else(refuse)?,
        })
    }
}

/// Host and port of `HOST[:PORT]`, where an IPv6 address is in brackets.
fn split(text: &str) -> Option<(&str, Option<&str>)> {
    if let Some(v6) = text.strip_prefix('[') {
        let (host, tail) = v6.split_once(']')?;
        host.parse::<std::net::Ipv6Addr>().ok()?;
        return match tail {
            "" => Some((host, None)),
            tail => Some((host, Some(tail.strip_prefix(':')?))),
        };
    }
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    (!host.is_empty() && host.chars().all(plain)).then_some((host, port))
}

impl fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "mqtts" } else { "mqtt" };
        match self.host.contains(':') {
            true => write!(f, "{scheme}://[{}]:{}", self.host, self.port),
            false => write!(f, "{scheme}://{}:{}", self.host, self.port),
        }
    }
}
