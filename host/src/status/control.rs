//! The socket in the state directory through which a running daemon tells how it is: who connects is told
//! everything, as one line of JSON, and the connection is closed. Only the daemon's user and root get there: the
//! directory is theirs alone.

use std::fs::Permissions;
use std::future::Future;
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixListener;
use tokio::sync::Semaphore;
use vmkpi::clock::Timestamp;

use super::{Status, advice};

/// The socket's name in the state directory.
const SOCKET: &str = "control.sock";
/// Who asks at once; more wait.
const MAX_ASKING: usize = 4;
/// How long one may take to read.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the daemon may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest answer that is read, in bytes: some ten thousand VMs.
const MAX_ANSWER_BYTES: u64 = 64 << 20;

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

    /// Answers with what `make` gives, until dropped.
    pub async fn serve<F>(self, make: impl Fn() -> F + Send + Sync + 'static)
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
                let answer = async {
                    if let Some(json) = make().await {
                        // Who hangs up has had enough.
                        let _ = stream.write_all(&json).await;
                    }
                };
                let _ = tokio::time::timeout(WRITE_TIMEOUT, answer).await;
                drop(turn);
            });
        }
    }
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
    let path = state.join(SOCKET);
    let at = || format!("{}", path.display());
    let stream = match UnixStream::connect(&path) {
        Ok(stream) => stream,
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::NotFound | ErrorKind::ConnectionRefused
            ) =>
        {
            return Ok(not_running());
        }
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            return Err(error).with_context(|| {
                format!("{}: ask as root or as the daemon's user", path.display())
            });
        }
        Err(error) => return Err(error).with_context(at),
    };
    stream
        .set_read_timeout(Some(ANSWER_TIMEOUT))
        .with_context(at)?;
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
    serde_json::from_slice(&json)
        .with_context(|| format!("{}: not the answer of this version", path.display()))
}

fn not_running() -> Status {
    let mut status = Status {
        now: Timestamp::now(),
        ..Status::default()
    };
    advice::advise(&mut status);
    status
}
