//! Taking over a stale mount, mounting, and letting go. A daemon that was killed leaves its mount behind,
//! where every call fails with ENOTCONN until somebody detaches it.

use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail};
use fuser::{Config, Filesystem, MountOption, Session, SessionACL};
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};

use crate::config::AllowOther;
use crate::fuse::Adapter;

/// Detaches what a killed daemon has left at `path`.
///
/// # Errors
/// It is no directory, or it cannot be detached.
pub fn take_over(path: &Path) -> anyhow::Result<()> {
    // Several daemons may have died on top of each other.
    for _ in 0..8 {
        match look(path) {
            Ok(found) if found.is_dir() => return Ok(()),
            Ok(_) => bail!("{} is no directory", path.display()),
            Err(error) if error.raw_os_error() == Some(Errno::ENOTCONN as i32) => {
                tracing::warn!(mount = %path.display(), "taking over the mount of a daemon that died");
                detach(path).with_context(|| format!("cannot detach {}", path.display()))?;
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                std::fs::create_dir_all(path)
                    .with_context(|| format!("cannot make {}", path.display()))?;
            }
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        }
    }
    bail!("{} cannot be detached", path.display())
}

/// What is at `path`. Its attributes may still be in the kernel's cache when its daemon has died: `statfs`
/// is never answered from there.
fn look(path: &Path) -> std::io::Result<std::fs::Metadata> {
    nix::sys::statvfs::statvfs(path)?;
    std::fs::metadata(path)
}

/// Detaches the mount at `path` at once; what is open stays open until the program ends. An unmount that
/// waits could hang on a process that holds a copy of the mount namespace.
///
/// # Errors
/// Neither the kernel nor fusermount3 does it.
pub fn detach(path: &Path) -> anyhow::Result<()> {
    match umount2(path, MntFlags::MNT_DETACH) {
        Ok(()) => return Ok(()),
        Err(Errno::EPERM) => {}
        Err(errno) => bail!("umount2: {errno}"),
    }
    let done = Command::new("fusermount3")
        .args(["-u", "-z", "--"])
        .arg(path)
        .output()
        .context("fusermount3 cannot be run")?;
    if !done.status.success() {
        bail!("{}", String::from_utf8_lossy(&done.stderr).trim());
    }
    Ok(())
}

/// Mounts. `adapter` is called with whether every user may use the partition.
///
/// # Errors
/// The kernel or fusermount3 refuses.
pub fn mount(
    path: &Path,
    policy: AllowOther,
    adapter: impl Fn(bool) -> Adapter,
) -> anyhow::Result<Session<Adapter>> {
    attempt(path, policy, |everyone| {
        let adapter = adapter(everyone);
        let device = adapter.device();
        let session = Session::new(adapter, path, &options(everyone))?;
        // Set once: this is the only place.
        let _ = device.set(session.as_fd().try_clone_to_owned()?);
        Ok(session)
    })
}

/// Mounts what nobody can write to.
///
/// # Errors
/// The kernel or fusermount3 refuses.
pub fn mount_read_only<F: Filesystem>(
    path: &Path,
    policy: AllowOther,
    filesystem: impl Fn() -> F,
) -> anyhow::Result<Session<F>> {
    attempt(path, policy, |everyone| {
        let mut options = options(everyone);
        options.mount_options.push(MountOption::RO);
        Session::new(filesystem(), path, &options)
    })
}

/// Mounts for whom the policy names.
fn attempt<F: Filesystem>(
    path: &Path,
    policy: AllowOther,
    attempt: impl Fn(bool) -> std::io::Result<Session<F>>,
) -> anyhow::Result<Session<F>> {
    let at = || format!("cannot mount at {}", path.display());
    match policy {
        AllowOther::All => attempt(true).with_context(at),
        AllowOther::Owner => attempt(false).with_context(at),
        AllowOther::Auto => match attempt(true) {
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                tracing::warn!(
                    "only this user may use the partition: /etc/fuse.conf has no user_allow_other"
                );
                attempt(false).with_context(at)
            }
            done => done.with_context(at),
        },
    }
}

fn options(everyone: bool) -> Config {
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName("vmkpi".into()),
        MountOption::Subtype("vmkpi".into()),
        MountOption::NoExec,
        // The kernel compares modes and owners, with attributes it has: a store still costs no request more.
        MountOption::DefaultPermissions,
    ];
    config.acl = match everyone {
        true => SessionACL::All,
        false => SessionACL::Owner,
    };
    config
}
