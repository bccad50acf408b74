//! The socket in the state directory through which a running daemon is asked: one line of JSON says what for, the answer is
//! one, too, and the connection is closed. Who asks for nothing is told how everything is. Only the daemon's user and root get there: the
//! directory is theirs alone.

use std::fs::Permissions;
use std::future::Future;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixListener;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use vmkpi::clock::Timestamp;
use vmkpi::context::Class;

use super::{Status, advice};
use crate::context::Answer;

/// The socket's name in the state directory.
const SOCKET: &str = "control.sock";
/// Who asks at once; more wait.
const MAX_ASKING: usize = 4;
/// How long one may take to say what for.
const READ_TIMEOUT: Duration = Duration::from_secs(1);
/// The longest request that is read, in bytes.
const MAX_REQUEST_BYTES: u64 = 4096;
/// How long one may take to read.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the daemon may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest answer that is read, in bytes: some ten thousand VMs.
const MAX_ANSWER_BYTES: u64 = 64 << 20;

/// How long a recontextualization may take, with all that a guest does to hold it up.
pub(crate) const RECONTEXTUALIZE_TIMEOUT: Duration = Duration::from_secs(60);

/// What a daemon is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase", deny_unknown_fields)]
pub enum Request {
    /// How everything is.
    Status,
    /// That a VM's contexts are looked after now.
    Recontextualize {
        /// The domain, by name or UUID.
        vm: String,
        /// Which class; all without.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        class: Option<Class>,
        /// What templates are told has happened.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        event: Option<String>,
    },
}

/// The daemon's end of the socket.
#[derive(Debug)]
pub struct Control {
    listener: UnixListener,
    path: PathBuf,
}

impl Control {
    /// Listens in a state directory that is ours.
    ///
    /// # Errors
    /// The socket cannot be made, as when its path is longer than 107 bytes.
    pub fn bind(state: &Path) -> io::Result<Self> {
        let path = state.join(SOCKET);
        // The state directory is locked: whatever is there was left by a daemon that died.
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        Ok(Self { listener, path })
    }

    /// Answers each request with what `make` gives, until dropped.
    pub async fn serve<F>(self, make: impl Fn(Request) -> F + Send + Sync + 'static)
    where
        F: Future<Output = Option<Vec<u8>>> + Send + 'static,
    {
        let (make, turns) = (Arc::new(make), Arc::new(Semaphore::new(MAX_ASKING)));
        loop {
            let Ok(turn) = Arc::clone(&turns).acquire_owned().await else {
                return;
            };
            let Ok((mut stream, _)) = self.listener.accept().await else {
                // Out of descriptors, perhaps; not worth a spin.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let make = Arc::clone(&make);
            tokio::spawn(async move {
                if let Some(json) = answer(&mut stream, &*make).await {
                    // Who hangs up has had enough.
                    let _ = timeout(WRITE_TIMEOUT, stream.write_all(&json)).await;
                }
                drop(turn);
            });
        }
    }
}

/// What a request is answered with; nothing to what is none.
async fn answer<F>(
    stream: &mut tokio::net::UnixStream,
    make: &impl Fn(Request) -> F,
) -> Option<Vec<u8>>
where
    F: Future<Output = Option<Vec<u8>>>,
{
    let mut line = Vec::new();
    let mut lines = BufReader::new(stream).take(MAX_REQUEST_BYTES);
    let request = match timeout(READ_TIMEOUT, lines.read_until(b'\n', &mut line)).await {
        Ok(read) => read.ok()?,
        // Who says nothing wants to know how it is: so did the command of earlier versions.
        Err(_) if line.is_empty() => 0,
        Err(_) => return None,
    };
    let request = match request {
        0 => Request::Status,
        _ => match serde_json::from_slice(&line) {
            Ok(request) => request,
            Err(error) => {
                let refusal = Answer::problem(format!("not a request of this version: {error}"));
                return serde_json::to_vec(&refusal).ok();
            }
        },
    };
    // Bounded, by who makes it.
    make(request).await
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// What the daemon with that state directory says; that it does not run, if it does not.
///
/// # Errors
/// It may not be asked, or does not answer as it should.
pub fn ask(state: &Path) -> anyhow::Result<Status> {
    match request(state, &Request::Status, ANSWER_TIMEOUT)? {
        Some(json) => read(state, &json),
        None => Ok(not_running()),
    }
}

/// Has a VM's contexts looked after, by the daemon with that state directory.
///
/// # Errors
/// It does not run, may not be asked, or does not answer as it should.
pub fn recontextualize(state: &Path, asked: &Request) -> anyhow::Result<Answer> {
    let patience = RECONTEXTUALIZE_TIMEOUT + ANSWER_TIMEOUT;
    match request(state, asked, patience)? {
        Some(json) => read(state, &json),
        None => anyhow::bail!("vmkpi-host does not run: start it (systemctl start vmkpi-host)"),
    }
}

fn read<T: serde::de::DeserializeOwned>(state: &Path, json: &[u8]) -> anyhow::Result<T> {
    let path = state.join(SOCKET);
    serde_json::from_slice(json)
        .with_context(|| format!("{}: not the answer of this version", path.display()))
}

/// What the daemon answers; nothing if it does not run.
fn request(state: &Path, asked: &Request, patience: Duration) -> anyhow::Result<Option<Vec<u8>>> {
    let path = state.join(SOCKET);
    let at = || format!("{}", path.display());
    let mut stream = match UnixStream::connect(&path) {
        Ok(stream) => stream,
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::NotFound | ErrorKind::ConnectionRefused
            ) =>
        {
            return Ok(None);
        }
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            return Err(error).with_context(|| {
                format!("{}: ask as root or as the daemon's user", path.display())
            });
        }
        Err(error) => return Err(error).with_context(at),
    };
    stream.set_read_timeout(Some(patience)).with_context(at)?;
    stream
        .set_write_timeout(Some(ANSWER_TIMEOUT))
        .with_context(at)?;
    let mut line = serde_json::to_vec(asked)?;
    line.push(b'\n');
    // Who hangs up before it is asked has said so by an empty answer.
    let _ = stream.write_all(&line);
    let mut json = Vec::new();
    let read = stream.take(MAX_ANSWER_BYTES).read_to_end(&mut json);
    read.with_context(|| {
        format!(
            "{}: the daemon does not answer; look at its log",
            path.display()
        )
    })?;
    anyhow::ensure!(
        !json.is_empty(),
        "{}: the daemon has closed the connection: it is going down, or does not answer; look at its log",
        path.display()
    );
    Ok(Some(json))
}

fn not_running() -> Status {
    let mut status = Status {
        now: Timestamp::now(),
        ..Status::default()
    };
    advice::advise(&mut status);
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is answered to these bytes.
    async fn said(state: &Path, bytes: &[u8], ends: bool) -> String {
        let mut stream = tokio::net::UnixStream::connect(state.join(SOCKET))
            .await
            .unwrap();
        stream.write_all(bytes).await.unwrap();
        if ends {
            stream.shutdown().await.unwrap();
        }
        let mut text = String::new();
        // Who is hung up on with something unread may get a reset.
        let _ = stream.read_to_string(&mut text).await;
        text
    }

    #[tokio::test]
    async fn a_request_is_a_line_and_who_says_nothing_is_told_how_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let control = Control::bind(dir.path()).unwrap();
        let make = |request| async move { Some(format!("{request:?}").into_bytes()) };
        let serving = tokio::spawn(control.serve(make));
        let state = dir.path();
        assert_eq!(said(state, b"{\"op\":\"status\"}\n", false).await, "Status");
        assert_eq!(said(state, b"", true).await, "Status");
        assert_eq!(
            said(state, b"", false).await,
            "Status",
            "as the command of earlier versions asks"
        );
        let asked = b"{\"op\":\"recontextualize\",\"vm\":\"a\",\"class\":\"service\"}\n";
        let due = "Recontextualize { vm: \"a\", class: Some(Class(\"service\")), event: None }";
        assert_eq!(said(state, asked, false).await, due);
        let long = vec![b'x'; 8192];
        for bad in [
            &b"\xff\0\n"[..],
            b"{\"op\":\"destroy\"}\n",
            b"{\"op\":\"recontextualize\"}\n",
            b"{\"op\":\"recontextualize\",\"vm\":\"a\",\"class\":\"Bad\"}\n",
        ] {
            let said = said(state, bad, false).await;
            assert!(said.contains("not a request of this version"), "{said}");
        }
        let said_long = said(state, &long, false).await;
        assert!(
            said_long.is_empty() || said_long.contains("not a request"),
            "{said_long}"
        );
        assert_eq!(
            said(state, b"{\"op\":", false).await,
            "",
            "half a line, and then nothing"
        );
        serving.abort();
    }
}
