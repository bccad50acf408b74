//! The exporter: `/metrics`, `/-/healthy`, and an index. Connections, and the time they may take, are
//! bounded ([`vmkpi::web`]); scrapes that come together share one page.

use std::convert::Infallible;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use vmkpi::web::{self, Pieces, Served, answer};

use crate::metrics::Page;
use crate::snapshot::{Scraped, Snapshot};

/// How long a page serves other scrapes as well.
const PAGE_LASTS: Duration = Duration::from_millis(200);

const INDEX: &str = concat!(
    "<!DOCTYPE html><html lang=\"en\"><title>vmkpi-host</title><h1>vmkpi-host ",
    env!("CARGO_PKG_VERSION"),
    "</h1><p><a href=\"/metrics\">metrics</a></p><p><a href=\"/-/healthy\">healthy</a></p></html>\n"
);

/// Makes the snapshot of now; must not ask anybody outside the process.
pub type Source = dyn Fn() -> Snapshot + Send + Sync;

struct Exporter {
    source: Box<Source>,
    page: Mutex<Option<(Instant, Pieces)>>,
    /// Where pages are written: memory that is used again, as a large page is mostly fresh memory.
    desk: std::sync::Mutex<Page>,
    scrapes: AtomicU64,
    served: Arc<Served>,
    page_errors: AtomicU64,
    page_took_us: AtomicU64,
}

/// Serves until dropped.
pub async fn serve(listener: TcpListener, source: Box<Source>) -> Infallible {
    let exporter = Arc::new(Exporter {
        source,
        page: Mutex::new(None),
        desk: std::sync::Mutex::default(),
        scrapes: AtomicU64::new(0),
        served: Arc::default(),
        page_errors: AtomicU64::new(0),
        page_took_us: AtomicU64::new(0),
    });
    let served = Arc::clone(&exporter.served);
    let respond = move |request: Request<Incoming>| {
        let exporter = Arc::clone(&exporter);
        async move { exporter.answer(&request).await }
    };
    web::serve(listener, served, respond).await
}

impl Exporter {
    async fn answer(self: &Arc<Self>, request: &Request<Incoming>) -> Response<Pieces> {
        match request.uri().path() {
            "/metrics" => match self.page().await {
                Some(page) => {
                    self.scrapes.fetch_add(1, Relaxed);
                    answer(
                        StatusCode::OK,
                        "text/plain; version=0.0.4; charset=utf-8",
                        page,
                    )
                }
                None => {
                    self.page_errors.fetch_add(1, Relaxed);
                    tracing::error!("the page of metrics could not be made");
                    let status = StatusCode::INTERNAL_SERVER_ERROR;
                    answer(status, "text/plain", "no metrics; see the log\n")
                }
            },
            "/-/healthy" => answer(StatusCode::OK, "text/plain", "healthy\n"),
            "/" => answer(StatusCode::OK, "text/html; charset=utf-8", INDEX),
            _ => answer(StatusCode::NOT_FOUND, "text/plain", "there is /metrics\n"),
        }
    }

    /// The page; `None` if making it panicked.
    async fn page(self: &Arc<Self>) -> Option<Pieces> {
        let mut kept = self.page.lock().await;
        if let Some((made, page)) = &*kept
            && made.elapsed() < PAGE_LASTS
        {
            return Some(page.clone());
        }
        // Its memory is free then, if nobody reads it any more.
        *kept = None;
        let this = Arc::clone(self);
        // A thousand VMs take a while to write down; links and publisher go on meanwhile.
        let page = tokio::task::spawn_blocking(move || this.write())
            .await
            .ok()?;
        *kept = Some((Instant::now(), page.clone()));
        Some(page)
    }

    fn write(&self) -> Pieces {
        let begin = Instant::now();
        let mut snapshot = (self.source)();
        let took = self.page_took_us.load(Relaxed);
        snapshot.exporter = Scraped {
            scrapes: self.scrapes.load(Relaxed),
            evicted: self.served.evicted.load(Relaxed),
            accept_errors: self.served.accept_errors.load(Relaxed),
            page_errors: self.page_errors.load(Relaxed),
            page_took: (took > 0).then(|| Duration::from_micros(took)),
        };
        let mut desk = self.desk.lock().unwrap_or_else(PoisonError::into_inner);
        snapshot.write(&mut desk);
        let page = Pieces::from(desk.take());
        let took = u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.page_took_us.store(took.max(1), Relaxed);
        page
    }
}
