use std::time::{Duration, Instant};

use super::*;
use crate::message::{Body, Event, Kind, Sealed};
use crate::name::{DataPoint, Label};
use crate::position::{Position, RowKey, StreamId};
use crate::seal::SealingKey;

const PRIVATE: &str = include_str!("private-key.pem");
const PUBLIC: &str = include_str!("public-key.pem");

fn keys() -> OpeningKeys {
    [OpeningKey::from_pem(PRIVATE).unwrap()]
        .into_iter()
        .collect()
}

fn key() -> SealingKey {
    SealingKey::from_pem(PUBLIC).unwrap()
}

fn of(vm: &str, point: &str) -> (Label, DataPoint) {
    (vm.parse().unwrap(), point.parse().unwrap())
}

fn bound(of: &(Label, DataPoint)) -> Bound<'_> {
    Bound {
        vm: &of.0,
        point: &of.1,
        message: None,
    }
}

#[test]
fn what_was_sealed_opens_and_both_halves_have_one_name() {
    let (keys, key) = (keys(), key());
    assert_eq!(keys.kids().collect::<Vec<_>>(), [key.kid()]);
    let of = of("shop", "encrypted/orders");
    for len in [0, 1, 31, 32, 100_000] {
        let content = vec![b'x'; len];
        let envelope = key.seal(&bound(&of), content.clone()).unwrap();
        assert_eq!(keys.open(&bound(&of), &envelope).unwrap(), content);
    }
}

fn event(body: Body) -> Event {
    Event {
        site: "acme".parse().unwrap(),
        vm: "shop".parse().unwrap(),
        point: "unencrypted/web".parse().unwrap(),
        specifier: "web-load".parse().unwrap(),
        revision: "00ff".into(),
        stream: StreamId(5),
        after: Position::new(16, RowKey(1)),
        through: Position::new(17, RowKey(0x9f3c)),
        base: Position::START,
        time: crate::clock::Timestamp::from_micros(1),
        clock_skew_ms: None,
        body,
    }
}

#[test]
fn a_sealed_message_opens_as_itself_and_as_no_other() {
    let plain = event(Body::Gap("retention_age".into()));
    let sealed = plain.clone().seal(&key()).unwrap();
    assert!(!String::from_utf8_lossy(&sealed.encode()).contains("retention"));
    let came = Event::decode(&sealed.encode()).unwrap();
    assert_eq!(came.open(&keys()).unwrap(), plain);
    assert_eq!(came.clone().seal(&key()).unwrap(), came, "sealed once");
    assert_eq!(plain.open(&keys()).unwrap(), plain);
    let mut others = vec![came.clone(); 7];
    others[0].vm = "other".parse().unwrap();
    others[1].point = "unencrypted/other".parse().unwrap();
    others[2].stream = StreamId(6);
    others[3].specifier = "other".parse().unwrap();
    others[4].after.seq = 15;
    others[5].through.seq = 18;
    if let Body::Sealed(sealed) = &mut others[6].body {
        sealed.kind = Kind::Processed;
    }
    for other in others {
        assert_eq!(other.open(&keys()), Err(Unopened), "{other:?}");
    }
    assert_eq!(came.open(&OpeningKeys::default()), Err(Unopened));
}

#[test]
fn what_a_guest_sealed_is_no_message_and_the_other_way_round() {
    let of = of("shop", "unencrypted/web");
    let data = br#"{"reason":"x"}"#.to_vec();
    let envelope = key().seal(&bound(&of), data).unwrap();
    let body = Body::Sealed(Sealed {
        kind: Kind::Gap,
        envelope: envelope.into(),
    });
    assert_eq!(event(body).open(&keys()), Err(Unopened));
    let sealed = event(Body::Gap("x".into())).seal(&key()).unwrap();
    let Body::Sealed(sealed) = sealed.body else {
        panic!("sealed")
    };
    assert_eq!(keys().open(&bound(&of), &sealed.envelope), Err(Unopened));
}

/// An envelope with a header of the forger's own, right in everything else.
fn with_header(header: &str) -> String {
    use aes_gcm::aead::AeadInPlace as _;
    use aes_gcm::{Aes256Gcm, KeyInit as _};
    use aws_lc_rs::rsa::{OaepPublicEncryptingKey, PublicEncryptingKey};
    let spki = der(PUBLIC, "PUBLIC KEY").unwrap();
    let public = PublicEncryptingKey::from_der(&spki).unwrap();
    let public = OaepPublicEncryptingKey::new(public).unwrap();
    let (secret, iv, mut content) = ([7; 32], [9; 12], b"42".to_vec());
    let mut wrapped = vec![0; public.ciphertext_size()];
    public
        .encrypt(&OAEP_SHA256_MGF1SHA256, &secret, &mut wrapped, None)
        .unwrap();
    let head = BASE64URL.encode(header);
    let tag = Aes256Gcm::new(&secret.into())
        .encrypt_in_place_detached(&iv.into(), head.as_bytes(), &mut content)
        .unwrap();
    let parts = [&wrapped[..], &iv, &content, &tag].map(|part| BASE64URL.encode(part));
    format!("{head}.{}", parts.join("."))
}

fn header(alg: &str, enc: &str, kid: &str, rest: &str) -> String {
    with_header(&format!(
        r#"{{"alg":"{alg}","enc":"{enc}","kid":"{kid}","vm":"shop","point":"encrypted/orders"{rest}}}"#
    ))
}

/// Everything that can be wrong with an envelope for shop's encrypted/orders.
fn wrong() -> Vec<(&'static str, String)> {
    let (key, kid) = (key(), key().kid().to_owned());
    let (alg, enc) = ("RSA-OAEP-256", "A256GCM");
    let of_ours = of("shop", "encrypted/orders");
    let good = key.seal(&bound(&of_ours), b"42".to_vec()).unwrap();
    let parts: Vec<&str> = good.split('.').collect();
    let swap = |at: usize, part: &str| {
        let mut parts = parts.clone();
        parts[at] = part;
        parts.join(".")
    };
    let flip = |at: usize| {
        let mut bytes = BASE64URL.decode(parts[at]).unwrap();
        bytes[0] ^= 1;
        swap(at, &BASE64URL.encode(bytes))
    };
    let moved = of("shop", "encrypted/other");
    let moved = key.seal(&bound(&moved), b"42".to_vec()).unwrap();
    vec![
        ("empty", String::new()),
        ("four parts", parts[..4].join(".")),
        ("six parts", format!("{good}.AA")),
        ("padded", format!("{good}=")),
        ("wrapped key altered", flip(1)),
        (
            "wrapped key too large",
            swap(1, &BASE64URL.encode([0xff; 384])),
        ),
        ("wrapped key too short", swap(1, "AAAA")),
        ("iv altered", flip(2)),
        ("iv too short", swap(2, "AAAA")),
        ("content altered", flip(3)),
        ("content cut", swap(3, "")),
        ("tag altered", flip(4)),
        ("tag too short", swap(4, &parts[4][..8])),
        ("another point", moved),
        ("header moved", swap(0, moved_header(&kid).as_str())),
        ("RSA1_5", header("RSA1_5", enc, &kid, "")),
        ("RSA-OAEP", header("RSA-OAEP", enc, &kid, "")),
        ("dir", header("dir", enc, &kid, "")),
        ("A128GCM", header(alg, "A128GCM", &kid, "")),
        ("unknown kid", header(alg, enc, "someone", "")),
        ("zip", header(alg, enc, &kid, r#","zip":"DEF""#)),
        ("crit", header(alg, enc, &kid, r#","crit":["exp"],"exp":1"#)),
        (
            "a member twice",
            header(alg, enc, &kid, r#","alg":"RSA-OAEP-256""#),
        ),
        ("half a message", header(alg, enc, &kid, r#","after":1"#)),
    ]
}

fn moved_header(kid: &str) -> String {
    let text = format!(
        r#"{{"alg":"RSA-OAEP-256","enc":"A256GCM","kid":"{kid}","vm":"shop","point":"encrypted/other"}}"#
    );
    BASE64URL.encode(text)
}

#[test]
fn whatever_is_wrong_is_one_error() {
    let (keys, of) = (keys(), of("shop", "encrypted/orders"));
    let good = header("RSA-OAEP-256", "A256GCM", key().kid(), "");
    assert_eq!(
        keys.open(&bound(&of), &good).unwrap(),
        b"42",
        "the forger's own"
    );
    for (what, envelope) in wrong() {
        assert_eq!(keys.open(&bound(&of), &envelope), Err(Unopened), "{what}");
    }
}

/// The least time of several: what other work on this machine adds is not in it.
fn least(keys: &OpeningKeys, of: &(Label, DataPoint), envelope: &str, least: &mut Duration) {
    let begin = Instant::now();
    let _ = keys.open(&bound(of), envelope);
    *least = (*least).min(begin.elapsed());
}

/// A private-key operation takes a thousand times as long as any look at a header: who answered early would show
/// it. The rounds are interleaved, so that a machine that slows down does so for all.
#[test]
fn whatever_is_wrong_takes_as_long_as_an_altered_tag() {
    let (keys, of, wrong) = (keys(), of("shop", "encrypted/orders"), wrong());
    let mut times = vec![Duration::MAX; wrong.len()];
    for _ in 0..15 {
        for ((_, envelope), time) in wrong.iter().zip(&mut times) {
            least(&keys, &of, envelope, time);
        }
    }
    let tag = wrong.iter().position(|(what, _)| *what == "tag altered");
    let tag = times[tag.unwrap()];
    for ((what, _), time) in wrong.iter().zip(&times) {
        let ratio = time.as_secs_f64() / tag.as_secs_f64();
        assert!((0.7..1.4).contains(&ratio), "{what}: {time:?}, not {tag:?}");
    }
}

#[test]
fn what_is_no_key_or_too_short_a_one_is_refused() {
    for bad in ["", "x", PUBLIC, include_str!("../sign/other-key.pem")] {
        let refused = OpeningKey::from_pem(bad).unwrap_err();
        assert_eq!(refused, OpeningKeyError::NotAKey);
    }
    let short = OpeningKey::from_pem(include_str!("2048-bits.pem")).unwrap_err();
    assert_eq!(short, RsaError::Size(2048).into());
    let shown = format!("{:?}", keys());
    assert!(shown.len() < 150, "{shown}");
}
