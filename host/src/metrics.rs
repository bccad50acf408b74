//! Every metric of the exporter in one table: name, kind, labels, unit, where it comes from, and what
//! it means. Metrics are made here and nowhere else; `docs/METRICS.md` is this table, and a test
//! holds the two together.

use prometheus::proto;

/// Whether a number only grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows, but for restarts.
    Counter,
    /// It goes up and down.
    Gauge,
}

/// What the table says of a metric.
#[derive(Debug)]
pub struct About {
    /// Its name.
    pub name: &'static str,
    /// Counter or gauge.
    pub kind: Kind,
    /// Its labels.
    pub labels: &'static [&'static str],
    /// Its unit, for people.
    pub unit: &'static str,
    /// Where the number comes from, for people.
    pub source: &'static str,
    /// What it means.
    pub help: &'static str,
}

const NONE: &[&str] = &[];
const VM: &[&str] = &["domain", "uuid"];
const VCPU: &[&str] = &["domain", "uuid", "vcpu"];
const DEVICE: &[&str] = &["domain", "uuid", "target_device"];
const COLUMN: &[&str] = &["domain", "uuid", "point", "column"];
const POINT: &[&str] = &["domain", "uuid", "point"];
const REASON: &[&str] = &["domain", "uuid", "reason"];
const VERSION: &[&str] = &["version"];

macro_rules! metrics {
    ($($id:ident $kind:ident $name:literal $labels:ident $unit:literal $source:literal $help:literal;)*) => {
        /// A metric.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Metric { $(#[doc = $help] $id,)* }

        /// Every metric, in the order of the page.
        pub const ALL: &[Metric] = &[$(Metric::$id,)*];

        impl Metric {
            /// What the table says of it.
            pub fn about(self) -> &'static About {
                match self { $(Self::$id => &About {
                    name: $name, kind: Kind::$kind, labels: $labels,
                    unit: $unit, source: $source, help: $help,
                },)* }
            }
        }
    };
}

metrics! {
    LibvirtUp Gauge "libvirt_up" NONE "0 or 1" "connection" "Whether libvirt answers.";
    DomainState Gauge "libvirt_domain_info_vstate" VM "virDomainState" "state.state" "What the domain does: 1 running, 3 paused, 5 shut off.";
    CpuTime Counter "libvirt_domain_info_cpu_time_seconds_total" VM "seconds" "cpu.time" "CPU time the domain used, its emulator included.";
    CpuUser Counter "libvirt_domain_cpu_user_seconds_total" VM "seconds" "cpu.user" "CPU time the domain used in user space.";
    CpuSystem Counter "libvirt_domain_cpu_system_seconds_total" VM "seconds" "cpu.system" "CPU time the domain used in the kernel.";
    Vcpus Gauge "libvirt_domain_info_virtual_cpus" VM "count" "vcpu.current" "Virtual processors that are online.";
    MemoryActual Gauge "libvirt_domain_info_memory_usage_bytes" VM "bytes" "balloon.current" "Memory the domain has now.";
    MemoryMaximum Gauge "libvirt_domain_info_maximum_memory_bytes" VM "bytes" "balloon.maximum" "Memory the domain may have.";
    MemoryRss Gauge "libvirt_domain_memory_stats_rss_bytes" VM "bytes" "balloon.rss" "Resident memory of the domain's process.";
    MemoryAvailable Gauge "libvirt_domain_memory_stats_available_bytes" VM "bytes" "balloon.available" "Memory the guest sees.";
    MemoryUnused Gauge "libvirt_domain_memory_stats_unused_bytes" VM "bytes" "balloon.unused" "Memory the guest leaves unused.";
    MemoryUsable Gauge "libvirt_domain_memory_stats_usable_bytes" VM "bytes" "balloon.usable" "Memory the guest could use without swapping.";
    MemoryDiskCaches Gauge "libvirt_domain_memory_stats_disk_cache_bytes" VM "bytes" "balloon.disk_caches" "Memory the guest uses as disk cache.";
    MemorySwapIn Counter "libvirt_domain_memory_stats_swap_in_bytes_total" VM "bytes" "balloon.swap_in" "Memory the guest read back from swap.";
    MemorySwapOut Counter "libvirt_domain_memory_stats_swap_out_bytes_total" VM "bytes" "balloon.swap_out" "Memory the guest wrote to swap.";
    MemoryMajorFaults Counter "libvirt_domain_memory_stats_major_fault_total" VM "count" "balloon.major_fault" "Page faults in the guest that needed the disk.";
    MemoryMinorFaults Counter "libvirt_domain_memory_stats_minor_fault_total" VM "count" "balloon.minor_fault" "Page faults in the guest that did not.";
    VcpuState Gauge "libvirt_domain_vcpu_state" VCPU "virVcpuState" "vcpu.N.state" "What the virtual processor does: 0 offline, 1 running, 2 blocked.";
    VcpuTime Counter "libvirt_domain_vcpu_time_seconds_total" VCPU "seconds" "vcpu.N.time" "CPU time the virtual processor used.";
    VcpuWait Counter "libvirt_domain_vcpu_wait_seconds_total" VCPU "seconds" "vcpu.N.wait" "Time the virtual processor wanted to run and waited.";
    VcpuDelay Counter "libvirt_domain_vcpu_delay_seconds_total" VCPU "seconds" "vcpu.N.delay" "Time the virtual processor waited in the host's run queue.";
    NetReceiveBytes Counter "libvirt_domain_interface_stats_receive_bytes_total" DEVICE "bytes" "net.N.rx.bytes" "Bytes the guest received.";
    NetReceivePackets Counter "libvirt_domain_interface_stats_receive_packets_total" DEVICE "count" "net.N.rx.pkts" "Packets the guest received.";
    NetReceiveErrors Counter "libvirt_domain_interface_stats_receive_errors_total" DEVICE "count" "net.N.rx.errs" "Receive errors.";
    NetReceiveDrops Counter "libvirt_domain_interface_stats_receive_drops_total" DEVICE "count" "net.N.rx.drop" "Packets dropped on the way to the guest.";
    NetTransmitBytes Counter "libvirt_domain_interface_stats_transmit_bytes_total" DEVICE "bytes" "net.N.tx.bytes" "Bytes the guest sent.";
    NetTransmitPackets Counter "libvirt_domain_interface_stats_transmit_packets_total" DEVICE "count" "net.N.tx.pkts" "Packets the guest sent.";
    NetTransmitErrors Counter "libvirt_domain_interface_stats_transmit_errors_total" DEVICE "count" "net.N.tx.errs" "Transmit errors.";
    NetTransmitDrops Counter "libvirt_domain_interface_stats_transmit_drops_total" DEVICE "count" "net.N.tx.drop" "Packets dropped on the way from the guest.";
    BlockReadBytes Counter "libvirt_domain_block_stats_read_bytes_total" DEVICE "bytes" "block.N.rd.bytes" "Bytes the guest read.";
    BlockReadRequests Counter "libvirt_domain_block_stats_read_requests_total" DEVICE "count" "block.N.rd.reqs" "Read requests.";
    BlockReadTime Counter "libvirt_domain_block_stats_read_time_seconds_total" DEVICE "seconds" "block.N.rd.times" "Time spent in reads.";
    BlockWriteBytes Counter "libvirt_domain_block_stats_write_bytes_total" DEVICE "bytes" "block.N.wr.bytes" "Bytes the guest wrote.";
    BlockWriteRequests Counter "libvirt_domain_block_stats_write_requests_total" DEVICE "count" "block.N.wr.reqs" "Write requests.";
    BlockWriteTime Counter "libvirt_domain_block_stats_write_time_seconds_total" DEVICE "seconds" "block.N.wr.times" "Time spent in writes.";
    BlockFlushRequests Counter "libvirt_domain_block_stats_flush_requests_total" DEVICE "count" "block.N.fl.reqs" "Flush requests.";
    BlockFlushTime Counter "libvirt_domain_block_stats_flush_time_seconds_total" DEVICE "seconds" "block.N.fl.times" "Time spent in flushes.";
    BlockCapacity Gauge "libvirt_domain_block_stats_capacity_bytes" DEVICE "bytes" "block.N.capacity" "Size of the disk as the guest sees it.";
    BlockAllocation Gauge "libvirt_domain_block_stats_allocation_bytes" DEVICE "bytes" "block.N.allocation" "Highest offset of the disk that was written.";
    BlockPhysical Gauge "libvirt_domain_block_stats_physicalsize_bytes" DEVICE "bytes" "block.N.physical" "Size of the disk's image on the host.";
    KpiValue Gauge "vmkpi_kpi_value" COLUMN "the KPI's own" "last row" "The newest value of a numeric column of an unencrypted KPI.";
    KpiTime Gauge "vmkpi_kpi_last_row_timestamp_seconds" POINT "seconds since 1970" "last row, _timestamp" "When the newest row of an unencrypted KPI was stored, by the guest's clock.";
    ClockSkew Gauge "vmkpi_guest_clock_skew_seconds" VM "seconds" "link, marks" "The guest's clock minus the host's, as measured over the last minute.";
    KpiDropped Gauge "vmkpi_kpi_series_dropped" VM "count" "exporter" "KPI series left out because the VM has more than are exported.";
    Descriptor Gauge "vmkpi_descriptor_valid" VM "0 or 1" "descriptor" "Whether the VM has a descriptor that is in force; 0 when it has one that is refused.";
    DescriptorErrors Counter "vmkpi_descriptor_errors_total" NONE "count" "descriptor" "Descriptors that were refused: invalid, contradicting each other, or under a name that is taken.";
    LinkUp Gauge "vmkpi_link_up" VM "0 or 1" "link" "Whether the link to the guest is open and the guest speaks.";
    LinkConnects Counter "vmkpi_link_connects_total" VM "count" "link" "Link sessions that were opened.";
    LinkReceivedBytes Counter "vmkpi_link_received_bytes_total" VM "bytes" "link" "Bytes read from the link.";
    LinkErrors Counter "vmkpi_link_errors_total" REASON "count" "link" "Lines or sessions of the link that were refused, by reason.";
    Rows Counter "vmkpi_rows_received_total" VM "count" "link" "Rows read from the guest.";
    RowsReplayed Counter "vmkpi_rows_replayed_total" VM "count" "link" "Rows read from the guest that had been read before.";
    Samples Counter "vmkpi_samples_total" VM "count" "delivery" "Samples that went into messages or windows.";
    Suppressed Counter "vmkpi_when_suppressed_total" VM "count" "delivery" "Samples and results that were not delivered as the specifier's predicate was not true.";
    WhenErrors Counter "vmkpi_when_errors_total" VM "count" "delivery" "Samples and results of which the predicate was neither true nor false: a column was missing, NULL or of another type.";
    Gaps Counter "vmkpi_gaps_total" VM "count" "delivery" "Ranges of rows that were lost before they could be delivered.";
    Messages Counter "vmkpi_messages_published_total" VM "count" "publisher" "Messages handed to the publisher.";
    MessagesAcked Counter "vmkpi_messages_acknowledged_total" VM "count" "publisher" "Messages the broker acknowledged.";
    MessagesRefused Counter "vmkpi_messages_refused_total" VM "count" "publisher" "Messages that can never be delivered: too large, or refused by the broker for good.";
    MessagesWaiting Gauge "vmkpi_messages_in_flight" VM "count" "publisher" "Messages not yet acknowledged by the broker.";
    BrokerConnected Gauge "vmkpi_broker_connected" NONE "0 or 1" "publisher" "Whether the broker is connected.";
    BrokerConnects Counter "vmkpi_broker_connects_total" NONE "count" "publisher" "Connections to the broker that were opened.";
    BrokerFailures Counter "vmkpi_broker_connection_failures_total" NONE "count" "publisher" "Connections to the broker that failed or broke.";
    BrokerRepeated Counter "vmkpi_broker_messages_repeated_total" NONE "count" "publisher" "Messages sent again after a connection broke.";
    BrokerRetried Counter "vmkpi_broker_messages_deferred_total" NONE "count" "publisher" "Messages the broker refused for now, for example for want of permission.";
    StatsTime Gauge "vmkpi_libvirt_stats_timestamp_seconds" NONE "seconds since 1970" "sampler" "When libvirt last gave statistics.";
    StatsDuration Gauge "vmkpi_libvirt_stats_duration_seconds" NONE "seconds" "sampler" "How long libvirt took to give them.";
    StatsFailures Counter "vmkpi_libvirt_stats_failures_total" NONE "count" "sampler" "Calls for statistics that failed.";
    BuildInfo Gauge "vmkpi_host_build_info" VERSION "1" "build" "The version of vmkpi-host that runs.";
}

/// A page of metrics that is being written.
#[derive(Debug)]
pub struct Page {
    families: Vec<Vec<proto::Metric>>,
}

impl Default for Page {
    fn default() -> Self {
        Self {
            families: ALL.iter().map(|_| Vec::new()).collect(),
        }
    }
}

impl Page {
    /// Adds a series. `labels` are the values of the metric's labels, in the table's order.
    pub fn add(&mut self, metric: Metric, labels: &[&str], value: f64) {
        let about = metric.about();
        debug_assert_eq!(labels.len(), about.labels.len(), "{}", about.name);
        let pairs = about.labels.iter().zip(labels).map(|(name, value)| {
            let mut pair = proto::LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        });
        let mut series = proto::Metric::from_label(pairs.collect());
        match about.kind {
            Kind::Counter => {
                let mut counter = proto::Counter::default();
                counter.set_value(value);
                series.set_counter(counter);
            }
            Kind::Gauge => {
                let mut gauge = proto::Gauge::default();
                gauge.set_value(value);
                series.set_gauge(gauge);
            }
        }
        self.families[metric as usize].push(series);
    }

    /// The page in Prometheus' text format. A metric without series is left out.
    ///
    /// # Errors
    /// The encoder refuses the page; no table and no guest can bring that about.
    pub fn render(self) -> Result<String, prometheus::Error> {
        let families = ALL.iter().zip(self.families).filter(|(_, s)| !s.is_empty());
        let families: Vec<_> = families
            .map(|(metric, series)| {
                let about = metric.about();
                let mut family = proto::MetricFamily::default();
                family.set_name(about.name.to_owned());
                family.set_help(about.help.to_owned());
                family.set_field_type(match about.kind {
                    Kind::Counter => proto::MetricType::COUNTER,
                    Kind::Gauge => proto::MetricType::GAUGE,
                });
                family.set_metric(series);
                family
            })
            .collect();
        prometheus::TextEncoder::new().encode_to_string(&families)
    }
}

/// The table as `docs/METRICS.md` has it: one line a metric.
pub fn table() -> String {
    let mut out = String::from(
        "| metric | type | labels | unit | source | meaning |\n| --- | --- | --- | --- | --- | --- |\n",
    );
    for about in ALL.iter().map(|m| m.about()) {
        let kind = match about.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        let labels = about.labels.join(", ");
        out.push_str(&format!(
            "| `{}` | {kind} | {labels} | {} | {} | {} |\n",
            about.name, about.unit, about.source, about.help
        ));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_conventions() {
        for about in ALL.iter().map(|m| m.about()) {
            let total = about.name.ends_with("_total");
            assert_eq!(total, about.kind == Kind::Counter, "{}", about.name);
            assert!(about.name.starts_with("libvirt_") || about.name.starts_with("vmkpi_"));
        }
    }

    #[test]
    fn what_a_guest_names_is_escaped() {
        let mut page = Page::default();
        page.add(Metric::KpiValue, &["d", "u", "p", "a\"b\\c\nd"], 1.5);
        let text = page.render().unwrap();
        assert!(
            text.ends_with("column=\"a\\\"b\\\\c\\nd\"} 1.5\n"),
            "{text}"
        );
    }

    #[test]
    fn the_documentation_has_the_same_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/METRICS.md");
        let text = std::fs::read_to_string(path).unwrap();
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            let (head, _) = text.split_once("| metric |").unwrap_or((&text, ""));
            std::fs::write(path, format!("{head}{}", table())).unwrap();
            return;
        }
        assert!(
            text.ends_with(&table()),
            "run the test with UPDATE_GOLDEN=1 to write the table"
        );
    }
}
