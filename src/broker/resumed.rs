//! What a client remembers of a session that an earlier life of the program has left at the broker: nothing is
//! pending in it. That is the truth of a session that only receives: what it has not acknowledged the broker
//! keeps, and what it was asking for it asks again. Without it rumqttc refuses to go on with a session of which
//! the broker alone knows.

use std::pin::Pin;

use rumqttc::{
    PersistedAckMode, PersistedSession, SessionStore, SessionStoreError, SessionStoreKey,
};

/// What such a session may have published and unacknowledged at once: nothing is published in it, and its memory is
/// looked through for each batch.
pub(super) const OUTGOING: u16 = 8;
/// rumqttc's format of what is remembered.
const FORMAT: u16 = 1;

/// What rumqttc calls `SessionStoreFuture`, and does not export.
type Future<'a, T> =
    Pin<Box<dyn std::future::Future<Output = Result<T, SessionStoreError>> + Send + 'a>>;

/// The memory of a session in which nothing is pending.
#[derive(Debug)]
pub(super) struct NothingPending {
    /// How long the broker keeps the session, in seconds.
    pub(super) expiry_seconds: u32,
    /// Whether messages are acknowledged by whoever takes them.
    pub(super) manual: bool,
}

impl SessionStore for NothingPending {
    fn load<'a>(&'a self, key: &'a SessionStoreKey) -> Future<'a, Option<PersistedSession>> {
        let session = PersistedSession {
            format_version: FORMAT,
            client_id: key.client_id().to_owned(),
            clean_start: false,
            session_expiry_interval: Some(self.expiry_seconds),
            outgoing_inflight_upper_limit: Some(OUTGOING),
            ack_mode: match self.manual {
                true => PersistedAckMode::Manual,
                false => PersistedAckMode::Automatic,
            },
            last_pkid: 0,
            last_puback: 0,
            replay: vec![],
            incoming_qos2: vec![],
        };
        Box::pin(async move { Ok(Some(session)) })
    }

    fn save<'a>(&'a self, _: &'a SessionStoreKey, _: &'a PersistedSession) -> Future<'a, ()> {
        Box::pin(async { Ok(()) })
    }

    fn clear<'a>(&'a self, _: &'a SessionStoreKey) -> Future<'a, ()> {
        Box::pin(async { Ok(()) })
    }
}
