//! Which files are hooks: the image's, and nobody's but the image's.

use std::fs::Metadata;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// The most hooks; the later ones are not run, which is said.
pub const MAX_HOOKS: usize = 64;

/// What is in the directory.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// What is run, in order.
    pub hooks: Vec<PathBuf>,
    /// What is not, and why.
    pub refused: Vec<String>,
}

/// Looks into the directory, which need not be there.
pub(super) fn find(directory: &Path, mount: &Path) -> Found {
    let refuse = |why: String| Found {
        hooks: Vec::new(),
        refused: vec![format!("no hook in {} is run: {why}", directory.display())],
    };
    let metadata = match std::fs::metadata(directory) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Found::default(),
        Err(error) => return refuse(error.to_string()),
    };
    if std::fs::metadata(mount).is_ok_and(|context| context.dev() == metadata.dev()) {
        return refuse("it is in the context partition, and hooks are the image's alone".into());
    }
    if let Err(why) = trusted(&metadata) {
        return refuse(why);
    }
    match names(directory) {
        Ok(names) => judge(directory, names),
        Err(error) => refuse(error.to_string()),
    }
}

/// What is in the directory, in order. Hidden names are none: editors and package managers leave such.
fn names(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            names.push(entry.path());
        }
    }
    names.sort();
    Ok(names)
}

fn judge(directory: &Path, names: Vec<PathBuf>) -> Found {
    let mut found = Found::default();
    for path in names {
        let good = std::fs::symlink_metadata(&path)
            .map_err(|error| error.to_string())
            .and_then(|metadata| hook(&metadata));
        match good {
            Ok(()) if found.hooks.len() < MAX_HOOKS => found.hooks.push(path),
            Ok(()) => {
                let all = format!("{} has more than {MAX_HOOKS} hooks", directory.display());
                found.refused.push(format!(
                    "{all}: those after {} are not run",
                    found.hooks[MAX_HOOKS - 1].display()
                ));
                break;
            }
            Err(why) => found
                .refused
                .push(format!("the hook {} is not run: {why}", path.display())),
        }
    }
    found
}

/// Whether a file may be run.
fn hook(metadata: &Metadata) -> Result<(), String> {
    if !metadata.is_file() {
        return Err("it is no regular file; put a copy there instead of a link".into());
    }
    trusted(metadata)?;
    match metadata.permissions().mode() & 0o111 {
        0 => Err("it is not executable (chmod 755), or does not belong there".into()),
        _ => Ok(()),
    }
}

/// Whether nobody but root and the user of this program can write it.
fn trusted(metadata: &Metadata) -> Result<(), String> {
    let own = nix::unistd::geteuid().as_raw();
    if metadata.uid() != 0 && metadata.uid() != own {
        return Err(format!(
            "it belongs to user {}: chown it to root",
            metadata.uid()
        ));
    }
    match metadata.permissions().mode() & 0o022 {
        0 => Ok(()),
        _ => Err("others may write it: chmod go-w".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &Path, mode: u32) {
        std::fs::write(path, "#!/bin/sh\n").unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn hooks_are_in_order_and_what_others_can_write_is_not_run() {
        let dir = tempfile::tempdir().unwrap();
        let hooks = dir.path().join("hooks");
        std::fs::create_dir(&hooks).unwrap();
        std::fs::set_permissions(&hooks, std::fs::Permissions::from_mode(0o755)).unwrap();
        for (name, mode) in [("20-b", 0o755), ("10-a", 0o700), (".hidden", 0o755)] {
            file(&hooks.join(name), mode);
        }
        for (name, mode) in [("30-group", 0o775), ("40-all", 0o757), ("50-plain", 0o644)] {
            file(&hooks.join(name), mode);
        }
        std::os::unix::fs::symlink("/bin/true", hooks.join("60-link")).unwrap();
        std::fs::create_dir(hooks.join("70-dir")).unwrap();
        let elsewhere = Path::new("/proc");
        let found = find(&hooks, elsewhere);
        assert_eq!(found.hooks, [hooks.join("10-a"), hooks.join("20-b")]);
        let words = [
            "others may",
            "others may",
            "not exec",
            "no regular",
            "no regular",
        ];
        assert_eq!(found.refused.len(), words.len(), "{:?}", found.refused);
        for (refused, word) in found.refused.iter().zip(words) {
            assert!(refused.contains(word), "{refused}");
        }
        assert!(find(&hooks, &hooks).hooks.is_empty(), "in the partition");
        std::fs::set_permissions(&hooks, std::fs::Permissions::from_mode(0o777)).unwrap();
        assert!(find(&hooks, elsewhere).hooks.is_empty(), "others may add");
        assert_eq!(find(&dir.path().join("none"), elsewhere), Found::default());
    }

    #[test]
    fn there_are_only_so_many() {
        let dir = tempfile::tempdir().unwrap();
        for n in 0..=MAX_HOOKS {
            file(&dir.path().join(format!("{n:03}")), 0o755);
        }
        let found = find(dir.path(), Path::new("/proc"));
        assert_eq!((found.hooks.len(), found.refused.len()), (MAX_HOOKS, 1));
    }
}
