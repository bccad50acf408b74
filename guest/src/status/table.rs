//! `status` for people: at most 80 columns wide, names longer than their column cut.

use std::fmt::Write as _;

use vmkpi::clock::Timestamp;
use vmkpi::terminal::{WIDTH, age, bytes, cut, wrap};

use super::{LiveStatus, Status, age_ms};

/// Inputs shown; the rest are counted.
const SHOWN: usize = 10;

/// The status as text.
pub fn render(status: &Status) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = lines(status, &mut text);
    text
}

fn lines(status: &Status, out: &mut String) -> std::fmt::Result {
    match &status.live {
        Some(live) => {
            running(status, live, out)?;
            context(live, out)?;
        }
        None => writeln!(out, "not running")?,
    }
    disk(status, out)?;
    writeln!(out, "stream   {}", status.stream)?;
    points(status, out)?;
    polls(status, out)?;
    refused(status, out)?;
    if status.advice.is_empty() {
        writeln!(out, "\nall is well")?;
    }
    for line in &status.advice {
        writeln!(out)?;
        wrap(out, "=> ", line)?;
    }
    Ok(())
}

fn running(status: &Status, live: &LiveStatus, out: &mut String) -> std::fmt::Result {
    let since = |time: Timestamp| age(age_ms(time, status.now));
    let up = since(live.started);
    wrap(
        out,
        "running  ",
        &format!("pid {} for {up}, at {}", live.pid, live.mount.display()),
    )?;
    let whose = match live.link.of_context {
        true => ", as the context says",
        false => "",
    };
    wrap(out, "link     ", &format!("{}{whose}", live.link.endpoint))?;
    let host = match (live.link.connected, live.link.since) {
        (true, Some(connected)) => {
            let heard = live
                .link
                .last_message
                .map_or("never".into(), |t| since(t) + " ago");
            let tables = live.link.subscribed_tables;
            format!(
                "a host for {}, heard {heard}, {tables} tables subscribed",
                since(connected)
            )
        }
        _ => "no host".into(),
    };
    wrap(
        out,
        "         ",
        &format!("{host}, {} rows unacknowledged", status.unacknowledged),
    )?;
    let counts = format!(
        "{} rows in {} commits, {} failed; {} rows sent",
        live.stores, live.commits, live.failed_commits, live.rows_sent
    );
    wrap(out, "stored   ", &counts)?;
    let (now, most) = (bytes(live.memory_rss_bytes), bytes(live.memory_peak_bytes));
    let held = (live.open_handles, bytes(live.buffered_bytes as u64));
    let memory = format!(
        "{now}, at most {most}; {} open files with {} not stored",
        held.0, held.1
    );
    wrap(out, "memory   ", &memory)
}

fn context(live: &LiveStatus, out: &mut String) -> std::fmt::Result {
    let Some(context) = &live.context else {
        return Ok(());
    };
    let layers: Vec<&str> = context
        .layers
        .iter()
        .map(|layer| layer.class.as_str())
        .collect();
    let layers = match layers.is_empty() {
        true => "no layer".to_owned(),
        false => layers.join(" over "),
    };
    let (at, generation) = (context.mount.display(), context.generation);
    wrap(
        out,
        "context  ",
        &format!("{layers}, generation {generation}, at {at}"),
    )
}

fn disk(status: &Status, out: &mut String) -> std::fmt::Result {
    for disk in &status.disk {
        let limit = status.live.as_ref().map(|live| live.limits.database_bytes);
        let limit = limit.map_or(String::new(), |limit| format!(" of {}", bytes(limit)));
        let (database, log) = (bytes(disk.database_bytes), bytes(disk.wal_bytes));
        let name = format!("{}.db", disk.area);
        writeln!(out, "disk     {name:<14} {database}{limit}, log {log}")?;
    }
    writeln!(out, "         {} free", bytes(status.free_bytes))
}

fn points(status: &Status, out: &mut String) -> std::fmt::Result {
    if status.points.is_empty() {
        return writeln!(out, "\nnothing is stored yet");
    }
    let header = ("POINT", "ROWS", "LAST", "UNACKED", "LAST STORE");
    writeln!(
        out,
        "\n{:<34} {:>9} {:>10} {:>9}  {}",
        header.0, header.1, header.2, header.3, header.4
    )?;
    for point in &status.points {
        let when = match point.removed {
            true => "removed".into(),
            false => age(point.last_store_age_ms) + " ago",
        };
        let name = cut(&point.point.to_string(), 34);
        writeln!(
            out,
            "{name:<34} {:>9} {:>10} {:>9}  {when}",
            point.rows, point.last, point.unacknowledged
        )?;
    }
    Ok(())
}

fn polls(status: &Status, out: &mut String) -> std::fmt::Result {
    let polls = status.live.iter().flat_map(|live| &live.polls);
    for (place, poll) in polls.enumerate() {
        if place == 0 {
            let header = ("POLL", "RUNS", "STORED", "FAILED", "MISSED", "LAST RUN");
            writeln!(
                out,
                "\n{:<30} {:>8} {:>8} {:>7} {:>7}  {}",
                header.0, header.1, header.2, header.3, header.4, header.5
            )?;
        }
        let when = match (poll.running, poll.last_run) {
            (true, _) => "now".into(),
            (false, Some(time)) => age(age_ms(time, status.now)) + " ago",
            (false, None) => "never".into(),
        };
        let name = cut(&poll.point, 30);
        writeln!(
            out,
            "{name:<30} {:>8} {:>8} {:>7} {:>7}  {when}",
            poll.runs, poll.stored, poll.failures, poll.missed
        )?;
    }
    Ok(())
}

fn refused(status: &Status, out: &mut String) -> std::fmt::Result {
    if status.refused_total == 0 {
        return Ok(());
    }
    writeln!(out, "\nrefused inputs: {} in all", status.refused_total)?;
    for input in status.refused.iter().take(SHOWN) {
        let when = age(age_ms(input.time, status.now));
        wrap(
            out,
            "  ",
            &format!("{when} ago  {}: {}", input.point, input.reason),
        )?;
        // Whatever was written may hold terminal control codes: shown escaped.
        let start: String = input.input.chars().take(60).collect();
        writeln!(out, "    {}", cut(&format!("{start:?}"), WIDTH - 4))?;
    }
    Ok(())
}
