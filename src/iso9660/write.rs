//! Writes an image: descriptors, path tables, directories with their continuations, files, in this order.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

use super::record::{self, MAX_RECORD, bare_length, byte, flags, sectors, to_both_16, to_both_32};
use super::rock_ridge::{self, CONTINUATION_BYTES, DIRECTORY_MODE, FILE_MODE};
use super::tree::{self, Child, Directory, Node};
use super::{DESCRIPTOR_OFFSET, DIGEST_AT, DIGEST_MARK, Limits, MAX_LABEL, SECTOR, TreeDigest};

/// The sector of the first path table: behind the primary descriptor and the terminator.
const PATH_TABLE: usize = 18;

/// Why an image cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The label is not one of ISO 9660.
    #[error("{0:?} is no volume label: write capitals, digits and _, 1 to {MAX_LABEL} in all")]
    Label(String),
    /// The path is not one of a context.
    #[error("{0:?} is no path of a context: write names without control characters, joined by /")]
    Path(String),
    /// The path is too deep.
    #[error("{0:?} is too deep: at most {1} names lead to a file")]
    Depth(String, usize),
    /// A path leads to a file and through it.
    #[error("{0:?} is both a file and a directory: name one of them differently")]
    Both(String),
    /// There are too many.
    #[error("{0} files and directories: a context has at most {1}")]
    Entries(usize, usize),
    /// They are too large.
    #[error("the image would have {0} bytes: a context has at most {1}")]
    Bytes(u64, u64),
}

/// An image of these files, by their paths. The same files give the same bytes.
///
/// # Errors
/// The label or a path is not legal, or there is more than a context may hold.
pub fn write(label: &str, files: &BTreeMap<String, Vec<u8>>) -> Result<Vec<u8>, WriteError> {
    let legal = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_';
    if !(1..=MAX_LABEL).contains(&label.len()) || !label.bytes().all(legal) {
        return Err(WriteError::Label(label.to_owned()));
    }
    let limits = Limits::default();
    let paths: Vec<&str> = files.keys().map(String::as_str).collect();
    let tree = Tree {
        directories: tree::directories(&paths, limits)?,
        lengths: files.values().map(Vec::len).collect(),
    };
    let layout = Layout::of(&tree, limits)?;
    let mut image = Vec::with_capacity(layout.end * SECTOR);
    image.resize(PATH_TABLE * SECTOR, 0);
    descriptors(&mut image, label, &tree, &layout, digest(&paths, files));
    append(
        &mut image,
        &path_table(&tree, &layout, u32::to_le_bytes, u16::to_le_bytes),
    );
    append(
        &mut image,
        &path_table(&tree, &layout, u32::to_be_bytes, u16::to_be_bytes),
    );
    for place in 0..tree.directories.len() {
        let rendered = Rendered::of(&tree, &layout, place);
        append(&mut image, &rendered.records);
        append(&mut image, &rendered.continuation);
    }
    for content in files.values() {
        append(&mut image, content);
    }
    Ok(image)
}

/// What is to be written.
struct Tree {
    directories: Vec<Directory>,
    /// Of the files, in the order of their paths.
    lengths: Vec<usize>,
}

/// Where it goes, in sectors.
#[derive(Default)]
struct Layout {
    /// Bytes of a path table.
    path_table: usize,
    /// Of each directory: its first sector, and its bytes.
    directories: Vec<(usize, usize)>,
    /// Of each file.
    files: Vec<usize>,
    /// Behind the last.
    end: usize,
}

impl Layout {
    fn of(tree: &Tree, limits: Limits) -> Result<Self, WriteError> {
        // Lengths do not depend on places: what is rendered without them has the right ones.
        let mut layout = Self {
            directories: vec![(0, 0); tree.directories.len()],
            files: vec![0; tree.lengths.len()],
            ..Self::default()
        };
        layout.path_table = path_table(tree, &layout, u32::to_le_bytes, u16::to_le_bytes).len();
        let mut next = PATH_TABLE + 2 * sectors(layout.path_table);
        for place in 0..tree.directories.len() {
            let rendered = Rendered::of(tree, &layout, place);
            layout.directories[place] = (next, rendered.records.len());
            next += sectors(rendered.records.len()) + sectors(rendered.continuation.len());
        }
        for (place, length) in tree.lengths.iter().enumerate() {
            // A file without content is nowhere.
            layout.files[place] = if *length == 0 { 0 } else { next };
            next += sectors(*length);
        }
        layout.end = next;
        let bytes = next as u64 * SECTOR as u64;
        match bytes <= limits.bytes {
            true => Ok(layout),
            false => Err(WriteError::Bytes(bytes, limits.bytes)),
        }
    }
}

/// A directory's bytes.
#[derive(Default)]
struct Rendered {
    records: Vec<u8>,
    continuation: Vec<u8>,
}

impl Rendered {
    fn of(tree: &Tree, layout: &Layout, place: usize) -> Self {
        let directory = &tree.directories[place];
        let mut rendered = Self::default();
        let announcement = if place == 0 {
            rock_ridge::announcement()
        } else {
            Vec::new()
        };
        rendered.directory(tree, layout, place, record::SELF, announcement);
        rendered.directory(tree, layout, directory.parent, record::PARENT, Vec::new());
        let (first, bytes) = layout.directories[place];
        for child in &directory.children {
            let name = rendered.name(child, first + sectors(bytes));
            match child.what {
                Node::Directory(number) => {
                    rendered.directory(tree, layout, number, &child.identifier, name);
                }
                Node::File(number) => {
                    let mut fields = rock_ridge::attributes(FILE_MODE, 1);
                    fields.extend(name);
                    let (sector, length) = (layout.files[number], tree.lengths[number]);
                    let id = &child.identifier;
                    rendered.record(&record::write(
                        within(sector),
                        within(length),
                        0,
                        id,
                        &fields,
                    ));
                }
            }
        }
        pad(&mut rendered.records);
        rendered
    }

    /// The record of a directory.
    fn directory(
        &mut self,
        tree: &Tree,
        layout: &Layout,
        number: usize,
        identifier: &[u8],
        mut fields: Vec<u8>,
    ) {
        let is_directory = |child: &&Child| matches!(child.what, Node::Directory(_));
        let inside = tree.directories[number]
            .children
            .iter()
            .filter(is_directory);
        fields.extend(rock_ridge::attributes(
            DIRECTORY_MODE,
            within(2 + inside.count()),
        ));
        let (sector, bytes) = layout.directories[number];
        let (sector, bytes) = (within(sector), within(bytes));
        self.record(&record::write(
            sector,
            bytes,
            flags::DIRECTORY,
            identifier,
            &fields,
        ));
    }

    /// The fields of a name: in the record if it has the room, otherwise in a continuation behind the directory.
    fn name(&mut self, child: &Child, continuation: usize) -> Vec<u8> {
        let name = rock_ridge::name(&child.name);
        let attributes = rock_ridge::attributes(0, 0).len();
        if bare_length(child.identifier.len()) + attributes + name.len() <= MAX_RECORD {
            return name;
        }
        debug_assert!(
            bare_length(child.identifier.len()) + attributes + CONTINUATION_BYTES <= MAX_RECORD
        );
        append_whole(&mut self.continuation, &name);
        let start = self.continuation.len() - name.len();
        let (sector, offset) = (continuation + start / SECTOR, start % SECTOR);
        rock_ridge::continuation(within(sector), within(offset), within(name.len()))
    }

    fn record(&mut self, record: &[u8]) {
        append_whole(&mut self.records, record);
    }
}

/// Appends what may not lie across the end of a sector.
fn append_whole(bytes: &mut Vec<u8>, part: &[u8]) {
    if bytes.len() % SECTOR + part.len() > SECTOR {
        pad(bytes);
    }
    bytes.extend(part);
}

/// Appends what begins at a sector.
fn append(image: &mut Vec<u8>, part: &[u8]) {
    image.extend(part);
    pad(image);
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(SECTOR), 0);
}

/// A number that is within the limits of an image.
fn within(number: usize) -> u32 {
    u32::try_from(number).expect("an image is far below 4 GiB")
}

/// A path table (9.4), in one of the two byte orders.
fn path_table(
    tree: &Tree,
    layout: &Layout,
    number: fn(u32) -> [u8; 4],
    half: fn(u16) -> [u8; 2],
) -> Vec<u8> {
    let mut table = Vec::new();
    for (directory, (sector, _)) in tree.directories.iter().zip(&layout.directories) {
        let parent = u16::try_from(directory.parent + 1).expect("a context has few directories");
        table.extend([byte(directory.identifier.len()), 0]);
        table.extend(number(within(*sector)));
        table.extend(half(parent));
        table.extend(&directory.identifier);
        table.resize(table.len().next_multiple_of(2), 0);
    }
    table
}

/// The digest of what is written.
fn digest(paths: &[&str], files: &BTreeMap<String, Vec<u8>>) -> TreeDigest {
    let contents = files
        .iter()
        .map(|(path, content)| (path.as_str(), Sha256::digest(content).into()));
    TreeDigest::of(tree::on_the_way(paths), contents)
}

/// The primary volume descriptor (8.4) and the terminator (8.3).
fn descriptors(image: &mut [u8], label: &str, tree: &Tree, layout: &Layout, digest: TreeDigest) {
    let start = usize::try_from(DESCRIPTOR_OFFSET).expect("it is small");
    let (primary, terminator) = image[start..].split_at_mut(SECTOR);
    terminator[..7].copy_from_slice(b"\xffCD001\x01");
    let mut put = |at: usize, bytes: &[u8]| primary[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"\x01CD001\x01");
    put(8, &[b' '; 64]);
    put(8, b"LINUX");
    put(40, label.as_bytes());
    put(80, &to_both_32(within(layout.end)));
    for at in [120, 124] {
        put(at, &to_both_16(1));
    }
    put(128, &to_both_16(SECTOR as u16));
    put(132, &to_both_32(within(layout.path_table)));
    let second = PATH_TABLE + sectors(layout.path_table);
    put(140, &within(PATH_TABLE).to_le_bytes());
    put(148, &within(second).to_be_bytes());
    let (sector, bytes) = layout.directories[0];
    let root = record::write(
        within(sector),
        within(bytes),
        flags::DIRECTORY,
        &tree.directories[0].identifier,
        &[],
    );
    put(156, &root);
    put(190, &[b' '; 813 - 190]);
    put(574, b"VMKPI");
    for at in [813, 830, 847, 864] {
        // No date.
        put(at, b"0000000000000000\0");
    }
    put(881, &[1]);
    put(DIGEST_AT, DIGEST_MARK);
    put(DIGEST_AT + DIGEST_MARK.len(), digest.to_string().as_bytes());
}
