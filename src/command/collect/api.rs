//! What is answered over HTTP: the page, `/metrics`, and questions to the database below `/api/v1/`, read-only. Each question
//! has a connection of its own, some at a time, on threads that messages do not wait for.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::{Request, Response, StatusCode};
use tokio::net::TcpListener;
use tokio::sync::{Mutex, Semaphore};
use tokio::task::JoinHandle;
use vmkpi::clock::Timestamp;
use vmkpi::web::{self, Pieces, answer};

use super::buckets::{self, Buckets};
use super::embedded::{self, guarded};
use super::metrics::Shared;
use super::page::{Answer, Format};
use super::query::{Question, VIEWS, limit_time};
use super::status::vms;
use crate::command::database::open_to_read;
use crate::command::print::Console;

/// Questions at once; more wait.
const MAX_QUESTIONS: usize = 4;
/// How long what the database says of the VMs serves further scrapes.
const VMS_LAST: Duration = Duration::from_secs(5);
/// Where the next page is.
const NEXT: &str = "vmkpi-next";
const JSON: &str = "application/json";
const CSV: &str = "text/csv; charset=utf-8; header=present";
const TEXT: &str = "text/plain; charset=utf-8";

struct Api {
    db: PathBuf,
    shared: Arc<Shared>,
    room: Semaphore,
    page: Mutex<Option<(Instant, String)>>,
}

/// Begins to serve at `address`, and says so.
///
/// # Errors
/// Nobody can listen there.
pub async fn start(
    address: SocketAddr,
    db: &Path,
    shared: Arc<Shared>,
    console: &mut Console,
) -> anyhow::Result<JoinHandle<std::convert::Infallible>> {
    let listener = TcpListener::bind(address).await;
    let listener = listener.with_context(|| format!("cannot listen on {address}"))?;
    let address = listener.local_addr()?;
    console.say(&format!("answering on http://{address}/"));
    let api = Arc::new(Api {
        db: db.to_owned(),
        shared,
        room: Semaphore::new(MAX_QUESTIONS),
        page: Mutex::new(None),
    });
    let respond = move |request: Request<Incoming>| {
        let api = Arc::clone(&api);
        async move { api.respond(&request).await }
    };
    Ok(tokio::spawn(web::serve(listener, Arc::default(), respond)))
}

impl Api {
    async fn respond(self: &Arc<Self>, request: &Request<Incoming>) -> Response<Pieces> {
        let query = request.uri().query().unwrap_or_default();
        match request.uri().path() {
            "/metrics" => self.metrics().await,
            "/-/healthy" => match self.shared.is_healthy() {
                true => answer(StatusCode::OK, TEXT, "healthy\n"),
                false => answer(
                    StatusCode::SERVICE_UNAVAILABLE,
                    TEXT,
                    "nothing is kept: see standard error\n",
                ),
            },
            "/api/v1" | "/api/v1/" => answer(StatusCode::OK, TEXT, index()),
            path => match path.strip_prefix("/api/v1/") {
                Some("buckets") => guarded(self.buckets(query).await),
                Some(name) => guarded(self.question(name, query).await),
                None => embedded::respond(request)
                    .unwrap_or_else(|| answer(StatusCode::NOT_FOUND, TEXT, index())),
            },
        }
    }

    async fn question(self: &Arc<Self>, name: &str, query: &str) -> Response<Pieces> {
        let question = match Question::parse(name, query) {
            Ok(question) => question,
            Err(None) => return answer(StatusCode::NOT_FOUND, TEXT, index()),
            Err(Some(wrong)) => return answer(StatusCode::BAD_REQUEST, TEXT, wrong + "\n"),
        };
        let format = question.format;
        let found = self.ask(move |connection| question.ask(connection)).await;
        found_answer(found, format)
    }

    async fn buckets(self: &Arc<Self>, query: &str) -> Response<Pieces> {
        let question = match Buckets::parse(query) {
            Ok(question) => question,
            Err(wrong) => return answer(StatusCode::BAD_REQUEST, TEXT, wrong + "\n"),
        };
        let format = question.format;
        let found = self.ask(move |connection| question.ask(connection)).await;
        found_answer(found, format)
    }

    /// Asks the database on a thread of its own.
    async fn ask<T: Send + 'static>(
        self: &Arc<Self>,
        ask: impl FnOnce(&rusqlite::Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, (StatusCode, String)> {
        let failed = |why: String| (StatusCode::INTERNAL_SERVER_ERROR, why);
        let _room = self
            .room
            .acquire()
            .await
            .map_err(|e| failed(e.to_string()))?;
        let db = self.db.clone();
        let asked = tokio::task::spawn_blocking(move || {
            let mut connection =
                open_to_read(&db, &super::SCHEMA).map_err(|e| failed(e.to_string()))?;
            limit_time(&mut connection).map_err(|e| failed(e.to_string()))?;
            ask(&connection).map_err(|error| match error.sqlite_error_code() {
                Some(rusqlite::ErrorCode::OperationInterrupted) => (
                    StatusCode::SERVICE_UNAVAILABLE,
                    "that takes too long; ask for one VM and point, or for less time".into(),
                ),
                _ => failed(error.to_string()),
            })
        });
        asked.await.unwrap_or_else(|e| Err(failed(e.to_string())))
    }

    async fn metrics(self: &Arc<Self>) -> Response<Pieces> {
        let mut page = self.page.lock().await;
        if let Some((made, text)) = &*page
            && made.elapsed() < VMS_LAST
        {
            return metrics_answer(text.clone());
        }
        let now = Timestamp::now();
        let vms = self.ask(move |connection| vms(connection, now)).await;
        // Without the database its own numbers say what is wrong.
        let text = self.shared.page(&vms.unwrap_or_default());
        *page = Some((Instant::now(), text.clone()));
        metrics_answer(text)
    }
}

fn metrics_answer(text: String) -> Response<Pieces> {
    answer(
        StatusCode::OK,
        "text/plain; version=0.0.4; charset=utf-8",
        text,
    )
}

fn found_answer(found: Result<Answer, (StatusCode, String)>, format: Format) -> Response<Pieces> {
    let found = match found {
        Ok(found) => found,
        Err((status, why)) => return answer(status, TEXT, why + "\n"),
    };
    let kind = match format {
        Format::Json => JSON,
        Format::Csv => CSV,
    };
    let mut response = answer(StatusCode::OK, kind, found.body);
    let next = found
        .next
        .and_then(|next| HeaderValue::from_str(&next).ok());
    if let Some(next) = next {
        response.headers_mut().insert(NEXT, next);
    }
    response
}

/// What there is to ask, for people.
fn index() -> String {
    let mut text = "/\n/metrics\n/-/healthy\n".to_owned();
    for view in &VIEWS {
        text.push_str(&format!("/api/v1/{}?{}\n", view.name, view.parameters()));
    }
    text.push_str(&format!("/api/v1/buckets?{}\n", buckets::PARAMETERS));
    text + "docs/COLLECT.md explains them\n"
}
