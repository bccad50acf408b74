//! Files of descriptors, looked at each second. A changed file is read when it has been left alone from one
//! look to the next: half of a file that is edited in place may be valid, and say something else.

use std::cell::RefCell;
use std::collections::HashMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use vmkpi::descriptor::{Descriptor, MAX_DESCRIPTOR_BYTES, Spelling};

use super::Refusal;

/// What tells one state of a file from another without reading it: device, inode, size, and the times
/// of its last write and change. `None`: there is no file.
type Stamp = Option<(u64, u64, u64, (i64, i64), (i64, i64))>;

/// A file, and the key's file that it names, as they were.
#[derive(Debug, Default)]
struct Known {
    /// What was read last; nothing at first.
    read: Vec<Stamp>,
    /// What the last look saw.
    seen: Vec<Stamp>,
    /// The files that it names.
    keys: Vec<PathBuf>,
}

/// The files, and what is known of them.
#[derive(Debug, Default)]
pub struct Files {
    known: HashMap<PathBuf, Known>,
}

/// What a file says.
pub type Read = (PathBuf, Result<Descriptor, Refusal>);

impl Files {
    /// Looks at `paths`, and reads those that are new, or have changed and are left alone since.
    pub fn look(&mut self, paths: Vec<PathBuf>) -> Vec<Read> {
        let due = paths.into_iter().filter_map(|path| {
            let known = self.known.entry(path.clone()).or_default();
            let result = known.look(&path)?;
            Some((path, result))
        });
        due.collect()
    }
}

impl Known {
    fn look(&mut self, path: &Path) -> Option<Result<Descriptor, Refusal>> {
        let first = self.seen.is_empty();
        let keys = self.keys.iter().map(PathBuf::as_path);
        let stamps: Vec<_> = std::iter::once(path).chain(keys).map(stamp).collect();
        let settled = stamps == self.seen;
        self.seen = stamps;
        if !first && (!settled || self.seen == self.read) {
            return None;
        }
        let (result, keys) = read_noting_keys(path);
        if keys != self.keys {
            let stamps = keys.iter().map(|key| stamp(key));
            self.seen.truncate(1);
            self.seen.extend(stamps);
            self.keys = keys;
        }
        // The first time is read again: it may have been written to a moment ago.
        if !first {
            self.read.clone_from(&self.seen);
        }
        Some(result)
    }
}

fn stamp(path: &Path) -> Stamp {
    let about = std::fs::metadata(path).ok()?;
    Some((
        about.dev(),
        about.ino(),
        about.size(),
        (about.mtime(), about.mtime_nsec()),
        (about.ctime(), about.ctime_nsec()),
    ))
}

/// Reads the descriptor in `path`; a `primary_key_file` is relative to it.
///
/// # Errors
/// The file cannot be read, is no valid descriptor, or says what this version does not serve.
pub fn read_file(path: &Path) -> Result<Descriptor, Refusal> {
    read_noting_keys(path).0
}

fn read_noting_keys(path: &Path) -> (Result<Descriptor, Refusal>, Vec<PathBuf>) {
    let keys = RefCell::new(Vec::new());
    let dir = path.parent().unwrap_or(Path::new("."));
    let read_key = |key: &Path| {
        let key = dir.join(key);
        let text = std::fs::read_to_string(&key);
        keys.borrow_mut().push(key);
        text
    };
    let result = read_with(path, &read_key);
    (result, keys.into_inner())
}

fn read_with(
    path: &Path,
    read_key: &dyn Fn(&Path) -> std::io::Result<String>,
) -> Result<Descriptor, Refusal> {
    let name = path.display().to_string();
    let refuse = |message: String| Refusal::Read {
        path: name.clone(),
        message,
    };
    let about = std::fs::metadata(path).map_err(|e| refuse(e.to_string()))?;
    if !about.is_file() {
        // A pipe would have to be waited for.
        return Err(refuse("it is no regular file".to_owned()));
    }
    if about.len() > MAX_DESCRIPTOR_BYTES as u64 {
        let length = about.len();
        return Err(refuse(format!(
            "{length} bytes; at most {MAX_DESCRIPTOR_BYTES} are read"
        )));
    }
    let text = std::fs::read_to_string(path).map_err(|e| refuse(e.to_string()))?;
    let parsed = Descriptor::parse(&text, Spelling::of_path(path), read_key);
    parsed.map_err(|errors| Refusal::Invalid {
        place: name.clone(),
        errors,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "vm = \"a\"\nprimary_site = \"s\"\n";
    const TWO: &str = "vm = \"b\"\nprimary_site = \"s\"\n";

    /// The name of the VM in what one look reads, if it reads anything.
    fn look(files: &mut Files, path: &Path) -> Option<String> {
        let mut read = files.look(vec![path.to_owned()]);
        let (_, result) = read.pop()?;
        Some(result.map_or_else(|e| e.to_string(), |d| d.vm.to_string()))
    }

    #[test]
    fn a_file_is_read_when_it_has_been_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d.toml");
        std::fs::write(&path, ONE).unwrap();
        let mut files = Files::default();
        assert_eq!(look(&mut files, &path).as_deref(), Some("a"));
        assert_eq!(look(&mut files, &path).as_deref(), Some("a"), "once more");
        assert_eq!(look(&mut files, &path), None, "it is the same");
        // Edited in place: half of it is there at one look, all of it at the next.
        std::fs::write(&path, &TWO[..12]).unwrap();
        assert_eq!(look(&mut files, &path), None);
        std::fs::write(&path, TWO).unwrap();
        assert_eq!(look(&mut files, &path), None);
        assert_eq!(look(&mut files, &path).as_deref(), Some("b"));
        assert_eq!(look(&mut files, &path), None);
        // Replaced by one of the same size.
        let new = path.with_extension("new");
        std::fs::write(&new, ONE).unwrap();
        std::fs::rename(&new, &path).unwrap();
        assert_eq!(look(&mut files, &path), None);
        assert_eq!(look(&mut files, &path).as_deref(), Some("a"));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(look(&mut files, &path), None);
        assert!(look(&mut files, &path).unwrap().contains("No such file"));
        assert_eq!(look(&mut files, &path), None, "said once");
    }

    #[test]
    fn what_is_no_file_is_refused_and_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        let mode = nix::sys::stat::Mode::S_IRUSR;
        nix::unistd::mkfifo(&pipe, mode).unwrap();
        for path in [dir.path(), &pipe, Path::new("/dev/zero")] {
            let refusal = read_file(path).unwrap_err().to_string();
            assert!(refusal.contains("no regular file"), "{refusal}");
        }
    }

    #[test]
    fn a_key_that_is_replaced_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let (path, key) = (dir.path().join("d.toml"), dir.path().join("k.pem"));
        std::fs::write(&path, format!("primary_key_file = \"k.pem\"\n{ONE}")).unwrap();
        let mut files = Files::default();
        assert!(look(&mut files, &path).unwrap().contains("k.pem"));
        look(&mut files, &path);
        assert_eq!(look(&mut files, &path), None);
        let pem = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../schemas/examples/rsa3072.pub.pem"
        );
        std::fs::copy(pem, &key).unwrap();
        assert_eq!(look(&mut files, &path), None);
        assert_eq!(look(&mut files, &path).as_deref(), Some("a"));
    }
}
