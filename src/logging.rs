//! What is logged, and how: for people with time and colour, for the journal without either.

use std::fmt;
use std::fs::File;
use std::io::IsTerminal as _;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::{Format, Full, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::prelude::*;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{Registry, reload};

/// The filter that a log level means.
///
/// # Errors
/// Why it is none.
pub fn filter(text: &str) -> Result<Targets, String> {
    // Not EnvFilter: its regular expressions would be a tenth of the program.
    text.parse().map_err(|error| {
        format!("{text:?} is no log filter ({error}): write warn, info, debug, or TARGET=LEVEL")
    })
}

/// Changes the filter of a program that runs.
#[derive(Clone, Debug)]
pub struct LogLevel(reload::Handle<Targets, Registry>);

impl LogLevel {
    /// Logs by `filter` from now on.
    pub fn set(&self, filter: Targets) {
        // It fails only when there is no log any more.
        let _ = self.0.reload(filter);
    }
}

/// Logs to standard error. Called once.
pub fn start(chosen: Targets) -> LogLevel {
    let (chosen, handle) = reload::Layer::new(chosen);
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    if to_journal() {
        let journal = Journal(Format::default().without_time().with_ansi(false));
        let layer = layer.with_ansi(false).event_format(journal);
        tracing_subscriber::registry()
            .with(layer.with_filter(chosen))
            .init();
    } else {
        let layer = layer.with_ansi(std::io::stderr().is_terminal());
        tracing_subscriber::registry()
            .with(layer.with_filter(chosen))
            .init();
    }
    LogLevel(handle)
}

/// Whether standard error is the journal (systemd.exec(5), `JOURNAL_STREAM`): it has its own time.
fn to_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else {
        return false;
    };
    let stderr = std::io::stderr().as_fd().try_clone_to_owned();
    let Ok(stderr) = stderr.and_then(|fd| File::from(fd).metadata()) else {
        return false;
    };
    stream == format!("{}:{}", stderr.dev(), stderr.ino())
}

/// Events with a priority in front that the journal understands (sd-daemon(3)).
struct Journal(Format<Full, ()>);

impl<S, N> FormatEvent<S, N> for Journal
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let priority = match *event.metadata().level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            _ => 7,
        };
        write!(writer, "<{priority}>")?;
        self.0.format_event(context, writer, event)
    }
}
