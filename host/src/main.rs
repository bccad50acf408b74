//! `vmkpi-host`: a door. Reads the command line, sets up the log, and runs the daemon until it is told
//! to stop. Exit status 0, 1 (it failed), 2 (usage).

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::Parser as _;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;
use vmkpi_host::cli::{Cli, Command};

fn main() -> ExitCode {
    let Command::Run(run) = Cli::parse().command;
    // What is said of rumqttc on the command line comes later and counts.
    let log = format!("{},{}", vmkpi_host::mqtt::QUIET, run.log_level);
    let filter = match EnvFilter::builder().parse(log) {
        Ok(filter) => filter,
        Err(error) => {
            eprintln!("vmkpi-host: --log-level: {error}");
            return ExitCode::from(2);
        }
    };
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_env_filter(filter)
        .with_target(false)
        .init();
    match run.config().and_then(run_until_signal) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vmkpi-host: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run_until_signal(config: vmkpi_host::daemon::Config) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let shutdown = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        vmkpi_host::daemon::run(config, shutdown).await
    });
    // A file system that hangs under a descriptor must not hold up the end.
    runtime.shutdown_background();
    result
}
