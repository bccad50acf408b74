//! Guests that are hostile, all at once, with an honest one beside them.

use std::io::{BufRead as _, BufReader, Read as _, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use vmkpi_host::link::Limits;

use super::support::{Daemon, Guest, Mosquitto, Subscriber, TestDomain, until};

const STREAM: &str = "000000000000000000000000000000ab";
const OTHER: &str = "0000000000000000000000000000dead";
const TIME: &str = "2026-11-20T17:00:00.000001Z";

/// One connection of the host's, after its `hello`.
struct Session {
    nonce: String,
    stream: UnixStream,
}

impl Session {
    fn open(stream: UnixStream) -> Option<Self> {
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).ok()?;
        let hello: Value = serde_json::from_str(&line).ok()?;
        Some(Self {
            nonce: hello["nonce"].as_str()?.to_owned(),
            stream,
        })
    }

    /// Writes a line; whether the host still takes them.
    fn line(&mut self, line: impl AsRef<[u8]>) -> bool {
        let line = [line.as_ref(), b"\n"].concat();
        self.stream.write_all(&line).is_ok()
    }

    fn hello(&mut self) -> bool {
        let hello = json!({"op": "hello", "version": 1, "nonce": self.nonce, "stream": STREAM, "tables": []});
        self.line(hello.to_string())
    }

    fn rows(&self, point: &str, seq: u64, key: &str, values: &[u64]) -> String {
        json!({
            "op": "rows", "nonce": self.nonce, "stream": STREAM, "point": point, "columns": ["a"],
            "rows": [{"seq": seq, "key": key, "epoch": 1, "time": TIME, "values": values}],
            "acked": {"seq": 0, "epoch": 0, "time": "1970-01-01T00:00:00.000000Z"},
        })
        .to_string()
    }

    /// Says nothing more, until the host closes.
    fn linger(mut self) {
        let _ = self.stream.read_to_end(&mut Vec::new());
    }
}

type Behaviour = fn(Session);

fn endless_line(mut s: Session) {
    while s.stream.write_all(&[b'x'; 65536]).is_ok() {}
}

fn random_bytes(mut s: Session) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    loop {
        let bytes: Vec<u8> = (0..8192)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state.to_le_bytes()[0]
            })
            .collect();
        if s.stream.write_all(&bytes).is_err() {
            return;
        }
    }
}

fn other_nonce(mut s: Session) {
    s.nonce = OTHER.into();
    let line = s.rows("unencrypted/web", 1, "00000000000000aa", &[1]);
    while s.hello() && s.line(&line) {}
}

fn backwards_and_holes(mut s: Session) {
    s.hello();
    loop {
        for seq in [1, 2, 3, 900, 2, 1, 5, 4_000_000_000_u64, 3] {
            let line = s.rows("unencrypted/web", seq, &format!("{seq:016x}"), &[seq]);
            if !s.line(line) {
                return;
            }
        }
    }
}

fn same_seq_other_key(mut s: Session) {
    s.hello();
    for key in 1..1_000_000 {
        let line = s.rows("unencrypted/web", 1, &format!("{key:016x}"), &[key]);
        if !s.line(line) {
            return;
        }
    }
}

fn never_subscribed(mut s: Session) {
    s.hello();
    for n in 0..1_000_000 {
        let line = s.rows(
            &format!("unencrypted/other-{n}"),
            1,
            "00000000000000aa",
            &[1],
        );
        if !s.line(line) {
            return;
        }
    }
}

fn a_million_tiny_lines(mut s: Session) {
    let lines = b"\n{}\n".repeat(1000);
    for _ in 0..1000 {
        if s.stream.write_all(&lines).is_err() {
            return;
        }
    }
    s.linger();
}

fn half_a_line_then_silence(mut s: Session) {
    s.hello();
    let line = s.rows("unencrypted/web", 1, "00000000000000aa", &[1]);
    let _ = s.stream.write_all(&line.as_bytes()[..line.len() / 2]);
    s.linger();
}

fn huge_numbers(mut s: Session) {
    s.hello();
    let numbers = [
        "1e30",
        "18446744073709551615",
        "18446744073709551616",
        "-1",
        "9223372036854775808",
        "1.5",
    ];
    loop {
        for number in numbers {
            let line = s.rows("unencrypted/web", 77_777, "00000000000000aa", &[66_666]);
            let a = line.replace("77777", number);
            let b = line.replace("77777", "1").replace("66666", number);
            let c = line.replace("\"epoch\":1", &format!("\"epoch\":{number}"));
            if ![a, b, c].into_iter().all(|l| s.line(l)) {
                return;
            }
        }
    }
}

fn wrong_types(mut s: Session) {
    s.hello();
    let line = s.rows("unencrypted/web", 1, "00000000000000aa", &[1]);
    let wrong = [
        line.replace("[\"a\"]", "{\"a\":1}"),
        line.replace("\"values\":[1]", "\"values\":[1,2,3]"),
        line.replace("\"values\":[1]", "\"data\":\"AAAA\""),
        line.replace("\"values\":[1]", "\"values\":[[1]]"),
        line.replace("\"unencrypted/web\"", "\"infra/cpu\""),
        line.replace("\"unencrypted/web\"", "\"unencrypted/../../x\""),
        line.replace("2026-11-20", "+99999-01-01"),
        "[".repeat(100_000),
        "null".into(),
        "{\"op\":\"rows\",\"nonce\":null}".into(),
    ];
    while wrong.iter().all(|l| s.line(l)) {}
}

/// What a protocol with binary lengths would take for 4 GiB to come.
fn a_length_of_4_gib(mut s: Session) {
    let _ = s.stream.write_all(&[0xff; 8]);
    let _ = s.stream.write_all(&[0; 1000]);
    s.linger();
}

fn one_byte_a_second(mut s: Session) {
    s.hello();
    let line = s.rows("unencrypted/web", 1, "00000000000000aa", &[1]);
    for byte in line.as_bytes() {
        if s.stream.write_all(&[*byte]).is_err() {
            return;
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn another_vms_name(mut s: Session) {
    let hello = json!({
        "op": "hello", "version": 1, "nonce": s.nonce, "stream": STREAM, "tables": [],
        "vm": "honest", "uuid": "honest", "domain": "honest",
    });
    s.line(hello.to_string());
    let row = s.rows("unencrypted/web", 1, "00000000000000aa", &[31_337]);
    s.line(row.replace("{\"op\"", "{\"vm\":\"honest\",\"op\""));
    s.linger();
}

fn an_acknowledgement_of_what_was_never_sent(mut s: Session) {
    s.hello();
    let line = s.rows("unencrypted/web", 1, "00000000000000aa", &[1]);
    s.line(line.replace(r#""acked":{"seq":0"#, r#""acked":{"seq":9000000000"#));
    s.line(&line);
    s.linger();
}

fn a_hello_without_end(mut s: Session) {
    for n in 0.. {
        let table = json!({
            "stream": format!("{n:032x}"), "point": "unencrypted/web", "first": 1, "last": 0,
            "acked": {"seq": 0},
        });
        let hello = json!({
            "op": "hello", "version": 1, "nonce": s.nonce, "stream": STREAM,
            "tables": vec![table; 100], "more": true,
        });
        if !s.line(hello.to_string()) {
            return;
        }
    }
}

fn answers_that_nobody_asked_for(mut s: Session) {
    s.hello();
    let history = json!({
        "op": "history", "nonce": s.nonce, "id": 7, "point": "unencrypted/web", "stream": STREAM,
        "rows": [],
    });
    let polled = json!({"op": "polled", "nonce": s.nonce, "id": 7, "more": true});
    let failed = json!({"op": "failed", "nonce": s.nonce, "id": 7, "reason": "x".repeat(10_000)});
    while [&history, &polled, &failed]
        .into_iter()
        .all(|l| s.line(l.to_string()))
    {}
}

const HOSTILE: &[(&str, Behaviour, &str)] = &[
    ("endless-line", endless_line, "too_long"),
    ("random-bytes", random_bytes, "banned"),
    ("other-nonce", other_nonce, "stale"),
    ("backwards-and-holes", backwards_and_holes, ""),
    ("same-seq-other-key", same_seq_other_key, "impossible"),
    ("never-subscribed", never_subscribed, "impossible"),
    ("a-million-tiny-lines", a_million_tiny_lines, "banned"),
    ("half-a-line", half_a_line_then_silence, ""),
    ("huge-numbers", huge_numbers, "banned"),
    ("wrong-types", wrong_types, "banned"),
    ("a-length-of-4-gib", a_length_of_4_gib, ""),
    ("one-byte-a-second", one_byte_a_second, ""),
    ("another-vms-name", another_vms_name, ""),
    (
        "ack-of-never-sent",
        an_acknowledgement_of_what_was_never_sent,
        "",
    ),
    ("hello-without-end", a_hello_without_end, ""),
    (
        "answers-to-nothing",
        answers_that_nobody_asked_for,
        "impossible",
    ),
];

fn serve(path: &Path, behaviour: Behaviour) {
    let listener = UnixListener::bind(path).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            if let Some(session) = Session::open(stream.unwrap()) {
                behaviour(session);
            }
        }
    });
}

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_guests_all_at_once_do_not_slow_an_honest_one() {
    let broker = Mosquitto::start("allow_anonymous true");
    let subscriber = Subscriber::start(&broker).await;
    let dir = tempfile::tempdir().unwrap();
    let honest = Guest::start(&dir.path().join("honest"));
    let sockets: Vec<PathBuf> = HOSTILE
        .iter()
        .map(|(name, ..)| dir.path().join(name))
        .collect();
    let descriptor = |vm: &str| {
        format!("vm = \"{vm}\"\nprimary_site = \"s\"\n[[monitor]]\npoint = \"unencrypted/web\"\n")
    };
    let mut domains = vec![TestDomain::running("honest")];
    let mut texts = vec![("honest", descriptor("honest"), honest.path.as_path())];
    for ((name, behaviour, _), socket) in HOSTILE.iter().zip(&sockets) {
        serve(socket, *behaviour);
        domains.push(TestDomain::running(name));
        texts.push((name, descriptor(name), socket));
    }
    let vms: Vec<_> = texts.iter().map(|(n, d, s)| (*n, d.as_str(), *s)).collect();
    let limits = Limits {
        ban: (Duration::from_millis(500), Duration::from_secs(2)),
        ..Limits::default()
    };
    let daemon = Daemon::start(&broker.url(), &vms, limits);
    let before = resident_bytes();
    for value in 1..=2000 {
        honest.store("unencrypted/web", value);
        if value % 100 == 0 {
            let have = usize::try_from(value).unwrap();
            until("the honest guest's rows go on arriving", || {
                subscriber.seqs("honest", "unencrypted/web").len() == have
            })
            .await;
        }
    }
    for (name, _, reason) in HOSTILE {
        if reason.is_empty() {
            continue;
        }
        let labels = [format!("domain=\"{name}\""), format!("reason=\"{reason}\"")];
        let count = || daemon.metric("vmkpi_link_errors_total", &[&labels[0], &labels[1]]);
        until(&format!("{name} is counted as {reason}"), || {
            count() > Some(0.0)
        })
        .await;
    }
    let seqs = subscriber.seqs("honest", "unencrypted/web");
    assert!(seqs.values().all(|n| *n == 1), "each once");
    until("the VM that gave another's name is told by its own", || {
        !subscriber
            .seqs("another-vms-name", "unencrypted/web")
            .is_empty()
    })
    .await;
    let forged =
        |e: &vmkpi::message::Event| e.vm.as_str() == "honest" && e.stream.to_string() == STREAM;
    assert!(!subscriber.events().iter().any(forged));
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 300 << 20, "{grown} bytes more in memory");
    daemon.stop().await;
}
