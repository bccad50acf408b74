//! A VM that restarts again and again while the broker is away: what cannot be kept is announced.

use std::collections::BTreeMap;
use std::path::Path;

use vmkpi::message::Body;
use vmkpi_host::link::Limits;

use super::support::{Daemon, Mosquitto, Subscriber, TestDomain, until};

const DESCRIPTOR: &str = "vm = \"restless\"\nprimary_site = \"acme\"\n[[monitor]]\npoint = \"infra/state\"\ninterval_ms = 100\n";

/// By stream: how far a Consumer that follows coverage has come, and the gaps it met.
fn followed(subscriber: &Subscriber) -> BTreeMap<String, (u64, Vec<String>)> {
    let mut streams: BTreeMap<_, (u64, Vec<String>)> = BTreeMap::new();
    for event in subscriber.events() {
        let (through, gaps) = streams.entry(event.stream.to_string()).or_default();
        assert!(event.after.seq <= *through, "a hole: {event:?}");
        if let Body::Gap(reason) = &event.body
            && event.through.seq > *through
        {
            gaps.push(reason.to_string());
        }
        *through = event.through.seq.max(*through);
    }
    streams
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vm_that_restarts_while_the_broker_is_away_announces_what_could_not_be_kept() {
    let mut broker = Mosquitto::start("allow_anonymous true");
    let subscriber = Subscriber::start(&broker).await;
    let domain = TestDomain::running("restless");
    let vms = [("restless", DESCRIPTOR, Path::new("/nonexistent"))];
    let daemon = Daemon::start(&broker.url(), &vms, Limits::default());
    let metric = |name: &str| daemon.metric(name, &["restless"]).unwrap_or(0.0);
    until("the first measurements", || !subscriber.events().is_empty()).await;
    broker.kill();
    // More than are on their way at once, so that most of them are on disk alone.
    until("measurements of the first residence", || {
        metric("vmkpi_outbox_batches") > 90.0
    })
    .await;
    for _ in 0..20 {
        let before = metric("vmkpi_messages_published_total");
        domain.domain().destroy().unwrap();
        domain.domain().create().unwrap();
        until("measurements of another residence", || {
            metric("vmkpi_messages_published_total") > before + 2.0
        })
        .await;
    }
    until("the oldest to be lost", || {
        metric("vmkpi_outbox_batches_trimmed_total") > 20.0
    })
    .await;
    broker.restart();
    until("all but one stream to be delivered", || {
        metric("vmkpi_outbox_streams") <= 1.0
    })
    .await;
    let streams = followed(&subscriber);
    let gaps: Vec<_> = streams.values().flat_map(|(_, gaps)| gaps).collect();
    assert!(!gaps.is_empty(), "{streams:?}");
    assert!(
        gaps.iter().all(|why| *why == "retention_streams"),
        "{gaps:?}"
    );
    daemon.stop().await;
}
