//! Asking a guest for rows of an earlier time, through a VM's actor.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::watch;
use vmkpi::broker::publisher::Publisher;
use vmkpi::clock::Timestamp;
use vmkpi::descriptor::{Descriptor, Spelling};
use vmkpi::link::HistoryQuery;
use vmkpi_host::consumers::Consumers;
use vmkpi_host::libvirt::{Domain, Sampling, State};
use vmkpi_host::link::{Address, Endpoint, HistoryError, Limits};
use vmkpi_host::outbox::{DEFAULT_MAX_BYTES, Outbox};
use vmkpi_host::vm::{self, Handle, Reports, Shared, Spec};

use super::support::{DEADLINE, Guest, Mosquitto};

/// A VM's actor, and the folder of its outbox.
fn start(broker: &Mosquitto, socket: Option<&Path>) -> (Handle, tempfile::TempDir) {
    let text = "vm = 'h'\nprimary_site = 's'\n[[monitor]]\npoint = 'unencrypted/*'\n";
    let no_file = |_: &Path| Err(std::io::Error::other("none"));
    let spec = Spec {
        domain: Arc::new(Domain {
            uuid: "u".into(),
            name: "history".into(),
            state: State::Running,
            ..Domain::default()
        }),
        descriptor: Arc::new(Descriptor::parse(text, Spelling::Toml, &no_file).unwrap()),
        link: socket.map(|path| Endpoint {
            address: Address::Unix(path.into()),
            joining: false,
        }),
        leaving: false,
        ended: None,
    };
    let state = tempfile::tempdir().unwrap();
    let (outbox, left) = Outbox::open(state.path(), DEFAULT_MAX_BYTES).unwrap();
    let shared = Shared {
        sampling: watch::channel(Sampling::default()).1,
        publisher: Publisher::start(broker.broker()).0,
        consumers: Consumers::start(broker.broker(), state.path()).0,
        reports: Reports::default(),
        outbox,
        limits: Limits::default(),
        door: vmkpi_host::link::Door::default(),
        poll_interval: None,
        signer: watch::channel(None).1,
        lease_seconds: 60,
    };
    (vm::start(spec, shared, left), state)
}

fn query(from: Timestamp, to: Timestamp, limit: usize) -> HistoryQuery {
    HistoryQuery {
        point: "unencrypted/web".parse().unwrap(),
        from,
        to,
        after: None,
        limit,
    }
}

/// Asks until the guest can be asked.
async fn page(
    handle: &Handle,
    query: &HistoryQuery,
) -> Result<vmkpi::link::HistoryPage, HistoryError> {
    let begun = std::time::Instant::now();
    loop {
        match handle.history.page(query.clone()).await {
            Err(HistoryError::NoLink) if begun.elapsed() < DEADLINE => {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
            done => return done,
        }
    }
}

/// Later than whatever was stored, and earlier than what will be: a microsecond holds several rows.
fn an_instant_of_its_own() -> Timestamp {
    let after = |then: Timestamp| {
        std::iter::repeat_with(Timestamp::now)
            .find(|now| *now > then)
            .unwrap()
    };
    let instant = after(Timestamp::now());
    after(instant);
    instant
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_a_span_come_page_by_page_beside_live_ones() {
    let broker = Mosquitto::start("allow_anonymous true");
    let dir = tempfile::tempdir().unwrap();
    let guest = Guest::start_keeping(&dir.path().join("guest"), 1_000_000);
    let (handle, _state) = start(&broker, Some(&guest.path));
    (1..=100).for_each(|value| guest.store("unencrypted/web", value));
    let middle = an_instant_of_its_own();
    (101..=250).for_each(|value| guest.store("unencrypted/web", value));
    let spans = [
        (Timestamp::default(), middle, 1..=100),
        (middle, an_instant_of_its_own(), 101..=250),
    ];
    for (from, to, due) in spans {
        let mut query = query(from, to, 40);
        let mut seqs = Vec::new();
        loop {
            let page = page(&handle, &query).await.unwrap();
            assert!(page.rows.len() <= 40);
            seqs.extend(page.rows.iter().map(|row| row.seq));
            query.after = page.next;
            if query.after.is_none() {
                break;
            }
        }
        assert_eq!(seqs, due.collect::<Vec<u64>>());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_link_the_asker_is_told_at_once() {
    let broker = Mosquitto::start("allow_anonymous true");
    let (handle, _state) = start(&broker, None);
    let asked = handle
        .history
        .page(query(Timestamp::default(), Timestamp::now(), 1))
        .await;
    assert_eq!(asked.unwrap_err(), HistoryError::NoLink);
}

/// A guest that answers each question with this, the nonce and id filled in.
fn answering(path: &Path, answer: Value) {
    let listener = UnixListener::bind(path).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let reader = BufReader::new(stream.try_clone().unwrap());
            for line in reader.lines().map_while(Result::ok) {
                let said: Value = serde_json::from_str(&line).unwrap();
                let mut answer = match said["op"].as_str() {
                    Some("hello") => json!({
                        "op": "hello", "version": 1, "tables": [],
                        "stream": "000000000000000000000000000000ab",
                    }),
                    Some("history") => answer.clone(),
                    _ => continue,
                };
                answer["nonce"] = said["nonce"].clone();
                answer["id"] = said["id"].clone();
                if writeln!(stream, "{answer}").is_err() {
                    break;
                }
            }
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_none_to_the_question_is_refused() {
    let broker = Mosquitto::start("allow_anonymous true");
    let dir = tempfile::tempdir().unwrap();
    let row = |seq: u64, time: &str| json!({"seq": seq, "key": "00000000000000aa", "epoch": 1, "time": time, "values": [1]});
    let (within, without) = ("1970-01-01T00:00:05Z", "1970-01-01T00:00:20Z");
    let next = |seq: u64| json!({"stream": "000000000000000000000000000000ab", "seq": seq});
    let answer = |rows: Vec<Value>, next: Value| {
        json!({
            "op": "history", "point": "unencrypted/web", "columns": ["a"], "rows": rows,
            "next": next, "stream": "000000000000000000000000000000ab",
        })
    };
    let mut other_point = answer(vec![], Value::Null);
    other_point["point"] = "unencrypted/other".into();
    let cases = [
        (answer(vec![row(1, within), row(5, within)], next(7)), true),
        (answer(vec![row(1, without)], Value::Null), false),
        (
            answer(vec![row(5, within), row(1, within)], Value::Null),
            false,
        ),
        (answer(vec![row(1, within); 3], Value::Null), false),
        (answer(vec![row(0, within)], Value::Null), false),
        (answer(vec![row(5, within)], next(4)), false),
        (answer(vec![], next(0)), false),
        (other_point, false),
    ];
    for (n, (answer, fits)) in cases.into_iter().enumerate() {
        let socket = dir.path().join(n.to_string());
        answering(&socket, answer);
        let (handle, _state) = start(&broker, Some(&socket));
        let span = query(Timestamp::default(), Timestamp::from_micros(10_000_000), 2);
        match page(&handle, &span).await {
            Ok(_) => assert!(fits, "case {n}"),
            Err(error) => assert!(
                !fits && error == HistoryError::Impossible,
                "case {n}: {error}"
            ),
        }
    }
    let socket = dir.path().join("failing");
    answering(&socket, json!({"op": "failed", "reason": "a disk"}));
    let (handle, _state) = start(&broker, Some(&socket));
    let asked = page(&handle, &query(Timestamp::default(), Timestamp::now(), 2)).await;
    assert_eq!(asked.unwrap_err(), HistoryError::Failed("a disk".into()));
}
