//! From an MQTT packet to a valid message. Whoever may publish to the broker is not trusted: what is
//! no message of ours, or not signed by who is believed, is counted, said once for each kind, and never more
//! than that.

use std::collections::BTreeMap;

use rumqttc::Publish;

use vmkpi::message::{Body, Event, Received, Sample, SampleBody};
use vmkpi::name::{DataPoint, Label, PointPattern};
use vmkpi::open::OpeningKeys;
use vmkpi::seal::Bound;
use vmkpi::sign::Refusal;

use super::super::print::Console;
use super::super::trust::Trust;
use super::text::safe;

/// What became of what was not as it should be.
const IGNORED: &str = "ignored";
const UNVERIFIED: &str = "took all the same";
const SEALED: &str = "left sealed";

/// What is no message of ours.
const RETAINED: &str = "a retained message";
const NOT_OURS: &str = "a message that is none of ours";
const ELSEWHERE: &str = "a message that claims another origin than its topic";

/// What does not open.
const UNOPENED: &str = "what does not open";

/// Everything that can be counted: a counter that is not there before it is needed alerts nobody.
fn every_kind() -> impl Iterator<Item = (&'static str, &'static str)> {
    let refusals = Refusal::ALL.map(Refusal::as_str);
    let ignored = [RETAINED, NOT_OURS, ELSEWHERE].into_iter().chain(refusals);
    ignored
        .map(|kind| (IGNORED, kind))
        .chain(refusals.map(|kind| (UNVERIFIED, kind)))
        .chain([(SEALED, UNOPENED)])
}

/// Its name, as a label; why a signature does not count is one already.
fn label(kind: &'static str) -> &'static str {
    match kind {
        RETAINED => "retained",
        NOT_OURS => "malformed",
        ELSEWHERE => "another_topic",
        UNOPENED => "not_opened",
        refusal => refusal,
    }
}

/// Reads messages and counts what is none.
pub struct Intake {
    point: Option<PointPattern>,
    trust: Trust,
    /// What was not as it should be, by what became of it and what it was.
    counted: BTreeMap<(&'static str, &'static str), u64>,
}

/// A message that is taken, and what is to be said of it.
struct Taken {
    event: Event,
    unverified: Option<&'static str>,
    unopened: u64,
}

impl Intake {
    /// Lets through the points that match, all of them without a pattern, of those who are believed.
    pub fn new(point: Option<PointPattern>, trust: Trust) -> Self {
        Self {
            point,
            trust,
            counted: every_kind().map(|what| (what, 0)).collect(),
        }
    }

    /// From now on these are believed, and these keys open.
    pub fn believe(&mut self, trust: Trust) {
        self.trust = trust;
    }

    /// The message, if it is one and is wanted.
    pub fn read(&mut self, publish: &Publish, console: &mut Console) -> Option<Event> {
        let mut say = |what: (&'static str, &'static str), amount: u64, detail: &str| {
            let count = self.counted.entry(what).or_default();
            if *count == 0 && amount > 0 {
                let topic = safe(&String::from_utf8_lossy(&publish.topic));
                let topic: String = topic.chars().take(200).collect();
                let (done, kind) = what;
                console.say(&format!("{done} {kind} on {topic}{}", safe(detail)));
            }
            *count += amount;
        };
        match check(publish, &self.trust) {
            Ok(taken) => {
                let event = taken.event;
                if self
                    .point
                    .as_ref()
                    .is_some_and(|p| !p.matches(&event.point))
                {
                    return None;
                }
                if let Some(reason) = taken.unverified {
                    say((UNVERIFIED, reason), 1, "");
                }
                say((SEALED, UNOPENED), taken.unopened, "");
                Some(event)
            }
            Err((kind, detail)) => {
                say((IGNORED, kind), 1, &detail);
                None
            }
        }
    }

    /// What was not as it should be: what became of it (`ignored`, `unverified` or `sealed`), why, how often.
    pub fn counts(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        self.counted.iter().map(|((done, kind), count)| {
            let done = match *done {
                IGNORED => "ignored",
                UNVERIFIED => "unverified",
                _ => "sealed",
            };
            (done, label(kind), *count)
        })
    }

    /// Says at the end what was said only once.
    pub fn report(&self, console: &mut Console) {
        for ((done, kind), count) in self.counted.iter().filter(|(_, count)| **count > 1) {
            console.say(&format!("{done} {count} times: {kind}"));
        }
    }
}

fn check(publish: &Publish, trust: &Trust) -> Result<Taken, (&'static str, String)> {
    if publish.retain {
        return Err((RETAINED, String::new()));
    }
    let received = Received::decode(&publish.payload).map_err(|e| {
        let detail: String = e.to_string().chars().take(300).collect();
        (NOT_OURS, format!(": {detail}"))
    })?;
    // A broker guards topics; a payload may not claim what its topic does not.
    if received.event.topic().as_bytes() != publish.topic {
        return Err((ELSEWHERE, String::new()));
    }
    let unverified = unverified(&received, trust)?;
    let (event, unopened) = opened(received.event, &trust.keys);
    Ok(Taken {
        event,
        unverified,
        unopened,
    })
}

/// Why nobody who is believed vouches for the message, where that is let pass.
fn unverified(
    received: &Received<'_>,
    trust: &Trust,
) -> Result<Option<&'static str>, (&'static str, String)> {
    if trust.ring.is_empty() && trust.insecure {
        return Ok(None);
    }
    let Err(refusal) = received.verify(&trust.ring) else {
        return Ok(None);
    };
    let (reason, detail) = (refusal.as_str(), format!(": {refusal}"));
    match trust.insecure {
        true => Ok(Some(reason)),
        false => Err((reason, detail)),
    }
}

/// The message with everything open that our keys open, and how much they do not.
fn opened(event: Event, keys: &OpeningKeys) -> (Event, u64) {
    if keys.is_empty() {
        return (event, 0);
    }
    if matches!(event.body, Body::Sealed(_)) {
        return match event.open(keys) {
            Ok(event) => (event, 0),
            Err(_) => (event, 1),
        };
    }
    opened_samples(event, keys)
}

/// The same for samples; see [`open_samples`].
fn opened_samples(mut event: Event, keys: &OpeningKeys) -> (Event, u64) {
    let mut unopened = 0;
    if let Body::Raw(samples) = &mut event.body {
        unopened = open_samples(samples, (&event.vm, &event.point), keys);
    }
    (event, unopened)
}

/// Opens what the application sealed below `encrypted/`; it may hold anything else as well, which stays as it is.
/// How much does not open.
pub fn open_samples(
    samples: &mut [Sample],
    (vm, point): (&Label, &DataPoint),
    keys: &OpeningKeys,
) -> u64 {
    let mut unopened = 0;
    let bound = Bound {
        vm,
        point,
        message: None,
    };
    for sample in samples {
        let SampleBody::Data(bytes) = &mut sample.body else {
            continue;
        };
        let text = std::str::from_utf8(&bytes.0).map(str::trim_end);
        let Some(envelope) = text.ok().filter(|text| text.starts_with("eyJ")) else {
            continue;
        };
        match keys.open(&bound, envelope) {
            Ok(content) => bytes.0 = content,
            Err(_) => unopened += 1,
        }
    }
    unopened
}
