//! What arrives: messages at a subscriber of the broker's, or pages that a scraper gets.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::Value;
use vmkpi::message::{Body, Event, SampleBody};
use vmkpi::value::Value as Cell;
use vmkpi_tests::chain::http_get;
use vmkpi_tests::mqtt::{Received, Subscriber};

/// What has been seen so far.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// When each value was seen first.
    pub first: BTreeMap<u64, Instant>,
    /// Values that came a second time, as a message.
    pub twice: u64,
    /// Pages or messages, after the first value, without one, with half of one, or with one that was never written.
    pub torn: u64,
}

impl Seen {
    fn take(&mut self, at: Instant, value: Option<(u64, f64)>) {
        match value {
            Some((n, half)) if half == n as f64 + 0.5 => {
                if self.first.insert(n, at).is_some() {
                    self.twice += 1;
                }
            }
            // The first page may be of before the first value.
            _ => self.torn += u64::from(!self.first.is_empty()),
        }
    }
}

/// What the payload of a message holds.
pub type Reader = fn(&[u8]) -> Vec<Option<(u64, f64)>>;

/// Who sees.
pub enum Eye {
    /// A subscriber, and how it reads a message.
    Messages(Subscriber, Reader),
    /// A scraper.
    Pages(Scraper),
}

impl Eye {
    /// What has been seen so far.
    pub fn seen(&self) -> Seen {
        match self {
            Self::Messages(subscriber, read) => {
                let mut seen = Seen::default();
                for Received { at, payload, .. } in subscriber.messages(0) {
                    for value in read(&payload) {
                        seen.take(at, value);
                    }
                }
                seen
            }
            Self::Pages(scraper) => {
                let seen = scraper.seen.lock();
                let mut seen = seen.unwrap_or_else(PoisonError::into_inner).clone();
                // A page shows the last value again and again.
                seen.twice = 0;
                seen
            }
        }
    }

    /// Nobody scrapes, or somebody does again. A broker is ended instead.
    pub fn set_away(&self, away: bool) {
        if let Self::Pages(scraper) = self {
            scraper.away.store(away, Relaxed);
        }
    }
}

/// Asks for a page again and again, as Prometheus does.
pub struct Scraper {
    seen: Arc<Mutex<Seen>>,
    away: Arc<AtomicBool>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Scraper {
    /// Scrapes `address` each `every`.
    pub fn start(address: SocketAddr, every: Duration) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (away, ended) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicBool::new(false)),
        );
        let of_thread = (Arc::clone(&seen), Arc::clone(&away), Arc::clone(&ended));
        let thread = std::thread::spawn(move || {
            let (seen, away, ended) = of_thread;
            while !ended.load(Relaxed) {
                let asked = Instant::now();
                if !away.load(Relaxed) {
                    let page = http_get(address, "/metrics");
                    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                    seen.take(Instant::now(), page.ok().as_deref().and_then(of_page));
                }
                std::thread::sleep(every.saturating_sub(asked.elapsed()));
            }
        });
        Self {
            seen,
            away,
            ended,
            thread: Some(thread),
        }
    }
}

impl Drop for Scraper {
    fn drop(&mut self) {
        self.ended.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// `app_n` and `app_half`, with whatever labels.
fn of_page(page: &str) -> Option<(u64, f64)> {
    let of = |name: &str| -> Option<f64> {
        let is = |line: &&str| line.starts_with(name) && line[name.len()..].starts_with([' ', '{']);
        let line = page.lines().find(is)?;
        line.rsplit_once(' ')?.1.parse().ok()
    };
    Some((of("app_n")? as u64, of("app_half")?))
}

/// What an application publishes itself: `{"n":1,"half":1.5}`.
pub fn of_json(payload: &[u8]) -> Vec<Option<(u64, f64)>> {
    let read = serde_json::from_slice::<Value>(payload).ok();
    vec![read.and_then(|v| Some((v["n"].as_u64()?, v["half"].as_f64()?)))]
}

/// collectd's `time:value`, of one value alone.
pub fn of_collectd(payload: &[u8]) -> Vec<Option<(u64, f64)>> {
    let text = std::str::from_utf8(payload).unwrap_or_default();
    let value = text.trim_end_matches(['\0', '\n']).rsplit_once(':');
    let n = value.and_then(|(_, n)| n.parse::<f64>().ok());
    vec![n.map(|n| (n as u64, n + 0.5))]
}

/// A message of vmkpi-host's: many samples, or none.
pub fn of_vmkpi(payload: &[u8]) -> Vec<Option<(u64, f64)>> {
    let Ok(Event {
        body: Body::Raw(samples),
        ..
    }) = Event::decode(payload)
    else {
        return Vec::new();
    };
    let read = |body: SampleBody| match body {
        SampleBody::Values(values) => match values.row.as_slice() {
            [Cell::Integer(n), Cell::Real(half)] => Some((u64::try_from(*n).ok()?, *half)),
            _ => None,
        },
        SampleBody::Data(_) => None,
    };
    samples.into_iter().map(|s| read(s.body)).collect()
}

/// Whether a page or a message can be had at all.
///
/// # Errors
/// It cannot.
pub fn answers(address: SocketAddr) -> Result<()> {
    http_get(address, "/metrics").map(|_| ())
}
