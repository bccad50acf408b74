//! A folder of keys or of a broker's configuration: written all or nothing, secrets 0600 and the rest 0644, and over
//! nothing unless told.

use std::fs::{DirBuilder, OpenOptions, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};

use super::Failure;

/// A file to write.
#[derive(Debug)]
pub struct NewFile {
    /// Its name in the folder.
    pub name: String,
    /// What it is for.
    pub purpose: String,
    text: String,
    mode: u32,
}

impl NewFile {
    /// One that its owner alone may read.
    pub fn secret(name: &str, text: String, purpose: &str) -> Self {
        Self::new(name, text, purpose, 0o600)
    }

    /// One that everybody may read.
    pub fn public(name: &str, text: String, purpose: &str) -> Self {
        Self::new(name, text, purpose, 0o644)
    }

    fn new(name: &str, text: String, purpose: &str, mode: u32) -> Self {
        Self {
            name: name.to_owned(),
            purpose: purpose.to_owned(),
            text,
            mode,
        }
    }
}

/// The CA's certificate and its private key in a folder.
pub const CA: [&str; 2] = ["ca.cert.pem", "ca.key.pem"];

/// A folder that nobody else can write in.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// Opens the folder, or makes it.
    ///
    /// # Errors
    /// It cannot be made, or others may write in it.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let context = || path.display().to_string();
        if !path.exists() {
            let mut builder = DirBuilder::new();
            builder.recursive(true).mode(0o700);
            builder.create(path).with_context(context)?;
        }
        let found = std::fs::metadata(path).with_context(context)?;
        if !found.is_dir() {
            return Err(anyhow!("{}: no folder", path.display()));
        }
        if found.mode() & 0o022 != 0 {
            return Err(anyhow!(
                "{}: others may write in it, and could put files of their own there; chmod go-w it, or name another",
                path.display()
            ));
        }
        Ok(Self(path.to_owned()))
    }

    /// The CA's certificate and key, if they are there.
    ///
    /// # Errors
    /// One of them is there without the other, or cannot be read.
    pub fn read_authority(&self) -> anyhow::Result<Option<(String, String)>> {
        let [cert, key] = CA.map(|name| self.0.join(name));
        match (cert.exists(), key.exists()) {
            (false, false) => Ok(None),
            (true, true) => {
                let read = |path: &Path| {
                    std::fs::read_to_string(path).with_context(|| path.display().to_string())
                };
                Ok(Some((read(&cert)?, read(&key)?)))
            }
            _ => Err(anyhow!(
                "{}: a CA's certificate and its key belong together, and one of them is not there",
                self.0.display()
            )),
        }
    }

    /// Writes all files, or none.
    ///
    /// # Errors
    /// Usage: one is there already and may not be replaced. Failed: one cannot be written.
    pub fn write(&self, files: &[NewFile], overwrite: bool) -> Result<(), Failure> {
        let there: Vec<String> = files
            .iter()
            .map(|file| self.0.join(&file.name))
            .filter(|path| path.symlink_metadata().is_ok())
            .map(|path| path.display().to_string())
            .collect();
        if !there.is_empty() && !overwrite {
            return Err(Failure::Usage(anyhow!(
                "{}: already there, and nothing was written. Name another folder (old and new keys are wanted side by \
                 side while they are replaced), or say --overwrite",
                there.join(", ")
            )));
        }
        let mut written = Vec::new();
        for file in files {
            let temporary = self.0.join(format!(".{}.new", file.name));
            if let Err(error) = write(&temporary, file) {
                written.push(temporary);
                for path in &written {
                    let _ = std::fs::remove_file(path);
                }
                return Err(error.into());
            }
            written.push(temporary);
        }
        for (file, temporary) in files.iter().zip(&written) {
            let path = self.0.join(&file.name);
            let renamed = std::fs::rename(temporary, &path);
            renamed.with_context(|| path.display().to_string())?;
        }
        Ok(self.sync()?)
    }

    fn sync(&self) -> anyhow::Result<()> {
        let synced = std::fs::File::open(&self.0).and_then(|folder| folder.sync_all());
        synced.with_context(|| self.0.display().to_string())
    }
}

/// Writes a file that is not there. Nobody else may read it even for a moment, whatever the umask.
fn write(path: &Path, file: &NewFile) -> anyhow::Result<()> {
    let context = || path.display().to_string();
    // What an earlier attempt left.
    let _ = std::fs::remove_file(path);
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let mut out = options.open(path).with_context(context)?;
    out.write_all(file.text.as_bytes()).with_context(context)?;
    let permissions = Permissions::from_mode(file.mode);
    out.set_permissions(permissions).with_context(context)?;
    out.sync_all().with_context(context)
}
