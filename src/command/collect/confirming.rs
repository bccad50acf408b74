//! What is said to Producers: confirmations of what is on disk, signed, gathered for a moment, so that a busy VM
//! costs ten signatures a second and not one a message.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use vmkpi::clock::Timestamp;
use vmkpi::confirm::{MAX_CONFIRMATIONS, Subject, encode};
use vmkpi::name::Label;
use vmkpi::sign::SigningKey;
use vmkpi::topic::Branch;

use super::kept::{Instance, Stand};

/// What the number of confirmations leaps ahead at each start, in microseconds: the last ones before it may not be
/// in the database.
const LEAP_US: u64 = 10_000_000;

/// Who confirms.
#[derive(Debug)]
pub struct Confirmer {
    name: Label,
    key: Arc<SigningKey>,
    issued: Arc<AtomicU64>,
    waiting: BTreeMap<Instance, Stand>,
}

impl fmt::Display for Confirmer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "confirming as {:?}; a descriptor names it by [[confirm]] name = {:?}, key = {:?}",
            self.name.as_str(),
            self.name.as_str(),
            self.key.public().to_base64()
        )
    }
}

impl Confirmer {
    /// A named Consumer. Numbers go on from `issued`, as the database has it, and are never lower than the clock:
    /// so they grow also where the database is an older one.
    pub fn new(name: Label, key: Arc<SigningKey>, issued: u64) -> Self {
        let next = (issued + LEAP_US).max(Timestamp::now().as_micros().unsigned_abs());
        Self {
            name,
            key,
            issued: Arc::new(AtomicU64::new(next)),
            waiting: BTreeMap::new(),
        }
    }

    /// The number of the last confirmation.
    pub fn issued(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.issued)
    }

    /// Takes what a batch came to.
    pub fn add(&mut self, stands: BTreeMap<Instance, Stand>) {
        self.waiting.extend(stands);
    }

    /// The messages to publish: topic and payload.
    pub fn flush(&mut self, now: Timestamp) -> Vec<(String, Vec<u8>)> {
        let mut of: BTreeMap<Subject, Vec<_>> = BTreeMap::new();
        for (instance, stand) in std::mem::take(&mut self.waiting) {
            let confirmed = instance.confirmed(&stand);
            let subject = Subject {
                site: instance.site,
                consumer: self.name.clone(),
                vm: instance.vm,
            };
            of.entry(subject).or_default().push(confirmed);
        }
        let mut messages = Vec::new();
        for (subject, confirmed) in of {
            for part in confirmed.chunks(MAX_CONFIRMATIONS) {
                let issued = self.next(now);
                let payload = encode(&subject, issued, part.to_vec(), &self.key);
                messages.push((subject.topic(Branch::Confirm), payload));
            }
        }
        messages
    }

    fn next(&self, now: Timestamp) -> u64 {
        let next = (self.issued.load(Relaxed) + 1).max(now.as_micros().unsigned_abs());
        self.issued.store(next, Relaxed);
        next
    }
}
