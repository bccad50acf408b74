//! A guest program with a context partition, and the directories that its layers and hooks are in.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::common::{Guest, PROGRAM, until};

/// Directories, and the program once it is started.
pub struct Lab {
    dir: TempDir,
    guest: Option<Guest>,
}

impl Lab {
    pub fn new() -> Self {
        let dir = TempDir::with_prefix("vmkpi-context-").unwrap();
        for name in ["infrastructure", "service", "hooks"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        Self { dir, guest: None }
    }

    /// Starts the program.
    pub fn start(mut self, args: &[&str]) -> Self {
        let at = |name: &str| self.dir.path().join(name).display().to_string();
        let (mount, hooks) = (at("mnt"), at("hooks"));
        let layer = |class: &str| format!("{class}={}", at(class));
        let (infrastructure, service) = (layer("infrastructure"), layer("service"));
        let own = [
            "--context-mount",
            &mount,
            "--context-hooks",
            &hooks,
            "--context-directory",
            &infrastructure,
            "--context-directory",
            &service,
        ];
        let all: Vec<&str> = own.into_iter().chain(args.iter().copied()).collect();
        let guest = Guest::start_with(&all);
        self.guest = Some(guest);
        self
    }

    pub fn guest(&self) -> &Guest {
        self.guest.as_ref().unwrap()
    }

    pub fn guest_mut(&mut self) -> &mut Guest {
        self.guest.as_mut().unwrap()
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn mount(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.mount().join(path)
    }

    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap()
    }

    /// The names in a directory, in order.
    pub fn ls(&self, path: &str) -> Vec<String> {
        let names = fs::read_dir(self.path(path)).unwrap();
        let mut names: Vec<String> = names
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// Everything in the partition: `directory/` and `file=content`.
    pub fn tree(&self) -> Vec<String> {
        let mut tree = Vec::new();
        self.walk("", &mut tree);
        tree.sort();
        tree
    }

    fn walk(&self, prefix: &str, tree: &mut Vec<String>) {
        for name in self.ls(prefix) {
            let path = format!("{prefix}{name}");
            if self.path(&path).is_dir() {
                tree.push(format!("{path}/"));
                self.walk(&format!("{path}/"), tree);
            } else {
                tree.push(format!("{path}={}", self.read(&path)));
            }
        }
    }

    pub fn infrastructure(&self, files: &[(&str, &str)]) {
        self.layer("infrastructure", files);
    }

    pub fn service(&self, files: &[(&str, &str)]) {
        self.layer("service", files);
    }

    /// Replaces what a layer's directory holds; the program sees it when it is told to.
    fn layer(&self, class: &str, files: &[(&str, &str)]) {
        let (top, new) = (self.dir.path().join(class), self.dir.path().join("new"));
        fs::create_dir(&new).unwrap();
        for (path, text) in files {
            let path = new.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let _ = fs::remove_dir_all(&top);
        fs::rename(new, top).unwrap();
    }

    pub fn remove_infrastructure(&self) {
        fs::remove_dir_all(self.dir.path().join("infrastructure")).unwrap();
    }

    /// Has the directories read, and waits until the change is counted.
    pub fn switch(&self) {
        let before = self.read("generation");
        self.guest().hang_up();
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.read("generation") == before {
            assert!(
                Instant::now() < deadline,
                "the generation does not count up"
            );
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Installs a hook.
    pub fn hook(&self, name: &str, script: &str) {
        let path = self.dir.path().join("hooks").join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn run_context(&self, words: &[&str]) -> Output {
        Command::new(PROGRAM)
            .arg("context")
            .args(words)
            .args(["--format", "json", "--state"])
            .arg(self.guest().state())
            .output()
            .unwrap()
    }

    /// `vmkpi-guest context`.
    pub fn context(&self, words: &[&str]) -> Value {
        let out = self.run_context(words);
        serde_json::from_slice(&out.stdout)
            .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&out.stderr)))
    }

    pub fn context_code(&self, words: &[&str]) -> Option<i32> {
        self.run_context(words).status.code()
    }

    /// Files of layers that the program holds open, which have no name any more.
    pub fn spools(&self) -> usize {
        let open = fs::read_dir(format!("/proc/{}/fd", self.guest().pid())).unwrap();
        let spool = |entry: std::io::Result<fs::DirEntry>| {
            let target = fs::read_link(entry.unwrap().path());
            target.is_ok_and(|target| target.to_string_lossy().contains("/context/layer-"))
        };
        // One is the empty layer of infrastructure.
        open.filter(|_| true)
            .map(spool)
            .filter(|held| *held)
            .count()
            - 1
    }

    /// How often the program has called read(2): once for each request of the kernel, and little else.
    pub fn reads(&self) -> u64 {
        let io = fs::read_to_string(format!("/proc/{}/io", self.guest().pid())).unwrap();
        let calls = io.lines().find_map(|line| line.strip_prefix("syscr: "));
        calls.unwrap().parse().unwrap()
    }

    /// Waits until all hooks have run since a change that a reader can see.
    pub fn wait_for_hooks(&self) {
        until("the hooks", || {
            let context = self.context(&[]);
            context["hooks"]["waiting"] == false
                && context["hooks"]["running"].is_null()
                && context["hooks"]["runs"].as_u64() > Some(0)
        });
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // The program first, or it would be told of the unmount.
        self.guest.take();
        let _ = Command::new("umount")
            .arg("-l")
            .arg(self.mount())
            .stderr(Stdio::null())
            .status();
    }
}
