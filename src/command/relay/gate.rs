//! What crosses: the judge of each message, by its topic, its flag, its size and how often it has been forwarded.
//! What a peer's broker sends is not believed: everything else is refused, and counted by its kind.

use std::collections::BTreeSet;

use vmkpi::broker::publisher::Properties;
use vmkpi::name::{Label, topic_level};
use vmkpi::topic::{Branch, Direction, ROOT};

use super::hops::{self, MAX_HOPS};

/// The largest payload of data and answers, in bytes: a sample of 1.5 MiB in an envelope, with its message around it.
const MAX_PAYLOAD_BYTES: usize = 3 << 20;
/// The same of all others: confirmations of 256 instances, and what is said of who is there.
const MAX_WORD_BYTES: usize = vmkpi::confirm::MAX_BYTES;
/// The longest topic, in bytes: ours have four names of 200 bytes, each of which may be escaped.
const MAX_TOPIC_BYTES: usize = 4096;
/// What the properties of a message may hold, in bytes.
const MAX_PROPERTIES_BYTES: usize = 4096;

/// Why a message does not cross.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refusal {
    /// Its topic is longer than any of ours, or no text.
    Topic,
    /// It is of a site that this relay is not for.
    OtherSite,
    /// Its topic is of no branch.
    UnknownBranch,
    /// Its branch goes the other way.
    WrongWay,
    /// It would be kept by the next broker, and its branch keeps nothing.
    Retained,
    /// Its payload is larger than any of ours.
    TooLarge,
    /// More is said beside it than we say.
    Properties,
    /// It has been forwarded too often.
    Hops,
    /// It is one that this relay has forwarded.
    Loop,
}

impl Refusal {
    /// Every reason.
    pub const ALL: [Self; 9] = [
        Self::Topic,
        Self::OtherSite,
        Self::UnknownBranch,
        Self::WrongWay,
        Self::Retained,
        Self::TooLarge,
        Self::Properties,
        Self::Hops,
        Self::Loop,
    ];

    /// Its name, as a label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Topic => "topic",
            Self::OtherSite => "other_site",
            Self::UnknownBranch => "unknown_branch",
            Self::WrongWay => "wrong_way",
            Self::Retained => "retained",
            Self::TooLarge => "too_large",
            Self::Properties => "properties",
            Self::Hops => "hops",
            Self::Loop => "loop",
        }
    }
}

/// The sites whose messages cross.
#[derive(Clone, Debug)]
pub struct Sites {
    names: Vec<Label>,
    levels: BTreeSet<String>,
}

impl Sites {
    /// These.
    pub fn new(names: Vec<Label>) -> Self {
        let levels = names.iter().map(|n| topic_level(n.as_str())).collect();
        Self { names, levels }
    }

    /// Their names.
    pub fn names(&self) -> &[Label] {
        &self.names
    }

    /// What is subscribed to, for what goes in this direction.
    pub fn filters(&self, direction: Direction) -> BTreeSet<String> {
        let branches = Branch::ALL
            .into_iter()
            .filter(|b| b.direction() == direction);
        branches
            .flat_map(|branch| self.names.iter().map(move |site| branch.filter(Some(site))))
            .collect()
    }
}

/// A message that may cross.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passed {
    /// Its branch.
    pub branch: Branch,
    /// Its topic.
    pub topic: String,
    /// How often it will have been forwarded when it has been by us.
    pub hops: u8,
}

/// Whether a message crosses in this direction.
///
/// # Errors
/// Why it does not.
pub fn judge(
    topic: &[u8],
    retain: bool,
    payload_bytes: usize,
    properties: &Properties,
    sites: &Sites,
    direction: Direction,
) -> Result<Passed, Refusal> {
    let topic = match std::str::from_utf8(topic) {
        Ok(topic) if topic.len() <= MAX_TOPIC_BYTES => topic,
        _ => return Err(Refusal::Topic),
    };
    let branch = Branch::of(topic).ok_or(Refusal::UnknownBranch)?;
    let site = site_of(topic).ok_or(Refusal::UnknownBranch)?;
    if !sites.levels.contains(site) {
        return Err(Refusal::OtherSite);
    }
    if branch.direction() != direction {
        return Err(Refusal::WrongWay);
    }
    if retain && !branch.is_retained() {
        return Err(Refusal::Retained);
    }
    if payload_bytes > max_payload_bytes(branch) {
        return Err(Refusal::TooLarge);
    }
    if hops::size_bytes(properties) > MAX_PROPERTIES_BYTES {
        return Err(Refusal::Properties);
    }
    let hops = hops::of(properties).ok_or(Refusal::Properties)?;
    if hops >= MAX_HOPS {
        return Err(Refusal::Hops);
    }
    Ok(Passed {
        branch,
        topic: topic.to_owned(),
        hops: hops + 1,
    })
}

fn max_payload_bytes(branch: Branch) -> usize {
    match branch {
        Branch::Data | Branch::Answer => MAX_PAYLOAD_BYTES,
        _ => MAX_WORD_BYTES,
    }
}

/// The level of a topic that names the site.
fn site_of(topic: &str) -> Option<&str> {
    let below = topic.strip_prefix(ROOT)?.strip_prefix('/')?;
    below.split_once('/').map(|(site, _)| site)
}

/// The levels of a topic that name site and VM, if its branch has the VM first.
pub fn vm_of(topic: &str) -> Option<(&str, &str)> {
    let branch = Branch::of(topic)?;
    if !matches!(branch, Branch::Data | Branch::Producers) {
        return None;
    }
    let site = site_of(topic)?;
    let below = &topic[ROOT.len() + 1 + site.len() + 1 + branch.as_str().len() + 1..];
    let vm = below.split('/').next()?;
    (!vm.is_empty()).then_some((site, vm))
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmkpi::topic::Direction::{Down, Up};

    fn sites() -> Sites {
        Sites::new(vec!["acme".parse().unwrap(), "b+c".parse().unwrap()])
    }

    fn judged(topic: &str, direction: Direction) -> Result<Branch, Refusal> {
        let properties = Properties::default();
        let passed = judge(topic.as_bytes(), false, 1, &properties, &sites(), direction);
        passed.map(|passed| passed.branch)
    }

    #[test]
    fn each_branch_crosses_one_way_and_only_of_our_sites() {
        for branch in Branch::ALL {
            let vm = "vm".parse().unwrap();
            let ours = branch.topic(&"b+c".parse().unwrap(), &[&vm]);
            let (way, back) = match branch.direction() {
                Up => (Up, Down),
                Down => (Down, Up),
            };
            assert_eq!(judged(&ours, way), Ok(branch));
            assert_eq!(judged(&ours, back), Err(Refusal::WrongWay));
            let other = branch.topic(&"other".parse().unwrap(), &[&vm]);
            assert_eq!(judged(&other, way), Err(Refusal::OtherSite));
        }
        for topic in [
            "vmkpi/v1/acme/secrets/x",
            "vmkpi/v1/acme",
            "$SYS/x",
            "",
            "vmkpi/v2/acme/data/x",
        ] {
            assert_eq!(judged(topic, Up), Err(Refusal::UnknownBranch), "{topic}");
        }
    }

    #[test]
    fn what_is_too_much_does_not_cross() {
        let (sites, none) = (sites(), Properties::default());
        let data = b"vmkpi/v1/acme/data/vm/s/unencrypted/x".as_slice();
        let lease = b"vmkpi/v1/acme/directory/producer/vm".as_slice();
        let of = |topic, retain, bytes| judge(topic, retain, bytes, &none, &sites, Up).map(|_| ());
        assert_eq!(of(data, false, MAX_PAYLOAD_BYTES), Ok(()));
        assert_eq!(
            of(data, false, MAX_PAYLOAD_BYTES + 1),
            Err(Refusal::TooLarge)
        );
        assert_eq!(of(lease, true, MAX_WORD_BYTES + 1), Err(Refusal::TooLarge));
        assert_eq!(of(data, true, 1), Err(Refusal::Retained));
        assert_eq!(of(lease, true, 0), Ok(()));
        assert_eq!(
            of(b"vmkpi/v1/acme/data/\xff", false, 1),
            Err(Refusal::Topic)
        );
        let long = format!("vmkpi/v1/acme/data/{}", "x".repeat(MAX_TOPIC_BYTES));
        assert_eq!(of(long.as_bytes(), false, 1), Err(Refusal::Topic));
        let mut much = Properties::default();
        much.user_properties
            .push(("k".into(), "v".repeat(MAX_PROPERTIES_BYTES)));
        let much = judge(data, false, 1, &much, &sites, Up);
        assert_eq!(much, Err(Refusal::Properties));
    }

    #[test]
    fn a_message_is_forwarded_eight_times_and_no_more() {
        let mut properties = Properties::default();
        for hops in 1..=MAX_HOPS {
            let passed = judge(
                b"vmkpi/v1/acme/data/vm",
                false,
                1,
                &properties,
                &sites(),
                Up,
            );
            assert_eq!(passed.as_ref().map(|p| p.hops), Ok(hops));
            properties = hops::forwarded(properties, hops);
        }
        let passed = judge(
            b"vmkpi/v1/acme/data/vm",
            false,
            1,
            &properties,
            &sites(),
            Up,
        );
        assert_eq!(passed, Err(Refusal::Hops));
    }

    #[test]
    fn filters_are_of_one_direction_and_every_site() {
        let up = sites().filters(Up);
        assert_eq!(up.len(), 6);
        assert!(up.contains("vmkpi/v1/b%2Bc/directory/producer/#"), "{up:?}");
        assert!(up.is_disjoint(&sites().filters(Down)));
    }

    #[test]
    fn the_vm_of_a_topic_is_the_level_below_its_branch() {
        assert_eq!(vm_of("vmkpi/v1/a/data/vm/s/p"), Some(("a", "vm")));
        assert_eq!(vm_of("vmkpi/v1/a/directory/producer/vm"), Some(("a", "vm")));
        for none in ["vmkpi/v1/a/confirm/c/vm", "vmkpi/v1/a/data/", "x"] {
            assert_eq!(vm_of(none), None, "{none}");
        }
    }
}
