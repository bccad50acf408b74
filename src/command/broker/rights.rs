//! Who may do what at a broker, branch by branch. Nobody gets more than its part needs: what is missing here is denied.
//!
//! | role | reads | writes |
//! | --- | --- | --- |
//! | host | `confirm`, `query` | `data`, `directory/producer`, `answer` |
//! | Consumer | `data`, `directory`, its own `answer` | its own `confirm`, `query` and entry in `directory/consumer` |
//! | reader | `data`, `directory` | |
//! | relay that takes from here | what goes up | what goes down |
//! | relay that brings to here | what goes down | what goes up |

use vmkpi::name::Label;
use vmkpi::topic::{Branch, Direction};

/// What somebody is at the broker of a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// A host of VMs whose primary site it is: all hosts of a site share one name.
    Host,
    /// Takes what is delivered, confirms it and asks; its user name is its name as a Consumer.
    Consumer,
    /// Looks on: watch and directory.
    Reader,
    /// A relay that carries what goes up from here to a broker nearer to the primary site.
    RelayOut,
    /// A relay that brings to here what goes up, from a broker nearer to the VMs.
    RelayIn,
}

impl Role {
    /// What it is, in words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Host => "hosts",
            Self::Consumer => "a Consumer",
            Self::Reader => "a reader",
            Self::RelayOut => "a relay that takes from here",
            Self::RelayIn => "a relay that brings to here",
        }
    }
}

/// What may be done with a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// Its messages come.
    Read,
    /// Messages may be published on it.
    Write,
}

/// A right.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Right {
    /// What may be done ...
    pub access: Access,
    /// ... below this topic filter.
    pub filter: String,
}

/// The rights of `name`, who has `role` at `site`.
pub fn rights(role: Role, site: &Label, name: &Label) -> Vec<Right> {
    let all = |branch: Branch| branch.filter(Some(site));
    let own = |branch: Branch| format!("{}/#", branch.topic(site, &[name]));
    let going = |way| {
        Branch::ALL
            .into_iter()
            .filter(move |b| b.direction() == way)
            .map(all)
            .collect()
    };
    let delivered = [Branch::Data, Branch::Producers, Branch::Consumers].map(all);
    let (reads, writes): (Vec<String>, Vec<String>) = match role {
        Role::Host => (
            vec![all(Branch::Confirm), all(Branch::Query)],
            going(Direction::Up),
        ),
        Role::Consumer => (
            [&delivered[..], &[own(Branch::Answer)]].concat(),
            vec![
                own(Branch::Confirm),
                own(Branch::Query),
                // One entry, and no topics below it.
                Branch::Consumers.topic(site, &[name]),
            ],
        ),
        Role::Reader => (delivered.to_vec(), vec![]),
        Role::RelayOut => (going(Direction::Up), going(Direction::Down)),
        Role::RelayIn => (going(Direction::Down), going(Direction::Up)),
    };
    let reads = reads.into_iter().map(|filter| (Access::Read, filter));
    let writes = writes.into_iter().map(|filter| (Access::Write, filter));
    reads
        .chain(writes)
        .map(|(access, filter)| Right { access, filter })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROLES: [Role; 5] = [
        Role::Host,
        Role::Consumer,
        Role::Reader,
        Role::RelayOut,
        Role::RelayIn,
    ];

    fn of(role: Role) -> Vec<String> {
        let (site, name) = ("a+b".parse().unwrap(), "me".parse().unwrap());
        let rights = rights(role, &site, &name);
        rights
            .into_iter()
            .map(|right| format!("{:?} {}", right.access, right.filter))
            .collect()
    }

    #[test]
    fn a_consumer_speaks_for_itself_alone_and_of_its_site() {
        let rights = of(Role::Consumer);
        assert_eq!(
            rights,
            [
                "Read vmkpi/v1/a%2Bb/data/#",
                "Read vmkpi/v1/a%2Bb/directory/producer/#",
                "Read vmkpi/v1/a%2Bb/directory/consumer/#",
                "Read vmkpi/v1/a%2Bb/answer/me/#",
                "Write vmkpi/v1/a%2Bb/confirm/me/#",
                "Write vmkpi/v1/a%2Bb/query/me/#",
                "Write vmkpi/v1/a%2Bb/directory/consumer/me",
            ]
        );
    }

    #[test]
    fn nobody_may_read_and_write_the_same_branch_but_who_has_an_entry_there() {
        for role in ROLES {
            let rights = of(role);
            let reads = rights.iter().filter_map(|r| r.strip_prefix("Read "));
            for filter in reads.map(|filter| filter.trim_end_matches('#')) {
                let writes = rights
                    .iter()
                    .find(|r| r.starts_with(&format!("Write {filter}")));
                let entry = "Write vmkpi/v1/a%2Bb/directory/consumer/me".to_owned();
                assert!(
                    writes.is_none_or(|r| *r == entry),
                    "{role:?}: {filter} {writes:?}"
                );
            }
        }
    }

    #[test]
    fn the_two_ends_of_a_relay_mirror_each_other() {
        let swapped = |rights: Vec<String>| {
            let mut rights: Vec<String> = rights
                .iter()
                .map(|right| match right.strip_prefix("Read ") {
                    Some(filter) => format!("Write {filter}"),
                    None => right.replacen("Write", "Read", 1),
                })
                .collect();
            rights.sort();
            rights
        };
        let mut out = of(Role::RelayOut);
        out.sort();
        assert_eq!(swapped(of(Role::RelayIn)), out);
        assert_eq!(out.len(), Branch::ALL.len());
    }
}
