use proptest::prelude::*;

use super::*;
use crate::clock::Timestamp;
use crate::message::{Sample, SampleBody, Values};
use crate::open::{OpeningKey, OpeningKeys};
use crate::position::{QueryId, RowKey};
use crate::seal::SealingKey;
use crate::sign::{Keyring, Purpose, Refusal, SigningKey};
use crate::topic::Branch;
use crate::value::{Base64Bytes, Value};

const KEY: &str = include_str!("../sign/other-key.pem");
const SEAL: &str = include_str!("../../schemas/vectors/seal.pub.pem");
const OPEN: &str = include_str!("../../schemas/vectors/seal.key.pem");

fn subject(site: &str, consumer: &str, vm: &str) -> Subject {
    Subject {
        site: site.parse().unwrap(),
        consumer: consumer.parse().unwrap(),
        vm: vm.parse().unwrap(),
    }
}

fn place(seq: u64) -> HistoryPosition {
    HistoryPosition {
        stream: StreamId(7),
        seq,
    }
}

fn question() -> Question {
    Question {
        id: QueryId(0xabc),
        point: "unencrypted/web".parse().unwrap(),
        from: Some(Timestamp::from_micros(5)),
        to: None,
        after: Some(place((1 << 53) + 1)),
        limit: 17,
    }
}

fn sample(seq: u64, body: SampleBody) -> Sample {
    Sample {
        seq,
        key: RowKey(seq),
        time: Timestamp::from_micros(1),
        body,
    }
}

fn page() -> Page {
    let values = |n| {
        SampleBody::Values(Values {
            columns: ["n".into(), "t".into()].into(),
            row: vec![Value::Integer(n), Value::Text("\u{1}\"é".into())],
        })
    };
    Page {
        point: "unencrypted/web".parse().unwrap(),
        stream: StreamId(7),
        after: None,
        samples: vec![sample(1, values(42)), sample(5, values(43))],
        next: Some(place(5)),
        last: true,
        trimmed: Some(Trimmed {
            through: 3,
            time: Timestamp::from_micros(9),
        }),
        left_out: 2,
    }
}

fn answer(body: Body) -> Answer {
    Answer {
        id: QueryId(0xabc),
        page: 3,
        body,
    }
}

fn key() -> SigningKey {
    SigningKey::from_pem(KEY).unwrap()
}

fn ring() -> Keyring {
    [key().public().clone()].into_iter().collect()
}

#[test]
fn a_question_counts_for_its_site_consumer_and_vm_alone() {
    let of = subject("acme", "collect", "shop a+b");
    assert_eq!(
        of.topic(Branch::Query),
        "vmkpi/v1/acme/query/collect/shop a%2Bb"
    );
    let bytes = question().encode(&of, 5, &key());
    assert!(bytes.len() < MAX_QUESTION_BYTES);
    let heard = Question::decode(&bytes, &of, &ring());
    assert_eq!(heard, Ok((5, question())));
    for other in [
        subject("acme", "collect", "other"),
        subject("other", "collect", "shop a+b"),
        subject("acme", "other", "shop a+b"),
    ] {
        let heard = Question::decode(&bytes, &other, &ring());
        assert_eq!(heard, Err(NotHeard::Elsewhere));
    }
    let nobody = Question::decode(&bytes, &of, &Keyring::default());
    assert_eq!(nobody, Err(NotHeard::Refused(Refusal::UnknownKey)));
}

#[test]
fn no_byte_of_a_question_can_be_altered_unnoticed() {
    let of = subject("acme", "collect", "shop");
    let bytes = question().encode(&of, 5, &key());
    let mut refused = 0;
    for at in 0..bytes.len() {
        for bit in [1, 2, 0x10, 0x20] {
            let mut altered = bytes.clone();
            altered[at] ^= bit;
            match Question::decode(&altered, &of, &ring()) {
                Ok(heard) => assert_eq!(heard, (5, question())),
                Err(NotHeard::Refused(_)) => refused += 1,
                Err(_) => {}
            }
        }
        assert!(Question::decode(&bytes[..at], &of, &ring()).is_err());
    }
    assert!(refused > 200, "{refused}");
}

#[test]
fn what_was_signed_for_another_purpose_is_no_question() {
    let of = subject("acme", "collect", "shop");
    let said = crate::spoken::encode((&of, 5, Purpose::Confirmation), &[1], &key());
    let heard = Question::decode(&said, &of, &ring());
    assert_eq!(heard, Err(NotHeard::Refused(Refusal::Signature)));
    let said = answer(Body::Failed(Reason::Busy)).encode(&of, 5, Some(&key()));
    assert!(Question::decode(&said, &of, &ring()).is_err());
}

#[test]
fn a_question_without_bounds_is_none() {
    let of = subject("acme", "collect", "shop");
    for limit in [0, MAX_ROWS + 1] {
        let bytes = Question {
            limit,
            ..question()
        }
        .encode(&of, 5, &key());
        let heard = Question::decode(&bytes, &of, &ring());
        assert_eq!(heard, Err(NotHeard::Malformed), "{limit}");
    }
    let beyond = serde_json::json!({"id": question().id, "point": "unencrypted/web", "limit": 1,
        "after": {"stream": StreamId(7), "seq": u64::MAX.to_string()}});
    let bytes = crate::spoken::encode((&of, 5, Purpose::Query), &beyond, &key());
    let heard = Question::decode(&bytes, &of, &ring());
    assert_eq!(heard, Err(NotHeard::Malformed));
    let mut long = vec![b' '; MAX_QUESTION_BYTES];
    long.extend(question().encode(&of, 5, &key()));
    let heard = Question::decode(&long, &of, &ring());
    assert_eq!(heard, Err(NotHeard::Malformed));
}

#[test]
fn the_longest_names_fit_into_a_question() {
    let name = "\"".repeat(200);
    let of = subject(&name, &name, &name);
    let point = format!("unencrypted/{name}").parse().unwrap();
    let long = Question {
        point,
        to: Some(Timestamp::from_micros(i64::MAX)),
        ..question()
    };
    let bytes = long.encode(&of, u64::MAX, &key());
    assert_eq!(Question::decode(&bytes, &of, &ring()), Ok((u64::MAX, long)));
}

#[test]
fn an_answer_survives_the_way_and_is_verified() {
    let of = subject("acme", "collect", "shop");
    let data = Page {
        samples: vec![sample(1 << 60, SampleBody::Data(Base64Bytes(vec![0, 255])))],
        after: Some(place(u64::MAX >> 1)),
        trimmed: None,
        left_out: 0,
        last: false,
        ..page()
    };
    let mut all = vec![Body::Page(page()), Body::Page(data)];
    all.extend(Reason::ALL.map(Body::Failed));
    for body in all {
        let said = answer(body);
        let bytes = said.encode(&of, 5, Some(&key()));
        let received = Received::decode(&bytes, &of).unwrap();
        assert!(received.verify(&ring()).is_ok());
        assert_eq!(received.answer, said);
        let bytes = said.encode(&of, 5, None);
        let received = Received::decode(&bytes, &of).unwrap();
        assert_eq!(received.verify(&ring()).unwrap_err(), Refusal::Unsigned);
        let elsewhere = Received::decode(&bytes, &subject("acme", "collect", "other"));
        assert!(matches!(elsewhere, Err(NotAnswer::Elsewhere)));
    }
}

#[test]
fn no_byte_of_an_answer_can_be_altered_unnoticed() {
    let of = subject("acme", "collect", "shop");
    let said = answer(Body::Page(page()));
    let bytes = said.encode(&of, 5, Some(&key()));
    for at in 0..bytes.len() {
        let mut altered = bytes.clone();
        altered[at] ^= 1;
        let Ok(received) = Received::decode(&altered, &of) else {
            continue;
        };
        if received.verify(&ring()).is_ok() {
            assert_eq!(received.answer, said);
        }
    }
}

#[test]
fn a_sealed_page_opens_in_its_own_answer_alone() {
    let of = subject("acme", "collect", "shop");
    let keys: OpeningKeys = [OpeningKey::from_pem(OPEN).unwrap()].into_iter().collect();
    let plain = answer(Body::Page(page()));
    let sealing = SealingKey::fast_from_pem(SEAL).unwrap();
    let sealed = plain.clone().seal(&of.vm, &sealing).unwrap();
    let bytes = sealed.encode(&of, 5, Some(&key()));
    assert!(!String::from_utf8_lossy(&bytes).contains("samples"));
    let received = Received::decode(&bytes, &of).unwrap();
    assert!(received.verify(&ring()).is_ok());
    let point = page().point;
    let open = |answer: Answer, vm: &str, point: &str| {
        let (vm, point) = (vm.parse().unwrap(), point.parse().unwrap());
        answer.open((&vm, &point), &keys).ok()
    };
    let opened = received.answer.open((&of.vm, &point), &keys).unwrap();
    assert_eq!(opened, plain);
    let at = "unencrypted/web";
    assert_eq!(open(sealed.clone(), "other", at), None);
    assert_eq!(open(sealed.clone(), "shop", "unencrypted/x"), None);
    let elsewhere = Answer {
        page: 4,
        ..sealed.clone()
    };
    assert_eq!(open(elsewhere, "shop", at), None);
    let id = QueryId(1);
    assert_eq!(open(Answer { id, ..sealed }, "shop", at), None);
    let failed = answer(Body::Failed(Reason::Busy));
    assert_eq!(failed.clone().seal(&of.vm, &sealing), Ok(failed));
}

#[test]
fn what_is_no_answer_is_refused_with_a_reason() {
    let of = subject("acme", "collect", "shop");
    let text = String::from_utf8(answer(Body::Page(page())).encode(&of, 5, None)).unwrap();
    let refusal = |from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        let altered = text.replacen(from, to, 1);
        Received::decode(altered.as_bytes(), &of)
            .map(|_| ())
            .unwrap_err()
            .to_string()
    };
    assert!(refusal("\"seq\":1,", "\"seq\":6,").contains("order"));
    assert!(refusal("\"samples\"", "\"rows\"").contains("without samples"));
    assert!(refusal("\"last\"", "\"lost\"").contains("without last"));
    assert!(refusal("\"id\"", "\"di\"").contains("missing field"));
    let strange = text.replacen("\"data\":{", "\"data\":{\"error\":\"of_tomorrow\",", 1);
    let received = Received::decode(strange.as_bytes(), &of).unwrap();
    assert_eq!(received.answer.body, Body::Failed(Reason::Failed));
    let long = " ".repeat(MAX_RECEIVED_BYTES) + &text;
    let received = Received::decode(long.as_bytes(), &of);
    assert!(matches!(received, Err(NotAnswer::TooLong)));
}

proptest! {
    /// Whatever order questions are heard in: each is taken at most once, and none from beyond the span.
    #[test]
    fn a_question_is_taken_once_and_in_its_time(
        steps in proptest::collection::vec((0u64..20, 0u64..3), 1..100)
    ) {
        let (minute, begin) = (60_000_000, 1_000_000_000_000);
        let (mut now, mut last, mut taken) = (begin, 0, std::collections::BTreeSet::new());
        for (ago, pass) in steps {
            now += pass * minute;
            let issued = now + 10 * minute - ago * minute;
            let judged = judge(issued, now, last);
            let in_time = issued.abs_diff(now) <= MAX_AGE_US;
            prop_assert_eq!(judged.is_ok(), in_time && issued > last);
            if judged.is_ok() {
                prop_assert!(taken.insert(issued), "twice");
                last = issued;
            }
        }
    }

    #[test]
    fn no_clock_makes_the_judge_fail(issued: u64, now: u64, last: u64) {
        let _ = judge(issued, now, last);
    }
}
