//! Infrastructure measurements: from libvirt's figures to rows of `infra/GROUP[/DEVICE]`, and the
//! lane they are delivered on. A lane is one residence of a VM on this host: a stream of its own, as
//! the counters begin anew with each; a spool in memory as the guest's end; an infrastructure producer
//! as the host's. So they are delivered by the same rules as KPIs.
//!
//! Nothing of the host is in a row: devices have the guest's names, and paths are never read.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use vmkpi::clock::Timestamp;
use vmkpi::delivery::producer::{Identity, Output, Producer, Publication, Source};
use vmkpi::delivery::spool::{Spool, SpoolLimits};
use vmkpi::descriptor::{Descriptor, MIN_INFRA_INTERVAL_MS, Monitor};
use vmkpi::link::{HostMessage, Payload, VERSION};
use vmkpi::name::DataPoint;
use vmkpi::position::{Nonce, RowKey, StreamId};
use vmkpi::value::Value;

use crate::libvirt::figures::{Figures, Group, Reading, Readings};
use crate::random;

/// Rows of one point that are kept until they are acknowledged; older ones become a gap.
const SPOOL_ROWS: usize = 10_000;
/// How long a lane goes on after its residence ended beyond its longest window, in milliseconds.
const DRAIN_MS: u64 = 3000;
/// The longest window that is waited for, in milliseconds.
const MAX_DRAINED_WINDOW_MS: u64 = 300_000;
/// When a lane that cannot be drained is given up, in milliseconds: an hour without a broker.
const GIVE_UP_MS: u64 = 3_600_000;

/// One row, before it has a number.
#[derive(Clone, Debug, PartialEq)]
pub struct Measurement {
    /// Which point it is of.
    pub point: DataPoint,
    /// The names of the values.
    pub columns: Arc<[Box<str>]>,
    /// The values.
    pub values: Vec<Value>,
}

/// The rows that `figures` make. `interfaces` names network devices as the guest has them.
pub fn measurements(
    figures: &Figures,
    interfaces: &BTreeMap<String, String>,
) -> impl Iterator<Item = Measurement> {
    figures.groups().filter_map(|(group, index, readings)| {
        let device = device_name(group, index, readings, interfaces);
        let columns = readings.readings.iter().map(|r| r.figure.column.into());
        let values = readings.readings.iter().map(Reading::value);
        let named = device.iter().map(String::as_str);
        Some(Measurement {
            point: point(group, device.as_deref())?,
            columns: named
                .clone()
                .map(|_| "device".into())
                .chain(columns)
                .collect(),
            values: named.map(|d| Value::Text(d.into())).chain(values).collect(),
        })
    })
}

fn point(group: Group, device: Option<&str>) -> Option<DataPoint> {
    let device = match device {
        Some(device) => Some(device.parse().ok()?),
        None => None,
    };
    Some(DataPoint::Infra(group.as_str().parse().ok()?, device))
}

/// The guest's name of a device: a disk's target, an interface's alias in place of the host's tap.
fn device_name(
    group: Group,
    index: u32,
    readings: &Readings,
    interfaces: &BTreeMap<String, String>,
) -> Option<String> {
    match group {
        Group::Net => {
            let alias = readings.name.as_ref().and_then(|tap| interfaces.get(tap));
            Some(alias.cloned().unwrap_or_else(|| format!("net{index}")))
        }
        Group::Block => {
            let target = readings.name.clone();
            Some(target.unwrap_or_else(|| format!("block{index}")))
        }
        _ if group.has_devices() => {
            Some(readings.name.clone().unwrap_or_else(|| index.to_string()))
        }
        _ => None,
    }
}

/// The shortest interval at which `descriptor` wants infrastructure; none of it can be nothing.
pub fn pace(descriptor: &Descriptor) -> Option<Duration> {
    let infra = descriptor.monitors.iter().filter(|m| !m.point.is_kpi());
    infra
        .map(|m| Duration::from_millis(m.interval_ms.max(MIN_INFRA_INTERVAL_MS)))
        .min()
}

/// One residence's infrastructure measurements on their way.
#[derive(Debug)]
pub struct Lane {
    /// Which producer of the VM's it is; never used twice.
    pub id: u64,
    /// Which residence it is of.
    pub residence: u64,
    producer: Producer,
    spool: Spool,
    /// The interval that the last row of each point was in.
    last: HashMap<DataPoint, i64>,
    parked: bool,
    /// When the residence ended, and when the last window has had its time, in milliseconds.
    ended: Option<(u64, u64)>,
}

impl Lane {
    /// A lane for a residence that begins now.
    pub fn new(id: u64, residence: u64, descriptor: &Descriptor, now_ms: u64) -> Self {
        let limits = SpoolLimits {
            rows: SPOOL_ROWS,
            ..SpoolLimits::default()
        };
        let mut producer = Producer::new(Source::Infra, Identity::default(), descriptor, now_ms);
        producer.connected(Nonce(random::u128()), now_ms);
        Self {
            id,
            residence,
            producer,
            spool: Spool::new(StreamId(random::u128()), limits),
            last: HashMap::new(),
            parked: false,
            ended: None,
        }
    }

    /// The producer's counters.
    pub fn producer(&self) -> &Producer {
        &self.producer
    }

    /// The same, to hand back what became of a message.
    pub fn producer_mut(&mut self) -> &mut Producer {
        &mut self.producer
    }

    /// Takes over a changed descriptor.
    pub fn adopt(&mut self, descriptor: &Descriptor, now_ms: u64) {
        self.producer.adopt(descriptor, now_ms);
    }

    /// Stores what is due of `measurements`, taken at `time`.
    pub fn append(
        &mut self,
        measurements: impl Iterator<Item = Measurement>,
        descriptor: &Descriptor,
        time: Timestamp,
    ) {
        for measurement in measurements {
            let wanted = descriptor.monitors_of(&measurement.point);
            let Some(interval) = wanted
                .map(|m| m.interval_ms.max(MIN_INFRA_INTERVAL_MS))
                .min()
            else {
                continue;
            };
            let interval = i64::try_from(interval).unwrap_or(i64::MAX);
            let index = time.as_millis().div_euclid(interval);
            if self.last.get(&measurement.point) == Some(&index) {
                continue;
            }
            let payload = Payload::Values(measurement.values);
            let key = RowKey(random::u64());
            self.spool
                .append(&measurement.point, measurement.columns, payload, key, time);
            self.last.insert(measurement.point, index);
        }
    }

    /// The residence is over: what is stored is delivered, and nothing follows.
    pub fn end(&mut self, descriptor: &Descriptor, now_ms: u64) {
        let windows = descriptor.monitors.iter().filter(|m| !m.point.is_kpi());
        let longest = windows.map(Monitor::window_ms).max().unwrap_or(0);
        let drained = now_ms + longest.min(MAX_DRAINED_WINDOW_MS) + DRAIN_MS;
        self.ended.get_or_insert((now_ms, drained));
    }

    /// Whether everything has been delivered, or it has been waited for long enough.
    pub fn is_over(&self, now_ms: u64) -> bool {
        self.ended.is_some_and(|(ended, drained)| {
            let quiet = self.producer.outstanding() == 0
                && self.spool.backlogs().all(|(_, backlog)| backlog == 0);
            (now_ms >= drained && quiet) || now_ms >= ended + GIVE_UP_MS
        })
    }

    /// Call it about each second.
    pub fn tick(&mut self, now: Timestamp, now_ms: u64) {
        self.producer.tick(now_ms);
        if self.parked && self.producer.accepts_input() {
            self.parked = false;
            self.producer.connected(Nonce(random::u128()), now_ms);
        } else if !self.parked && !self.producer.accepts_input() {
            self.park();
        }
        if self.parked {
            return;
        }
        if self.producer.needs_hello(now_ms) {
            self.producer.connected(Nonce(random::u128()), now_ms);
        }
        self.spool.tick(now);
    }

    /// While the broker takes nothing, the spool must not push: rows belong in its tables, which are
    /// bounded, and not in its queue of lines. A greeting without a subscription quiets it.
    fn park(&mut self) {
        self.parked = true;
        self.producer.disconnected();
        let quiet = HostMessage::Hello {
            version: VERSION,
            nonce: Nonce(random::u128()),
            uuid: None,
            genid: None,
            have: Vec::new(),
        };
        self.spool
            .on_message(quiet, &mut || StreamId(random::u128()));
        while self.spool.poll().is_some() {}
    }

    /// Moves lines between the two ends until both are quiet; what is to be published goes to `out`.
    pub fn pump(&mut self, now_ms: u64, out: &mut impl FnMut(u64, Publication)) {
        loop {
            let mut moved = false;
            while let Some(output) = self.producer.poll() {
                moved = true;
                match output {
                    Output::Send(message) => {
                        let mut mint = || StreamId(random::u128());
                        self.spool.on_message(message, &mut mint);
                    }
                    Output::Publish(publication) => out(self.id, publication),
                }
            }
            if self.producer.accepts_input()
                && let Some(message) = self.spool.poll()
            {
                moved = true;
                self.producer.on_message(message, now_ms);
            }
            if !moved {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::libvirt::figures::Param;
    use vmkpi::descriptor::Spelling;
    use vmkpi::message::Body;

    fn figures(cpu_ns: u64) -> Figures {
        let mut figures = Figures::default();
        figures.set("state.state", Param::Number(1));
        figures.set("cpu.time", Param::Number(cpu_ns));
        figures.set("net.0.name", Param::Text("vnet7"));
        figures.set("net.0.rx.bytes", Param::Number(5));
        figures.set("block.0.name", Param::Text("vda"));
        figures.set("block.0.path", Param::Text("/secret/path.qcow2"));
        figures.set("block.0.rd.bytes", Param::Number(9));
        figures
    }

    fn descriptor(text: &str) -> Descriptor {
        let text = format!("vm = \"v\"\nprimary_site = \"s\"\n{text}");
        Descriptor::parse(&text, Spelling::Toml, &|_| {
            Err(std::io::ErrorKind::NotFound.into())
        })
        .unwrap()
    }

    #[test]
    fn rows_have_the_guests_names_and_nothing_of_the_host() {
        let interfaces = BTreeMap::from([("vnet7".to_owned(), "net0".to_owned())]);
        let rows: Vec<_> = measurements(&figures(1), &interfaces).collect();
        let points: Vec<_> = rows.iter().map(|m| m.point.to_string()).collect();
        assert_eq!(
            points,
            [
                "infra/state",
                "infra/cpu",
                "infra/net/net0",
                "infra/block/vda"
            ]
        );
        let block = &rows[3];
        assert_eq!(&*block.columns[0], "device");
        assert_eq!(block.values[0], Value::Text("vda".into()));
        let all = format!("{rows:?}");
        assert!(!all.contains("vnet") && !all.contains("secret"), "{all}");
    }

    #[test]
    fn a_lane_delivers_one_sample_an_interval() {
        let descriptor = descriptor("[[monitor]]\npoint = \"infra/cpu\"\ninterval_ms = 1000\n");
        let mut lane = Lane::new(1, 1, &descriptor, 0);
        let mut published = Vec::new();
        let none = BTreeMap::new();
        lane.pump(0, &mut |_, p| published.push(p));
        for step in 0..40_u64 {
            let now_ms = step * 250;
            let time =
                Timestamp::from_micros(1_000_000_000_000 + i64::try_from(now_ms).unwrap() * 1000);
            lane.append(measurements(&figures(step), &none), &descriptor, time);
            lane.tick(time, now_ms);
            lane.pump(now_ms, &mut |_, p| published.push(p));
            for p in &published {
                lane.producer_mut().on_puback(p.token, now_ms);
            }
        }
        let samples: usize = published
            .iter()
            .map(|p| match &p.event.body {
                Body::Raw(samples) => samples.len(),
                _ => 0,
            })
            .sum();
        assert!((9..=10).contains(&samples), "{samples} samples in 10 s");
    }

    #[test]
    fn without_a_broker_memory_is_bounded_and_afterwards_all_is_delivered() {
        let descriptor = descriptor("[[monitor]]\npoint = \"infra/cpu\"\ninterval_ms = 1000\n");
        let mut lane = Lane::new(1, 1, &descriptor, 0);
        let mut published = Vec::new();
        let none = BTreeMap::new();
        let start = 1_000_000_000_000_i64;
        let step = |lane: &mut Lane, n: u64, published: &mut Vec<Publication>| {
            let time = Timestamp::from_micros(start + i64::try_from(n).unwrap() * 1_000_000);
            lane.append(measurements(&figures(n), &none), &descriptor, time);
            lane.tick(time, n * 1000);
            lane.pump(n * 1000, &mut |_, p| published.push(p));
        };
        for n in 0..2000 {
            step(&mut lane, n, &mut published);
        }
        assert!(published.len() < 100, "{} messages", published.len());
        let (mut acked, mut seqs) = (0, Vec::new());
        for n in 2000..2100 {
            while acked < published.len() {
                if let Body::Raw(samples) = &published[acked].event.body {
                    seqs.extend(samples.iter().map(|s| s.seq));
                }
                lane.producer_mut()
                    .on_puback(published[acked].token, n * 1000);
                acked += 1;
            }
            step(&mut lane, n, &mut published);
        }
        seqs.sort_unstable();
        seqs.dedup();
        assert!(seqs.len() > 2080, "{} samples", seqs.len());
        assert_eq!(seqs.first(), Some(&1));
        assert_eq!(*seqs.last().unwrap(), seqs.len() as u64, "without a hole");
    }

    #[test]
    fn a_residence_that_ended_is_delivered_to_its_last_window() {
        let processed = "[[monitor]]\npoint = \"infra/net\"\ninterval_ms = 1000\ndelivery_ms = 5000\nfunction = \"count\"\n";
        let descriptor = descriptor(processed);
        let mut lane = Lane::new(1, 1, &descriptor, 0);
        let (mut published, mut acked, none) = (Vec::<Publication>::new(), 0, BTreeMap::new());
        for n in 0..60_u64 {
            let (now_ms, micros) = (n * 1000, i64::try_from(n).unwrap() * 1_000_000);
            let time = Timestamp::from_micros(1_000_000_000_000 + micros);
            if n < 8 {
                lane.append(measurements(&figures(n), &none), &descriptor, time);
            } else {
                lane.end(&descriptor, now_ms);
            }
            lane.tick(time, now_ms);
            lane.pump(now_ms, &mut |_, p| published.push(p));
            // The broker is away for the first 30 seconds.
            while n > 30 && acked < published.len() {
                lane.producer_mut()
                    .on_puback(published[acked].token, now_ms);
                acked += 1;
            }
            lane.pump(now_ms, &mut |_, p| published.push(p));
            assert!(n > 30 || !lane.is_over(now_ms), "over after {n} s");
        }
        let counted: u64 = published
            .iter()
            .map(|p| match &p.event.body {
                Body::Processed(p) => p
                    .count
                    .get("net_receive_bytes_per_second")
                    .copied()
                    .unwrap_or(0),
                _ => 0,
            })
            .sum();
        // Rates within a window: of 5 samples 4, of the 3 of the last window 2.
        assert_eq!(counted, 6, "{published:?}");
        assert!(lane.is_over(60_000));
    }
}
