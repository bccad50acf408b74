//! What each host of a pair tells its guest, and how the guest goes by it.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::host::End;

/// The class's folder at a host.
fn class(folder: &Path, end: End) -> PathBuf {
    folder.join(end.name()).join("context/infrastructure")
}

/// Writes a file or a template of a host's infrastructure class, and nobody ever sees half of it.
///
/// # Errors
/// It cannot be written.
pub fn offer(folder: &Path, end: End, path: &str, text: &str) -> Result<()> {
    let file = class(folder, end).join(path);
    let parent = file.parent().context("a folder")?;
    std::fs::create_dir_all(parent)?;
    // Beside the contexts: what lies in them is offered.
    let new = folder.join(end.name()).join("offer.new");
    std::fs::write(&new, text)?;
    Ok(std::fs::rename(new, file)?)
}

/// The options of a host's daemon that offers these contexts.
pub fn options(folder: &Path, end: End) -> Vec<String> {
    let directory = folder.join(end.name()).join("context");
    vec![format!("--context.directory={}", directory.display())]
}

/// What both hosts offer: the address of a cache of their own, and who the VM is; and their daemons' options.
///
/// # Errors
/// It cannot be written.
pub fn offer_caches(folder: &Path) -> Result<[Vec<String>; 2]> {
    for end in End::BOTH {
        offer(
            folder,
            end,
            "cache/address",
            &format!("{}\n", end.address()),
        )?;
        offer(
            folder,
            end,
            "vm.j2",
            "{{ vm }} of {{ primary_site }}, {{ event }}\n",
        )?;
    }
    Ok(End::BOTH.map(|end| options(folder, end)))
}

/// The guest's settings: it shows contexts at `/context`.
pub const GUEST: &str = "[context]\nmount = \"/context\"\n";

/// A service of the guest's that has to know its surroundings, in small: the address of the nearest cache stands in its
/// configuration, which this hook writes anew when the context says another one.
pub const CACHE_HOOK: &str = "#!/bin/sh\nset -eu\n\
    [ -e /context/cache/address ] || exit 0\n\
    read -r address </context/cache/address\n\
    printf 'CACHE=%s\\n' \"$address\" >/etc/service.conf.new\n\
    mv /etc/service.conf.new /etc/service.conf\n";

/// Where the hook lies in the guest.
pub const CACHE_HOOK_FILE: &str = "etc/vmkpi/context.d/50-cache";
