//! A small web server: HTTP/1.1, GET and HEAD, with bounded connections and times. When there are too many
//! connections the oldest goes: whoever asks as it should is done long before it is the oldest.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// The most connections at once: as many answers can be held by those who read slowly.
const MAX_CONNECTIONS: usize = 64;
/// How long a client may take to send its request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may last, however slowly its client reads.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);
/// After this a connection takes no further request, so that none is cut off that is answered in time.
const LAST_REQUEST: Duration = Duration::from_secs(15);

/// What the server has done.
#[derive(Debug, Default)]
pub struct Served {
    /// Connections closed because there were too many.
    pub evicted: AtomicU64,
    /// Connections that could not be accepted.
    pub accept_errors: AtomicU64,
}

/// A body in pieces, sent as they are: a large page is not copied into one.
#[derive(Clone, Debug, Default)]
pub struct Pieces(VecDeque<Bytes>);

impl From<&'static str> for Pieces {
    fn from(text: &'static str) -> Self {
        Self([Bytes::from_static(text.as_bytes())].into())
    }
}

impl From<String> for Pieces {
    fn from(text: String) -> Self {
        Self([Bytes::from(text)].into())
    }
}

impl From<Vec<Bytes>> for Pieces {
    fn from(pieces: Vec<Bytes>) -> Self {
        Self(pieces.into())
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

/// An answer.
pub fn answer(status: StatusCode, kind: &'static str, body: impl Into<Pieces>) -> Response<Pieces> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// Serves until dropped: `respond` makes the answer to each GET and HEAD.
pub async fn serve<R, F>(listener: TcpListener, served: Arc<Served>, respond: R) -> Infallible
where
    R: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Response<Pieces>> + Send + 'static,
{
    // Dropped with this future: what it aborts is nobody's any more.
    let mut open = Connections::default();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let connection = connection(stream, respond.clone());
                let connection = tokio::time::timeout(CONNECTION_TIMEOUT, connection);
                let evicted = open.add(tokio::spawn(async move {
                    let _ = connection.await;
                }));
                served.evicted.fetch_add(evicted, Relaxed);
            }
            Err(_) => {
                served.accept_errors.fetch_add(1, Relaxed);
                // Out of descriptors, for example: accepting at once again would only spin.
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

async fn connection<R, F>(stream: TcpStream, respond: R)
where
    R: Fn(Request<Incoming>) -> F + Clone,
    F: Future<Output = Response<Pieces>>,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let respond = respond.clone();
        async move {
            Ok::<_, Infallible>(match *request.method() {
                Method::GET | Method::HEAD => respond(request).await,
                _ => only_get(),
            })
        }
    });
    // A connection that breaks is its client's affair.
    let mut connection = std::pin::pin!(
        hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(REQUEST_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service)
    );
    if tokio::time::timeout(LAST_REQUEST, connection.as_mut())
        .await
        .is_err()
    {
        connection.as_mut().graceful_shutdown();
        let _ = connection.await;
    }
}

fn only_get() -> Response<Pieces> {
    let status = StatusCode::METHOD_NOT_ALLOWED;
    let mut refused = answer(status, "text/plain", "only GET and HEAD\n");
    let allowed = HeaderValue::from_static("GET, HEAD");
    refused.headers_mut().insert(ALLOW, allowed);
    refused
}
