//! The state machines behind the lines: whatever a session says, no rule of theirs breaks.

use std::path::Path;

use vmkpi::clock::Timestamp;
use vmkpi::delivery::producer::{
    Identity, MAX_HELD_BYTES, MAX_OUTSTANDING_MESSAGES, Output, Producer, Source,
};
use vmkpi::delivery::spool::{Spool, SpoolLimits};
use vmkpi::descriptor::{Descriptor, Spelling};
use vmkpi::link::{GuestMessage, HostMessage, Message, Payload, encode};
use vmkpi::message::Event;
use vmkpi::position::{Nonce, RowKey, StreamId};
use vmkpi::value::Value;

/// Lines of one input: more find nothing new, and take their time.
const MAX_LINES: usize = 64;

const DESCRIPTOR: &str = "vm = 'v'\nprimary_site = 's'\n[[monitor]]\npoint = 'unencrypted/*'\n\
    [[monitor]]\npoint = 'encrypted/*'\n[[monitor]]\npoint = 'unencrypted/w'\ndelivery = '10s'\n\
    function = 'median'\n";

/// A hostile guest's lines into a host's producer. A byte before each line says how much time passes and whether
/// the broker acknowledges.
pub fn producer(data: &[u8]) {
    let no_file = |_: &Path| Err(std::io::Error::other("none"));
    let descriptor = Descriptor::parse(DESCRIPTOR, Spelling::Toml, &no_file).expect("it is valid");
    let mut producer = Producer::new(Source::Kpi, Identity::default(), &descriptor, 0);
    if data.first().is_some_and(|b| b & 1 == 1) {
        producer.poll_every(1000);
    }
    producer.connected(Nonce(1), 0);
    let mut now_ms = 0;
    for line in data.split(|b| *b == b'\n').take(MAX_LINES) {
        let Some((what, line)) = line.split_first() else {
            continue;
        };
        now_ms += u64::from(what >> 2) * 100;
        if let Ok(message) = GuestMessage::decode(line) {
            producer.on_message(message, now_ms);
        }
        producer.tick(now_ms);
        drain(&mut producer, what & 2 == 0, now_ms);
        assert!(producer.held_bytes() <= MAX_HELD_BYTES);
        if producer.needs_hello(now_ms) {
            producer.connected(Nonce(1), now_ms);
        }
    }
}

fn drain(producer: &mut Producer, acknowledges: bool, now_ms: u64) {
    while let Some(output) = producer.poll() {
        match output {
            Output::Send(line) => {
                assert_eq!(HostMessage::decode(&encode(&line)).ok(), Some(line));
            }
            Output::Publish(publication) => {
                let event = &publication.event;
                assert!(event.after.seq <= event.through.seq);
                let again = Event::decode(&event.encode()).expect("what is published is read");
                assert_eq!(again.through, event.through);
                if acknowledges {
                    producer.on_puback(publication.token, now_ms);
                }
            }
        }
    }
    assert!(producer.outstanding() <= 4 * MAX_OUTSTANDING_MESSAGES);
}

/// A hostile host's lines into a guest's store in memory: what it makes the store begin anew multiplies no row.
pub fn spool(data: &[u8]) {
    let mut spool = Spool::new(StreamId(0xab), SpoolLimits::default());
    let point = "unencrypted/w".parse().expect("it is valid");
    for n in 1..=5 {
        let value = Payload::Values(vec![Value::Integer(n)]);
        let time = Timestamp::from_micros(n * 1_000_000);
        let key = RowKey(n.cast_unsigned());
        spool.append(&point, ["v".into()].into(), value, key, time);
    }
    let mut minted = 0;
    for line in data.split(|b| *b == b'\n').take(MAX_LINES) {
        if let Ok(message) = HostMessage::decode(line) {
            spool.on_message(message, &mut || {
                minted += 1;
                StreamId(0xab00 + minted)
            });
        }
        spool.tick(Timestamp::from_micros(10_000_000));
        while let Some(message) = spool.poll() {
            let again = GuestMessage::decode(&encode(&message));
            assert_eq!(again.ok(), Some(message));
        }
    }
    let held: u64 = spool.backlogs().map(|(_, backlog)| backlog).sum();
    assert!(held <= 5);
}
