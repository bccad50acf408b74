//! What of the log is not worth its line here; the rest is [`vmkpi::logging`].

use tracing_subscriber::filter::{LevelFilter, Targets};
use vmkpi::logging;

/// The filter that a log level means.
///
/// # Errors
/// Why it is none.
pub fn filter(text: &str) -> Result<Targets, String> {
    // fuser warns that it cannot unmount what has been detached already, and calls it an error when the
    // kernel no longer waits for an answer: its process was killed, or the partition was unmounted.
    Ok(logging::filter(text)?
        .with_target("fuser", LevelFilter::ERROR)
        .with_target("fuser::reply", LevelFilter::OFF))
}
