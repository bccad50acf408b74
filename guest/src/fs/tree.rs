//! The names of the partition: two directories and the files in them. Pure: no disk, no kernel.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use nix::errno::Errno;
use vmkpi::clock::Timestamp;
use vmkpi::name::{Area, KpiName};

pub use super::node::{Name, Node};
use crate::config::Limits;
use crate::store::{Point, StoredFile};

/// An inode number.
pub type Ino = u64;

/// A place in a directory's listing. A name keeps its place as long as it is there, whichever file it
/// leads to, and places are never used again: who lists meanwhile sees each name that stays once.
pub type Place = u64;

/// The root directory.
pub const ROOT: Ino = 1;

/// The inode of the owner's public key, where there is one.
pub const PRIMARY_KEY: Ino = 4;

/// Its name, at the top.
pub const PRIMARY_KEY_NAME: &str = "primary-key.pem";

/// Inodes of files begin here; those before are directories and the key.
pub const FIRST_FILE: Ino = 16;

/// Places of names begin here: before them come `.` and `..`.
const FIRST_PLACE: Place = 3;

/// The inode of a directory.
pub fn area_ino(area: Area) -> Ino {
    match area {
        Area::Encrypted => 2,
        Area::Unencrypted => 3,
    }
}

/// The directory with that inode.
pub fn area_of(ino: Ino) -> Option<Area> {
    Area::ALL.into_iter().find(|area| area_ino(*area) == ino)
}

/// A KPI name that is taken, in every case.
#[derive(Debug)]
struct Claim {
    /// As it is written.
    exact: Arc<KpiName>,
    /// Whether it has a table, which keeps it taken for good.
    table: bool,
    /// Files that have it, or had it when they were removed and are still open: their stores go there.
    files: u32,
}

/// One directory's names.
#[derive(Debug)]
struct Directory {
    /// Every linked file, by its exact name, and the name's place.
    names: HashMap<Box<str>, (Ino, Place)>,
    /// The same by place.
    places: BTreeMap<Place, Ino>,
    /// Every KPI name with a table or a file, ASCII case folded.
    claims: HashMap<String, Claim>,
    /// Linked scratch files.
    scratch: usize,
    /// When a name last came or went.
    changed: Timestamp,
}

/// The names and files.
#[derive(Debug)]
pub struct Tree {
    /// Every file that has a name or an open handle, or is known to the kernel.
    nodes: HashMap<Ino, Node>,
    directories: [Directory; 2],
    next: Ino,
    next_place: Place,
    limits: Limits,
}

fn place(area: Area) -> usize {
    match area {
        Area::Encrypted => 0,
        Area::Unencrypted => 1,
    }
}

fn folded(name: &KpiName) -> String {
    name.as_str().to_ascii_lowercase()
}

impl Directory {
    fn new() -> Self {
        Self {
            names: HashMap::new(),
            places: BTreeMap::new(),
            claims: HashMap::new(),
            scratch: 0,
            changed: Timestamp::now(),
        }
    }

    fn claim(&mut self, name: &Name) {
        if let Name::Kpi(kpi) = name {
            let claim = self.claims.entry(folded(kpi)).or_insert_with(|| Claim {
                exact: Arc::clone(kpi),
                table: false,
                files: 0,
            });
            claim.files += 1;
        }
    }

    fn give_up(&mut self, name: &Name) {
        if let Name::Kpi(kpi) = name
            && let Some(claim) = self.claims.get_mut(&folded(kpi))
        {
            claim.files -= 1;
            if claim.files == 0 && !claim.table {
                self.claims.remove(&folded(kpi));
            }
        }
    }

    /// Makes a name lead to a file.
    fn link(&mut self, ino: Ino, name: &Name, fresh: Place) {
        if let Some((old, place)) = self.names.get_mut(name.as_str()) {
            *old = ino;
            self.places.insert(*place, ino);
        } else {
            self.names.insert(name.as_str().into(), (ino, fresh));
            self.places.insert(fresh, ino);
            self.scratch += usize::from(matches!(name, Name::Scratch(_)));
        }
        self.changed = Timestamp::now();
    }

    /// Makes a name lead nowhere.
    fn unlink(&mut self, name: &Name) {
        if let Some((_, place)) = self.names.remove(name.as_str()) {
            self.places.remove(&place);
            self.scratch -= usize::from(matches!(name, Name::Scratch(_)));
        }
        self.changed = Timestamp::now();
    }
}

impl Tree {
    /// The tree of the files that are stored.
    pub fn new(limits: Limits, files: Vec<StoredFile>) -> Self {
        let mut tree = Self {
            nodes: HashMap::new(),
            directories: [Directory::new(), Directory::new()],
            next: FIRST_FILE,
            next_place: FIRST_PLACE,
            limits,
        };
        for file in files {
            let Point { area, name } = file.point;
            let claim = Claim {
                exact: Arc::clone(&name),
                table: true,
                files: 0,
            };
            let directory = &mut tree.directories[place(area)];
            directory.claims.insert(folded(&name), claim);
            if !file.removed {
                tree.insert(Node {
                    size: file.size,
                    mode: file.mode,
                    stored: true,
                    ..Node::new(area, Name::Kpi(name), file.mtime)
                });
            }
        }
        tree
    }

    fn insert(&mut self, node: Node) -> Ino {
        let ino = self.next;
        self.next += 1;
        self.directories[place(node.area)].claim(&node.name);
        self.link(ino, node.area, &node.name);
        self.nodes.insert(ino, node);
        ino
    }

    fn link(&mut self, ino: Ino, area: Area, name: &Name) {
        self.directories[place(area)].link(ino, name, self.next_place);
        self.next_place += 1;
    }

    /// A file.
    ///
    /// # Errors
    /// ESTALE: there is none with that inode any more.
    pub fn node(&self, ino: Ino) -> Result<&Node, Errno> {
        self.nodes.get(&ino).ok_or(Errno::ESTALE)
    }

    /// A file, to be changed.
    ///
    /// # Errors
    /// ESTALE: there is none with that inode any more.
    pub fn node_mut(&mut self, ino: Ino) -> Result<&mut Node, Errno> {
        self.nodes.get_mut(&ino).ok_or(Errno::ESTALE)
    }

    /// The file of that name.
    pub fn find(&self, area: Area, name: &str) -> Option<Ino> {
        let (ino, _) = self.directories[place(area)].names.get(name)?;
        Some(*ino)
    }

    /// The files of a directory after a place, in the order of their names' places.
    pub fn list(&self, area: Area, after: Place) -> impl Iterator<Item = (Place, Ino, &Node)> {
        self.directories[place(area)]
            .places
            .range(after + 1..)
            .filter_map(|(place, ino)| Some((*place, *ino, self.nodes.get(ino)?)))
    }

    /// When a name of that directory last came or went.
    pub fn changed(&self, area: Area) -> Timestamp {
        self.directories[place(area)].changed
    }

    /// How many files have a name.
    pub fn count(&self) -> usize {
        self.directories.iter().map(|d| d.names.len()).sum()
    }

    /// How many names are taken: scratch, and KPI names with a table or a file.
    pub fn taken(&self) -> usize {
        let taken = |d: &Directory| d.claims.len() + d.scratch;
        self.directories.iter().map(taken).sum()
    }

    /// Whether a new file may have that name.
    ///
    /// # Errors
    /// EEXIST when it differs from another in case alone; ENOSPC when there are too many.
    pub fn check_new(&self, area: Area, name: &Name) -> Result<(), Errno> {
        let directory = &self.directories[place(area)];
        match name {
            Name::Scratch(_) if directory.scratch >= self.limits.scratch_files => {
                Err(Errno::ENOSPC)
            }
            Name::Scratch(_) => Ok(()),
            Name::Kpi(kpi) => match directory.claims.get(&folded(kpi)) {
                Some(claim) if claim.exact != *kpi => Err(Errno::EEXIST),
                Some(_) => Ok(()),
                None if directory.claims.len() >= self.limits.files => Err(Errno::ENOSPC),
                None => Ok(()),
            },
        }
    }

    /// Makes a file, which is in memory alone until its first store.
    ///
    /// # Errors
    /// As [`Self::check_new`].
    pub fn create(&mut self, area: Area, name: Name) -> Result<Ino, Errno> {
        self.check_new(area, &name)?;
        Ok(self.insert(Node::new(area, name, Timestamp::now())))
    }

    /// Takes a file's name away. The file goes when its last handle does.
    pub fn unlink(&mut self, ino: Ino) {
        let Some(node) = self.nodes.get_mut(&ino).filter(|n| n.linked) else {
            return;
        };
        self.directories[place(node.area)].unlink(&node.name);
        self.orphan(ino);
    }

    /// The file has no name any more; it keeps its claim on it, as stores may follow.
    fn orphan(&mut self, ino: Ino) {
        if let Some(node) = self.nodes.get_mut(&ino) {
            node.linked = false;
            node.ctime = Timestamp::now();
        }
        self.forget(ino);
    }

    /// Gives a file another name in its directory; whatever had that name loses it.
    pub fn rename(&mut self, ino: Ino, to: Name) {
        let Some((area, from)) = self.nodes.get(&ino).map(|n| (n.area, n.name.clone())) else {
            return;
        };
        let replaced = self.find(area, to.as_str()).filter(|old| *old != ino);
        // The bytes of the last store are the name's, not the inode's.
        let last = replaced
            .and_then(|old| self.nodes.get(&old))
            .filter(|_| matches!(to, Name::Kpi(_)))
            .map(|n| (n.size, n.mtime, n.stored));
        let directory = &mut self.directories[place(area)];
        directory.unlink(&from);
        directory.claim(&to);
        directory.give_up(&from);
        self.link(ino, area, &to);
        if let Some(old) = replaced {
            self.orphan(old);
        }
        if let Some(node) = self.nodes.get_mut(&ino) {
            node.name = to;
            node.ctime = Timestamp::now();
            (node.size, node.mtime, node.stored) = last.unwrap_or((0, node.mtime, false));
        }
    }

    /// Notes that a file was stored.
    pub fn stored(&mut self, ino: Ino, size: u64, mtime: Timestamp) {
        let Some(node) = self.nodes.get_mut(&ino) else {
            return;
        };
        (node.size, node.mtime) = (size, mtime);
        if !std::mem::replace(&mut node.stored, true)
            && let Name::Kpi(kpi) = &node.name
            && let Some(claim) = self.directories[place(node.area)]
                .claims
                .get_mut(&folded(kpi))
        {
            claim.table = true;
        }
    }

    /// Lets the name of a removed file go when its last handle has, and the file when the kernel has, too.
    pub fn forget(&mut self, ino: Ino) {
        let Some(node) = self.nodes.get_mut(&ino) else {
            return;
        };
        if node.linked || node.handles > 0 || node.pending > 0 {
            return;
        }
        if std::mem::take(&mut node.claimed) {
            self.directories[place(node.area)].give_up(&node.name);
        }
        if node.lookups == 0 {
            self.nodes.remove(&ino);
        }
    }

    /// Counts a handle that is opened. A path may have been looked up before the file was removed.
    ///
    /// # Errors
    /// ESTALE: there is no such file any more, or nobody can store it: the kernel looks the path up again.
    pub fn open(&mut self, ino: Ino) -> Result<(), Errno> {
        let node = self.node(ino)?;
        if !node.claimed {
            let (area, name) = (node.area, node.name.clone());
            self.check_new(area, &name).map_err(|_| Errno::ESTALE)?;
            self.directories[place(area)].claim(&name);
        }
        let node = self.node_mut(ino)?;
        node.claimed = true;
        node.handles += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    fn name(text: &str) -> Name {
        Name::new(OsStr::new(text)).unwrap()
    }

    fn tree() -> Tree {
        let limits = Limits {
            files: 3,
            scratch_files: 1,
            ..Limits::default()
        };
        Tree::new(limits, Vec::new())
    }

    #[test]
    fn a_name_keeps_its_case_as_long_as_its_table_is_there() {
        let mut tree = tree();
        let cpu = tree.create(Area::Unencrypted, name("cpu")).unwrap();
        assert_eq!(
            tree.check_new(Area::Unencrypted, &name("CPU")),
            Err(Errno::EEXIST)
        );
        assert_eq!(tree.check_new(Area::Encrypted, &name("CPU")), Ok(()));
        tree.unlink(cpu);
        assert_eq!(tree.check_new(Area::Unencrypted, &name("CPU")), Ok(()));
        let cpu = tree.create(Area::Unencrypted, name("cpu")).unwrap();
        tree.stored(cpu, 1, Timestamp::default());
        tree.unlink(cpu);
        assert_eq!(
            tree.check_new(Area::Unencrypted, &name("CPU")),
            Err(Errno::EEXIST)
        );
        assert_eq!(tree.check_new(Area::Unencrypted, &name("cpu")), Ok(()));
    }

    #[test]
    fn there_are_only_so_many_names() {
        let mut tree = tree();
        for n in ["a", "b", "c"] {
            tree.create(Area::Unencrypted, name(n)).unwrap();
        }
        assert_eq!(
            tree.create(Area::Unencrypted, name("d")),
            Err(Errno::ENOSPC)
        );
        tree.create(Area::Unencrypted, name(".t")).unwrap();
        assert_eq!(
            tree.create(Area::Unencrypted, name(".u")),
            Err(Errno::ENOSPC)
        );
    }

    #[test]
    fn a_rename_keeps_the_inode_and_replaces_what_had_the_name() {
        let mut tree = tree();
        let old = tree.create(Area::Unencrypted, name("web")).unwrap();
        tree.stored(old, 7, Timestamp::from_micros(5));
        let new = tree.create(Area::Unencrypted, name(".tmp")).unwrap();
        tree.rename(new, name("web"));
        assert_eq!(tree.find(Area::Unencrypted, "web"), Some(new));
        assert_eq!(tree.find(Area::Unencrypted, ".tmp"), None);
        assert!(tree.node(old).is_err());
        assert_eq!(
            tree.list(Area::Unencrypted, 0).map(|(p, ..)| p).min(),
            Some(FIRST_PLACE),
            "and its place"
        );
        assert_eq!(tree.node(new).unwrap().size, 7, "the bytes are the name's");
        tree.create(Area::Unencrypted, name(".tmp")).unwrap();
        assert_eq!(tree.count(), 2);
    }

    #[test]
    fn the_name_of_a_removed_file_is_taken_in_every_case_as_long_as_somebody_may_store_it() {
        let mut tree = tree();
        let cpu = tree.create(Area::Unencrypted, name("cpu")).unwrap();
        tree.node_mut(cpu).unwrap().handles = 1;
        tree.unlink(cpu);
        let twin = |tree: &Tree| tree.check_new(Area::Unencrypted, &name("CPU"));
        assert_eq!(twin(&tree), Err(Errno::EEXIST));
        tree.node_mut(cpu).unwrap().handles = 0;
        tree.forget(cpu);
        assert_eq!(twin(&tree), Ok(()));
    }
}
