//! The exporter: `/metrics`, `/-/healthy`, and an index. Connections, and the time they may take to
//! ask, are bounded; scrapes that come together share one page.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, Semaphore};

use crate::snapshot::Snapshot;

/// The most connections at once; more wait.
const MAX_CONNECTIONS: usize = 64;
/// How long a client may take to send its request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may last, however slowly its client reads.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a page serves other scrapes as well.
const PAGE_LASTS: Duration = Duration::from_millis(200);

const INDEX: &str = "<!DOCTYPE html><title>vmkpi-host</title><h1>vmkpi-host</h1>\
                     <p><a href=\"/metrics\">metrics</a></p>\n";

/// Makes the snapshot of now; must not ask anybody outside the process.
pub type Source = dyn Fn() -> Snapshot + Send + Sync;

struct Exporter {
    source: Box<Source>,
    page: Mutex<Option<(Instant, Bytes)>>,
}

/// Serves until dropped.
pub async fn serve(listener: TcpListener, source: Box<Source>) -> Infallible {
    let exporter = Arc::new(Exporter {
        source,
        page: Mutex::new(None),
    });
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let permit = Arc::clone(&connections).acquire_owned().await;
        match listener.accept().await {
            Ok((stream, _)) => {
                let exporter = Arc::clone(&exporter);
                tokio::spawn(async move {
                    let _permit = permit;
                    let served = connection(stream, exporter);
                    let _ = tokio::time::timeout(CONNECTION_TIMEOUT, served).await;
                });
            }
            Err(error) => {
                // Out of descriptors, for example: accepting at once again would only spin.
                tracing::debug!(%error, "a connection to the exporter was not accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
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

impl Exporter {
    async fn answer(self: &Arc<Self>, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return text(
                StatusCode::METHOD_NOT_ALLOWED,
                "text/plain",
                "only GET\n".into(),
            );
        }
        match request.uri().path() {
            "/metrics" => match self.page().await {
                Ok(page) => text(
                    StatusCode::OK,
                    "text/plain; version=0.0.4; charset=utf-8",
                    page,
                ),
                Err(error) => {
                    tracing::error!(%error, "the page of metrics could not be made");
                    let status = StatusCode::INTERNAL_SERVER_ERROR;
                    text(status, "text/plain", "no metrics; see the log\n".into())
                }
            },
            "/-/healthy" => text(StatusCode::OK, "text/plain", "healthy\n".into()),
            "/" => text(StatusCode::OK, "text/html; charset=utf-8", INDEX.into()),
            _ => text(
                StatusCode::NOT_FOUND,
                "text/plain",
                "there is /metrics\n".into(),
            ),
        }
    }

    async fn page(self: &Arc<Self>) -> Result<Bytes, String> {
        let mut kept = self.page.lock().await;
        if let Some((made, page)) = &*kept
            && made.elapsed() < PAGE_LASTS
        {
            return Ok(page.clone());
        }
        let this = Arc::clone(self);
        // A thousand VMs take a while to write down; links and publisher go on meanwhile.
        let page = tokio::task::spawn_blocking(move || (this.source)().page().render());
        let page = page.await.map_err(|e| e.to_string())?;
        let page = Bytes::from(page.map_err(|e| e.to_string())?);
        *kept = Some((Instant::now(), page.clone()));
        Ok(page)
    }
}

fn text(status: StatusCode, kind: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
