//! The subscription to what Consumers say, kept up while anybody wants to hear, and what is let through.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rumqttc::Publish;
use vmkpi::broker::Broker;
use vmkpi::broker::subscription::{Manner, Session, Step, Subscription};
use vmkpi::confirm;
use vmkpi::query::Question;
use vmkpi::topic::Branch;

use super::pace::Pace;
use super::recording::Recorder;
use super::{Asked, Confirmation, Deaf, Listener, Register, Status};

/// Where it is heard.
pub(super) struct Room {
    pub(super) register: Arc<Register>,
    pub(super) status: Arc<Status>,
    pub(super) recorder: Recorder,
}

impl Room {
    /// Hears until the daemon ends.
    pub(super) async fn run(self, broker: Broker) {
        loop {
            let topics = self.register.topics();
            if topics.is_empty() {
                self.register.changed.notified().await;
                continue;
            }
            // What is retained says so, and is known for what it is.
            let manner = Manner {
                as_published: true,
                ..Manner::default()
            };
            let started = Session::random("vmkpi-host").and_then(|session| {
                Subscription::start_as(broker.clone(), session, topics, &manner)
            });
            match started {
                Ok(subscription) => self.follow(subscription, &broker).await,
                Err(error) => {
                    tracing::error!(%error, "Consumers cannot be heard");
                    tokio::time::sleep(Duration::from_secs(60)).await;
                }
            }
        }
    }

    /// Follows one subscription until nobody wants to hear any more.
    async fn follow(&self, mut subscription: Subscription, broker: &Broker) {
        let (mut pace, mut trouble) = (Pace::default(), None);
        loop {
            tokio::select! {
                () = self.register.changed.notified() => {
                    let topics = self.register.topics();
                    if topics.is_empty() {
                        break;
                    }
                    subscription.want(topics);
                }
                step = subscription.step() => match step {
                    Some(step) => self.take(step, broker, &mut pace, &mut trouble),
                    None => break,
                },
            }
        }
        self.status.connect(false);
        subscription.end().await;
    }

    fn take(&self, step: Step, broker: &Broker, pace: &mut Pace, trouble: &mut Option<String>) {
        match step {
            Step::Message(publish) => self.hear(&publish, pace),
            Step::Listening => {
                self.status.connect(true);
                self.register.stands(true);
                *trouble = None;
                tracing::info!(%broker, "listening for confirmations and questions");
            }
            Step::Denied(filter) => denied(broker, &filter),
            Step::Lost(failure) => {
                self.status.connect(false);
                self.register.stands(false);
                // Once for each trouble, not for each attempt.
                if trouble.as_ref() != Some(&failure.message) {
                    tracing::warn!(%broker, error = %failure, "Consumers cannot be heard; trying again");
                    *trouble = Some(failure.message);
                }
            }
            Step::Notice(text) => tracing::warn!(%broker, "{text}"),
        }
    }

    /// Lets a message through to those who listen, or counts why not.
    fn hear(&self, publish: &Publish, pace: &mut Pace) {
        let topic = String::from_utf8_lossy(&publish.topic);
        let branch = Branch::of(&topic).unwrap_or(Branch::Confirm);
        if let Err(reason) = self.pass(publish, branch, pace) {
            tracing::debug!(
                reason = reason.as_str(),
                branch = branch.as_str(),
                "a Consumer's word does not count"
            );
            self.status.refuse(branch, reason);
        }
    }

    fn pass(&self, publish: &Publish, branch: Branch, pace: &mut Pace) -> Result<(), Deaf> {
        if publish.retain {
            return Err(Deaf::Retained);
        }
        let topic = std::str::from_utf8(&publish.topic).map_err(|_| Deaf::Malformed)?;
        let listeners = self.register.of(topic);
        if listeners.is_empty() {
            return Err(Deaf::Unknown);
        }
        if !pace.allows(branch, topic, Instant::now()) {
            return Err(Deaf::TooMany);
        }
        let mut outcome = Err(Deaf::Unknown);
        // The latest of them first: a question is heard once, and an earlier one is leaving.
        for listener in listeners.iter().rev() {
            let passed = match branch {
                Branch::Query => self.ask(topic, &publish.payload, listener),
                _ => confirm(&publish.payload, listener),
            };
            if outcome.is_err() {
                outcome = passed;
            }
        }
        outcome
    }

    fn ask(&self, topic: &str, payload: &[u8], listener: &Arc<Listener>) -> Result<(), Deaf> {
        let heard = Question::decode(payload, &listener.subject, &listener.keys);
        let (issued, question) = heard?;
        let asked = Asked {
            subject: listener.subject.clone(),
            question,
        };
        self.recorder.take(topic, issued, asked, listener)
    }
}

fn confirm(payload: &[u8], listener: &Listener) -> Result<(), Deaf> {
    let heard = confirm::decode(payload, &listener.subject, &listener.keys);
    let (issued, confirmed) = heard?;
    let confirmation = Confirmation {
        consumer: listener.subject.consumer.clone(),
        issued,
        confirmed,
    };
    let sent = listener.confirmations.try_send(confirmation);
    sent.map_err(|_| Deaf::TooMany)
}

fn denied(broker: &Broker, filter: &str) {
    if Branch::of(filter) == Some(Branch::Query) {
        tracing::warn!(%broker, filter, "the broker refuses the subscription to questions; its ACL must allow reading that. Until it does, no history is answered");
        return;
    }
    tracing::error!(%broker, filter, "the broker refuses the subscription to confirmations; its ACL must allow reading that. Until it does, guests keep their rows");
}
