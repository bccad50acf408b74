//! The demo's application: what any program in a VM would do, plain file I/O into the partition. It
//! knows nothing of vmkpi.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;

/// Between two measurements.
const PACE: Duration = Duration::from_millis(250);

/// A thread that writes KPIs until it is dropped. It is not waited for: its last write ends, with an
/// error at worst, when the partition goes.
pub struct Application {
    over: Arc<AtomicBool>,
}

impl Application {
    /// Begins to write files into `folder`.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub fn start(folder: &Path) -> Result<Self> {
        let over = Arc::new(AtomicBool::new(false));
        let (seen, folder) = (Arc::clone(&over), folder.to_owned());
        std::thread::Builder::new()
            .name("application".into())
            .spawn(move || {
                let begin = Instant::now();
                while !seen.load(Ordering::Relaxed) {
                    // A shop goes on selling when its measurements cannot be stored.
                    let _ = measure(&folder, begin.elapsed().as_secs_f64());
                    std::thread::sleep(PACE);
                }
            })?;
        Ok(Self { over })
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

/// One measurement of a shop whose visitors come and go in waves of half a minute.
fn measure(folder: &Path, seconds: f64) -> std::io::Result<()> {
    let wave = (seconds * std::f64::consts::TAU / 30.0).sin();
    let ripple = (seconds * 7.3).sin();
    let users = (120.0 + 60.0 * wave + 8.0 * ripple).round();
    let rate = users * (0.8 + 0.1 * ripple);
    let response = 0.020 + 0.0004 * users + 0.004 * ripple.abs();
    write(
        folder.join("web"),
        &format!(
            "current_users,requests_per_second,response_seconds\n{users},{rate:.2},{response:.4}\n"
        ),
    )?;
    let waiting = (users / 10.0 - 6.0).max(0.0).round();
    write(
        folder.join("orders"),
        &format!("waiting,state\n{waiting},{}\n", state(waiting)),
    )
}

fn state(waiting: f64) -> &'static str {
    if waiting > 8.0 { "busy" } else { "calm" }
}

fn write(path: PathBuf, text: &str) -> std::io::Result<()> {
    std::fs::write(path, text)
}
