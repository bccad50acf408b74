use super::*;
use crate::descriptor::{Descriptor, Spelling};
use crate::link::Payload;
use crate::position::RowKey;
use crate::value::Value;
use proptest::prelude::*;

pub fn monitor(keys: &str) -> Arc<Monitor> {
    let text = format!("vm='v'\nprimary_site='s'\n[[monitor]]\npoint='unencrypted/a'\n{keys}");
    let no_file = |_: &std::path::Path| Err(std::io::Error::other("none"));
    let descriptor = Descriptor::parse(&text, Spelling::Toml, &no_file).unwrap();
    Arc::new(descriptor.monitors[0].clone())
}

fn columns() -> Arc<[Box<str>]> {
    ["a".into()].into()
}

fn row(seq: Seq, epoch: u64, ms: i64) -> Row {
    Row {
        seq,
        key: RowKey(seq),
        epoch,
        time: Timestamp::from_micros(ms * 1000),
        payload: Payload::Values(vec![Value::Integer(seq.cast_signed())]),
    }
}

/// What a closed window says, short: (after, through, sampled seqs or value, partial).
fn told(closed: &Closed) -> (Seq, Seq, Vec<u64>, bool) {
    let seqs = match &closed.content {
        Content::Raw(samples) => samples.iter().map(|s| s.seq).collect(),
        Content::Processed(aggregate, ..) => {
            vec![aggregate.result().0["a"].to_bits()]
        }
    };
    (closed.after.seq, closed.through.seq, seqs, closed.partial)
}

fn run(monitor: &Arc<Monitor>, start: Option<Mark>, rows: &[Row]) -> Vec<Closed> {
    let mut out = Vec::new();
    let position = start.map_or(Position::START, |m| m.position());
    let mut windower = Windower::new(Arc::clone(monitor), position, start);
    for row in rows {
        windower.feed(&columns(), row, &mut out);
    }
    windower.close(&mut out);
    out
}

#[test]
fn the_last_row_of_each_interval_is_the_sample() {
    let monitor = monitor("interval_ms=1000\ndelivery_ms=4000");
    let rows = [
        row(1, 0, 100),
        row(2, 0, 900),
        row(3, 0, 1500),
        row(4, 0, 4000),
        row(5, 0, 4100),
    ];
    let told: Vec<_> = run(&monitor, None, &rows).iter().map(told).collect();
    assert_eq!(told, [(0, 3, vec![2, 3], false), (3, 5, vec![5], false)]);
}

#[test]
fn windows_never_span_epochs() {
    let monitor = monitor("interval_ms=1000\ndelivery_ms=4000");
    let rows = [row(1, 0, 3000), row(2, 1, 100), row(3, 1, 200)];
    let told: Vec<_> = run(&monitor, None, &rows).iter().map(told).collect();
    assert_eq!(told, [(0, 1, vec![1], false), (1, 3, vec![3], false)]);
}

#[test]
fn a_mark_closes_what_it_is_beyond_and_nothing_else() {
    let monitor = monitor("interval_ms=1000\ndelivery_ms=4000");
    let mut windower = Windower::new(monitor, Position::START, None);
    let mut out = Vec::new();
    windower.feed(&columns(), &row(1, 1, 1000), &mut out);
    windower.mark(1, Timestamp::from_micros(3_999_999), &mut out);
    windower.mark(0, Timestamp::from_micros(9_000_000), &mut out);
    assert!(out.is_empty());
    windower.mark(1, Timestamp::from_micros(4_000_000), &mut out);
    assert_eq!(out.len(), 1);
    windower.feed(&columns(), &row(2, 1, 5000), &mut out);
    windower.mark(2, Timestamp::from_micros(0), &mut out);
    assert_eq!(out.len(), 2);
}

#[test]
fn a_window_without_its_beginning_is_partial() {
    let monitor = monitor("interval_ms=1000\ndelivery_ms=4000\nformat='processed'\nfunction='sum'");
    let rows = [row(2, 0, 500), row(3, 0, 5000)];
    let partial = |start| run(&monitor, Some(start), &rows)[0].partial;
    assert!(
        partial(row(1, 0, 100).mark()),
        "row 1 was in the same window"
    );
    assert!(
        !partial(row(1, 0, 100).mark().with_epoch(7)),
        "in another epoch"
    );
    let mut out = Vec::new();
    let mut windower = Windower::new(monitor, row(1, 0, 0).position(), None);
    windower.feed(&columns(), &row(1, 0, 100), &mut out);
    windower.feed(&columns(), &row(2, 0, 500), &mut out);
    windower.close(&mut out);
    assert!(out[0].partial, "told by the row itself, sent again");
}

impl Mark {
    fn with_epoch(self, epoch: u64) -> Self {
        Self { epoch, ..self }
    }
}

#[test]
fn a_raw_window_over_a_message_is_handed_out_in_pieces() {
    let monitor = monitor("delivery_ms=4000");
    let mut windower = Windower::new(monitor, Position::START, None);
    let (mut out, text) = (Vec::new(), "x".repeat(10_000));
    for seq in 1..=100 {
        let mut row = row(seq, 0, 1000);
        row.payload = Payload::Values(vec![Value::Text(text.as_str().into())]);
        windower.feed(&columns(), &row, &mut out);
        assert!(windower.held_bytes() < MAX_MESSAGE_BYTES);
    }
    windower.close(&mut out);
    assert!(out.len() > 2);
    let seqs: Vec<_> = out.iter().flat_map(|c| told(c).2).collect();
    assert_eq!(seqs, (1..=100).collect::<Vec<_>>());
    assert!(out.windows(2).all(|w| w[0].through == w[1].after));
}

fn any_rows() -> impl Strategy<Value = Vec<Row>> {
    prop::collection::vec((0u8..12, 0i64..1500), 1..60).prop_map(|steps| {
        let (mut epoch, mut ms) = (0, 0);
        let rows = steps.into_iter().zip(1..).map(|((kind, step), seq)| {
            if kind == 0 {
                (epoch, ms) = (epoch + 1, step);
            } else {
                ms += step;
            }
            row(seq, epoch, ms)
        });
        rows.collect()
    })
}

fn any_monitor() -> impl Strategy<Value = Arc<Monitor>> {
    prop::sample::select(vec![
        "",
        "interval_ms=500",
        "delivery_ms=2000",
        "interval_ms=500\ndelivery_ms=2000",
        "interval_ms=500\ndelivery_ms=2000\nformat='processed'\nfunction='sum'",
        "delivery_ms=2000\nformat='processed'\nfunction='median'",
        "interval_ms=1000\nformat='processed'\nfunction='last'",
    ])
    .prop_map(monitor)
}

proptest! {
    /// Whoever begins where a window begins computes the same windows from there on; marks, rows
    /// sent again and where the rows were cut make no difference.
    #[test]
    fn the_same_rows_give_the_same_windows(
        rows in any_rows(), monitor in any_monitor(), start in 0usize..60, again in 0usize..4,
        marks in prop::collection::vec(any::<bool>(), 60),
    ) {
        let whole = run(&monitor, None, &rows);
        let boundary = &whole[start % whole.len()];
        let first = usize::try_from(boundary.after.seq).unwrap();
        let before = first.checked_sub(1).map(|at| rows[at].mark());
        let position = before.map_or(Position::START, |m| m.position());
        let mut windower = Windower::new(Arc::clone(&monitor), position, before);
        let mut out = Vec::new();
        for (at, row) in rows.iter().enumerate().skip(first.saturating_sub(again)) {
            windower.feed(&columns(), row, &mut out);
            // The guest marks at the row's own time at the latest before the next row comes.
            if marks[at] && rows.get(at + 1).is_some_and(|next| next.epoch == row.epoch) {
                windower.mark(row.epoch, rows[at + 1].time, &mut out);
            }
        }
        windower.close(&mut out);
        let later: Vec<_> = whole.iter().filter(|c| c.after.seq >= boundary.after.seq).map(told).collect();
        prop_assert_eq!(out.iter().map(told).collect::<Vec<_>>(), later);
    }

    /// Coverage has no hole and no overlap, and every interval that has a row has its last one.
    #[test]
    fn windows_cover_every_row_once(rows in any_rows(), monitor in any_monitor()) {
        let windows = run(&monitor, None, &rows);
        let mut cursor = 0;
        for window in &windows {
            prop_assert_eq!(window.after.seq, cursor);
            prop_assert!(window.through.seq > cursor);
            prop_assert!(!window.partial);
            cursor = window.through.seq;
        }
        prop_assert_eq!(cursor, rows.len() as u64);
        if monitor.format == Format::Raw && monitor.interval_ms > 0 {
            let slot = |r: &Row| (r.epoch, r.time.as_millis().unsigned_abs() / monitor.interval_ms);
            let last = rows.iter().filter(|r| rows.get(r.seq as usize).is_none_or(|n| slot(n) != slot(r)));
            let sampled: Vec<_> = windows.iter().flat_map(|w| told(w).2).collect();
            prop_assert_eq!(sampled, last.map(|r| r.seq).collect::<Vec<_>>());
        }
    }
}
