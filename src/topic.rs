//! The topic tree: `vmkpi/v1/SITE/BRANCH/...`, SITE the primary site that the data belongs to. A broker needs
//! one rule a branch for each who may come (docs/BROKER.md), and between two sites each branch goes one way.
//!
//! | branch | below it | who says it | goes |
//! | --- | --- | --- | --- |
//! | `data` | `VM/SPECIFIER/POINT...` | hosts | up |
//! | `directory/producer` | `VM`, retained | hosts | up |
//! | `answer` | `CONSUMER/VM` | hosts | up |
//! | `directory/consumer` | `CONSUMER`, retained | Consumers | down |
//! | `confirm` | `CONSUMER/VM` | Consumers | down |
//! | `query` | `CONSUMER/VM` | Consumers | down |
//!
//! Beside the sites, `vmkpi/v1/echo/CLIENT-ID` is where a program hears its own messages; they cross no site's border.

use crate::name::{Label, topic_level};

/// What every topic begins with: the application and the version of the tree.
pub const ROOT: &str = "vmkpi/v1";

/// Where a program hears from its broker what it said itself, behind everything that the broker sent it before.
pub fn echo(client_id: &str) -> String {
    format!("{ROOT}/echo/{client_id}")
}

/// How long a broker that speaks MQTT 5 keeps a retained lease that nobody renews, in seconds: long enough that who
/// comes later sees that it has expired.
pub const KEPT_SECONDS: u32 = 86_400;
/// What retained leases are, as a media type.
pub const LEASE_TYPE: &str = "application/json";

/// A part of a site's tree, with rights and a direction of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Branch {
    /// What is measured.
    Data,
    /// Leases of VMs that deliver: the Directory's Producers.
    Producers,
    /// What a Producer says to a Consumer's question.
    Answer,
    /// Leases of those who take what is delivered: the Directory's Consumers.
    Consumers,
    /// What a Consumer has on its disk.
    Confirm,
    /// A Consumer's question to a Producer.
    Query,
}

/// Which way a branch goes between two sites.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From where the VM runs towards its primary site.
    Up,
    /// From the primary site towards where the VM runs.
    Down,
}

impl Branch {
    /// Every branch.
    pub const ALL: [Self; 6] = [
        Self::Data,
        Self::Producers,
        Self::Answer,
        Self::Consumers,
        Self::Confirm,
        Self::Query,
    ];

    /// Its topic levels below the site's.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Producers => "directory/producer",
            Self::Answer => "answer",
            Self::Consumers => "directory/consumer",
            Self::Confirm => "confirm",
            Self::Query => "query",
        }
    }

    /// Which way it goes between sites.
    pub fn direction(self) -> Direction {
        match self {
            Self::Data | Self::Producers | Self::Answer => Direction::Up,
            Self::Consumers | Self::Confirm | Self::Query => Direction::Down,
        }
    }

    /// Whether the broker keeps the last message of each topic.
    pub fn is_retained(self) -> bool {
        matches!(self, Self::Producers | Self::Consumers)
    }

    /// The topic below it of these names, each encoded as one level.
    pub fn topic(self, site: &Label, below: &[&Label]) -> String {
        let mut topic = format!("{ROOT}/{}/{}", topic_level(site.as_str()), self.as_str());
        for name in below {
            topic.push('/');
            topic.push_str(&topic_level(name.as_str()));
        }
        topic
    }

    /// The topic filter of all of it, of one site or of every one.
    pub fn filter(self, site: Option<&Label>) -> String {
        let site = site.map_or_else(|| "+".into(), |site| topic_level(site.as_str()));
        format!("{ROOT}/{site}/{}/#", self.as_str())
    }

    /// The branch of a topic, if it is one of ours.
    pub fn of(topic: &str) -> Option<Self> {
        let below = topic.strip_prefix(ROOT)?.strip_prefix('/')?;
        let (_, below) = below.split_once('/')?;
        Self::ALL.into_iter().find(|branch| {
            below
                .strip_prefix(branch.as_str())
                .is_some_and(|rest| rest.starts_with('/'))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_is_of_the_branch_that_made_it() {
        let (site, vm): (Label, Label) = ("acme".parse().unwrap(), "a+b".parse().unwrap());
        for branch in Branch::ALL {
            let topic = branch.topic(&site, &[&vm]);
            assert_eq!(Branch::of(&topic), Some(branch));
            assert!(topic.ends_with("/a%2Bb"), "{topic}");
        }
        assert_eq!(
            Branch::Confirm.topic(&site, &[&vm, &vm]),
            "vmkpi/v1/acme/confirm/a%2Bb/a%2Bb"
        );
    }

    #[test]
    fn what_is_not_ours_has_no_branch() {
        for topic in [
            "",
            "vmkpi/v1",
            "vmkpi/v1/acme",
            "vmkpi/v1/acme/data",
            "vmkpi/v1/acme/database/x",
            "vmkpi/v1/acme/directory/x",
            "vmkpi/v10/acme/data/x",
            "other/v1/acme/data/x",
        ] {
            assert_eq!(Branch::of(topic), None, "{topic}");
        }
    }
}
