//! The packages, made once of the programs under test.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context as _, Result, ensure};
use vmkpi_tests::process::program;
use vmkpi_tests::scratch::Scratch;

use super::require;

/// The three of them, as their names begin.
pub const PACKAGES: [&str; 3] = ["vmkpi", "vmkpi-guest", "vmkpi-host"];

/// What making them takes.
const TOOLS: &[(&str, &str)] = &[("/usr/bin/dh", "debhelper")];

/// A folder with the packages of one version.
pub struct Built {
    /// Where they are.
    pub folder: PathBuf,
}

impl Built {
    /// The packages as they are; none where they cannot be made.
    ///
    /// # Errors
    /// `tools/deb.sh` fails.
    pub fn get() -> Result<Option<&'static Self>> {
        static BUILT: OnceLock<std::result::Result<Option<Built>, String>> = OnceLock::new();
        let make = || match require(TOOLS, false) {
            Ok(true) => Self::make().map(Some),
            other => other.map(|_| None),
        };
        let built = BUILT.get_or_init(|| make().map_err(|error| format!("{error:#}")));
        built
            .as_ref()
            .map(Option::as_ref)
            .map_err(|e| anyhow::anyhow!("{e}"))
    }

    fn make() -> Result<Self> {
        let folder = target().join("packages");
        // Those of an earlier run.
        let _ = std::fs::remove_dir_all(&folder);
        let scratch = Scratch::new()?;
        let programs = program("vmkpi-pages")?;
        let programs = programs.parent().context("a folder")?;
        let made = Command::new(repository().join("tools/deb.sh"))
            .args([programs, &folder])
            .env("TMPDIR", scratch.path())
            // Packed to be unpacked once.
            .env("DPKG_DEB_COMPRESSOR_TYPE", "gzip")
            .env("DPKG_DEB_COMPRESSOR_LEVEL", "1")
            .output()?;
        let words = String::from_utf8_lossy(&made.stderr);
        ensure!(made.status.success(), "tools/deb.sh: {words}");
        Ok(Self { folder })
    }

    /// Packages of a later version in `folder`, in which the line `# later` has been added to `changed`, a file of one
    /// of them.
    ///
    /// # Errors
    /// They cannot be packed again.
    pub fn later(&self, folder: &Path, changed: &[(&str, &str)]) -> Result<()> {
        for package in PACKAGES {
            let tree = folder.join(format!("tree-{package}"));
            run(Command::new("dpkg-deb")
                .arg("-R")
                .args([&self.file(package)?, &tree]))?;
            let control = tree.join("DEBIAN/control");
            let text = std::fs::read_to_string(&control)?;
            let (before, after) = text.split_once("\nVersion: ").context("a version")?;
            let (version, after) = after.split_once('\n').context("a version")?;
            let text = format!("{before}\nVersion: {version}+1\n{after}");
            std::fs::write(&control, text)?;
            for (_, file) in changed.iter().filter(|(of, _)| *of == package) {
                let file = tree.join(file.trim_start_matches('/'));
                let text = std::fs::read_to_string(&file)?;
                std::fs::write(&file, text + "# later\n")?;
            }
            let packed = folder.join(format!("{package}_later.deb"));
            run(Command::new("dpkg-deb")
                .args(["--root-owner-group", "-b"])
                .args([&tree, &packed]))?;
        }
        Ok(())
    }

    /// The file of a package.
    ///
    /// # Errors
    /// There is none.
    pub fn file(&self, package: &str) -> Result<PathBuf> {
        let begins = format!("{package}_");
        let entries = std::fs::read_dir(&self.folder)?.flatten();
        let names = entries.map(|entry| entry.path());
        let of = |path: &PathBuf| {
            let name = path.file_name().map(|name| name.to_string_lossy());
            name.is_some_and(|name| name.starts_with(&begins) && name.ends_with(".deb"))
        };
        let mut found = names.filter(of);
        found
            .next()
            .with_context(|| format!("{package} is not made"))
    }

    /// What is in a package, unpacked into `folder` and not installed.
    ///
    /// # Errors
    /// It cannot be unpacked.
    pub fn unpack(&self, package: &str, folder: &Path) -> Result<()> {
        run(Command::new("dpkg-deb")
            .arg("-x")
            .arg(self.file(package)?)
            .arg(folder))
    }
}

fn run(command: &mut Command) -> Result<()> {
    // Packed to be unpacked once.
    let output = command.env("DPKG_DEB_COMPRESSOR_TYPE", "none").output()?;
    let words = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {words}");
    Ok(())
}

/// Where tests may keep what the next run need not make again.
pub fn target() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}

/// The sources.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

#[test]
fn lintian_finds_nothing_in_the_packages() -> Result<()> {
    let Some(built) = Built::get()? else {
        return Ok(());
    };
    if !require(&[("/usr/bin/lintian", "lintian")], false)? {
        return Ok(());
    }
    let mut lintian = Command::new("lintian");
    lintian.args(["--fail-on", "error,warning", "--allow-root", "--no-cfg"]);
    for package in PACKAGES {
        lintian.arg(built.file(package)?);
    }
    let judged = lintian.output()?;
    let words = String::from_utf8_lossy(&judged.stdout);
    ensure!(judged.status.success(), "lintian: {words}");
    Ok(())
}
