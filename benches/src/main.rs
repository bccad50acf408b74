//! `vmkpi-bench store`: what a store through the partition costs, beside a no-op FUSE file system, files
//! with fsync on the same disk, and a file system that commits each row in its handler, interleaved in one
//! run. Absolute figures drift with the machine; the ratios are what counts. `scrape` and `outbox`: what
//! the host's exporter and its outbox cost at 10, 100 and 1,000 VMs. `context`: warm reads through the context partition.

mod context;
mod fleet;
mod floor;
mod host;
mod migration;
mod peers;
mod processes;
mod report;
mod seal;
mod sqlite;
mod ways;
mod wire;
mod writers;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};

/// Benchmarks of vmkpi.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// How results are printed.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    Table,
    /// One object, for programs.
    Json,
}

#[derive(Subcommand)]
enum Command {
    /// Stores a second at 1, 4, 16 and 64 writers: vmkpi-guest beside a no-op FUSE file system
    Store {
        /// The vmkpi-guest program to measure
        #[arg(long, value_name = "FILE")]
        guest: PathBuf,
        /// Rounds; each measures every subject once, and medians are printed
        #[arg(long, value_name = "N", default_value_t = 3)]
        rounds: usize,
        /// How long each subject is measured in a round, in milliseconds
        #[arg(long, value_name = "MS", default_value_t = 1500)]
        each_ms: u64,
        /// Where to keep the databases and the files of the fsync floor; a disk, not a tmpfs
        #[arg(long, value_name = "DIR", default_value = "/var/tmp")]
        dir: PathBuf,
        /// A table for people, or one JSON object for programs
        #[arg(long, value_enum, default_value_t = Format::Table)]
        format: Format,
    },
    /// Warm reads through the context partition, beside the native file system and overlayfs; the latter as root
    Context {
        /// The vmkpi-guest program to measure
        #[arg(long, value_name = "FILE")]
        guest: PathBuf,
        /// Rounds; each measures every file system once, and medians are printed
        #[arg(long, value_name = "N", default_value_t = 5)]
        rounds: usize,
        /// How long each is measured in a round, in milliseconds
        #[arg(long, value_name = "MS", default_value_t = 1000)]
        each_ms: u64,
        /// Where to keep the files; a disk, not a tmpfs
        #[arg(long, value_name = "DIR", default_value = "/var/tmp")]
        dir: PathBuf,
        /// A table for people, or one JSON object for programs
        #[arg(long, value_enum, default_value_t = Format::Table)]
        format: Format,
    },
    /// Sealing, opening, signing and verifying a message, by the size of the RSA key
    Seal,
    /// Bytes between host and broker of one minute of measurements: raw and processed, open, signed and sealed
    Wire {
        /// The vmkpi-host program
        #[arg(long, value_name = "FILE")]
        host: PathBuf,
        /// The vmkpi-guest program
        #[arg(long, value_name = "FILE")]
        guest: PathBuf,
        /// Where to keep state
        #[arg(long, value_name = "DIR", default_value = "/var/tmp")]
        dir: PathBuf,
    },
    /// A scrape of 10, 100 and 1,000 VMs with every series
    Scrape,
    /// Keeping a sample of 10, 100 and 1,000 VMs on disk
    Outbox {
        /// Where to keep it; a disk, not a tmpfs
        #[arg(long, value_name = "DIR", default_value = "/var/tmp")]
        dir: PathBuf,
    },
    /// vmkpi-host beside prometheus-libvirt-exporter and collectd's virt; as root
    Peers {
        /// Rounds; each measures every exporter once, and medians are printed
        #[arg(long, value_name = "N", default_value_t = 2)]
        rounds: usize,
        /// How long each is left alone in a round, in seconds
        #[arg(long, value_name = "S", default_value_t = 10)]
        idle_s: u64,
        /// Scrapes of each in a round
        #[arg(long, value_name = "N", default_value_t = 20)]
        scrapes: usize,
        /// How long a VM's QEMU is stopped, in seconds
        #[arg(long, value_name = "S", default_value_t = 40)]
        stop_s: u64,
    },
    /// What recontextualization adds to a live migration between two libvirt hosts, by phase; as root
    Migration {
        /// Migrations of each kind, with and without, in turn
        #[arg(long, value_name = "N", default_value_t = 10)]
        runs: usize,
        /// Rows a second that the guest stores meanwhile
        #[arg(long, value_name = "N", default_value_t = 20)]
        rate: u32,
        /// Where to write a chart, SVG
        #[arg(long, value_name = "FILE")]
        chart: Option<PathBuf>,
    },
    /// One vmkpi-host with 10, 100 and 1,000 VMs: memory, processor time, rows a second, latency, scrapes
    Fleet {
        /// The vmkpi-host program to measure
        #[arg(long, value_name = "FILE")]
        host: PathBuf,
        /// The vmkpi-guest program, for the VM whose latency is measured
        #[arg(long, value_name = "FILE")]
        guest: PathBuf,
        /// How many VMs, with commas; each is measured in turn
        #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [10, 100, 1000])]
        vms: Vec<usize>,
        /// How long each figure is measured, in seconds
        #[arg(long, value_name = "S", default_value_t = 5)]
        seconds: u64,
        /// Where to keep state; a disk, not a tmpfs
        #[arg(long, value_name = "DIR", default_value = "/var/tmp")]
        dir: PathBuf,
    },
    /// A value's way out of an application: vmkpi beside textfile collector, Pushgateway, collectd and mosquitto_pub
    Ways {
        /// Rounds; each measures every way once
        #[arg(long, value_name = "N", default_value_t = 2)]
        rounds: usize,
        /// How long values are written at each rate, in seconds
        #[arg(long, value_name = "S", default_value_t = 15)]
        each_s: u64,
        /// How long the broker is away, in seconds
        #[arg(long, value_name = "S", default_value_t = 10)]
        away_s: u64,
    },
    /// Serve the no-op file system of the floor (used by `store`)
    #[command(hide = true)]
    Floor {
        /// Where to mount it
        #[arg(long, value_name = "DIR")]
        mount: PathBuf,
        /// Insert and commit a row at each flush, into a database in this folder
        #[arg(long, value_name = "DIR")]
        commit: Option<PathBuf>,
    },
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Floor { mount, commit } => floor::serve(&mount, commit.as_deref()),
        Command::Scrape => host::scrape(),
        Command::Seal => seal::run(),
        Command::Wire { host, guest, dir } => wire::run(&wire::Plan { host, guest, dir }),
        Command::Migration { runs, rate, chart } => migration::run(&migration::Plan {
            runs: runs.max(1),
            rate,
            chart,
        }),
        Command::Fleet {
            host,
            guest,
            vms,
            seconds,
            dir,
        } => fleet::run(&fleet::Plan {
            host,
            guest,
            dir,
            counts: vms.into_iter().map(|n| n.max(2)).collect(),
            each: Duration::from_secs(seconds.max(1)),
        }),
        Command::Context {
            guest,
            rounds,
            each_ms,
            dir,
            format,
        } => context::run(&context::Plan {
            guest,
            dir,
            rounds: rounds.max(1),
            each: Duration::from_millis(each_ms.max(100)),
            json: format == Format::Json,
        }),
        Command::Outbox { dir } => host::outbox(&dir),
        Command::Peers {
            rounds,
            idle_s,
            scrapes,
            stop_s,
        } => peers::run(&peers::Plan {
            rounds: rounds.max(1),
            idle: Duration::from_secs(idle_s.max(1)),
            scrapes: scrapes.max(1),
            stop: Duration::from_secs(stop_s.max(1)),
        }),
        Command::Ways {
            rounds,
            each_s,
            away_s,
        } => ways::run(&ways::Plan {
            rounds: rounds.max(1),
            each: Duration::from_secs(each_s.max(2)),
            away: Duration::from_secs(away_s.max(1)),
        }),
        Command::Store {
            guest,
            rounds,
            each_ms,
            dir,
            format,
        } => {
            let plan = writers::Plan {
                rounds: rounds.max(1),
                each: Duration::from_millis(each_ms.max(100)),
            };
            let measured = processes::measure(&guest, &dir, &plan)?;
            report::print(&measured, format == Format::Json);
            Ok(())
        }
    }
}
