//! What of the log is not worth its line here; the rest is [`vmkpi::logging`].

use tracing_subscriber::filter::Targets;
use vmkpi::logging;

use vmkpi::broker::publisher::QUIET;

/// The filter that a log level means. What it says of rumqttc comes later than what we say, and counts.
///
/// # Errors
/// Why it is none.
pub fn filter(text: &str) -> Result<Targets, String> {
    logging::filter(text)?;
    logging::filter(&format!("{QUIET},{text}"))
}
