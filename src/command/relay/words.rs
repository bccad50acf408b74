//! A message in its several forms: as it came, in the spool, on its way, and our own lease.

use std::sync::Arc;

use rumqttc::Publish;
use tokio::sync::mpsc;
use vmkpi::broker::publisher::{Job, Reply, lease_properties};
use vmkpi::delivery::producer::Token;
use vmkpi::directory::{DEFAULT_LEASE_SECONDS, Registrar, Role, Take, registrar};
use vmkpi::name::Label;
use vmkpi::sign::SigningKey;
use vmkpi::topic::Branch;

use super::gate::{Passed, Refusal, Sites};
use super::hops;
use super::latest::Word;
use super::spool::Message;

/// A message of the spool.
pub fn message_of(passed: Passed, publish: Publish) -> Message {
    let properties = publish.properties.unwrap_or_default();
    Message {
        topic: passed.topic,
        payload: publish.payload,
        retain: publish.retain,
        properties: hops::encode(&hops::forwarded(properties, passed.hops)),
    }
}

/// Who takes everything of these sites, to hand it on.
pub fn register((name, key): (Label, SigningKey), sites: &Sites) -> Registrar {
    let (key, all) = (Arc::new(key), vec![Take::default()]);
    let mut registrar = Registrar::new(name, Role::Relay, all, key, DEFAULT_LEASE_SECONDS);
    for site in sites.names() {
        registrar.join(site);
    }
    registrar
}

/// A lease of our own, on its way to the broker nearer to the VMs.
pub fn lease_of((topic, payload): registrar::Message) -> Word {
    Word {
        branch: Branch::Consumers,
        topic,
        payload: payload.into(),
        retain: true,
        properties: lease_properties(),
    }
}

/// A message on its way down.
pub fn job_of(word: Word, reply: mpsc::UnboundedSender<Reply>) -> Job {
    Job {
        topic: word.topic,
        payload: word.payload,
        retain: word.retain,
        properties: word.properties,
        lane: word.branch as u64,
        token: Token(0),
        reply,
    }
}

/// The branch that a job's lane stands for.
pub fn branch_of(lane: u64) -> Option<Branch> {
    Branch::ALL
        .into_iter()
        .find(|branch| *branch as u64 == lane)
}

/// Says why a message does not cross.
pub fn say_refused(why: Refusal, topic: &[u8]) {
    let topic: String = String::from_utf8_lossy(topic).chars().take(200).collect();
    let reason = why.as_str();
    match why {
        Refusal::Loop => tracing::error!(
            topic,
            reason,
            "a message that we have forwarded came back: --from and --to lead to one broker, or something leads back; it is dropped"
        ),
        _ => tracing::warn!(
            topic,
            reason,
            "a message does not cross; further ones are only counted"
        ),
    }
}
