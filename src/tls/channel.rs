//! TLS over a socket that does not block: what the socket gives and takes now, and no more. Both ends of the link use
//! it, each with its own way of waiting.

use std::io::{self, Read, Write};
use std::ops::DerefMut;

use rustls::{ConnectionCommon, SideData};

/// Bytes that the other end may send before it is known: certificates of four CAs are some 8 KiB.
const MAX_HANDSHAKE_BYTES: usize = 64 << 10;

/// A socket and the TLS over it, of one side: a guest has no use for a server's.
#[derive(Debug)]
pub struct Channel<S, T> {
    socket: S,
    tls: T,
    /// Bytes read before the handshake was over.
    greeting_bytes: usize,
}

impl<S, T, D> Channel<S, T>
where
    S: Read + Write,
    T: DerefMut<Target = ConnectionCommon<D>>,
    D: SideData,
{
    /// TLS that has not begun, over a socket that is connected and does not block.
    pub fn new(socket: S, tls: T) -> Self {
        Self {
            socket,
            tls,
            greeting_bytes: 0,
        }
    }

    /// The socket.
    pub fn socket(&self) -> &S {
        &self.socket
    }

    /// The TLS.
    pub fn tls(&self) -> &T {
        &self.tls
    }

    /// Whether there are bytes for the socket, which it has not taken yet.
    pub fn wants_write(&self) -> bool {
        self.tls.wants_write()
    }

    /// Goes on with the handshake as far as the socket permits; whether it is over, as far as this end knows: a client
    /// whose certificate is refused hears so when it reads.
    ///
    /// # Errors
    /// The handshake has failed, the other end has gone, or it sends too much.
    pub fn shake(&mut self) -> io::Result<bool> {
        loop {
            if !self.drain()? {
                return Ok(false);
            }
            if !self.tls.is_handshaking() {
                return Ok(true);
            }
            match self.tls.read_tls(&mut self.socket) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.greeting_bytes += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            self.process()?;
            if self.tls.is_handshaking() && self.greeting_bytes > MAX_HANDSHAKE_BYTES {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "more bytes than a handshake has",
                ));
            }
        }
    }

    /// Sends what waits, as far as the socket takes it; whether nothing waits any more.
    ///
    /// # Errors
    /// The socket fails.
    pub fn drain(&mut self) -> io::Result<bool> {
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut self.socket) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Says goodbye, so that the other end knows that nothing was cut off. Whether it is heard is not waited for.
    pub fn close(&mut self) {
        self.tls.send_close_notify();
        let _ = self.drain();
    }

    /// Reads records; an alert for the other end is sent before the error is returned.
    fn process(&mut self) -> io::Result<()> {
        let processed = self.tls.process_new_packets();
        processed.map(drop).map_err(|error| {
            let _ = self.drain();
            io::Error::new(io::ErrorKind::InvalidData, error)
        })
    }

    /// What is there already, decrypted; `None`: nothing yet.
    fn take(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match self.tls.reader().read(buffer) {
            Ok(count) => Ok(Some(count)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl<S, T, D> Read for Channel<S, T>
where
    S: Read + Write,
    T: DerefMut<Target = ConnectionCommon<D>>,
    D: SideData,
{
    /// Fills the buffer with what is there now, so that nothing decrypted is left behind unless it is full. No bytes:
    /// the other end has said goodbye.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        loop {
            match self.take(&mut buffer[filled..]) {
                Ok(Some(0)) => return Ok(filled),
                Ok(Some(count)) => filled += count,
                Ok(None) => {}
                // What came before counts; the next call fails again.
                Err(_) if filled > 0 => return Ok(filled),
                Err(error) => return Err(error),
            }
            if filled == buffer.len() {
                return Ok(filled);
            }
            match self.tls.read_tls(&mut self.socket) {
                // Its end is the reader's to tell: with or without a goodbye.
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) if filled > 0 => return Ok(filled),
                Err(error) => return Err(error),
            }
            match self.process() {
                Err(_) if filled > 0 => return Ok(filled),
                processed => processed?,
            }
        }
    }
}

impl<S, T, D> Write for Channel<S, T>
where
    S: Read + Write,
    T: DerefMut<Target = ConnectionCommon<D>>,
    D: SideData,
{
    /// Takes more only when all before is with the socket: what waits in here could not be taken back.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.drain()? {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let count = self.tls.writer().write(bytes)?;
        self.drain()?;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        match self.drain()? {
            true => Ok(()),
            false => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}
