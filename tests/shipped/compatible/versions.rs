//! Where the programs of each version are.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use vmkpi_tests::process::program;

/// What is said of each earlier version.
const LIST: &str = include_str!("../../compat/versions");

/// The three programs of one version.
#[derive(Clone, Debug)]
pub struct Programs {
    /// What the version is called.
    pub name: String,
    folder: PathBuf,
}

impl Programs {
    /// Those under test.
    pub fn now() -> Result<Self> {
        let vmkpi = program("vmkpi")?;
        let folder = vmkpi.parent().context("where are the programs?")?;
        Ok(Self {
            name: "now".into(),
            folder: folder.to_owned(),
        })
    }

    /// One of the three.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

/// An earlier version.
#[derive(Debug)]
pub struct Earlier {
    /// Its programs.
    pub programs: Programs,
    /// Its formats, by their names in the list.
    pub formats: BTreeMap<String, u64>,
}

/// Every earlier version whose programs are built; says which are not.
pub fn earlier() -> Result<Vec<Earlier>> {
    let now = Programs::now()?;
    let target = now.folder.parent().context("no target directory")?;
    let lines = LIST.lines().filter(|line| !line.starts_with('#'));
    let all = lines.map(|line| version(line, &target.join("compat")));
    all.filter_map(Result::transpose).collect()
}

fn version(line: &str, compat: &Path) -> Result<Option<Earlier>> {
    let mut words = line.split_whitespace();
    let (name, commit) = (words.next(), words.next());
    let (name, commit) = name.zip(commit).with_context(|| line.to_owned())?;
    let folder = compat.join(name);
    let built = std::fs::read_to_string(folder.join("commit")).unwrap_or_default();
    if built.trim() != commit {
        let told = format!("{name} is not built: tools/earlier.sh does it, with the whole history");
        if std::env::var_os("VMKPI_FULL_HISTORY").is_some() {
            bail!("{told}");
        }
        eprintln!("skipped: {told}");
        return Ok(None);
    }
    let format = |word: &str| {
        let (format, version) = word.split_once('=').with_context(|| line.to_owned())?;
        Ok((format.to_owned(), version.parse()?))
    };
    Ok(Some(Earlier {
        programs: Programs {
            name: name.to_owned(),
            folder,
        },
        formats: words.map(format).collect::<Result<_>>()?,
    }))
}
