//! libvirt's event loop: one for the process, registered before any connection is opened, run on a
//! thread of its own for as long as the process lives.

use std::sync::OnceLock;
use std::time::Duration;

use super::LibvirtError;

static STARTED: OnceLock<Result<(), String>> = OnceLock::new();

/// Starts the loop, once; later calls find it running.
pub(super) fn start() -> Result<(), LibvirtError> {
    let started = STARTED.get_or_init(|| start_once().map_err(|e| e.to_string()));
    started
        .clone()
        .map_err(|e| LibvirtError::Thread(std::io::Error::other(e)))
}

fn start_once() -> Result<(), LibvirtError> {
    // Errors are returned by each call; libvirt would print them a second time to stderr.
    virt::error::clear_error_callback();
    virt::event::event_register_default_impl()?;
    std::thread::Builder::new()
        .name("libvirt-events".into())
        .spawn(|| {
            loop {
                if let Err(error) = virt::event::event_run_default_impl() {
                    tracing::warn!(%error, "libvirt's event loop failed once");
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
        })?;
    Ok(())
}
