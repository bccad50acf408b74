//! Entries from MQTT packets. Whoever may publish to the broker is not trusted: what does not count is counted, said
//! once for each kind, and again at the end with its number.

use std::collections::BTreeSet;

use rumqttc::Publish;
use vmkpi::clock::Timestamp;
use vmkpi::directory::{Directory, Heard, Lease, Query, Side};
use vmkpi::topic::Branch;

use super::super::print::Console;
use super::super::trust::Trust;
use super::super::watch::text::{age, safe};

/// Reads entries and says what is none.
pub struct Reader {
    /// What is known.
    pub directory: Directory,
    said: BTreeSet<&'static str>,
}

impl Reader {
    /// Believes whom `trust` does.
    pub fn new(trust: &Trust) -> Self {
        Self {
            directory: Directory::new(trust.ring.clone(), trust.insecure),
            said: BTreeSet::new(),
        }
    }

    /// From now on believes whom `trust` does.
    pub fn believe(&mut self, trust: &Trust) {
        self.directory.believe(trust.ring.clone());
    }

    /// Whether the packet is of the Directory.
    pub fn is_entry(publish: &Publish) -> bool {
        std::str::from_utf8(&publish.topic).is_ok_and(|topic| Side::of(topic).is_some())
    }

    /// Whether a subscription to this is a subscription to the Directory.
    pub fn is_filter(filter: &str) -> bool {
        matches!(
            Branch::of(filter),
            Some(Branch::Producers | Branch::Consumers)
        )
    }

    /// Takes a packet: its topic and what it changed, if it counts.
    pub fn take(
        &mut self,
        publish: &Publish,
        now: Timestamp,
        console: &mut Console,
    ) -> Option<(String, Heard)> {
        let topic = String::from_utf8_lossy(&publish.topic).into_owned();
        match self.directory.hear(&topic, &publish.payload, now) {
            Ok(heard) => Some((topic, heard)),
            Err(why) => {
                if self.said.insert(why.as_str()) {
                    let topic: String = safe(&topic).chars().take(200).collect();
                    console.say(&format!("refused an entry on {topic}: {}", why.as_str()));
                }
                None
            }
        }
    }

    /// Says how much was refused, and how much was taken though nobody vouches for it.
    pub fn report(&self, console: &mut Console) {
        for (why, count) in self.directory.refused() {
            console.say(&format!("entries of the Directory refused: {count} {why}"));
        }
        for (why, count) in self.directory.unverified() {
            console.say(&format!(
                "entries of the Directory taken all the same: {count} {why}"
            ));
        }
    }

    /// Says of whom that is asked for the lease has expired, each once.
    pub fn say_lapsed(&mut self, query: &Query, now: Timestamp, console: &mut Console) -> bool {
        let lapsed = self.directory.lapsed(now);
        for lease in lapsed.iter().filter(|lease| query.matches(lease)) {
            let ago = now.as_seconds_f64() - lease.term.expires_at.as_seconds_f64();
            console.say(&format!(
                "{}: its lease expired {} ago: its Producer is dead or cut off",
                named(lease),
                age(ago)
            ));
        }
        !lapsed.is_empty()
    }
}

/// Whose lease it is, for people.
pub fn named(lease: &Lease) -> String {
    safe(&format!("{}/{}", lease.subject.site, lease.subject.name))
}
