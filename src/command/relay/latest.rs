//! What waits to go down, in memory: it is cumulative or said again by whoever said it, so the last words of each
//! topic are enough. Order per topic is kept; over a limit the oldest goes, and is counted.

use std::collections::{BTreeMap, HashMap, VecDeque};

use bytes::Bytes;
use vmkpi::broker::publisher::Properties;
use vmkpi::topic::Branch;

/// The most topics.
const MAX_TOPICS: usize = 10_000;
/// The most bytes, of payloads, topics and properties.
const MAX_BYTES: usize = 32 << 20;
/// The most messages of one topic: confirmations of a VM come ten times a second, each of the instances that have
/// moved, so that one is not the whole word of its topic.
const MAX_OF_TOPIC: usize = 64;

/// A message on its way down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    /// Its branch.
    pub branch: Branch,
    /// Its topic.
    pub topic: String,
    /// Its payload.
    pub payload: Bytes,
    /// Whether the broker keeps it.
    pub retain: bool,
    /// What is said beside it.
    pub properties: Properties,
}

impl Word {
    fn size_bytes(&self) -> usize {
        self.topic.len() + self.payload.len() + super::hops::size_bytes(&self.properties)
    }
}

/// Messages that wait, oldest first.
#[derive(Debug, Default)]
pub struct Latest {
    words: BTreeMap<u64, Word>,
    of_topic: HashMap<String, VecDeque<u64>>,
    bytes: usize,
    next: u64,
}

impl Latest {
    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.words.len()
    }

    /// Adds a message. How many older ones went for it: of its own topic, and of others.
    pub fn add(&mut self, word: Word) -> (u64, u64) {
        let most = if word.branch.is_retained() {
            1
        } else {
            MAX_OF_TOPIC
        };
        let (mut superseded, mut crowded) = (0, 0);
        self.bytes += word.size_bytes();
        let of_topic = self.of_topic.entry(word.topic.clone()).or_default();
        of_topic.push_back(self.next);
        let oldest = (of_topic.len() > most).then(|| of_topic[0]);
        self.words.insert(self.next, word);
        self.next += 1;
        if let Some(oldest) = oldest {
            self.remove(oldest);
            superseded += 1;
        }
        while self.words.len() > 1 && (self.bytes > MAX_BYTES || self.of_topic.len() > MAX_TOPICS) {
            crowded += u64::from(self.take().is_some());
        }
        (superseded, crowded)
    }

    /// Takes the oldest.
    pub fn take(&mut self) -> Option<Word> {
        let oldest = *self.words.first_key_value()?.0;
        self.remove(oldest)
    }

    fn remove(&mut self, number: u64) -> Option<Word> {
        let word = self.words.remove(&number)?;
        self.bytes -= word.size_bytes();
        if let Some(of_topic) = self.of_topic.get_mut(&word.topic) {
            of_topic.retain(|n| *n != number);
            if of_topic.is_empty() {
                self.of_topic.remove(&word.topic);
            }
        }
        Some(word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(branch: Branch, topic: &str, payload: impl Into<Bytes>) -> Word {
        Word {
            branch,
            topic: topic.to_owned(),
            payload: payload.into(),
            retain: branch.is_retained(),
            properties: Properties::default(),
        }
    }

    fn payloads(latest: &mut Latest) -> Vec<Bytes> {
        std::iter::from_fn(|| latest.take())
            .map(|w| w.payload)
            .collect()
    }

    #[test]
    fn order_is_kept_and_of_a_retained_topic_the_last_is_enough() {
        let mut latest = Latest::default();
        for (branch, topic, payload) in [
            (Branch::Confirm, "a", "1"),
            (Branch::Consumers, "l", "2"),
            (Branch::Confirm, "b", "3"),
            (Branch::Consumers, "l", "4"),
            (Branch::Confirm, "a", "5"),
        ] {
            latest.add(word(branch, topic, payload));
        }
        assert_eq!(payloads(&mut latest), ["1", "3", "4", "5"]);
        assert!(latest.is_empty() && latest.of_topic.is_empty());
        assert_eq!(latest.bytes, 0);
    }

    #[test]
    fn of_a_topic_the_oldest_goes_and_others_stay() {
        let mut latest = Latest::default();
        latest.add(word(Branch::Confirm, "other", "x"));
        let mut superseded = 0;
        for n in 0..MAX_OF_TOPIC + 10 {
            superseded += latest.add(word(Branch::Confirm, "busy", n.to_string())).0;
        }
        assert_eq!((superseded, latest.len()), (10, MAX_OF_TOPIC + 1));
        assert_eq!(payloads(&mut latest)[..2], ["x", "10"]);
    }

    #[test]
    fn topics_and_bytes_are_bounded() {
        let mut latest = Latest::default();
        let mut crowded = 0;
        for n in 0..MAX_TOPICS + 5 {
            crowded += latest.add(word(Branch::Query, &n.to_string(), "q")).1;
        }
        assert_eq!((crowded, latest.len()), (5, MAX_TOPICS));
        for n in 0..10 {
            latest.add(word(Branch::Query, &n.to_string(), vec![0; MAX_BYTES / 4]));
        }
        assert!(
            latest.bytes <= MAX_BYTES && latest.len() == 3,
            "{}",
            latest.len()
        );
    }
}
