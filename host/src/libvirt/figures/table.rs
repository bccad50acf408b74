//! The table of figures: what libvirt calls each, what it is called here.

use super::{Figure, Group, Unit};
use crate::metrics::Metric;

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
    State     "state.state"               "state"                                      One          DomainState;
    State     "state.reason"              "state_reason"                               One          DomainStateReason;
    Cpu       "cpu.time"                  "cpu_time_seconds_total"                     Nanoseconds  CpuTime;
    Cpu       "cpu.user"                  "cpu_user_seconds_total"                     Nanoseconds  CpuUser;
    Cpu       "cpu.system"                "cpu_system_seconds_total"                   Nanoseconds  CpuSystem;
    Cpu       "vcpu.current"              "vcpus"                                      One          Vcpus;
    Cpu       "vcpu.maximum"              "vcpus_maximum"                              One          VcpusMaximum;
    Cpu       "steal"                     "cpu_steal_seconds_total"                    Nanoseconds  CpuSteal;
    Cpu       "cpu.haltpoll.success.time" "cpu_haltpoll_success_seconds_total"         Nanoseconds  CpuHaltpollSuccess;
    Cpu       "cpu.haltpoll.fail.time"    "cpu_haltpoll_fail_seconds_total"            Nanoseconds  CpuHaltpollFail;
    Memory    "balloon.current"           "memory_actual_bytes"                        Kibibytes    MemoryActual;
    Memory    "balloon.maximum"           "memory_maximum_bytes"                       Kibibytes    MemoryMaximum;
    Memory    "balloon.rss"               "memory_rss_bytes"                           Kibibytes    MemoryRss;
    Memory    "balloon.available"         "memory_available_bytes"                     Kibibytes    MemoryAvailable;
    Memory    "balloon.unused"            "memory_unused_bytes"                        Kibibytes    MemoryUnused;
    Memory    "balloon.usable"            "memory_usable_bytes"                        Kibibytes    MemoryUsable;
    Memory    "balloon.disk_caches"       "memory_disk_caches_bytes"                   Kibibytes    MemoryDiskCaches;
    Memory    "balloon.swap_in"           "memory_swap_in_bytes_total"                 Kibibytes    MemorySwapIn;
    Memory    "balloon.swap_out"          "memory_swap_out_bytes_total"                Kibibytes    MemorySwapOut;
    Memory    "balloon.major_fault"       "memory_major_faults_total"                  One          MemoryMajorFaults;
    Memory    "balloon.minor_fault"       "memory_minor_faults_total"                  One          MemoryMinorFaults;
    Memory    "balloon.last-update"       "memory_updated_timestamp_seconds"           One          MemoryUpdated;
    Memory    "balloon.hugetlb_pgalloc"   "memory_hugetlb_allocations_total"           One          MemoryHugetlbAllocations;
    Memory    "balloon.hugetlb_pgfail"    "memory_hugetlb_failures_total"              One          MemoryHugetlbFailures;
    Vcpu      "state"                     "vcpu_state"                                 One          VcpuState;
    Vcpu      "time"                      "vcpu_time_seconds_total"                    Nanoseconds  VcpuTime;
    Vcpu      "wait"                      "vcpu_wait_seconds_total"                    Nanoseconds  VcpuWait;
    Vcpu      "delay"                     "vcpu_delay_seconds_total"                   Nanoseconds  VcpuDelay;
    Vcpu      "halted"                    "vcpu_halted"                                One          VcpuHalted;
    Net       "rx.bytes"                  "net_receive_bytes_total"                    One          NetReceiveBytes;
    Net       "rx.pkts"                   "net_receive_packets_total"                  One          NetReceivePackets;
    Net       "rx.errs"                   "net_receive_errors_total"                   One          NetReceiveErrors;
    Net       "rx.drop"                   "net_receive_drops_total"                    One          NetReceiveDrops;
    Net       "tx.bytes"                  "net_transmit_bytes_total"                   One          NetTransmitBytes;
    Net       "tx.pkts"                   "net_transmit_packets_total"                 One          NetTransmitPackets;
    Net       "tx.errs"                   "net_transmit_errors_total"                  One          NetTransmitErrors;
    Net       "tx.drop"                   "net_transmit_drops_total"                   One          NetTransmitDrops;
    Block     "rd.bytes"                  "block_read_bytes_total"                     One          BlockReadBytes;
    Block     "rd.reqs"                   "block_read_requests_total"                  One          BlockReadRequests;
    Block     "rd.times"                  "block_read_seconds_total"                   Nanoseconds  BlockReadTime;
    Block     "wr.bytes"                  "block_write_bytes_total"                    One          BlockWriteBytes;
    Block     "wr.reqs"                   "block_write_requests_total"                 One          BlockWriteRequests;
    Block     "wr.times"                  "block_write_seconds_total"                  Nanoseconds  BlockWriteTime;
    Block     "fl.reqs"                   "block_flush_requests_total"                 One          BlockFlushRequests;
    Block     "fl.times"                  "block_flush_seconds_total"                  Nanoseconds  BlockFlushTime;
    Block     "capacity"                  "block_capacity_bytes"                       One          BlockCapacity;
    Block     "allocation"                "block_allocation_bytes"                     One          BlockAllocation;
    Block     "physical"                  "block_physical_bytes"                       One          BlockPhysical;
    Iothread  "poll-max-ns"               "iothread_poll_max_seconds"                  Nanoseconds  IothreadPollMax;
    Iothread  "poll-grow"                 "iothread_poll_grow"                         One          IothreadPollGrow;
    Iothread  "poll-shrink"               "iothread_poll_shrink"                       One          IothreadPollShrink;
    Dirtyrate "dirtyrate.calc_status"     "dirtyrate_status"                           One          DirtyrateStatus;
    Dirtyrate "dirtyrate.calc_start_time" "dirtyrate_start_seconds"                    One          DirtyrateStart;
    Dirtyrate "dirtyrate.calc_period"     "dirtyrate_period_seconds"                   One          DirtyratePeriod;
    Dirtyrate "dirtyrate.megabytes_per_second" "dirtyrate_bytes_per_second"                 Mebibytes    DirtyrateBytes;
    Bandwidth "bytes.local"               "memory_bandwidth_local_bytes_total"         One          BandwidthLocal;
    Bandwidth "bytes.total"               "memory_bandwidth_bytes_total"               One          BandwidthTotal;
    Perf      "perf.cmt"                  "perf_cache_occupancy_bytes"                 One          PerfCmt;
    Perf      "perf.mbmt"                 "perf_memory_bandwidth_bytes_per_second"     One          PerfMbmt;
    Perf      "perf.mbml"                 "perf_memory_bandwidth_local_bytes_per_second" One          PerfMbml;
    Perf      "perf.cpu_cycles"           "perf_cpu_cycles_total"                      One          PerfCpuCycles;
    Perf      "perf.instructions"         "perf_instructions_total"                    One          PerfInstructions;
    Perf      "perf.cache_references"     "perf_cache_references_total"                One          PerfCacheReferences;
    Perf      "perf.cache_misses"         "perf_cache_misses_total"                    One          PerfCacheMisses;
    Perf      "perf.branch_instructions"  "perf_branch_instructions_total"             One          PerfBranchInstructions;
    Perf      "perf.branch_misses"        "perf_branch_misses_total"                   One          PerfBranchMisses;
    Perf      "perf.bus_cycles"           "perf_bus_cycles_total"                      One          PerfBusCycles;
    Perf      "perf.stalled_cycles_frontend" "perf_stalled_cycles_frontend_total"         One          PerfStalledCyclesFrontend;
    Perf      "perf.stalled_cycles_backend" "perf_stalled_cycles_backend_total"          One          PerfStalledCyclesBackend;
    Perf      "perf.ref_cpu_cycles"       "perf_ref_cpu_cycles_total"                  One          PerfRefCpuCycles;
    Perf      "perf.cpu_clock"            "perf_cpu_clock_seconds_total"               Nanoseconds  PerfCpuClock;
    Perf      "perf.task_clock"           "perf_task_clock_seconds_total"              Nanoseconds  PerfTaskClock;
    Perf      "perf.page_faults"          "perf_page_faults_total"                     One          PerfPageFaults;
    Perf      "perf.page_faults_min"      "perf_page_faults_min_total"                 One          PerfPageFaultsMin;
    Perf      "perf.page_faults_maj"      "perf_page_faults_maj_total"                 One          PerfPageFaultsMaj;
    Perf      "perf.context_switches"     "perf_context_switches_total"                One          PerfContextSwitches;
    Perf      "perf.cpu_migrations"       "perf_cpu_migrations_total"                  One          PerfCpuMigrations;
    Perf      "perf.alignment_faults"     "perf_alignment_faults_total"                One          PerfAlignmentFaults;
    Perf      "perf.emulation_faults"     "perf_emulation_faults_total"                One          PerfEmulationFaults;
    Job       "job.type"                  "job_type"                                   One          JobType;
    Job       "job.operation"             "job_operation"                              One          JobOperation;
    Job       "job.time_elapsed"          "job_elapsed_seconds"                        Milliseconds JobElapsed;
    Job       "job.time_remaining"        "job_remaining_seconds"                      Milliseconds JobRemaining;
    Job       "job.downtime"              "job_downtime_seconds"                       Milliseconds JobDowntime;
    Job       "job.setup_time"            "job_setup_seconds"                          Milliseconds JobSetup;
    Job       "job.data_total"            "job_data_size_bytes"                        One          JobDataSize;
    Job       "job.data_processed"        "job_data_processed_bytes"                   One          JobDataProcessed;
    Job       "job.data_remaining"        "job_data_remaining_bytes"                   One          JobDataRemaining;
    Job       "job.memory_total"          "job_memory_size_bytes"                      One          JobMemorySize;
    Job       "job.memory_processed"      "job_memory_processed_bytes"                 One          JobMemoryProcessed;
    Job       "job.memory_remaining"      "job_memory_remaining_bytes"                 One          JobMemoryRemaining;
    Job       "job.disk_total"            "job_disk_size_bytes"                        One          JobDiskSize;
    Job       "job.disk_processed"        "job_disk_processed_bytes"                   One          JobDiskProcessed;
    Job       "job.disk_remaining"        "job_disk_remaining_bytes"                   One          JobDiskRemaining;
    Job       "job.memory_bps"            "job_memory_bytes_per_second"                One          JobMemoryRate;
    Job       "job.disk_bps"              "job_disk_bytes_per_second"                  One          JobDiskRate;
    Job       "job.memory_iteration"      "job_memory_iteration"                       One          JobMemoryIteration;
    Job       "job.memory_dirty_rate"     "job_memory_dirty_pages_per_second"          One          JobMemoryDirtyRate;
    Job       "job.memory_page_size"      "job_memory_page_size_bytes"                 One          JobMemoryPageSize;
    Job       "job.auto_converge_throttle" "job_auto_converge_throttle"                 Percent      JobThrottle;
}
