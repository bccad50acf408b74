//! A Consumer's own entries, one at each site that it takes data of: when which is to be said. Pure; who asks it
//! publishes what it says, retained.

use std::collections::BTreeMap;

use super::after;
use super::entry::{ConsumerEntry, Entry, Role, Side, Subject, Take, Term};
use super::wire::encode;
use crate::clock::Timestamp;
use crate::name::Label;
use crate::sign::SigningKey;

/// The most sites that one Consumer registers at; who comes later is not told.
const MAX_SITES: usize = 1000;

/// A message to publish, retained: where, and what.
pub type Message = (String, Vec<u8>);

/// Who registers.
#[derive(Debug)]
pub struct Registrar {
    name: Label,
    entry: Entry,
    key: std::sync::Arc<SigningKey>,
    lease_seconds: u64,
    /// When the entry at each site is to be said again.
    due: BTreeMap<Label, Timestamp>,
    issued: Timestamp,
}

impl Registrar {
    /// A Consumer that is registered nowhere yet, with leases of so many seconds.
    pub fn new(
        name: Label,
        role: Role,
        takes: Vec<Take>,
        key: std::sync::Arc<SigningKey>,
        lease_seconds: u64,
    ) -> Self {
        let entry = ConsumerEntry {
            role,
            takes,
            key: key.public().clone(),
        };
        Self {
            name,
            entry: Entry::Consumer(entry),
            key,
            lease_seconds,
            due: BTreeMap::new(),
            issued: Timestamp::default(),
        }
    }

    /// It takes data of this site, too.
    pub fn join(&mut self, site: &Label) {
        if self.due.len() < MAX_SITES && !self.due.contains_key(site) {
            self.due.insert(site.clone(), Timestamp::default());
        }
    }

    /// The connection is new: the broker may have forgotten everything.
    pub fn again(&mut self) {
        self.due
            .values_mut()
            .for_each(|due| *due = Timestamp::default());
    }

    /// What is to be said now: each lease is renewed when a third of it has gone by.
    pub fn due(&mut self, now: Timestamp) -> Vec<Message> {
        let third = self.lease_seconds as f64 / 3.0;
        let sites: Vec<Label> = self.due.keys().cloned().collect();
        let mut messages = Vec::new();
        for site in sites {
            // A clock that was set back renews at once.
            let due = self.due[&site];
            if now < due && due <= after(now, third) {
                continue;
            }
            let term = Term::lasting(self.issue(now), self.lease_seconds as f64);
            messages.push(self.lease(&site, term));
            self.due.insert(site, after(now, third));
        }
        messages
    }

    /// The last words: a farewell that is signed, and the message that removes the entry from the broker.
    pub fn farewell(&mut self, now: Timestamp) -> Vec<Message> {
        let sites: Vec<Label> = std::mem::take(&mut self.due).into_keys().collect();
        let mut messages = Vec::new();
        for site in sites {
            let term = Term::farewell(self.issue(now));
            let (topic, farewell) = self.lease(&site, term);
            messages.push((topic.clone(), farewell));
            messages.push((topic, Vec::new()));
        }
        messages
    }

    fn lease(&self, site: &Label, term: Term) -> Message {
        let subject = Subject {
            side: Side::Consumer,
            site: site.clone(),
            name: self.name.clone(),
        };
        let payload = encode(&subject, term, &self.entry, Some(&self.key));
        (subject.topic(), payload)
    }

    /// Later than whatever was issued before, whatever the clock says.
    fn issue(&mut self, now: Timestamp) -> Timestamp {
        let next = Timestamp::from_micros(self.issued.as_micros() + 1);
        self.issued = now.max(next);
        self.issued
    }
}
