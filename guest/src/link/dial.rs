//! Connecting to a host on a network, without ever waiting: whoever turns the wheel asks what to wait for, and goes on
//! when it is there.
//!
//! ```text
//! resting ── time ──> resolving ──> connecting ──> shaking hands ──> connected
//!    ^                    │          │  └─ the next address │
//!    └── later and later ─┴──────────┴──────────────────────┘
//! ```

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::PollFlags;
use rustls::ClientConnection;
use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use vmkpi::tls::{Channel, MutualFiles, explain, mutual};

use super::connection::{Connection, TlsChannel};
use super::resolve::Resolving;

/// How long one attempt may take, from the name to the end of the handshake.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long one address may take to answer, while there are others.
const ADDRESS_PATIENCE: Duration = Duration::from_secs(3);

/// Waiting before the next attempt: at first, and at most.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// What was sent and is not acknowledged for so long was sent to nobody: a host that has vanished is noticed.
const UNACKNOWLEDGED: Duration = Duration::from_secs(10);

/// The same where nothing is sent: the first probe, and the time between probes.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));

/// Connects to one host, again and again.
pub struct Dialer {
    host: String,
    port: u16,
    files: MutualFiles,
    state: State,
    /// When the attempt that is under way is given up.
    deadline: Instant,
    backoff: Duration,
}

enum State {
    /// Until then.
    Resting(Instant),
    Resolving(Resolving),
    Connecting {
        socket: Socket,
        until: Instant,
        rest: VecDeque<SocketAddr>,
    },
    Shaking(Box<TlsChannel>),
}

impl Dialer {
    /// One that begins at once.
    pub fn new(host: &str, port: u16, files: &MutualFiles) -> Self {
        Self {
            host: host.to_owned(),
            port,
            files: files.clone(),
            state: State::Resting(Instant::now()),
            deadline: Instant::now(),
            backoff: BACKOFF.0,
        }
    }

    /// What to wait for.
    pub fn waits_on(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        match &self.state {
            State::Resting(_) => None,
            State::Resolving(resolving) => Some((resolving.as_fd(), PollFlags::POLLIN)),
            State::Connecting { socket, .. } => Some((socket.as_fd(), PollFlags::POLLOUT)),
            State::Shaking(channel) => {
                let mut events = PollFlags::POLLIN;
                events.set(PollFlags::POLLOUT, channel.wants_write());
                Some((channel.socket().as_fd(), events))
            }
        }
    }

    /// When to go on in any case.
    pub fn due(&self) -> Option<Instant> {
        Some(match &self.state {
            State::Resting(until) => *until,
            State::Connecting { until, .. } => *until,
            State::Resolving(_) | State::Shaking(_) => self.deadline,
        })
    }

    /// The host was the right one: it is not waited for long if it goes.
    pub fn proven(&mut self) {
        self.backoff = BACKOFF.0;
    }

    /// Goes on as far as it goes without waiting.
    ///
    /// # Errors
    /// Why this attempt has failed; the next follows after a while.
    pub fn advance(&mut self, now: Instant) -> io::Result<Option<Connection>> {
        let advanced = self.step(now);
        match advanced {
            Ok(Some(channel)) => {
                // Should it hang up before it has greeted, the next attempt waits all the same.
                self.rest(now);
                Ok(Some(Connection::tls(channel)))
            }
            Ok(None) => Ok(None),
            Err(error) => {
                self.rest(now);
                Err(error)
            }
        }
    }

    fn rest(&mut self, now: Instant) {
        self.state = State::Resting(now + jittered(self.backoff));
        self.backoff = (self.backoff * 2).min(BACKOFF.1);
    }

    fn step(&mut self, now: Instant) -> io::Result<Option<Box<TlsChannel>>> {
        loop {
            let resting = matches!(self.state, State::Resting(_));
            if !resting && now >= self.deadline {
                return Err(ErrorKind::TimedOut.into());
            }
            let state = std::mem::replace(&mut self.state, State::Resting(now));
            let (state, goes_on) = match state {
                State::Resting(until) if now < until => (State::Resting(until), false),
                State::Resting(_) => {
                    self.deadline = now + PATIENCE;
                    (self.begin()?, true)
                }
                State::Resolving(resolving) => match resolving.answer()? {
                    Some(addresses) => (connect(addresses, now, None)?, true),
                    None => (State::Resolving(resolving), false),
                },
                State::Connecting {
                    socket,
                    until,
                    rest,
                } => self.connected(socket, until, rest, now)?,
                State::Shaking(mut channel) => match channel.shake() {
                    Ok(true) => return Ok(Some(channel)),
                    Ok(false) => (State::Shaking(channel), false),
                    Err(error) => return Err(in_words(&error)),
                },
            };
            self.state = state;
            if !goes_on {
                return Ok(None);
            }
        }
    }

    fn begin(&self) -> io::Result<State> {
        match self.host.parse::<IpAddr>() {
            Ok(address) => {
                let address = SocketAddr::new(address, self.port);
                connect(VecDeque::from([address]), Instant::now(), None)
            }
            Err(_) => Resolving::start(&self.host, self.port).map(State::Resolving),
        }
    }

    /// Whether the socket is connected by now.
    fn connected(
        &self,
        socket: Socket,
        until: Instant,
        rest: VecDeque<SocketAddr>,
        now: Instant,
    ) -> io::Result<(State, bool)> {
        if let Some(error) = socket.take_error()? {
            return Ok((connect(rest, now, Some(error))?, true));
        }
        if socket.peer_addr().is_ok() {
            return Ok((self.shake(socket)?, true));
        }
        if now >= until && !rest.is_empty() {
            return Ok((connect(rest, now, None)?, true));
        }
        let until = if now >= until { self.deadline } else { until };
        let state = State::Connecting {
            socket,
            until,
            rest,
        };
        Ok((state, false))
    }

    /// The files are read for each attempt: renewed certificates count without a restart.
    fn shake(&self, socket: Socket) -> io::Result<State> {
        let config = mutual::client(&self.files, ring::default_provider())
            .map_err(|error| io::Error::other(error.to_string()))?;
        let name = ServerName::try_from(self.host.clone())
            .map_err(|_| io::Error::other("the host's name is none that a certificate has"))?;
        let tls = ClientConnection::new(config, name).map_err(io::Error::other)?;
        let channel = Channel::new(TcpStream::from(socket), tls);
        Ok(State::Shaking(Box::new(channel)))
    }
}

fn in_words(error: &io::Error) -> io::Error {
    io::Error::other(explain(error))
}

/// Begins to connect to the first address that can be tried; `before` is why there is another attempt.
fn connect(
    mut addresses: VecDeque<SocketAddr>,
    now: Instant,
    before: Option<io::Error>,
) -> io::Result<State> {
    let mut problem = before;
    while let Some(address) = addresses.pop_front() {
        match try_connect(address) {
            Ok(socket) => {
                return Ok(State::Connecting {
                    socket,
                    until: now + ADDRESS_PATIENCE,
                    rest: addresses,
                });
            }
            Err(error) => problem = Some(error),
        }
    }
    Err(problem.unwrap_or_else(|| io::Error::other("the name has no address")))
}

fn try_connect(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_nonblocking(true)?;
    // A committed row is worth a packet of its own.
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
    let probes = TcpKeepalive::new()
        .with_time(KEEPALIVE.0)
        .with_interval(KEEPALIVE.1);
    socket.set_tcp_keepalive(&probes)?;
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(Errno::EINPROGRESS as i32) => Err(error),
        _ => Ok(socket),
    }
}

/// Half of `wait`, or up to all of it: the VMs of a host that was restarted do not come back in one moment.
fn jittered(wait: Duration) -> Duration {
    let random = getrandom::u32().unwrap_or(0);
    wait / 2 + wait.mul_f64(0.5 * f64::from(random) / f64::from(u32::MAX))
}
