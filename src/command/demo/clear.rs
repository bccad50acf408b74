//! Clears the demo's folder: unmounts what is mounted in it, then removes it. Never the other way
//! round, as removing files of a mounted partition would reach into it.

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use rustix::mount::{UnmountFlags, unmount};

/// Removes `folder` and all mounts in it.
///
/// # Errors
/// Something in it stays mounted (then nothing is removed), or cannot be removed.
pub fn clear(folder: &Path) -> Result<()> {
    for mount in mounts_in(folder)? {
        unmount_lazily(&mount);
    }
    if let Some(mount) = mounts_in(folder)?.first() {
        bail!(
            "{} is still mounted; unmount it with: fusermount3 -uz {0}",
            mount.display()
        );
    }
    match std::fs::remove_dir_all(folder) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

/// Root unmounts itself; anyone else asks the helper that mounted it.
fn unmount_lazily(mount: &Path) {
    if unmount(mount, UnmountFlags::DETACH).is_ok() {
        return;
    }
    // That it failed is seen by looking at what is mounted.
    let _ = Command::new("fusermount3")
        .arg("-uz")
        .arg(mount)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
}

/// What is mounted below `folder`, innermost first.
fn mounts_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let table = std::fs::read("/proc/self/mountinfo").context("what is mounted?")?;
    let mut mounts: Vec<PathBuf> = table
        .split(|b| *b == b'\n')
        // The fifth field is the mount point (proc(5)), with blanks as \040.
        .filter_map(|line| line.split(|b| *b == b' ').nth(4))
        .map(|field| PathBuf::from(std::ffi::OsStr::from_bytes(&unescape(field))))
        .filter(|path| path.starts_with(folder))
        .collect();
    mounts.reverse();
    Ok(mounts)
}

/// `\ooo` in octal stands for a byte.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let octal = (*first == b'\\')
            .then(|| tail.get(..3))
            .flatten()
            .and_then(|d| std::str::from_utf8(d).ok())
            .and_then(|d| u8::from_str_radix(d, 8).ok());
        bytes.push(octal.unwrap_or(*first));
        rest = if octal.is_some() { &tail[3..] } else { tail };
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_with_blanks_are_read_and_a_plain_folder_is_removed() {
        assert_eq!(unescape(br"/tmp/a\040b\134"), b"/tmp/a b\\");
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("x")).unwrap();
        clear(folder.path()).unwrap();
        assert!(!folder.path().exists());
        clear(folder.path()).unwrap();
        assert!(mounts_in(Path::new("/")).unwrap().len() > 1);
    }
}
