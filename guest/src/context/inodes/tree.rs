//! Names by directory: on their way into a new tree, and compared with those of the last one.

use std::collections::{BTreeMap, HashMap};

use vmkpi::context::GENERATION_FILE;

use super::{Body, Ino, Inodes, Name, ROOT};

/// The names of one of the two that the other has not, or has for another inode.
pub(super) fn differing(old: &[Name], new: &[Name]) -> Vec<String> {
    let inos = |names: &[Name]| -> BTreeMap<String, Ino> {
        let pair = |name: &Name| (name.name.clone(), name.ino);
        names.iter().map(pair).collect()
    };
    let (old, new) = (inos(old), inos(new));
    let gone = old.iter().filter(|(name, ino)| new.get(*name) != Some(ino));
    let came = new.keys().filter(|name| !old.contains_key(*name));
    gone.map(|(name, _)| name).chain(came).cloned().collect()
}

/// Names by directory, on their way into a new tree.
#[derive(Default)]
pub(super) struct Tree<'a> {
    pub names: BTreeMap<Ino, Vec<Name>>,
    directories: HashMap<&'a str, Ino>,
}

impl<'a> Tree<'a> {
    /// Begins with the top, which keeps the generation's file.
    pub fn top(&mut self, inodes: &mut Inodes) {
        let kept = match inodes.inodes.get_mut(&ROOT) {
            Some(top) => {
                top.named = true;
                match &top.body {
                    Body::Directory(names) => names.to_vec(),
                    Body::File(_) => Vec::new(),
                }
            }
            None => Vec::new(),
        };
        let kept = kept.into_iter().filter(|name| name.name == GENERATION_FILE);
        self.names.insert(ROOT, kept.collect());
        self.directories.insert("", ROOT);
    }

    pub fn add(&mut self, path: &'a str, ino: Ino, directory: bool) {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        if directory {
            self.directories.insert(path, ino);
            self.names.insert(ino, Vec::new());
        }
        // A view has the directories on the way to everything in it.
        if let Some(names) = self
            .directories
            .get(parent)
            .and_then(|at| self.names.get_mut(at))
        {
            let name = name.to_owned();
            names.push(Name {
                name,
                ino,
                directory,
            });
        }
    }
}
