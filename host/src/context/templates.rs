//! What a class offers: a folder of files, read in full. Files are as they are; what ends in `.j2` is a template, of which
//! [`super::render`] makes the file without that ending. Who can write there decides what VMs are told, so nobody but root
//! and the daemon's user may.

use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use minijinja::{AutoEscape, Environment, UndefinedBehavior};
use sha2::{Digest as _, Sha256};
use vmkpi::context::{Class, MAX_DEPTH, MAX_ENTRIES, MAX_IMAGE_BYTES, is_legal_name};

/// The ending of templates.
const TEMPLATE: &str = ".j2";

/// The most classes that are offered.
const MAX_CLASSES: usize = 8;

/// How much a template may do: some hundred thousand steps, which take milliseconds.
const FUEL: u64 = 1_000_000;

/// What is wrong with a folder, a file or a template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {message}")]
pub struct Problem {
    /// The file, with the line where there is one.
    pub place: String,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl Problem {
    pub(super) fn new(place: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            place: place.into(),
            message: message.into(),
        }
    }

    fn at(path: &Path, message: impl Into<String>) -> Self {
        Self::new(path.display().to_string(), message)
    }
}

/// What a class offers, as it is in its folder.
#[derive(Debug)]
pub struct Content {
    /// Its folder.
    pub folder: PathBuf,
    /// Files that are as they are, by path.
    pub(super) plain: BTreeMap<String, Vec<u8>>,
    /// Names of templates, by the path of what is made of them.
    pub(super) made: BTreeMap<String, String>,
    pub(super) environment: Environment<'static>,
    fingerprint: [u8; 32],
}

impl PartialEq for Content {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }
}

impl Content {
    /// How many files it makes.
    pub fn files(&self) -> usize {
        self.plain.len() + self.made.len()
    }
}

/// What all classes offer.
pub type Contents = BTreeMap<Class, Arc<Content>>;

/// Reads the folder of each class below `directory`.
///
/// # Errors
/// Everything that is wrong.
pub fn read(directory: &Path) -> Result<Contents, Vec<Problem>> {
    let mut problems = Vec::new();
    let mut contents = Contents::new();
    match classes(directory) {
        Ok(classes) => {
            for (class, folder) in classes {
                match read_class(&folder) {
                    Ok(content) => drop(contents.insert(class, Arc::new(content))),
                    Err(problem) => problems.push(problem),
                }
            }
        }
        Err(problem) => problems.push(problem),
    }
    match problems.is_empty() {
        true => Ok(contents),
        false => Err(problems),
    }
}

fn classes(directory: &Path) -> Result<BTreeMap<Class, PathBuf>, Problem> {
    let about = metadata(directory)?;
    if !about.is_dir() {
        return Err(Problem::at(directory, "it is no directory"));
    }
    is_safe(directory, &about)?;
    let mut classes = BTreeMap::new();
    for (name, path) in entries(directory)? {
        // A README beside the classes is nobody's content.
        if !metadata(&path)?.is_dir() {
            continue;
        }
        let class: Class = name
            .parse()
            .map_err(|error| Problem::at(&path, format!("{error}")))?;
        classes.insert(class, path);
    }
    match classes.len() {
        0..=MAX_CLASSES => Ok(classes),
        n => Err(Problem::at(
            directory,
            format!("{n} classes; at most {MAX_CLASSES} are offered"),
        )),
    }
}

/// A folder that is being read.
struct Walk<'a> {
    root: &'a Path,
    found: BTreeMap<String, Vec<u8>>,
    entries: usize,
    bytes: u64,
}

fn read_class(folder: &Path) -> Result<Content, Problem> {
    let mut walk = Walk {
        root: folder,
        found: BTreeMap::new(),
        entries: 0,
        bytes: 0,
    };
    walk.folder(folder, "", 0)?;
    content(folder, walk.found)
}

impl Walk<'_> {
    fn folder(&mut self, folder: &Path, prefix: &str, depth: usize) -> Result<(), Problem> {
        let about = metadata(folder)?;
        is_safe(folder, &about)?;
        if depth >= MAX_DEPTH {
            let message = format!("deeper than the {MAX_DEPTH} names that a path may have");
            return Err(Problem::at(folder, message));
        }
        for (name, path) in entries(folder)? {
            self.entries += 1;
            if self.entries > MAX_ENTRIES {
                let message = format!("over {MAX_ENTRIES} files and directories");
                return Err(Problem::at(self.root, message));
            }
            let about = metadata(&path)?;
            let inside = format!("{prefix}{name}");
            if about.is_dir() {
                self.folder(&path, &format!("{inside}/"), depth + 1)?;
            } else if about.is_file() {
                is_safe(&path, &about)?;
                let bytes = self.file(&path)?;
                self.found.insert(inside, bytes);
            } else {
                let message = "it is neither a file nor a directory; links are not followed";
                return Err(Problem::at(&path, message));
            }
        }
        Ok(())
    }

    fn file(&mut self, path: &Path) -> Result<Vec<u8>, Problem> {
        let fail = |error: std::io::Error| Problem::at(path, error.to_string());
        // Not waited for, should it have become a pipe meanwhile, and no link.
        let flags = (nix::fcntl::OFlag::O_NOFOLLOW | nix::fcntl::OFlag::O_NONBLOCK).bits();
        let file = File::options().read(true).custom_flags(flags).open(path);
        let file = file.map_err(fail)?;
        is_safe(path, &file.metadata().map_err(fail)?)?;
        let left = MAX_IMAGE_BYTES - self.bytes;
        let mut bytes = Vec::new();
        file.take(left + 1).read_to_end(&mut bytes).map_err(fail)?;
        self.bytes += bytes.len() as u64;
        match self.bytes <= MAX_IMAGE_BYTES {
            true => Ok(bytes),
            false => Err(Problem::at(
                self.root,
                format!("over {MAX_IMAGE_BYTES} bytes in all"),
            )),
        }
    }
}

fn content(folder: &Path, found: BTreeMap<String, Vec<u8>>) -> Result<Content, Problem> {
    let mut hash = Sha256::new();
    for (path, bytes) in &found {
        for part in [path.as_bytes(), bytes] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
    }
    let mut content = Content {
        folder: folder.to_owned(),
        plain: BTreeMap::new(),
        made: BTreeMap::new(),
        environment: environment(),
        fingerprint: hash.finalize().into(),
    };
    for (path, bytes) in found {
        let file = folder.join(&path);
        let Some(made) = path.strip_suffix(TEMPLATE) else {
            content.plain.insert(path, bytes);
            continue;
        };
        if !is_legal_name(made.rsplit('/').next().unwrap_or(made)) {
            return Err(Problem::at(
                &file,
                "without .j2 nothing is left of its name",
            ));
        }
        let text = String::from_utf8(bytes)
            .map_err(|_| Problem::at(&file, "a template has to be UTF-8"))?;
        let added = content.environment.add_template_owned(path.clone(), text);
        added.map_err(|error| in_template(folder, &path, &error))?;
        content.made.insert(made.to_owned(), path);
    }
    let twice = content
        .made
        .keys()
        .find(|made| content.plain.contains_key(*made));
    match twice {
        Some(path) => Err(Problem::at(
            &folder.join(path),
            format!("there is {path}{TEMPLATE}, too; remove one of them"),
        )),
        None => Ok(content),
    }
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_keep_trailing_newline(true);
    environment.set_fuel(Some(FUEL));
    environment
}

/// What a template's engine says, with file and line.
pub(super) fn in_template(folder: &Path, name: &str, error: &minijinja::Error) -> Problem {
    let file = folder.join(error.name().unwrap_or(name));
    let line = error.line().map(|line| format!(":{line}"));
    let place = format!("{}{}", file.display(), line.unwrap_or_default());
    let source = std::error::Error::source(error).map(ToString::to_string);
    let detail = source.or_else(|| error.detail().map(str::to_owned));
    let detail = detail.map(|detail| format!(": {detail}"));
    Problem::new(
        place,
        format!("{}{}", error.kind(), detail.unwrap_or_default()),
    )
}

/// The names in a folder, in their order; each is one that a layer may have.
fn entries(folder: &Path) -> Result<BTreeMap<String, PathBuf>, Problem> {
    let fail = |error: std::io::Error| Problem::at(folder, error.to_string());
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder)
        .map_err(fail)?
        .take(2 * MAX_ENTRIES)
    {
        let entry = entry.map_err(fail)?;
        let name = entry.file_name();
        let legal = name.to_str().filter(|name| is_legal_name(name));
        let legal = legal.ok_or_else(|| {
            let message = "a layer's names are UTF-8 without control characters, at most 255 bytes";
            Problem::at(&entry.path(), message)
        })?;
        found.insert(legal.to_owned(), entry.path());
    }
    Ok(found)
}

fn metadata(path: &Path) -> Result<Metadata, Problem> {
    std::fs::symlink_metadata(path).map_err(|error| Problem::at(path, error.to_string()))
}

/// Nobody but root and we may have written it.
fn is_safe(path: &Path, about: &Metadata) -> Result<(), Problem> {
    let me = nix::unistd::geteuid().as_raw();
    if ![0, me].contains(&about.uid()) {
        let message = format!("it belongs to user {}: chown it to root", about.uid());
        return Err(Problem::at(path, message));
    }
    if about.mode() & 0o022 != 0 {
        let message = "others may write it, and so decide what VMs are told: chmod go-w";
        return Err(Problem::at(path, message));
    }
    Ok(())
}

/// What tells one state of a file from another: path, device, inode, size, times of content and of inode.
type Stamp = (PathBuf, u64, u64, u64, (i64, i64), (i64, i64));

/// Looks at the folders, and reads them when they have changed and been left alone for one look.
#[derive(Debug, Default)]
pub struct Looker {
    seen: Option<Vec<Stamp>>,
    read: Option<Vec<Stamp>>,
}

impl Looker {
    /// What is offered, if it has changed since the last time; the first look reads at once.
    pub fn look(&mut self, directory: &Path) -> Option<Result<Contents, Vec<Problem>>> {
        let mut now = Vec::new();
        stamps(directory, 0, &mut now);
        let first = self.read.is_none();
        let settled = self.seen.as_ref() == Some(&now);
        let known = self.read.as_ref() == Some(&now);
        self.seen = Some(now.clone());
        if known || !(first || settled) {
            return None;
        }
        self.read = Some(now);
        Some(read(directory))
    }
}

/// Of everything below, bounded; a folder that cannot be read has no more than its own.
fn stamps(path: &Path, depth: usize, out: &mut Vec<Stamp>) {
    let Ok(about) = std::fs::symlink_metadata(path) else {
        return;
    };
    let times = (
        (about.mtime(), about.mtime_nsec()),
        (about.ctime(), about.ctime_nsec()),
    );
    out.push((
        path.to_owned(),
        about.dev(),
        about.ino(),
        about.size(),
        times.0,
        times.1,
    ));
    let enough = out.len() > MAX_CLASSES * MAX_ENTRIES || depth > MAX_DEPTH + 1;
    if !about.is_dir() || enough {
        return;
    }
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths.iter().for_each(|path| stamps(path, depth + 1, out));
}

#[cfg(test)]
mod tests;
