//! The descriptor in the domain's metadata changes while the guest stores: taken over at once, and no row is
//! lost or repeated.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use vmkpi::descriptor::{Descriptor, METADATA_NAMESPACE, Spelling};
use vmkpi::message::Body;
use vmkpi_host::link::Limits;

use super::support::{Daemon, Guest, Mosquitto, Subscriber, TestDomain, until};

const POINT: &str = "unencrypted/web";

fn element(flip: &str) -> String {
    format!(
        "<monitoring xmlns='{METADATA_NAMESPACE}' vm='m' primary_site='acme'>\
         <monitor id='all' point='unencrypted/*'/>\
         <monitor id='flip' point='unencrypted/*' {flip}/></monitoring>"
    )
}

fn read(text: &str) -> Descriptor {
    let no_file = |_: &Path| Err(std::io::Error::other("none"));
    Descriptor::parse(text, Spelling::Xml, &no_file).unwrap()
}

fn set(domain: &TestDomain, text: &str) {
    let live = virt_sys::VIR_DOMAIN_AFFECT_LIVE;
    let of = domain.domain();
    of.set_metadata(2, Some(text), Some("v"), Some(METADATA_NAMESPACE), live)
        .unwrap();
}

/// A guest that stores 1, 2, 3, ... until it is told to stop.
fn store_all_the_time(guest: &Guest) -> (Arc<AtomicBool>, Arc<AtomicI64>) {
    let (stop, stored) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicI64::new(0)),
    );
    let (guest, ended, count) = (guest.clone(), Arc::clone(&stop), Arc::clone(&stored));
    std::thread::spawn(move || {
        while !ended.load(Ordering::SeqCst) {
            guest.store(POINT, count.fetch_add(1, Ordering::SeqCst) + 1);
            std::thread::sleep(Duration::from_millis(3));
        }
    });
    (stop, stored)
}

/// How often each row came from one specifier.
fn of_specifier(subscriber: &Subscriber, id: &str) -> BTreeMap<u64, usize> {
    let mut seqs = BTreeMap::new();
    let events = subscriber.events().into_iter();
    for event in events.filter(|e| e.specifier.as_str() == id && e.point.to_string() == POINT) {
        if let Body::Raw(samples) = event.body {
            samples
                .iter()
                .for_each(|s| *seqs.entry(s.seq).or_insert(0) += 1);
        }
    }
    seqs
}

/// Every message of a specifier begins where the one before ended.
fn assert_contiguous(subscriber: &Subscriber, id: &str) {
    let mut at = 0;
    let events = subscriber.events().into_iter();
    for event in events.filter(|e| e.specifier.as_str() == id && e.point.to_string() == POINT) {
        assert!(
            event.after.seq <= at,
            "{id}: rows {at} to {} are missing",
            event.after.seq
        );
        at = at.max(event.through.seq);
    }
    assert!(at > 100, "{id}: {at} rows");
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_that_changes_while_rows_are_stored_loses_none() {
    let broker = Mosquitto::start("allow_anonymous true");
    let subscriber = Subscriber::start(&broker).await;
    let domain = TestDomain::define("respecified", &element(""));
    domain.domain().create().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let guest = Guest::start(&dir.path().join("guest"));
    let daemon = Daemon::of_metadata(
        &broker.url(),
        &[("respecified", &guest.path)],
        Limits::default(),
    );
    let (stop, stored) = store_all_the_time(&guest);
    let by = |text: &str| {
        let revision = read(text).revision();
        let events = subscriber.events();
        let mut of = events.iter().filter(|e| e.specifier.as_str() == "flip");
        of.any(|e| *e.revision == *revision && e.through.seq > e.after.seq)
    };
    for flip in [
        "interval_ms='100' delivery_ms='500' function='mean'",
        "when='value % 7 == 0'",
        "interval_ms='200'",
        "delivery_ms='400' function='max' when='value > 10.0'",
        "",
    ] {
        // As `vmkpi descriptor convert --to xml` writes it: libvirt must take that.
        set(&domain, &read(&element(flip)).write(Spelling::Xml));
        until(flip, || by(&element(flip))).await;
    }
    let labels = ["domain=\"respecified\""];
    set(&domain, &element("when='value >'"));
    let valid = || daemon.metric("vmkpi_descriptor_valid", &labels);
    until("the broken one is refused", || valid() == Some(0.0)).await;
    let before = stored.load(Ordering::SeqCst);
    until("rows by the one before", || {
        of_specifier(&subscriber, "flip").len() as i64 > 0
            && of_specifier(&subscriber, "all").len() as i64 > before + 50
    })
    .await;
    assert_eq!(
        daemon.metric("vmkpi_descriptor_errors_total", &[]),
        Some(1.0)
    );
    // The guest's first mark comes after a second.
    let measured = || {
        subscriber
            .events()
            .iter()
            .any(|e| e.clock_skew_ms.is_some())
    };
    until("messages carry the skew", measured).await;
    stop.store(true, Ordering::SeqCst);
    until("all is acknowledged", || guest.unacknowledged(POINT) == 0).await;
    let rows = of_specifier(&subscriber, "all");
    let last = u64::try_from(stored.load(Ordering::SeqCst)).unwrap();
    assert!(
        rows.keys().copied().eq(1..=last),
        "{} of {last} rows",
        rows.len()
    );
    assert!(rows.values().all(|n| *n == 1), "each once");
    assert_contiguous(&subscriber, "all");
    assert_contiguous(&subscriber, "flip");
    let skews: Vec<_> = subscriber
        .events()
        .iter()
        .filter_map(|e| e.clock_skew_ms)
        .collect();
    assert!(
        skews.iter().all(|ms| ms.abs() < 2000),
        "one clock: {skews:?}"
    );
    daemon.stop().await;
}
