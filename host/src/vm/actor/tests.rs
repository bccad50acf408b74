use std::sync::Arc;

use vmkpi::descriptor::{Descriptor, Spelling};
use vmkpi::link::{Payload, Row, Rows, TableId, TableInfo, VERSION};
use vmkpi::position::{Mark, RowKey, StreamId};
use vmkpi::value::Value;

use super::*;
use crate::libvirt::{Domain, Sampling};
use crate::outbox::{DEFAULT_MAX_BYTES, Outbox};
use crate::vm::Reports;
use vmkpi::broker::publisher::Publisher;

fn spec(genid: &str) -> Spec {
    let text =
        "vm = \"v\"\nprimary_site = \"s\"\n[[monitor]]\nid = \"m\"\npoint = \"unencrypted/*\"\n";
    let no_files = |_: &std::path::Path| Err(std::io::ErrorKind::NotFound.into());
    Spec {
        domain: Arc::new(Domain {
            genid: Some(genid.into()),
            state: State::Running,
            ..Domain::default()
        }),
        descriptor: Arc::new(Descriptor::parse(text, Spelling::Toml, &no_files).unwrap()),
        link: None,
        leaving: false,
        ended: None,
    }
}

/// An actor whose messages go nowhere by themselves, and how to tell it what its VM is.
fn actor(dir: &std::path::Path) -> (Actor, watch::Sender<Spec>) {
    let (outbox, _) = Outbox::open(dir, DEFAULT_MAX_BYTES).unwrap();
    let shared = Shared {
        sampling: watch::channel(Sampling::default()).1,
        publisher: Publisher {
            jobs: mpsc::channel(1).0,
            status: Arc::default(),
        },
        consumers: consumers::Consumers::default(),
        reports: Reports::default(),
        outbox,
        limits: crate::link::Limits::default(),
        door: crate::link::Door::default(),
        poll_interval: None,
        signer: watch::channel(None).1,
        lease_seconds: 60,
    };
    let (tell, follow) = watch::channel(spec("before"));
    (Actor::new(follow, shared, HistoryClient::new()), tell)
}

/// The guest of a history stores a row; the message that comes of it.
fn publish(actor: &mut Actor, history: u128) -> Job {
    let (nonce, stream) = (Nonce(history), StreamId(history));
    let point: DataPoint = "unencrypted/web".parse().unwrap();
    let table = TableId { stream, point };
    actor.kpi.connected(nonce, 0);
    let info = TableInfo {
        table: table.clone(),
        first: 1,
        last: 0,
        acked: Mark::default(),
        moved: 0,
    };
    let hello = GuestMessage::Hello {
        version: VERSION,
        nonce,
        stream,
        tables: vec![info],
        more: false,
    };
    let row = Row {
        seq: 1,
        key: RowKey(1),
        epoch: 0,
        time: Timestamp::now(),
        payload: Payload::Values(vec![Value::Integer(1)]),
    };
    let rows = GuestMessage::Rows(Rows {
        nonce,
        stream,
        point: table.point,
        columns: ["n".into()].into(),
        rows: vec![row],
        acked: Mark::default(),
        query: None,
        trimmed: None,
        trimmed_reason: None,
    });
    actor.on_message(hello);
    actor.on_message(rows);
    actor.pump();
    let mut messages = actor.outbox.drain(..).filter(|job| !job.retain);
    messages.next().expect("a message")
}

fn acknowledge(actor: &mut Actor, job: &Job) {
    actor.on_reply(Reply {
        lane: job.lane,
        token: job.token,
        outcome: Outcome::Acknowledged,
    });
}

#[tokio::test]
async fn a_guest_of_another_version_of_the_link_is_named_and_nothing_of_it_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let (mut actor, _tell) = actor(dir.path());
    let nonce = Nonce(1);
    actor.kpi.connected(nonce, 0);
    let newer = GuestMessage::Hello {
        version: VERSION + 1,
        nonce,
        stream: StreamId(1),
        tables: vec![],
        more: false,
    };
    actor.on_message(newer);
    assert_eq!(actor.past.link_other_version, Some(VERSION + 1));
    assert!(!actor.kpi.is_subscribed());
    publish(&mut actor, 2);
    assert_eq!(actor.past.link_other_version, None, "it was updated");
}

#[tokio::test]
async fn what_the_broker_says_of_another_history_acknowledges_nothing_of_this_one() {
    let dir = tempfile::tempdir().unwrap();
    let (mut actor, tell) = actor(dir.path());
    let old = publish(&mut actor, 1);
    tell.send_replace(spec("after"));
    actor.respecify();
    let new = publish(&mut actor, 2);
    assert_eq!(old.token, new.token, "both count from the beginning");
    acknowledge(&mut actor, &old);
    assert_eq!(actor.kpi.counters().messages_acknowledged, 0);
    acknowledge(&mut actor, &new);
    assert_eq!(actor.kpi.counters().messages_acknowledged, 1);
}

/// A port of virtio-serial, as QEMU listens on it; what the actor's link is to it.
async fn opened(actor: &mut Actor, tell: &watch::Sender<Spec>, socket: &std::path::Path) {
    let mut incoming = spec("before");
    Arc::make_mut(&mut incoming.domain).state = State::Paused;
    incoming.link = Some(crate::link::Endpoint {
        address: crate::link::Address::Unix(socket.to_owned()),
        joining: true,
    });
    tell.send_replace(incoming);
    actor.respecify();
    let event = actor.link.next(true, false).await;
    assert!(matches!(event, Event::Up), "{event:?}");
    actor.on_link(event);
}

#[tokio::test]
async fn a_guest_that_was_greeted_before_it_ran_here_is_greeted_when_it_does() {
    let dir = tempfile::tempdir().unwrap();
    let (mut actor, tell) = actor(dir.path());
    let socket = dir.path().join("port");
    let _port = tokio::net::UnixListener::bind(&socket).unwrap();
    opened(&mut actor, &tell, &socket).await;
    let first = actor.link.nonce();
    assert!(first.is_some(), "greeted");
    let mut running = actor.spec.clone();
    Arc::make_mut(&mut running.domain).state = State::Running;
    tell.send_replace(running);
    actor.respecify();
    assert_ne!(actor.link.nonce(), first, "greeted anew");
}

#[tokio::test]
async fn on_a_port_that_another_host_has_used_the_line_it_left_is_ended_first() {
    use tokio::io::AsyncReadExt as _;
    let dir = tempfile::tempdir().unwrap();
    let (mut actor, tell) = actor(dir.path());
    let socket = dir.path().join("port");
    let port = tokio::net::UnixListener::bind(&socket).unwrap();
    opened(&mut actor, &tell, &socket).await;
    let (mut guest, _) = port.accept().await.unwrap();
    actor.pump();
    let mut begin = [0; 8];
    tokio::select! {
        read = guest.read_exact(&mut begin) => drop(read.unwrap()),
        event = actor.link.next(true, false) => panic!("{event:?}"),
    }
    assert_eq!(&begin[..2], b"\n{", "{begin:?}");
}
