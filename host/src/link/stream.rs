//! Connecting to a guest, by a Unix or a vsock socket. Once connected, nothing tells them apart: both are streams
//! that are read, written and waited for, and tokio's stream of Unix asks its socket for no more than that.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::Address;

/// How long connecting may take: the other end is on this machine.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// "Operation now in progress" on Linux: a socket that does not block is being connected. std's name for it is not
/// stable yet.
const EINPROGRESS: i32 = 115;

/// Connects.
///
/// # Errors
/// Nobody listens there, or not in time; or the kernel has no vsock.
pub async fn connect(address: &Address) -> io::Result<UnixStream> {
    let connecting = async {
        match address {
            Address::Unix(path) => UnixStream::connect(path).await,
            Address::Vsock { cid, port } => connect_vsock(*cid, *port).await,
        }
    };
    timeout(CONNECT_TIMEOUT, connecting).await?
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
    use std::io::{Read as _, Write as _};

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
        let (listener, stream) = match connected {
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
