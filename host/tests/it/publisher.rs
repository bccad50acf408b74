//! The publisher against a real mosquitto.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use vmkpi::broker::publisher::{Job, Outcome, Publisher, Reply, event_properties};
use vmkpi::delivery::producer::Token;

use super::support::{Mosquitto, Subscriber, until};

const ANONYMOUS: &str = "allow_anonymous true";

struct Sender {
    publisher: Publisher,
    to: mpsc::UnboundedSender<Reply>,
    replies: mpsc::UnboundedReceiver<Reply>,
}

impl Sender {
    fn start(broker: &Mosquitto) -> Self {
        let (publisher, _) = Publisher::start(broker.broker());
        let (to, replies) = mpsc::unbounded_channel();
        Self {
            publisher,
            to,
            replies,
        }
    }

    fn job(&self, token: u64, topic: &str, payload: impl Into<Bytes>) -> Job {
        Job {
            topic: topic.to_owned(),
            payload: payload.into(),
            retain: false,
            properties: event_properties(),
            lane: token % 7,
            token: Token(token),
            reply: self.to.clone(),
        }
    }

    async fn send(&self, token: u64) {
        let job = self.job(token, "t", token.to_string());
        self.publisher.jobs.send(job).await.unwrap();
    }

    /// Waits for the replies to all of `tokens`, each an acknowledgement, in any order.
    async fn acknowledged(&mut self, tokens: std::ops::Range<u64>) {
        let mut missing: BTreeSet<_> = tokens.collect();
        while !missing.is_empty() {
            let reply = self.reply().await;
            assert!(matches!(reply.outcome, Outcome::Acknowledged), "{reply:?}");
            assert_eq!(reply.lane, reply.token.0 % 7);
            assert!(missing.remove(&reply.token.0), "{reply:?} came twice");
        }
    }

    async fn reply(&mut self) -> Reply {
        let reply = tokio::time::timeout(super::support::DEADLINE, self.replies.recv());
        reply.await.expect("a reply in time").unwrap()
    }
}

fn has_all(subscriber: &Subscriber, tokens: std::ops::Range<u64>) -> bool {
    let got: BTreeSet<_> = subscriber.payloads().into_iter().collect();
    tokens.into_iter().all(|t| got.contains(&t.to_string()))
}

#[tokio::test(flavor = "multi_thread")]
async fn each_puback_is_told_of_its_own_message() {
    let broker = Mosquitto::start(ANONYMOUS);
    let subscriber = Subscriber::start(&broker).await;
    let mut sender = Sender::start(&broker);
    for token in 0..5000 {
        sender.send(token).await;
    }
    sender.acknowledged(0..5000).await;
    until("all arrive", || subscriber.messages().len() >= 5000).await;
    let in_order: Vec<_> = (0..5000).map(|t| t.to_string()).collect();
    assert_eq!(subscriber.payloads(), in_order, "each once, in order");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_killed_and_started_again_gets_everything_unacknowledged_again() {
    let mut broker = Mosquitto::start(ANONYMOUS);
    let subscriber = Subscriber::start(&broker).await;
    let mut sender = Sender::start(&broker);
    for token in 0..100 {
        sender.send(token).await;
    }
    sender.acknowledged(0..100).await;
    broker.kill();
    until("the loss is noticed", || {
        !sender.publisher.status.is_connected()
    })
    .await;
    let jobs: Vec<_> = (100..1100)
        .map(|t| sender.job(t, "t", t.to_string()))
        .collect();
    let to = sender.publisher.jobs.clone();
    // They wait: without a broker the publisher takes no more than its channel holds.
    let sending = tokio::spawn(async move {
        for job in jobs {
            to.send(job).await.unwrap();
        }
    });
    assert!(
        sender.replies.try_recv().is_err(),
        "nothing is acknowledged"
    );
    assert!(!sending.is_finished(), "nor taken without end");
    broker.restart();
    sender.acknowledged(100..1100).await;
    until("all arrive", || has_all(&subscriber, 0..1100)).await;
    assert_eq!(sender.publisher.status.connects(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_broker_acknowledged_just_before_it_died_is_sent_again_and_told_once() {
    let mut broker = Mosquitto::start(ANONYMOUS);
    let mut sender = Sender::start(&broker);
    for token in 0..50 {
        sender.send(token).await;
    }
    sender.acknowledged(0..50).await;
    broker.restart();
    until("they are sent again", || {
        sender.publisher.status.repeated() >= 50
    })
    .await;
    sender.send(50).await;
    sender.acknowledged(50..51).await;
    assert!(sender.replies.try_recv().is_err(), "they were told before");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_in_flight_when_the_broker_died_is_sent_again() {
    let mut broker = Mosquitto::start(ANONYMOUS);
    let mut sender = Sender::start(&broker);
    until("the broker is connected", || {
        sender.publisher.status.is_connected()
    })
    .await;
    broker.signal("STOP");
    for token in 0..500 {
        sender.send(token).await;
    }
    broker.restart();
    let subscriber = Subscriber::start(&broker).await;
    sender.acknowledged(0..500).await;
    until("all arrive", || has_all(&subscriber, 0..500)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_hangs_is_noticed_and_memory_stays_bounded() {
    let broker = Mosquitto::start(ANONYMOUS);
    let subscriber = Subscriber::start(&broker).await;
    let mut sender = Sender::start(&broker);
    until("the broker is connected", || {
        sender.publisher.status.is_connected()
    })
    .await;
    broker.signal("STOP");
    let (jobs, mut taken) = (sender.publisher.jobs.clone(), 0);
    while let Ok(Ok(())) = tokio::time::timeout(
        Duration::from_secs(1),
        jobs.send(sender.job(taken, "t", taken.to_string())),
    )
    .await
    {
        taken += 1;
    }
    assert!(taken < 5000, "{taken} messages were taken from producers");
    until("it is noticed", || !sender.publisher.status.is_connected()).await;
    broker.signal("CONT");
    sender.acknowledged(0..taken).await;
    until("all arrive", || has_all(&subscriber, 0..taken)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_larger_than_the_broker_takes_is_refused_and_others_pass() {
    let broker = Mosquitto::start("allow_anonymous true\nmax_packet_size 2000");
    let mut sender = Sender::start(&broker);
    sender.send(1).await;
    sender.acknowledged(1..2).await;
    let large = sender.job(2, "t", vec![b'x'; 3000]);
    sender.publisher.jobs.send(large).await.unwrap();
    sender.send(3).await;
    let refused = sender.reply().await;
    assert!(matches!(refused.outcome, Outcome::Refused), "{refused:?}");
    assert_eq!(refused.token, Token(2));
    sender.acknowledged(3..4).await;
    assert_eq!(
        sender.publisher.status.connects(),
        1,
        "the connection lives"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_ends_every_connection_is_found_and_refused() {
    // Does not announce its limit: it answers with a PUBACK reason that MQTT 5 does not have there.
    let broker = Mosquitto::start("allow_anonymous true\nmessage_size_limit 2000");
    let mut sender = Sender::start(&broker);
    let large = sender.job(0, "t", vec![b'x'; 3000]);
    sender.publisher.jobs.send(large).await.unwrap();
    for token in 1..10 {
        sender.send(token).await;
    }
    let mut outcomes = BTreeSet::new();
    let mut refused = 0;
    while outcomes.len() < 10 {
        let reply = sender.reply().await;
        refused += u64::from(!matches!(reply.outcome, Outcome::Acknowledged));
        assert_eq!(
            reply.token.0 == 0,
            !matches!(reply.outcome, Outcome::Acknowledged)
        );
        outcomes.insert(reply.token.0);
    }
    assert_eq!(refused, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_broker_forbids_comes_back_and_holds_up_nobody() {
    let mut broker = Mosquitto::start("");
    let acl = broker.file("acl");
    std::fs::write(&acl, "topic readwrite allowed/#\n").unwrap();
    let config = std::fs::read_to_string(broker.file("conf")).unwrap();
    let config = format!("{config}allow_anonymous true\nacl_file {}\n", acl.display());
    std::fs::write(broker.file("conf"), config).unwrap();
    broker.restart();
    let mut sender = Sender::start(&broker);
    for (token, topic) in [(0, "forbidden/x"), (1, "allowed/x")] {
        let job = sender.job(token, topic, "x");
        sender.publisher.jobs.send(job).await.unwrap();
    }
    for _ in 0..2 {
        let reply = sender.reply().await;
        match (reply.token.0, reply.outcome) {
            (0, Outcome::Deferred(job)) => assert_eq!(job.topic, "forbidden/x"),
            (1, Outcome::Acknowledged) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(sender.publisher.status.deferred(), 1);
}
