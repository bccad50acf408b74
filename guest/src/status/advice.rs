//! What needs attention, and what to do about it. Pure: a status in, sentences out.

use vmkpi::clock::Timestamp;
use vmkpi::link::VERSION;

use crate::context::report::ContextStatus;

use super::{LiveStatus, Status, age_ms};

/// Refused inputs are mentioned this long: whoever wrote them has been told, too.
const REFUSED_MS: u64 = 24 * 3_600_000;

/// How long a host may take to say something after it has connected.
const SILENCE_MS: u64 = 10_000;

/// Less room than this on the file system is too little.
const LITTLE_ROOM_BYTES: u64 = 64 << 20;

/// A log larger than this is one that somebody's long read keeps from being cut back.
const LARGE_LOG_BYTES: u64 = 32 << 20;

/// How full a database may be, in hundredths of its limit.
const FULL_PERCENT: u64 = 90;

/// What a person should do, most urgent first. Nothing, when all is well.
pub(super) fn advice(status: &Status) -> Vec<String> {
    let mut advice: Vec<String> = Vec::new();
    for path in &status.set_aside {
        advice.push(format!(
            "{} was corrupt and set aside: recover what is needed from it (sqlite3 FILE .recover), then move it away",
            path.display()
        ));
    }
    match &status.live {
        None => advice.push(
            "vmkpi-guest does not run: start it (systemctl start vmkpi-guest); the stored rows wait".into(),
        ),
        Some(live) => {
            advice.extend(failures(live));
            advice.extend(full(status, live));
            advice.extend(link(live, status.now));
            advice.extend(wanted(live));
            advice.extend(held(live, status.now));
            advice.extend(polls(live));
            advice.extend(live.context.iter().flat_map(context));
        }
    }
    advice.extend(logs(status));
    advice.extend(lost(status));
    advice.extend(room(status));
    advice.extend(refused(status));
    advice
}

fn failures(live: &LiveStatus) -> Option<String> {
    (live.failed_commits > 0).then(|| {
        format!(
            "{} commits failed since the start, and their writers were told: look at the log, the disk, and who \
             locks the databases; a restart begins the count anew",
            live.failed_commits
        )
    })
}

fn full(status: &Status, live: &LiveStatus) -> Vec<String> {
    let limit = live.limits.database_bytes;
    let full = status.disk.iter().filter_map(|disk| {
        // What is free in the file is used before it grows.
        let used = disk.database_bytes.saturating_sub(disk.free_bytes);
        (used > limit / 100 * FULL_PERCENT).then(|| {
            format!(
                "{}.db uses {used} of its {limit} bytes: let the host acknowledge, keep fewer rows ([retention]), or \
                 raise limits.database_bytes",
                disk.area
            )
        })
    });
    full.collect()
}

fn logs(status: &Status) -> Vec<String> {
    let large = status
        .disk
        .iter()
        .filter(|disk| disk.wal_bytes > LARGE_LOG_BYTES);
    large
        .map(|disk| {
            format!(
                "the log of {0}.db has {1} MiB: another program keeps a read transaction open; find it with \
                 `fuser -v {0}.db-shm` and end it, at the limit (limits.log_bytes) stores are refused",
                disk.area,
                disk.wal_bytes >> 20
            )
        })
        .collect()
}

/// Losses that a host would have had, and that nobody has confirmed: later ones are its Consumers' to say.
fn lost(status: &Status) -> Option<String> {
    let gaps = status
        .points
        .iter()
        .filter(|point| point.wanted && point.gap.is_some());
    let lost: u64 = gaps.map(|point| point.lost).sum();
    (lost > 0).then(|| {
        format!(
            "{lost} rows were dropped before anyone had acknowledged them: keep them for longer ([retention], \
             limits.database_bytes), or see why no host acknowledges"
        )
    })
}

fn link(live: &LiveStatus, now: Timestamp) -> Option<String> {
    let url = &live.link.endpoint;
    if let Some(problem) = &live.link.problem {
        let then = match (live.link.of_context, url.starts_with("tls:")) {
            (true, _) => "the context names it: whoever runs this VM has to see to it",
            (false, true) => "see that vmkpi-host listens there, or correct `link`",
            (false, false) => "give the domain the channel, or correct `link`",
        };
        return Some(format!("the link {url} is not there: {problem}; {then}"));
    }
    let since = live.link.since.filter(|_| live.link.connected);
    let Some(since) = since else {
        return Some(format!(
            "no host is connected to {url}: rows wait here; see that vmkpi-host runs on the host and knows this VM"
        ));
    };
    if let Some(theirs) = live.link.other_version {
        let older = match theirs > VERSION {
            true => "vmkpi-guest in this VM",
            false => "vmkpi-host on the host",
        };
        return Some(format!(
            "the host speaks version {theirs} of the link and this program version {VERSION}: update {older}; until then \
             rows wait here"
        ));
    }
    let settled = age_ms(since, now) > SILENCE_MS;
    if settled && live.link.last_message.is_none() {
        return Some("the host is connected and has said nothing: look at its log".into());
    }
    (settled && live.link.subscribed_tables == 0 && live.stores > 0).then(|| {
        "the host has subscribed to nothing: see that the VM has a descriptor, and that it names these points".into()
    })
}

fn wanted(live: &LiveStatus) -> Option<String> {
    let wanted = live.link.wanted.as_ref()?;
    let problem = wanted.problem.as_ref()?;
    Some(format!(
        "the endpoint that the link should have, {}, is not used: {problem}; {} stays in force",
        wanted.endpoint, live.link.endpoint
    ))
}

fn held(live: &LiveStatus, now: Timestamp) -> Option<String> {
    let held = live.link.held.as_ref()?;
    let points = match held.points.is_empty() {
        true => "every point".to_owned(),
        false => held.points.join(", "),
    };
    Some(format!(
        "held for {}, and not delivered: {points}: {}; rows wait here until the VM is where [protection] allows",
        vmkpi::terminal::age(age_ms(held.since, now)),
        held.reason
    ))
}

fn polls(live: &LiveStatus) -> Vec<String> {
    let failing = live.polls.iter().filter_map(|poll| {
        let error = poll.error.as_ref()?;
        let command = poll.command.join(" ");
        Some(format!(
            "the poll of {} fails: {error}; try `{command}` by hand",
            poll.point
        ))
    });
    failing.collect()
}

fn context(context: &ContextStatus) -> Vec<String> {
    let mut advice = Vec::new();
    if !context.mounted {
        advice.push(format!(
            "the context partition at {} was unmounted: restart vmkpi-guest",
            context.mount.display()
        ));
    }
    advice.extend(context.problems.iter().cloned());
    for drive in &context.drives {
        if let Some(problem) = &drive.problem {
            advice.push(format!("the drive {}: {problem}", drive.drive));
        }
    }
    advice.extend(context.hooks.refused.iter().cloned());
    for outcome in context.hooks.outcomes.iter().filter(|outcome| !outcome.ok) {
        let last = outcome
            .output
            .last()
            .map_or(String::new(), |line| format!(" ({line})"));
        advice.push(format!(
            "the context's hook {} failed: {}{last}; correct it, then `vmkpi-guest context apply`",
            outcome.hook, outcome.result
        ));
    }
    if context.cut_off > 0 {
        advice.push(format!(
            "{} replaced layers of the context were let go although programs had files of them open, who are told \
             ESTALE: see who keeps them open (lsof {})",
            context.cut_off,
            context.mount.display()
        ));
    }
    advice
}

fn room(status: &Status) -> Option<String> {
    (status.free_bytes < LITTLE_ROOM_BYTES).then(|| {
        format!(
            "the state directory's file system has room for {} bytes: make some, or writers will be told ENOSPC",
            status.free_bytes
        )
    })
}

fn refused(status: &Status) -> Option<String> {
    let recent = |input: &&super::RefusedInput| age_ms(input.time, status.now) < REFUSED_MS;
    let count = status.refused.iter().filter(recent).count();
    (count > 0).then(|| {
        format!(
            "{count} inputs were refused in the last 24 hours: correct what writes them (the reasons are above); \
             nothing of them is in a table"
        )
    })
}

#[cfg(test)]
mod tests;
