//! Where a link goes: `virtio-serial:NAME` (no guest network; the default), `vsock:CID:PORT` (sockets between a
//! guest and its host, vsock(7)), `tls:HOST:PORT` (mutual TLS over a network) or `unix:PATH` (local).

use std::fmt;
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::str::FromStr;

use crate::text::text_serde;

/// The name of the virtio-serial port a host looks for.
pub const KPI_PORT: &str = "org.vmkpi.kpi.0";

/// A link's address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LinkUrl {
    /// A virtio-serial port of that name: `/dev/virtio-ports/NAME` in the guest, a Unix socket of
    /// QEMU's on the host.
    VirtioSerial(String),
    /// A Unix socket: the guest listens, the host connects, as to the socket that QEMU makes for a
    /// virtio-serial port.
    Unix(PathBuf),
    /// A port of the socket family between guests and their host: the guest listens on it, the host connects. Each
    /// end names the other's context id: in the guest, the only one that may connect; on the host, the guest's.
    Vsock {
        /// The other end's context id.
        cid: u32,
        /// The guest's port.
        port: u32,
    },
    /// A host's endpoint on a network, by mutual TLS: the guest connects, and the host's certificate is for `host`.
    Tls {
        /// A DNS name or an IP address; one of IPv6 without its brackets.
        host: String,
        /// The host's TCP port.
        port: u16,
    },
}

/// The context id of the host (VMADDR_CID_HOST).
pub const HOST_CID: u32 = 2;

/// Text that is no link URL.
#[derive(Debug, thiserror::Error)]
#[error(
    "{text:?} is no link URL ({why}): write virtio-serial:{KPI_PORT}, vsock:CID:PORT, tls:HOST:PORT or unix:/PATH"
)]
pub struct LinkUrlError {
    text: String,
    why: &'static str,
}

impl Default for LinkUrl {
    fn default() -> Self {
        Self::VirtioSerial(KPI_PORT.into())
    }
}

impl FromStr for LinkUrl {
    type Err = LinkUrlError;

    fn from_str(text: &str) -> Result<Self, LinkUrlError> {
        let error = |why| LinkUrlError {
            text: text.chars().take(256).collect(),
            why,
        };
        match text.split_once(':') {
            Some(("virtio-serial", name)) => {
                let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
                // A context may name a port, so the name must never lead out of /dev/virtio-ports.
                if name.starts_with("org.vmkpi.") && name.chars().all(plain) {
                    Ok(Self::VirtioSerial(name.into()))
                } else {
                    Err(error("a port's name begins with org.vmkpi."))
                }
            }
            Some(("unix", path)) if path.starts_with('/') => Ok(Self::Unix(path.into())),
            Some(("unix", _)) => Err(error("the path must be absolute")),
            Some(("vsock", address)) => vsock(address).ok_or_else(|| {
                error("CID is 1 or more, PORT 0 or more, both below 4294967295, the wildcard")
            }),
            Some(("tls", address)) => tls(address).ok_or_else(|| {
                error("HOST is a DNS name, or an address, of IPv6 in brackets; PORT is 1 to 65535")
            }),
            _ => Err(error("unknown scheme")),
        }
    }
}

impl fmt::Display for LinkUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::VirtioSerial(name) => write!(f, "virtio-serial:{name}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Vsock { cid, port } => write!(f, "vsock:{cid}:{port}"),
            Self::Tls { host, port } if host.contains(':') => write!(f, "tls:[{host}]:{port}"),
            Self::Tls { host, port } => write!(f, "tls:{host}:{port}"),
        }
    }
}

impl LinkUrl {
    /// Whether a context, which the provider of the infrastructure offers, may name it: a port of vmkpi's own, the
    /// host's end of vsock, or a host on a network, which then has to show a certificate of the CA in the image. Paths
    /// come from the image alone.
    pub fn allowed_in_context(&self) -> bool {
        match self {
            Self::VirtioSerial(_) | Self::Tls { .. } => true,
            Self::Vsock { cid, .. } => *cid == HOST_CID,
            Self::Unix(_) => false,
        }
    }
}

fn vsock(address: &str) -> Option<LinkUrl> {
    let (cid, port) = address.split_once(':')?;
    let number = |text: &str| {
        let digits = text.bytes().all(|b| b.is_ascii_digit());
        let number = digits.then(|| text.parse::<u32>().ok())?;
        number.filter(|n| *n != u32::MAX)
    };
    Some(LinkUrl::Vsock {
        cid: number(cid).filter(|cid| *cid > 0)?,
        port: number(port)?,
    })
}

fn tls(address: &str) -> Option<LinkUrl> {
    let (host, port) = address.rsplit_once(':')?;
    let host = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        Some(inner) => inner.parse::<Ipv6Addr>().ok()?.to_string(),
        None if is_host_name(host) => host.to_ascii_lowercase(),
        None => return None,
    };
    let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    let port = digits.then(|| port.parse::<u16>().ok())?;
    Some(LinkUrl::Tls {
        host,
        port: port.filter(|port| *port > 0)?,
    })
}

/// A DNS name as in URLs (RFC 1123, section 2.1), or an IPv4 address, which looks like one.
fn is_host_name(host: &str) -> bool {
    let label = |label: &str| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        (1..=63).contains(&label.len())
            && label.bytes().all(plain)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    host.len() <= 253 && host.split('.').all(label)
}

text_serde!(LinkUrl);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_and_written() {
        for good in [
            "virtio-serial:org.vmkpi.kpi.0",
            "unix:/run/vmkpi/link.sock",
            "vsock:2:9001",
            "vsock:4294967294:0",
            "tls:kpi.example.org:9001",
            "tls:10.0.2.2:65535",
            "tls:[::1]:9001",
        ] {
            assert_eq!(good.parse::<LinkUrl>().unwrap().to_string(), good);
        }
        for bad in [
            "",
            "unix:relative",
            "virtio-serial:org.qemu.guest_agent.0",
            "virtio-serial:org.vmkpi./../x",
            "http://x",
            "vsock:2",
            "vsock:0:1",
            "vsock:2:",
            "vsock::1",
            "vsock:+2:1",
            "vsock:2:1:3",
            "vsock:4294967295:1",
            "vsock:2:4294967295",
            "vsock:2:99999999999",
            "vsock:host:1",
            "tls:",
            "tls:host",
            "tls:host:",
            "tls:host:0",
            "tls:host:65536",
            "tls:host:+1",
            "tls::9001",
            "tls:::1:9001",
            "tls:[::1]",
            "tls:[host]:1",
            "tls:[::1%eth0]:1",
            "tls:a..b:1",
            "tls:-a:1",
            "tls:a b:1",
            "tls:a/b:1",
            "tls:user@host:1",
            "tls:host:1\n",
        ] {
            assert!(bad.parse::<LinkUrl>().is_err(), "{bad:?}");
        }
        let long = format!("tls:{}:1", ["a".repeat(63).as_str(); 5].join("."));
        assert!(long.parse::<LinkUrl>().is_err(), "no name is that long");
        let same = |a: &str, b: &str| {
            assert_eq!(a.parse::<LinkUrl>().unwrap(), b.parse::<LinkUrl>().unwrap());
        };
        same("tls:KPI.example.org:9001", "tls:kpi.example.org:9001");
        same("tls:[0:0::1]:9001", "tls:[::1]:9001");
    }

    #[test]
    fn a_context_may_name_the_host_and_nothing_local() {
        let allowed = |url: &str| url.parse::<LinkUrl>().unwrap().allowed_in_context();
        assert!(allowed("virtio-serial:org.vmkpi.kpi.0") && allowed("vsock:2:9001"));
        assert!(allowed("tls:kpi.example.org:9001"));
        assert!(!allowed("vsock:3:9001") && !allowed("vsock:1:9001") && !allowed("unix:/x"));
    }
}
