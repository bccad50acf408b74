//! The VM's only file system: busybox, `vmkpi-guest` with the libraries it needs, and modules.

use std::collections::HashSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::kernel::{Kernel, run};
use crate::process::program;

/// Its name.
pub const FILE: &str = "initramfs.cpio";

const INIT: &str = include_str!("init.sh");

/// What stock kernels have as modules: the bus, disk, balloon and port, the disk's file system, and FUSE.
const MODULES: [&str; 6] = [
    "virtio_pci",
    "virtio_blk",
    "virtio_balloon",
    "virtio_console",
    "ext4",
    "fuse",
];

/// Makes it in `folder`.
///
/// # Errors
/// A part is missing.
pub fn build(folder: &Path, kernel: &Kernel) -> Result<()> {
    let root = folder.join("initramfs");
    for name in ["bin", "modules", "proc", "sys", "dev", "var", "kpi"] {
        std::fs::create_dir_all(root.join(name))?;
    }
    let init = root.join("init");
    std::fs::write(&init, INIT)?;
    std::fs::set_permissions(&init, std::fs::Permissions::from_mode(0o755))?;
    let guest = program("vmkpi-guest")?;
    // A development build is ten times as large with what only a debugger reads.
    run(Command::new("strip")
        .arg("-o")
        .arg(root.join("bin/vmkpi-guest"))
        .arg(&guest))?;
    std::fs::copy("/bin/busybox", root.join("bin/busybox"))?;
    for library in libraries(&guest)? {
        let place = root.join(library.strip_prefix("/")?);
        std::fs::create_dir_all(place.parent().context("a folder")?)?;
        std::fs::copy(&library, &place)?;
    }
    add_modules(&root.join("modules"), kernel)?;
    let script = format!(
        "cd '{}' && find . | cpio --quiet -o -H newc >../{FILE}",
        root.display()
    );
    run(Command::new("sh").args(["-c", &script]))?;
    Ok(())
}

/// The libraries that `program` is linked with, and their loader.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let text = run(Command::new("ldd").arg(program))?;
    let files = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        words.find(|word| word.starts_with('/'))
    });
    Ok(files.map(PathBuf::from).collect())
}

/// Copies the modules under names in the order of loading.
fn add_modules(folder: &Path, kernel: &Kernel) -> Result<()> {
    let mut seen = HashSet::new();
    for module in MODULES {
        for file in kernel.modules(module)? {
            let name = file
                .file_name()
                .context("a name")?
                .to_string_lossy()
                .into_owned();
            if seen.insert(name.clone()) {
                std::fs::copy(&file, folder.join(format!("{:02}-{name}", seen.len())))?;
            }
        }
    }
    Ok(())
}
