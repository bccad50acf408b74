//! Folders, mounts and ports of a test's own.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Result, ensure};
use rustix::process::Pid;

/// A folder that goes with the test, and whatever is mounted in it.
pub struct Scratch {
    folder: Option<tempfile::TempDir>,
}

impl Scratch {
    /// A new, empty folder.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("vmkpi-test-").tempdir()?;
        Ok(Self {
            folder: Some(folder),
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.folder
            .as_ref()
            .map_or(Path::new("/nonexistent"), |f| f.path())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        for mount in mounts_in(self.path()) {
            unmount(&mount);
        }
        let Some(folder) = self.folder.take() else {
            return;
        };
        // Never remove through a mount; and who looks for a fault may keep the folder.
        let keep = std::env::var_os("VMKPI_KEEP").is_some();
        if keep || !mounts_in(folder.path()).is_empty() {
            eprintln!("kept for a look: {}", folder.keep().display());
        }
    }
}

/// A small disk of a test's own, in memory.
pub struct Disk(Scratch);

impl Disk {
    /// One of this size, as tmpfs(5) writes it.
    ///
    /// # Errors
    /// It cannot be mounted; these tests run as root.
    pub fn mount(size: &str) -> Result<Self> {
        let scratch = Scratch::new()?;
        let option = format!("size={size}");
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &option, "tmpfs"])
            .arg(scratch.path())
            .status()?;
        ensure!(
            status.success(),
            "a tmpfs cannot be mounted; these tests run as root"
        );
        Ok(Self(scratch))
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// A file that takes what is left.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn fill(&self) -> Result<PathBuf> {
        let path = self.path().join("ballast");
        let mut file = std::fs::File::create(&path)?;
        // Until there is no room; the last pieces are small.
        for piece in [1 << 16, 1 << 12] {
            while std::io::Write::write_all(&mut file, &vec![1; piece]).is_ok() {}
        }
        Ok(path)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        unmount(self.path());
    }
}

/// What is mounted below `folder`, innermost first.
pub fn mounts_in(folder: &Path) -> Vec<PathBuf> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut mounts: Vec<PathBuf> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(PathBuf::from)
        .filter(|path| path.starts_with(folder))
        .collect();
    mounts.reverse();
    mounts
}

/// Unmounts lazily, as root or as whoever mounted it; it may be unmounted already.
pub fn unmount(mount: &Path) {
    if rustix::mount::unmount(mount, rustix::mount::UnmountFlags::DETACH).is_err() {
        let mut helper = Command::new("fusermount3");
        helper
            .arg("-uz")
            .arg(mount)
            .stdin(Stdio::null())
            .stderr(Stdio::null());
        let _ = helper.status();
    }
}

/// Processes whose command line names `folder`.
pub fn processes_of(folder: &Path) -> Vec<String> {
    let found = processes_with(&folder.display().to_string());
    found.into_iter().map(|(_, line)| line).collect()
}

/// Processes with this in their command line, but for this one.
pub fn processes_with(text: &str) -> Vec<(Pid, String)> {
    let own = std::process::id().to_string();
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return vec![];
    };
    let process = |entry: std::fs::DirEntry| {
        let number = entry.file_name().to_str()?.parse().ok()?;
        let line = std::fs::read(entry.path().join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        Some((Pid::from_raw(number)?, line))
    };
    entries
        .flatten()
        .filter(|e| e.file_name().to_string_lossy() != own)
        .filter_map(process)
        .filter(|(_, line)| line.contains(text))
        .collect()
}

/// A loopback address that nobody listens on.
///
/// # Errors
/// There is none.
pub fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}
