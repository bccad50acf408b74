//! The host's parts over real ones: a real mosquitto, libvirt's test driver, Unix sockets. Tests wait
//! for conditions, with generous deadlines, and never for time to pass.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests: a panic is a failed test with a line number"
)]

mod exporter;
mod history;
mod hostile;
mod libvirt;
mod metadata;
mod neighbours;
mod operator;
mod publisher;
mod residences;
mod support;
mod whole;
