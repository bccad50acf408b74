mod hostile;

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::context::is_legal_name;

const LABEL: &str = "VMKPI_INFRASTRUCTURE";

fn tree(files: &[(&str, &[u8])]) -> BTreeMap<String, Vec<u8>> {
    files
        .iter()
        .map(|(path, content)| ((*path).to_owned(), content.to_vec()))
        .collect()
}

fn image(files: &[(&str, &[u8])]) -> Vec<u8> {
    write(LABEL, &tree(files)).unwrap()
}

fn read_bytes(image: &[u8]) -> Result<Index, ReadError> {
    read(image, Limits::default())
}

/// Reads an image back as what it was written from, and proves that it is whole.
fn read_back(image: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let index = read_bytes(image).unwrap();
    let contents = index
        .files
        .iter()
        .map(|(path, place)| (path.as_str(), digest(image, *place).unwrap()));
    let found = TreeDigest::of(index.directories.iter().map(String::as_str), contents);
    assert_eq!(index.tree, Some(found));
    let content = |(start, length): &(u64, u64)| {
        let start = usize::try_from(*start).unwrap();
        image[start..start + usize::try_from(*length).unwrap()].to_vec()
    };
    index
        .files
        .iter()
        .map(|(path, place)| (path.clone(), content(place)))
        .collect()
}

#[test]
fn the_files_of_a_context_are_read_as_they_were_written() {
    let files = tree(&[
        ("monitoring/endpoint", b"virtio-serial:org.vmkpi.kpi.0\n"),
        ("legislation", b"DE"),
        ("empty", b""),
        ("a/b/c/d/e/f/g/h/i/j/k/l/m/n/o/p", b"deep"),
    ]);
    let image = write(LABEL, &files).unwrap();
    let index = read_bytes(&image).unwrap();
    assert_eq!(
        (index.label.as_str(), index.size),
        (LABEL, image.len() as u64)
    );
    assert_eq!(index.directories.len(), 16);
    assert!(index.directories.contains("monitoring"));
    assert_eq!(read_back(&image), files);
}

#[test]
fn a_volume_without_files_is_one() {
    assert_eq!(read_back(&image(&[])), tree(&[]));
}

#[test]
fn the_same_files_give_the_same_bytes() {
    let files: &[(&str, &[u8])] = &[("b/x", b"1"), ("a", b"2")];
    assert_eq!(image(files), image(files));
}

#[test]
fn what_cannot_be_read_is_not_written() {
    let refused = |path: &str| write(LABEL, &tree(&[(path, b"")])).unwrap_err().to_string();
    let deep = ["x"; 17].join("/");
    for path in [
        "",
        "/a",
        "a/",
        "a//b",
        "../a",
        "a/./b",
        "a\nb",
        &"x".repeat(256),
        &deep,
    ] {
        let said = refused(path);
        assert!(said.contains(&format!("{path:?}")), "{said}");
    }
    let both = write(LABEL, &tree(&[("a", b""), ("a/b", b"")])).unwrap_err();
    assert!(matches!(both, WriteError::Both(path) if path == "a"));
    for label in ["", "vmkpi", "A-B", &"A".repeat(33)] {
        assert!(
            matches!(write(label, &tree(&[])), Err(WriteError::Label(_))),
            "{label}"
        );
    }
}

#[test]
fn no_more_is_written_than_a_context_may_hold() {
    let many: BTreeMap<_, _> = (0..MAX_ENTRIES)
        .map(|n| (format!("f{n}"), Vec::new()))
        .collect();
    assert_eq!(read_back(&write(LABEL, &many).unwrap()), many);
    let mut more = many;
    more.insert("one/more".into(), Vec::new());
    assert!(
        matches!(write(LABEL, &more), Err(WriteError::Entries(entries, MAX_ENTRIES)) if entries == MAX_ENTRIES + 2)
    );
    let large = BTreeMap::from([(
        "large".to_owned(),
        vec![0; usize::try_from(MAX_IMAGE_BYTES).unwrap()],
    )]);
    assert!(matches!(write(LABEL, &large), Err(WriteError::Bytes(..))));
}

#[test]
fn limits_are_those_that_are_given() {
    let image = image(&[("a/b/c", b"content"), ("d", b"more")]);
    let limits = Limits {
        bytes: image.len() as u64,
        entries: 4,
        depth: 3,
    };
    assert!(read(&image[..], limits).is_ok());
    let few = read(
        &image[..],
        Limits {
            entries: 3,
            ..limits
        },
    )
    .unwrap_err();
    assert!(matches!(few, ReadError::TooMany(3)));
    let flat = read(&image[..], Limits { depth: 2, ..limits }).unwrap_err();
    assert_eq!(
        flat.to_string(),
        "\"a/b/c\" is too deep: at most 2 names lead to a file"
    );
    let small = read(
        &image[..],
        Limits {
            bytes: limits.bytes - 1,
            ..limits
        },
    )
    .unwrap_err();
    assert!(matches!(small, ReadError::TooLarge { .. }));
}

fn name() -> impl Strategy<Value = String> {
    let plain = "[a-zA-Z0-9._-]{1,12}";
    let any = proptest::collection::vec(any::<char>(), 1..80).prop_map(String::from_iter);
    let long = "[a-z]{150,255}";
    prop_oneof![4 => plain, 1 => any, 1 => long].prop_filter("legal", |name| is_legal_name(name))
}

fn files() -> impl Strategy<Value = BTreeMap<String, Vec<u8>>> {
    let path = proptest::collection::vec(name(), 1..5).prop_map(|names| names.join("/"));
    let content = proptest::collection::vec(any::<u8>(), 0..3000);
    proptest::collection::btree_map(path, content, 0..16)
}

proptest! {
    #[test]
    fn what_is_written_is_read(files in files()) {
        match write(LABEL, &files) {
            Ok(image) => prop_assert_eq!(read_back(&image), files),
            Err(error) => prop_assert!(matches!(error, WriteError::Both(_)), "{}", error),
        }
    }

    #[test]
    fn whatever_bytes_come_what_is_read_obeys_the_limits(
        files in files(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let Ok(mut image) = write(LABEL, &files) else { return Ok(()) };
        let start = 16 * SECTOR;
        for (at, byte) in changes {
            let at = start + at.index(image.len() - start);
            image[at] = byte;
        }
        if let Ok(index) = read_bytes(&image) {
            obeys(&index, image.len() as u64);
        }
    }
}

fn obeys(index: &Index, bytes: u64) {
    assert!(index.size <= bytes);
    for path in index.files.keys().chain(&index.directories) {
        assert!(path.split('/').all(is_legal_name));
        assert!(path.split('/').count() <= MAX_DEPTH);
        assert!(
            path.rsplit_once('/')
                .is_none_or(|(parent, _)| index.directories.contains(parent))
        );
    }
    assert!(
        index
            .files
            .values()
            .all(|(start, length)| start + length <= index.size)
    );
}

#[test]
fn an_image_that_was_changed_is_told_from_its_digest() {
    let one = image(&[("a", b"first"), ("b", b"first")]);
    let other = image(&[("a", b"other"), ("b", b"other")]);
    // Read across a swap: the beginning of one, the end of the other.
    let half = [&one[..one.len() - SECTOR], &other[other.len() - SECTOR..]].concat();
    let index = read_bytes(&half).unwrap();
    let contents = index
        .files
        .iter()
        .map(|(path, place)| (path.as_str(), digest(&half[..], *place).unwrap()));
    let found = TreeDigest::of(index.directories.iter().map(String::as_str), contents);
    assert!(index.tree.is_some() && index.tree != Some(found));
}

#[test]
fn identifiers_are_plain_sorted_and_distinct() {
    let names = [
        "Größe.txt",
        "grösse.txt",
        "GRÖSSE.TXT",
        "a.b.c",
        ".hidden",
        "x".repeat(255).as_str(),
        "UPPER",
    ]
    .map(str::to_owned);
    let same = (0..50).map(|n| format!("{}{n}", "same".repeat(9)));
    let names: Vec<_> = names.into_iter().chain(same).collect();
    let paths: Vec<_> = names.iter().map(String::as_str).collect();
    let directories = tree::directories(&paths, Limits::default()).unwrap();
    let identifiers: Vec<_> = directories[0]
        .children
        .iter()
        .map(|child| &child.identifier)
        .collect();
    assert!(identifiers.is_sorted_by(|a, b| a < b), "{identifiers:?}");
    let legal = |b: &u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b"_.;".contains(b);
    assert!(
        identifiers
            .iter()
            .all(|id| id.len() <= 33 && id.iter().all(legal) && id.ends_with(b";1"))
    );
}
