//! Where the bytes of the link come from: a Unix socket on which the guest listens (as QEMU does for the
//! host's end of a virtio-serial port, so that the host always connects), a vsock port, likewise, a
//! virtio-serial port, or a host on a network, to which the guest connects.

use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::fcntl::OFlag;
use nix::poll::PollFlags;
use socket2::{Domain, SockAddr, Socket, Type};
use vmkpi::link::LinkUrl;
use vmkpi::tls::MutualFiles;

use super::connection::Connection;
use super::dial::Dialer;

/// Where udev names virtio-serial ports.
const PORTS: &str = "/dev/virtio-ports";

/// Where the kernel names them, udev or not.
const KERNEL_PORTS: &str = "/sys/class/virtio-ports";

/// How often a port that is not there, or busy, is looked for.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Every context id of this machine (VMADDR_CID_ANY).
const ANY_CID: u32 = u32::MAX;

/// Connections that wait to be accepted; the newest wins anyway.
const BACKLOG: i32 = 8;

/// What to connect by.
pub enum Transport {
    /// A listening socket.
    Unix {
        /// The socket.
        listener: UnixListener,
        /// Its path, removed at the end.
        path: PathBuf,
    },
    /// A listening vsock port.
    Vsock {
        /// The socket.
        listener: Socket,
        /// Who may connect.
        cid: u32,
    },
    /// A port.
    Port {
        /// Its name.
        name: String,
        /// When to look for it again.
        next_look: Instant,
    },
    /// A host on a network.
    Tls(Box<Dialer>),
}

impl Transport {
    /// Makes the socket, or notes where to go. `files` are for a host on a network.
    ///
    /// # Errors
    /// The socket cannot be made, or another program listens there; or there are no certificates to show.
    pub fn open(url: &LinkUrl, files: Option<&MutualFiles>) -> anyhow::Result<Self> {
        match url {
            LinkUrl::Unix(path) => {
                listen(path).with_context(|| format!("cannot listen at {}", path.display()))
            }
            LinkUrl::Vsock { cid, port } => {
                listen_vsock(*cid, *port).with_context(|| format!("cannot listen at {url}"))
            }
            LinkUrl::VirtioSerial(name) => Ok(Self::Port {
                name: name.clone(),
                next_look: Instant::now(),
            }),
            LinkUrl::Tls { host, port } => {
                let files = files.context(
                    "there is no certificate to show: set cert_file, key_file and ca_file in [link_tls]",
                )?;
                Ok(Self::Tls(Box::new(Dialer::new(host, *port, files))))
            }
        }
    }

    /// What is ready when [`Self::accept`] has something to do, while a host is connected or not.
    pub fn waits_on(&self, connected: bool) -> Option<(BorrowedFd<'_>, PollFlags)> {
        match self {
            Self::Unix { listener, .. } => Some((listener.as_fd(), PollFlags::POLLIN)),
            Self::Vsock { listener, .. } => Some((listener.as_fd(), PollFlags::POLLIN)),
            Self::Port { .. } => None,
            Self::Tls(dialer) => dialer.waits_on().filter(|_| !connected),
        }
    }

    /// When [`Self::accept`] has something to do in any case, while no host is connected.
    pub fn due(&self) -> Option<Instant> {
        match self {
            Self::Unix { .. } | Self::Vsock { .. } => None,
            Self::Port { next_look, .. } => Some(*next_look),
            Self::Tls(dialer) => dialer.due(),
        }
    }

    /// A host has greeted: should it go, it is looked for again at once.
    pub fn proven(&mut self) {
        if let Self::Tls(dialer) = self {
            dialer.proven();
        }
    }

    /// A new connection, if there is one. On a socket the newest wins; a port has but one, and to a host on a network
    /// there is but one.
    ///
    /// # Errors
    /// The port is not there, or the host cannot be reached; it is tried again.
    pub fn accept(&mut self, connected: bool) -> std::io::Result<Option<Connection>> {
        match self {
            Self::Unix { listener, .. } => match listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(true)?;
                    Ok(Some(Connection::socket(stream.into())))
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
                Err(error) => Err(error),
            },
            Self::Vsock { listener, cid } => accept_vsock(listener, *cid),
            Self::Port { name, next_look } => {
                if connected || Instant::now() < *next_look {
                    return Ok(None);
                }
                *next_look = Instant::now() + LOOK_INTERVAL;
                let file = File::options()
                    .read(true)
                    .write(true)
                    .custom_flags(OFlag::O_NONBLOCK.bits())
                    .open(device_of(name, Path::new(KERNEL_PORTS)))?;
                Ok(Some(Connection::port(file)))
            }
            Self::Tls(_) if connected => Ok(None),
            Self::Tls(dialer) => dialer.advance(Instant::now()),
        }
    }

    /// Takes the socket away.
    pub fn close(self) {
        if let Self::Unix { path, .. } = self {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// The device of the port `name`: udev's link, or, in a guest without udev, what the kernel says.
fn device_of(name: &str, kernel_ports: &Path) -> PathBuf {
    let by_udev = Path::new(PORTS).join(name);
    if by_udev.exists() {
        return by_udev;
    }
    let is_it = |port: &std::fs::DirEntry| {
        std::fs::read_to_string(port.path().join("name")).is_ok_and(|said| said.trim_end() == name)
    };
    let ports = std::fs::read_dir(kernel_ports).into_iter().flatten();
    let found = ports.flatten().find(is_it);
    found.map_or(by_udev, |port| Path::new("/dev").join(port.file_name()))
}

fn listen(path: &Path) -> anyhow::Result<Transport> {
    if let Ok(found) = std::fs::symlink_metadata(path) {
        if !found.file_type().is_socket() {
            bail!("something that is no socket is there");
        }
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            bail!("another program listens there");
        }
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok(Transport::Unix {
        listener,
        path: path.into(),
    })
}

fn listen_vsock(cid: u32, port: u32) -> anyhow::Result<Transport> {
    let listener = Socket::new(Domain::VSOCK, Type::STREAM, None)
        .context("this kernel has no vsock (AF_VSOCK)")?;
    listener.bind(&SockAddr::vsock(ANY_CID, port))?;
    listener.listen(BACKLOG)?;
    listener.set_nonblocking(true)?;
    Ok(Transport::Vsock { listener, cid })
}

/// A connection, if it comes from `cid`: programs in the guest could connect as well, where the kernel loops
/// back.
fn accept_vsock(listener: &Socket, cid: u32) -> std::io::Result<Option<Connection>> {
    let (stream, from) = match listener.accept() {
        Ok(accepted) => accepted,
        Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
        Err(error) => return Err(error),
    };
    if from.as_vsock_address().is_none_or(|(from, _)| from != cid) {
        tracing::warn!(
            ?from,
            allowed = cid,
            "a connection from another context id is refused"
        );
        return Ok(None);
    }
    stream.set_nonblocking(true)?;
    Ok(Some(Connection::socket(stream.into())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_found_without_udev() {
        let sys = tempfile::tempdir().unwrap();
        for (device, name) in [
            ("vport0p1", "org.qemu.guest_agent.0\n"),
            ("vport1p2", "org.vmkpi.kpi.7\n"),
        ] {
            std::fs::create_dir(sys.path().join(device)).unwrap();
            std::fs::write(sys.path().join(device).join("name"), name).unwrap();
        }
        let found = device_of("org.vmkpi.kpi.7", sys.path());
        assert_eq!(found, Path::new("/dev/vport1p2"));
        let absent = device_of("org.vmkpi.kpi.8", sys.path());
        assert_eq!(absent, Path::new("/dev/virtio-ports/org.vmkpi.kpi.8"));
    }

    #[test]
    fn a_port_that_is_not_there_is_looked_for_again() {
        let mut transport =
            Transport::open(&"virtio-serial:org.vmkpi.none.0".parse().unwrap(), None).unwrap();
        assert!(transport.accept(false).is_err());
        assert!(
            transport.accept(false).unwrap().is_none(),
            "not in every turn"
        );
    }
}
