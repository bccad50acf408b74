//! An endpoint that the context names and that is not in force yet. It is tried beside the one in force, and takes its
//! place when a host has greeted there: whoever names an endpoint that leads nowhere cuts nobody off.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use nix::poll::PollFlags;
use vmkpi::link::{HostMessage, LinkUrl, MAX_LINE_BYTES, VERSION};
use vmkpi::tls::MutualFiles;

use super::connection::Connection;
use super::transport::Transport;

/// How long a host may take to greet after it was connected to.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long to wait before what could not be opened is opened again.
const AGAIN: Duration = Duration::from_secs(1);

/// Bytes that a host may send before it greets: what an earlier session left in a port may come first.
const MAX_BYTES: usize = 2 * MAX_LINE_BYTES;

/// What became of a turn.
pub enum Turn {
    /// Nothing yet.
    Waiting,
    /// It cannot be used now, for this reason; it is tried again.
    Failed(String),
    /// A host has greeted.
    Greeted(Box<Greeted>),
}

/// What takes the place of the endpoint in force.
pub struct Greeted {
    /// What the connection was made by.
    pub transport: Transport,
    /// The connection.
    pub connection: Connection,
    /// The host's greeting.
    pub hello: HostMessage,
}

/// An endpoint that is tried.
pub struct Prospect {
    /// Where it is.
    pub url: LinkUrl,
    files: Option<MutualFiles>,
    transport: Option<Transport>,
    connection: Option<Connection>,
    received: usize,
    /// When it is opened again, or what is open has had its time.
    until: Instant,
}

impl Prospect {
    /// Begins to try `url` in the next turn.
    pub fn new(url: LinkUrl, files: Option<MutualFiles>) -> Self {
        Self {
            url,
            files,
            transport: None,
            connection: None,
            received: 0,
            until: Instant::now(),
        }
    }

    /// What to wait for.
    pub fn waits_on(&self) -> Vec<(BorrowedFd<'_>, PollFlags)> {
        let connection = self.connection.as_ref().and_then(|c| c.waits_on(true));
        let transport = self.transport.as_ref();
        let door = transport.and_then(|t| t.waits_on(self.connection.is_some()));
        connection.into_iter().chain(door).collect()
    }

    /// When there is something to do in any case.
    pub fn due(&self) -> Option<Instant> {
        let door = self.transport.as_ref().and_then(Transport::due);
        match (&self.connection, &self.transport) {
            (Some(connection), _) if connection.is_idle_port() => None,
            (Some(connection), _) if connection.has_more() => Some(Instant::now()),
            (Some(_), _) | (None, None) => Some(self.until),
            (None, Some(_)) => door,
        }
    }

    /// Goes on as far as it goes without waiting.
    pub fn turn(&mut self, now: Instant) -> Turn {
        if let Err(why) = self.open(now) {
            return Turn::Failed(why);
        }
        let Some(connection) = &mut self.connection else {
            return Turn::Waiting;
        };
        if !connection.receive() {
            let why = connection.problem.take();
            return self.fail(&why.unwrap_or_else(|| "it has hung up before it greeted".into()));
        }
        if connection.is_idle_port() {
            self.until = now + PATIENCE;
            self.received = 0;
            return Turn::Waiting;
        }
        match hello(connection, &mut self.received) {
            Ok(Some(hello)) => match self.take(hello) {
                Some(greeted) => Turn::Greeted(Box::new(greeted)),
                None => Turn::Waiting,
            },
            Err(why) => self.fail(why),
            Ok(None) if now >= self.until => self.fail("it has not greeted in time"),
            Ok(None) => Turn::Waiting,
        }
    }

    /// Opens it, and takes a connection. The line break that begins one is sent, so that the other end is there.
    fn open(&mut self, now: Instant) -> Result<(), String> {
        if self.transport.is_none() {
            if now < self.until {
                return Ok(());
            }
            self.until = now + AGAIN;
            let opened = Transport::open(&self.url, self.files.as_ref());
            self.transport = Some(opened.map_err(|error| format!("{error:#}"))?);
        }
        let Some(transport) = &mut self.transport else {
            return Ok(());
        };
        match transport.accept(self.connection.is_some()) {
            Ok(Some(mut connection)) => {
                let sends = connection.send();
                self.connection = Some(connection);
                (self.received, self.until) = (0, now + PATIENCE);
                sends.then_some(()).ok_or_else(|| "it has hung up".into())
            }
            Ok(None) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }

    fn fail(&mut self, why: &str) -> Turn {
        if let Some(connection) = self.connection.take() {
            connection.close();
        }
        Turn::Failed(why.to_owned())
    }

    fn take(&mut self, hello: HostMessage) -> Option<Greeted> {
        Some(Greeted {
            transport: self.transport.take()?,
            connection: self.connection.take()?,
            hello,
        })
    }

    /// It is not wanted any more.
    pub fn close(mut self) {
        if let Some(connection) = self.connection.take() {
            connection.close();
        }
        if let Some(transport) = self.transport.take() {
            transport.close();
        }
    }
}

/// The host's greeting, if it has come. What else there is, is of an earlier session or nonsense.
fn hello(
    connection: &mut Connection,
    received: &mut usize,
) -> Result<Option<HostMessage>, &'static str> {
    *received += std::mem::take(&mut connection.received);
    while let Some(line) = connection.reader.next_message() {
        if let Ok(HostMessage::Hello { version, .. }) = &line
            && *version != VERSION
        {
            return Err(
                "it speaks another version of the link: update the older of vmkpi-guest and vmkpi-host",
            );
        }
        if let Ok(hello @ HostMessage::Hello { .. }) = line {
            return Ok(Some(hello));
        }
    }
    match *received > MAX_BYTES {
        true => Err("it sends much and does not greet"),
        false => Ok(None),
    }
}
