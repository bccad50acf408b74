//! What a producer hears of its messages: the broker's PUBACK, and what named Consumers confirm.

use super::instance::{Instance, Progress};
use super::outbox::Token;
use super::repair::Asker;
use super::{Producer, publish};
use crate::link::TableId;
use crate::name::Label;
use crate::position::{Mark, Position};

/// What a named Consumer has confirmed of an instance.
#[derive(Clone, Debug)]
pub struct Confirmation {
    /// Who says it; the signature has been verified.
    pub consumer: Label,
    /// When the Consumer said it, by a number of its own that only grows.
    pub issued: u64,
    /// The stream and point.
    pub table: TableId,
    /// The specifier's id.
    pub specifier: Label,
    /// Everything through here is on its disk.
    pub through: Position,
    /// Where it wants messages to begin again.
    pub want_from: Option<Position>,
}

/// What became of a confirmation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// It counts.
    Taken,
    /// It is no newer than what the Consumer has said of this instance before: sent again, or overtaken.
    Stale,
    /// It is about nothing that is followed here, or by nobody whose word counts.
    Unknown,
}

impl Producer {
    /// The broker has acknowledged a publication.
    pub fn on_puback(&mut self, token: Token, now_ms: u64) {
        let Some(settled) = self.out.settle(token) else {
            return;
        };
        self.counters.messages_acknowledged += 1;
        let Some(mut hands) = self.hands(&settled.table, now_ms) else {
            return;
        };
        let mut advanced = false;
        for instance in hands.instances.iter_mut() {
            if instance.monitor.id != settled.specifier {
                continue;
            }
            for cursor in instance.cursors.iter_mut().filter(|c| c.consumer.is_none()) {
                advanced |= cursor.puback(settled.after, settled.through, now_ms);
            }
        }
        if advanced {
            hands.acknowledge();
        }
    }

    /// A publication can never be delivered: its rows become a gap.
    pub fn on_refused(&mut self, token: Token, now_ms: u64) {
        let Some(settled) = self.out.settle(token) else {
            return;
        };
        self.counters.messages_refused += 1;
        let Some(mut hands) = self.hands(&settled.table, now_ms) else {
            return;
        };
        let (instances, mut scope) = hands.split();
        for instance in instances
            .iter_mut()
            .filter(|i| i.monitor.id == settled.specifier)
        {
            let mut progress = Progress::at(settled.after);
            let through = Mark {
                seq: settled.through.seq,
                key: settled.through.key,
                ..Mark::default()
            };
            instance.gap(
                &mut progress,
                through,
                publish::SAMPLE_TOO_LARGE,
                &mut scope,
            );
        }
    }

    /// Named Consumers are heard from now on. What they said before was said to nobody: each instance of which they have
    /// not confirmed all says where it is, and they answer with what they have.
    pub fn on_listening(&mut self, now_ms: u64) {
        let ids: Vec<_> = self.tables.keys().cloned().collect();
        for id in ids {
            let Some(mut hands) = self.hands(&id, now_ms) else {
                continue;
            };
            let (instances, mut scope) = hands.split();
            for instance in instances.iter_mut().filter(|i| i.awaits_confirmation()) {
                instance.cover_live(&mut scope);
            }
        }
    }

    /// A named Consumer has confirmed. What is older than its last word on the instance is left alone.
    pub fn on_confirm(&mut self, confirmation: &Confirmation, now_ms: u64) -> Heard {
        // Without a session there is nobody to read from again; what is confirmed counts all the same.
        let nonce = self.session.as_ref().map(|s| s.nonce);
        let mut next_query = self.next_query;
        let Some(mut hands) = self.hands(&confirmation.table, now_ms) else {
            return Heard::Unknown;
        };
        let mut heard = Heard::Unknown;
        let mut advanced = false;
        let (instances, mut scope) = hands.split();
        let specified = |i: &&mut Instance| i.monitor.id == confirmation.specifier;
        for instance in instances.iter_mut().filter(specified) {
            let Some(at) = instance.cursor_of(&confirmation.consumer) else {
                continue;
            };
            let Some(said) = instance.cursors[at].hear(confirmation, now_ms) else {
                heard = Heard::Stale;
                continue;
            };
            heard = Heard::Taken;
            advanced |= said.new;
            let Some(nonce) = nonce else { continue };
            let mut asker = Asker {
                nonce,
                next_query: &mut next_query,
            };
            if said.new || said.moved {
                instance.continue_repair(at, &mut asker, &mut scope);
            }
            if let Some(from) = confirmation.want_from {
                instance.begin_repair(at, from, &mut asker, &mut scope);
            }
        }
        if advanced {
            hands.acknowledge();
        }
        self.next_query = next_query;
        heard
    }

    /// From now on these Consumers acknowledge, and nothing else; none: the broker's PUBACK. Who stays keeps
    /// its cursors; who is new begins at the guest's acknowledged row.
    pub fn heed(&mut self, consumers: Vec<Label>, now_ms: u64) {
        let consumers = named(consumers);
        if consumers == self.consumers {
            return;
        }
        self.consumers = consumers;
        for table in self.tables.values_mut() {
            table.heed(&self.consumers, now_ms);
        }
        self.subscribe(now_ms);
    }
}

/// Whose word acknowledges.
pub(super) fn named(consumers: Vec<Label>) -> Vec<Option<Label>> {
    match consumers.is_empty() {
        true => vec![None],
        false => consumers.into_iter().map(Some).collect(),
    }
}
