//! Following domains of libvirt's test driver, in this process.

use std::collections::BTreeMap;
use std::sync::Arc;

use vmkpi::descriptor::METADATA_NAMESPACE;
use vmkpi_host::infra::measurements;
use vmkpi_host::libvirt::{Domain, Libvirt, State};

use super::support::{TestDomain, until};

fn find(libvirt: &Libvirt, uuid: &str) -> Option<Arc<Domain>> {
    libvirt.domains.borrow().by_uuid.get(uuid).cloned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_domain_is_followed_from_definition_to_the_end() {
    let libvirt = Libvirt::start("test:///default").unwrap();
    until("libvirt answers", || libvirt.domains.borrow().connected).await;
    let domain = TestDomain::define("followed", "");
    let uuid = domain.uuid();
    let state = |s: State| find(&libvirt, &uuid).is_some_and(|d| d.state == s);
    until("it is seen", || state(State::Off)).await;
    domain.domain().create().unwrap();
    until("it runs", || state(State::Running)).await;
    let first = find(&libvirt, &uuid).unwrap();
    domain.domain().suspend().unwrap();
    until("it is paused", || state(State::Paused)).await;
    domain.domain().resume().unwrap();
    until("it goes on", || state(State::Running)).await;
    let same = find(&libvirt, &uuid).unwrap();
    assert_eq!(
        first.residence, same.residence,
        "a pause begins nothing anew"
    );
    domain.domain().destroy().unwrap();
    domain.domain().create().unwrap();
    let again = |d: Arc<Domain>| d.state == State::Running && d.residence != first.residence;
    until("another residence", || {
        find(&libvirt, &uuid).is_some_and(again)
    })
    .await;
    drop(domain);
    until("it is gone", || find(&libvirt, &uuid).is_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_is_read_and_followed() {
    let element = |vm: &str| {
        format!("<v:monitoring xmlns:v='{METADATA_NAMESPACE}' vm='{vm}' primary_site='s'/>")
    };
    let domain = TestDomain::define("described", &element("one"));
    let uuid = domain.uuid();
    let libvirt = Libvirt::start("test:///default").unwrap();
    let says = |vm: &str| {
        let text = find(&libvirt, &uuid).and_then(|d| d.metadata.clone());
        text.is_some_and(|t| t.contains(&format!("vm=\"{vm}\"")))
    };
    until("the metadata is read", || says("one")).await;
    let text = "<monitoring vm='two' primary_site='s'/>";
    domain
        .domain()
        .set_metadata(2, Some(text), Some("v"), Some(METADATA_NAMESPACE), 2)
        .unwrap();
    until("the change is followed", || says("two")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn statistics_are_taken_at_the_pace_that_is_asked_for() {
    let domain = TestDomain::running("measured");
    let uuid = domain.uuid();
    let libvirt = Libvirt::start("test:///default").unwrap();
    let tenth = std::time::Duration::from_millis(100);
    libvirt.pace.set([(uuid.as_str().into(), tenth)].into());
    let mut sampling = libvirt.sampling.clone();
    let figures = || {
        let vms = Arc::clone(&libvirt.sampling.borrow().vms);
        vms.get(&*uuid).and_then(|vm| vm.detailed.clone())
    };
    until("the domain is in the statistics", || figures().is_some()).await;
    assert!(
        figures().unwrap().figures.is_detailed(),
        "CPU time and memory, not the state alone"
    );
    for _ in 0..10 {
        let changed = tokio::time::timeout(std::time::Duration::from_secs(3), sampling.changed());
        changed.await.expect("ten a second").unwrap();
        sampling.borrow_and_update();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_virtual_processors_run_is_shown_and_not_published() {
    let domain = TestDomain::running("placed");
    let uuid = domain.uuid();
    let libvirt = Libvirt::start("test:///default").unwrap();
    let figures = || {
        let vms = Arc::clone(&libvirt.sampling.borrow().vms);
        let taken = vms.get(&*uuid).and_then(|vm| vm.detailed.clone());
        taken.map(|taken| taken.figures)
    };
    until("statistics", || figures().is_some()).await;
    let figures = figures().unwrap();
    let places = &figures.extra.vcpus;
    assert_eq!(places.len(), 1, "{places:?}");
    assert_eq!(places[0].vcpu, 0);
    assert!(places[0].cpus.starts_with('0'), "{places:?}");
    assert!(figures.extra.disk_errors.is_empty());
    let interfaces = BTreeMap::new();
    let points: Vec<_> = measurements(&figures, &interfaces)
        .map(|m| m.point.to_string())
        .collect();
    assert!(
        !points.iter().any(|p| p == "infra/state"),
        "the state is among the quick figures: {points:?}"
    );
}
