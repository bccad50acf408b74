//! Where a link goes: `virtio-serial:NAME` (no guest network; the default), `vsock:CID:PORT` (sockets between a
//! guest and its host, vsock(7)) or `unix:PATH` (local).

use std::fmt;
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
}

/// The context id of the host (VMADDR_CID_HOST).
pub const HOST_CID: u32 = 2;

/// Text that is no link URL.
#[derive(Debug, thiserror::Error)]
#[error(
    "{text:?} is no link URL ({why}): write virtio-serial:{KPI_PORT}, vsock:CID:PORT or unix:/PATH"
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
            Some(("tls", _)) => Err(error("links over a network are not built yet")),
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
        }
    }
}

impl LinkUrl {
    /// Whether a context, which the provider of the infrastructure offers, may name it: a port of vmkpi's own, or the
    /// host's end of vsock. Paths come from the image alone.
    pub fn allowed_in_context(&self) -> bool {
        match self {
            Self::VirtioSerial(_) => true,
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
        ] {
            assert!(bad.parse::<LinkUrl>().is_err(), "{bad:?}");
        }
        let tls = "tls:example.org:9001".parse::<LinkUrl>().unwrap_err();
        assert!(tls.to_string().contains("not built yet"), "{tls}");
    }

    #[test]
    fn a_context_may_name_the_host_and_nothing_local() {
        let allowed = |url: &str| url.parse::<LinkUrl>().unwrap().allowed_in_context();
        assert!(allowed("virtio-serial:org.vmkpi.kpi.0") && allowed("vsock:2:9001"));
        assert!(!allowed("vsock:3:9001") && !allowed("vsock:1:9001") && !allowed("unix:/x"));
    }
}
