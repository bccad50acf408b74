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

pub mod rig;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_vmkpi-guest");

pub struct Guest {
    dir: TempDir,
    child: Child,
    args: Vec<String>,
}

impl Guest {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    pub fn start_with(args: &[&str]) -> Self {
        let dir = TempDir::with_prefix("vmkpi-guest-").unwrap();
        let args: Vec<String> = args.iter().map(ToString::to_string).collect();
        let child = spawn(dir.path(), &args);
        let guest = Self { dir, child, args };
        guest.wait_until_mounted();
        guest
    }

    /// A guest whose configuration file holds `config`.
    pub fn start_with_config(config: &str, args: &[&str]) -> Self {
        let dir = TempDir::with_prefix("vmkpi-guest-").unwrap();
        let file = dir.path().join("guest.toml");
        std::fs::write(&file, config).unwrap();
        let named = ["--config".to_owned(), file.display().to_string()];
        let args: Vec<String> = named
            .into_iter()
            .chain(args.iter().map(ToString::to_string))
            .collect();
        let child = spawn(dir.path(), &args);
        let guest = Self { dir, child, args };
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

    fn wait_until_mounted(&self) {
        let status = self.state().join("control.sock");
        until("the mount", || {
            self.path("unencrypted").is_dir() && UnixStream::connect(&status).is_ok()
        });
    }

    /// Starts again after [`Self::kill`] or [`Self::terminate`].
    pub fn restart(&mut self) {
        self.child = spawn(self.dir.path(), &self.args);
        self.wait_until_mounted();
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
        let mut log = String::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            stderr.read_to_string(&mut log).unwrap();
        }
        (code, log)
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

fn spawn(dir: &Path, args: &[String]) -> Child {
    // With a descriptor that it must not hand on to its own children.
    let mut command = Command::new("sh");
    command.args(["-c", "exec 9</dev/null; exec \"$0\" \"$@\"", PROGRAM]);
    command.arg("run").arg("--mount").arg(dir.join("mnt"));
    if !args.iter().any(|arg| arg == "--state") {
        command.arg("--state").arg(dir.join("state"));
    }
    command
        .arg("--link")
        .arg(format!("unix:{}", dir.join("link.sock").display()))
        .args(args)
        .env_remove("RUST_LOG")
        .stderr(Stdio::piped())
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
