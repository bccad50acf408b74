//! Several layers as one tree. Pure: layers in, a tree out; nothing in it ever changes.
//!
//! ```text
//! infrastructure   a/          a/x                      the highest layer that has a path decides what it is:
//! service          a/  a/y     a/x  b                   a/  a/x (infrastructure)  a/y (service)  b/  b/z
//! ```
//!
//! Directories merge. A file hides whatever the layers beneath have at its path and below it, and a directory hides a
//! file. What a file hides stays hidden when a directory of a layer above hides that file in turn: each layer is laid
//! over what all those beneath it make together.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use vmkpi::clock::Timestamp;
use vmkpi::context::{Class, GENERATION_FILE};

use super::change::{Entries, Entry};
use super::layer::{Extent, Layer};

/// What is at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Node {
    /// A directory.
    Directory,
    /// A file.
    File(Extent),
}

/// A node, and the highest layer that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The layer's place, 0 the highest.
    pub layer: usize,
    /// What it is.
    pub node: Node,
}

/// The merged tree. Paths are relative to its top, which is not among them.
#[derive(Debug, Default)]
pub struct View {
    layers: Vec<Arc<Layer>>,
    nodes: BTreeMap<String, Placed>,
}

/// A layer that has a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The layer's place, 0 the highest.
    pub place: usize,
    /// Whose it is.
    pub class: Class,
    /// Whether it has a directory there, or a file.
    pub directory: bool,
    /// Bytes of the file; 0 of a directory.
    pub bytes: u64,
    /// Whether the tree shows it: the file, or the directory with what else is in it.
    pub shown: bool,
}

impl View {
    /// Lays these over each other, the highest first.
    pub fn new(layers: Vec<Arc<Layer>>) -> Self {
        let mut nodes = BTreeMap::new();
        for (place, layer) in layers.iter().enumerate().rev() {
            for path in layer.directories.iter().filter(|path| !is_ours(path)) {
                let node = Node::Directory;
                nodes.insert(path.clone(), Placed { layer: place, node });
            }
            for (path, extent) in layer.files.iter().filter(|(path, _)| !is_ours(path)) {
                let node = Node::File(*extent);
                let hidden = nodes.insert(path.clone(), Placed { layer: place, node });
                if hidden.is_some_and(|placed| placed.node == Node::Directory) {
                    clear_below(&mut nodes, path);
                }
            }
        }
        Self { layers, nodes }
    }

    /// The layers, the highest first.
    pub fn layers(&self) -> &[Arc<Layer>] {
        &self.layers
    }

    /// Everything in the tree by path. A directory stands before what is in it.
    pub fn nodes(&self) -> &BTreeMap<String, Placed> {
        &self.nodes
    }

    /// The content of a file, if it is one and has at most `limit` bytes.
    ///
    /// # Errors
    /// The layer cannot be read.
    pub fn read(&self, path: &str, limit: u64) -> std::io::Result<Option<Vec<u8>>> {
        match self.nodes.get(path) {
            Some(Placed {
                layer,
                node: Node::File(extent),
            }) if extent.length <= limit => {
                let size = usize::try_from(extent.length).unwrap_or(usize::MAX);
                self.layers[*layer].read(extent, 0, size).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// The layers that have a path, the highest first.
    pub fn holders(&self, path: &str) -> Vec<Holder> {
        let shown = self.nodes.get(path);
        let holder = |(place, layer): (usize, &Arc<Layer>)| {
            let file = layer.files.get(path);
            if file.is_none() && !layer.directories.contains(path) {
                return None;
            }
            let merged = shown.is_some_and(|s| s.node == Node::Directory && file.is_none());
            Some(Holder {
                place,
                class: layer.class.clone(),
                directory: file.is_none(),
                bytes: file.map_or(0, |extent| extent.length),
                shown: shown.is_some_and(|s| s.layer == place)
                    || merged && !self.is_cut(path, place),
            })
        };
        self.layers.iter().enumerate().filter_map(holder).collect()
    }

    /// Whether a layer above `place` hides all that it has at `path` behind a file.
    fn is_cut(&self, path: &str, place: usize) -> bool {
        self.layers[..place].iter().any(|layer| {
            let mut ways = ways(path).chain([path]);
            ways.any(|way| layer.files.contains_key(way))
        })
    }

    /// What is where, to be compared and remembered. What has not changed since `before` keeps its time.
    pub fn entries(&self, before: &Entries, now: Timestamp) -> Entries {
        let entry = |(path, placed): (&String, &Placed)| {
            let (key, digest) = match placed.node {
                Node::Directory => (format!("{path}/"), None),
                Node::File(extent) => (path.clone(), Some(hex(&extent.digest))),
            };
            let known = before.get(&key).filter(|known| known.digest == digest);
            let class = self.layers[placed.layer].class.clone();
            let since = known.map_or(now, |known| known.since);
            let entry = Entry {
                digest,
                class,
                since,
            };
            (key, entry)
        };
        self.nodes.iter().map(entry).collect()
    }
}

/// The generation's file is the program's own: no layer has it.
fn is_ours(path: &str) -> bool {
    path.split('/').next() == Some(GENERATION_FILE)
}

/// The directories on the way to a path, the top not.
pub fn ways(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(at, _)| &path[..at])
}

fn clear_below(nodes: &mut BTreeMap<String, Placed>, path: &str) {
    // '0' follows '/': what begins with the path and a slash lies between.
    let (first, end) = (format!("{path}/"), format!("{path}0"));
    let below: Vec<String> = nodes
        .range(first..end)
        .map(|(path, _)| path.clone())
        .collect();
    for path in below {
        nodes.remove(&path);
    }
}

/// A digest as it is written.
pub fn hex(digest: &[u8; 32]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(64);
    for byte in digest {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
pub(crate) mod tests;
