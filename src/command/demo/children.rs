//! The demo's programs: started so that they cannot outlive it, watched, and stopped in order.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use super::keeper::Keeper;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(20);
/// How long a program may take to end in order.
const GRACE: Duration = Duration::from_secs(5);
/// How much of a program's log is shown when it ends unasked.
const LAST_LINES: usize = 12;

struct Program {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

/// What was started, in that order.
pub struct Children {
    own: PathBuf,
    folder: PathBuf,
    programs: Vec<Program>,
}

impl Children {
    /// None yet. Their logs go to `folder`; `own` is this program.
    pub fn new(own: &Path, folder: &Path) -> Self {
        Self {
            own: own.to_owned(),
            folder: folder.to_owned(),
            programs: Vec::new(),
        }
    }

    /// Starts a program and returns the path of its log.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(
        &mut self,
        keeper: &mut Keeper,
        name: &'static str,
        program: &Path,
        arguments: &[String],
    ) -> Result<PathBuf> {
        let log = self.folder.join(format!("{}.log", name.replace(' ', "-")));
        let file = std::fs::File::create(&log)?;
        let child = Command::new(&self.own)
            .arg("demo-child")
            .arg(format!("--parent={}", std::process::id()))
            .arg("--")
            .arg(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            // Ctrl-C is for the demo alone, which then stops its programs in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        if let Some(pid) = child.id() {
            keeper.also(pid)?;
        }
        self.programs.push(Program {
            name,
            child,
            log: log.clone(),
        });
        Ok(log)
    }

    /// Waits until `ready` says what it found.
    ///
    /// # Errors
    /// A program ended, or `limit` is over.
    pub async fn wait_for<T>(
        &mut self,
        limit: Duration,
        what: &str,
        mut ready: impl FnMut() -> Option<T>,
    ) -> Result<T> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(found) = ready() {
                return Ok(found);
            }
            if let Some(ended) = self.ended() {
                return Err(ended);
            }
            if Instant::now() > deadline {
                let last = self
                    .programs
                    .last()
                    .map(|p| last_words(&p.log))
                    .unwrap_or_default();
                return Err(anyhow!(
                    "waited {} s for {what} in vain{last}",
                    limit.as_secs()
                ));
            }
            sleep(LOOK).await;
        }
    }

    /// Waits until a program ends unasked, and says which and what it said last.
    pub async fn first_end(&mut self) -> anyhow::Error {
        loop {
            if let Some(ended) = self.ended() {
                return ended;
            }
            sleep(LOOK * 5).await;
        }
    }

    fn ended(&mut self) -> Option<anyhow::Error> {
        self.programs.iter_mut().find_map(|p| {
            let status = p.child.try_wait().ok()??;
            Some(anyhow!(
                "{} ended by itself ({status}){}",
                p.name,
                last_words(&p.log)
            ))
        })
    }

    /// Ends all of them, the last started first.
    pub async fn stop(&mut self) {
        while let Some(mut program) = self.programs.pop() {
            let pid = program.child.id().and_then(|id| i32::try_from(id).ok());
            if let Some(pid) = pid.and_then(Pid::from_raw) {
                // It may have ended already.
                let _ = kill_process(pid, Signal::TERM);
            }
            if timeout(GRACE, program.child.wait()).await.is_err() {
                let _ = program.child.kill().await;
            }
        }
    }
}

fn last_words(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(LAST_LINES)..];
    if last.is_empty() {
        return "; it said nothing".into();
    }
    format!("; it said last:\n  {}", last.join("\n  "))
}
