//! Every metric of the exporter in one table: name, kind, labels, unit, where it comes from, and what
//! it means. Metrics are made here and nowhere else; `docs/METRICS.md` is this table, and a test
//! holds the two together.

use bytes::{BufMut as _, Bytes, BytesMut};

/// The most devices of one group that a VM has series of.
pub const MAX_DEVICES: usize = 256;

/// Whether a number only grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows, but for restarts.
    Counter,
    /// It goes up and down.
    Gauge,
    /// How often something took how long.
    Histogram,
}

impl Kind {
    /// Its name in the text format.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
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

impl About {
    /// The least libvirt that gives the figure, for people; 6.0 is the least that vmkpi runs with.
    fn least_libvirt(&self) -> &'static str {
        match self.source {
            _ if !self.name.starts_with("libvirt_domain_") => "",
            source if source.starts_with("dirtyrate.") => "7.2",
            // Younger than 6.0; in no header or page is it said by how much.
            source if source.contains("haltpoll") || source.ends_with(".delay") => "9.0 (seen)",
            _ => "6.0",
        }
    }
}

const NONE: &[&str] = &[];
const VM: &[&str] = &["domain", "uuid"];
const VCPU: &[&str] = &["domain", "uuid", "vcpu"];
const VCPU_CPUS: &[&str] = &["domain", "uuid", "vcpu", "cpus"];
const OS: &[&str] = &[
    "domain",
    "uuid",
    "os_type",
    "os_type_arch",
    "os_type_machine",
];
const INSTANCE: &[&str] = &[
    "domain",
    "uuid",
    "instance_name",
    "flavor_name",
    "user_name",
    "user_id",
    "project_name",
    "project_id",
];
const DISK: &[&str] = &[
    "domain",
    "uuid",
    "target_device",
    "target_bus",
    "disk_type",
    "driver_name",
    "driver_type",
    "driver_cache",
    "driver_discard",
    "serial",
];
const INTERFACE: &[&str] = &[
    "domain",
    "uuid",
    "target_device",
    "interface_type",
    "mac_address",
    "model_type",
    "mtu_size",
    "source_bridge",
];
const DEVICE: &[&str] = &["domain", "uuid", "target_device"];
const IOTHREAD: &[&str] = &["domain", "uuid", "iothread"];
const MONITOR: &[&str] = &["domain", "uuid", "monitor"];
const COLUMN: &[&str] = &["domain", "uuid", "point", "column"];
const POINT: &[&str] = &["domain", "uuid", "point"];
const REASON: &[&str] = &["domain", "uuid", "reason"];
const BECAME: &[&str] = &["domain", "uuid", "became"];
const DATABASE: &[&str] = &["domain", "uuid", "database"];
const IDENTITY: &[&str] = &["domain", "uuid", "site", "vm"];
const ERROR: &[&str] = &["reason"];
const PHASE: &[&str] = &["phase"];
const ENDING: &[&str] = &["event", "outcome"];
const CONTEXT: &[&str] = &["domain", "uuid", "class", "digest"];
const CLASS: &[&str] = &["domain", "uuid", "class"];
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
    DomainsNumber Gauge "libvirt_domains" NONE "count" "domain list" "Domains that libvirt knows, running or not.";
    DomainState Gauge "libvirt_domain_info_vstate" VM "virDomainState" "state.state" "What the domain does: 1 running, 3 paused, 5 shut off.";
    DomainStateReason Gauge "libvirt_domain_info_vstate_reason" VM "by state" "state.reason" "Why it does that; the numbers belong to each state (virDomainRunningReason and so on).";
    DomainInfo Gauge "libvirt_domain_info" OS "1" "domain XML: os" "What the domain boots on.";
    OpenstackInfo Gauge "libvirt_domain_openstack_info" INSTANCE "1" "domain XML: nova:instance" "What OpenStack wrote down of the domain and its owner.";
    CpuTime Counter "libvirt_domain_info_cpu_time_seconds_total" VM "seconds" "cpu.time" "CPU time the domain used, its emulator included.";
    CpuUser Counter "libvirt_domain_cpu_user_seconds_total" VM "seconds" "cpu.user" "CPU time the domain used in user space.";
    CpuSystem Counter "libvirt_domain_cpu_system_seconds_total" VM "seconds" "cpu.system" "CPU time the domain used in the kernel.";
    Vcpus Gauge "libvirt_domain_info_virtual_cpus" VM "count" "vcpu.current" "Virtual processors that are online.";
    VcpusMaximum Gauge "libvirt_domain_info_virtual_cpus_maximum" VM "count" "vcpu.maximum" "Virtual processors the domain may have.";
    CpuSteal Counter "libvirt_domain_cpu_steal_seconds_total" VM "seconds" "sum of vcpu.N.delay" "Time in which its processors were ready to run and the host ran others.";
    CpuHaltpollSuccess Counter "libvirt_domain_cpu_haltpoll_success_seconds_total" VM "seconds" "cpu.haltpoll.success.time" "CPU time spent polling before a halt, with success.";
    CpuHaltpollFail Counter "libvirt_domain_cpu_haltpoll_fail_seconds_total" VM "seconds" "cpu.haltpoll.fail.time" "CPU time spent polling before a halt, in vain.";
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
    MemoryUpdated Gauge "libvirt_domain_memory_stats_update_timestamp_seconds" VM "seconds since 1970" "balloon.last-update" "When the guest last said what it does with its memory.";
    MemoryHugetlbAllocations Counter "libvirt_domain_memory_stats_hugetlb_pgalloc_total" VM "count" "balloon.hugetlb_pgalloc" "Huge pages the guest allocated.";
    MemoryHugetlbFailures Counter "libvirt_domain_memory_stats_hugetlb_pgfail_total" VM "count" "balloon.hugetlb_pgfail" "Huge pages the guest could not allocate.";
    VcpuState Gauge "libvirt_domain_vcpu_state" VCPU "virVcpuState" "vcpu.N.state" "What the virtual processor does: 0 offline, 1 running, 2 blocked.";
    VcpuTime Counter "libvirt_domain_vcpu_time_seconds_total" VCPU "seconds" "vcpu.N.time" "CPU time the virtual processor used.";
    VcpuWait Counter "libvirt_domain_vcpu_wait_seconds_total" VCPU "seconds" "vcpu.N.wait" "Time the virtual processor wanted to run and waited.";
    VcpuDelay Counter "libvirt_domain_vcpu_delay_seconds_total" VCPU "seconds" "vcpu.N.delay" "Time the virtual processor waited in the host's run queue.";
    VcpuHalted Gauge "libvirt_domain_vcpu_halted" VCPU "0 or 1" "vcpu.N.halted" "Whether the virtual processor is halted.";
    VcpuCpu Gauge "libvirt_domain_vcpu_cpu" VCPU "number" "virDomainGetVcpus: cpu" "The host's processor that the virtual processor ran on last.";
    VcpuAffinity Gauge "libvirt_domain_vcpu_affinity_info" VCPU_CPUS "1" "virDomainGetVcpus: cpumaps" "The host's processors that the virtual processor may run on, as 0-3,8.";
    NetInfo Gauge "libvirt_domain_interface_stats_info" INTERFACE "1" "domain XML: interface" "What kind of interface it is.";
    NetReceiveBytes Counter "libvirt_domain_interface_stats_receive_bytes_total" DEVICE "bytes" "net.N.rx.bytes" "Bytes the guest received.";
    NetReceivePackets Counter "libvirt_domain_interface_stats_receive_packets_total" DEVICE "count" "net.N.rx.pkts" "Packets the guest received.";
    NetReceiveErrors Counter "libvirt_domain_interface_stats_receive_errors_total" DEVICE "count" "net.N.rx.errs" "Receive errors.";
    NetReceiveDrops Counter "libvirt_domain_interface_stats_receive_drops_total" DEVICE "count" "net.N.rx.drop" "Packets dropped on the way to the guest.";
    NetTransmitBytes Counter "libvirt_domain_interface_stats_transmit_bytes_total" DEVICE "bytes" "net.N.tx.bytes" "Bytes the guest sent.";
    NetTransmitPackets Counter "libvirt_domain_interface_stats_transmit_packets_total" DEVICE "count" "net.N.tx.pkts" "Packets the guest sent.";
    NetTransmitErrors Counter "libvirt_domain_interface_stats_transmit_errors_total" DEVICE "count" "net.N.tx.errs" "Transmit errors.";
    NetTransmitDrops Counter "libvirt_domain_interface_stats_transmit_drops_total" DEVICE "count" "net.N.tx.drop" "Packets dropped on the way from the guest.";
    BlockInfo Gauge "libvirt_domain_block_stats_info" DISK "1" "domain XML: disk" "What kind of disk it is.";
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
    BlockError Gauge "libvirt_domain_block_stats_error" DEVICE "virDomainDiskErrorCode" "virDomainGetDiskErrors" "The error of this disk for which the domain is paused; only while it is: 1 any, 2 no space.";
    IothreadPollMax Gauge "libvirt_domain_iothread_poll_max_seconds" IOTHREAD "seconds" "iothread.N.poll-max-ns" "The longest an I/O thread polls.";
    IothreadPollGrow Gauge "libvirt_domain_iothread_poll_grow" IOTHREAD "factor" "iothread.N.poll-grow" "By what its polling time grows; 0: as the hypervisor decides.";
    IothreadPollShrink Gauge "libvirt_domain_iothread_poll_shrink" IOTHREAD "divisor" "iothread.N.poll-shrink" "By what its polling time shrinks; 0: as the hypervisor decides.";
    DirtyrateStatus Gauge "libvirt_domain_dirtyrate_status" VM "virDomainDirtyRateStatus" "dirtyrate.calc_status" "Whether the memory's dirty rate has been measured: 0 never, 1 it is being, 2 it has been.";
    DirtyrateStart Gauge "libvirt_domain_dirtyrate_start_seconds" VM "seconds" "dirtyrate.calc_start_time" "When measuring began, by the host's monotonic clock.";
    DirtyratePeriod Gauge "libvirt_domain_dirtyrate_period_seconds" VM "seconds" "dirtyrate.calc_period" "For how long it was measured.";
    DirtyrateBytes Gauge "libvirt_domain_dirtyrate_bytes_per_second" VM "bytes/s" "dirtyrate.megabytes_per_second" "How fast the guest writes to its memory.";
    BandwidthLocal Counter "libvirt_domain_memory_bandwidth_local_bytes_total" MONITOR "bytes" "memory.bandwidth.monitor.M.node.N.bytes.local" "Bytes through the local memory controller, of monitor M on node N.";
    BandwidthTotal Counter "libvirt_domain_memory_bandwidth_bytes_total" MONITOR "bytes" "memory.bandwidth.monitor.M.node.N.bytes.total" "Bytes through all memory controllers, of monitor M on node N.";
    PerfCmt Gauge "libvirt_domain_perf_cache_occupancy_bytes" VM "bytes" "perf.cmt" "Last-level cache the domain occupies.";
    PerfMbmt Gauge "libvirt_domain_perf_memory_bandwidth_bytes_per_second" VM "bytes/s" "perf.mbmt" "Memory bandwidth, all of it.";
    PerfMbml Gauge "libvirt_domain_perf_memory_bandwidth_local_bytes_per_second" VM "bytes/s" "perf.mbml" "Memory bandwidth on the local node.";
    PerfCpuCycles Counter "libvirt_domain_perf_cpu_cycles_total" VM "count" "perf.cpu_cycles" "Processor cycles, scaled by frequency too of the domain's process.";
    PerfInstructions Counter "libvirt_domain_perf_instructions_total" VM "count" "perf.instructions" "Instructions of the domain's process.";
    PerfCacheReferences Counter "libvirt_domain_perf_cache_references_total" VM "count" "perf.cache_references" "Cache accesses of the domain's process.";
    PerfCacheMisses Counter "libvirt_domain_perf_cache_misses_total" VM "count" "perf.cache_misses" "Cache misses of the domain's process.";
    PerfBranchInstructions Counter "libvirt_domain_perf_branch_instructions_total" VM "count" "perf.branch_instructions" "Branches of the domain's process.";
    PerfBranchMisses Counter "libvirt_domain_perf_branch_misses_total" VM "count" "perf.branch_misses" "Branches that were predicted wrongly of the domain's process.";
    PerfBusCycles Counter "libvirt_domain_perf_bus_cycles_total" VM "count" "perf.bus_cycles" "Bus cycles of the domain's process.";
    PerfStalledCyclesFrontend Counter "libvirt_domain_perf_stalled_cycles_frontend_total" VM "count" "perf.stalled_cycles_frontend" "Cycles stalled in the frontend of the domain's process.";
    PerfStalledCyclesBackend Counter "libvirt_domain_perf_stalled_cycles_backend_total" VM "count" "perf.stalled_cycles_backend" "Cycles stalled in the backend of the domain's process.";
    PerfRefCpuCycles Counter "libvirt_domain_perf_ref_cpu_cycles_total" VM "count" "perf.ref_cpu_cycles" "Processor cycles, not scaled by frequency of the domain's process.";
    PerfCpuClock Counter "libvirt_domain_perf_cpu_clock_seconds_total" VM "seconds" "perf.cpu_clock" "CPU time by the processor clock.";
    PerfTaskClock Counter "libvirt_domain_perf_task_clock_seconds_total" VM "seconds" "perf.task_clock" "CPU time by the task clock.";
    PerfPageFaults Counter "libvirt_domain_perf_page_faults_total" VM "count" "perf.page_faults" "Page faults of the domain's process.";
    PerfPageFaultsMin Counter "libvirt_domain_perf_page_faults_min_total" VM "count" "perf.page_faults_min" "Minor page faults of the domain's process.";
    PerfPageFaultsMaj Counter "libvirt_domain_perf_page_faults_maj_total" VM "count" "perf.page_faults_maj" "Major page faults of the domain's process.";
    PerfContextSwitches Counter "libvirt_domain_perf_context_switches_total" VM "count" "perf.context_switches" "Context switches of the domain's process.";
    PerfCpuMigrations Counter "libvirt_domain_perf_cpu_migrations_total" VM "count" "perf.cpu_migrations" "Moves to another processor of the domain's process.";
    PerfAlignmentFaults Counter "libvirt_domain_perf_alignment_faults_total" VM "count" "perf.alignment_faults" "Alignment faults of the domain's process.";
    PerfEmulationFaults Counter "libvirt_domain_perf_emulation_faults_total" VM "count" "perf.emulation_faults" "Emulation faults of the domain's process.";
    JobType Gauge "libvirt_domain_job_type" VM "virDomainJobType" "virDomainGetJobStats: type" "What kind of job is on the domain, while there is one: 1 bounded, 2 unbounded.";
    JobOperation Gauge "libvirt_domain_job_operation" VM "virDomainJobOperation" "operation" "What the job does: 5 is a migration from here, 4 one to here.";
    JobElapsed Gauge "libvirt_domain_job_elapsed_seconds" VM "seconds" "time_elapsed" "How long the job has lasted.";
    JobRemaining Gauge "libvirt_domain_job_remaining_seconds" VM "seconds" "time_remaining" "How long the job will last, as far as libvirt knows.";
    JobDowntime Gauge "libvirt_domain_job_downtime_seconds" VM "seconds" "downtime" "How long the guest is expected to stand still.";
    JobSetup Gauge "libvirt_domain_job_setup_seconds" VM "seconds" "setup_time" "How long the job took to begin.";
    JobDataSize Gauge "libvirt_domain_job_data_size_bytes" VM "bytes" "data_total" "Bytes of data to move by the job.";
    JobDataProcessed Gauge "libvirt_domain_job_data_processed_bytes" VM "bytes" "data_processed" "Bytes of data moved by the job.";
    JobDataRemaining Gauge "libvirt_domain_job_data_remaining_bytes" VM "bytes" "data_remaining" "Bytes of data left by the job.";
    JobMemorySize Gauge "libvirt_domain_job_memory_size_bytes" VM "bytes" "memory_total" "Bytes of memory to move by the job.";
    JobMemoryProcessed Gauge "libvirt_domain_job_memory_processed_bytes" VM "bytes" "memory_processed" "Bytes of memory moved by the job.";
    JobMemoryRemaining Gauge "libvirt_domain_job_memory_remaining_bytes" VM "bytes" "memory_remaining" "Bytes of memory left by the job.";
    JobDiskSize Gauge "libvirt_domain_job_disk_size_bytes" VM "bytes" "disk_total" "Bytes of disk to move by the job.";
    JobDiskProcessed Gauge "libvirt_domain_job_disk_processed_bytes" VM "bytes" "disk_processed" "Bytes of disk moved by the job.";
    JobDiskRemaining Gauge "libvirt_domain_job_disk_remaining_bytes" VM "bytes" "disk_remaining" "Bytes of disk left by the job.";
    JobMemoryRate Gauge "libvirt_domain_job_memory_bytes_per_second" VM "bytes/s" "memory_bps" "How fast memory is moved.";
    JobDiskRate Gauge "libvirt_domain_job_disk_bytes_per_second" VM "bytes/s" "disk_bps" "How fast disks are moved.";
    JobMemoryIteration Gauge "libvirt_domain_job_memory_iteration" VM "count" "memory_iteration" "Passes over memory.";
    JobMemoryDirtyRate Gauge "libvirt_domain_job_memory_dirty_pages_per_second" VM "pages/s" "memory_dirty_rate" "Memory pages the guest writes.";
    JobMemoryPageSize Gauge "libvirt_domain_job_memory_page_size_bytes" VM "bytes" "memory_page_size" "The size of a page.";
    JobThrottle Gauge "libvirt_domain_job_auto_converge_throttle" VM "ratio" "auto_converge_throttle" "By how much the guest is slowed so that the migration can end.";
    KpiValue Gauge "vmkpi_kpi_value" COLUMN "the KPI's own" "last row" "The newest value of a numeric column of an unencrypted KPI.";
    KpiTime Gauge "vmkpi_kpi_last_row_timestamp_seconds" POINT "seconds since 1970" "last row, _timestamp" "When the newest row of an unencrypted KPI was stored, by the guest's clock.";
    ClockSkew Gauge "vmkpi_guest_clock_skew_seconds" VM "seconds" "link, marks" "The guest's clock minus the host's, as measured over the last minute.";
    GuestDatabaseBytes Gauge "vmkpi_guest_database_bytes" DATABASE "bytes" "link, alive" "Bytes in use of a database of the guest's, unencrypted or encrypted, as it said last; rows wait there until they are acknowledged.";
    GuestDatabaseLimit Gauge "vmkpi_guest_database_limit_bytes" DATABASE "bytes" "link, alive" "Bytes that this database may have: its limit, or what its disk has room for, if that is less. Where it is full of rows that nobody has acknowledged, writers get ENOSPC.";
    KpiDropped Gauge "vmkpi_kpi_series_dropped" VM "count" "exporter" "KPI series left out because the VM has more than are exported.";
    DevicesDropped Gauge "vmkpi_domain_series_dropped" VM "count" "exporter" "Series of devices left out because the VM has more devices than are exported.";
    Descriptor Gauge "vmkpi_descriptor_valid" VM "0 or 1" "descriptor" "Whether the VM has a descriptor that is in force; 0 when it has one that is refused.";
    DescriptorInfo Gauge "vmkpi_descriptor_info" IDENTITY "1" "descriptor" "Under which name the VM's data goes to which primary site, by the descriptor that is in force.";
    DescriptorErrors Counter "vmkpi_descriptor_errors_total" NONE "count" "descriptor" "Descriptors that were refused: invalid, contradicting each other, or under a name that is taken.";
    LinkUp Gauge "vmkpi_link_up" VM "0 or 1" "link" "Whether the link to the guest is open and the guest speaks.";
    LinkConnects Counter "vmkpi_link_connects_total" VM "count" "link" "Link sessions that were opened.";
    LinkReceivedBytes Counter "vmkpi_link_received_bytes_total" VM "bytes" "link" "Bytes read from the link.";
    LinkErrors Counter "vmkpi_link_errors_total" REASON "count" "link" "Lines or sessions of the link that were refused, by reason.";
    LinkRefusals Counter "vmkpi_link_refusals_total" ERROR "count" "link" "Guests that did not come in over the network, by reason: late in the handshake, crowded out of it by newer ones, a handshake that failed, a certificate that does not count, the certificate of an unknown_vm, or a connection that could not be accepted (accept). Only where link.listen_address is set.";
    Rows Counter "vmkpi_rows_received_total" VM "count" "link" "Rows read from the guest.";
    RowsReplayed Counter "vmkpi_rows_replayed_total" VM "count" "link" "Rows read from the guest that had been read before.";
    RowsTime Gauge "vmkpi_rows_received_timestamp_seconds" VM "seconds since 1970" "link" "When the last row was read from the guest.";
    Holes Counter "vmkpi_holes_total" VM "count" "delivery" "Holes seen in the rows of the link and asked for again.";
    Repairs Counter "vmkpi_repairs_total" VM "count" "delivery" "Replays that were begun because something was missing.";
    TablesRefused Counter "vmkpi_tables_refused_total" VM "count" "delivery" "Data points not followed because the guest has more than are followed.";
    Samples Counter "vmkpi_samples_total" VM "count" "delivery" "Samples that went into messages or windows.";
    SamplesTime Gauge "vmkpi_samples_timestamp_seconds" VM "seconds since 1970" "delivery" "When a sample last went into a message or window, to the second.";
    Suppressed Counter "vmkpi_when_suppressed_total" VM "count" "delivery" "Samples and results that were not delivered as the specifier's predicate was not true.";
    WindowsLost Counter "vmkpi_windows_lost_total" VM "count" "delivery" "Open windows that were lost because the VM's were over their budget; each is announced as a gap.";
    WhenErrors Counter "vmkpi_when_errors_total" VM "count" "delivery" "Samples and results of which the predicate was neither true nor false: a column was missing, NULL or of another type.";
    Gaps Counter "vmkpi_gaps_total" VM "count" "delivery" "Ranges of rows that were lost before they could be delivered.";
    Sealed Counter "vmkpi_messages_sealed_total" VM "count" "publisher" "Messages sealed for the primary site.";
    SealFailures Counter "vmkpi_seal_failures_total" VM "count" "publisher" "Attempts to seal a message that failed; it is not published as it is, and tried again.";
    Messages Counter "vmkpi_messages_published_total" VM "count" "publisher" "Messages handed to the publisher.";
    MessagesAcked Counter "vmkpi_messages_acknowledged_total" VM "count" "publisher" "Messages the broker acknowledged.";
    MessagesAckedTime Gauge "vmkpi_messages_acknowledged_timestamp_seconds" VM "seconds since 1970" "publisher" "When the broker last acknowledged a message.";
    MessagesRefused Counter "vmkpi_messages_refused_total" VM "count" "publisher" "Messages that can never be delivered: too large, or refused by the broker for good.";
    MessagesWaiting Gauge "vmkpi_messages_in_flight" VM "count" "publisher" "Messages not yet acknowledged by the broker.";
    MessagesOldest Gauge "vmkpi_messages_oldest_unacknowledged_timestamp_seconds" VM "seconds since 1970" "publisher" "When the oldest message was made that the broker has not acknowledged, while there is one.";
    BrokerConnected Gauge "vmkpi_broker_connected" NONE "0 or 1" "publisher" "Whether the broker is connected.";
    BrokerConnects Counter "vmkpi_broker_connects_total" NONE "count" "publisher" "Connections to the broker that were opened.";
    BrokerErrors Counter "vmkpi_broker_errors_total" ERROR "count" "publisher" "Connections to the broker that failed or broke, and renewed files that could not be used, by reason.";
    BrokerRepeated Counter "vmkpi_broker_messages_repeated_total" NONE "count" "publisher" "Messages sent again after a connection broke.";
    BrokerRetried Counter "vmkpi_broker_messages_deferred_total" NONE "count" "publisher" "Messages the broker refused for now, for example for want of permission.";
    BrokerRefused Counter "vmkpi_broker_messages_refused_total" ERROR "count" "publisher" "Messages that can never be delivered, by reason: too_large for the broker, no topic, refused by the broker for good, or ends_connection after connection.";
    ConfirmConnected Gauge "vmkpi_confirmations_connected" NONE "0 or 1" "confirmations" "Whether confirmations of named Consumers can be heard; 0 too while no descriptor names one.";
    Confirmations Counter "vmkpi_confirmations_total" NONE "count" "confirmations" "Confirmations of named Consumers that counted, one for each instance in a message.";
    ConfirmRefused Counter "vmkpi_confirmations_refused_total" ERROR "count" "confirmations" "Confirmations that did not count, by reason: malformed, for another_topic, retained, unsigned, malformed_signature, wrong_algorithm, unknown_key, bad_signature, stale (sent again, or overtaken), of an unknown stream, point or specifier, or too_many in a second.";
    ConfirmTime Gauge "vmkpi_confirmations_timestamp_seconds" VM "seconds since 1970" "confirmations" "When a named Consumer last confirmed anything of the VM.";
    Leases Counter "vmkpi_directory_leases_total" BECAME "count" "directory" "The VM's entries in the Directory by what became of them: published (renewals included), removed, or refused by the broker.";
    LeaseTime Gauge "vmkpi_directory_lease_timestamp_seconds" VM "seconds since 1970" "directory" "When the broker last took the VM's lease.";
    Queries Counter "vmkpi_queries_total" NONE "count" "questions" "Questions of named Consumers for history that counted.";
    QueriesAnswered Counter "vmkpi_queries_answered_total" NONE "count" "questions" "Those of them that were answered to the end of their answer.";
    QueriesFailed Counter "vmkpi_queries_failed_total" ERROR "count" "questions" "Those of them that were not, by reason: the guest was unreachable or timed_out, too many asked at once (busy), an unknown_point, infrastructure, whose history is not_kept, unsealed as sealing failed, or failed in the guest or at the broker.";
    QueriesRefused Counter "vmkpi_queries_refused_total" ERROR "count" "questions" "Questions that did not count, and were not answered, by reason: malformed, for another_topic, retained, unsigned, malformed_signature, wrong_algorithm, unknown_key, bad_signature, stale (sent again, or overtaken), old or ahead (issued more than five minutes from this host's clock), of a VM that is unknown here any more, too_many in a second, or unrecorded as the disk failed.";
    QueryPages Counter "vmkpi_query_pages_total" NONE "count" "questions" "Pages of answers that the broker has acknowledged.";
    QueryRows Counter "vmkpi_query_rows_total" NONE "count" "questions" "Rows in them.";
    QueryBytes Counter "vmkpi_query_bytes_total" NONE "bytes" "questions" "Bytes of them, as published.";
    BrokerKept Gauge "vmkpi_broker_messages_kept" NONE "count" "publisher" "Messages of all VMs in the publisher, sent or about to be, and not acknowledged.";
    OutboxBatches Gauge "vmkpi_outbox_batches" VM "count" "outbox" "Batches of infrastructure measurements, each of one moment, on disk and not acknowledged yet.";
    OutboxStreams Gauge "vmkpi_outbox_streams" VM "count" "outbox" "Residences of the VM whose measurements are on their way.";
    OutboxTrimmed Counter "vmkpi_outbox_batches_trimmed_total" VM "count" "outbox" "Batches of infrastructure measurements lost because the outbox was full; what was in them is announced as gaps.";
    OutboxBytes Gauge "vmkpi_outbox_bytes" NONE "bytes" "outbox" "Size of the outbox on disk.";
    OutboxLimit Gauge "vmkpi_outbox_limit_bytes" NONE "bytes" "outbox" "What the outbox may hold; over it the oldest measurements are lost.";
    OutboxCommits Counter "vmkpi_outbox_commits_total" NONE "count" "outbox" "Transactions synced to disk, each with everything that waited.";
    OutboxSeconds Counter "vmkpi_outbox_commit_seconds_total" NONE "seconds" "outbox" "Time spent in them.";
    OutboxErrors Counter "vmkpi_outbox_errors_total" NONE "count" "outbox" "Transactions that failed; what was in them is delivered from memory alone.";
    LibvirtConnects Counter "vmkpi_libvirt_connects_total" NONE "count" "follower" "Connections to libvirt that were opened to follow its domains.";
    LibvirtErrors Counter "vmkpi_libvirt_errors_total" ERROR "count" "follower, sampler" "Connections to libvirt that failed or broke, and calls for statistics that failed.";
    LibvirtReconciled Gauge "vmkpi_libvirt_reconciled_timestamp_seconds" NONE "seconds since 1970" "follower" "When all domains were last looked at.";
    DomainStatsTime Gauge "vmkpi_domain_stats_timestamp_seconds" VM "seconds since 1970" "sampler" "When libvirt last gave the figures of this VM that it has to ask its hypervisor process for.";
    DomainUnresponsive Gauge "vmkpi_domain_unresponsive" VM "0 or 1" "sampler" "Whether the hypervisor process does not answer, or somebody else holds the domain's job: the VM is asked by itself, ever less often.";
    StatsTime Gauge "vmkpi_libvirt_stats_timestamp_seconds" NONE "seconds since 1970" "sampler" "When libvirt last gave statistics of any VM.";
    StatsDuration Gauge "vmkpi_libvirt_stats_duration_seconds" NONE "seconds" "sampler" "How long the last call for detailed statistics took.";
    StatsLate Counter "vmkpi_libvirt_stats_late_calls_total" NONE "count" "sampler" "Calls for statistics that took too long to be waited for.";
    StatsStuck Gauge "vmkpi_libvirt_stats_calls_stuck" NONE "count" "sampler" "Those of them that have not returned.";
    RecontextualizationSeconds Histogram "vmkpi_recontextualization_phase_seconds" PHASE "seconds" "recontextualizer" "How long each phase of a recontextualization took that changed a medium, by phase: resolve, detach, prepare and attach; one that was not needed took no time. What was prepared before a VM arrived is in it.";
    Recontextualizations Counter "vmkpi_recontextualizations_total" ENDING "count" "recontextualizer" "Recontextualizations by what brought them about (started, migrated, restored, resumed, found, changed, operator) and how they ended: changed, unchanged as the right medium was there, failed, which is tried again, refused, which a person has to see to, or gone, as the VM was.";
    ContextInfo Gauge "vmkpi_context_info" CONTEXT "1" "recontextualizer" "What is in the VM's drive of the class, by its digest.";
    ContextTime Gauge "vmkpi_context_timestamp_seconds" CLASS "seconds since 1970" "recontextualizer" "Since when that is so, as far as this daemon knows.";
    ContextProblem Gauge "vmkpi_context_problem" CLASS "0 or 1" "recontextualizer" "Whether it is not what it should be.";
    ContextErrors Counter "vmkpi_context_errors_total" ERROR "count" "recontextualizer" "Operations that failed, repetitions included, by reason: the folder, a template, the image, the connection to libvirt, a busy domain, a medium locked by the guest, a foreign medium in the drive, no drive, anything else that libvirt says, or an internal mistake.";
    ContextWaiting Gauge "vmkpi_context_operations_waiting" NONE "count" "recontextualizer" "VMs with something to be done and nobody free to do it.";
    ContextStuck Gauge "vmkpi_context_operations_stuck" NONE "count" "recontextualizer" "Operations that have not ended after ten seconds: their calls to libvirt do not return.";
    Scrapes Counter "vmkpi_exporter_scrapes_total" NONE "count" "exporter" "Scrapes that were answered.";
    ExporterErrors Counter "vmkpi_exporter_errors_total" ERROR "count" "exporter" "Connections that could not be accepted, and pages that could not be made.";
    ScrapeSeconds Gauge "vmkpi_exporter_page_seconds" NONE "seconds" "exporter" "How long the page before this one took to write.";
    Evicted Counter "vmkpi_exporter_connections_evicted_total" NONE "count" "exporter" "Connections closed because there were too many: the oldest goes.";
    BuildInfo Gauge "vmkpi_host_build_info" VERSION "1" "build" "The version of vmkpi-host that runs.";
}

/// Labels with their values, written once and used for many series.
#[derive(Clone, Debug, Default)]
pub struct Labels {
    text: String,
    names: Vec<&'static str>,
}

impl Labels {
    /// The labels of every series of a VM.
    pub fn of_vm(domain: &str, uuid: &str) -> Self {
        Self::default().with("domain", domain).with("uuid", uuid)
    }

    /// These and one more.
    #[must_use]
    pub fn with(&self, name: &'static str, value: &str) -> Self {
        let mut labels = self.clone();
        if !labels.names.is_empty() {
            labels.text.push(',');
        }
        labels.names.push(name);
        labels.text.push_str(name);
        labels.text.push_str("=\"");
        for char in value.chars() {
            match char {
                '\\' => labels.text.push_str("\\\\"),
                '"' => labels.text.push_str("\\\""),
                '\n' => labels.text.push_str("\\n"),
                other => labels.text.push(other),
            }
        }
        labels.text.push('"');
        labels
    }
}

/// A page of metrics that is being written: the lines of each metric, as the format wants those
/// together.
#[derive(Debug)]
pub struct Page {
    families: Vec<BytesMut>,
}

impl Default for Page {
    fn default() -> Self {
        Self {
            families: ALL.iter().map(|_| BytesMut::new()).collect(),
        }
    }
}

impl Page {
    /// Adds a series. The caller sees to it that none is there twice.
    pub fn add(&mut self, metric: Metric, labels: &Labels, value: impl Into<Number>) {
        debug_assert_eq!(
            labels.names,
            metric.about().labels,
            "{}",
            metric.about().name
        );
        self.line(metric, "", labels, value.into());
    }

    /// Adds a histogram: a bucket for each of `bounds` with those that were within it and above the one before, how many
    /// there were, and their sum.
    pub fn add_histogram(
        &mut self,
        metric: Metric,
        labels: &Labels,
        bounds: &[f64],
        (counts, count, sum): (&[u64], u64, f64),
    ) {
        debug_assert_eq!(
            labels.names,
            metric.about().labels,
            "{}",
            metric.about().name
        );
        let mut within = 0;
        for (bound, count) in bounds.iter().zip(counts) {
            within += count;
            let labels = labels.with("le", &bound.to_string());
            self.line(metric, "_bucket", &labels, (within as f64).into());
        }
        let all = labels.with("le", "+Inf");
        self.line(metric, "_bucket", &all, (count as f64).into());
        self.line(metric, "_sum", labels, sum.into());
        self.line(metric, "_count", labels, (count as f64).into());
    }

    fn line(&mut self, metric: Metric, suffix: &str, labels: &Labels, value: Number) {
        let about = metric.about();
        let out = &mut self.families[metric as usize];
        if out.is_empty() {
            let (name, help, kind) = (about.name, about.help, about.kind.as_str());
            out.put_slice(format!("# HELP {name} {help}\n# TYPE {name} {kind}\n").as_bytes());
        }
        out.reserve(about.name.len() + suffix.len() + labels.text.len() + 32);
        out.put_slice(about.name.as_bytes());
        out.put_slice(suffix.as_bytes());
        if !labels.text.is_empty() {
            out.put_u8(b'{');
            out.put_slice(labels.text.as_bytes());
            out.put_u8(b'}');
        }
        out.put_u8(b' ');
        value.write(out);
        out.put_u8(b'\n');
    }

    /// The page in Prometheus' text format.
    pub fn render(&self) -> String {
        let text: Vec<u8> = self.families.concat();
        String::from_utf8_lossy(&text).into_owned()
    }

    /// The page in pieces, one a metric; those without series are left out. The page is empty then, and what
    /// is written to it next takes the pieces' memory once nobody has them any more.
    pub fn take(&mut self) -> Vec<Bytes> {
        let families = self.families.iter_mut().filter(|f| !f.is_empty());
        families.map(|family| family.split().freeze()).collect()
    }
}

/// A number on the page.
#[derive(Clone, Copy, Debug)]
pub enum Number {
    /// A whole number, of which so many digits are after the point: what libvirt counts in nanoseconds
    /// is exact in seconds, and quicker to write than a double.
    Scaled(u64, usize),
    /// Any.
    Real(f64),
}

impl From<f64> for Number {
    fn from(value: f64) -> Self {
        let whole = value as u64;
        if whole as f64 == value && whole < 1 << 53 {
            Self::Scaled(whole, 0)
        } else {
            Self::Real(value)
        }
    }
}

impl Number {
    fn write(self, out: &mut BytesMut) {
        use std::fmt::Write as _;
        let written = match self {
            Self::Scaled(raw, places) => {
                push_digits(out, raw, places);
                Ok(())
            }
            Self::Real(value) if value.is_nan() => write!(out, "NaN"),
            Self::Real(value) if value.is_infinite() => {
                write!(out, "{}Inf", if value > 0.0 { '+' } else { '-' })
            }
            Self::Real(value) => write!(out, "{value}"),
        };
        written.expect("memory takes all that is written");
    }
}

/// `raw` with `places` digits after the point, without zeros at the end.
fn push_digits(out: &mut BytesMut, mut raw: u64, mut places: usize) {
    while places > 0 && raw.is_multiple_of(10) {
        (raw, places) = (raw / 10, places - 1);
    }
    let (mut digits, mut at) = ([b'0'; 24], 24);
    while raw > 0 || at > 23 - places.min(20) {
        at -= 1;
        digits[at] = b'0' + (raw % 10) as u8;
        raw /= 10;
    }
    let (whole, rest) = digits[at..].split_at(24 - at - places);
    out.put_slice(whole);
    if places > 0 {
        out.put_u8(b'.');
        out.put_slice(rest);
    }
}

/// The table as `docs/METRICS.md` has it: one line a metric.
pub fn table() -> String {
    let mut out = String::from(
        "| metric | type | labels | unit | source | libvirt | meaning |\n| --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for about in ALL.iter().map(|m| m.about()) {
        let kind = about.kind.as_str();
        let labels = about.labels.join(", ");
        out.push_str(&format!(
            "| `{}` | {kind} | {labels} | {} | {} | {} | {} |\n",
            about.name,
            about.unit,
            about.source,
            about.least_libvirt(),
            about.help
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

    /// The same series as the reference implementation writes them.
    fn reference(labels: &[(&str, &str)], value: f64) -> String {
        use prometheus::proto;
        let pairs = labels.iter().map(|(name, value)| {
            let mut pair = proto::LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        });
        let mut series = proto::Metric::from_label(pairs.collect());
        let mut gauge = proto::Gauge::default();
        gauge.set_value(value);
        series.set_gauge(gauge);
        let about = Metric::KpiValue.about();
        let mut family = proto::MetricFamily::default();
        family.set_name(about.name.to_owned());
        family.set_help(about.help.to_owned());
        family.set_field_type(proto::MetricType::GAUGE);
        family.set_metric(vec![series]);
        prometheus::TextEncoder::new()
            .encode_to_string(&[family])
            .unwrap()
    }

    #[test]
    fn a_page_is_written_as_the_reference_implementation_writes_it() {
        let names = ["plain", "", "a\"b\\c\nd", "{}=,\t\u{1f600}é", "\\\\n\r"];
        let numbers = [
            0.0,
            -0.0,
            1.5,
            -3.0,
            0.1,
            1e-9,
            123_456_789.123,
            9_007_199_254_740_993.0,
            1e22,
        ];
        for name in names {
            for value in numbers {
                let mut page = Page::default();
                let labels = Labels::of_vm(name, "u")
                    .with("point", "p")
                    .with("column", name);
                page.add(Metric::KpiValue, &labels, value);
                let pairs = [
                    ("domain", name),
                    ("uuid", "u"),
                    ("point", "p"),
                    ("column", name),
                ];
                // The two zeros are one to whoever reads.
                let value = if value == 0.0 { 0.0 } else { value };
                assert_eq!(page.render(), reference(&pairs, value));
            }
        }
    }

    fn written(raw: u64, places: usize) -> String {
        let mut out = BytesMut::new();
        push_digits(&mut out, raw, places);
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn scaled_numbers_read_as_the_quotient() {
        for raw in [
            0,
            1,
            9,
            10,
            1_500_000_000,
            123_456_789_012_345,
            u64::from(u32::MAX),
        ] {
            for (places, scale) in [(0, 1.0), (2, 1e2), (3, 1e3), (9, 1e9)] {
                let text = written(raw, places);
                let read: f64 = text.parse().unwrap();
                assert_eq!(read, raw as f64 / scale, "{text}");
                assert!(!text.starts_with('.') && (!text.contains('.') || !text.ends_with('0')));
            }
        }
        assert_eq!(written(u64::MAX, 9), "18446744073.709551615");
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
