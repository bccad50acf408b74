//! The exporter: `/metrics`, `/-/healthy`, and an index. Connections, and the time they may take, are
//! bounded; scrapes that come together share one page. When there are too many connections the oldest
//! goes: whoever scrapes as it should is done long before it is the oldest.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use crate::metrics::Page;
use crate::snapshot::{Scraped, Snapshot};

/// The most connections at once: as many pages can be held by those who read slowly.
const MAX_CONNECTIONS: usize = 64;
/// How long a client may take to send its request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may last, however slowly its client reads.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);
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
    evicted: AtomicU64,
    accept_errors: AtomicU64,
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
        evicted: AtomicU64::new(0),
        accept_errors: AtomicU64::new(0),
        page_errors: AtomicU64::new(0),
        page_took_us: AtomicU64::new(0),
    });
    // Dropped with this future: what it aborts is nobody's any more.
    let mut open = Connections::default();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let served = connection(stream, Arc::clone(&exporter));
                let served = tokio::time::timeout(CONNECTION_TIMEOUT, served);
                let evicted = open.add(tokio::spawn(async move {
                    let _ = served.await;
                }));
                exporter.evicted.fetch_add(evicted, Relaxed);
            }
            Err(error) => {
                exporter.accept_errors.fetch_add(1, Relaxed);
                // Out of descriptors, for example: accepting at once again would only spin.
                tracing::debug!(%error, "a connection to the exporter was not accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Open connections, the oldest first.
#[derive(Default)]
struct Connections(VecDeque<JoinHandle<()>>);

impl Connections {
    /// Keeps a connection; how many had to go for it.
    fn add(&mut self, connection: JoinHandle<()>) -> u64 {
        self.0.retain(|open| !open.is_finished());
        let mut evicted = 0;
        while self.0.len() >= MAX_CONNECTIONS {
            self.0.pop_front().inspect(JoinHandle::abort);
            evicted += 1;
        }
        self.0.push_back(connection);
        evicted
    }
}

impl Drop for Connections {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

async fn connection(stream: TcpStream, exporter: Arc<Exporter>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let exporter = Arc::clone(&exporter);
        async move { Ok::<_, Infallible>(exporter.answer(&request).await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::trace!(%error, "a connection to the exporter broke");
    }
}

/// A body in pieces, sent as they are: a page of a thousand VMs is not copied into one.
#[derive(Clone, Default)]
struct Pieces(VecDeque<Bytes>);

impl From<&'static str> for Pieces {
    fn from(text: &'static str) -> Self {
        Self([Bytes::from_static(text.as_bytes())].into())
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.iter().map(|piece| piece.len() as u64).sum())
    }
}

impl Exporter {
    async fn answer(self: &Arc<Self>, request: &Request<Incoming>) -> Response<Pieces> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let status = StatusCode::METHOD_NOT_ALLOWED;
            let mut refused = text(status, "text/plain", "only GET and HEAD\n");
            let allowed = HeaderValue::from_static("GET, HEAD");
            refused.headers_mut().insert(ALLOW, allowed);
            return refused;
        }
        match request.uri().path() {
            "/metrics" => match self.page().await {
                Some(page) => {
                    self.scrapes.fetch_add(1, Relaxed);
                    text(
                        StatusCode::OK,
                        "text/plain; version=0.0.4; charset=utf-8",
                        page,
                    )
                }
                None => {
                    self.page_errors.fetch_add(1, Relaxed);
                    tracing::error!("the page of metrics could not be made");
                    let status = StatusCode::INTERNAL_SERVER_ERROR;
                    text(status, "text/plain", "no metrics; see the log\n")
                }
            },
            "/-/healthy" => text(StatusCode::OK, "text/plain", "healthy\n"),
            "/" => text(StatusCode::OK, "text/html; charset=utf-8", INDEX),
            _ => text(StatusCode::NOT_FOUND, "text/plain", "there is /metrics\n"),
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
            evicted: self.evicted.load(Relaxed),
            accept_errors: self.accept_errors.load(Relaxed),
            page_errors: self.page_errors.load(Relaxed),
            page_took: (took > 0).then(|| Duration::from_micros(took)),
        };
        let mut desk = self.desk.lock().unwrap_or_else(PoisonError::into_inner);
        snapshot.write(&mut desk);
        let page = Pieces(desk.take().into());
        let took = u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.page_took_us.store(took.max(1), Relaxed);
        page
    }
}

fn text(status: StatusCode, kind: &'static str, body: impl Into<Pieces>) -> Response<Pieces> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
