//! What carries the bytes of a link. A host connects to a Unix or a vsock socket; once connected, nothing tells them
//! apart: both are streams that are read, written and waited for, and tokio's stream of Unix asks its socket for no more
//! than that. Over a network the guest connects, by TLS.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustls::ServerConnection;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use vmkpi::tls::Channel;

use super::Address;

/// How long connecting may take: the other end is on this machine.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// "Operation now in progress" on Linux: a socket that does not block is being connected. std's name for it is not
/// stable yet.
const EINPROGRESS: i32 = 115;

/// A socket of a network, as rustls asks for it: what is there now, or `WouldBlock`.
#[derive(Debug)]
pub struct Nonblocking(TcpStream);

impl Read for Nonblocking {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}

impl Write for Nonblocking {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What carries the bytes.
#[derive(Debug)]
pub enum Stream {
    /// A socket of this machine.
    Local(UnixStream),
    /// A guest that has come over a network.
    Tls(Box<TlsStream>),
}

/// A guest that has come over a network.
#[derive(Debug)]
pub struct TlsStream {
    channel: Channel<Nonblocking, ServerConnection>,
    /// Where it comes from.
    pub peer: SocketAddr,
    /// The last read filled its buffer: there may be more that no socket tells of.
    more: bool,
}

impl TlsStream {
    /// Shakes hands, as the one who was connected to.
    ///
    /// # Errors
    /// The handshake fails: the certificate is not right, or not let in, or it is no TLS.
    pub async fn accept(
        socket: TcpStream,
        peer: SocketAddr,
        tls: ServerConnection,
    ) -> io::Result<Self> {
        let mut channel = Channel::new(Nonblocking(socket), tls);
        while !channel.shake()? {
            match channel.wants_write() {
                true => channel.socket().0.writable().await?,
                false => channel.socket().0.readable().await?,
            }
        }
        Ok(Self {
            channel,
            peer,
            more: false,
        })
    }

    /// The certificate that the guest has shown.
    pub fn certificate(&self) -> Option<&rustls::pki_types::CertificateDer<'static>> {
        self.channel.tls().peer_certificates()?.first()
    }
}

impl Drop for TlsStream {
    fn drop(&mut self) {
        self.channel.close();
    }
}

impl Stream {
    /// Waits until there may be something to read.
    pub async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Local(stream) => stream.readable().await,
            Self::Tls(stream) if stream.more => Ok(()),
            Self::Tls(stream) => stream.channel.socket().0.readable().await,
        }
    }

    /// Waits until something may be written.
    pub async fn writable(&self) -> io::Result<()> {
        match self {
            Self::Local(stream) => stream.writable().await,
            Self::Tls(stream) => stream.channel.socket().0.writable().await,
        }
    }

    /// Reads what is there.
    pub fn try_read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Local(stream) => stream.try_read(buffer),
            Self::Tls(stream) => {
                let read = stream.channel.read(buffer);
                stream.more = matches!(&read, Ok(count) if *count == buffer.len());
                read
            }
        }
    }

    /// Writes what is taken now.
    pub fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Local(stream) => stream.try_write(bytes),
            Self::Tls(stream) => stream.channel.write(bytes),
        }
    }

    /// Sends what was taken and is not with the socket yet; whether there was any that still is not.
    pub fn drain(&mut self) -> io::Result<bool> {
        match self {
            Self::Local(_) => Ok(false),
            Self::Tls(stream) => stream.channel.drain().map(|all| !all),
        }
    }

    /// Where it comes from, if that is known by the stream alone.
    pub fn peer(&self) -> Option<SocketAddr> {
        match self {
            Self::Local(_) => None,
            Self::Tls(stream) => Some(stream.peer),
        }
    }
}

/// Connects.
///
/// # Errors
/// Nobody listens there, or not in time; or the kernel has no vsock.
pub async fn connect(address: &Address) -> io::Result<Stream> {
    let connecting = async {
        match address {
            Address::Unix(path) => UnixStream::connect(path).await,
            Address::Vsock { cid, port } => connect_vsock(*cid, *port).await,
            // Guests come by themselves: nobody is connected to.
            Address::Tls(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    };
    timeout(CONNECT_TIMEOUT, connecting)
        .await?
        .map(Stream::Local)
}

async fn connect_vsock(cid: u32, port: u32) -> io::Result<UnixStream> {
    let socket = Socket::new(Domain::VSOCK, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    match socket.connect(&SockAddr::vsock(cid, port)) {
        Err(error) if error.raw_os_error() != Some(EINPROGRESS) => return Err(error),
        _ => {}
    }
    let stream = UnixStream::from_std(OwnedFd::from(socket).into())?;
    stream.writable().await?;
    match stream.take_error()? {
        Some(error) => Err(error),
        None => Ok(stream),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// VMADDR_CID_LOCAL, and a port of this process.
    fn loopback() -> (u32, u32) {
        (1, 3_000_000 + std::process::id())
    }

    fn listen(port: u32) -> io::Result<Socket> {
        let listener = Socket::new(Domain::VSOCK, Type::STREAM, None)?;
        listener.bind(&SockAddr::vsock(u32::MAX, port))?;
        listener.listen(1)?;
        Ok(listener)
    }

    #[tokio::test]
    async fn a_guest_that_is_not_there_is_an_error_in_bounded_time() {
        let (cid, port) = loopback();
        let begun = std::time::Instant::now();
        let address = Address::Vsock { cid, port };
        connect(&address).await.unwrap_err();
        assert!(begun.elapsed() < Duration::from_secs(30));
    }

    #[tokio::test]
    async fn a_vsock_stream_is_read_and_written() {
        let (cid, port) = loopback();
        let port = port + 1;
        let address = Address::Vsock { cid, port };
        let connected = match listen(port) {
            Ok(listener) => connect(&address).await.map(|stream| (listener, stream)),
            Err(error) => Err(error),
        };
        let (listener, mut stream) = match connected {
            Ok(connected) => connected,
            Err(error) => {
                eprintln!("skipped: no vsock loopback on this machine: {error}");
                return;
            }
        };
        let (mut guest, _) = listener.accept().unwrap();
        guest.write_all(b"from the guest").unwrap();
        stream.readable().await.unwrap();
        let mut bytes = [0; 64];
        let count = stream.try_read(&mut bytes).unwrap();
        assert_eq!(&bytes[..count], b"from the guest");
        stream.try_write(b"to the guest").unwrap();
        let count = guest.read(&mut bytes).unwrap();
        assert_eq!(&bytes[..count], b"to the guest");
    }
}
