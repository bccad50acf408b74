//! Where a link goes: `virtio-serial:NAME` (no guest network; the default) or `unix:PATH` (local).

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
}

/// Text that is no link URL.
#[derive(Debug, thiserror::Error)]
#[error("{text:?} is no link URL ({why}): write virtio-serial:{KPI_PORT} or unix:/PATH")]
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
            text: text.into(),
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
            _ => Err(error("unknown scheme")),
        }
    }
}

impl fmt::Display for LinkUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::VirtioSerial(name) => write!(f, "virtio-serial:{name}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

text_serde!(LinkUrl);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_and_written() {
        for good in ["virtio-serial:org.vmkpi.kpi.0", "unix:/run/vmkpi/link.sock"] {
            assert_eq!(good.parse::<LinkUrl>().unwrap().to_string(), good);
        }
        for bad in [
            "",
            "unix:relative",
            "virtio-serial:org.qemu.guest_agent.0",
            "virtio-serial:org.vmkpi./../x",
            "http://x",
        ] {
            assert!(bad.parse::<LinkUrl>().is_err(), "{bad:?}");
        }
    }
}
