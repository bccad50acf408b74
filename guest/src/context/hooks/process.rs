//! One run of a hook: a process group of its own, what changed on its standard input, a deadline.

use std::fs::File;
use std::io::{self, ErrorKind, PipeReader, Read as _, Seek as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::context::change::Change;
use crate::context::directory::spool_file;

/// Where hooks find programs.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Bytes of `VMKPI_CHANGED`; a variable may have 128 KiB, and all is on standard input.
const MAX_CHANGED_BYTES: usize = 32 << 10;

/// How much of the end of what a hook prints is kept, and how many lines of it.
const SAID_BYTES: usize = 4096;
const SAID_LINES: usize = 8;

/// How often a hook that prints nothing is looked after, in milliseconds.
const CHECK_MS: u16 = 20;

/// How long a hook that was killed may take to end.
const REAP: Duration = Duration::from_secs(1);

/// What a hook is told.
pub(super) struct Told<'a> {
    /// Where the partition is.
    pub mount: &'a Path,
    /// The number of the change.
    pub generation: u64,
    /// What changed.
    pub changes: &'a [Change],
    /// Where its standard input is kept meanwhile.
    pub spool: &'a Path,
}

/// How it ended.
pub(super) struct Ended {
    pub ok: bool,
    pub result: String,
    pub output: Vec<String>,
}

/// Runs a hook until it has ended, its time is over, or `stop` says so; `None` then.
pub(super) fn run(
    hook: &Path,
    told: &Told<'_>,
    timeout: Duration,
    stop: impl Fn() -> bool,
) -> Option<Ended> {
    let (mut child, mut said) = match start(hook, told) {
        Ok(started) => started,
        Err(error) => {
            return Some(Ended {
                ok: false,
                result: format!("it cannot be started: {error:#}"),
                output: Vec::new(),
            });
        }
    };
    let deadline = Instant::now() + timeout;
    let result = loop {
        said.take();
        match child.try_wait() {
            Ok(Some(status)) => break Ok(status),
            Ok(None) if stop() => {
                end(&mut child);
                return None;
            }
            Ok(None) if Instant::now() >= deadline => {
                end(&mut child);
                break Err(format!(
                    "killed after {}",
                    vmkpi::settings::units::duration(timeout)
                ));
            }
            Ok(None) => said.wait(),
            Err(error) => break Err(format!("it ended in an unknown way: {error}")),
        }
    };
    // What it printed last. What it has left behind in the background may go on, and is no longer listened to.
    said.take();
    Some(Ended {
        ok: result.as_ref().is_ok_and(ExitStatus::success),
        result: result.map_or_else(|error| error, in_words),
        output: said.lines(),
    })
}

fn start(hook: &Path, told: &Told<'_>) -> anyhow::Result<(Child, Said)> {
    let (reader, writer) = io::pipe()?;
    let child = Command::new(hook)
        .env_clear()
        .env("PATH", PATH)
        .env("LANG", "C.UTF-8")
        .env("VMKPI_CONTEXT", told.mount)
        .env("VMKPI_GENERATION", told.generation.to_string())
        .env("VMKPI_CHANGED", changed(told.changes))
        .current_dir("/")
        .process_group(0)
        .stdin(input(told)?)
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .spawn()?;
    let _ = fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK));
    let said = Said {
        pipe: Some(reader),
        bytes: Vec::new(),
    };
    Ok((child, said))
}

/// The changed paths, a line each; whole lines, as many as there is room for.
fn changed(changes: &[Change]) -> String {
    let mut text = String::new();
    for change in changes {
        if text.len() + change.path.len() + 1 > MAX_CHANGED_BYTES {
            break;
        }
        text.push_str(&change.path);
        text.push('\n');
    }
    text
}

/// All changes, a JSON object in a line each. A file, not a pipe: a hook that does not read keeps nobody waiting.
fn input(told: &Told<'_>) -> anyhow::Result<Stdio> {
    let mut file: File = spool_file(told.spool)?;
    let mut text = Vec::new();
    for change in told.changes {
        serde_json::to_writer(&mut text, change)?;
        text.push(b'\n');
    }
    file.write_all(&text)?;
    file.rewind()?;
    Ok(file.into())
}

/// Kills its group and reaps it. One that the kernel does not let go of is left behind.
fn end(child: &mut Child) {
    let group = Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX));
    let _ = killpg(group, Signal::SIGKILL);
    let until = Instant::now() + REAP;
    while matches!(child.try_wait(), Ok(None)) {
        if Instant::now() >= until {
            tracing::warn!(pid = child.id(), "a hook was killed and does not end");
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn in_words(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, signal) => format!("killed by signal {}", signal.unwrap_or(0)),
    }
}

/// The end of what it prints.
struct Said {
    pipe: Option<PipeReader>,
    bytes: Vec<u8>,
}

impl Said {
    /// Waits for a moment, or until it prints something.
    fn wait(&self) {
        match &self.pipe {
            Some(pipe) => {
                let mut fds = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
                let _ = poll(&mut fds, PollTimeout::from(CHECK_MS));
            }
            // Closed: it ends soon, as a rule.
            None => std::thread::sleep(Duration::from_millis(1)),
        }
    }

    fn take(&mut self) {
        let mut buffer = [0; 4096];
        // Bounded: a flood must not keep the deadline from being looked at.
        for _ in 0..64 {
            let Some(pipe) = &mut self.pipe else { return };
            match pipe.read(&mut buffer) {
                Ok(0) => self.pipe = None,
                Ok(count) => {
                    self.bytes.extend_from_slice(&buffer[..count]);
                    let over = self.bytes.len().saturating_sub(SAID_BYTES);
                    self.bytes.drain(..over);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => self.pipe = None,
            }
        }
    }

    fn lines(&self) -> Vec<String> {
        let text = String::from_utf8_lossy(&self.bytes);
        let lines: Vec<String> = text
            .lines()
            .filter(|line| !line.trim().is_empty())
            // Whatever it is may hold terminal control codes.
            .map(|line| line.trim_end().escape_debug().to_string())
            .collect();
        lines[lines.len().saturating_sub(SAID_LINES)..].to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::change::Kind;

    fn run_script(script: &str, changes: &[Change], timeout: Duration) -> (Ended, Duration) {
        let dir = tempfile::tempdir().unwrap();
        let hook = dir.path().join("hook");
        // By a program of its own: a descriptor of ours could be in another test's child, and the file busy.
        let make = "printf '#!/bin/sh\\n%s\\n' \"$1\" >\"$0\" && chmod 755 \"$0\"";
        let made = Command::new("sh")
            .args(["-c", make])
            .arg(&hook)
            .arg(script)
            .status();
        assert!(made.unwrap().success());
        let told = Told {
            mount: Path::new("/context"),
            generation: 7,
            changes,
            spool: dir.path(),
        };
        let start = Instant::now();
        let ended = run(&hook, &told, timeout, || false).unwrap();
        (ended, start.elapsed())
    }

    fn change(path: &str) -> Change {
        Change {
            path: path.into(),
            change: Kind::Changed,
            layer: "infrastructure".parse().unwrap(),
        }
    }

    #[test]
    fn a_hook_is_told_what_changed() {
        let script =
            "echo $VMKPI_CONTEXT $VMKPI_GENERATION; printf %s \"$VMKPI_CHANGED\"; cat; exit 3";
        let changes = [change("a/x"), change("größe")];
        let (ended, _) = run_script(script, &changes, Duration::from_secs(60));
        assert_eq!((ended.ok, ended.result.as_str()), (false, "exit status 3"));
        let expected = [
            "/context 7",
            "a/x",
            "größe",
            r#"{"path":"a/x","change":"changed","layer":"infrastructure"}"#,
            r#"{"path":"größe","change":"changed","layer":"infrastructure"}"#,
        ];
        let plain: Vec<String> = ended
            .output
            .iter()
            .map(|l| l.replace("\\\"", "\""))
            .collect();
        assert_eq!(plain, expected);
    }

    #[test]
    fn what_does_not_read_prints_too_much_or_leaves_a_child_ends_all_the_same() {
        let many: Vec<Change> = (0..4096).map(|n| change(&format!("{n:0200}"))).collect();
        let script = "sleep 3 & yes | head -c 1000000; echo end";
        let (ended, took) = run_script(script, &many, Duration::from_secs(60));
        assert!(ended.ok, "{}", ended.result);
        assert_eq!(ended.output.last().unwrap(), "end");
        assert!(ended.output.len() <= SAID_LINES && took < Duration::from_secs(50));
        assert!(changed(&many).len() <= MAX_CHANGED_BYTES);
    }

    #[test]
    fn one_that_does_not_end_is_killed_with_its_children() {
        let script = "sleep 600 & echo $!; wait";
        let (ended, _) = run_script(script, &[], Duration::from_millis(300));
        assert_eq!(
            (ended.ok, ended.result.as_str()),
            (false, "killed after 300ms")
        );
        let child = Path::new("/proc").join(&ended.output[0]);
        let until = Instant::now() + Duration::from_secs(30);
        let runs = || {
            let stat = std::fs::read_to_string(child.join("stat")).unwrap_or_default();
            !stat.is_empty() && !stat.contains(") Z")
        };
        while runs() {
            assert!(Instant::now() < until, "its child goes on");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
