use tokio::sync::watch;
use vmkpi::descriptor::Spelling;
use vmkpi::directory::{Directory, Heard, Query};
use vmkpi::sign::{Keyring, SigningKey};

use super::*;
use crate::libvirt::Domain;

const SIGN: &str = include_str!("../../../../schemas/vectors/sign.key.pem");

fn descriptor(vm: &str) -> Arc<Descriptor> {
    let text = format!("vm = \"{vm}\"\nprimary_site = \"acme\"\n");
    let no_files = |_: &std::path::Path| Err(std::io::ErrorKind::NotFound.into());
    Arc::new(Descriptor::parse(&text, Spelling::Toml, &no_files).unwrap())
}

fn at(seconds: u64, connects: u64) -> Moment {
    Moment {
        now: Timestamp::from_micros((1_795_194_000 + seconds as i64) * 1_000_000),
        now_ms: seconds * 1000,
        connects,
    }
}

/// A host's entry and a reader at the site.
struct Pair {
    holder: Leaseholder,
    directory: Directory,
}

impl Pair {
    fn new() -> Self {
        let key = Arc::new(SigningKey::from_pem(SIGN).unwrap());
        let ring = Keyring::from_iter([key.public().clone()]);
        Self {
            holder: Leaseholder::new(watch::channel(Some(key)).1, 60),
            directory: Directory::new(ring, false),
        }
    }

    /// What the reader makes of what is published; the broker takes it.
    fn step(&mut self, fate: Fate, vm: &str, points: &[&str], at: Moment) -> Vec<Heard> {
        let points = points.iter().map(|p| p.parse().unwrap()).collect();
        let messages = self.holder.step(fate, &descriptor(vm), points, at);
        let mut heard = Vec::new();
        for message in messages {
            self.holder.settled(message.token, true, at);
            let topic = &message.topic;
            heard.push(
                self.directory
                    .hear(topic, &message.payload, at.now)
                    .unwrap(),
            );
        }
        heard
    }
}

#[test]
fn a_lease_is_renewed_each_third_when_it_changes_and_after_each_connection() {
    let mut pair = Pair::new();
    assert_eq!(pair.step(Fate::Held, "shop", &[], at(0, 1)), [Heard::New]);
    assert_eq!(pair.step(Fate::Held, "shop", &[], at(19, 1)), []);
    assert_eq!(
        pair.step(Fate::Held, "shop", &[], at(20, 1)),
        [Heard::Renewed]
    );
    let points = ["unencrypted/web"];
    assert_eq!(
        pair.step(Fate::Held, "shop", &points, at(21, 1)),
        [Heard::Changed]
    );
    assert_eq!(
        pair.step(Fate::Held, "shop", &points, at(22, 2)),
        [Heard::Renewed]
    );
    assert_eq!(pair.holder.counts, [4, 0, 0]);
    // Renamed: the entry of the old name is taken back.
    let renamed = pair.step(Fate::Held, "store", &points, at(23, 2));
    assert_eq!(renamed, [Heard::Left, Heard::Repeated, Heard::New]);
    let stopped = pair.step(Fate::Removed, "store", &[], at(24, 2));
    assert_eq!(stopped, [Heard::Left, Heard::Repeated]);
    assert_eq!(
        pair.step(Fate::Removed, "store", &[], at(25, 2)),
        [],
        "once"
    );
    assert_eq!(
        pair.directory
            .find(Side::Producer, &Query::default(), at(25, 2).now)
            .count(),
        0
    );
}

#[test]
fn who_moved_leaves_the_lease_to_the_next_host() {
    let mut pair = Pair::new();
    assert_eq!(
        pair.step(Fate::Kept, "shop", &[], at(0, 1)),
        [],
        "it may never run here"
    );
    assert_eq!(pair.step(Fate::Held, "shop", &[], at(0, 1)), [Heard::New]);
    assert_eq!(
        pair.step(Fate::Kept, "shop", &[], at(20, 1)),
        [Heard::Renewed]
    );
    assert_eq!(pair.step(Fate::Let, "shop", &[], at(21, 1)), []);
    assert_eq!(
        pair.step(Fate::Removed, "shop", &[], at(22, 1)),
        [],
        "it is not ours to take back"
    );
}

#[test]
fn while_the_broker_says_nothing_one_entry_waits_and_what_it_refuses_is_tried_again() {
    let mut holder = Leaseholder::new(watch::channel(None).1, 60);
    let shop = descriptor("shop");
    let first = holder.step(Fate::Held, &shop, vec![], at(0, 0));
    assert_eq!(first.len(), 1);
    assert!(
        holder
            .step(Fate::Held, &shop, vec![], at(500, 3))
            .is_empty()
    );
    holder.settled(first[0].token, false, at(500, 3));
    // The connection is another one than it was made on.
    let second = holder.step(Fate::Held, &shop, vec![], at(501, 3));
    assert_eq!(second.len(), 1);
    holder.settled(second[0].token, false, at(501, 3));
    assert!(
        holder
            .step(Fate::Held, &shop, vec![], at(510, 3))
            .is_empty()
    );
    let third = holder.step(Fate::Held, &shop, vec![], at(511, 3));
    holder.settled(first[0].token, true, at(511, 3));
    holder.settled(third[0].token, true, at(511, 3));
    assert_eq!(
        (holder.counts, holder.taken),
        ([1, 0, 2], Some(at(511, 3).now))
    );
}

#[test]
fn what_becomes_of_an_entry_is_what_became_of_the_vm() {
    let fate = |state, ended, in_transit, leaving, parted| {
        let domain = Domain {
            state,
            ended,
            in_transit,
            ..Domain::default()
        };
        Fate::of(&Spec {
            domain: Arc::new(domain),
            descriptor: descriptor("shop"),
            link: None,
            leaving,
            ended: parted,
        })
    };
    use State::{Off, Paused, Running};
    let (stopped, migrated) = (Some(Ended::Stopped), Some(Ended::Migrated));
    assert_eq!(fate(Running, None, false, false, None), Fate::Held);
    assert_eq!(fate(Paused, None, false, false, None), Fate::Held);
    assert_eq!(fate(Paused, None, true, false, None), Fate::Kept);
    assert_eq!(fate(Off, stopped, false, false, None), Fate::Removed);
    assert_eq!(fate(Off, migrated, false, false, None), Fate::Let);
    assert_eq!(fate(Off, None, false, false, None), Fate::Let);
    assert_eq!(fate(Running, None, false, true, stopped), Fate::Removed);
    assert_eq!(fate(Off, stopped, false, true, migrated), Fate::Let);
    assert_eq!(fate(Off, stopped, false, true, None), Fate::Let);
}
