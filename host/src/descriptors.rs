//! Where descriptors come from: `--descriptor DOMAIN=FILE` and the domains' metadata. A file that
//! changes is read again. Both for one domain, and different, is an error and never merged.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use vmkpi::descriptor::{Descriptor, DescriptorError, Spelling};

use crate::libvirt::Domain;

pub use files::{Files, Read, read_file};

mod files;

/// Why a domain has no descriptor in force.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The file cannot be read.
    #[error("{path}: {message}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        message: String,
    },
    /// The descriptor is not valid.
    #[error("{place}: {}", .errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Invalid {
        /// The file, or "the domain's metadata".
        place: String,
        /// Everything that is wrong with it.
        errors: Vec<DescriptorError>,
    },
    /// File and metadata differ.
    #[error("{0} and the domain's metadata differ; remove one of them")]
    Differ(String),
    /// Another domain has the name already.
    #[error(
        "VM {vm:?} of site {site:?} is domain {other} already; each VM needs a name of its own"
    )]
    NameTaken {
        /// The VM's name.
        vm: String,
        /// The primary site.
        site: String,
        /// The domain that has it.
        other: String,
    },
}

fn read_metadata(text: &str) -> Result<Descriptor, Refusal> {
    let no_files = |_: &Path| {
        Err(std::io::Error::other(
            "metadata may not name files of the host",
        ))
    };
    let place = "the domain's metadata";
    Descriptor::parse(text, Spelling::Xml, &no_files).map_err(|errors| Refusal::Invalid {
        place: place.into(),
        errors,
    })
}

/// What a source says, and what it was made from.
#[derive(Clone, Debug)]
struct Parsed<K> {
    from: K,
    result: Result<Arc<Descriptor>, Refusal>,
}

/// All sources of descriptors.
#[derive(Debug, Default)]
pub struct Descriptors {
    /// By domain name or UUID.
    files: BTreeMap<String, PathBuf>,
    read: HashMap<PathBuf, Result<Arc<Descriptor>, Refusal>>,
    metadata: HashMap<Arc<str>, Parsed<Arc<str>>>,
    /// What is in force, by UUID.
    in_force: BTreeMap<Arc<str>, Arc<Descriptor>>,
    /// What is refused, by UUID: said once.
    refused: BTreeMap<Arc<str>, Refusal>,
    errors: u64,
}

impl Descriptors {
    /// Descriptors of these files, by domain name or UUID, and of metadata.
    pub fn new(files: BTreeMap<String, PathBuf>) -> Self {
        Self {
            files,
            ..Self::default()
        }
    }

    /// Files of descriptors from now on, and what those say that were read just now: a domain whose descriptor
    /// is the same as before in another file goes on as it is. Of a file that was known the looks decide, which leave
    /// one alone while it is written to.
    pub fn set_files(
        &mut self,
        files: BTreeMap<String, PathBuf>,
        read: BTreeMap<PathBuf, Descriptor>,
    ) {
        self.files = files;
        for (path, descriptor) in read {
            let known = self.read.entry(path);
            known.or_insert_with(|| Ok(Arc::new(descriptor)));
        }
        let files: BTreeSet<_> = self.files.values().collect();
        self.read.retain(|path, _| files.contains(path));
    }

    /// The file of the domain's descriptor, if one is named.
    pub fn file_of(&self, domain: &Domain) -> Option<&Path> {
        named(&self.files, domain).map(PathBuf::as_path)
    }

    /// What is refused of the domain's descriptor, if it is.
    pub fn refusal(&self, uuid: &str) -> Option<&Refusal> {
        self.refused.get(uuid)
    }

    /// The descriptor in force.
    pub fn in_force(&self, uuid: &str) -> Option<&Arc<Descriptor>> {
        self.in_force.get(uuid)
    }

    /// The files, to be looked at by [`Files`] wherever reading may take its time.
    pub fn paths(&self) -> Vec<PathBuf> {
        let paths: BTreeSet<_> = self.files.values().cloned().collect();
        paths.into_iter().collect()
    }

    /// Takes what files say now.
    pub fn take_files(&mut self, read: Vec<(PathBuf, Result<Descriptor, Refusal>)>) {
        for (path, result) in read {
            let result = result.map(Arc::new);
            if self.read.get(&path) != Some(&result) {
                self.read.insert(path, result);
            }
        }
    }

    /// The descriptors of files that are valid, by domain name or UUID, whether there is such a domain or not.
    pub fn of_files(&self) -> BTreeMap<String, Arc<Descriptor>> {
        let read = |path| self.read.get(path)?.as_ref().ok();
        let files = self.files.iter();
        files
            .filter_map(|(name, path)| Some((name.clone(), Arc::clone(read(path)?))))
            .collect()
    }

    /// How many descriptors were refused so far, each change of mind counted once.
    pub fn errors(&self) -> u64 {
        self.errors
    }

    /// Whether the domain's descriptor is in force (`true`) or refused (`false`), if it has one.
    pub fn is_valid(&self, uuid: &str) -> Option<bool> {
        if self.refused.contains_key(uuid) {
            return Some(false);
        }
        self.in_force.contains_key(uuid).then_some(true)
    }

    /// The names and UUIDs of domains that files are meant for.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.files.keys()
    }

    /// The descriptor in force for each of `domains`. One that has become invalid leaves the one
    /// before in force: a mistake at run time stops nothing.
    pub fn resolve(
        &mut self,
        domains: &BTreeMap<Arc<str>, Arc<Domain>>,
    ) -> BTreeMap<Arc<str>, Arc<Descriptor>> {
        self.in_force.retain(|uuid, _| domains.contains_key(uuid));
        self.refused.retain(|uuid, _| domains.contains_key(uuid));
        self.metadata.retain(|uuid, _| domains.contains_key(uuid));
        let mut wanted = BTreeMap::new();
        for (uuid, domain) in domains {
            match self.of(domain) {
                Ok(Some(descriptor)) => {
                    wanted.insert(Arc::clone(uuid), descriptor);
                }
                Ok(None) => {
                    self.in_force.remove(uuid);
                    self.refused.remove(uuid);
                }
                Err(refusal) => self.refuse(domain, refusal),
            }
        }
        self.enforce(domains, wanted);
        self.in_force.clone()
    }

    /// Gives each name to one domain; who has it keeps it.
    fn enforce(
        &mut self,
        domains: &BTreeMap<Arc<str>, Arc<Domain>>,
        wanted: BTreeMap<Arc<str>, Arc<Descriptor>>,
    ) {
        let name_of = |d: &Descriptor| (d.primary_site.clone(), d.vm.clone());
        let mut taken: BTreeMap<_, Arc<str>> = BTreeMap::new();
        for (uuid, descriptor) in &self.in_force {
            let stays = wanted
                .get(uuid)
                .is_none_or(|w| name_of(w) == name_of(descriptor));
            if stays {
                taken
                    .entry(name_of(descriptor))
                    .or_insert_with(|| Arc::clone(uuid));
            }
        }
        for (uuid, descriptor) in wanted {
            let Some(domain) = domains.get(&uuid) else {
                continue;
            };
            let owner = taken
                .entry(name_of(&descriptor))
                .or_insert_with(|| Arc::clone(&uuid));
            if *owner == uuid {
                self.refused.remove(&uuid);
                self.in_force.insert(uuid, descriptor);
                continue;
            }
            let refusal = Refusal::NameTaken {
                vm: descriptor.vm.to_string(),
                site: descriptor.primary_site.to_string(),
                other: domains
                    .get(owner)
                    .map_or_else(|| owner.to_string(), |d| d.name.to_string()),
            };
            self.in_force.remove(&uuid);
            self.refuse(domain, refusal);
        }
    }

    fn refuse(&mut self, domain: &Domain, refusal: Refusal) {
        if self.refused.get(&domain.uuid) == Some(&refusal) {
            return;
        }
        let kept = self.in_force.contains_key(&domain.uuid);
        let then = match kept {
            true => "the one before stays in force",
            false => "nothing of this VM is published",
        };
        tracing::error!(domain = %domain.name, %refusal, "descriptor refused; {then}");
        self.errors += 1;
        self.refused.insert(Arc::clone(&domain.uuid), refusal);
    }

    fn of(&mut self, domain: &Domain) -> Result<Option<Arc<Descriptor>>, Refusal> {
        let metadata = self.of_metadata(domain).transpose()?;
        let Some(path) = named(&self.files, domain) else {
            return Ok(metadata);
        };
        let Some(file) = self.read.get(path).cloned().transpose()? else {
            return Ok(metadata);
        };
        match metadata {
            Some(metadata) if metadata != file => Err(Refusal::Differ(path.display().to_string())),
            _ => Ok(Some(file)),
        }
    }

    fn of_metadata(&mut self, domain: &Domain) -> Option<Result<Arc<Descriptor>, Refusal>> {
        let Some(text) = &domain.metadata else {
            self.metadata.remove(&domain.uuid);
            return None;
        };
        let known = self.metadata.get(&domain.uuid).filter(|r| r.from == *text);
        if let Some(known) = known {
            return Some(known.result.clone());
        }
        let result = read_metadata(text).map(Arc::new);
        let read = Parsed {
            from: Arc::clone(text),
            result: result.clone(),
        };
        self.metadata.insert(Arc::clone(&domain.uuid), read);
        Some(result)
    }
}

/// What `of` has for the domain, by its name or its UUID.
pub fn named<'a, T>(of: &'a BTreeMap<String, T>, domain: &Domain) -> Option<&'a T> {
    of.get(&*domain.name).or_else(|| of.get(&*domain.uuid))
}

#[cfg(test)]
mod tests {
    use super::*;

    const XML: &str = r#"<vmkpi:monitoring xmlns:vmkpi="https://vmkpi.org/xmlns/monitoring/v1" vm="a" primary_site="s"/>"#;

    fn domain(uuid: &str, name: &str, metadata: Option<&str>) -> (Arc<str>, Arc<Domain>) {
        let domain = Domain {
            uuid: uuid.into(),
            name: name.into(),
            metadata: metadata.map(Arc::from),
            ..Domain::default()
        };
        (uuid.into(), Arc::new(domain))
    }

    fn from_file(text: &str) -> (tempfile::TempDir, Descriptors, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d.toml");
        std::fs::write(&path, text).unwrap();
        let mut descriptors = Descriptors::new([("one".to_owned(), path.clone())].into());
        descriptors.take_files(vec![(path.clone(), read_file(&path))]);
        (dir, descriptors, path)
    }

    #[test]
    fn a_file_and_metadata_that_agree_are_one_and_that_differ_are_refused() {
        let (_dir, mut same, _) = from_file("vm = \"a\"\nprimary_site = \"s\"\n");
        let domains = [domain("u1", "one", Some(XML))].into();
        assert_eq!(same.resolve(&domains).len(), 1);
        assert_eq!((same.errors(), same.is_valid("u1")), (0, Some(true)));
        let (_dir, mut other, _) = from_file("vm = \"b\"\nprimary_site = \"s\"\n");
        assert!(other.resolve(&domains).is_empty());
        other.resolve(&domains);
        assert_eq!(
            (other.errors(), other.is_valid("u1")),
            (1, Some(false)),
            "said once"
        );
    }

    #[test]
    fn the_later_of_two_domains_under_one_name_is_refused() {
        let mut descriptors = Descriptors::default();
        let mut domains: BTreeMap<_, _> = [domain("u9", "first", Some(XML))].into();
        assert_eq!(descriptors.resolve(&domains).len(), 1);
        domains.extend([domain("u1", "second", Some(XML))]);
        let in_force = descriptors.resolve(&domains);
        assert_eq!(in_force.keys().map(|k| &**k).collect::<Vec<_>>(), ["u9"]);
        assert_eq!(descriptors.is_valid("u1"), Some(false));
        domains.remove("u9");
        let in_force = descriptors.resolve(&domains);
        assert_eq!(in_force.keys().map(|k| &**k).collect::<Vec<_>>(), ["u1"]);
    }

    #[test]
    fn a_mistake_at_run_time_leaves_the_descriptor_before_in_force() {
        let (_dir, mut descriptors, path) = from_file("vm = \"a\"\nprimary_site = \"s\"\n");
        let domains = [domain("u1", "one", None)].into();
        let before = descriptors.resolve(&domains);
        std::fs::write(&path, "vm = \"a\"\nprimary_site = \"s\"\nsevrice = 1\n").unwrap();
        descriptors.take_files(vec![(path.clone(), read_file(&path))]);
        assert_eq!(descriptors.resolve(&domains), before);
        assert_eq!(
            (descriptors.errors(), descriptors.is_valid("u1")),
            (1, Some(false))
        );
        std::fs::write(&path, "vm = \"c\"\nprimary_site = \"s\"\n").unwrap();
        descriptors.take_files(vec![(path.clone(), read_file(&path))]);
        assert_eq!(descriptors.resolve(&domains)["u1"].vm.as_str(), "c");
        assert_eq!(descriptors.is_valid("u1"), Some(true));
    }

    #[test]
    fn a_domain_whose_descriptor_moves_to_another_file_goes_on_and_a_known_file_is_left_to_the_looks()
     {
        let text = "vm = \"a\"\nprimary_site = \"s\"\n";
        let (dir, mut descriptors, path) = from_file(text);
        let domains = [domain("u1", "one", None)].into();
        let before = descriptors.resolve(&domains);
        let moved = dir.path().join("moved.toml");
        std::fs::write(&moved, text).unwrap();
        let read = [(moved.clone(), read_file(&moved).unwrap())].into();
        descriptors.set_files([("u1".to_owned(), moved.clone())].into(), read);
        assert_eq!(descriptors.resolve(&domains), before, "at once");
        assert_eq!(descriptors.paths(), std::slice::from_ref(&moved));
        // Half of it, which is valid, is there at the moment of SIGHUP.
        let half = Descriptor::parse(&text.replace("\"a\"", "\"b\""), Spelling::Toml, &|_| {
            Err(std::io::ErrorKind::NotFound.into())
        });
        let read = [(moved.clone(), half.unwrap())].into();
        descriptors.set_files([("one".to_owned(), moved)].into(), read);
        assert_eq!(descriptors.resolve(&domains), before);
        descriptors.set_files(BTreeMap::new(), BTreeMap::new());
        assert!(descriptors.resolve(&domains).is_empty() && path.exists());
    }

    #[test]
    fn metadata_names_no_file_of_the_host() {
        let text = XML.replace(
            "/>",
            "><vmkpi:primary_key_file>/etc/passwd</vmkpi:primary_key_file></vmkpi:monitoring>",
        );
        assert!(read_metadata(&text).is_err());
    }
}
