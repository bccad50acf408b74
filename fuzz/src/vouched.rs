//! What is signed or sealed: whatever bytes come, nobody is believed who has not signed, nothing opens that was not
//! sealed, and what was comes back as it went.

use std::sync::LazyLock;

use vmkpi::name::{DataPoint, Label};
use vmkpi::open::{OpeningKey, OpeningKeys};
use vmkpi::query::{MAX_ROWS, Question, Received, Subject};
use vmkpi::seal::{Bound, BoundMessage, SealingKey};
use vmkpi::sign::{Keyring, Purpose, Refusal, SigningKey, VerifyingKey};

const SIGN: &str = include_str!("../../schemas/vectors/sign.key.pem");
const SEAL: &str = include_str!("../../schemas/vectors/seal.pub.pem");
const OPEN: &str = include_str!("../../schemas/vectors/seal.key.pem");

struct Keys {
    sign: SigningKey,
    ring: Keyring,
    seal: SealingKey,
    open: OpeningKeys,
    subject: Subject,
    point: DataPoint,
}

static KEYS: LazyLock<Keys> = LazyLock::new(|| {
    let sign = SigningKey::from_pem(SIGN).expect("a key");
    let open = OpeningKey::from_pem(OPEN).expect("a key");
    let label = |name: &str| -> Label { name.parse().expect("a name") };
    Keys {
        ring: [sign.public().clone()].into_iter().collect(),
        sign,
        seal: SealingKey::fast_from_pem(SEAL).expect("a key"),
        open: [open].into_iter().collect(),
        subject: Subject {
            site: label("acme"),
            consumer: label("acme-collect"),
            vm: label("shop-frontend-1"),
        },
        point: "unencrypted/web".parse().expect("a point"),
    }
});

/// A stranger's bytes as a question; and the same as what its Consumer has signed.
pub fn question(data: &[u8]) {
    let keys = &*KEYS;
    // The examples are signed with this very key, so that a known one is taken for what it is.
    if let Ok((issued, question)) = Question::decode(data, &keys.subject, &keys.ring) {
        same(issued, &question);
    }
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let attributes = [
        ("site", keys.subject.site.as_str()),
        ("consumer", keys.subject.consumer.as_str()),
        ("vm", keys.subject.vm.as_str()),
        ("issued", "7"),
    ];
    let signature = keys.sign.sign(Purpose::Query, &attributes, data);
    let message = format!(
        r#"{{"site":"acme","consumer":"acme-collect","vm":"shop-frontend-1","issued":7,"data":{text},"signature":"{signature}"}}"#
    );
    if let Ok((issued, question)) = Question::decode(message.as_bytes(), &keys.subject, &keys.ring)
    {
        same(issued, &question);
    }
}

/// What is taken is within its bounds, and is asked and taken again as the same.
fn same(issued: u64, question: &Question) {
    let keys = &*KEYS;
    assert!((1..=MAX_ROWS).contains(&question.limit));
    let again = question.encode(&keys.subject, issued, &keys.sign);
    let again = Question::decode(&again, &keys.subject, &keys.ring);
    assert_eq!(again.as_ref(), Ok(&(issued, question.clone())));
}

/// Bytes as a page of an answer: what is read is written and read as the same, and open it is of the point asked for.
pub fn answer(data: &[u8]) {
    let keys = &*KEYS;
    let Ok(received) = Received::decode(data, &keys.subject) else {
        return;
    };
    let _ = received.verify(&keys.ring);
    let answer = received.answer;
    let again = answer.encode(&keys.subject, 7, Some(&keys.sign));
    let again = Received::decode(&again, &keys.subject).expect("what was read is written");
    assert!(again.verify(&keys.ring).is_ok());
    assert_eq!(again.answer, answer);
    let sealed = answer.clone().seal(&keys.subject.vm, &keys.seal);
    let sealed = sealed.expect("there are random bytes");
    if sealed != answer {
        let vm = &keys.subject.vm;
        let opened = sealed.open((vm, &keys.point), &keys.open);
        if let Ok(opened) = opened {
            assert_eq!(opened, answer);
        }
    }
}

/// Bytes as an envelope, and an envelope of the bytes: whole it opens, altered or elsewhere it does not.
pub fn envelope(data: &[u8]) {
    let keys = &*KEYS;
    let bound = |message| Bound {
        vm: &keys.subject.vm,
        point: &keys.point,
        message,
    };
    let Some((place, content)) = data.split_at_checked(2) else {
        return;
    };
    if let Ok(text) = std::str::from_utf8(content) {
        assert!(keys.open.open(&bound(None), text).is_err(), "a forgery");
    }
    let sealed = keys.seal.seal(&bound(None), content.to_vec());
    let sealed = sealed.expect("there are random bytes");
    let opened = keys.open.open(&bound(None), &sealed);
    assert_eq!(opened.as_deref(), Ok(content));
    let elsewhere = Some(BoundMessage::answer(vmkpi::position::QueryId(7), 7));
    assert!(keys.open.open(&bound(elsewhere), &sealed).is_err());
    let mut altered = sealed.clone().into_bytes();
    let at = usize::from(u16::from_le_bytes([place[0], place[1]])) % altered.len();
    altered[at] = if altered[at] == b'A' { b'B' } else { b'A' };
    let altered = String::from_utf8(altered).expect("ASCII");
    if let Ok(opened) = keys.open.open(&bound(None), &altered) {
        // The last characters of a part may have bits that mean nothing.
        assert_eq!(opened, content);
    }
}

/// Bytes as a signature, as signed data, and as keys.
pub fn signature(data: &[u8]) {
    let keys = &*KEYS;
    let text = String::from_utf8_lossy(data);
    let _ = VerifyingKey::from_text(&text);
    let _ = SigningKey::from_pem(&text);
    let attributes = [("a", &*text), ("b", "")];
    let judge = |signature: &str, attributes: &[(&str, &str)], data: &[u8]| {
        let verified = keys
            .ring
            .verify(Purpose::Message, attributes, data, Some(signature));
        verified.map(drop)
    };
    assert!(judge(&text, &attributes, b"").is_err(), "a forgery");
    let signed = keys.sign.sign(Purpose::Message, &attributes, data);
    assert_eq!(judge(&signed, &attributes, data), Ok(()));
    let mut longer = data.to_vec();
    longer.push(b' ');
    let refusal = Err(Refusal::Signature);
    assert_eq!(judge(&signed, &attributes, &longer), refusal);
    assert_eq!(judge(&signed, &attributes[..1], data), refusal);
    assert_eq!(judge(&signed, &[("b", ""), ("a", &*text)], data), refusal);
}
