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

/// What is in one besides busybox and `vmkpi-guest`.
pub struct Content<'a> {
    /// Its first program, a shell script.
    pub init: &'a str,
    /// Further modules.
    pub modules: &'a [&'a str],
    /// Further files: path below the top, content, mode.
    pub files: &'a [(String, Vec<u8>, u32)],
}

/// The guest that stores, and does nothing else.
pub const PLAIN: Content<'static> = Content {
    init: include_str!("init.sh"),
    modules: &[],
    files: &[],
};

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
pub fn build(folder: &Path, kernel: &Kernel, content: &Content<'_>) -> Result<()> {
    let root = folder.join("initramfs");
    for name in ["bin", "modules", "proc", "sys", "dev", "var", "kpi"] {
        std::fs::create_dir_all(root.join(name))?;
    }
    add(&root, "init", content.init.as_bytes(), 0o755)?;
    for (path, bytes, mode) in content.files {
        add(&root, path, bytes, *mode)?;
    }
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
    let modules = MODULES.iter().chain(content.modules);
    add_modules(&root.join("modules"), kernel, modules)?;
    let script = format!(
        "cd '{}' && find . | cpio --quiet -o -H newc >../{FILE}",
        root.display()
    );
    run(Command::new("sh").args(["-c", &script]))?;
    Ok(())
}

fn add(root: &Path, path: &str, bytes: &[u8], mode: u32) -> Result<()> {
    let file = root.join(path);
    std::fs::create_dir_all(file.parent().context("a folder")?)?;
    std::fs::write(&file, bytes)?;
    Ok(std::fs::set_permissions(
        &file,
        std::fs::Permissions::from_mode(mode),
    )?)
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
fn add_modules<'a>(
    folder: &Path,
    kernel: &Kernel,
    modules: impl Iterator<Item = &'a &'a str>,
) -> Result<()> {
    let mut seen = HashSet::new();
    for module in modules {
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
