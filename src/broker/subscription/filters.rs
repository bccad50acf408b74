//! What a session is subscribed to, and what it should be.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rumqttc::{AsyncClient, QoS, RetainForwardRule, SubscribeFilter, SubscribeReasonCode};

use super::Manner;
use crate::topic::Branch;

/// Filters in one SUBSCRIBE: far below the packet sizes that brokers refuse.
const FILTERS_AT_ONCE: usize = 50;

/// What is subscribed to, and what should be.
#[derive(Default)]
pub(super) struct Filters {
    pub(super) connected: bool,
    /// Connections that were lost, or could not be made.
    pub(super) lost: u64,
    as_published: bool,
    pub(super) wanted: BTreeSet<String>,
    /// What this session has been asked for.
    asked: BTreeSet<String>,
    /// Asked for and not yet sent.
    pub(super) queued: VecDeque<Vec<String>>,
    /// Sent and not yet answered, by packet id.
    pub(super) sent: HashMap<u16, Vec<String>>,
}

/// The same, of both ends: an attempt to connect must not be given up because what is wanted has changed.
#[derive(Clone)]
pub(super) struct Shared(Arc<Mutex<Filters>>);

impl Shared {
    pub(super) fn new(wanted: BTreeSet<String>, manner: &Manner) -> Self {
        let before = manner.resumed.clone().unwrap_or_default();
        let filters = Filters {
            as_published: manner.as_published,
            // What is wanted still is asked for again: the broker may have refused it then.
            asked: before.difference(&wanted).cloned().collect(),
            wanted,
            ..Filters::default()
        };
        Self(Arc::new(Mutex::new(filters)))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Filters> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Filters {
    pub(super) fn forget(&mut self) {
        self.asked.clear();
        self.unanswered();
    }

    /// The connection broke: what was not answered is asked for again.
    pub(super) fn unanswered(&mut self) {
        for filter in self
            .queued
            .drain(..)
            .chain(self.sent.drain().map(|(_, f)| f))
        {
            for filter in filter {
                self.asked.remove(&filter);
            }
        }
    }

    pub(super) fn stands(&self) -> bool {
        self.queued.is_empty() && self.sent.is_empty()
    }

    /// Asks for what is missing and lets go of what is not wanted any more.
    pub(super) fn reconcile(&mut self, client: &AsyncClient) {
        let wanted = &self.wanted;
        for filter in self.asked.difference(wanted) {
            // One that cannot be queued is gone with the session.
            let _ = client.try_unsubscribe(filter.as_str());
        }
        let missing: Vec<String> = wanted.difference(&self.asked).cloned().collect();
        self.asked.retain(|filter| wanted.contains(filter));
        for filters in missing.chunks(FILTERS_AT_ONCE) {
            let as_published = self.as_published;
            let asked = filters.iter().map(|filter| {
                let mut filter = SubscribeFilter::new(filter, QoS::AtLeastOnce);
                filter.preserve_retain = as_published;
                filter.retain_forward_rule = retained(&filter.path);
                filter
            });
            if client.try_subscribe_many(asked).is_err() {
                return; // the queue is full: the next answer makes room
            }
            self.asked.extend(filters.iter().cloned());
            self.queued.push_back(filters.to_vec());
        }
    }

    /// What of an answered SUBSCRIBE the broker refuses.
    pub(super) fn answered(&mut self, packet: u16, codes: &[SubscribeReasonCode]) -> Vec<String> {
        let filters = self.sent.remove(&packet).unwrap_or_default();
        let refused = |code: &SubscribeReasonCode| !matches!(code, SubscribeReasonCode::Success(_));
        let pairs = filters.into_iter().zip(codes);
        pairs
            .filter(|(_, code)| refused(code))
            .map(|(filter, _)| filter)
            .collect()
    }
}

/// The Directory is what the broker retains. Samples are never retained; one that is would be stale.
fn retained(filter: &str) -> RetainForwardRule {
    match Branch::of(filter).is_some_and(Branch::is_retained) {
        true => RetainForwardRule::OnEverySubscribe,
        false => RetainForwardRule::Never,
    }
}
