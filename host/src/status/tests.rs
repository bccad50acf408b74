//! What is told of good and bad days, and how it looks.

use vmkpi::link::VERSION;

use super::*;

/// A VM of which everything is well.
fn vm() -> Vm {
    Vm {
        domain: "shop".into(),
        uuid: "6695eb01-f6a4-8304-79aa-97f2502e193f".into(),
        state: "running".into(),
        vm: Some("shop-frontend-1".into()),
        primary_site: Some("acme".into()),
        window_ms: 10_000,
        link: Link {
            state: LinkState::Up,
            wanted: true,
            address: Some("unix:/link".into()),
            ..Link::default()
        },
        descriptor: Descriptor {
            source: "/etc/vmkpi/shop.toml".into(),
            valid: true,
            error: None,
        },
        points: 3,
        rows_received: 100,
        rows_unacknowledged: 2,
        oldest_unacknowledged_ms: Some(9_000),
        last_sample_age_ms: Some(500),
        ..Vm::default()
    }
}

fn class() -> Class {
    "infrastructure".parse().unwrap()
}

/// A context that is not as it should be.
fn bad() -> Context {
    Context {
        problem: Some("no drive".into()),
        ..Context::default()
    }
}

fn offered(live: &mut Live) -> &mut Contexts {
    live.context.get_or_insert_default()
}

/// A daemon of which everything is well, with these VMs.
fn status(vms: Vec<Vm>) -> Status {
    let live = Live {
        version: "1.2.3".into(),
        pid: 42,
        uptime_ms: 7_200_000,
        libvirt: Libvirt {
            uri: "qemu:///system".into(),
            connected: true,
            ..Libvirt::default()
        },
        broker: Broker {
            url: "mqtt://broker.example:1883".into(),
            connected: true,
            ..Broker::default()
        },
        outbox: Outbox {
            bytes: 1 << 20,
            limit_bytes: 1 << 30,
            errors: 0,
        },
        ..Live::default()
    };
    Status {
        running: true,
        live: Some(live),
        vms,
        ..Status::default()
    }
}

fn advised(change: impl FnOnce(&mut Live, &mut Vm)) -> Status {
    let mut status = status(vec![vm()]);
    if let Some(live) = &mut status.live {
        change(live, &mut status.vms[0]);
    }
    advice::advise(&mut status);
    status
}

#[test]
fn a_healthy_daemon_needs_nothing() {
    let status = advised(|_, _| {});
    assert!(status.healthy && status.advice.is_empty());
    assert!(render(&status).ends_with("\nall is well\n"));
}

#[test]
fn a_daemon_that_does_not_run_is_to_be_started() {
    let mut status = Status::default();
    advice::advise(&mut status);
    assert!(!status.healthy && status.advice[0].contains("systemctl start vmkpi-host"));
    assert!(render(&status).starts_with("not running\n"));
}

#[test]
fn each_unhealthy_state_of_the_daemon_says_what_to_do() {
    type Change = fn(&mut Live, &mut Vm);
    let cases: [(Change, &str); 8] = [
        (
            |live, _| live.libvirt.connected = false,
            "libvirt does not answer at qemu:///system",
        ),
        (
            |live, _| live.broker.connected = false,
            "no broker is connected at mqtt://broker.example",
        ),
        (
            |live, _| live.outbox.errors = 2,
            "the outbox could not be written or read 2 times",
        ),
        (
            |live, _| live.outbox.bytes = 1 << 30,
            "raise outbox.max_bytes",
        ),
        (
            |live, _| live.unknown_domains = vec!["shpo".into()],
            "no domain is called shpo",
        ),
        (
            |live, _| {
                offered(live)
                    .problems
                    .push("/c/f.j2:1: syntax error".into());
            },
            "/c/f.j2:1: syntax error; correct it",
        ),
        (
            |live, _| offered(live).stuck = 2,
            "2 calls that change a VM's context",
        ),
        (
            |live, _| {
                let others = &mut offered(live).others;
                others.insert("db".into(), [(class(), bad())].into());
            },
            "db: its context of class infrastructure",
        ),
    ];
    for (change, said) in cases {
        let status = advised(change);
        assert!(!status.healthy);
        assert_eq!(status.advice.len(), 1, "{:?}", status.advice);
        assert!(status.advice[0].contains(said), "{:?}", status.advice);
    }
}

#[test]
fn each_unhealthy_state_of_a_vm_says_what_to_do() {
    type Change = fn(&mut Live, &mut Vm);
    let cases: [(Change, &str); 10] = [
        (
            |_, vm| vm.link.other_version = Some(VERSION + 1),
            "speaks version 2 of the link and this host version 1: update this vmkpi-host;",
        ),
        (
            |_, vm| vm.link.other_version = Some(VERSION - 1),
            "update the vmkpi-guest in it;",
        ),
        (
            |_, vm| drop(vm.context.insert(class(), bad())),
            "class infrastructure is not as it should be: no drive; it is tried again, at once by vmkpi-host recontextualize shop",
        ),
        (
            |_, vm| vm.link.state = LinkState::None,
            "give the domain the channel",
        ),
        (
            |_, vm| vm.link.state = LinkState::Silent,
            "see that vmkpi-guest runs in it",
        ),
        (
            |_, vm| {
                vm.link.state = LinkState::Down;
                vm.link.problem = Some("Permission denied (os error 13)".into());
            },
            "(Permission denied (os error 13))",
        ),
        (
            |_, vm| vm.descriptor.error = Some("line 3".into()),
            "the one before stays in force: line 3",
        ),
        (
            |_, vm| vm.oldest_unacknowledged_ms = Some(71_000),
            "rows have waited 71 s",
        ),
        (|_, vm| vm.messages_refused = 1, "could never be delivered"),
        (|_, vm| vm.unresponsive = true, "does not answer libvirt"),
    ];
    for (change, said) in cases {
        let status = advised(change);
        assert!(!status.healthy && status.advice.is_empty());
        let advice = &status.vms[0].advice;
        assert!(advice.len() == 1 && advice[0].contains(said), "{advice:?}");
    }
}

#[test]
fn what_has_to_be_so_is_no_trouble() {
    type Change = fn(&mut Live, &mut Vm);
    let cases: [Change; 4] = [
        // Nothing of the guest is monitored.
        |_, vm| vm.link = Link::default(),
        // It is off.
        |_, vm| (vm.state, vm.link.state) = ("off".into(), LinkState::None),
        // Rows wait for the end of their window.
        |_, vm| (vm.window_ms, vm.oldest_unacknowledged_ms) = (300_000, Some(300_000)),
        |_, vm| vm.gaps = 5,
    ];
    for (case, change) in cases.into_iter().enumerate() {
        assert!(advised(change).healthy, "case {case}");
    }
    let away = advised(|live, vm| {
        live.broker.connected = false;
        vm.oldest_unacknowledged_ms = Some(500_000);
    });
    assert!(away.vms[0].advice.is_empty(), "one cause, one sentence");
}

#[test]
fn the_table_fits_eighty_columns_and_obeys_no_control_codes() {
    let mut named = vm();
    named.domain = format!("{}\u{1b}[31m", "long".repeat(20));
    (named.rows_received, named.rows_unacknowledged) = (999_999_999, 9_999_999);
    (named.points, named.gaps) = (1000, 99_999);
    named.link.state = LinkState::Silent;
    let good = Context {
        digest: Some("0123456789abcdef0123456789abcdef".into()),
        drive: Some("sda".into()),
        since_ms: Some(86_400_000),
        problem: None,
    };
    let longest = "abcdefghijklmnopqrstuvwxyz".parse().unwrap();
    named.context = [(class(), bad()), (longest, good)].into();
    let mut status = status(vec![vm(), named]);
    advice::advise(&mut status);
    let text = render(&status);
    for line in text.lines() {
        assert!(
            line.chars().count() <= 80 || line.contains("longlong"),
            "{line}"
        );
    }
    assert!(!text.contains('\u{1b}'), "{text}");
    for expected in [
        "pid 42, for 2h",
        "shop",
        "=> longlong",
        "1.0 MiB of 1.0 GiB",
        "abcdefghijklmnopqrstuvwxyz sda    0123456789ab  24h",
    ] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
}

#[test]
fn what_is_told_is_read_back() {
    let status = advised(|_, vm| vm.link.state = LinkState::Silent);
    let json = serde_json::to_string(&status).unwrap();
    assert!(!json.contains('\n'));
    let read: Status = serde_json::from_str(&json).unwrap();
    assert_eq!(render(&read), render(&status));
}
