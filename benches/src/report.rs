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

fn json_row(row: &Row) -> serde_json::Value {
    json!({
        "writers": row.writers,
        "pinned": row.pinned,
        "guest_stores_per_second": per_second(&row.guest).round(),
        "noop_fuse_stores_per_second": per_second(&row.floor).round(),
        "fsync_stores_per_second": per_second(&row.fsync).round(),
        "guest_to_noop_fuse": ratio(&row.guest, &row.floor),
        "guest_to_fsync": ratio(&row.guest, &row.fsync),
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
    println!("stores/s, medians; a ratio is the median of the rounds' ratios");
    println!(
        "{:>10} {:>10} {:>10} {:>10} {:>8} {:>8} {:>9} {:>9} {:>14}",
        "writers",
        "vmkpi",
        "no-op",
        "fsync",
        "/no-op",
        "/fsync",
        "p99 us",
        "no-op p99",
        "CPU us (no-op)"
    );
    for row in &measured.rows {
        let name = format!("{}{}", row.writers, if row.pinned { " pinned" } else { "" });
        println!(
            "{name:>10} {:>10.0} {:>10.0} {:>10.0} {:>8.2} {:>8.2} {:>9.0} {:>9.0} {:>6.1} ({:.1})",
            per_second(&row.guest),
            per_second(&row.floor),
            per_second(&row.fsync),
            ratio(&row.guest, &row.floor),
            ratio(&row.guest, &row.fsync),
            p99(&row.guest),
            p99(&row.floor),
            median(row.guest_cpu_us.clone()),
            median(row.floor_cpu_us.clone()),
        );
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
