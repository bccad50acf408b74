//! Medians and ratios, as a table and as JSON. The one place that prints.
#![expect(clippy::print_stdout, reason = "printing is this module's job")]

use serde_json::json;

use crate::processes::{Measured, Row};
use crate::writers::Rate;

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
    }
}

fn per_second(rates: &[Rate]) -> f64 {
    median(rates.iter().map(|r| r.per_second).collect())
}

fn p99(rates: &[Rate]) -> f64 {
    median(rates.iter().map(|r| r.p99_us).collect())
}

/// The median of the ratios round by round, so that a drift of the machine cancels out.
fn ratio(ours: &[Rate], theirs: &[Rate]) -> f64 {
    let each = ours.iter().zip(theirs);
    median(each.map(|(a, b)| a.per_second / b.per_second).collect())
}

/// One writer, one processor: what the FUSE round trip and a commit cost one after the other, as a rate.
fn serial_floor(row: &Row) -> Vec<f64> {
    let each = row.floor.iter().zip(&row.commits);
    each.map(|(fuse, commits)| 1.0 / (1.0 / fuse.per_second + 1.0 / commits))
        .collect()
}

fn to_serial_floor(row: &Row) -> Option<f64> {
    let floors = serial_floor(row);
    let each = row.guest.iter().zip(&floors);
    let ratios: Vec<f64> = each.map(|(ours, floor)| ours.per_second / floor).collect();
    (!ratios.is_empty()).then(|| median(ratios))
}

fn p99_ratio(row: &Row) -> f64 {
    let each = row.guest.iter().zip(&row.floor);
    median(each.map(|(a, b)| a.p99_us / b.p99_us).collect())
}

fn cpu_ratio(row: &Row) -> f64 {
    let each = row.guest_cpu_us.iter().zip(&row.floor_cpu_us);
    median(each.map(|(a, b)| a / b).collect())
}

fn json_row(row: &Row) -> serde_json::Value {
    json!({
        "writers": row.writers,
        "pinned": row.pinned,
        "guest_stores_per_second": per_second(&row.guest).round(),
        "noop_fuse_stores_per_second": per_second(&row.floor).round(),
        "fsync_stores_per_second": per_second(&row.fsync).round(),
        "guest_to_noop_fuse": ratio(&row.guest, &row.floor),
        "guest_to_fsync": ratio(&row.guest, &row.fsync),
        "handler_commit_stores_per_second": per_second(&row.handler).round(),
        "guest_to_handler_commit": ratio(&row.guest, &row.handler),
        "sqlite_commits_per_second": (!row.commits.is_empty()).then(|| median(row.commits.clone()).round()),
        "guest_to_serial_floor": to_serial_floor(row),
        "guest_to_noop_fuse_p99": p99_ratio(row),
        "guest_to_noop_fuse_cpu": cpu_ratio(row),
        "guest_p99_us": p99(&row.guest),
        "noop_fuse_p99_us": p99(&row.floor),
        "guest_cpu_us_per_store": median(row.guest_cpu_us.clone()),
        "noop_fuse_cpu_us_per_store": median(row.floor_cpu_us.clone()),
    })
}

/// Prints what was measured.
pub fn print(measured: &Measured, as_json: bool) {
    if as_json {
        let rows: Vec<_> = measured.rows.iter().map(json_row).collect();
        println!(
            "{}",
            json!({
                "rows": rows,
                "fuse_requests_per_store": measured.requests_per_store,
                "stores_per_commit": measured.stores_per_commit,
                "rows_minus_closes": measured.rows_minus_closes,
                "guest_peak_rss_bytes": measured.guest_peak_rss_bytes,
            })
        );
        return;
    }
    println!("stores/s, medians; a ratio (/) is the median of the rounds' ratios");
    println!(
        "{:>9} {:>7} {:>7} {:>7} {:>7} {:>7} {:>7} {:>8} {:>15} {:>5} {:>14} {:>5}",
        "writers",
        "vmkpi",
        "no-op",
        "fsync",
        "handler",
        "/no-op",
        "/fsync",
        "/handler",
        "p99 us (no-op)",
        "/",
        "CPU us (no-op)",
        "/"
    );
    for row in &measured.rows {
        print_row(row);
    }
    for row in &measured.rows {
        if let Some(ratio) = to_serial_floor(row) {
            println!(
                "1 writer, pinned, to 1/(1/FUSE + 1/SQLite)  {ratio:.2} ({:.0} one-row commits/s here)",
                median(row.commits.clone())
            );
        }
    }
    println!(
        "FUSE requests per store   {:.2}",
        measured.requests_per_store
    );
    println!(
        "stores per commit         {:.1}",
        measured.stores_per_commit
    );
    println!("rows - successful closes  {}", measured.rows_minus_closes);
    println!(
        "guest peak RSS            {:.1} MB",
        measured.guest_peak_rss_bytes as f64 / 1e6
    );
}

fn print_row(row: &Row) {
    println!(
        "{:>9} {:>7.0} {:>7.0} {:>7.0} {:>7.0} {:>7.2} {:>7.2} {:>8.2} {:>8.0} ({:>4.0}) {:>5.2} {:>7.1} ({:>4.1}) {:>5.2}",
        format!("{}{}", row.writers, if row.pinned { " pinned" } else { "" }),
        per_second(&row.guest),
        per_second(&row.floor),
        per_second(&row.fsync),
        per_second(&row.handler),
        ratio(&row.guest, &row.floor),
        ratio(&row.guest, &row.fsync),
        ratio(&row.guest, &row.handler),
        p99(&row.guest),
        p99(&row.floor),
        p99_ratio(row),
        median(row.guest_cpu_us.clone()),
        median(row.floor_cpu_us.clone()),
        cpu_ratio(row),
    );
}
