//! The daemon as a service: its log, its signals, and the service manager.
//!
//! ```text
//! settings ──> check ──> daemon ──> READY ── SIGHUP ──> RELOADING ── settings, check ──> READY
//!                                     │                  wrong: said, and nothing changes
//!                                     └── SIGTERM, SIGINT ──> STOPPING ──> exit
//! ```

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use nix::time::{ClockId, clock_gettime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use vmkpi::logging::{self, LogLevel};
use vmkpi::notify::Notifier;

use crate::daemon::{self, Desk, Order};
use crate::reload::{Changes, Decision, decide};
use crate::settings::{CATALOGUE, Checked, Problems, Settings, Sources, check};

/// How long reading the configuration and what it names may take while the daemon runs.
const LOAD_TIMEOUT: Duration = Duration::from_secs(30);

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// The configuration is wrong ([`Problems`]), or something the daemon cannot do without is not there.
pub fn run(sources: Sources) -> anyhow::Result<()> {
    let (settings, checked) = load(&sources)?;
    let filter = crate::logging::filter(&settings.log_level).map_err(anyhow::Error::msg)?;
    let level = logging::start(filter);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(async {
        let notifier = Arc::new(Notifier::from_environment());
        let (orders, inbox) = mpsc::channel(1);
        let reloader = Reloader {
            sources: Arc::new(sources),
            settings,
            level,
            notifier: Arc::clone(&notifier),
            orders,
        };
        // Before anything is started, so that none of them is missed.
        let (mut terminate, mut interrupt) =
            (of(SignalKind::terminate())?, of(SignalKind::interrupt())?);
        let hangup = of(SignalKind::hangup())?;
        let reloading = tokio::spawn(reloader.run(hangup));
        let shutdown = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        let desk = Desk::new(inbox, notifier);
        let result = daemon::serve(checked.config, desk, shutdown).await;
        reloading.abort();
        result
    });
    // A file system that hangs under a descriptor must not hold up the end.
    runtime.shutdown_background();
    result
}

fn of(kind: SignalKind) -> anyhow::Result<Signal> {
    signal(kind).context("the kernel has no place for a signal's handler")
}

fn load(sources: &Sources) -> Result<(Settings, Checked), Problems> {
    let (loaded, problems) = CATALOGUE.read(sources);
    let checked = check(&loaded.settings, problems)?;
    Ok((loaded.settings, checked))
}

/// SIGHUP.
struct Reloader {
    sources: Arc<Sources>,
    /// What is in force.
    settings: Settings,
    level: LogLevel,
    notifier: Arc<Notifier>,
    orders: mpsc::Sender<Order>,
}

impl Reloader {
    async fn run(mut self, mut hangup: Signal) {
        while hangup.recv().await.is_some() {
            self.notifier.reloading(monotonic());
            let said = self.reload().await;
            self.notifier.ready(said);
        }
    }

    async fn reload(&mut self) -> &'static str {
        let sources = Arc::clone(&self.sources);
        // Files may be slow, and the daemon goes on meanwhile.
        let loaded = tokio::task::spawn_blocking(move || load(&sources));
        let Ok(loaded) = timeout(LOAD_TIMEOUT, loaded).await else {
            tracing::error!(
                "the configuration is not read anew, and nothing changes: a file that it names cannot be read in time"
            );
            return "the configuration could not be read in time, and the one before stays in force";
        };
        match loaded {
            Ok(Ok((new, checked))) => {
                self.take_over(&new, checked).await;
                "the configuration was read anew"
            }
            Ok(Err(problems)) => {
                tracing::error!(
                    "the configuration is not read anew, and nothing changes: correct it, and send SIGHUP again"
                );
                for problem in problems.0 {
                    tracing::error!("{problem}");
                }
                "the configuration is wrong, and the one before stays in force"
            }
            Err(error) => {
                tracing::error!(%error, "the configuration is not read anew");
                "the configuration could not be read anew"
            }
        }
    }

    async fn take_over(&mut self, new: &Settings, checked: Checked) {
        let Decision {
            settings,
            changed,
            after_restart,
        } = decide(&self.settings, new);
        for key in &after_restart {
            tracing::warn!(key, "{key} changes when vmkpi-host is restarted");
        }
        if let Ok(filter) = crate::logging::filter(&settings.log_level) {
            self.level.set(filter);
        }
        let (done, told) = oneshot::channel();
        let changes = Box::new(Changes::of(checked));
        if self.orders.send(Order::Reload(changes, done)).await.is_ok() {
            // The daemon that goes down meanwhile does not answer.
            let _ = told.await;
        }
        self.settings = settings;
        let changed = match changed.is_empty() {
            true => "nothing".to_owned(),
            false => changed.join(", "),
        };
        tracing::info!(changed, "the configuration was read anew");
    }
}

fn monotonic() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}
