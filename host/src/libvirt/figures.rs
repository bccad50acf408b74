//! What libvirt's bulk statistics say of one domain, and what each figure is called: one table
//! serves the infrastructure measurements (`infra/GROUP`) and the exporter (`libvirt_domain_*`).

use std::collections::BTreeMap;

use crate::metrics::Metric;

/// The most devices of one group that are kept.
pub const MAX_DEVICES: usize = 256;

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
        }
    }
}

/// How libvirt's number becomes a base unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// As it is: bytes, or a count.
    One,
    /// KiB to bytes.
    Kibibytes,
    /// Nanoseconds to seconds.
    Nanoseconds,
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

macro_rules! figures {
    ($($group:ident $param:literal $column:literal $unit:ident $metric:ident;)*) => {
        /// Every figure, in the order of the columns.
        pub const FIGURES: &[Figure] = &[$(Figure {
            group: Group::$group,
            param: $param,
            column: $column,
            unit: Unit::$unit,
            metric: Metric::$metric,
        },)*];
    };
}

figures! {
    State  "state.state"        "state"                             One         DomainState;
    Cpu    "cpu.time"           "cpu_time_seconds_total"            Nanoseconds CpuTime;
    Cpu    "cpu.user"           "cpu_user_seconds_total"            Nanoseconds CpuUser;
    Cpu    "cpu.system"         "cpu_system_seconds_total"          Nanoseconds CpuSystem;
    Cpu    "vcpu.current"       "vcpus"                             One         Vcpus;
    Memory "balloon.current"    "memory_actual_bytes"               Kibibytes   MemoryActual;
    Memory "balloon.maximum"    "memory_maximum_bytes"              Kibibytes   MemoryMaximum;
    Memory "balloon.rss"        "memory_rss_bytes"                  Kibibytes   MemoryRss;
    Memory "balloon.available"  "memory_available_bytes"            Kibibytes   MemoryAvailable;
    Memory "balloon.unused"     "memory_unused_bytes"               Kibibytes   MemoryUnused;
    Memory "balloon.usable"     "memory_usable_bytes"               Kibibytes   MemoryUsable;
    Memory "balloon.disk_caches" "memory_disk_caches_bytes"         Kibibytes   MemoryDiskCaches;
    Memory "balloon.swap_in"    "memory_swap_in_bytes_total"        Kibibytes   MemorySwapIn;
    Memory "balloon.swap_out"   "memory_swap_out_bytes_total"       Kibibytes   MemorySwapOut;
    Memory "balloon.major_fault" "memory_major_faults_total"        One         MemoryMajorFaults;
    Memory "balloon.minor_fault" "memory_minor_faults_total"        One         MemoryMinorFaults;
    Vcpu   "state"              "vcpu_state"                        One         VcpuState;
    Vcpu   "time"               "vcpu_time_seconds_total"           Nanoseconds VcpuTime;
    Vcpu   "wait"               "vcpu_wait_seconds_total"           Nanoseconds VcpuWait;
    Vcpu   "delay"              "vcpu_delay_seconds_total"          Nanoseconds VcpuDelay;
    Net    "rx.bytes"           "net_receive_bytes_total"           One         NetReceiveBytes;
    Net    "rx.pkts"            "net_receive_packets_total"         One         NetReceivePackets;
    Net    "rx.errs"            "net_receive_errors_total"          One         NetReceiveErrors;
    Net    "rx.drop"            "net_receive_drops_total"           One         NetReceiveDrops;
    Net    "tx.bytes"           "net_transmit_bytes_total"          One         NetTransmitBytes;
    Net    "tx.pkts"            "net_transmit_packets_total"        One         NetTransmitPackets;
    Net    "tx.errs"            "net_transmit_errors_total"         One         NetTransmitErrors;
    Net    "tx.drop"            "net_transmit_drops_total"          One         NetTransmitDrops;
    Block  "rd.bytes"           "block_read_bytes_total"            One         BlockReadBytes;
    Block  "rd.reqs"            "block_read_requests_total"         One         BlockReadRequests;
    Block  "rd.times"           "block_read_seconds_total"          Nanoseconds BlockReadTime;
    Block  "wr.bytes"           "block_write_bytes_total"           One         BlockWriteBytes;
    Block  "wr.reqs"            "block_write_requests_total"        One         BlockWriteRequests;
    Block  "wr.times"           "block_write_seconds_total"         Nanoseconds BlockWriteTime;
    Block  "fl.reqs"            "block_flush_requests_total"        One         BlockFlushRequests;
    Block  "fl.times"           "block_flush_seconds_total"         Nanoseconds BlockFlushTime;
    Block  "capacity"           "block_capacity_bytes"              One         BlockCapacity;
    Block  "allocation"         "block_allocation_bytes"            One         BlockAllocation;
    Block  "physical"           "block_physical_bytes"              One         BlockPhysical;
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
            Unit::Nanoseconds => Value::Real(self.as_f64()),
            Unit::One => Value::Integer(i64::try_from(self.raw).unwrap_or(i64::MAX)),
            Unit::Kibibytes => {
                Value::Integer(i64::try_from(self.raw.saturating_mul(1024)).unwrap_or(i64::MAX))
            }
        }
    }

    /// The number in its base unit, as Prometheus takes it.
    pub fn as_f64(&self) -> f64 {
        match self.figure.unit {
            Unit::One => self.raw as f64,
            Unit::Kibibytes => self.raw as f64 * 1024.0,
            Unit::Nanoseconds => self.raw as f64 / 1e9,
        }
    }
}

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
}

impl Figures {
    /// Takes one parameter by libvirt's name; unknown ones are passed over.
    pub fn set(&mut self, name: &str, value: Param<'_>) {
        let Some((group, device, param)) = classify(name) else {
            return;
        };
        let known = self.groups.contains_key(&(group, device));
        if device as usize >= MAX_DEVICES && !known {
            return;
        }
        match value {
            Param::Text(text) if param == "name" => {
                self.entry(group, device).name = Some(text.to_owned());
            }
            Param::Number(raw) => {
                let found = FIGURES
                    .iter()
                    .find(|f| f.group == group && f.param == param);
                if let Some(figure) = found {
                    self.entry(group, device)
                        .readings
                        .push(Reading { figure, raw });
                }
            }
            Param::Text(_) => {}
        }
    }

    fn entry(&mut self, group: Group, device: u32) -> &mut Readings {
        self.groups
            .entry((group, device))
            .or_insert_with(|| Readings {
                name: (group == Group::Vcpu).then(|| device.to_string()),
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

    /// Whether anything but the state is known.
    pub fn is_detailed(&self) -> bool {
        self.groups.keys().any(|(group, _)| *group != Group::State)
    }
}

/// The group and device number that a parameter's name says, and the name of the figure in it.
fn classify(name: &str) -> Option<(Group, u32, &str)> {
    let (head, rest) = name.split_once('.')?;
    let group = match head {
        "state" => return Some((Group::State, 0, name)),
        "cpu" => return Some((Group::Cpu, 0, name)),
        "balloon" => return Some((Group::Memory, 0, name)),
        "vcpu" if !rest.starts_with(|c: char| c.is_ascii_digit()) => {
            return Some((Group::Cpu, 0, name));
        }
        "vcpu" => Group::Vcpu,
        "net" => Group::Net,
        "block" => Group::Block,
        _ => return None,
    };
    let (number, param) = rest.split_once('.')?;
    Some((group, number.parse().ok()?, param))
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
            "perf.cmt",
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
