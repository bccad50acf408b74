//! The directories of an image that is to be written, with the plain identifiers that lie below Rock Ridge's names.

use std::collections::{BTreeMap, BTreeSet};

use super::write::WriteError;
use super::{Limits, record};
use crate::context::is_legal_name;

/// The longest part of an identifier before the dot, and behind it: 30 characters in all are allowed (ECMA-119, 7.5.1).
const MAX_STEM: usize = 20;
const MAX_EXTENSION: usize = 8;

/// Directories by path, each with what is in it by name: a file's number, or none for a directory.
type Listing<'a> = BTreeMap<&'a str, BTreeMap<&'a str, Option<usize>>>;

/// A directory.
#[derive(Debug)]
pub struct Directory {
    /// The number of the directory that it is in; the root is in itself.
    pub parent: usize,
    /// Its identifier there.
    pub identifier: Vec<u8>,
    /// What is in it, in the order of identifiers (9.3).
    pub children: Vec<Child>,
}

/// What is in a directory.
#[derive(Debug)]
pub struct Child {
    /// Its name.
    pub name: String,
    /// Its identifier.
    pub identifier: Vec<u8>,
    /// What it is.
    pub what: Node,
}

/// A file or directory, by its number.
#[derive(Clone, Copy, Debug)]
pub enum Node {
    /// A file, in the order of paths.
    File(usize),
    /// A directory.
    Directory(usize),
}

/// The directories on the way to these files, in the order of the path table (6.9.1): by level, then by parent.
pub fn directories(paths: &[&str], limits: Limits) -> Result<Vec<Directory>, WriteError> {
    let listing = listing(paths, limits)?;
    let mut directories = vec![Directory {
        parent: 0,
        identifier: record::SELF.to_vec(),
        children: Vec::new(),
    }];
    let mut paths = vec![String::new()];
    let mut place = 0;
    while place < directories.len() {
        let inside = listing.get(paths[place].as_str());
        let mut children = identified(inside.into_iter().flatten());
        for child in &mut children {
            if let Node::Directory(number) = &mut child.what {
                *number = directories.len();
                directories.push(Directory {
                    parent: place,
                    identifier: child.identifier.clone(),
                    children: Vec::new(),
                });
                paths.push(join(&paths[place], &child.name));
            }
        }
        directories[place].children = children;
        place += 1;
    }
    Ok(directories)
}

/// All directories on the way to these files, the root not.
pub fn on_the_way<'a>(paths: &[&'a str]) -> BTreeSet<&'a str> {
    let ways = paths
        .iter()
        .flat_map(|path| path.match_indices('/').map(|(at, _)| &path[..at]));
    ways.collect()
}

fn listing<'a>(paths: &[&'a str], limits: Limits) -> Result<Listing<'a>, WriteError> {
    let mut listing = Listing::new();
    let mut entries = 0;
    for (number, path) in paths.iter().enumerate() {
        let names = path.split('/').count();
        if !path.split('/').all(is_legal_name) {
            return Err(WriteError::Path((*path).to_owned()));
        }
        if names > limits.depth {
            return Err(WriteError::Depth((*path).to_owned(), limits.depth));
        }
        let (mut path, mut node) = (*path, Some(number));
        loop {
            let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
            match listing.entry(parent).or_default().insert(name, node) {
                None => entries += 1,
                // The rest of the way is there already.
                Some(None) if node.is_none() => break,
                Some(_) => return Err(WriteError::Both(path.to_owned())),
            }
            if parent.is_empty() {
                break;
            }
            (path, node) = (parent, None);
        }
    }
    if entries > limits.entries {
        return Err(WriteError::Entries(entries, limits.entries));
    }
    Ok(listing)
}

fn join(directory: &str, name: &str) -> String {
    match directory {
        "" => name.to_owned(),
        _ => format!("{directory}/{name}"),
    }
}

/// Gives each an identifier of its own.
fn identified<'a>(entries: impl Iterator<Item = (&'a &'a str, &'a Option<usize>)>) -> Vec<Child> {
    let mut taken = BTreeSet::new();
    let mut numbers = BTreeMap::new();
    let mut children: Vec<_> = entries
        .map(|(name, node)| Child {
            name: (*name).to_owned(),
            identifier: free(name, node.is_none(), &mut taken, &mut numbers),
            what: node.map_or(Node::Directory(0), Node::File),
        })
        .collect();
    children.sort_by(|a, b| a.identifier.cmp(&b.identifier));
    children
}

/// The identifier of a name: its letters and digits, and a number where another has the same ones.
fn free(
    name: &str,
    directory: bool,
    taken: &mut BTreeSet<String>,
    numbers: &mut BTreeMap<String, u32>,
) -> Vec<u8> {
    let (stem, extension) = match name.rsplit_once('.') {
        Some((stem, extension)) if !directory && !stem.is_empty() => (stem, extension),
        _ => (name, ""),
    };
    let (stem, extension) = (plain(stem, MAX_STEM), plain(extension, MAX_EXTENSION));
    let written = |stem: &str| match directory {
        true => stem.to_owned(),
        false => format!("{stem}.{extension};1"),
    };
    let mut identifier = written(&stem);
    // The numbers go on where they were, so that many names of one kind cost no search.
    let number = numbers.entry(identifier.clone()).or_default();
    while !taken.insert(identifier.clone()) {
        *number += 1;
        identifier = written(&format!("{stem}_{number}"));
    }
    identifier.into_bytes()
}

/// In the characters of an identifier (7.4.1), cut.
fn plain(text: &str, length: usize) -> String {
    let plain = |c: char| match c.to_ascii_uppercase() {
        c if c.is_ascii_uppercase() || c.is_ascii_digit() => c,
        _ => '_',
    };
    text.chars().map(plain).take(length).collect()
}
