//! The daemon as a whole: from a guest's row to a subscriber and to `/metrics`.

use std::time::Duration;

use vmkpi_host::link::Limits;

use super::support::{Daemon, Guest, Mosquitto, Subscriber, TestDomain, get, until};

const ANONYMOUS: &str = "allow_anonymous true";

fn descriptor(vm: &str) -> String {
    format!(
        "vm = \"{vm}\"\nprimary_site = \"acme\"\n[[monitor]]\nid = \"all\"\npoint = \"unencrypted/*\"\n[[monitor]]\nid = \"infra\"\npoint = \"infra/cpu\"\ninterval_ms = 100\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_and_measurements_arrive_and_are_acknowledged_and_shown() {
    let broker = Mosquitto::start(ANONYMOUS);
    let subscriber = Subscriber::start(&broker).await;
    let domain = TestDomain::running("whole");
    let dir = tempfile::tempdir().unwrap();
    let guest = Guest::start(&dir.path().join("guest"));
    let daemon = Daemon::start(
        &broker.url(),
        &[("whole", &descriptor("w"), &guest.path)],
        Limits::default(),
    );
    for value in 1..=1000 {
        guest.store("unencrypted/web", value);
    }
    until("all rows arrive", || {
        subscriber.seqs("w", "unencrypted/web").len() == 1000
    })
    .await;
    assert!(
        subscriber
            .seqs("w", "unencrypted/web")
            .values()
            .all(|n| *n == 1),
        "each once"
    );
    until("measurements arrive", || {
        subscriber.seqs("w", "infra/cpu").len() >= 3
    })
    .await;
    until("the guest is acknowledged", || {
        guest.unacknowledged("unencrypted/web") == 0
    })
    .await;
    let value = || daemon.metric("vmkpi_kpi_value", &["domain=\"whole\"", "column=\"value\""]);
    until("the exporter shows it", || value() == Some(1000.0)).await;
    let page = daemon.metrics();
    assert!(page.contains(&format!("uuid=\"{}\"", domain.uuid())));
    assert!(get(daemon.listen, "/-/healthy").starts_with("HTTP/1.1 200"));
    assert!(get(daemon.listen, "/nowhere").starts_with("HTTP/1.1 404"));
    drop(domain);
    until("its series leave with it", || {
        !daemon.metrics().contains("domain=\"whole\"")
    })
    .await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_polls_gets_each_row_once_and_closes_windows_without_a_subscription() {
    let broker = Mosquitto::start(ANONYMOUS);
    let subscriber = Subscriber::start(&broker).await;
    let _domain = TestDomain::running("polled");
    let dir = tempfile::tempdir().unwrap();
    let guest = Guest::start(&dir.path().join("guest"));
    let windows = "[[monitor]]\nid = \"sum\"\npoint = \"unencrypted/*\"\ndelivery = \"1s\"\nfunction = \"sum\"\n";
    let text = descriptor("polled") + windows;
    let vms = [("polled", text.as_str(), guest.path.as_path())];
    let every = Some(Duration::from_secs(1));
    let daemon = Daemon::start_polling(&broker.url(), &vms, Limits::default(), every);
    for value in 1..=3000 {
        guest.store("unencrypted/web", value);
        if value % 1000 == 0 {
            let due = usize::try_from(value).unwrap();
            until("all rows arrive", || {
                subscriber.seqs("polled", "unencrypted/web").len() == due
            })
            .await;
        }
    }
    let seqs = subscriber.seqs("polled", "unencrypted/web");
    assert!(seqs.values().all(|n| *n == 1), "each once");
    let in_windows = || {
        let events = subscriber.events();
        let sums = events.iter().filter(|e| e.specifier.as_str() == "sum");
        sums.map(|e| e.through.seq).max()
    };
    until("a mark closes the last window", || {
        in_windows() == Some(3000)
    })
    .await;
    until("the guest is acknowledged", || {
        guest.unacknowledged("unencrypted/web") == 0
    })
    .await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_away_costs_nothing() {
    let mut broker = Mosquitto::start(ANONYMOUS);
    let subscriber = Subscriber::start(&broker).await;
    let _domain = TestDomain::running("patient");
    let dir = tempfile::tempdir().unwrap();
    let guest = Guest::start(&dir.path().join("guest"));
    let daemon = Daemon::start(
        &broker.url(),
        &[("patient", &descriptor("p"), &guest.path)],
        Limits::default(),
    );
    let point = "unencrypted/web";
    let store = |range: std::ops::RangeInclusive<i64>| range.for_each(|v| guest.store(point, v));
    store(1..=500);
    until("the first arrive", || {
        subscriber.seqs("p", point).len() == 500
    })
    .await;
    broker.kill();
    store(501..=5000);
    let connected = || daemon.metric("vmkpi_broker_connected", &[]);
    until("the gauge says so", || connected() == Some(0.0)).await;
    assert!(
        guest.unacknowledged(point) >= 4500,
        "rows stay in the guest"
    );
    broker.restart();
    until("all arrive", || subscriber.seqs("p", point).len() == 5000).await;
    until("the guest is acknowledged", || {
        guest.unacknowledged(point) == 0
    })
    .await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_was_gone_goes_on_after_the_last_acknowledged_row() {
    let broker = Mosquitto::start(ANONYMOUS);
    let subscriber = Subscriber::start(&broker).await;
    let _domain = TestDomain::running("again");
    let dir = tempfile::tempdir().unwrap();
    let guest = Guest::start(&dir.path().join("guest"));
    let text = descriptor("a");
    let vms = [("again", text.as_str(), guest.path.as_path())];
    let point = "unencrypted/web";
    for round in 1..=3_usize {
        let daemon = Daemon::start(&broker.url(), &vms, Limits::default());
        for value in 0..200 {
            guest.store(point, value);
        }
        until("they arrive", || {
            subscriber.seqs("a", point).len() == 200 * round
        })
        .await;
        drop(daemon);
    }
    let seqs = subscriber.seqs("a", point);
    assert_eq!(
        seqs.keys().copied().collect::<Vec<_>>(),
        (1..=600).collect::<Vec<_>>()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_descriptor_is_adopted_and_a_wrong_one_stops_nothing() {
    let broker = Mosquitto::start(ANONYMOUS);
    let subscriber = Subscriber::start(&broker).await;
    let _domain = TestDomain::running("adopting");
    let dir = tempfile::tempdir().unwrap();
    let guest = Guest::start(&dir.path().join("guest"));
    let daemon = Daemon::start(
        &broker.url(),
        &[("adopting", &descriptor("d"), &guest.path)],
        Limits::default(),
    );
    guest.store("unencrypted/web", 1);
    until("it is followed", || {
        !subscriber.seqs("d", "unencrypted/web").is_empty()
    })
    .await;
    let path = daemon.dir.path().join("adopting.toml");
    std::fs::write(&path, "vm = ").unwrap();
    let valid = || daemon.metric("vmkpi_descriptor_valid", &["domain=\"adopting\""]);
    until("the mistake shows", || valid() == Some(0.0)).await;
    guest.store("unencrypted/web", 2);
    until("the one before is in force", || {
        subscriber.seqs("d", "unencrypted/web").len() == 2
    })
    .await;
    std::fs::write(&path, descriptor("e")).unwrap();
    until("the new one is in force", || valid() == Some(1.0)).await;
    until("under the new name", || {
        guest.store("unencrypted/web", 3);
        !subscriber.seqs("e", "unencrypted/web").is_empty()
    })
    .await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_is_published_names_the_host() {
    let broker = Mosquitto::start(ANONYMOUS);
    let subscriber = Subscriber::start(&broker).await;
    let _domain = TestDomain::running("host-side-name");
    let dir = tempfile::tempdir().unwrap();
    let guest = Guest::start(&dir.path().join("guest"));
    let text = descriptor("unaware");
    let daemon = Daemon::start(
        &broker.url(),
        &[("host-side-name", &text, &guest.path)],
        Limits::default(),
    );
    guest.store("unencrypted/web", 1);
    until("both kinds arrive", || {
        let has = |point| !subscriber.seqs("unaware", point).is_empty();
        has("unencrypted/web") && has("infra/cpu")
    })
    .await;
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let socket = guest.path.display().to_string();
    let in_a_name = |c: char| c.is_alphanumeric() || c == '-';
    for (topic, payload) in subscriber.messages() {
        // A machine may be called what a key is.
        let payload = String::from_utf8_lossy(&payload).replace("\"vm\":", "");
        let all = format!("{topic} {payload}");
        assert!(
            !all.contains("host-side-name") && !all.contains(&socket),
            "{all}"
        );
        let mut words = all.split(|c| !in_a_name(c));
        assert!(words.all(|word| word != hostname.trim()), "{all}");
    }
    tokio::time::timeout(Duration::from_secs(10), daemon.stop())
        .await
        .expect("stops soon");
}
