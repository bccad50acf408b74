//! Guests of a fleet: each listens on a Unix socket and speaks the link's protocol as `vmkpi-guest` does, with
//! rows made from a counter instead of a database. What they store, and what is acknowledged, is counted.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::OwnedReadHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use vmkpi::clock::Timestamp;
use vmkpi::link::{
    GuestMessage, HostMessage, LineReader, Payload, Row, Rows, TableId, TableInfo, VERSION, encode,
};
use vmkpi::position::{Mark, Nonce, Position, RowKey, StreamId};
use vmkpi::value::Value;

/// Points that every guest has: what is stored to the first is delivered at once, to the second each second.
pub const POINTS: [&str; 2] = ["unencrypted/now", "unencrypted/batched"];
/// Rows of a fleet that are not acknowledged, at most: a flood that rises no further.
const OPEN_ROWS: u64 = 200_000;
/// How often a guest looks whether it has rows to send, while it has any to make.
const PACE: Duration = Duration::from_millis(20);
/// How often a guest says that nothing earlier will follow.
const MARK_EVERY: Duration = Duration::from_secs(1);

/// What all guests of a fleet do, and have done.
#[derive(Debug, Default)]
pub struct Fleet {
    /// Rows a second that each guest stores, in thousandths.
    rate_milli: AtomicU64,
    /// Which of [`POINTS`] they store to.
    point: AtomicUsize,
    /// Rows in one line at most.
    line_rows: AtomicU64,
    /// Rows of one guest that are not acknowledged, at most.
    open_rows: u64,
    /// Guests whose host has subscribed.
    subscribed: AtomicUsize,
    stored: AtomicU64,
    acknowledged: AtomicU64,
    /// Requests to send rows again: the figures of a run that has any are worth nothing.
    repairs: AtomicU64,
}

impl Fleet {
    /// From now on each guest stores `rows_per_second` to the point, and sends at most `line_rows` in a line.
    pub fn store(&self, rows_per_second: f64, point: usize, line_rows: u64) {
        self.point.store(point, Ordering::Relaxed);
        self.line_rows.store(line_rows.max(1), Ordering::Relaxed);
        self.rate_milli
            .store((rows_per_second * 1e3) as u64, Ordering::Relaxed);
    }

    /// Guests whose host has subscribed.
    pub fn subscribed(&self) -> usize {
        self.subscribed.load(Ordering::Relaxed)
    }

    /// Rows stored so far, and those of them that the host has acknowledged.
    pub fn rows(&self) -> (u64, u64) {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (of(&self.stored), of(&self.acknowledged))
    }

    /// Requests to send rows again.
    pub fn repairs(&self) -> u64 {
        self.repairs.load(Ordering::Relaxed)
    }

    fn interval(&self) -> Duration {
        match self.rate_milli.load(Ordering::Relaxed) {
            0 => MARK_EVERY,
            rate => Duration::from_secs_f64(1e3 / rate as f64).clamp(PACE, MARK_EVERY),
        }
    }
}

/// Starts guests, one for each path, on a thread of their own.
pub fn start(paths: &[PathBuf]) -> Result<Arc<Fleet>> {
    let fleet = Arc::new(Fleet {
        open_rows: OPEN_ROWS / (paths.len() as u64).max(1),
        ..Fleet::default()
    });
    let theirs = Arc::clone(&fleet);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let listeners = {
        let _within = runtime.enter();
        let bind = |path: &PathBuf| UnixListener::bind(path).context("a guest's socket");
        paths.iter().map(bind).collect::<Result<Vec<_>>>()?
    };
    std::thread::spawn(move || {
        for (number, listener) in listeners.into_iter().enumerate() {
            runtime.spawn(serve(number as u64, listener, Arc::clone(&theirs)));
        }
        runtime.block_on(std::future::pending::<()>());
    });
    Ok(fleet)
}

/// Where the guest of a VM listens.
pub fn socket(dir: &Path, vm: usize) -> PathBuf {
    dir.join(format!("{vm}.sock"))
}

/// One table of a guest.
struct Series {
    table: TableId,
    last: u64,
    sent: u64,
    acked: u64,
}

async fn serve(number: u64, listener: UnixListener, fleet: Arc<Fleet>) {
    let stream = StreamId(u128::from(number) + 1);
    let mut series = POINTS.map(|point| Series {
        table: TableId {
            stream,
            point: point.parse().expect("a data point"),
        },
        last: 0,
        sent: 0,
        acked: 0,
    });
    while let Ok((connection, _)) = listener.accept().await {
        // A host that hangs up comes again.
        let _ = session(connection, number, &mut series, &fleet).await;
    }
}

async fn session(
    connection: UnixStream,
    number: u64,
    series: &mut [Series; 2],
    fleet: &Fleet,
) -> std::io::Result<()> {
    let (reader, mut writer) = connection.into_split();
    // Not all at the same moment, as VMs were not started at the same moment.
    tokio::time::sleep(MARK_EVERY.mul_f64(number as f64 % 100.0 / 100.0)).await;
    // The host may have joined in the middle of a line, for all it knows.
    writer.write_all(b"\n").await?;
    let (tell, mut told) = mpsc::unbounded_channel();
    tokio::spawn(read(reader, tell));
    let (mut nonce, mut subscribed) = (None, false);
    let (mut stored_at, mut marked_at) = (Instant::now(), Instant::now());
    let mut due = 0.0;
    loop {
        tokio::select! {
            message = told.recv() => {
                let Some(message) = message else { return Ok(()) };
                let was = subscribed;
                if let Some(answer) = answer(message, series, fleet, &mut nonce, &mut subscribed) {
                    writer.write_all(&encode(&answer)).await?;
                }
                fleet.subscribed.fetch_add(usize::from(subscribed && !was), Ordering::Relaxed);
            }
            () = tokio::time::sleep(fleet.interval()) => {}
        }
        let Some(nonce) = nonce.filter(|_| subscribed) else {
            continue;
        };
        let rate = fleet.rate_milli.load(Ordering::Relaxed) as f64 / 1e3;
        due += rate
            * std::mem::replace(&mut stored_at, Instant::now())
                .elapsed()
                .as_secs_f64();
        let flowing = &mut series[fleet.point.load(Ordering::Relaxed)];
        let room = fleet.open_rows.saturating_sub(flowing.last - flowing.acked);
        let rows = (due as u64).min(room);
        due = (due - rows as f64).min(fleet.open_rows as f64);
        flowing.last += rows;
        fleet.stored.fetch_add(rows, Ordering::Relaxed);
        for series in series.iter_mut() {
            let line_rows = fleet.line_rows.load(Ordering::Relaxed);
            while series.sent < series.last {
                let line = encode(&rows_of(series, nonce, line_rows));
                writer.write_all(&line).await?;
            }
        }
        if marked_at.elapsed() >= MARK_EVERY {
            marked_at = Instant::now();
            for series in series.iter() {
                writer.write_all(&encode(&mark_of(series, nonce))).await?;
            }
        }
    }
}

async fn read(mut reader: OwnedReadHalf, tell: mpsc::UnboundedSender<HostMessage>) {
    let (mut lines, mut buffer) = (LineReader::new(), vec![0; 16 << 10]);
    while let Ok(count @ 1..) = reader.read(&mut buffer).await {
        lines.push(&buffer[..count]);
        while let Some(Ok(message)) = lines.next_message() {
            if tell.send(message).is_err() {
                return;
            }
        }
    }
}

fn answer(
    message: HostMessage,
    series: &mut [Series; 2],
    fleet: &Fleet,
    session: &mut Option<Nonce>,
    subscribed: &mut bool,
) -> Option<GuestMessage> {
    match message {
        HostMessage::Hello { nonce, .. } => {
            *session = Some(nonce);
            Some(GuestMessage::Hello {
                version: VERSION,
                nonce,
                stream: series[0].table.stream,
                tables: series.iter().map(info).collect(),
                more: false,
            })
        }
        HostMessage::Subscribe { from, .. } => {
            *subscribed = true;
            for series in series {
                let named = from.iter().find(|f| f.table == series.table);
                series.sent = named.map_or(series.acked, |f| f.seq - 1);
            }
            None
        }
        HostMessage::Ack { table, cursors, .. } => {
            let through = cursors.iter().map(|c| c.seq).min().unwrap_or(0);
            if let Some(series) = series.iter_mut().find(|s| s.table == table) {
                let new = through.saturating_sub(series.acked);
                series.acked += new;
                fleet.acknowledged.fetch_add(new, Ordering::Relaxed);
            }
            None
        }
        HostMessage::Ping { nonce } => Some(GuestMessage::Alive {
            nonce,
            time: Timestamp::now(),
            databases: None,
        }),
        HostMessage::Query { .. } | HostMessage::Poll { .. } | HostMessage::History { .. } => {
            fleet.repairs.fetch_add(1, Ordering::Relaxed);
            None
        }
    }
}

fn key(seq: u64) -> RowKey {
    RowKey(seq.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

fn acked(series: &Series) -> Mark {
    Mark {
        seq: series.acked,
        key: (series.acked > 0).then(|| key(series.acked)),
        ..Mark::default()
    }
}

fn info(series: &Series) -> TableInfo {
    TableInfo {
        table: series.table.clone(),
        first: 1,
        last: series.last,
        acked: acked(series),
        moved: 0,
    }
}

/// The next line of rows.
fn rows_of(series: &mut Series, nonce: Nonce, line_rows: u64) -> GuestMessage {
    let through = series.last.min(series.sent + line_rows.max(1));
    let time = Timestamp::now();
    let row = |seq: u64| Row {
        seq,
        key: key(seq),
        epoch: 0,
        time,
        payload: Payload::Values(vec![
            Value::Integer((seq % 1000).cast_signed()),
            Value::Integer(seq.cast_signed()),
            Value::Integer(0),
            Value::Real(0.042_5),
        ]),
    };
    let rows = (series.sent + 1..=through).map(row).collect();
    series.sent = through;
    let columns = ["current_users", "requests", "errors", "latency"].map(Into::into);
    GuestMessage::Rows(Rows {
        nonce,
        stream: series.table.stream,
        point: series.table.point.clone(),
        columns: columns.into(),
        rows,
        acked: acked(series),
        query: None,
        trimmed: None,
        trimmed_reason: None,
    })
}

fn mark_of(series: &Series, nonce: Nonce) -> GuestMessage {
    GuestMessage::Mark {
        nonce,
        table: series.table.clone(),
        position: match series.last {
            0 => Position::START,
            last => Position::new(last, key(last)),
        },
        epoch: 0,
        time: Timestamp::now(),
        acked: acked(series),
    }
}
