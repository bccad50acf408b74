//! A local directory as a layer: read in full into a spool file, bounded as media are, so that whoever edits it later
//! changes nothing that is shown.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use anyhow::{Context as _, bail};
use nix::fcntl::OFlag;
use sha2::{Digest as _, Sha256};
use vmkpi::context::{Class, MAX_DEPTH, MAX_ENTRIES, MAX_IMAGE_BYTES, is_legal_name};

use super::layer::{Extent, Layer};

/// A directory that was read.
#[derive(Debug)]
pub struct Reading {
    /// The layer.
    pub layer: Layer,
    /// What is not in it, and why.
    pub skipped: Vec<String>,
}

/// The most of [`Reading::skipped`] that is said one by one.
const MAX_SKIPPED: usize = 8;

/// Reads a directory.
///
/// # Errors
/// It cannot be read, or exceeds a bound of layers.
pub fn read(class: &Class, directory: &Path, spool: &Path) -> anyhow::Result<Reading> {
    let mut walk = Walk {
        content: spool_file(spool)?,
        bytes: 0,
        files: BTreeMap::new(),
        directories: BTreeSet::new(),
        skipped: Vec::new(),
    };
    let at = || format!("the context of class {class} in {}", directory.display());
    walk.directory(directory, "", 1).with_context(at)?;
    let Walk {
        content,
        files,
        directories,
        skipped,
        ..
    } = walk;
    Ok(Reading {
        layer: Layer::new(class.clone(), files, directories, content),
        skipped,
    })
}

/// A file in `directory` that has no name, so that nothing is left of it whatever happens.
///
/// # Errors
/// It cannot be made.
pub fn spool_file(directory: &Path) -> anyhow::Result<File> {
    let at = || format!("cannot write to {}", directory.display());
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .with_context(at)?;
    let thread = format!("{:?}", std::thread::current().id());
    let name = directory.join(format!("layer-{}-{thread}", std::process::id()));
    // Ours alone: a leftover of a program that died.
    let _ = std::fs::remove_file(&name);
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&name)
        .with_context(at)?;
    std::fs::remove_file(&name).with_context(at)?;
    Ok(file)
}

struct Walk {
    content: File,
    bytes: u64,
    files: BTreeMap<String, Extent>,
    directories: BTreeSet<String>,
    skipped: Vec<String>,
}

impl Walk {
    fn directory(&mut self, directory: &Path, prefix: &str, depth: usize) -> anyhow::Result<()> {
        let entries = std::fs::read_dir(directory).context("cannot be read")?;
        for entry in entries {
            let entry = entry.context("cannot be read")?;
            let name = entry.file_name();
            let Some(name) = name.to_str().filter(|name| is_legal_name(name)) else {
                self.skip(
                    &format!("{prefix}{}", name.display()),
                    "its name is none that a layer may have; rename it",
                );
                continue;
            };
            let path = format!("{prefix}{name}");
            // Of the entry itself: a link is none of ours.
            let kind = entry.file_type().with_context(|| path.clone())?;
            if kind.is_dir() {
                if depth >= MAX_DEPTH {
                    bail!("{path} is deeper than {MAX_DEPTH} names");
                }
                self.directories.insert(path.clone());
                self.bound()?;
                self.directory(&entry.path(), &format!("{path}/"), depth + 1)?;
            } else if kind.is_file() {
                let extent = self.file(&entry.path()).with_context(|| path.clone())?;
                self.files.insert(path, extent);
                self.bound()?;
            } else {
                self.skip(&path, "it is no file and no directory; put a copy there");
            }
        }
        Ok(())
    }

    fn skip(&mut self, path: &str, why: &str) {
        if self.skipped.len() < MAX_SKIPPED {
            self.skipped
                .push(format!("\"{}\" is left out: {why}", path.escape_debug()));
        }
    }

    fn bound(&self) -> anyhow::Result<()> {
        match self.files.len() + self.directories.len() <= MAX_ENTRIES {
            true => Ok(()),
            false => bail!("it has more than {MAX_ENTRIES} files and directories"),
        }
    }

    fn file(&mut self, path: &Path) -> anyhow::Result<Extent> {
        // A FIFO or a link that has taken the file's place since must not hold us up.
        let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        let mut file = File::options()
            .read(true)
            .custom_flags(flags.bits())
            .open(path)?;
        let (offset, mut digest, mut buffer) = (self.bytes, Sha256::new(), vec![0; 64 << 10]);
        loop {
            let count = match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            self.bytes += count as u64;
            if self.bytes > MAX_IMAGE_BYTES {
                bail!("with it there are more than {MAX_IMAGE_BYTES} bytes");
            }
            digest.update(&buffer[..count]);
            self.content
                .write_all(&buffer[..count])
                .context("cannot be copied to the state directory")?;
        }
        Ok(Extent {
            offset,
            length: self.bytes - offset,
            digest: digest.finalize().into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class() -> Class {
        "service".parse().unwrap()
    }

    #[test]
    fn files_are_read_links_and_strange_names_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let (top, spool) = (dir.path().join("c"), dir.path().join("spool"));
        std::fs::create_dir_all(top.join("a/b")).unwrap();
        std::fs::write(top.join("a/x"), "one").unwrap();
        std::fs::write(top.join("empty"), "").unwrap();
        std::fs::write(top.join("new\nline"), "").unwrap();
        std::os::unix::fs::symlink("/etc/shadow", top.join("link")).unwrap();
        let reading = read(&class(), &top, &spool).unwrap();
        let layer = &reading.layer;
        assert_eq!(layer.files.keys().collect::<Vec<_>>(), ["a/x", "empty"]);
        assert_eq!(layer.directories.iter().collect::<Vec<_>>(), ["a", "a/b"]);
        assert_eq!(reading.skipped.len(), 2, "{:?}", reading.skipped);
        std::fs::write(top.join("a/x"), "two").unwrap();
        assert_eq!(layer.read(&layer.files["a/x"], 0, 9).unwrap(), b"one");
        assert_eq!(std::fs::read_dir(&spool).unwrap().count(), 0);
    }

    #[test]
    fn bounds_refuse_the_whole() {
        let dir = tempfile::tempdir().unwrap();
        let spool = dir.path().join("spool");
        let many = dir.path().join("many");
        std::fs::create_dir(&many).unwrap();
        for n in 0..=MAX_ENTRIES {
            std::fs::write(many.join(n.to_string()), "").unwrap();
        }
        let deep = dir.path().join("deep");
        std::fs::create_dir_all(deep.join(["d"; MAX_DEPTH + 1].join("/"))).unwrap();
        let large = dir.path().join("large");
        std::fs::create_dir(&large).unwrap();
        let file = File::create(large.join("f")).unwrap();
        file.set_len(MAX_IMAGE_BYTES + 1).unwrap();
        for (directory, word) in [(many, "4096"), (deep, "deeper"), (large, "bytes")] {
            let error = format!("{:#}", read(&class(), &directory, &spool).unwrap_err());
            assert!(error.contains(word), "{error}");
        }
    }
}
