//! A stock kernel, fetched once.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, bail};

const SCRIPT: &str = include_str!("kernel.sh");

/// An unpacked kernel.
pub struct Kernel {
    /// What boots.
    pub image: PathBuf,
    root: PathBuf,
    version: String,
}

/// The kernel, from below cargo's target folder, or else from Debian.
///
/// # Errors
/// It cannot be fetched.
pub fn fetch() -> Result<Kernel> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    // A test is target/PROFILE/deps/NAME, a program target/PROFILE/NAME.
    let program = std::env::current_exe()?;
    let mut folders = program.ancestors().skip(1).filter(|f| !f.ends_with("deps"));
    let target = folders.nth(1).context("where is target/?")?;
    let root = target.join("lab-kernel");
    if !root.exists() {
        // Under its name only when it is whole.
        let new = tempfile::Builder::new()
            .prefix("lab-kernel-")
            .tempdir_in(target)?;
        run(Command::new("sh")
            .args(["-c", SCRIPT, "kernel.sh"])
            .arg(new.path()))?;
        // Another test program may have been faster; then its kernel is as good.
        match std::fs::rename(new.path(), &root) {
            Err(error) if !root.exists() => return Err(error.into()),
            _ => {}
        }
    }
    Kernel::at(&root)
}

impl Kernel {
    fn at(root: &Path) -> Result<Self> {
        let mut versions = std::fs::read_dir(root.join("lib/modules"))?;
        let version = versions.next().context("no modules")??.file_name();
        let version = version.to_string_lossy().into_owned();
        Ok(Self {
            image: root.join("boot").join(format!("vmlinuz-{version}")),
            root: root.to_owned(),
            version,
        })
    }

    /// The files of `module` and of what it needs, in the order of loading.
    ///
    /// # Errors
    /// There is no such module.
    pub fn modules(&self, module: &str) -> Result<Vec<PathBuf>> {
        let mut modprobe = Command::new("/usr/sbin/modprobe");
        modprobe.arg("-d").arg(&self.root);
        modprobe.args(["-S", &self.version, "--show-depends", module]);
        let text = run(&mut modprobe)?;
        let files = text.lines().filter_map(|line| line.strip_prefix("insmod "));
        Ok(files.map(|file| PathBuf::from(file.trim())).collect())
    }
}

/// Runs a command to its end.
///
/// # Errors
/// It fails.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8(output.stdout)?)
}
