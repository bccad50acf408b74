//! The socket to a guest: of Unix or of vsock. Both are file descriptors that become ready, and after
//! connecting nothing tells them apart.

use std::io::{self, Read as _, Write as _};
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::Address;

/// How long connecting may take: the other end is on this machine.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// "Operation now in progress" on Linux: a socket that does not block is being connected. std's name for it is not
/// stable yet.
const EINPROGRESS: i32 = 115;

/// A connected socket.
#[derive(Debug)]
pub struct Stream(AsyncFd<Socket>);

impl Stream {
    /// Connects.
    ///
    /// # Errors
    /// Nobody listens there, or not in time.
    pub async fn connect(address: &Address) -> io::Result<Self> {
        timeout(CONNECT_TIMEOUT, async {
            match address {
                Address::Unix(path) => {
                    let stream = UnixStream::connect(path).await?.into_std()?;
                    Self::new(Socket::from(std::os::fd::OwnedFd::from(stream)))
                }
                Address::Vsock { cid, port } => Self::connect_vsock(*cid, *port).await,
            }
        })
        .await?
    }

    fn new(socket: Socket) -> io::Result<Self> {
        Ok(Self(AsyncFd::register(socket)?))
    }

    async fn connect_vsock(cid: u32, port: u32) -> io::Result<Self> {
        let socket = Socket::new(Domain::VSOCK, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        match socket.connect(&SockAddr::vsock(cid, port)) {
            Err(error) if error.raw_os_error() != Some(EINPROGRESS) => return Err(error),
            _ => {}
        }
        let stream = Self::new(socket)?;
        stream.writable().await?;
        match stream.0.get_ref().take_error()? {
            Some(error) => Err(error),
            None => Ok(stream),
        }
    }

    /// Waits until there may be something to read.
    ///
    /// # Errors
    /// The runtime goes down.
    pub async fn readable(&self) -> io::Result<()> {
        self.0
            .readable()
            .await
            .map(|mut ready| ready.retain_ready())
    }

    /// Waits until something may be written.
    ///
    /// # Errors
    /// The runtime goes down.
    pub async fn writable(&self) -> io::Result<()> {
        self.0
            .writable()
            .await
            .map(|mut ready| ready.retain_ready())
    }

    /// Reads what is there.
    ///
    /// # Errors
    /// `WouldBlock` if there is nothing, or what the socket says.
    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_io(tokio::io::Interest::READABLE, |mut socket| {
            socket.read(buffer)
        })
    }

    /// Writes what is taken.
    ///
    /// # Errors
    /// `WouldBlock` if nothing is, or what the socket says.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_io(tokio::io::Interest::WRITABLE, |mut socket| {
            socket.write(bytes)
        })
    }
}
