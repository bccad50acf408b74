//! Each unhealthy state has its sentence, and a healthy one has none.

use super::*;
use crate::context::hooks::Outcome;
use crate::link::LinkState;
use crate::poller::PollStatus;
use crate::status::{DiskStatus, GapStatus, LimitStatus, PointStatus, RefusedInput};

fn now() -> Timestamp {
    Timestamp::from_micros(1_800_000_000_000_000)
}

fn ago(seconds: i64) -> Timestamp {
    Timestamp::from_micros(now().as_micros() - seconds * 1_000_000)
}

fn live() -> LiveStatus {
    LiveStatus {
        pid: 1,
        mount: "/kpi".into(),
        started: ago(3600),
        link_url: "virtio-serial:org.vmkpi.kpi.0".into(),
        link: LinkState {
            connected: true,
            subscribed_tables: 2,
            since: Some(ago(600)),
            last_message: Some(ago(1)),
            endpoint: "virtio-serial:org.vmkpi.kpi.0".into(),
            ..LinkState::default()
        },
        endpoint_changes: 0,
        endpoint_failures: 0,
        requests: Default::default(),
        stores: 10,
        commits: 10,
        failed_commits: 0,
        rows_trimmed: 0,
        rows_lost: 0,
        log_refusals: 0,
        refused: 0,
        rows_sent: 10,
        bad_lines: 0,
        sessions: 1,
        open_handles: 0,
        buffered_bytes: 0,
        memory_rss_bytes: 0,
        memory_peak_bytes: 0,
        limits: LimitStatus {
            database_bytes: 1 << 30,
            ..LimitStatus::default()
        },
        polls: vec![PollStatus::default()],
        context: Some(ContextStatus {
            mounted: true,
            ..ContextStatus::default()
        }),
    }
}

fn status(live: LiveStatus) -> Status {
    Status {
        running: true,
        live: Some(live),
        stream: String::new(),
        points: Vec::new(),
        refused_total: 1,
        refused: vec![refused(ago(100_000))],
        disk: vec![DiskStatus {
            area: "unencrypted".into(),
            database_bytes: 1 << 20,
            free_bytes: 0,
            wal_bytes: 0,
        }],
        free_bytes: 1 << 30,
        unacknowledged: 0,
        now: now(),
        set_aside: Vec::new(),
        healthy: false,
        advice: Vec::new(),
    }
}

fn refused(time: Timestamp) -> RefusedInput {
    RefusedInput {
        point: "unencrypted/w".into(),
        time,
        reason: "ragged".into(),
        size_bytes: 1,
        input: "x".into(),
    }
}

/// The only advice after a change of a healthy status.
fn after(change: impl FnOnce(&mut Status, &mut LiveStatus)) -> String {
    let mut live = live();
    let mut status = status(live.clone());
    change(&mut status, &mut live);
    status.live = Some(live);
    let advice = advice(&status);
    assert_eq!(advice.len(), 1, "{advice:?}");
    advice[0].clone()
}

fn point_with_gap() -> PointStatus {
    PointStatus {
        point: "unencrypted/w".parse().unwrap(),
        removed: false,
        size_bytes: 1,
        last_store: now(),
        first: 8,
        last: 9,
        rows: 2,
        acked: 0,
        unacknowledged: 2,
        last_store_age_ms: 0,
        wanted: true,
        lost: 7,
        gap: Some(GapStatus {
            after: 0,
            through: 7,
            reason: "age",
        }),
    }
}

#[test]
fn free_pages_of_a_database_and_losses_that_nobody_asked_for_are_no_trouble() {
    let mut status = status(live());
    status.disk[0].database_bytes = 1 << 30;
    status.disk[0].free_bytes = 1 << 29;
    let mut point = point_with_gap();
    point.wanted = false;
    status.points = vec![point];
    assert!(advice(&status).is_empty());
}

#[test]
fn a_healthy_program_needs_nothing() {
    assert_eq!(advice(&status(live())), Vec::<String>::new());
}

#[test]
fn each_unhealthy_state_says_what_to_do() {
    let said = after(|s, _| s.set_aside = vec!["/s/unencrypted.db.corrupt-1".into()]);
    assert!(said.contains(".recover"), "{said}");
    let said = after(|_, l| l.failed_commits = 3);
    assert!(said.contains("3 commits failed"), "{said}");
    let said = after(|s, _| s.disk[0].database_bytes = 1 << 30);
    assert!(said.contains("limits.database_bytes"), "{said}");
    let said = after(|s, _| s.disk[0].wal_bytes = 64 << 20);
    assert!(
        said.contains("64 MiB") && said.contains("unencrypted.db-shm"),
        "{said}"
    );
    let said = after(|s, _| s.points = vec![point_with_gap()]);
    assert!(said.starts_with("7 rows were dropped"), "{said}");
    let said = after(|_, l| l.link.problem = Some("no such port".into()));
    assert!(said.contains("no such port"), "{said}");
    let said = after(|_, l| l.link.connected = false);
    assert!(said.contains("no host is connected"), "{said}");
    let said = after(|_, l| l.link.last_message = None);
    assert!(said.contains("has said nothing"), "{said}");
    let said = after(|_, l| l.link.subscribed_tables = 0);
    assert!(said.contains("descriptor"), "{said}");
    let said = after(|_, l| l.link.other_version = Some(2));
    assert!(
        said.contains("version 2 of the link and this program version 1: update vmkpi-guest"),
        "{said}"
    );
    let said = after(|_, l| l.link.other_version = Some(0));
    assert!(said.contains("update vmkpi-host"), "{said}");
    let said = after(|_, l| l.polls[0].error = Some("exit status 3".into()));
    assert!(said.contains("exit status 3"), "{said}");
    let said = after(|s, _| s.free_bytes = 1 << 20);
    assert!(said.contains("ENOSPC"), "{said}");
    let said = after(|s, _| s.refused.push(refused(ago(60))));
    assert!(said.starts_with("1 inputs were refused"), "{said}");
}

#[test]
fn a_program_that_does_not_run_is_to_be_started() {
    let mut status = status(live());
    status.live = None;
    assert!(advice(&status)[0].contains("systemctl start"));
}

#[test]
fn a_host_that_has_just_come_may_be_silent_for_a_while() {
    let mut live = live();
    live.link.since = Some(ago(2));
    live.link.last_message = None;
    live.link.subscribed_tables = 0;
    assert!(advice(&status(live)).is_empty());
}

#[test]
fn each_trouble_of_the_context_is_said() {
    let with = |change: fn(&mut ContextStatus)| {
        after(|_, live| {
            if let Some(context) = &mut live.context {
                change(context);
            }
        })
    };
    assert!(with(|c| c.mounted = false).contains("restart vmkpi-guest"));
    assert!(with(|c| c.problems.push("a bad layer".into())).contains("a bad layer"));
    assert!(with(|c| c.hooks.refused.push("others may write it".into())).contains("may write"));
    assert!(with(|c| c.cut_off = 3).contains("ESTALE"));
    let failed = with(|c| {
        c.hooks.outcomes.push(Outcome {
            hook: "10-proxy".into(),
            generation: 2,
            started: now(),
            duration_ms: 1,
            ok: false,
            result: "exit status 3".into(),
            output: vec!["first".into(), "no such unit".into()],
        });
    });
    for word in [
        "10-proxy",
        "exit status 3",
        "(no such unit)",
        "context apply",
    ] {
        assert!(failed.contains(word), "{failed}");
    }
}
