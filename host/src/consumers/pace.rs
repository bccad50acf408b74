//! How much of what comes is looked at: whoever may publish on a topic costs a bounded number of verified signatures
//! a second, and no other topic anything.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::{Duration, Instant};

use vmkpi::topic::Branch;

/// Confirmations of one topic that are looked at in a second: a Consumer says ten times a second what it has,
/// in as many messages as a VM's points need. Each costs a signature's verification.
const MAX_CONFIRMATIONS: u32 = 200;
/// Questions of one topic that are looked at in a second: an answer holds thousands of rows.
const MAX_QUESTIONS: u32 = 10;
/// Questions of all topics that are looked at in a second.
const MAX_ALL_QUESTIONS: u32 = 200;
/// The most topics that are paced; their number is that of VMs and Consumers, so this is never reached.
const MAX_PACED: usize = 100_000;
const SECOND: Duration = Duration::from_secs(1);

/// How many came in the second that is now.
#[derive(Clone, Copy, Debug)]
struct Meter {
    begin: Instant,
    count: u32,
}

impl Meter {
    fn allows(&mut self, most: u32, now: Instant) -> bool {
        if now.duration_since(self.begin) >= SECOND {
            (self.begin, self.count) = (now, 0);
        }
        self.count = self.count.saturating_add(1);
        self.count <= most
    }
}

/// How many messages of each topic, and questions in all, came in the second that is now.
#[derive(Debug, Default)]
pub(super) struct Pace {
    topics: HashMap<String, Meter>,
    questions: Option<Meter>,
}

impl Pace {
    /// Whether a message on `topic` is looked at.
    pub(super) fn allows(&mut self, branch: Branch, topic: &str, now: Instant) -> bool {
        if self.topics.len() >= MAX_PACED {
            self.topics
                .retain(|_, meter| now.duration_since(meter.begin) < SECOND);
        }
        let meter = match self.topics.entry(topic.to_owned()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(Meter {
                begin: now,
                count: 0,
            }),
        };
        let most = match branch {
            Branch::Query => MAX_QUESTIONS,
            _ => MAX_CONFIRMATIONS,
        };
        // What one topic has too many of is taken from no other's share.
        meter.allows(most, now) && (branch != Branch::Query || self.allows_question(now))
    }

    fn allows_question(&mut self, now: Instant) -> bool {
        let meter = self.questions.get_or_insert(Meter {
            begin: now,
            count: 0,
        });
        meter.allows(MAX_ALL_QUESTIONS, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_on_one_topic_costs_no_other_topic_anything() {
        for (branch, most) in [
            (Branch::Confirm, MAX_CONFIRMATIONS),
            (Branch::Query, MAX_QUESTIONS),
        ] {
            let (mut pace, begin) = (Pace::default(), Instant::now());
            for _ in 0..most {
                assert!(pace.allows(branch, "a", begin));
            }
            for _ in 0..10 * MAX_ALL_QUESTIONS {
                assert!(!pace.allows(branch, "a", begin));
            }
            assert!(pace.allows(branch, "b", begin));
            assert!(pace.allows(branch, "a", begin + SECOND));
        }
    }

    #[test]
    fn questions_are_paced_in_all_and_confirmations_are_not_by_them() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        let passed = |pace: &mut Pace, branch| {
            let topics = (0..1000).map(|n| format!("{branch:?}{n}"));
            topics
                .filter(|topic| pace.allows(branch, topic, now))
                .count()
        };
        assert_eq!(passed(&mut pace, Branch::Query), MAX_ALL_QUESTIONS as usize);
        assert_eq!(passed(&mut pace, Branch::Confirm), 1000);
    }
}
