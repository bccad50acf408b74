//! What the host's exporter and outbox cost, by the number of VMs. Their parts run in this process:
//! figures of a real QEMU's statistics, a real socket, a real disk.
#![expect(clippy::print_stdout, reason = "prints its own results")]

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use vmkpi::clock::Timestamp;
use vmkpi::link::{Payload, Row};
use vmkpi::position::{RowKey, StreamId};
use vmkpi_host::infra::measurements;
use vmkpi_host::libvirt::figures::{Figures, Param};
use vmkpi_host::libvirt::{Domain, Domains, Sampling, Taken, VmStats};
use vmkpi_host::metrics::Page;
use vmkpi_host::outbox::{DEFAULT_MAX_BYTES, Order, Outbox, Record, encode};
use vmkpi_host::snapshot::Snapshot;
use vmkpi_host::vm::{KpiColumn, KpiRow, Report};

const COUNTS: [usize; 3] = [10, 100, 1000];
const ROUNDS: usize = 15;
/// Every parameter that libvirt knows, of a VM with two processors, two disks and an interface.
const DOMSTATS: &str = include_str!("../../host/tests/golden/domstats.txt");

/// What only some VMs have: perf events that were enabled, a migration under way and the like.
const RARE: [&str; 4] = ["perf.", "job.", "memory.", "dirtyrate."];

fn figures(plus: u64, rare: bool) -> Figures {
    let mut figures = Figures::default();
    let wanted = |line: &&str| rare || !RARE.iter().any(|group| line.starts_with(group));
    let lines = DOMSTATS.lines().filter(wanted);
    for (name, value) in lines.filter_map(|line| line.split_once('=')) {
        match value.parse::<u64>() {
            Ok(number) => figures.set(name, Param::Number(number + plus)),
            Err(_) => figures.set(name, Param::Text(value)),
        }
    }
    figures.finish();
    figures
}

fn report() -> Report {
    let columns = ["current_users", "requests", "errors", "latency"].map(|name| KpiColumn {
        name: name.into(),
        value: 42.25,
    });
    Report {
        has_link: true,
        link_up: true,
        rows: 1_000_000,
        kpis: vec![KpiRow {
            point: "unencrypted/web".into(),
            time_seconds: 1_795_194_000.5,
            columns: columns.to_vec(),
        }],
        ..Report::default()
    }
}

fn snapshot(count: usize, rare: bool) -> Snapshot {
    let mut snapshot = Snapshot::default();
    let (mut domains, mut vms) = (Domains::default(), Sampling::default().vms);
    for n in 0..count {
        let uuid: Arc<str> = format!("6695eb01-f6a4-8304-79aa-{n:012x}").into();
        let domain = Domain {
            uuid: Arc::clone(&uuid),
            name: format!("instance-{n:08}").into(),
            ..Domain::default()
        };
        let taken = Taken {
            time: Timestamp::now(),
            at: Instant::now(),
            asked: Instant::now(),
            figures: Arc::new(figures(n as u64, rare)),
        };
        let stats = VmStats {
            detailed: Some(taken),
            ..VmStats::default()
        };
        Arc::make_mut(&mut vms).insert(Arc::clone(&uuid), stats);
        snapshot
            .reports
            .insert(Arc::clone(&uuid), Arc::new(report()));
        domains.by_uuid.insert(uuid, Arc::new(domain));
    }
    snapshot.domains = Arc::new(domains);
    snapshot.sampling.vms = vms;
    snapshot
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64() * 1e3
}

fn get(address: SocketAddr, page: &mut Vec<u8>) -> Result<()> {
    page.clear();
    let mut stream = TcpStream::connect(address)?;
    write!(stream, "GET /metrics HTTP/1.0\r\nHost: x\r\n\r\n")?;
    stream.read_to_end(page)?;
    Ok(())
}

/// Prints what a scrape takes: writing the page, and over a socket. The last line is of VMs that have every
/// series there is.
///
/// # Errors
/// No socket.
pub fn scrape() -> Result<()> {
    println!(
        "{:>6} {:>9} {:>9} {:>9} {:>11}",
        "VMs", "series", "MB", "page ms", "scrape ms"
    );
    let runtime = tokio::runtime::Runtime::new()?;
    for (count, rare) in COUNTS.map(|n| (n, false)).into_iter().chain([(1000, true)]) {
        let snapshot = snapshot(count, rare);
        let (mut pages, mut page) = (Vec::new(), Page::default());
        for _ in 0..ROUNDS {
            let begin = Instant::now();
            snapshot.write(&mut page);
            let pieces = page.take();
            pages.push(begin.elapsed());
            drop(pieces);
        }
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listener = runtime.block_on(tokio::net::TcpListener::bind(address))?;
        let address = listener.local_addr()?;
        let shared = snapshot.clone();
        let serving = runtime.spawn(vmkpi_host::exporter::serve(
            listener,
            Box::new(move || shared.clone()),
        ));
        let (mut scrapes, mut page) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            // Longer than a page is kept for others: each scrape has its own.
            std::thread::sleep(Duration::from_millis(250));
            let begin = Instant::now();
            get(address, &mut page)?;
            scrapes.push(begin.elapsed());
        }
        serving.abort();
        let text = String::from_utf8(page).context("the page")?;
        let series = text
            .lines()
            .filter(|l| l.starts_with("libvirt_") || l.starts_with("vmkpi_"));
        println!(
            "{count:>6} {:>9} {:>9.2} {:>9.2} {:>11.2}",
            series.count(),
            text.len() as f64 / 1e6,
            median(pages),
            median(scrapes)
        );
    }
    Ok(())
}

/// The rows of one moment of one VM, written down.
fn batch(seq: u64) -> Vec<u8> {
    let rows: Vec<_> = measurements(&figures(seq, false), &BTreeMap::new())
        .enumerate()
        .map(|(shape, measurement)| {
            let row = Row {
                seq,
                key: RowKey(seq.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
                epoch: 0,
                time: Timestamp::now(),
                payload: Payload::Values(measurement.values),
            };
            (shape, row)
        })
        .collect();
    encode(&rows)
}

/// Prints what it takes to keep one sample of every VM and to let the one before go.
///
/// # Errors
/// The disk fails.
pub fn outbox(dir: &Path) -> Result<()> {
    println!(
        "{:>6} {:>12} {:>12} {:>12} {:>10}",
        "VMs", "bytes a VM", "keep ms", "us a VM", "commits"
    );
    for count in COUNTS {
        let dir = tempfile::tempdir_in(dir)?;
        let (outbox, _) = Outbox::open(dir.path(), DEFAULT_MAX_BYTES)?;
        let lanes: Vec<u64> = (0..count).map(|_| outbox.next_lane()).collect();
        for lane in &lanes {
            outbox.order(Order::Begin(Record {
                lane: *lane,
                stream: StreamId((*lane).into()).to_string(),
                ..Record::default()
            }));
        }
        let heads =
            r#"{"infra/cpu":{"last":{"seq":1000},"acked":{"seq":1000},"trimmed":{"seq":1000}}}"#;
        let (mut times, commits) = (Vec::new(), outbox.status.commits());
        let bytes = batch(1).len();
        for round in 1..=ROUNDS as u64 {
            let batches: Vec<_> = lanes.iter().map(|_| batch(round)).collect();
            let begin = Instant::now();
            let mut last = 0;
            for (lane, body) in lanes.iter().zip(batches) {
                outbox.order(Order::Store(*lane, (round, body)));
                last = outbox.order(Order::Settle(*lane, heads.repeat(8), round - 1));
            }
            while *outbox.committed.borrow() < last {
                std::thread::sleep(Duration::from_micros(100));
            }
            times.push(begin.elapsed());
        }
        let commits = (outbox.status.commits() - commits) as f64 / ROUNDS as f64;
        let ms = median(times);
        println!(
            "{count:>6} {bytes:>12} {ms:>12.2} {:>12.1} {commits:>10.1}",
            ms * 1e3 / count as f64
        );
    }
    Ok(())
}
