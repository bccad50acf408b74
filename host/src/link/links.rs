//! The two lines that a VM may have: the one that this host opens (a port in the domain's XML, or what the operator
//! named), and the one by which its guest comes in over the network. One of them is spoken on. On the other the guest is
//! greeted now and then, and where it answers it has gone over: it answers where its context leads it, and nowhere else.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use vmkpi::link::{GuestMessage, HostMessage, VERSION};
use vmkpi::position::Nonce;

use super::client::{Client, Event, Limits};
use super::{Endpoint, Expected, Fault};
use crate::random;

/// How often the guest is greeted on the line that is not spoken on.
const GREET_EVERY: Duration = Duration::from_secs(5);

/// What the hypervisor says a VM is: part of every greeting.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Identity {
    uuid: Option<String>,
    genid: Option<String>,
}

/// A VM's lines.
#[derive(Debug)]
pub struct Links {
    /// The one that is spoken on, and the other.
    active: Client,
    aside: Client,
    /// When the guest is greeted on the other one.
    greet_at: Instant,
    identity: Identity,
}

impl Links {
    /// Lines that go nowhere yet.
    pub fn new(limits: Limits) -> Self {
        Self {
            active: Client::new(limits),
            aside: Client::new(limits),
            greet_at: Instant::now(),
            identity: Identity::default(),
        }
    }

    /// What the hypervisor says the VM is.
    pub fn identify(&mut self, uuid: &str, genid: Option<&str>) {
        self.identity = Identity {
            uuid: Some(uuid.to_owned()),
            genid: genid.map(ToOwned::to_owned),
        };
    }

    /// Where this host connects to from now on. Whether the line that is spoken on had to be closed.
    pub fn set_endpoint(&mut self, endpoint: Option<Endpoint>) -> bool {
        let active_is_expected = self.active.expected().is_some();
        match active_is_expected {
            false => self.active.set_endpoint(endpoint),
            true => {
                self.aside.set_endpoint(endpoint);
                false
            }
        }
    }

    /// The guest may come in by itself from now on, or not any more. Whether the line that is spoken on had to be
    /// closed.
    pub fn expect_guest(&mut self, expected: Option<Expected>) -> bool {
        if self.active.expected().is_none() {
            self.aside.expect_guest(expected);
            return false;
        }
        let gone = expected.is_none();
        let closed = self.active.expect_guest(expected);
        if gone {
            // What is left is the line that this host opens.
            std::mem::swap(&mut self.active, &mut self.aside);
        }
        closed
    }

    /// Hangs up on every line.
    pub fn hang_up(&mut self) {
        self.set_endpoint(None);
        self.expect_guest(None);
    }

    /// As which VM the guest is expected to come in.
    pub fn expected(&self) -> Option<&Expected> {
        self.active.expected().or(self.aside.expected())
    }

    /// Whether there is a line that goes anywhere.
    pub fn has_endpoint(&self) -> bool {
        self.active.has_endpoint() || self.aside.has_endpoint()
    }

    /// Why the line could not be opened, the last time it was tried.
    pub fn problem(&self) -> Option<&str> {
        self.active.problem().or(self.aside.problem())
    }

    /// By what the guest is connected.
    pub fn connected_by(&self) -> Option<String> {
        self.active.connected_by()
    }

    /// Bytes read so far.
    pub fn received_bytes(&self) -> u64 {
        self.active.received_bytes() + self.aside.received_bytes()
    }

    /// The session whose lines are taken; all others are stale.
    pub fn expect(&mut self, nonce: Nonce) {
        self.active.expect(nonce);
    }

    /// The session whose lines are taken, if there is one.
    pub fn nonce(&self) -> Option<Nonce> {
        self.active.nonce()
    }

    /// Queues a line for the guest. Dropped while the line is down.
    pub fn send(&mut self, message: &HostMessage) {
        self.active.send(message);
    }

    /// The producer found a line impossible.
    pub fn impossible(&mut self) -> Option<Event> {
        self.active.impossible()
    }

    /// The next thing that happens. With `read` false nothing is read of what is spoken on; `answered`: whether the
    /// guest has answered there. May be dropped at any point.
    pub async fn next(&mut self, read: bool, answered: bool) -> Event {
        loop {
            if !self.active.is_open() && self.aside.is_open() {
                return self.go_over();
            }
            let event = tokio::select! {
                event = self.active.next(read) => return event,
                event = self.aside.next(true) => event,
                () = sleep_until(self.greet_at), if self.aside.is_open() => {
                    self.greet_aside();
                    continue;
                }
            };
            if let Some(event) = self.on_aside(&event, answered) {
                return event;
            }
        }
    }

    /// What has happened on the other line; what of it concerns who speaks.
    fn on_aside(&mut self, event: &Event, answered: bool) -> Option<Event> {
        match event {
            Event::Up if !answered => Some(self.go_over()),
            Event::Up => {
                self.aside.expect(Nonce(random::u128()));
                self.greet_aside();
                None
            }
            Event::Message(GuestMessage::Hello { .. }) => Some(self.go_over()),
            // What is left of a session that is over.
            Event::Message(_) | Event::Refused(Fault::Stale) => None,
            Event::Refused(fault) | Event::Down(fault) | Event::Aside(fault) => {
                Some(Event::Aside(*fault))
            }
        }
    }

    /// The other line is the one that is spoken on from now on.
    fn go_over(&mut self) -> Event {
        std::mem::swap(&mut self.active, &mut self.aside);
        // An answer of the session that was there does not bring it back.
        self.aside.expect(Nonce(random::u128()));
        self.greet_at = Instant::now() + GREET_EVERY;
        Event::Up
    }

    /// Greets the guest on the other line, unless it has not read what it was told there before.
    fn greet_aside(&mut self) {
        self.greet_at = Instant::now() + GREET_EVERY;
        if !self.aside.is_drained() {
            return;
        }
        let nonce = self.aside.nonce().unwrap_or(Nonce(random::u128()));
        self.aside.expect(nonce);
        self.aside.send(&HostMessage::Hello {
            version: VERSION,
            nonce,
            uuid: self.identity.uuid.clone(),
            genid: self.identity.genid.clone(),
            have: Vec::new(),
        });
    }
}
