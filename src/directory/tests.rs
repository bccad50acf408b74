use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::clock::Timestamp;
use crate::descriptor::{Descriptor, Spelling};
use crate::name::DataPoint;
use crate::sign::{Keyring, Purpose, Refusal, SigningKey};

const SITE_KEY: &str = include_str!("../../schemas/vectors/sign.key.pem");
const OTHER_KEY: &str = include_str!("stranger-key.pem");
/// 2026-11-20T17:00:00Z.
const NOW: i64 = 1_795_194_000;

fn at(seconds: f64) -> Timestamp {
    Timestamp::from_micros(NOW * 1_000_000 + (seconds * 1e6) as i64)
}

fn key(pem: &str) -> Arc<SigningKey> {
    Arc::new(SigningKey::from_pem(pem).unwrap())
}

fn descriptor(confirm: Option<&SigningKey>) -> Descriptor {
    let mut text = "vm = \"shop\"\nservice = \"store\"\nprimary_site = \"acme\"\n".to_owned();
    if let Some(key) = confirm {
        let key = key.public().to_base64();
        text += &format!("[[confirm]]\nname = \"collect\"\nkey = \"{key}\"\n");
    }
    text += "[[monitor]]\nid = \"rows\"\npoint = \"unencrypted/web-*\"\n\
             [[monitor]]\nid = \"load\"\npoint = \"unencrypted/web-load\"\ninterval = \"1s\"\n\
             delivery = \"10s\"\nfunction = \"p99\"\n\
             [[monitor]]\nid = \"disk\"\npoint = \"infra/block\"\n";
    let no_files = |_: &std::path::Path| Err(std::io::ErrorKind::NotFound.into());
    Descriptor::parse(&text, Spelling::Toml, &no_files).unwrap()
}

fn shop() -> Subject {
    subject(Side::Producer, "acme", "shop")
}

fn subject(side: Side, site: &str, name: &str) -> Subject {
    let (site, name) = (site.parse().unwrap(), name.parse().unwrap());
    Subject { side, site, name }
}

fn producer(confirm: Option<&SigningKey>) -> Entry {
    let points: Vec<DataPoint> = ["unencrypted/web-a", "infra/block/vda"]
        .map(|p| p.parse().unwrap())
        .into();
    Entry::Producer(ProducerEntry::new(&descriptor(confirm), &points))
}

/// A lease of the VM, issued then, for a minute, by the site's key.
fn lease(seconds: f64) -> Vec<u8> {
    let term = Term::lasting(at(seconds), 60.0);
    encode(&shop(), term, &producer(None), Some(&key(SITE_KEY)))
}

fn secure() -> Directory {
    Directory::new(Keyring::from_iter([key(SITE_KEY).public().clone()]), false)
}

fn query(vm: Option<&str>, point: Option<&str>) -> Query {
    Query {
        site: None,
        vm: vm.map(|vm| vm.parse().unwrap()),
        point: point.map(|point| point.parse().unwrap()),
    }
}

fn found(directory: &Directory, side: Side, of: &Query, seconds: f64) -> usize {
    directory.find(side, of, at(seconds)).count()
}

const BAD: Refused = Refused::Signature(Refusal::Signature);
const UNKNOWN: Refused = Refused::Signature(Refusal::UnknownKey);
const UNSIGNED: Refused = Refused::Signature(Refusal::Unsigned);

#[test]
fn a_lease_is_live_until_its_time_is_over_and_each_lapse_is_told_once() {
    let (mut directory, topic, any) = (secure(), shop().topic(), Query::default());
    assert_eq!(topic, "vmkpi/v1/acme/directory/producer/shop");
    assert_eq!(directory.hear(&topic, &lease(0.0), at(1.0)), Ok(Heard::New));
    assert_eq!(
        directory.hear(&topic, &lease(20.0), at(21.0)),
        Ok(Heard::Renewed)
    );
    assert_eq!(
        directory.hear(&topic, &lease(20.0), at(21.0)),
        Ok(Heard::Repeated)
    );
    assert_eq!(found(&directory, Side::Producer, &any, 79.9), 1);
    assert!(directory.lapsed(at(79.9)).is_empty());
    assert_eq!(found(&directory, Side::Producer, &any, 80.0), 0);
    assert_eq!(
        directory.standing(&shop(), at(80.0)),
        Standing::Expired(at(80.0))
    );
    assert_eq!(directory.lapsed(at(90.0)).len(), 1);
    assert!(directory.lapsed(at(91.0)).is_empty(), "once");
    assert_eq!(
        directory.hear(&topic, &lease(95.0), at(96.0)),
        Ok(Heard::New)
    );
    assert_eq!(directory.lapsed(at(200.0)).len(), 1, "of each lapse");
    assert_eq!(
        secure().hear(&topic, &lease(0.0), at(61.0)),
        Ok(Heard::Expired)
    );
}

#[test]
fn who_takes_back_an_entry_has_to_sign_that() {
    let (mut directory, topic) = (secure(), shop().topic());
    directory.hear(&topic, &lease(0.0), at(0.0)).unwrap();
    assert_eq!(directory.hear(&topic, b"", at(1.0)), Err(UNSIGNED));
    assert_eq!(found(&directory, Side::Producer, &Query::default(), 1.0), 1);
    let entry = producer(None);
    let farewell = encode(
        &shop(),
        Term::farewell(at(2.0)),
        &entry,
        Some(&key(SITE_KEY)),
    );
    assert_eq!(directory.hear(&topic, &farewell, at(2.0)), Ok(Heard::Left));
    assert_eq!(directory.hear(&topic, b"", at(2.0)), Ok(Heard::Repeated));
    assert_eq!(directory.standing(&shop(), at(2.0)), Standing::Left);
    assert!(
        directory.lapsed(at(500.0)).is_empty(),
        "it has left, it is not dead"
    );
    // Said before it left.
    let replayed = directory.hear(&topic, &lease(1.5), at(3.0));
    assert_eq!(replayed, Err(Refused::Replayed));
    assert_eq!(directory.hear(&topic, &lease(4.0), at(4.0)), Ok(Heard::New));
    let mut insecure = Directory::new(Keyring::default(), true);
    insecure.hear(&topic, &lease(0.0), at(0.0)).unwrap();
    assert_eq!(insecure.hear(&topic, b"", at(1.0)), Ok(Heard::Left));
}

#[test]
fn what_does_not_count_is_refused_by_its_kind_and_counted() {
    let (mut directory, topic) = (secure(), shop().topic());
    directory.hear(&topic, &lease(0.0), at(0.0)).unwrap();
    let text = String::from_utf8(lease(1.0)).unwrap();
    let term = |to| Term {
        issued: at(1.0),
        expires_at: at(to),
    };
    let of = |subject: &Subject, term, pem| encode(subject, term, &producer(None), Some(&key(pem)));
    let elsewhere = subject(Side::Producer, "acme", "other");
    let moved = text.replace(r#""vm":"shop""#, r#""vm":"other""#);
    let unsigned = encode(&shop(), term(61.0), &producer(None), None);
    let wrong_purpose = text.replace(r#""vm":"shop""#, r#""consumer":"shop""#);
    let (other, site, beyond) = (elsewhere.topic(), SITE_KEY, MAX_LEASE_SECONDS as f64);
    let cases: Vec<(&str, Vec<u8>, Refused)> = vec![
        (&topic, b"{}".to_vec(), Refused::Malformed),
        (&topic, vec![b' '; MAX_BYTES + 1], Refused::Malformed),
        (&other, text.clone().into_bytes(), Refused::AnotherTopic),
        (&topic, wrong_purpose.into_bytes(), Refused::AnotherTopic),
        (
            "vmkpi/v1/acme/data/shop/x",
            text.clone().into_bytes(),
            Refused::AnotherTopic,
        ),
        (&other, moved.into_bytes(), BAD),
        (
            &topic,
            of(&shop(), term(0.5), site),
            Refused::ImpossibleTerm,
        ),
        (
            &topic,
            of(&shop(), term(beyond + 1.1), site),
            Refused::ImpossibleTerm,
        ),
        (
            &topic,
            lease(MAX_AHEAD_SECONDS as f64 + 1.0),
            Refused::FromTheFuture,
        ),
        (&topic, lease(-1.0), Refused::Replayed),
        (&topic, unsigned, UNSIGNED),
        (&topic, of(&shop(), term(61.0), OTHER_KEY), UNKNOWN),
        (&topic, text.replace("p99", "max").into_bytes(), BAD),
        (
            &topic,
            text.replace("17:01:01", "17:41:01").into_bytes(),
            BAD,
        ),
    ];
    for (topic, payload, expected) in &cases {
        let heard = directory.hear(topic, payload, at(0.0));
        assert_eq!(
            heard,
            Err(*expected),
            "{}",
            String::from_utf8_lossy(payload)
        );
    }
    let counted: u64 = directory.refused().map(|(_, count)| count).sum();
    assert_eq!(counted, cases.len() as u64);
    let bad = directory.refused().find(|(why, _)| *why == "bad_signature");
    assert_eq!(bad, Some(("bad_signature", 3)));
    assert_eq!(
        directory.standing(&shop(), at(0.0)),
        Standing::Live(at(60.0)),
        "as before"
    );
}

#[test]
fn a_message_and_a_confirmation_are_no_entry_though_the_same_key_signed_them() {
    let (entry, site) = (producer(None), key(SITE_KEY));
    let text = String::from_utf8(lease(0.0)).unwrap();
    let data = serde_json::to_string(entry_of(&entry)).unwrap();
    let (issued, expires) = (at(0.0).to_string(), at(60.0).to_string());
    let attributes = [
        ("site", "acme"),
        ("vm", "shop"),
        ("issued", &*issued),
        ("expires_at", &*expires),
    ];
    for purpose in [Purpose::Message, Purpose::Confirmation, Purpose::Query] {
        let forged = site.sign(purpose, &attributes, data.as_bytes());
        let (before, _) = text.split_once("\"signature\"").unwrap();
        let forged = format!("{before}\"signature\":\"{forged}\"}}");
        assert_eq!(
            secure().hear(&shop().topic(), forged.as_bytes(), at(0.0)),
            Err(BAD)
        );
    }
}

fn entry_of(entry: &Entry) -> &ProducerEntry {
    match entry {
        Entry::Producer(entry) => entry,
        Entry::Consumer(_) => panic!("a Producer's"),
    }
}

fn registrar(takes: Vec<Take>) -> Registrar {
    let (name, key) = ("collect".parse().unwrap(), key(OTHER_KEY));
    let mut registrar = Registrar::new(name, Role::Collect, takes, key, 60);
    registrar.join(&"acme".parse().unwrap());
    registrar
}

#[test]
fn a_consumer_is_believed_where_a_producer_names_its_key_or_the_reader_trusts_it() {
    let messages = registrar(vec![]).due(at(0.0));
    let [(topic, payload)] = messages.as_slice() else {
        panic!("one site")
    };
    assert_eq!(topic, "vmkpi/v1/acme/directory/consumer/collect");
    let mut directory = secure();
    assert_eq!(
        directory.hear(topic, payload, at(0.0)),
        Err(UNKNOWN),
        "a stranger"
    );
    let naming = producer(Some(&key(OTHER_KEY)));
    let term = Term::lasting(at(0.0), 60.0);
    let naming = encode(&shop(), term, &naming, Some(&key(SITE_KEY)));
    directory.hear(&shop().topic(), &naming, at(0.0)).unwrap();
    assert_eq!(directory.hear(topic, payload, at(0.0)), Ok(Heard::New));
    let own = Keyring::from_iter([key(OTHER_KEY).public().clone()]);
    assert_eq!(
        Directory::new(own, false).hear(topic, payload, at(0.0)),
        Ok(Heard::New)
    );
    let mut insecure = Directory::new(Keyring::default(), true);
    assert_eq!(insecure.hear(topic, payload, at(0.0)), Ok(Heard::New));
    // Even then it is the owner of the key who says so.
    let text = String::from_utf8(payload.clone()).unwrap();
    let altered = text.replace("\"collect\",\"takes\"", "\"relay\",\"takes\"");
    assert_ne!(text, altered);
    let heard = insecure.hear(topic, altered.as_bytes(), at(0.0));
    assert_eq!(heard, Err(BAD));
}

#[test]
fn a_consumer_renews_each_third_and_says_farewell() {
    let mut registrar = registrar(vec![]);
    let mut directory = Directory::new(Keyring::default(), true);
    let mut hear = |messages: Vec<registrar::Message>, seconds: f64| {
        let heard = messages.iter();
        let heard = heard.map(|(topic, payload)| directory.hear(topic, payload, at(seconds)));
        heard.collect::<Vec<_>>()
    };
    assert_eq!(hear(registrar.due(at(0.0)), 0.0), [Ok(Heard::New)]);
    assert!(registrar.due(at(19.9)).is_empty());
    assert_eq!(hear(registrar.due(at(20.0)), 20.0), [Ok(Heard::Renewed)]);
    assert_eq!(
        hear(registrar.due(at(-500.0)), 20.0),
        [Ok(Heard::Renewed)],
        "the clock was set back"
    );
    registrar.again();
    assert_eq!(
        registrar.due(at(-500.0)).len(),
        1,
        "the broker may have forgotten"
    );
    let last = registrar.farewell(at(30.0));
    assert_eq!(hear(last, 30.0), [Ok(Heard::Left), Ok(Heard::Repeated)]);
    assert!(registrar.due(at(99.0)).is_empty());
}

#[test]
fn both_sides_are_found_by_site_vm_and_point() {
    let take = |vm: Option<&str>, point: Option<&str>| Take {
        vm: vm.map(|vm| vm.parse().unwrap()),
        point: point.map(|point| point.parse().unwrap()),
    };
    let mut directory = Directory::new(Keyring::default(), true);
    directory
        .hear(&shop().topic(), &lease(0.0), at(0.0))
        .unwrap();
    let mut consumer = registrar(vec![
        take(Some("shop"), Some("infra/*")),
        take(Some("db"), None),
    ]);
    for (topic, payload) in consumer.due(at(0.0)) {
        directory.hear(&topic, &payload, at(0.0)).unwrap();
    }
    for (vm, point, producers, consumers) in [
        (None, None, 1, 1),
        (Some("shop"), None, 1, 1),
        (Some("db"), None, 0, 1),
        (Some("other"), None, 0, 0),
        (Some("shop"), Some("infra/block/vd*"), 1, 1),
        (Some("shop"), Some("unencrypted/*-load"), 1, 0),
        (None, Some("unencrypted/db"), 0, 1),
        (None, Some("encrypted/*"), 0, 1),
    ] {
        let query = query(vm, point);
        let found = |side| found(&directory, side, &query, 0.0);
        assert_eq!(
            (found(Side::Producer), found(Side::Consumer)),
            (producers, consumers),
            "{query:?}"
        );
    }
    let site = Query {
        site: Some("other".parse().unwrap()),
        ..Query::default()
    };
    assert_eq!(found(&directory, Side::Producer, &site, 0.0), 0);
}

#[test]
fn what_is_found_is_subscribed_to_as_narrowly_as_can_be() {
    let mut directory = secure();
    directory
        .hear(&shop().topic(), &lease(0.0), at(0.0))
        .unwrap();
    let filters = |point: Option<&str>| {
        let filters = directory.filters(&query(None, point), at(0.0));
        let below = "vmkpi/v1/acme/data/shop/";
        filters
            .iter()
            .map(|f| f.strip_prefix(below).unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        filters(None),
        [
            "disk/infra/block/#",
            "load/unencrypted/web-load",
            "rows/unencrypted/#"
        ]
    );
    assert_eq!(
        filters(Some("unencrypted/web-a")),
        ["rows/unencrypted/web-a"]
    );
    assert_eq!(
        filters(Some("unencrypted/*")),
        ["load/unencrypted/web-load", "rows/unencrypted/#"]
    );
    assert_eq!(filters(Some("infra/block/vda")), ["disk/infra/block/vda"]);
    assert!(filters(Some("unencrypted/db")).is_empty());
    assert!(
        directory.filters(&Query::default(), at(60.0)).is_empty(),
        "expired"
    );
}

#[test]
fn what_one_lease_lists_and_what_a_reader_remembers_is_bounded() {
    let points: Vec<DataPoint> = (0..400)
        .map(|n| {
            format!("unencrypted/{}{n:0>4}", "\"".repeat(196))
                .parse()
                .unwrap()
        })
        .collect();
    let entry = ProducerEntry::new(&descriptor(None), &points);
    assert_eq!(entry.points.len() as u64 + entry.more_points, 400);
    assert_eq!(entry.points.len(), MAX_POINTS);
    let term = Term::lasting(at(0.0), 60.0);
    let bytes = encode(&shop(), term, &Entry::Producer(entry), Some(&key(SITE_KEY)));
    assert!(bytes.len() < MAX_BYTES, "{}", bytes.len());
    assert_eq!(
        secure().hear(&shop().topic(), &bytes, at(0.0)),
        Ok(Heard::New)
    );
    let mut directory = Directory::new(Keyring::default(), true);
    directory.limit = 100;
    let entry = producer(None);
    let mut say = |n: usize, seconds: f64| {
        let of = subject(Side::Producer, "acme", &format!("vm-{n}"));
        let payload = encode(&of, Term::lasting(at(seconds), 60.0), &entry, None);
        directory.hear(&of.topic(), &payload, at(seconds))
    };
    for n in 0..100 {
        assert_eq!(say(n, 0.0), Ok(Heard::New));
    }
    assert_eq!(say(100, 1.0), Err(Refused::TooMany));
    assert_eq!(say(0, 1.0), Ok(Heard::Renewed), "who is known goes on");
    let later = MAX_LEASE_SECONDS as f64 + 1.0;
    assert_eq!(
        say(100, later),
        Ok(Heard::New),
        "what is long dead is forgotten"
    );
}

proptest! {
    /// Whatever comes, in whatever order: an entry is live only by the latest lease of who may issue it.
    #[test]
    fn no_stranger_and_no_replay_changes_how_anybody_stands(
        events in proptest::collection::vec((0..6_u8, 0..200_i64), 1..40)
    ) {
        let (mut directory, topic) = (secure(), shop().topic());
        let (mut latest, mut left, mut now) = (None::<i64>, false, 0);
        let entry = producer(None);
        for (kind, seconds) in events {
            now = now.max(seconds);
            let term = Term::lasting(at(seconds as f64), 60.0);
            let (payload, counts) = match kind {
                0 | 1 => (encode(&shop(), term, &entry, Some(&key(SITE_KEY))), true),
                2 => (encode(&shop(), Term::farewell(at(seconds as f64)), &entry, Some(&key(SITE_KEY))), true),
                3 => (encode(&shop(), term, &entry, Some(&key(OTHER_KEY))), false),
                4 => (Vec::new(), false),
                _ => (encode(&shop(), term, &entry, None), false),
            };
            let heard = directory.hear(&topic, &payload, at(now as f64));
            if counts && latest.is_none_or(|latest| seconds > latest) {
                prop_assert!(heard.is_ok());
                (latest, left) = (Some(seconds), kind == 2);
            }
            let standing = directory.standing(&shop(), at(now as f64));
            let expected = match latest {
                None => Standing::Unknown,
                Some(_) if left => Standing::Left,
                Some(issued) if issued + 60 > now => Standing::Live(at((issued + 60) as f64)),
                Some(issued) => Standing::Expired(at((issued + 60) as f64)),
            };
            prop_assert_eq!(standing, expected);
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), cut in 0..600_usize, put in any::<u8>()) {
        let mut altered = lease(0.0);
        let at_byte = cut % altered.len();
        let changed = altered[at_byte] != put;
        altered[at_byte] = put;
        let mut directory = secure();
        for payload in [&bytes, &altered] {
            let heard = directory.hear(&shop().topic(), payload, at(0.0));
            prop_assert!(heard.is_err() || payload.is_empty() || !changed);
        }
    }
}
