//! `status` for people.

use std::fmt::Write as _;

use super::Status;

/// Inputs shown; the rest are counted.
const SHOWN: usize = 10;

/// A log larger than this is one that somebody's long read keeps from being cut back.
const LARGE_LOG_BYTES: u64 = 32 << 20;

/// What a person should do, most urgent first.
pub fn advice(status: &Status) -> Vec<String> {
    let mut advice = Vec::new();
    for path in &status.set_aside {
        advice.push(format!(
            "{} was corrupt and set aside: recover what is needed from it (sqlite3 FILE .recover), \
             then move it away",
            path.display()
        ));
    }
    match &status.live {
        None => advice.push("vmkpi-guest does not run: start it, the stored rows wait".into()),
        Some(live) => {
            if live.failed_commits > 0 {
                advice.push(format!(
                    "{} commits failed and their writers were told: look at the log, the disk and \
                     whoever locks the databases",
                    live.failed_commits
                ));
            }
            if let Some(problem) = &live.link.problem {
                advice.push(format!(
                    "the link {} is not there: {problem}",
                    live.link_url
                ));
            } else if !live.link.connected {
                advice.push(format!(
                    "no host is connected to {}: rows wait here",
                    live.link_url
                ));
            } else if live.link.last_message.is_none() {
                advice.push("the host is connected and has said nothing yet".into());
            }
        }
    }
    advice.extend(disk_advice(status));
    if status.refused_total > 0 {
        advice.push(
            "inputs were refused: correct what writes them (the reasons are above); nothing of them \
             is in a table"
                .into(),
        );
    }
    advice
}

fn disk_advice(status: &Status) -> Vec<String> {
    let mut advice = Vec::new();
    for disk in status.disk.iter().filter(|d| d.wal_bytes > LARGE_LOG_BYTES) {
        advice.push(format!(
            "the log of {0}.db has {1} MiB: another program keeps a read transaction open; find it with \
             `fuser -v {0}.db-shm` and end it, at the limit stores are refused",
            disk.area,
            disk.wal_bytes >> 20
        ));
    }
    let lost = |wanted: bool| -> u64 {
        let points = status.points.iter().filter(|p| p.wanted == wanted);
        points.map(|point| point.lost).sum()
    };
    if lost(false) > 0 {
        advice.push(format!(
            "{} rows went unread from points that no host has ever asked for: name them in the VM's \
             descriptor if they are wanted",
            lost(false)
        ));
    }
    if lost(true) > 0 {
        advice.push(format!(
            "{} rows were dropped before anyone had acknowledged them: keep them for longer \
             (--retain-rows, --retain-bytes, --retain-age) or do without --drop-unacknowledged",
            lost(true)
        ));
    }
    advice
}

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
            writeln!(out, "running  pid {}, since {}", live.pid, live.started)?;
            writeln!(out, "mount    {}", live.mount.display())?;
            let host = match (live.link.connected, live.link.subscribed_tables) {
                (false, _) => "no host".into(),
                (true, tables) => format!("a host, {tables} tables subscribed"),
            };
            writeln!(out, "link     {}, {host}", live.link_url)?;
            writeln!(
                out,
                "stored   {} rows in {} commits, {} failed; {} rows sent",
                live.stores, live.commits, live.failed_commits, live.rows_sent
            )?;
        }
        None => writeln!(out, "not running")?,
    }
    writeln!(out, "stream   {}", status.stream)?;
    for disk in &status.disk {
        writeln!(
            out,
            "disk     {}: {} KiB ({} free), log {} KiB",
            disk.area,
            disk.database_bytes / 1024,
            disk.free_bytes / 1024,
            disk.wal_bytes / 1024
        )?;
    }
    points(status, out)?;
    refused(status, out)?;
    for line in &status.advice {
        writeln!(out, "\n=> {line}")?;
    }
    Ok(())
}

fn points(status: &Status, out: &mut String) -> std::fmt::Result {
    if status.points.is_empty() {
        return writeln!(out, "\nnothing is stored yet");
    }
    writeln!(
        out,
        "\n{:<40} {:>10} {:>10} {:>10}  LAST STORE",
        "POINT", "ROWS", "LAST", "ACKED"
    )?;
    for point in &status.points {
        writeln!(
            out,
            "{:<40} {:>10} {:>10} {:>10}  {}{}",
            point.point.to_string(),
            point.rows,
            point.last,
            point.acked,
            point.last_store,
            if point.removed { "  (removed)" } else { "" }
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
        // Whatever was written may hold terminal control codes: shown escaped.
        let start: String = input.input.chars().take(60).collect();
        writeln!(
            out,
            "  {}  {}  {}: {:?}",
            input.time, input.point, input.reason, start
        )?;
    }
    Ok(())
}
