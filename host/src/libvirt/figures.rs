//! What libvirt's bulk statistics say of one domain, and what each figure is called: one table
//! serves the infrastructure measurements (`infra/GROUP`) and the exporter (`libvirt_domain_*`).

mod table;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::LazyLock;

use super::extra::Extra;
use crate::metrics::{MAX_DEVICES, Metric, Number};
pub use table::FIGURES;

/// NUMA nodes of one memory bandwidth monitor.
const MAX_NODES: u32 = 16;

/// A parameter as libvirt gives it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Param<'a> {
    /// A whole number, never negative.
    Number(u64),
    /// A name.
    Text(&'a str),
}

/// Which figures belong together: one row of a data point each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Group {
    /// What the domain does.
    State,
    /// All its processors together.
    Cpu,
    /// Its memory, as the balloon driver says.
    Memory,
    /// One virtual processor.
    Vcpu,
    /// One network interface.
    Net,
    /// One disk.
    Block,
    /// One I/O thread.
    Iothread,
    /// How fast its memory is written, where somebody had it measured.
    Dirtyrate,
    /// Memory bandwidth of one monitor on one NUMA node (resctrl).
    Bandwidth,
    /// Hardware and kernel events, where the domain has them enabled.
    Perf,
    /// A job on the domain, such as a migration; only while there is one.
    Job,
}

impl Group {
    /// The group's name in `infra/GROUP`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::State => "state",
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Vcpu => "vcpu",
            Self::Net => "net",
            Self::Block => "block",
            Self::Iothread => "iothread",
            Self::Dirtyrate => "dirtyrate",
            Self::Bandwidth => "bandwidth",
            Self::Perf => "perf",
            Self::Job => "job",
        }
    }

    /// Whether it has devices, each with figures of its own.
    pub fn has_devices(self) -> bool {
        matches!(
            self,
            Self::Vcpu | Self::Net | Self::Block | Self::Iothread | Self::Bandwidth
        )
    }
}

/// How libvirt's number becomes a base unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// As it is: bytes, or a count.
    One,
    /// KiB to bytes.
    Kibibytes,
    /// MiB to bytes.
    Mebibytes,
    /// Nanoseconds to seconds.
    Nanoseconds,
    /// Milliseconds to seconds.
    Milliseconds,
    /// Percent to a ratio of 1.
    Percent,
}

/// A figure: where it comes from and what it is called.
#[derive(Debug)]
pub struct Figure {
    /// The group it belongs to.
    pub group: Group,
    /// libvirt's name; of a device, the part after the device's number.
    pub param: &'static str,
    /// The column of the infrastructure measurement.
    pub column: &'static str,
    /// How to scale it.
    pub unit: Unit,
    /// The exporter's metric.
    pub metric: Metric,
}

/// One figure's number, in libvirt's unit.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// Which figure.
    pub figure: &'static Figure,
    raw: u64,
}

impl Reading {
    /// The number in its base unit, exact where that is a whole one.
    pub fn value(&self) -> vmkpi::value::Value {
        use vmkpi::value::Value;
        match self.figure.unit {
            Unit::Nanoseconds | Unit::Milliseconds | Unit::Percent => Value::Real(self.as_f64()),
            Unit::One => whole(self.raw),
            Unit::Kibibytes => whole(self.raw.saturating_mul(1 << 10)),
            Unit::Mebibytes => whole(self.raw.saturating_mul(1 << 20)),
        }
    }

    /// The number in its base unit, for the page of metrics.
    pub fn number(&self) -> Number {
        match self.figure.unit {
            Unit::One => Number::Scaled(self.raw, 0),
            Unit::Kibibytes => Number::Scaled(self.raw.saturating_mul(1 << 10), 0),
            Unit::Mebibytes => Number::Scaled(self.raw.saturating_mul(1 << 20), 0),
            Unit::Nanoseconds => Number::Scaled(self.raw, 9),
            Unit::Milliseconds => Number::Scaled(self.raw, 3),
            Unit::Percent => Number::Scaled(self.raw, 2),
        }
    }

    /// The number in its base unit, as a double.
    pub fn as_f64(&self) -> f64 {
        match self.figure.unit {
            Unit::One => self.raw as f64,
            Unit::Kibibytes => self.raw as f64 * 1024.0,
            Unit::Mebibytes => self.raw as f64 * 1_048_576.0,
            Unit::Nanoseconds => self.raw as f64 / 1e9,
            Unit::Milliseconds => self.raw as f64 / 1e3,
            Unit::Percent => self.raw as f64 / 100.0,
        }
    }
}

fn whole(number: u64) -> vmkpi::value::Value {
    vmkpi::value::Value::Integer(i64::try_from(number).unwrap_or(i64::MAX))
}

static BY_PARAM: LazyLock<HashMap<(Group, &'static str), &'static Figure>> =
    LazyLock::new(|| FIGURES.iter().map(|f| ((f.group, f.param), f)).collect());

/// The figures of a group, or of one device of it.
#[derive(Clone, Debug, Default)]
pub struct Readings {
    /// The device's name on the host (`vnet0`, `vda`); a processor's number.
    pub name: Option<String>,
    /// The figures, in the order of the table.
    pub readings: Vec<Reading>,
}

/// What is known of one domain. A figure that libvirt did not give is absent.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    groups: BTreeMap<(Group, u32), Readings>,
    dropped: usize,
    /// What is shown beside them.
    pub extra: Extra,
}

impl Figures {
    /// Takes one parameter by libvirt's name; unknown ones are passed over.
    pub fn set(&mut self, name: &str, value: Param<'_>) {
        let Some((group, device, param)) = classify(name) else {
            return;
        };
        let known = self.groups.contains_key(&(group, device));
        if device as usize >= MAX_DEVICES && !known {
            self.dropped += usize::from(matches!(value, Param::Number(_)));
            return;
        }
        match value {
            Param::Text(text) if param == "name" => {
                self.entry(group, device).name = Some(text.to_owned());
            }
            Param::Number(raw) => {
                if let Some(figure) = BY_PARAM.get(&(group, param)) {
                    let readings = &mut self.entry(group, device).readings;
                    readings.push(Reading { figure, raw });
                }
            }
            Param::Text(_) => {}
        }
    }

    /// Call it when every parameter has been set: derives what libvirt does not say itself, and sees
    /// to it that no two devices of a group have one name.
    pub fn finish(&mut self) {
        let delays = self.groups.values().flat_map(|r| &r.readings);
        let delays = delays.filter(|r| r.figure.metric == Metric::VcpuDelay);
        if let Some(steal) = delays.map(|r| r.raw).reduce(u64::saturating_add) {
            // What the guest sees as stolen: its processors were ready and the host ran others.
            self.set("cpu.steal", Param::Number(steal));
        }
        let mut taken = HashSet::new();
        for ((group, device), readings) in &mut self.groups {
            let Some(name) = &mut readings.name else {
                continue;
            };
            if !taken.insert((*group, name.clone())) {
                name.push_str(&format!("#{device}"));
            }
        }
    }

    fn entry(&mut self, group: Group, device: u32) -> &mut Readings {
        self.groups
            .entry((group, device))
            .or_insert_with(|| Readings {
                name: match group {
                    Group::Vcpu | Group::Iothread => Some(device.to_string()),
                    Group::Bandwidth => {
                        Some(format!("{}.{}", device / MAX_NODES, device % MAX_NODES))
                    }
                    _ => None,
                },
                readings: Vec::new(),
            })
    }

    /// Every group, and every device of those that have devices.
    pub fn groups(&self) -> impl Iterator<Item = (Group, u32, &Readings)> {
        self.groups
            .iter()
            .filter(|(_, r)| !r.readings.is_empty())
            .map(|((group, device), r)| (*group, *device, r))
    }

    /// Figures that were left out because a group had more than [`MAX_DEVICES`].
    pub fn dropped(&self) -> usize {
        self.dropped
    }

    /// Whether anything but the state is known.
    pub fn is_detailed(&self) -> bool {
        self.groups.keys().any(|(group, _)| *group != Group::State)
    }

    /// Whether there is a figure of this metric.
    pub(super) fn has(&self, metric: Metric) -> bool {
        self.raw(metric).is_some()
    }

    /// The first figure of this metric, in libvirt's unit.
    pub(super) fn raw(&self, metric: Metric) -> Option<u64> {
        let mut readings = self.groups.values().flat_map(|r| &r.readings);
        Some(readings.find(|r| r.figure.metric == metric)?.raw)
    }

    /// Leaves a group out.
    pub(super) fn remove(&mut self, group: Group) {
        self.groups.retain(|(of, _), _| *of != group);
    }
}

/// The group and device number that a parameter's name says, and the name of the figure in it.
fn classify(name: &str) -> Option<(Group, u32, &str)> {
    let (head, rest) = name.split_once('.')?;
    let group = match head {
        "state" => return Some((Group::State, 0, name)),
        "cpu" if rest == "steal" => return Some((Group::Cpu, 0, rest)),
        "cpu" => return Some((Group::Cpu, 0, name)),
        "balloon" => return Some((Group::Memory, 0, name)),
        "vcpu" if !rest.starts_with(|c: char| c.is_ascii_digit()) => {
            return Some((Group::Cpu, 0, name));
        }
        "dirtyrate" => return Some((Group::Dirtyrate, 0, name)),
        "perf" => return Some((Group::Perf, 0, name)),
        "job" => return Some((Group::Job, 0, name)),
        "memory" => return bandwidth(rest),
        "vcpu" => Group::Vcpu,
        "net" => Group::Net,
        "block" => Group::Block,
        "iothread" => Group::Iothread,
        _ => return None,
    };
    let (number, param) = rest.split_once('.')?;
    Some((group, number.parse().ok()?, param))
}

/// `bandwidth.monitor.M.node.N.bytes.local`.
fn bandwidth(rest: &str) -> Option<(Group, u32, &str)> {
    let rest = rest.strip_prefix("bandwidth.monitor.")?;
    let (monitor, rest) = rest.split_once(".node.")?;
    let (node, param) = rest.split_once('.')?;
    let (monitor, node): (u32, u32) = (monitor.parse().ok()?, node.parse().ok()?);
    let device = monitor.checked_mul(MAX_NODES)?.checked_add(node)?;
    (node < MAX_NODES).then_some((Group::Bandwidth, device, param))
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmkpi::value::Value;

    fn value_of(figures: &Figures, group: Group, device: u32, column: &str) -> Option<Value> {
        figures
            .groups()
            .find(|(g, d, _)| (*g, *d) == (group, device))
            .and_then(|(_, _, r)| r.readings.iter().find(|r| r.figure.column == column))
            .map(Reading::value)
    }

    #[test]
    fn figures_come_in_base_units() {
        let mut figures = Figures::default();
        figures.set("cpu.time", Param::Number(1_500_000_000));
        figures.set("balloon.rss", Param::Number(4));
        figures.set("vcpu.current", Param::Number(2));
        figures.set("vcpu.1.time", Param::Number(2_000_000_000));
        figures.set("net.0.name", Param::Text("vnet7"));
        figures.set("net.0.rx.bytes", Param::Number(99));
        figures.set("block.0.name", Param::Text("vda"));
        figures.set("block.0.path", Param::Text("/var/lib/secret.qcow2"));
        figures.set("block.0.rd.times", Param::Number(250_000_000));
        let get = |g, d, c| value_of(&figures, g, d, c);
        assert_eq!(
            get(Group::Cpu, 0, "cpu_time_seconds_total"),
            Some(Value::Real(1.5))
        );
        assert_eq!(get(Group::Cpu, 0, "vcpus"), Some(Value::Integer(2)));
        assert_eq!(
            get(Group::Memory, 0, "memory_rss_bytes"),
            Some(Value::Integer(4096))
        );
        assert_eq!(
            get(Group::Vcpu, 1, "vcpu_time_seconds_total"),
            Some(Value::Real(2.0))
        );
        assert_eq!(
            get(Group::Net, 0, "net_receive_bytes_total"),
            Some(Value::Integer(99))
        );
        assert_eq!(
            get(Group::Block, 0, "block_read_seconds_total"),
            Some(Value::Real(0.25))
        );
        assert!(
            !format!("{figures:?}").contains("secret"),
            "no path of the host is kept"
        );
    }

    #[test]
    fn what_is_unknown_is_passed_over_and_devices_are_bounded() {
        let mut figures = Figures::default();
        for name in [
            "perf.unheard_of",
            "net.count",
            "net.x.rx.bytes",
            "block.4294967296.rd.bytes",
            "cpu",
            "",
        ] {
            figures.set(name, Param::Number(1));
        }
        assert_eq!(figures.groups().count(), 0);
        for device in 0..2 * MAX_DEVICES {
            figures.set(&format!("net.{device}.rx.bytes"), Param::Number(1));
        }
        assert_eq!(figures.groups().count(), MAX_DEVICES);
        assert_eq!(figures.dropped(), MAX_DEVICES, "and the rest is counted");
    }

    #[test]
    fn every_group_of_libvirt_is_understood() {
        let mut figures = Figures::default();
        for (name, raw) in [
            ("vcpu.0.delay", 1_000_000_000),
            ("vcpu.1.delay", 500_000_000),
            ("iothread.3.poll-max-ns", 32_768),
            ("dirtyrate.megabytes_per_second", 2),
            ("memory.bandwidth.monitor.1.node.2.bytes.total", 7),
            ("perf.task_clock", 1_000_000_000),
            ("job.time_elapsed", 1500),
        ] {
            figures.set(name, Param::Number(raw));
        }
        figures.finish();
        let get = |g, d, c| value_of(&figures, g, d, c);
        let real = |r| Some(Value::Real(r));
        assert_eq!(get(Group::Cpu, 0, "cpu_steal_seconds_total"), real(1.5));
        assert_eq!(
            get(Group::Iothread, 3, "iothread_poll_max_seconds"),
            real(0.000_032_768)
        );
        assert_eq!(
            get(Group::Dirtyrate, 0, "dirtyrate_bytes_per_second"),
            Some(Value::Integer(2 << 20))
        );
        assert_eq!(
            get(Group::Bandwidth, 18, "memory_bandwidth_bytes_total"),
            Some(Value::Integer(7))
        );
        assert_eq!(
            get(Group::Perf, 0, "perf_task_clock_seconds_total"),
            real(1.0)
        );
        assert_eq!(get(Group::Job, 0, "job_elapsed_seconds"), real(1.5));
    }

    #[test]
    fn no_two_devices_of_a_group_have_one_name() {
        let mut figures = Figures::default();
        for device in 0..3 {
            let name = format!("block.{device}");
            figures.set(&format!("{name}.name"), Param::Text("vda"));
            figures.set(&format!("{name}.rd.reqs"), Param::Number(1));
        }
        figures.finish();
        let names = figures.groups().filter_map(|(_, _, r)| r.name.clone());
        assert_eq!(names.collect::<Vec<_>>(), ["vda", "vda#1", "vda#2"]);
    }

    #[test]
    fn a_column_and_a_metric_name_one_figure_only() {
        for (at, figure) in FIGURES.iter().enumerate() {
            for other in &FIGURES[at + 1..] {
                assert_ne!(figure.column, other.column);
                assert_ne!(figure.metric, other.metric);
            }
        }
    }
}
