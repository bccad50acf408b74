//! What a producer wants done: lines for the guest and messages for the broker, and which message
//! each token stands for until the broker has acknowledged it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::link::{HostMessage, TableId};
use crate::message::Event;
use crate::name::Label;
use crate::position::Position;

/// Names a publication until its PUBACK.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token(pub u64);

/// A message to publish.
#[derive(Clone, Debug)]
pub struct Publication {
    /// Hand it back when the broker has acknowledged the message.
    pub token: Token,
    /// The message.
    pub event: Box<Event>,
    /// Whom its data is to be sealed for before it leaves: the key in PEM.
    pub seal_to: Option<Arc<str>>,
}

/// What a producer wants done.
#[derive(Clone, Debug)]
pub enum Output {
    /// Send this line to the guest.
    Send(HostMessage),
    /// Publish this message with QoS 1.
    Publish(Publication),
}

/// Unacknowledged messages above which a producer takes no more rows: they stay in the guest.
pub const MAX_OUTSTANDING_MESSAGES: usize = 64;
/// The same, in bytes of samples, about.
pub const MAX_OUTSTANDING_BYTES: usize = 1 << 20;

/// A message that the broker has not acknowledged.
#[derive(Clone, Debug)]
pub(super) struct Outstanding {
    pub(super) table: TableId,
    pub(super) specifier: Label,
    pub(super) after: Position,
    pub(super) through: Position,
    bytes: usize,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Outbox {
    queue: VecDeque<Output>,
    outstanding: HashMap<Token, Outstanding>,
    outstanding_bytes: usize,
    last_token: u64,
}

impl Outbox {
    pub(super) fn send(&mut self, message: HostMessage) {
        self.queue.push_back(Output::Send(message));
    }

    pub(super) fn publish(
        &mut self,
        table: &TableId,
        (event, seal_to): (Event, Option<Arc<str>>),
        bytes: usize,
    ) {
        self.last_token += 1;
        let token = Token(self.last_token);
        self.outstanding_bytes += bytes;
        let outstanding = Outstanding {
            table: table.clone(),
            specifier: event.specifier.clone(),
            after: event.after,
            through: event.through,
            bytes,
        };
        self.outstanding.insert(token, outstanding);
        self.queue.push_back(Output::Publish(Publication {
            token,
            event: Box::new(event),
            seal_to,
        }));
    }

    /// The message is acknowledged, or given up.
    pub(super) fn settle(&mut self, token: Token) -> Option<Outstanding> {
        let settled = self.outstanding.remove(&token)?;
        self.outstanding_bytes -= settled.bytes;
        Some(settled)
    }

    pub(super) fn next(&mut self) -> Option<Output> {
        self.queue.pop_front()
    }

    /// Lines for a session that is over.
    pub(super) fn forget_lines(&mut self) {
        self.queue.retain(|o| matches!(o, Output::Publish(_)));
    }

    pub(super) fn has_room(&self) -> bool {
        self.outstanding.len() < MAX_OUTSTANDING_MESSAGES
            && self.outstanding_bytes < MAX_OUTSTANDING_BYTES
    }

    pub(super) fn outstanding(&self) -> usize {
        self.outstanding.len()
    }
}
