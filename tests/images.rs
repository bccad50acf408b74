//! Images of contexts against xorriso: what either writes, the other reads.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use vmkpi::context::MAX_ENTRIES;
use vmkpi::iso9660::{Index, Limits, ReadError, Refusal, TreeDigest, digest, read, write};
use vmkpi_tests::scratch::Scratch;

const LABEL: &str = "VMKPI_SERVICE";

/// A tree of files by their paths.
type Tree = BTreeMap<String, Vec<u8>>;

/// Runs it, and returns what it says. xorriso calls what is wrong with an image a warning, or worse.
fn xorriso(arguments: &[&str]) -> Result<String> {
    let output = Command::new("xorriso")
        .args(arguments)
        .output()
        .context("xorriso: tools/setup.sh test installs it")?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let worse = ["WARNING", "SORRY", "MISHAP", "FAILURE", "FATAL"];
    let well = output.status.success() && !worse.iter().any(|word| said.contains(word));
    ensure!(well, "xorriso {arguments:?}: {said}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What is hard to write and to read: names, depth, sizes about a sector's, many in one directory.
fn hard_tree() -> Tree {
    let mut tree = Tree::from([
        (
            "monitoring/endpoint".into(),
            b"virtio-serial:org.vmkpi.kpi.0\n".to_vec(),
        ),
        ("legislation".into(), b"DE\n".to_vec()),
        ("empty".into(), Vec::new()),
        ("Größe, mit Leerzeichen; 日本.txt".into(), b"x".to_vec()),
        ("UPPER".into(), b"upper".to_vec()),
        ("upper".into(), b"lower".to_vec()),
        ("a.b.c.d".into(), b"dots".to_vec()),
        (".hidden".into(), b"hidden".to_vec()),
        (
            "a/b/c/d/e/f/g/h/i/j/k/l/m/n/o/deep".into(),
            b"deep".to_vec(),
        ),
    ]);
    for length in [100, 126, 127, 128, 160, 170, 200, 249, 250, 251, 255] {
        tree.insert(format!("long/{}", "n".repeat(length)), vec![7; length]);
    }
    for length in [2047, 2048, 2049, 70_000] {
        tree.insert(format!("size-{length}"), vec![b's'; length]);
    }
    for number in 0..1000 {
        tree.insert(
            format!("many/file-{number}"),
            number.to_string().into_bytes(),
        );
    }
    tree
}

fn lay_out(tree: &Tree, folder: &Path) -> Result<()> {
    for (path, content) in tree {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().context("a folder")?)?;
        fs::write(path, content)?;
    }
    Ok(())
}

/// The files below a folder.
fn collect(folder: &Path, prefix: &str, tree: &mut Tree) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().into_string().ok().context("UTF-8")?;
        let path = format!("{prefix}{name}");
        let mode = entry.metadata()?.mode() & 0o7777;
        if entry.file_type()?.is_dir() {
            ensure!(mode == 0o555, "{path} has mode {mode:o}");
            collect(&entry.path(), &format!("{path}/"), tree)?;
        } else {
            ensure!(mode == 0o444, "{path} has mode {mode:o}");
            tree.insert(path, fs::read(entry.path())?);
        }
    }
    Ok(())
}

/// Writes a folder by xorriso.
fn by_xorriso(folder: &Path, image: &Path, options: &[&str]) -> Result<()> {
    let (folder, image) = (folder.display().to_string(), image.display().to_string());
    let fixed = ["-as", "mkisofs", "-quiet", "-V", LABEL, "-o", &image];
    xorriso(&[&fixed[..], options, &[&folder]].concat()).map(drop)
}

fn contents(image: &Path, index: &Index) -> Result<Tree> {
    let bytes = fs::read(image)?;
    let content = |(start, length): (u64, u64)| -> Result<Vec<u8>> {
        let (start, length) = (usize::try_from(start)?, usize::try_from(length)?);
        Ok(bytes[start..start + length].to_vec())
    };
    let files = index.files.iter();
    files
        .map(|(path, place)| Ok((path.clone(), content(*place)?)))
        .collect()
}

fn read_file(image: &Path) -> Result<Index, ReadError> {
    read(&fs::File::open(image)?, Limits::default())
}

#[test]
fn what_xorriso_writes_is_read() -> Result<()> {
    let scratch = Scratch::new()?;
    let (folder, image) = (
        scratch.path().join("tree"),
        scratch.path().join("image.iso"),
    );
    let tree = hard_tree();
    lay_out(&tree, &folder)?;
    fs::create_dir(folder.join("nothing in it"))?;
    for options in [
        &["-R"][..],
        &["-R", "-J", "-joliet-long"],
        &["-r", "-no-pad"],
        &["-R", "-hfsplus"],
    ] {
        by_xorriso(&folder, &image, options)?;
        let index = read_file(&image)?;
        assert_eq!(index.label, LABEL);
        assert_eq!(index.tree, None);
        assert!(index.directories.contains("nothing in it"));
        assert!(contents(&image, &index)? == tree, "{options:?}");
        fs::remove_file(&image)?;
    }
    Ok(())
}

#[test]
fn files_that_are_links_of_each_other_are_two_files() -> Result<()> {
    let scratch = Scratch::new()?;
    let (folder, image) = (
        scratch.path().join("tree"),
        scratch.path().join("image.iso"),
    );
    lay_out(&Tree::from([("one".into(), b"same".to_vec())]), &folder)?;
    fs::hard_link(folder.join("one"), folder.join("two"))?;
    by_xorriso(&folder, &image, &["-R"])?;
    let tree = contents(&image, &read_file(&image)?)?;
    assert_eq!(tree["one"], b"same");
    assert_eq!(tree["one"], tree["two"]);
    Ok(())
}

#[test]
fn without_rock_ridge_names_are_in_small_letters() -> Result<()> {
    let scratch = Scratch::new()?;
    let (folder, image) = (
        scratch.path().join("tree"),
        scratch.path().join("image.iso"),
    );
    let tree = Tree::from([
        ("monitoring/endpoint".into(), b"x".to_vec()),
        ("network.cfg".into(), b"y".to_vec()),
    ]);
    let capitals = tree
        .iter()
        .map(|(path, content)| (path.to_uppercase(), content.clone()));
    lay_out(&capitals.collect(), &folder)?;
    for options in [
        &["--norock", "-iso-level", "3"][..],
        &["--norock", "-J", "-iso-level", "3"],
    ] {
        by_xorriso(&folder, &image, options)?;
        assert_eq!(contents(&image, &read_file(&image)?)?, tree);
        fs::remove_file(&image)?;
    }
    Ok(())
}

#[test]
fn what_is_no_file_refuses_the_image() -> Result<()> {
    let pipe = |at: &Path| -> Result<()> {
        ensure!(Command::new("mkfifo").arg(at).status()?.success(), "mkfifo");
        Ok(())
    };
    let device = |at: &Path| -> Result<()> {
        let made = Command::new("mknod")
            .arg(at)
            .args(["c", "1", "3"])
            .status()?;
        ensure!(made.success(), "mknod: these tests run as root");
        Ok(())
    };
    let link = |target: &'static str| move |at: &Path| Ok(symlink(target, at)?);
    refuses(&link("/etc/shadow"), Refusal::SymbolicLink)?;
    refuses(&link("../../../etc/shadow"), Refusal::SymbolicLink)?;
    refuses(&link("."), Refusal::SymbolicLink)?;
    refuses(&pipe, Refusal::Special)?;
    refuses(&device, Refusal::Special)
}

fn refuses(make: &dyn Fn(&Path) -> Result<()>, due: Refusal) -> Result<()> {
    let scratch = Scratch::new()?;
    let (folder, image) = (
        scratch.path().join("tree"),
        scratch.path().join("image.iso"),
    );
    lay_out(
        &Tree::from([("network/good".into(), b"x".to_vec())]),
        &folder,
    )?;
    make(&folder.join("network/bad"))?;
    by_xorriso(&folder, &image, &["-R"])?;
    match read_file(&image) {
        Err(ReadError::Entry { path, refusal }) if path == "network/bad" && refusal == due => {
            Ok(())
        }
        other => anyhow::bail!("{due:?} is due: {other:?}"),
    }
}

#[test]
fn too_much_refuses_the_image() -> Result<()> {
    let scratch = Scratch::new()?;
    let (folder, image) = (
        scratch.path().join("tree"),
        scratch.path().join("image.iso"),
    );
    let deep = ["d"; 17].join("/");
    lay_out(&Tree::from([(deep.clone(), b"x".to_vec())]), &folder)?;
    by_xorriso(&folder, &image, &["-R"])?;
    let said = read_file(&image).err().context("too deep")?.to_string();
    assert!(said.contains(&deep) && said.contains("too deep"), "{said}");
    fs::remove_dir_all(&folder)?;
    fs::remove_file(&image)?;
    lay_out(
        &(0..=MAX_ENTRIES)
            .map(|n| (n.to_string(), Vec::new()))
            .collect(),
        &folder,
    )?;
    by_xorriso(&folder, &image, &["-R"])?;
    assert!(matches!(
        read_file(&image),
        Err(ReadError::TooMany(MAX_ENTRIES))
    ));
    Ok(())
}

#[test]
fn what_is_written_xorriso_reads() -> Result<()> {
    let scratch = Scratch::new()?;
    let image = scratch.path().join("image.iso");
    let tree = hard_tree();
    let bytes = write(LABEL, &tree)?;
    fs::write(&image, &bytes)?;
    let index = read_file(&image)?;
    let digests = index
        .files
        .iter()
        .map(|(path, place)| Ok((path.as_str(), digest(&bytes[..], *place)?)));
    let digests: BTreeMap<_, _> = digests.collect::<Result<_>>()?;
    let found = TreeDigest::of(index.directories.iter().map(String::as_str), digests);
    assert_eq!(index.tree, Some(found));
    let extracted = scratch.path().join("extracted");
    let (image, target) = (image.display().to_string(), extracted.display().to_string());
    let described = xorriso(&["-indev", &image, "-pvd_info"])?;
    assert!(
        described.contains(LABEL) && described.contains("VMKPI"),
        "{described}"
    );
    xorriso(&["-osirrox", "on", "-indev", &image, "-extract", "/", &target])?;
    let mut seen = Tree::new();
    collect(&extracted, "", &mut seen)?;
    assert!(seen == tree, "{:?} is not {:?}", seen.keys(), tree.keys());
    xorriso(&["-indev", &image, "-check_media", "use=indev", "--"]).map(drop)
}

#[test]
fn what_is_written_has_names_for_who_reads_no_rock_ridge() -> Result<()> {
    let scratch = Scratch::new()?;
    let image = scratch.path().join("image.iso");
    fs::write(&image, write(LABEL, &hard_tree())?)?;
    let image = image.display().to_string();
    let names = xorriso(&["-read_fs", "norock", "-indev", &image, "-find", "/"])?;
    for due in ["'/monitoring/endpoint", "'/legislation"] {
        let found = names.to_lowercase().contains(due);
        assert!(found, "{due} is not in {names}");
    }
    Ok(())
}
