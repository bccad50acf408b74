//! Where the bytes of the link come from: a Unix socket on which the guest listens (as QEMU does for the
//! host's end of a virtio-serial port, so that the host always connects), a vsock port, likewise, or a
//! virtio-serial port.

use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::fcntl::OFlag;
use socket2::{Domain, SockAddr, Socket, Type};
use vmkpi::link::{LineReader, LinkUrl};

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

/// Bytes read in one turn.
const READ_BYTES: usize = 16 << 10;

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
}

impl Transport {
    /// Makes the socket, or notes the port.
    ///
    /// # Errors
    /// The socket cannot be made, or another program listens there.
    pub fn open(url: &LinkUrl) -> anyhow::Result<Self> {
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
        }
    }

    /// What becomes readable when a host connects.
    pub fn listener(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Unix { listener, .. } => Some(listener.as_fd()),
            Self::Vsock { listener, .. } => Some(listener.as_fd()),
            Self::Port { .. } => None,
        }
    }

    /// A new connection, if there is one. On a socket the newest wins; a port has but one.
    ///
    /// # Errors
    /// The port is not there; it is looked for again.
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
                Ok(Some(Connection::new(file, true)))
            }
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

/// A connection to a host.
pub struct Connection {
    file: File,
    port: bool,
    /// What arrived.
    pub reader: LineReader,
    /// What is to be sent; whole lines are added.
    pub out: Vec<u8>,
    sent: usize,
    /// A port: there is no reader on the other side.
    hung_up: bool,
    full: bool,
    /// Whether the reader may hold messages that were not heard yet.
    pub unheard: bool,
    /// Whether a bad line was logged.
    pub complained: bool,
}

impl Connection {
    fn socket(socket: OwnedFd) -> Self {
        Self::new(File::from(socket), false)
    }

    fn new(file: File, port: bool) -> Self {
        Self {
            file,
            port,
            reader: LineReader::new(),
            // Whoever joins in the middle of a line discards up to the next newline: here it is.
            out: vec![b'\n'],
            sent: 0,
            hung_up: false,
            full: false,
            unheard: false,
            complained: false,
        }
    }

    /// Bytes still to be sent.
    pub fn unsent(&self) -> usize {
        self.out.len() - self.sent
    }

    /// Whether more was there than one turn reads.
    pub fn has_more(&self) -> bool {
        self.full
    }

    /// Whether this is a port that nobody on the host has opened.
    pub fn is_idle_port(&self) -> bool {
        self.port && self.hung_up
    }

    /// Takes what has arrived. Says whether the host is still there; a port stays open without one, as
    /// the host's end may be opened again at any time.
    pub fn receive(&mut self) -> bool {
        let mut bytes = [0; READ_BYTES];
        self.full = false;
        match self.file.read(&mut bytes) {
            // Nobody on the host has the port open: whoever comes next begins a session of its own, with
            // nothing left over from the last.
            Ok(0) if self.port => {
                self.hung_up = true;
                self.reader = LineReader::new();
                self.out = vec![b'\n'];
                self.sent = 0;
                true
            }
            Ok(0) => false,
            Ok(length) => {
                self.hung_up = false;
                self.full = length == bytes.len();
                self.reader.push(&bytes[..length]);
                true
            }
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock => {
                    self.hung_up = false;
                    true
                }
                ErrorKind::Interrupted => true,
                _ => false,
            },
        }
    }

    /// Sends what the other end takes. Says whether the host is still there.
    pub fn send(&mut self) -> bool {
        if self.is_idle_port() {
            return true;
        }
        while self.unsent() > 0 {
            match self.file.write(&self.out[self.sent..]) {
                Ok(0) => break,
                Ok(length) => self.sent += length,
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => break,
                    ErrorKind::Interrupted => {}
                    _ => return false,
                },
            }
        }
        if self.unsent() == 0 {
            self.out.clear();
            self.sent = 0;
            // What a long page needed is not held for ever.
            self.out.shrink_to(64 << 10);
        }
        true
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    fn port() -> (Connection, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (
            Connection::new(File::from(OwnedFd::from(ours)), true),
            theirs,
        )
    }

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
    fn a_port_without_a_reader_stays_and_keeps_nothing_of_the_last_session() {
        let (mut port, host) = port();
        assert!(port.receive() && !port.is_idle_port());
        port.out.extend_from_slice(b"half a page");
        drop(host);
        assert!(port.receive() && port.is_idle_port());
        assert!(port.receive() && port.is_idle_port());
        assert_eq!(
            port.out, b"\n",
            "whoever comes next begins at a line's beginning"
        );
        assert!(port.send(), "nothing is sent into the void");
        assert_eq!(port.unsent(), 1);
    }

    #[test]
    fn a_host_that_does_not_read_is_waited_for() {
        let (mut port, host) = port();
        port.out = vec![b'x'; 4 << 20];
        assert!(port.send());
        assert!(port.unsent() > 0);
        drop(host);
        assert!(!port.send() || port.unsent() > 0);
    }

    #[test]
    fn a_port_that_is_not_there_is_looked_for_again() {
        let mut transport =
            Transport::open(&"virtio-serial:org.vmkpi.none.0".parse().unwrap()).unwrap();
        assert!(transport.accept(false).is_err());
        assert!(
            transport.accept(false).unwrap().is_none(),
            "not in every turn"
        );
    }
}
