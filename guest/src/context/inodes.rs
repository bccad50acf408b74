//! The tree as the kernel knows it: numbers for what is in a view, and for what was, until the kernel forgets it. Pure.
//!
//! Each version of a file has a number of its own, so what the kernel keeps of a number (attributes, pages) is true for
//! ever: whoever has an old version open or mapped goes on reading it, and whoever opens the path anew gets the new one.
//! A directory keeps its number, and what the kernel keeps of its names is taken back name by name ([`Stale`]).

mod retire;
mod tree;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use vmkpi::clock::Timestamp;
use vmkpi::context::GENERATION_FILE;

use super::change::Entries;
use super::layer::{Extent, Layer};
use super::view::{Node, View};
use tree::{Tree, differing};

/// An inode's number.
pub type Ino = u64;

/// The number of the top.
pub const ROOT: Ino = 1;

/// Layers that are no longer shown and of which something is still open. Beyond, the oldest are let go, and whoever reads
/// on in them is told ESTALE.
pub const MAX_OLD_LAYERS: usize = 16;

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// The name.
    pub name: String,
    /// What it names.
    pub ino: Ino,
    /// Whether that is a directory.
    pub directory: bool,
}

/// The names of a directory, in order. A listing holds on to it, so that it is of one moment.
pub type Names = Arc<[Name]>;

/// Where a file's content is.
#[derive(Clone, Debug)]
pub enum Content {
    /// In a layer.
    Layer(Arc<Layer>, Extent),
    /// Here.
    Bytes(Arc<[u8]>),
    /// In a layer that was let go at [`MAX_OLD_LAYERS`].
    Gone(u64),
}

impl Content {
    fn size(&self) -> u64 {
        match self {
            Self::Layer(_, extent) => extent.length,
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Gone(size) => *size,
        }
    }
}

/// What the kernel is told of an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    /// Its number.
    pub ino: Ino,
    /// Whether it is a directory.
    pub directory: bool,
    /// Bytes of a file.
    pub size: u64,
    /// Names for it.
    pub links: u32,
    /// Since when it is so.
    pub since: Timestamp,
}

/// What the kernel must not go by any longer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stale {
    /// A name in a directory, which may be one that was not there.
    Name(Ino, String),
    /// The attributes of a directory.
    Attributes(Ino),
}

/// What makes an inode the same one over a change.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Directory(String),
    Version(String, [u8; 32]),
    Generation(u64),
}

#[derive(Debug)]
enum Body {
    Directory(Names),
    File(Content),
}

#[derive(Debug)]
struct Inode {
    key: Key,
    body: Body,
    since: Timestamp,
    /// Whether a path leads to it.
    named: bool,
    /// How often the kernel was told its number, less how often it forgot it.
    lookups: u64,
    /// The number of the change that took its name.
    retired: u64,
}

/// The inodes.
#[derive(Debug)]
pub struct Inodes {
    last: Ino,
    inodes: HashMap<Ino, Inode>,
    numbers: HashMap<Key, Ino>,
    changes: u64,
    cut_off: u64,
}

impl Inodes {
    /// An empty tree with the file of a generation.
    pub fn new(generation: u64, now: Timestamp) -> Self {
        let mut inodes = Self {
            last: ROOT,
            inodes: HashMap::new(),
            numbers: HashMap::new(),
            changes: 0,
            cut_off: 0,
        };
        let top = Key::Directory(String::new());
        inodes.numbers.insert(top.clone(), ROOT);
        let body = Body::Directory(Arc::default());
        inodes.inodes.insert(ROOT, Inode::new(top, body, now));
        inodes.set_generation(generation, now);
        inodes
    }

    /// Layers that were let go although something of them was open.
    pub fn cut_off(&self) -> u64 {
        self.cut_off
    }

    /// Inodes that the kernel may still ask for although no path leads to them any more.
    pub fn old(&self) -> usize {
        self.inodes.values().filter(|inode| !inode.named).count()
    }

    /// What a name in a directory is; the kernel has one more reference to it then. `None` if it is not there, and
    /// whether that may be remembered: a directory that has gone itself is told of by nobody.
    ///
    /// # Errors
    /// The parent is no directory that is there.
    pub fn lookup(&mut self, parent: Ino, name: &str) -> Result<Option<Attr>, NotThere> {
        let names = self.names(parent)?;
        let Ok(at) = names.binary_search_by(|known| known.name.as_str().cmp(name)) else {
            return Ok(None);
        };
        let ino = names[at].ino;
        if let Some(inode) = self.inodes.get_mut(&ino) {
            inode.lookups += 1;
        }
        Ok(self.attr(ino))
    }

    /// The attributes of an inode, if the number is known.
    pub fn attr(&self, ino: Ino) -> Option<Attr> {
        let inode = self.inodes.get(&ino)?;
        let (directory, size, links) = match &inode.body {
            Body::Directory(names) => {
                let below = names.iter().filter(|name| name.directory).count();
                (true, 0, 2 + u32::try_from(below).unwrap_or(0))
            }
            Body::File(content) => (false, content.size(), 1),
        };
        Some(Attr {
            ino,
            directory,
            size,
            links: if inode.named { links } else { 0 },
            since: inode.since,
        })
    }

    /// Where a file's content is; `None` if it is no file.
    pub fn content(&self, ino: Ino) -> Option<Content> {
        match &self.inodes.get(&ino)?.body {
            Body::File(content) => Some(content.clone()),
            Body::Directory(_) => None,
        }
    }

    /// The names of a directory.
    ///
    /// # Errors
    /// It is no directory that is there.
    pub fn names(&self, ino: Ino) -> Result<Names, NotThere> {
        match self.inodes.get(&ino) {
            Some(Inode {
                body: Body::Directory(names),
                named: true,
                ..
            }) => Ok(Arc::clone(names)),
            _ => Err(NotThere),
        }
    }

    /// The directory that an inode's path is in; the top's is itself.
    pub fn parent(&self, ino: Ino) -> Ino {
        let path = match self.inodes.get(&ino).map(|inode| &inode.key) {
            Some(Key::Directory(path)) => path.rsplit_once('/').map_or("", |(parent, _)| parent),
            _ => "",
        };
        let parent = self.numbers.get(&Key::Directory(path.to_owned()));
        parent.copied().unwrap_or(ROOT)
    }

    /// The kernel has forgotten so many of its references.
    pub fn forget(&mut self, ino: Ino, count: u64) {
        if let Some(inode) = self.inodes.get_mut(&ino) {
            inode.lookups = inode.lookups.saturating_sub(count);
            if inode.lookups == 0 && !inode.named {
                self.remove(ino);
            }
        }
    }

    /// Files and directories in the tree.
    pub fn count(&self) -> usize {
        self.inodes.len() - self.old()
    }

    /// Bytes of the files in the tree.
    pub fn bytes(&self) -> u64 {
        let named = self.inodes.values().filter(|inode| inode.named);
        let size = |inode: &Inode| match &inode.body {
            Body::File(content) => content.size(),
            Body::Directory(_) => 0,
        };
        named.map(size).sum()
    }

    fn remove(&mut self, ino: Ino) {
        if let Some(inode) = self.inodes.remove(&ino)
            && self.numbers.get(&inode.key) == Some(&ino)
        {
            self.numbers.remove(&inode.key);
        }
    }

    /// Shows another view, whose `entries` say since when its files are so. Returns what the kernel must forget; until it has,
    /// some of its users see the old view.
    pub fn replace(&mut self, view: &View, entries: &Entries, now: Timestamp) -> Vec<Stale> {
        self.changes += 1;
        let before = self.listings();
        for inode in self.inodes.values_mut() {
            inode.named = matches!(inode.key, Key::Generation(_)) && inode.named;
        }
        let mut tree = Tree::default();
        tree.top(self);
        for (path, placed) in view.nodes() {
            let (key, body) = match placed.node {
                Node::Directory => (
                    Key::Directory(path.clone()),
                    Body::Directory(Arc::default()),
                ),
                Node::File(extent) => {
                    let layer = Arc::clone(&view.layers()[placed.layer]);
                    let key = Key::Version(path.clone(), extent.digest);
                    (key, Body::File(Content::Layer(layer, extent)))
                }
            };
            let directory = matches!(body, Body::Directory(_));
            let since = entries.get(path).map_or(now, |entry| entry.since);
            let ino = self.place(key, body, since);
            tree.add(path, ino, directory);
        }
        for (ino, names) in tree.names {
            self.set_names(ino, names, now);
        }
        self.retire();
        self.stale(&before)
    }

    /// Shows another generation. Returns what the kernel must forget.
    pub fn set_generation(&mut self, generation: u64, now: Timestamp) -> Vec<Stale> {
        self.changes += 1;
        for inode in self.inodes.values_mut() {
            inode.named &= !matches!(inode.key, Key::Generation(_));
        }
        let text: Arc<[u8]> = format!("{generation}\n").into_bytes().into();
        let body = Body::File(Content::Bytes(text));
        let ino = self.place(Key::Generation(generation), body, now);
        let mut names: Vec<Name> = match self.names(ROOT) {
            Ok(names) => names.to_vec(),
            Err(NotThere) => Vec::new(),
        };
        names.retain(|name| name.name != GENERATION_FILE);
        names.push(Name {
            name: GENERATION_FILE.to_owned(),
            ino,
            directory: false,
        });
        self.set_names(ROOT, names, now);
        self.retire();
        vec![
            Stale::Name(ROOT, GENERATION_FILE.to_owned()),
            Stale::Attributes(ROOT),
        ]
    }

    /// The inode of that key, with that body from now on; a new one where there is none.
    fn place(&mut self, key: Key, body: Body, since: Timestamp) -> Ino {
        if let Some(ino) = self.numbers.get(&key).copied()
            && let Some(inode) = self.inodes.get_mut(&ino)
        {
            inode.named = true;
            // The same content may come from another layer. A file's attributes stay as its number does.
            if let Body::File(_) = body {
                inode.body = body;
            }
            return ino;
        }
        self.last += 1;
        self.numbers.insert(key.clone(), self.last);
        self.inodes.insert(self.last, Inode::new(key, body, since));
        self.last
    }

    fn listings(&self) -> BTreeMap<Ino, Names> {
        let named = self.inodes.iter().filter(|(_, inode)| inode.named);
        named
            .filter_map(|(ino, inode)| match &inode.body {
                Body::Directory(names) => Some((*ino, Arc::clone(names))),
                Body::File(_) => None,
            })
            .collect()
    }

    fn set_names(&mut self, ino: Ino, mut names: Vec<Name>, now: Timestamp) {
        // By name: a path's order puts `a-b` between `a` and `a/x`.
        names.sort_by(|a, b| a.name.cmp(&b.name));
        if let Some(inode) = self.inodes.get_mut(&ino) {
            if !matches!(&inode.body, Body::Directory(old) if **old == *names) {
                inode.since = now;
            }
            inode.body = Body::Directory(names.into());
        }
    }

    /// Names that mean something else than `before`, the deepest directories not necessarily first: each is taken back
    /// on its own.
    fn stale(&self, before: &BTreeMap<Ino, Names>) -> Vec<Stale> {
        let now = self.listings();
        let nothing: Names = Arc::default();
        let mut stale = Vec::new();
        let directories = before
            .keys()
            .chain(now.keys().filter(|i| !before.contains_key(i)));
        for ino in directories {
            let old = before.get(ino).unwrap_or(&nothing);
            let new = now.get(ino).unwrap_or(&nothing);
            let other = differing(old, new);
            if !other.is_empty() || before.contains_key(ino) != now.contains_key(ino) {
                stale.extend(other.into_iter().map(|name| Stale::Name(*ino, name)));
                stale.push(Stale::Attributes(*ino));
            }
        }
        stale
    }
}

/// The parent is no directory that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotThere;

impl Inode {
    fn new(key: Key, body: Body, since: Timestamp) -> Self {
        Self {
            key,
            body,
            since,
            named: true,
            lookups: 0,
            retired: 0,
        }
    }
}

#[cfg(test)]
mod tests;
