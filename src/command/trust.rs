//! The options of every command that believes signatures and opens envelopes: files of keys, or folders of them,
//! so that an old and a new key can be there at once.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};

use vmkpi::broker::Broker;
use vmkpi::key_file::{FileError, opening_key, verifying_key};
use vmkpi::open::OpeningKeys;
use vmkpi::sign::Keyring;

use super::Failure;

/// What private keys are called in a folder, and what public ones are.
pub(super) const PRIVATE: &str = ".key.pem";
pub(super) const PUBLIC: &str = ".pub.pem";
/// The most files of a folder that are looked at.
const MAX_FILES: usize = 1000;

/// Whose signatures count, and what envelopes are opened with.
#[derive(clap::Args, Clone, Default)]
pub(super) struct TrustArgs {
    /// A public key of who signs, PEM or base64, or a folder with *.pub.pem; may be repeated. What none of them has
    /// signed is refused and counted.
    #[arg(
        long,
        visible_alias = "verify-key",
        env = "VMKPI_TRUST",
        value_name = "FILE|DIR",
        value_delimiter = ','
    )]
    trust: Vec<PathBuf>,
    /// Take what nobody known has signed too. Needed without --trust where the broker is not on this machine.
    #[arg(long)]
    insecure: bool,
    #[command(flatten)]
    open: OpenArgs,
}

/// What envelopes are opened with.
#[derive(clap::Args, Clone, Default)]
pub(super) struct OpenArgs {
    /// The primary site's private RSA key, PEM, not readable by everybody, or a folder with *.key.pem; may be
    /// repeated. What was sealed for it is opened.
    #[arg(
        long,
        env = "VMKPI_KEY",
        value_name = "FILE|DIR",
        value_delimiter = ','
    )]
    key: Vec<PathBuf>,
}

/// What they name, read.
#[derive(Debug, Default)]
pub(super) struct Trust {
    /// Who is believed.
    pub ring: Keyring,
    /// Whether what they have not signed is taken all the same.
    pub insecure: bool,
    /// What envelopes are opened with.
    pub keys: OpeningKeys,
}

impl Trust {
    /// The names of all keys: who is believed, and what opens.
    pub(super) fn kids(&self) -> [BTreeSet<String>; 2] {
        [
            self.ring.kids().map(ToOwned::to_owned).collect(),
            self.keys.kids().map(ToOwned::to_owned).collect(),
        ]
    }

    /// Everything is taken, and nothing opened.
    pub(super) fn of_nobody() -> Self {
        Self {
            insecure: true,
            ..Self::default()
        }
    }
}

impl TrustArgs {
    /// Whether there is a file that could change.
    pub(super) fn names_files(&self) -> bool {
        !self.trust.is_empty() || !self.open.key.is_empty()
    }

    /// The keys, for messages of this broker.
    ///
    /// # Errors
    /// Usage: a file is not what it should be, or nobody is named whose signature counts.
    pub(super) fn read(&self, broker: &Broker) -> Result<Trust, Failure> {
        if self.trust.is_empty() && !self.insecure && !broker.is_loopback() {
            return Err(Failure::Usage(anyhow!(
                "{broker}: whose messages are to be believed? Name the sites' public keys with --trust FILE, \
                 or say --insecure"
            )));
        }
        Ok(Trust {
            ring: all(&self.trust, PUBLIC, verifying_key)?
                .into_iter()
                .collect(),
            insecure: self.insecure || self.trust.is_empty(),
            keys: self.open.read()?,
        })
    }
}

impl OpenArgs {
    /// The keys.
    ///
    /// # Errors
    /// Usage: a file is not what it should be.
    pub(super) fn read(&self) -> Result<OpeningKeys, Failure> {
        Ok(all(&self.key, PRIVATE, opening_key)?.into_iter().collect())
    }
}

type Read<K> = fn(&Path) -> Result<K, FileError>;

/// The keys of all these files, and of all files in these folders that end so and hold one.
fn all<K>(paths: &[PathBuf], ending: &str, read: Read<K>) -> Result<Vec<K>, Failure> {
    let mut keys = Vec::new();
    for path in paths {
        let found = match path.is_dir() {
            true => folder(path, ending, read),
            false => read(path).map(|key| vec![key]).map_err(Into::into),
        };
        keys.extend(found.map_err(Failure::Usage)?);
    }
    Ok(keys)
}

/// A site's folder has keys of several kinds: those of another kind are passed over, and nothing else.
fn folder<K>(path: &Path, ending: &str, read: Read<K>) -> anyhow::Result<Vec<K>> {
    let (mut keys, mut last) = (Vec::new(), None::<anyhow::Error>);
    for file in files(path, ending)? {
        match read(&file) {
            Ok(key) => keys.push(key),
            Err(error) if error.is_of_another_kind() => last = Some(error.into()),
            Err(error) => return Err(error.into()),
        }
    }
    if keys.is_empty() {
        let error = last.unwrap_or_else(|| anyhow!("no file in it ends with {ending}"));
        return Err(error.context(format!("no key in {}", path.display())));
    }
    Ok(keys)
}

/// The files of a folder that end so, by name.
pub(super) fn files(folder: &Path, ending: &str) -> anyhow::Result<Vec<PathBuf>> {
    let context = || folder.display().to_string();
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)
        .with_context(context)?
        .take(MAX_FILES)
    {
        let path = entry.with_context(context)?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if name.is_some_and(|name| name.ends_with(ending)) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
