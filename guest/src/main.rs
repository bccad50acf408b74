//! `vmkpi-guest`: the door. Reads the command line and the environment, and calls the library.

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::prelude::*;
use vmkpi::link::LinkUrl;
use vmkpi_guest::config::{AllowOther, Limits, MAX_STORE_BYTES, RunConfig};
use vmkpi_guest::{daemon, status};

/// Carries an application's KPIs out of a virtual machine: mounts a partition in which each closed file
/// becomes a row on disk, and hands the rows to the host until they are acknowledged.
#[derive(Parser)]
#[command(name = "vmkpi-guest", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// What is logged to standard error: error, warn, info, debug, or TARGET=LEVEL, with commas
    #[arg(
        long,
        global = true,
        env = "RUST_LOG",
        default_value = "warn",
        value_name = "FILTER"
    )]
    log_level: String,
}

#[derive(Subcommand)]
enum Command {
    /// Mount the partition and serve it until SIGTERM
    Run(Box<Run>),
    /// Show what is stored, what was refused and why, and what to do
    Status(StatusArgs),
}

#[derive(Parser)]
struct Run {
    /// Where to mount the partition; made if it is not there
    #[arg(long, env = "VMKPI_GUEST_MOUNT", value_name = "DIR")]
    mount: PathBuf,
    /// Where the databases are; made if it is not there
    #[arg(long, env = "VMKPI_GUEST_STATE", value_name = "DIR")]
    state: PathBuf,
    /// Where the host is: virtio-serial:NAME, vsock:2:PORT or unix:/PATH
    #[arg(long, env = "VMKPI_GUEST_LINK", value_name = "URL", default_value_t)]
    link: LinkUrl,
    /// Who may use the partition
    #[arg(long, env = "VMKPI_GUEST_ALLOW_OTHER", value_enum, default_value_t)]
    allow_other: AllowOther,
    #[command(flatten)]
    limits: LimitArgs,
}

#[derive(Parser)]
struct LimitArgs {
    /// Bytes of one store, at most 1048576; more is EFBIG
    #[arg(long, env = "VMKPI_GUEST_MAX_STORE_BYTES", default_value_t = Limits::default().store_bytes as u64,
          value_parser = clap::value_parser!(u64).range(1..=MAX_STORE_BYTES as u64), value_name = "N")]
    max_store_bytes: u64,
    /// Columns of one table; more is EFBIG
    #[arg(long, env = "VMKPI_GUEST_MAX_COLUMNS", default_value_t = Limits::default().columns as u64,
          value_parser = clap::value_parser!(u64).range(1..=1900), value_name = "N")]
    max_columns: u64,
    /// Names in each directory, removed ones included; more is ENOSPC
    #[arg(long, env = "VMKPI_GUEST_MAX_FILES", default_value_t = Limits::default().files as u64,
          value_parser = clap::value_parser!(u64).range(1..=10_000), value_name = "N")]
    max_files: u64,
    /// Bytes of each database; more is ENOSPC
    #[arg(long, env = "VMKPI_GUEST_MAX_DATABASE_BYTES", default_value_t = Limits::default().database_bytes,
          value_parser = clap::value_parser!(u64).range(65_536..), value_name = "N")]
    max_database_bytes: u64,
    /// Acknowledged rows to keep of each table; rows that nobody has acknowledged are never dropped
    #[arg(long, env = "VMKPI_GUEST_RETAIN_ROWS", default_value_t = Limits::default().retain_rows, value_name = "N")]
    retain_rows: u64,
}

#[derive(Parser)]
struct StatusArgs {
    /// Where the databases are
    #[arg(long, env = "VMKPI_GUEST_STATE", value_name = "DIR")]
    state: PathBuf,
    /// A table for people, or one JSON object for programs
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Clone, Copy, Default, ValueEnum)]
enum Format {
    #[default]
    Table,
    Json,
}

impl Run {
    fn config(self) -> RunConfig {
        let size = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        RunConfig {
            mount: self.mount,
            state: self.state,
            link: self.link,
            allow_other: self.allow_other,
            limits: Limits {
                store_bytes: size(self.limits.max_store_bytes),
                columns: size(self.limits.max_columns),
                files: size(self.limits.max_files),
                database_bytes: self.limits.max_database_bytes,
                retain_rows: self.limits.retain_rows,
                ..Limits::default()
            },
        }
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    // Not EnvFilter: its regular expressions would be a tenth of the program.
    let filter = match cli.log_level.parse::<Targets>() {
        // fuser warns that it cannot unmount what has been detached already.
        Ok(filter) => filter.with_target("fuser", LevelFilter::ERROR),
        Err(error) => {
            return fail(
                &anyhow::anyhow!("--log-level {}: {error}", cli.log_level),
                2,
            );
        }
    };
    let log = tracing_subscriber::fmt::layer()
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    tracing_subscriber::registry()
        .with(log.with_filter(filter))
        .init();
    let done = match cli.command {
        Command::Run(run) => daemon::run(&run.config()),
        Command::Status(args) => show(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error, 1),
    }
}

fn show(args: &StatusArgs) -> anyhow::Result<()> {
    let status = status::gather(&args.state)?;
    let text = match args.format {
        Format::Table => status::render(&status),
        Format::Json => serde_json::to_string(&status)? + "\n",
    };
    match std::io::stdout().write_all(text.as_bytes()) {
        // `vmkpi-guest status | head` is no failure.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

fn fail(error: &anyhow::Error, code: u8) -> ExitCode {
    // The last resort: where standard error is closed there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "vmkpi-guest: {error:#}");
    ExitCode::from(code)
}
