//! The socket in the state directory through which a running program is asked: a line in, a JSON object out.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;

use super::{Live, LiveStatus};
use crate::context::report::Answer;

/// The socket's name in the state directory.
const SOCKET: &str = "control.sock";

/// The longest request through it: a path of the context partition.
const MAX_REQUEST_BYTES: u64 = 8 << 10;

/// The socket that the numbers are read from.
pub struct Control {
    path: PathBuf,
}

impl Control {
    /// Listens in the state directory. Without it `status` still shows what is on disk.
    pub fn start(state: &Path, live: Live) -> Self {
        let path = state.join(SOCKET);
        // The state directory is locked: whatever is there was left by a program that died.
        let _ = std::fs::remove_file(&path);
        let started = UnixListener::bind(&path).and_then(|listener| {
            std::thread::Builder::new()
                .name("status".into())
                .spawn(move || answer(&listener, &live))
        });
        if let Err(error) = started {
            tracing::warn!(socket = %path.display(), %error, "status will not show live numbers");
        }
        Self { path }
    }

    /// Takes the socket away.
    pub fn stop(self) {
        let _ = std::fs::remove_file(self.path);
    }
}

fn answer(listener: &UnixListener, live: &Live) {
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else {
            // Out of descriptors, perhaps; not worth a spin.
            std::thread::sleep(Duration::from_millis(100));
            continue;
        };
        let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
        let _ = stream.set_write_timeout(Some(Duration::from_secs(1)));
        let json = match request(&stream).as_deref() {
            Some("status") => serde_json::to_vec(&live.status()),
            Some(request) => serde_json::to_vec(&live.context(request)),
            None => continue,
        };
        let _ = stream.write_all(&json.unwrap_or_default());
    }
}

/// The line that asks for something; none if none comes.
fn request(stream: &UnixStream) -> Option<String> {
    let mut line = String::new();
    let mut reader = BufReader::new(stream.take(MAX_REQUEST_BYTES));
    reader.read_line(&mut line).ok()?;
    line.strip_suffix('\n').map(str::to_owned)
}

/// A running program's numbers; none when it does not run.
pub(super) fn ask(state: &Path) -> Option<LiveStatus> {
    serde_json::from_slice(&call(state, "status", Duration::from_secs(2)).ok()?).ok()
}

/// What a running program answers to a request about its context.
///
/// # Errors
/// It does not run, has no context partition, or refuses.
pub fn ask_context(state: &Path, request: &str) -> anyhow::Result<Answer> {
    let at = || {
        format!(
            "vmkpi-guest does not run with its state in {}: start it, or name another --state",
            state.display()
        )
    };
    let json = call(state, request, Duration::from_secs(60)).with_context(at)?;
    match serde_json::from_slice(&json)
        .context("the answer is not understood: the program that runs may be another version")?
    {
        Answer::Refused(why) => anyhow::bail!(why),
        answer => Ok(answer),
    }
}

fn call(state: &Path, request: &str, patience: Duration) -> std::io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(state.join(SOCKET))?;
    stream.set_read_timeout(Some(patience))?;
    stream.write_all(format!("{request}\n").as_bytes())?;
    let mut json = Vec::new();
    stream.read_to_end(&mut json)?;
    Ok(json)
}
