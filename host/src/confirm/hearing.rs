//! The subscription to confirmations, kept up while anybody wants to hear, and what is let through.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use rumqttc::Publish;
use vmkpi::broker::Broker;
use vmkpi::broker::subscription::{Session, Step, Subscription};
use vmkpi::confirm::decode;

use super::{Deaf, Register, Status, Word};

/// Confirmations of one topic that are looked at in a second: a Consumer says ten times a second what it has,
/// in as many messages as a VM's points need. Each costs a signature's verification.
const MAX_A_SECOND: u32 = 200;
/// The most topics that are paced; their number is that of VMs and Consumers, so this is never reached.
const MAX_PACED: usize = 100_000;

/// Hears until the daemon ends.
pub(super) async fn run(broker: Broker, register: Arc<Register>, status: Arc<Status>) {
    loop {
        let topics = register.topics();
        if topics.is_empty() {
            register.changed.notified().await;
            continue;
        }
        let started = Session::random("vmkpi-host")
            .and_then(|session| Subscription::start(broker.clone(), session, topics));
        match started {
            Ok(subscription) => follow(subscription, &broker, &register, &status).await,
            Err(error) => {
                tracing::error!(%error, "confirmations cannot be heard");
                tokio::time::sleep(Duration::from_secs(60)).await;
            }
        }
    }
}

/// Follows one subscription until nobody wants to hear any more.
async fn follow(
    mut subscription: Subscription,
    broker: &Broker,
    register: &Register,
    status: &Status,
) {
    let (mut pace, mut trouble) = (Pace::default(), None);
    loop {
        tokio::select! {
            () = register.changed.notified() => {
                let topics = register.topics();
                if topics.is_empty() {
                    break;
                }
                subscription.want(topics);
            }
            step = subscription.step() => match step {
                Some(step) => take(step, broker, (register, status), (&mut pace, &mut trouble)),
                None => break,
            },
        }
    }
    status.connected.store(false, Relaxed);
    subscription.end().await;
}

fn take(
    step: Step,
    broker: &Broker,
    (register, status): (&Register, &Status),
    (pace, trouble): (&mut Pace, &mut Option<String>),
) {
    match step {
        Step::Message(publish) => hear(&publish, register, status, pace),
        Step::Listening => {
            status.connected.store(true, Relaxed);
            *trouble = None;
            tracing::info!(%broker, "listening for confirmations");
        }
        Step::Denied(filter) => {
            tracing::error!(%broker, filter, "the broker refuses the subscription to confirmations; its ACL must allow reading that. Until it does, guests keep their rows");
        }
        Step::Lost(failure) => {
            status.connected.store(false, Relaxed);
            // Once for each trouble, not for each attempt.
            if trouble.as_ref() != Some(&failure.message) {
                tracing::warn!(%broker, error = %failure, "confirmations cannot be heard; trying again");
                *trouble = Some(failure.message);
            }
        }
        Step::Notice(text) => tracing::warn!(%broker, "{text}"),
    }
}

/// Lets a message through to those who listen, or counts why not.
fn hear(publish: &Publish, register: &Register, status: &Status, pace: &mut Pace) {
    if let Err(reason) = pass(publish, register, pace) {
        tracing::debug!(reason = reason.as_str(), "a confirmation does not count");
        status.refuse(reason);
    }
}

fn pass(publish: &Publish, register: &Register, pace: &mut Pace) -> Result<(), Deaf> {
    if publish.retain {
        return Err(Deaf::Retained);
    }
    let topic = std::str::from_utf8(&publish.topic).map_err(|_| Deaf::Malformed)?;
    let listeners: Vec<_> = match register.lock().1.get(topic) {
        Some(listeners) => listeners.values().cloned().collect(),
        None => return Err(Deaf::Unknown),
    };
    if !pace.allows(topic, Instant::now()) {
        return Err(Deaf::TooMany);
    }
    // Of one topic there are several while a VM comes back, perhaps with another key.
    let mut outcome = Err(Deaf::Unknown);
    for listener in listeners {
        let heard = decode(&publish.payload, &listener.subject, &listener.keys);
        let passed = heard.map_err(Deaf::from).and_then(|(issued, confirmed)| {
            let consumer = listener.subject.consumer.clone();
            let word = Word {
                consumer,
                issued,
                confirmed,
            };
            listener.to.try_send(word).map_err(|_| Deaf::TooMany)
        });
        if outcome.is_err() {
            outcome = passed;
        }
    }
    outcome
}

/// How many messages of each topic came in the second that is now.
#[derive(Debug, Default)]
struct Pace(HashMap<String, (Instant, u32)>);

impl Pace {
    fn allows(&mut self, topic: &str, now: Instant) -> bool {
        let second = Duration::from_secs(1);
        if self.0.len() >= MAX_PACED {
            self.0
                .retain(|_, (begin, _)| now.duration_since(*begin) < second);
        }
        let (begin, count) = match self.0.entry(topic.to_owned()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert((now, 0)),
        };
        if now.duration_since(*begin) >= second {
            (*begin, *count) = (now, 0);
        }
        *count += 1;
        *count <= MAX_A_SECOND
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_on_one_topic_costs_no_other_topic_anything() {
        let (mut pace, begin) = (Pace::default(), Instant::now());
        for _ in 0..MAX_A_SECOND {
            assert!(pace.allows("a", begin));
        }
        assert!(!pace.allows("a", begin));
        assert!(pace.allows("b", begin));
        assert!(pace.allows("a", begin + Duration::from_secs(1)));
    }
}
