//! What is answered over HTTP: `/metrics` and `/-/healthy`.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use vmkpi::web::{self, Pieces, answer};

use super::metrics::Shared;

const TEXT: &str = "text/plain; charset=utf-8";
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Begins to serve at `address`, and says so.
///
/// # Errors
/// Nobody can listen there.
pub async fn start(
    address: SocketAddr,
    shared: Arc<Shared>,
) -> anyhow::Result<JoinHandle<Infallible>> {
    let listener = TcpListener::bind(address).await;
    let listener = listener.with_context(|| format!("cannot listen on {address}"))?;
    let address = listener.local_addr()?;
    tracing::info!("answering on http://{address}/");
    let respond = move |request: Request<Incoming>| {
        let answer = respond(request.uri().path(), &shared);
        async move { answer }
    };
    Ok(tokio::spawn(web::serve(listener, Arc::default(), respond)))
}

fn respond(path: &str, shared: &Shared) -> Response<Pieces> {
    match path {
        "/metrics" => answer(StatusCode::OK, METRICS, shared.page()),
        "/-/healthy" => match shared.is_healthy() {
            true => answer(StatusCode::OK, TEXT, "healthy\n"),
            false => answer(
                StatusCode::SERVICE_UNAVAILABLE,
                TEXT,
                "a broker is away, or nothing is kept: see the log\n",
            ),
        },
        "/" => answer(StatusCode::OK, TEXT, "vmkpi relay: /metrics, /-/healthy\n"),
        _ => answer(
            StatusCode::NOT_FOUND,
            TEXT,
            "there are /metrics and /-/healthy\n",
        ),
    }
}
