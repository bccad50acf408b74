//! Child processes that end with the test: at the latest when the thread that started them does.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::wait_for;

/// One of the three programs.
///
/// # Errors
/// It is not built.
pub fn program(name: &str) -> Result<PathBuf> {
    let folder = match std::env::var_os("VMKPI_BIN_DIR") {
        Some(folder) => PathBuf::from(folder),
        // A test is target/PROFILE/deps/NAME; a library's own test too.
        None => std::env::current_exe()?
            .ancestors()
            .nth(2)
            .context("where are the programs?")?
            .to_owned(),
    };
    let path = folder.join(name);
    if !path.is_file() {
        bail!(
            "{} is not there; `make test` builds it first",
            path.display()
        );
    }
    Ok(path)
}

/// Runs `vmkpi` with `arguments` to its end.
///
/// # Errors
/// It cannot be started.
pub fn vmkpi(arguments: &[&str]) -> Result<Output> {
    Ok(Command::new(program("vmkpi")?)
        .args(arguments)
        .stdin(Stdio::null())
        .output()?)
}

/// A running program whose output goes to files.
pub struct Process {
    name: String,
    child: Child,
    /// Its standard output.
    pub out: PathBuf,
    /// Its standard error.
    pub err: PathBuf,
}

impl Process {
    /// Starts `program` with its output in `folder`. The kernel ends it when this thread ends, by
    /// way of the command's own helper.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start<I, S>(folder: &Path, name: &str, program: &Path, arguments: I) -> Result<Self>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        Self::start_in(folder, name, program, arguments, &[])
    }

    /// The same, with variables of its environment.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_in<I, S>(
        folder: &Path,
        name: &str,
        program: &Path,
        arguments: I,
        environment: &[(String, String)],
    ) -> Result<Self>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let out = folder.join(format!("{name}.out"));
        let err = folder.join(format!("{name}.err"));
        let append = |path: &Path| File::options().create(true).append(true).open(path);
        let child = Command::new(self::program("vmkpi")?)
            .arg("demo-child")
            .arg(format!("--parent={}", std::process::id()))
            .arg("--")
            .arg(program)
            .args(arguments)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(append(&out)?)
            .stderr(append(&err)?)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Self {
            name: name.into(),
            child,
            out,
            err,
        })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// There is no such process any more.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.context("no process id")?, signal)
            .with_context(|| format!("signalling {}", self.name))
    }

    /// Kills it as kill -9 does, and waits until it is gone.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Asks it to end, and waits.
    ///
    /// # Errors
    /// It does not end.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.wait(20)
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// It does not, within `seconds`.
    pub fn wait(&mut self, seconds: u64) -> Result<ExitStatus> {
        let name = self.name.clone();
        wait_for(seconds, &format!("{name} to end"), || {
            self.child.try_wait().ok().flatten()
        })
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// What it said on standard error.
    pub fn words(&self) -> String {
        std::fs::read_to_string(&self.err).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.runs() {
            return;
        }
        // One that is stopped would not hear it otherwise.
        let _ = self.signal(Signal::CONT);
        let _ = self.signal(Signal::TERM);
        for _ in 0..150 {
            if !self.runs() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.kill();
    }
}
