//! The names of the partition: two directories and the files in them. Pure: no disk, no kernel.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::sync::Arc;

use nix::errno::Errno;
use vmkpi::clock::Timestamp;
use vmkpi::name::{Area, KpiName, MAX_NAME_BYTES, NameError};

use crate::config::Limits;
use crate::store::{Point, StoredFile};

/// An inode number.
pub type Ino = u64;

/// The root directory.
pub const ROOT: Ino = 1;

/// The inode of the owner's public key, where there is one.
pub const PRIMARY_KEY: Ino = 4;

/// Its name, at the top.
pub const PRIMARY_KEY_NAME: &str = "primary-key.pem";

/// Inodes of files begin here.
const FIRST_FILE: Ino = 16;

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

/// A file's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Name {
    /// It is stored under this name.
    Kpi(Arc<KpiName>),
    /// It begins with a dot: held in memory, never stored.
    Scratch(Arc<str>),
}

impl Name {
    /// The name that a program gave, if it is one.
    ///
    /// # Errors
    /// ENAMETOOLONG over [`MAX_NAME_BYTES`]; EINVAL for what is no KPI name.
    pub fn new(name: &OsStr) -> Result<Self, Errno> {
        if name.len() > MAX_NAME_BYTES {
            return Err(Errno::ENAMETOOLONG);
        }
        let text = name.to_str().ok_or(Errno::EINVAL)?;
        match text.parse::<KpiName>() {
            Ok(name) => Ok(Self::Kpi(Arc::new(name))),
            Err(NameError::Scratch(_)) => Ok(Self::Scratch(text.into())),
            Err(NameError::TooLong(_)) => Err(Errno::ENAMETOOLONG),
            Err(_) => Err(Errno::EINVAL),
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Kpi(name) => name.as_str(),
            Self::Scratch(name) => name,
        }
    }
}

/// A file.
#[derive(Debug)]
pub struct Node {
    /// Its directory.
    pub area: Area,
    /// Its name; the last one it had when it was removed or replaced.
    pub name: Name,
    /// Whether the name still leads to it.
    pub linked: bool,
    /// Bytes of its last store.
    pub size: u64,
    /// When that was; of a file never stored, when it was made.
    pub mtime: Timestamp,
    /// Whether it was ever stored: otherwise it is in memory alone.
    pub stored: bool,
    /// Stores handed over and not yet done.
    pub pending: u32,
    /// Open handles.
    pub handles: u32,
    /// Those of them that can write.
    pub writers: u32,
    /// A scratch file's bytes.
    pub scratch: Arc<Vec<u8>>,
}

impl Node {
    /// The point that the file's stores go to; none for scratch.
    pub fn point(&self) -> Option<Point> {
        match &self.name {
            Name::Kpi(name) => Some(Point {
                area: self.area,
                name: Arc::clone(name),
            }),
            Name::Scratch(_) => None,
        }
    }
}

/// One directory's names.
#[derive(Debug, Default)]
struct Directory {
    /// Every linked file, by its exact name.
    names: HashMap<Box<str>, Ino>,
    /// Every KPI name with a table or a file, ASCII case folded: the exact one, and whether it has a
    /// table.
    folded: HashMap<String, (Arc<KpiName>, bool)>,
    /// Linked scratch files.
    scratch: usize,
}

/// The names and files.
#[derive(Debug)]
pub struct Tree {
    /// Every file that has a name or an open handle.
    nodes: BTreeMap<Ino, Node>,
    directories: [Directory; 2],
    next: Ino,
    limits: Limits,
}

fn place(area: Area) -> usize {
    match area {
        Area::Encrypted => 0,
        Area::Unencrypted => 1,
    }
}

impl Tree {
    /// The tree of the files that are stored.
    pub fn new(limits: Limits, files: Vec<StoredFile>) -> Self {
        let mut tree = Self {
            nodes: BTreeMap::new(),
            directories: Default::default(),
            next: FIRST_FILE,
            limits,
        };
        for file in files {
            let Point { area, name } = file.point;
            let directory = &mut tree.directories[place(area)];
            let folded = name.as_str().to_ascii_lowercase();
            directory.folded.insert(folded, (Arc::clone(&name), true));
            if !file.removed {
                tree.insert(area, Name::Kpi(name), file.size, file.mtime, true);
            }
        }
        tree
    }

    fn insert(&mut self, area: Area, name: Name, size: u64, mtime: Timestamp, stored: bool) -> Ino {
        let ino = self.next;
        self.next += 1;
        self.link(ino, area, &name);
        self.nodes.insert(
            ino,
            Node {
                area,
                name,
                linked: true,
                size,
                mtime,
                stored,
                pending: 0,
                handles: 0,
                writers: 0,
                scratch: Arc::default(),
            },
        );
        ino
    }

    /// Makes a name lead to a file.
    fn link(&mut self, ino: Ino, area: Area, name: &Name) {
        let directory = &mut self.directories[place(area)];
        directory.names.insert(name.as_str().into(), ino);
        match name {
            Name::Scratch(_) => directory.scratch += 1,
            Name::Kpi(kpi) => {
                let folded = kpi.as_str().to_ascii_lowercase();
                let claim = directory.folded.entry(folded);
                claim.or_insert_with(|| (Arc::clone(kpi), false));
            }
        }
    }

    /// Makes a name lead nowhere.
    fn unlink_name(&mut self, area: Area, name: &Name) {
        let directory = &mut self.directories[place(area)];
        directory.names.remove(name.as_str());
        match name {
            Name::Scratch(_) => directory.scratch -= 1,
            Name::Kpi(kpi) => {
                let folded = kpi.as_str().to_ascii_lowercase();
                // Its rows stay, and so does its claim on the name; but for one without a table.
                if directory
                    .folded
                    .get(&folded)
                    .is_some_and(|(_, table)| !table)
                {
                    directory.folded.remove(&folded);
                }
            }
        }
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
        self.directories[place(area)].names.get(name).copied()
    }

    /// The files of a directory whose inode is above `after`, in the order of their inodes.
    pub fn list(&self, area: Area, after: Ino) -> impl Iterator<Item = (Ino, &Node)> {
        self.nodes
            .range(after + 1..)
            .map(|(ino, node)| (*ino, node))
            .filter(move |(_, node)| node.linked && node.area == area)
    }

    /// How many files have a name.
    pub fn count(&self) -> usize {
        self.directories.iter().map(|d| d.names.len()).sum()
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
            Name::Kpi(kpi) => match directory.folded.get(&kpi.as_str().to_ascii_lowercase()) {
                Some((exact, _)) if exact != kpi => Err(Errno::EEXIST),
                Some(_) => Ok(()),
                None if directory.folded.len() >= self.limits.files => Err(Errno::ENOSPC),
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
        Ok(self.insert(area, name, 0, Timestamp::now(), false))
    }

    /// Takes a file's name away. The file goes when its last handle does.
    pub fn unlink(&mut self, ino: Ino) {
        let Some(node) = self.nodes.get_mut(&ino) else {
            return;
        };
        if std::mem::take(&mut node.linked) {
            let (area, name) = (node.area, node.name.clone());
            self.unlink_name(area, &name);
            self.forget(ino);
        }
    }

    /// Gives a file another name in its directory; whatever had that name loses it.
    pub fn rename(&mut self, ino: Ino, to: Name) {
        let Some((area, from)) = self.nodes.get(&ino).map(|n| (n.area, n.name.clone())) else {
            return;
        };
        let replaced = self.find(area, to.as_str());
        // The bytes of the last store are the name's, not the inode's.
        let (size, mtime, stored) = replaced
            .and_then(|old| self.nodes.get(&old))
            .filter(|_| matches!(to, Name::Kpi(_)))
            .map_or((0, Timestamp::now(), false), |n| {
                (n.size, n.mtime, n.stored)
            });
        if let Some(old) = replaced {
            self.unlink(old);
        }
        self.unlink_name(area, &from);
        self.link(ino, area, &to);
        if let Some(node) = self.nodes.get_mut(&ino) {
            node.name = to;
            (node.size, node.mtime, node.stored) = (size, mtime, stored);
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
        {
            let folded = kpi.as_str().to_ascii_lowercase();
            self.directories[place(node.area)]
                .folded
                .insert(folded, (Arc::clone(kpi), true));
        }
    }

    /// Drops a file that has neither a name nor a handle.
    pub fn forget(&mut self, ino: Ino) {
        if let Some(node) = self.nodes.get(&ino)
            && !node.linked
            && node.handles == 0
            && node.pending == 0
        {
            self.nodes.remove(&ino);
        }
    }
}

#[cfg(test)]
mod tests {
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
    fn a_name_is_checked_before_it_is_one() {
        use std::os::unix::ffi::OsStrExt as _;
        for (bad, errno) in [
            (&b"a\nb"[..], Errno::EINVAL),
            (b"\xff", Errno::EINVAL),
            (b"sqlite_master", Errno::EINVAL),
            (&[b'x'; 201], Errno::ENAMETOOLONG),
            (&[b'.'; 201], Errno::ENAMETOOLONG),
        ] {
            assert_eq!(Name::new(OsStr::from_bytes(bad)).unwrap_err(), errno);
        }
        assert!(matches!(name(".tmp"), Name::Scratch(_)));
        assert!(matches!(name("a\"; DROP TABLE x;--"), Name::Kpi(_)));
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
        assert_eq!(tree.node(new).unwrap().size, 7, "the bytes are the name's");
        tree.create(Area::Unencrypted, name(".tmp")).unwrap();
        assert_eq!(tree.count(), 2);
    }
}
