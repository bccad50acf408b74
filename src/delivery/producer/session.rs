//! A link session: who is greeted when, and who shows whom that it is there.

use super::{MAX_LIST_BYTES, Producer, Source, fits};
use crate::link::{Have, HostMessage, TableInfo, VERSION};
use crate::position::{Nonce, StreamId};

/// A guest that has said nothing for so long is greeted again, in milliseconds.
const SILENCE_MS: u64 = 5000;
/// Greetings are at least this far apart, in milliseconds.
const GREETING_MS: u64 = 3000;
/// A guest that has said nothing for so long is asked whether it is there, in milliseconds.
const ASK_MS: u64 = 2000;
/// It is told that the host is there at least so often, in milliseconds.
const PING_MS: u64 = 10_000;

/// What is known of the session that stands.
#[derive(Clone, Debug)]
pub(super) struct Session {
    pub(super) nonce: Nonce,
    pub(super) greeted: bool,
    /// The stream that the guest's new rows go to.
    pub(super) stream: Option<StreamId>,
    /// The guest asked for a new session.
    pub(super) over: bool,
    /// Tables of a `hello` whose last line has not come yet.
    pub(super) told: Vec<TableInfo>,
    /// When the guest was last told that the host is there.
    pinged_ms: u64,
}

impl Producer {
    /// The link is open: greets the guest. Call it again with a fresh random nonce when
    /// [`Self::needs_hello`] says so.
    pub fn connected(&mut self, nonce: Nonce, now_ms: u64) {
        self.out.forget_lines();
        (self.heard_ms, self.greeted_ms) = (now_ms, now_ms);
        self.session = Some(Session {
            nonce,
            greeted: false,
            stream: None,
            over: false,
            told: Vec::new(),
            pinged_ms: now_ms,
        });
        // Of a guest whose names fill the line, the rest is not told: what an `ack` names is verified too.
        let mut room = MAX_LIST_BYTES;
        let seen = self.tables.iter().filter(|(_, t)| t.highest.seq > 0);
        let seen = seen.take_while(|(id, _)| fits(id, &mut room));
        let have = seen.map(|(id, t)| Have {
            table: id.clone(),
            highest: t.highest,
        });
        let hello = HostMessage::Hello {
            version: VERSION,
            nonce,
            uuid: self.identity.uuid.clone(),
            genid: self.identity.genid.clone(),
            have: have.collect(),
        };
        self.out.send(hello);
    }

    /// The link is closed.
    pub fn disconnected(&mut self) {
        self.session = None;
        self.out.forget_lines();
    }

    /// Whether the guest must be greeted again: it was silent for long, or asked for it.
    pub fn needs_hello(&self, now_ms: u64) -> bool {
        let Some(session) = &self.session else {
            return false;
        };
        // A guest that is not listened to is not silent.
        let silent = self.accepts_input() && now_ms.saturating_sub(self.heard_ms) > SILENCE_MS;
        let rested = now_ms.saturating_sub(self.greeted_ms) > GREETING_MS;
        session.over || (silent && rested)
    }

    /// Whether a session is established.
    pub fn is_subscribed(&self) -> bool {
        self.session.as_ref().is_some_and(|s| s.greeted && !s.over)
    }

    /// Shows the guest that the host is there, and asks whether the guest is.
    pub(super) fn ping(&mut self, now_ms: u64) {
        let (silent_ms, listens) = (now_ms.saturating_sub(self.heard_ms), self.accepts_input());
        let Some(session) = self.session.as_mut().filter(|s| s.greeted) else {
            return;
        };
        let pinged_ms = now_ms.saturating_sub(session.pinged_ms);
        let asks = listens && silent_ms >= ASK_MS && pinged_ms >= ASK_MS;
        if self.source == Source::Kpi && (asks || pinged_ms >= PING_MS) {
            session.pinged_ms = now_ms;
            let nonce = session.nonce;
            self.out.send(HostMessage::Ping { nonce });
        }
    }
}
