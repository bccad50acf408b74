//! One VM's link, as something to be polled: [`Client::next`] may be dropped and called again at any
//! point, so that its owner can wait for other things too.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use vmkpi::link::codec::LineError;
use vmkpi::link::{Budget, GuestMessage, HostMessage, LineReader, MAX_ROWS, Rows, encode};
use vmkpi::position::Nonce;

use super::stream::{Stream, TlsStream, connect};
use super::{Endpoint, Expected, Fault};

/// What a guest may do. Far above what an honest one does.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Lines a second, over time; a line of n KiB counts as n + 1. Over it, reading pauses.
    pub lines_per_second: f64,
    /// Bad lines at once; over it, the link is closed for a while.
    pub bad_lines: f64,
    /// Bad lines a second, over time.
    pub bad_lines_per_second: f64,
    /// Bytes written to a guest that it has not read; over it, the link is closed for a while.
    pub unread_bytes: usize,
    /// Waiting before a closed link is opened again: at first, and at most.
    pub backoff: (Duration, Duration),
    /// The same after a guest went over its limits.
    pub ban: (Duration, Duration),
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            lines_per_second: 100_000.0,
            bad_lines: 100.0,
            bad_lines_per_second: 1.0,
            unread_bytes: 4 << 20,
            backoff: (Duration::from_millis(100), Duration::from_secs(2)),
            ban: (Duration::from_secs(5), Duration::from_secs(60)),
        }
    }
}

/// What [`Client::next`] found.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all of them are messages")]
pub enum Event {
    /// The link is open.
    Up,
    /// A line of this session.
    Message(GuestMessage),
    /// A line was refused.
    Refused(Fault),
    /// The link is closed; it will be opened again.
    Down(Fault),
    /// Something of the line that is not spoken on.
    Aside(Fault),
}

/// Bytes read at once.
const READ_BYTES: usize = 64 << 10;
/// A link that was up for so long has earned a quick return.
const PROVEN: Duration = Duration::from_secs(30);

/// One VM's link.
#[derive(Debug)]
pub struct Client {
    endpoint: Option<Endpoint>,
    /// Where the guest comes in by itself: then it is not connected to.
    expected: Option<Expected>,
    limits: Limits,
    stream: Option<Open>,
    retry_at: Instant,
    /// What to wait next time, for a closed link and for a banned one.
    wait: (Duration, Duration),
    received_bytes: u64,
    /// Why the socket could not be connected to, the last time it was tried.
    problem: Option<String>,
}

#[derive(Debug)]
struct Open {
    stream: Stream,
    reader: LineReader,
    buffer: Vec<u8>,
    /// Whether bytes that were read may hold another line.
    pending: bool,
    /// A message that was read ahead.
    ahead: VecDeque<Event>,
    unsent: VecDeque<u8>,
    nonce: Option<Nonce>,
    lines: Budget,
    bad: Budget,
    since: Instant,
}

impl Client {
    /// A link that is down, to nowhere yet.
    pub fn new(limits: Limits) -> Self {
        Self {
            endpoint: None,
            expected: None,
            limits,
            stream: None,
            retry_at: Instant::now(),
            wait: (limits.backoff.0, limits.ban.0),
            received_bytes: 0,
            problem: None,
        }
    }

    /// Where the link goes from now on. Whether the one that was open had to be closed.
    pub fn set_endpoint(&mut self, endpoint: Option<Endpoint>) -> bool {
        if self.endpoint == endpoint {
            return false;
        }
        self.endpoint = endpoint;
        self.problem = None;
        self.retry_at = Instant::now();
        self.wait = (self.limits.backoff.0, self.limits.ban.0);
        self.stream.take().is_some()
    }

    /// Lets the guest come in by itself from now on, or not any more. Whether a link that was open had to be closed.
    pub fn expect_guest(&mut self, expected: Option<Expected>) -> bool {
        self.expected = expected;
        self.expected.is_none() && self.stream.take().is_some()
    }

    /// As which VM the guest is expected, if it comes by itself.
    pub fn expected(&self) -> Option<&Expected> {
        self.expected.as_ref()
    }

    /// Whether the link goes anywhere.
    pub fn has_endpoint(&self) -> bool {
        self.endpoint.is_some() || self.expected.is_some()
    }

    /// Whether the link is open.
    pub fn is_open(&self) -> bool {
        self.stream.is_some()
    }

    /// Whether all that was said is on its way.
    pub fn is_drained(&self) -> bool {
        let open = self.stream.as_ref();
        open.is_none_or(|open| open.unsent.is_empty())
    }

    /// By what the guest is connected.
    pub fn connected_by(&self) -> Option<String> {
        let open = self.stream.as_ref()?;
        match open.stream.peer() {
            Some(peer) => Some(format!("tls from {peer}")),
            None => self.endpoint.as_ref().map(|e| e.address.to_string()),
        }
    }

    /// Why the socket could not be connected to, the last time it was tried.
    pub fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// Bytes read so far.
    pub fn received_bytes(&self) -> u64 {
        self.received_bytes
    }

    /// The session whose lines are taken; all others are stale.
    pub fn expect(&mut self, nonce: Nonce) {
        if let Some(open) = &mut self.stream {
            open.nonce = Some(nonce);
        }
    }

    /// The session whose lines are taken, if there is one.
    pub fn nonce(&self) -> Option<Nonce> {
        self.stream.as_ref().and_then(|open| open.nonce)
    }

    /// Queues a line for the guest; [`Client::next`] writes it. Dropped while the link is down.
    pub fn send(&mut self, message: &HostMessage) {
        if let Some(open) = &mut self.stream {
            open.unsent.extend(encode(message));
        }
    }

    /// The next thing that happens. With `read` false nothing is read: what the guest has to say
    /// stays with it. May be dropped at any point.
    pub async fn next(&mut self, read: bool) -> Event {
        if !self.has_endpoint() {
            return std::future::pending().await;
        }
        if self.stream.is_none() {
            return self.open().await;
        }
        match self.progress(read).await {
            Ok(event) => {
                if let Event::Refused(fault) = &event {
                    return self.refuse(*fault);
                }
                event
            }
            Err(fault) => self.close(fault),
        }
    }

    async fn open(&mut self) -> Event {
        sleep_until(self.retry_at).await;
        if let Some(expected) = &self.expected {
            let stream = expected.arrival().await;
            return self.begin(Stream::Tls(stream), false);
        }
        let Some(endpoint) = &self.endpoint else {
            return std::future::pending().await;
        };
        let joining = endpoint.joining;
        let stream = match connect(&endpoint.address).await {
            Ok(stream) => stream,
            Err(error) => {
                self.problem = Some(error.to_string());
                return self.close(Fault::Connect);
            }
        };
        self.begin(stream, joining)
    }

    fn begin(&mut self, stream: Stream, joining: bool) -> Event {
        self.problem = None;
        let now = Instant::now();
        let rate = self.limits.lines_per_second;
        self.stream = Some(Open {
            stream,
            reader: match joining {
                true => LineReader::joining(),
                false => LineReader::new(),
            },
            buffer: vec![0; READ_BYTES],
            pending: false,
            ahead: VecDeque::new(),
            // The host before may have been cut off in the middle of a line: the guest ends it here.
            unsent: match joining {
                true => VecDeque::from([b'\n']),
                false => VecDeque::new(),
            },
            nonce: None,
            lines: Budget::new(2.0 * rate, rate, now.into_std()),
            bad: Budget::new(
                self.limits.bad_lines,
                self.limits.bad_lines_per_second,
                now.into_std(),
            ),
            since: now,
        });
        Event::Up
    }

    fn close(&mut self, fault: Fault) -> Event {
        let up_for = self.stream.take().map(|open| open.since.elapsed());
        if up_for.is_some_and(|time| time >= PROVEN) {
            self.wait = (self.limits.backoff.0, self.limits.ban.0);
        }
        let (wait, most) = match fault {
            Fault::Banned | Fault::Deaf => (&mut self.wait.1, self.limits.ban.1),
            _ => (&mut self.wait.0, self.limits.backoff.1),
        };
        // The guest that connects by itself decides how soon, unless it went over its limits.
        let at_once = self.expected.is_some() && !matches!(fault, Fault::Banned | Fault::Deaf);
        self.retry_at = match at_once {
            true => Instant::now(),
            false => Instant::now() + *wait,
        };
        *wait = (*wait * 2).min(most);
        Event::Down(fault)
    }

    fn refuse(&mut self, fault: Fault) -> Event {
        let Some(open) = &mut self.stream else {
            return Event::Refused(fault);
        };
        // Lines of an earlier session are honest: virtio-serial had them buffered. They cost their
        // share of the rate, and no more.
        let honest = fault == Fault::Stale;
        if honest || open.bad.spend(1.0, Instant::now().into_std()) {
            return Event::Refused(fault);
        }
        self.close(Fault::Banned)
    }

    /// The producer found a line impossible.
    pub fn impossible(&mut self) -> Option<Event> {
        match self.refuse(Fault::Impossible) {
            down @ Event::Down(_) => Some(down),
            _ => None,
        }
    }

    async fn progress(&mut self, read: bool) -> Result<Event, Fault> {
        let Some(open) = &mut self.stream else {
            return Err(Fault::Closed);
        };
        loop {
            if open.unsent.len() > self.limits.unread_bytes {
                return Err(Fault::Deaf);
            }
            open.write().map_err(|_| Fault::Closed)?;
            // Lets the runtime go on with other VMs now and then, however much is here. Before a line
            // is taken, as whoever drops this future at an await must not lose one.
            tokio::task::coop::consume_budget().await;
            if read && let Some(event) = open.next_line() {
                return Ok(event);
            }
            let rest = open.lines.in_debt_until().filter(|_| read);
            let wants_write = open.stream.drain().map_err(|_| Fault::Closed)?;
            let wants_read = read && rest.is_none();
            let wants_write = wants_write || !open.unsent.is_empty();
            tokio::select! {
                ready = open.stream.readable(), if wants_read => {
                    ready.map_err(|_| Fault::Closed)?;
                    self.received_bytes += open.read().map_err(|_| Fault::Closed)?;
                }
                ready = open.stream.writable(), if wants_write => {
                    ready.map_err(|_| Fault::Closed)?;
                }
                stream = newer(self.expected.as_ref()) => {
                    // The newest wins: the one before is of a guest that has gone, or soon will be.
                    if let Some(expected) = &self.expected {
                        expected.put_back(stream);
                    }
                    return Err(Fault::Replaced);
                }
                () = async {
                    match rest {
                        Some(until) => sleep_until(until.into()).await,
                        None => std::future::pending().await,
                    }
                } => {
                    open.lines.spend(0.0, Instant::now().into_std());
                }
            }
        }
    }
}

/// A further connection of a guest that comes by itself.
async fn newer(expected: Option<&Expected>) -> Box<TlsStream> {
    match expected {
        Some(expected) => expected.arrival().await,
        None => std::future::pending().await,
    }
}

impl Open {
    /// Reads what is there, at most one buffer of it.
    fn read(&mut self) -> io::Result<u64> {
        match self.stream.try_read(&mut self.buffer) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                self.reader.push(&self.buffer[..count]);
                self.pending = true;
                let kib = count as f64 / 1024.0;
                self.lines.spend(kib, Instant::now().into_std());
                Ok(count as u64)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// Writes what the guest takes now.
    fn write(&mut self) -> io::Result<()> {
        while !self.unsent.is_empty() {
            match self.stream.try_write(self.unsent.as_slices().0) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => drop(self.unsent.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The next line that was read; pushed rows that follow each other come as one message, which
    /// makes one publication of them.
    fn next_line(&mut self) -> Option<Event> {
        let mut event = self.ahead.pop_front().or_else(|| self.decode())?;
        if let Event::Message(GuestMessage::Rows(rows)) = &mut event {
            while let Some(more) = self.decode() {
                match more {
                    Event::Message(GuestMessage::Rows(more)) if follows(rows, &more) => {
                        rows.rows.extend(more.rows);
                        rows.acked = more.acked;
                    }
                    other => {
                        self.ahead.push_back(other);
                        break;
                    }
                }
            }
        }
        Some(event)
    }

    fn decode(&mut self) -> Option<Event> {
        if !self.pending {
            return None;
        }
        let Some(line) = self.reader.next_message::<GuestMessage>() else {
            self.pending = false;
            return None;
        };
        self.lines.spend(1.0, Instant::now().into_std());
        Some(match line {
            Ok(message) if Some(message.nonce()) == self.nonce => Event::Message(message),
            Ok(_) => Event::Refused(Fault::Stale),
            Err(LineError::TooLong) => Event::Refused(Fault::TooLong),
            Err(LineError::Malformed(error)) => {
                tracing::debug!(%error, "a malformed line");
                Event::Refused(Fault::Malformed)
            }
        })
    }
}

/// Whether `more` goes on where `rows` ends.
fn follows(rows: &Rows, more: &Rows) -> bool {
    let last = rows.rows.last().map(|row| row.seq);
    let first = more.rows.first().map(|row| row.seq);
    rows.query.is_none()
        && more.query.is_none()
        && rows.stream == more.stream
        && rows.point == more.point
        && rows.columns == more.columns
        && matches!((last, first), (Some(last), Some(first)) if first.checked_sub(1) == Some(last))
        && rows.rows.len() + more.rows.len() <= MAX_ROWS
}
