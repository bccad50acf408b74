//! A connection to a host: what has arrived and what is to be sent, over whatever carries it.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::poll::PollFlags;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use rustls::ClientConnection;
use vmkpi::link::LineReader;
use vmkpi::tls::{Channel, explain};

/// Bytes read in one turn.
const READ_BYTES: usize = 16 << 10;

/// TLS to a host on a network.
pub type TlsChannel = Channel<TcpStream, ClientConnection>;

/// What carries the bytes.
enum Stream {
    /// A socket of this machine, or a port.
    Plain(File),
    /// A socket of a network.
    Tls(Box<TlsChannel>),
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Plain(file) => file.read(buffer),
            Self::Tls(channel) => channel.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Plain(file) => file.write(bytes),
            Self::Tls(channel) => channel.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self {
            Self::Plain(file) => file.flush(),
            Self::Tls(channel) => channel.flush(),
        }
    }
}

/// A connection to a host.
pub struct Connection {
    stream: Stream,
    is_port: bool,
    /// Of a port: tells, once, when somebody opens the host's end. Polling the port would spin while there is nobody.
    edge: Option<Epoll>,
    /// What arrived.
    pub reader: LineReader,
    /// What is to be sent; whole lines are added.
    pub out: Vec<u8>,
    sent: usize,
    /// A port: there is no reader on the other side.
    hung_up: bool,
    full: bool,
    /// Bytes that have arrived.
    pub received: usize,
    /// Whether the reader may hold messages that were not heard yet.
    pub unheard: bool,
    /// Whether a bad line was logged.
    pub complained: bool,
    /// Why it has ended, if that is worth a word.
    pub problem: Option<String>,
}

impl Connection {
    /// A socket of this machine, which does not block.
    pub fn socket(socket: OwnedFd) -> Self {
        Self::new(Stream::Plain(File::from(socket)), None)
    }

    /// A host on a network, after the handshake.
    pub fn tls(channel: Box<TlsChannel>) -> Self {
        Self::new(Stream::Tls(channel), None)
    }

    /// A port, which does not block.
    pub fn port(file: File) -> Self {
        let watch = || {
            let edge = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
            let event = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 0);
            edge.add(&file, event)?;
            nix::Result::Ok(edge)
        };
        let edge = match watch() {
            Ok(edge) => Some(edge),
            Err(error) => {
                tracing::warn!(%error, "a host that opens the port is noticed a little later");
                None
            }
        };
        let mut connection = Self::new(Stream::Plain(file), edge);
        connection.is_port = true;
        connection
    }

    fn new(stream: Stream, edge: Option<Epoll>) -> Self {
        Self {
            stream,
            edge,
            is_port: false,
            reader: LineReader::new(),
            // Whoever joins in the middle of a line discards up to the next newline: here it is.
            out: vec![b'\n'],
            sent: 0,
            hung_up: false,
            full: false,
            received: 0,
            unheard: false,
            complained: false,
            problem: None,
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
        self.is_port && self.hung_up
    }

    /// What to wait for; `listens`: whether what the host says would be taken.
    pub fn waits_on(&self, listens: bool) -> Option<(BorrowedFd<'_>, PollFlags)> {
        if self.is_idle_port() {
            let edge = self.edge.as_ref()?;
            return Some((edge.0.as_fd(), PollFlags::POLLIN));
        }
        let mut events = PollFlags::empty();
        events.set(PollFlags::POLLIN, listens);
        let pending = matches!(&self.stream, Stream::Tls(channel) if channel.wants_write());
        events.set(PollFlags::POLLOUT, self.unsent() > 0 || pending);
        // A host that is not listened to may have hung up: polling it would spin.
        (!events.is_empty()).then(|| (self.as_fd(), events))
    }

    /// Takes what has arrived. Says whether the host is still there; a port stays open without one, as
    /// the host's end may be opened again at any time.
    pub fn receive(&mut self) -> bool {
        self.forget_edge();
        let mut bytes = [0; READ_BYTES];
        self.full = false;
        match self.stream.read(&mut bytes) {
            // Nobody on the host has the port open: whoever comes next begins a session of its own, with
            // nothing left over from the last.
            Ok(0) if self.is_port => {
                self.hung_up = true;
                self.reader = LineReader::new();
                self.forget_unsent();
                true
            }
            Ok(0) => false,
            Ok(length) => {
                self.hung_up = false;
                self.full = length == bytes.len();
                self.received = self.received.saturating_add(length);
                self.reader.push(&bytes[..length]);
                true
            }
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock => {
                    self.hung_up = false;
                    true
                }
                ErrorKind::Interrupted => true,
                _ => self.fail(&error),
            },
        }
    }

    /// Drops what was not sent yet, also if a line breaks off: the host skips it, as the next line begins anew.
    pub fn forget_unsent(&mut self) {
        self.out = vec![b'\n'];
        self.sent = 0;
    }

    /// What the bell of a port has rung for is looked at now.
    fn forget_edge(&mut self) {
        if let Some(edge) = &self.edge {
            let _ = edge.wait(&mut [EpollEvent::empty()], EpollTimeout::ZERO);
        }
    }

    fn fail(&mut self, error: &std::io::Error) -> bool {
        if matches!(self.stream, Stream::Tls(_)) {
            self.problem = Some(explain(error));
        }
        false
    }

    /// Sends what the other end takes. Says whether the host is still there.
    pub fn send(&mut self) -> bool {
        if self.is_idle_port() {
            return true;
        }
        if let Stream::Tls(channel) = &mut self.stream
            && let Err(error) = channel.drain()
        {
            return self.fail(&error);
        }
        while self.unsent() > 0 {
            match self.stream.write(&self.out[self.sent..]) {
                Ok(0) => break,
                Ok(length) => self.sent += length,
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => break,
                    ErrorKind::Interrupted => {}
                    _ => return self.fail(&error),
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

    /// Hangs up in order.
    pub fn close(mut self) {
        if let Stream::Tls(channel) = &mut self.stream {
            channel.close();
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.stream {
            Stream::Plain(file) => file.as_fd(),
            Stream::Tls(channel) => channel.socket().as_fd(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::poll::{PollFd, PollTimeout, poll};
    use std::os::unix::net::UnixStream;

    fn port() -> (Connection, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (Connection::port(File::from(OwnedFd::from(ours))), theirs)
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
    fn a_port_without_a_reader_is_waited_for_and_does_not_spin() {
        let (mut port, host) = port();
        drop(host);
        assert!(port.receive() && port.is_idle_port());
        let ready = |port: &Connection| {
            let (fd, events) = port.waits_on(true).unwrap();
            poll(&mut [PollFd::new(fd, events)], PollTimeout::ZERO).unwrap()
        };
        assert!(port.receive());
        assert_eq!(ready(&port), 0, "the hang-up is told once");
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
}
