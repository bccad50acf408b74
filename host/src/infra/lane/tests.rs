//! Lanes over a real outbox, with a broker that may be away and daemons that end at any moment.

use super::*;
use crate::infra::measurements;
use crate::libvirt::figures::{Figures, Param};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use vmkpi::descriptor::Spelling;
use vmkpi::message::Body;

const RAW: &str = "[[monitor]]\npoint = \"infra/cpu\"\ninterval_ms = 1000\n";
const START: i64 = 1_000_000_000_000;

fn figures(cpu_ns: u64) -> Figures {
    let mut figures = Figures::default();
    figures.set("cpu.time", Param::Number(cpu_ns));
    figures.set("net.0.name", Param::Text("vnet7"));
    figures.set("net.0.rx.bytes", Param::Number(5));
    figures
}

fn descriptor(text: &str) -> Descriptor {
    let text = format!("vm = \"v\"\nprimary_site = \"s\"\n{text}");
    let no_files = |_: &std::path::Path| Err(std::io::ErrorKind::NotFound.into());
    Descriptor::parse(&text, Spelling::Toml, &no_files).unwrap()
}

/// A daemon's life: an outbox and one lane, and what was published.
struct Life {
    outbox: Outbox,
    descriptor: Descriptor,
    lane: Lane,
    pages: mpsc::UnboundedReceiver<Page>,
    published: Vec<Publication>,
    acknowledged: usize,
}

impl Life {
    fn begin(dir: &std::path::Path, text: &str, max_bytes: u64) -> Self {
        let (outbox, left) = Outbox::open(dir, max_bytes).unwrap();
        let (to, pages) = mpsc::unbounded_channel();
        let descriptor = descriptor(text);
        let lane = match left.first() {
            Some(left) => Lane::left(left, &descriptor, &outbox, &to, 0).unwrap(),
            None => {
                let of = Of {
                    uuid: "u",
                    name: "n",
                    descriptor: &descriptor,
                };
                Lane::new(1, &of, &outbox, &to, 0)
            }
        };
        Self {
            outbox,
            descriptor,
            lane,
            pages,
            published: Vec::new(),
            acknowledged: 0,
        }
    }

    /// Waits until the disk has everything.
    fn sync(&mut self) {
        let ticket = self
            .outbox
            .order(Order::Settle(u64::MAX >> 1, String::new(), 0));
        let begin = Instant::now();
        while *self.outbox.committed.borrow() < ticket {
            assert!(
                begin.elapsed() < Duration::from_secs(60),
                "the outbox hangs"
            );
            std::thread::yield_now();
        }
    }

    fn step(&mut self, second: u64, measure: bool, broker: bool) {
        let now_ms = second * 1000;
        let time = Timestamp::from_micros(START + i64::try_from(second).unwrap() * 1_000_000);
        if measure {
            let none = BTreeMap::new();
            let rows = measurements(&figures(second), &none).collect::<Vec<_>>();
            self.lane.append(rows.into_iter(), &self.descriptor, time);
        }
        self.lane.tick(time, now_ms);
        loop {
            self.sync();
            let before = self.published.len();
            self.lane.pump(now_ms, &mut |_, p| self.published.push(p));
            self.sync();
            let page = self.pages.try_recv().map(|page| self.lane.on_page(page));
            while broker && self.acknowledged < self.published.len() {
                let token = self.published[self.acknowledged].token;
                self.lane.producer_mut().on_puback(token, now_ms);
                self.acknowledged += 1;
            }
            if page.is_err() && self.published.len() == before {
                break;
            }
        }
    }

    fn seqs(&self) -> Vec<u64> {
        let raw = self.published.iter().filter_map(|p| match &p.event.body {
            Body::Raw(samples) => Some(samples),
            _ => None,
        });
        raw.flatten().map(|s| s.seq).collect()
    }
}

#[test]
fn a_lane_delivers_one_sample_an_interval() {
    let dir = tempfile::tempdir().unwrap();
    let mut life = Life::begin(dir.path(), RAW, 1 << 30);
    for second in 0..10 {
        life.step(second, true, true);
        life.step(second, true, true);
    }
    // The last interval is over when the clock says so.
    life.step(11, false, true);
    life.step(12, false, true);
    assert_eq!(life.seqs(), (1..=10).collect::<Vec<_>>());
    assert_eq!(life.lane.kept().batches, 0);
}

#[test]
fn without_a_broker_memory_is_bounded_and_afterwards_all_is_delivered() {
    let dir = tempfile::tempdir().unwrap();
    let mut life = Life::begin(dir.path(), RAW, 1 << 30);
    for second in 0..1000 {
        life.step(second, true, false);
    }
    let fresh = |b: &&Batch| matches!(b.rows, Rows::Fresh(..));
    let in_memory = life.lane.admitted + life.lane.backlog.iter().filter(fresh).count();
    assert!(in_memory < 200, "{in_memory} batches in memory");
    assert!(life.published.len() < 200);
    for second in 1000..1013 {
        life.step(second, second < 1010, true);
    }
    let seqs: BTreeSet<_> = life.seqs().into_iter().collect();
    assert_eq!(seqs, (1..=1010).collect());
}

#[test]
fn a_daemon_that_is_killed_leaves_everything_to_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let mut life = Life::begin(dir.path(), RAW, 1 << 30);
    for second in 0..20 {
        life.step(second, true, second < 5);
    }
    let stream = life.lane.record.stream.clone();
    let mut all: Vec<_> = life.published[..life.acknowledged].to_vec();
    drop(life);
    for second in 20..23 {
        // Killed twice more before the broker is back.
        let mut life = Life::begin(dir.path(), RAW, 1 << 30);
        assert_eq!(life.lane.record.stream, stream);
        life.step(second, false, false);
    }
    let mut life = Life::begin(dir.path(), RAW, 1 << 30);
    for second in 23..40 {
        life.step(second, false, true);
    }
    assert!(life.lane.is_over(40_000), "{:?}", life.lane.backlog);
    life.lane.forget();
    life.sync();
    all.extend(life.published.clone());
    // Contiguous coverage, and each sample in it once.
    let (mut through, mut seqs) = (0, Vec::new());
    for publication in &all {
        let event = &publication.event;
        assert_eq!(event.stream.to_string(), stream);
        if event.after.seq != through {
            assert!(event.through.seq <= through, "a hole: {event:?}");
            continue;
        }
        through = event.through.seq;
        if let Body::Raw(samples) = &event.body {
            seqs.extend(samples.iter().map(|s| s.seq));
        }
    }
    assert_eq!(seqs, (1..=20).collect::<Vec<_>>());
    drop(life);
    let (_, left) = Outbox::open(dir.path(), 1 << 30).unwrap();
    assert!(left.is_empty(), "what was delivered is forgotten");
}

#[test]
fn over_its_share_the_oldest_goes_and_a_gap_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let mut life = Life::begin(dir.path(), RAW, 4000);
    for second in 0..500 {
        life.step(second, true, false);
    }
    assert!(life.lane.bytes <= 4000 && life.lane.kept().trimmed > 100);
    for second in 500..523 {
        life.step(second, second < 520, true);
    }
    let (mut through, mut gaps) = (0, 0);
    for publication in &life.published {
        let event = &publication.event;
        if event.after.seq > through {
            panic!("not accounted for: {through}..{}", event.after.seq);
        }
        if event.through.seq > through {
            gaps += usize::from(matches!(event.body, Body::Gap { .. }));
        }
        through = through.max(event.through.seq);
    }
    assert_eq!(through, 520);
    assert!(gaps >= 1, "no gap was announced");
}

/// What a consumer that follows coverage has: the end, and the gaps that were new to it.
fn followed(published: &[Publication]) -> (u64, Vec<(u64, u64, String)>) {
    let (mut through, mut gaps) = (0, Vec::new());
    for event in published.iter().map(|p| &p.event) {
        assert!(event.after.seq <= through, "a hole: {event:?}");
        if let Body::Gap(reason) = &event.body
            && event.through.seq > through
        {
            gaps.push((event.after.seq, event.through.seq, reason.to_string()));
        }
        through = through.max(event.through.seq);
    }
    (through, gaps)
}

#[test]
fn a_lane_that_is_given_up_announces_what_was_lost_and_ends_when_that_is_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let mut life = Life::begin(dir.path(), RAW, 1 << 30);
    for second in 0..300 {
        life.step(second, true, second < 10);
    }
    life.lane.end(&life.descriptor.clone(), 300_000);
    life.lane.give_up();
    for second in 300..400 {
        life.step(second, false, false);
        assert!(!life.lane.is_over(second * 1000), "nobody knows yet");
    }
    let kept = life.lane.kept();
    assert!(kept.batches == 0 && kept.trimmed > 200, "{kept:?}");
    for second in 400..405 {
        life.step(second, false, true);
    }
    let (through, gaps) = followed(&life.published);
    assert_eq!(through, 300);
    let [(after, 300, reason)] = &gaps[..] else {
        panic!("{gaps:?}")
    };
    assert!(*after < 100 && reason == "retention_streams", "{gaps:?}");
    assert!(life.lane.is_over(405_000));
}

#[test]
fn a_daemon_that_is_killed_leaves_the_gap_of_a_lane_given_up_to_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let mut life = Life::begin(dir.path(), RAW, 1 << 30);
    for second in 0..300 {
        life.step(second, true, second < 10);
    }
    let delivered = life.published[..life.acknowledged].to_vec();
    life.lane.end(&life.descriptor.clone(), 300_000);
    life.lane.give_up();
    for second in 300..303 {
        life.step(second, false, false);
    }
    drop(life);
    let mut life = Life::begin(dir.path(), RAW, 1 << 30);
    for second in 303..320 {
        life.step(second, false, true);
    }
    let all = [delivered, life.published.clone()].concat();
    let (through, gaps) = followed(&all);
    assert_eq!((through, gaps.len()), (300, 1), "{gaps:?}");
    assert_eq!(gaps[0].2, "retention_streams");
    assert!(life.lane.is_over(320_000));
}

#[test]
fn last_batches_that_are_gone_from_the_disk_are_announced_too() {
    let dir = tempfile::tempdir().unwrap();
    let mut life = Life::begin(dir.path(), RAW, 1 << 30);
    for second in 0..20 {
        life.step(second, true, second < 19);
    }
    let delivered = life.published[..life.acknowledged].to_vec();
    drop(life);
    let (outbox, mut left) = Outbox::open(dir.path(), 1 << 30).unwrap();
    assert!(left[0].0.heads.contains(r#""seq":20"#), "{:?}", left[0].0);
    left[0].1.clear();
    let (to, pages) = mpsc::unbounded_channel();
    let descriptor = descriptor(RAW);
    let lane = Lane::left(&left[0], &descriptor, &outbox, &to, 0).unwrap();
    let mut life = Life {
        outbox,
        descriptor,
        lane,
        pages,
        published: Vec::new(),
        acknowledged: 0,
    };
    for second in 20..60 {
        life.step(second, false, true);
    }
    let (through, gaps) = followed(&[delivered, life.published.clone()].concat());
    assert_eq!((through, gaps.len()), (20, 1), "{gaps:?}");
    assert_eq!(gaps[0].2, "unreadable");
    assert!(life.lane.is_over(60_000));
}

#[test]
fn a_residence_that_ended_is_delivered_to_its_last_window() {
    let text = "[[monitor]]\npoint = \"infra/net\"\ninterval_ms = 1000\ndelivery_ms = 5000\nfunction = \"count\"\n";
    let dir = tempfile::tempdir().unwrap();
    let mut life = Life::begin(dir.path(), text, 1 << 30);
    for second in 0..60 {
        if second >= 8 {
            life.lane.end(&life.descriptor.clone(), second * 1000);
        }
        // The broker is away for the first 30 seconds.
        life.step(second, second < 8, second > 30);
        assert!(
            second > 30 || !life.lane.is_over(second * 1000),
            "over after {second} s"
        );
    }
    let counted = life.published.iter().filter_map(|p| match &p.event.body {
        Body::Processed(p) => p.count.get("net_receive_bytes_per_second").copied(),
        _ => None,
    });
    // Rates within a window: of 5 samples 4, of the 3 of the last window 2.
    assert_eq!(counted.sum::<u64>(), 6, "{:?}", life.published);
    assert!(life.lane.is_over(60_000));
}

#[test]
fn what_a_predicate_keeps_back_leaves_the_outbox_too() {
    for (when, delivered) in [("true", 20), ("false", 0)] {
        let dir = tempfile::tempdir().unwrap();
        let mut life = Life::begin(dir.path(), &format!("{RAW}when = '{when}'\n"), 1 << 30);
        for second in 0..20 {
            life.step(second, true, true);
        }
        for second in 20..60 {
            life.step(second, false, true);
        }
        assert_eq!(life.seqs().len(), delivered, "{when}");
        assert_eq!(life.lane.kept().batches, 0, "{when}");
    }
}

#[test]
fn the_descriptor_that_is_kept_is_the_same_one() {
    let processed = "[[monitor]]\npoint = \"infra/*\"\ninterval_ms = 1000\ndelivery_ms = 5000\nfunction = \"p90\"\n";
    let confirm =
        "[[confirm]]\nname = \"ops\"\nkey = \"11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\"\n";
    let when = "when = 'cpu_time_seconds_per_second > 0.5 && vm == \"v\\\"w\"'\n";
    for text in [
        String::new(),
        format!(
            "service = \"w\"\n[[monitor]]\nid = \"a\"\npoint = \"unencrypted/x*\"\ninterval_ms = 10\n{processed}"
        ),
        format!("{confirm}{processed}"),
        format!("{processed}{when}"),
    ] {
        let descriptor = descriptor(&text);
        let no_files = |_: &std::path::Path| Err(std::io::ErrorKind::NotFound.into());
        let again = Descriptor::parse(&spelled(&descriptor), Spelling::Json, &no_files).unwrap();
        assert_eq!(again, descriptor);
        assert_eq!(again.revision(), descriptor.revision());
    }
}

#[test]
fn while_no_consumer_confirms_measurements_wait_on_disk_and_none_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let key = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";
    let text = format!("[[confirm]]\nname = \"ops\"\nkey = \"{key}\"\n{RAW}");
    let mut life = Life::begin(dir.path(), &text, 1 << 30);
    for second in 0..1500 {
        life.step(second, true, true);
    }
    let (through, _) = followed(&life.published);
    assert!(
        (400..=600).contains(&through),
        "shown to the broker: {through}"
    );
    assert_eq!(
        life.lane.kept().batches,
        1500,
        "the broker's word counts for nothing"
    );
    for second in 1500..1600 {
        let Some(last) = life.published.iter().max_by_key(|p| p.event.through.seq) else {
            panic!()
        };
        let confirmation = vmkpi::delivery::producer::Confirmation {
            consumer: "ops".parse().unwrap(),
            issued: second,
            table: vmkpi::link::TableId {
                stream: last.event.stream,
                point: last.event.point.clone(),
            },
            specifier: last.event.specifier.clone(),
            through: last.event.through,
            want_from: None,
        };
        life.lane
            .producer_mut()
            .on_confirm(&confirmation, second * 1000);
        life.step(second, false, true);
    }
    let (through, gaps) = followed(&life.published);
    assert_eq!((through, gaps), (1500, Vec::new()));
    assert_eq!(life.lane.kept().batches, 0);
    assert_eq!(life.lane.kept().trimmed, 0);
}
