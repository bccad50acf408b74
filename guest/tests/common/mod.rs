//! A real `vmkpi-guest` on a real mount in a directory of its own, cleaned up however the test ends.
#![allow(
    dead_code,
    missing_docs,
    reason = "each test program uses a part of it"
)]
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests: a panic is a failed test"
)]

pub mod disk;
pub mod faketime;
pub mod host;
pub mod ledger;
pub mod lossy;
pub mod rig;
pub mod seed;

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_vmkpi-guest");

/// One test at a time, where rows are counted that threads of this process store: until it has become another program, a
/// child that somebody forks meanwhile has copies of their descriptors, and its closes are stores.
pub fn alone() -> MutexGuard<'static, ()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

pub struct Guest {
    dir: TempDir,
    child: Child,
    args: Vec<String>,
    /// What the program is started under, with its arguments: strace, env; it must become the program.
    wrapper: Vec<String>,
}

impl Guest {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    pub fn start_with(args: &[&str]) -> Self {
        Self::start_under(&[], args)
    }

    /// Starts under a program that becomes the guest, such as `env` or `strace -D`.
    pub fn start_under(wrapper: &[&str], args: &[&str]) -> Self {
        let guest = Self::launch(wrapper, args);
        guest.wait_until_mounted();
        guest
    }

    /// A guest whose configuration file holds `config`, started with a descriptor that it must not hand on
    /// to its own children.
    pub fn start_with_config(config: &str, args: &[&str]) -> Self {
        let dir = TempDir::with_prefix("vmkpi-guest-").unwrap();
        let file = dir.path().join("guest.toml");
        std::fs::write(&file, config).unwrap();
        let wrapper = ["sh", "-c", "exec 9</dev/null; exec \"$0\" \"$@\""].map(str::to_owned);
        let named = ["--config".to_owned(), file.display().to_string()];
        let args = named
            .into_iter()
            .chain(args.iter().map(ToString::to_string));
        let guest = Self::spawned(dir, wrapper.to_vec(), args.collect());
        guest.wait_until_mounted();
        guest
    }

    /// Writes the configuration file anew.
    pub fn configure(&self, config: &str) {
        std::fs::write(self.dir.path().join("guest.toml"), config).unwrap();
    }

    /// SIGHUP.
    pub fn hang_up(&self) {
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .arg("-HUP")
                .arg(pid)
                .status()
                .unwrap()
                .success()
        );
    }

    /// Starts without waiting for anything.
    pub fn launch(wrapper: &[&str], args: &[&str]) -> Self {
        let dir = TempDir::with_prefix("vmkpi-guest-").unwrap();
        let owned = |words: &[&str]| words.iter().map(ToString::to_string).collect();
        Self::spawned(dir, owned(wrapper), owned(args))
    }

    fn spawned(dir: TempDir, wrapper: Vec<String>, args: Vec<String>) -> Self {
        let child = spawn(dir.path(), &wrapper, &args);
        Self {
            dir,
            child,
            args,
            wrapper,
        }
    }

    pub fn wait_until_mounted(&self) {
        let status = self.state().join("control.sock");
        until("the mount", || {
            self.path("unencrypted").is_dir() && UnixStream::connect(&status).is_ok()
        });
    }

    /// Starts again after [`Self::kill`] or [`Self::terminate`].
    pub fn restart(&mut self) {
        self.relaunch();
        self.wait_until_mounted();
    }

    /// Like [`Self::restart`], without waiting for anything.
    pub fn relaunch(&mut self) {
        self.child = spawn(self.dir.path(), &self.wrapper, &self.args);
    }

    /// What the program is started under from now on.
    pub fn wrap(&mut self, wrapper: &[&str]) {
        self.wrapper = wrapper.iter().map(ToString::to_string).collect();
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// What the program has logged since it was started last.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM; returns the exit code and what was logged.
    pub fn terminate(&mut self) -> (Option<i32>, String) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").arg(pid).status().unwrap().success());
        let started = Instant::now();
        let code = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status.code();
            }
            assert!(
                started.elapsed() < Duration::from_secs(10),
                "it does not end"
            );
            std::thread::sleep(Duration::from_millis(5));
        };
        (code, self.log())
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn mount(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }

    pub fn state(&self) -> PathBuf {
        match self.args.iter().position(|arg| arg == "--state") {
            Some(at) => self.args[at + 1].clone().into(),
            None => self.dir.path().join("state"),
        }
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("link.sock")
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.mount().join(file)
    }

    /// Writes as a program does that looks at what close says.
    pub fn write(&self, file: &str, content: impl AsRef<[u8]>) -> std::io::Result<()> {
        store(&self.path(file), content.as_ref())
    }

    pub fn read(&self, file: &str) -> String {
        std::fs::read_to_string(self.path(file)).unwrap()
    }

    pub fn status(&self) -> Value {
        let out = Command::new(PROGRAM)
            .args(["status", "--format", "json", "--state"])
            .arg(self.state())
            .output()
            .unwrap();
        assert!(
            out.status.success(),
            "{}",
            String::from_utf8_lossy(&out.stderr)
        );
        serde_json::from_slice(&out.stdout).unwrap()
    }

    pub fn db(&self, area: &str) -> rusqlite::Connection {
        rusqlite::Connection::open(self.state().join(format!("{area}.db"))).unwrap()
    }

    /// One value from `unencrypted.db`.
    pub fn query<T: rusqlite::types::FromSql>(&self, sql: &str) -> T {
        self.db("unencrypted")
            .query_row(sql, [], |row| row.get(0))
            .unwrap()
    }
}

/// Opens, writes and closes, and says what close said; std's File keeps that to itself.
pub fn store(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let mut file = std::fs::File::create(path)?;
    file.write_all(content)?;
    close(file)
}

pub fn close(file: std::fs::File) -> std::io::Result<()> {
    nix::unistd::close(file).map_err(Into::into)
}

/// A figure of `/proc/PID/status`, such as `VmRSS:`, in bytes.
pub fn memory_bytes(pid: u32, key: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let rest = text
        .lines()
        .find_map(|line| line.strip_prefix(key))
        .unwrap();
    let kib = rest.split_whitespace().next().unwrap();
    kib.parse::<u64>().unwrap() << 10
}

pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(
            started.elapsed() < Duration::from_secs(60),
            "waited too long for {what}"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn spawn(dir: &Path, wrapper: &[String], args: &[String]) -> Child {
    let mut words = wrapper.iter().map(String::as_str).chain([PROGRAM]);
    let mut command = Command::new(words.next().unwrap());
    command.args(words);
    command.arg("run").arg("--mount").arg(dir.join("mnt"));
    if !args.iter().any(|arg| arg == "--state") {
        command.arg("--state").arg(dir.join("state"));
    }
    command
        .arg("--link")
        .arg(format!("unix:{}", dir.join("link.sock").display()))
        .args(args)
        .env_remove("RUST_LOG")
        .stderr(std::fs::File::create(dir.join("log")).unwrap())
        .spawn()
        .unwrap()
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let mount = self.mount();
        let _ = Command::new("umount")
            .arg("-l")
            .arg(mount)
            .stderr(Stdio::null())
            .status();
    }
}
