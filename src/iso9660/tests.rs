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

/// The place of these bytes, which are there once.
fn place(image: &[u8], what: &[u8]) -> usize {
    let mut found = image
        .windows(what.len())
        .enumerate()
        .filter(|(_, window)| *window == what);
    let (place, _) = found.next().expect("the bytes are there");
    assert!(found.next().is_none(), "{what:?} is there twice");
    place
}

/// The place of the directory record with this identifier.
fn record_of(image: &[u8], identifier: &[u8]) -> usize {
    let what = [&[u8::try_from(identifier.len()).unwrap()], identifier].concat();
    let in_records = 18 * SECTOR;
    in_records + place_after_tables(&image[in_records..], &what) - 32
}

/// Behind the path tables, which hold the identifiers of directories too.
fn place_after_tables(bytes: &[u8], what: &[u8]) -> usize {
    2 * SECTOR + place(&bytes[2 * SECTOR..], what)
}

fn set_both_32(image: &mut [u8], at: usize, number: u32) {
    image[at..at + 8].copy_from_slice(&record::to_both_32(number));
}

/// What is said of a small image with some bytes changed.
fn said_of(change: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut image = image(&[
        ("file", b"content"),
        ("folder/inner", b"more"),
        ("other", b""),
    ]);
    assert!(read_bytes(&image).is_ok());
    change(&mut image);
    read_bytes(&image).unwrap_err().to_string()
}

#[test]
fn what_is_no_volume_is_foreign() {
    for bytes in [
        vec![],
        vec![0; 16 * SECTOR],
        vec![0; 64 * SECTOR],
        vec![0xff; 40_000],
    ] {
        assert!(matches!(read_bytes(&bytes), Err(ReadError::Foreign)));
    }
    assert!(said_of(|image| image[16 * SECTOR] = 2).contains("no ISO 9660 image"));
}

#[test]
fn a_descriptor_that_contradicts_itself_is_damaged() {
    let base = 16 * SECTOR;
    for (at, what) in [
        (80, "two sizes"),
        (128, "2048"),
        (159, "root"),
        (156, "root"),
        (181, "root"),
    ] {
        let said = said_of(|image| image[base + at] ^= 0xff);
        assert!(said.contains(what), "{at}: {said}");
    }
}

#[test]
fn a_volume_holds_its_descriptor() {
    let said = said_of(|image| set_both_32(image, 16 * SECTOR + 80, 16));
    assert!(said.contains("ends before it"), "{said}");
}

#[test]
fn a_truncated_image_is_refused() {
    let said = said_of(|image| image.truncate(image.len() - 1));
    assert!(said.contains("truncated"), "{said}");
}

#[test]
fn a_large_volume_is_refused_before_it_is_read() {
    let said = said_of(|image| set_both_32(image, 16 * SECTOR + 80, 5 << 19));
    assert_eq!(
        said,
        "it has 5368709120 bytes: a context has at most 67108864"
    );
}

#[test]
fn extents_past_the_end_are_refused_by_name() {
    for (identifier, name) in [(&b"FILE.;1"[..], "file"), (b"FOLDER", "folder")] {
        for (field, number) in [(2, 0xffff_ffff), (10, 0xffff_ffff), (2, 1000)] {
            let said = said_of(|image| {
                let at = record_of(image, identifier);
                set_both_32(image, at + field, number);
            });
            assert_eq!(said, format!("{name:?} lies past the end of the volume"));
        }
    }
}

#[test]
fn directories_that_lead_back_are_refused() {
    let root = said_of(|image| {
        let at = record_of(image, b"FOLDER");
        let root: [u8; 16] = image[16 * SECTOR + 158..][..16].try_into().unwrap();
        image[at + 2..at + 18].copy_from_slice(&root);
    });
    assert!(
        root.starts_with("\"folder\" is a directory that is in the tree already"),
        "{root}"
    );
    // As long as the volume, as often as there are sectors: none of them is read twice.
    let all = said_of(|image| {
        let at = record_of(image, b"FOLDER");
        let sectors = u32::try_from(image.len() / SECTOR).unwrap();
        set_both_32(image, at + 2, 0);
        set_both_32(image, at + 10, sectors * SECTOR as u32);
    });
    assert!(
        all.starts_with("\"folder\" is a directory that is in the tree already"),
        "{all}"
    );
}

#[test]
fn links_and_devices_are_refused_by_name() {
    let with_mode = |mode: u32| {
        said_of(|image| {
            let at = record_of(image, b"FILE.;1");
            let mode_at = at + place(&image[at..at + 120], b"PX") + 4;
            set_both_32(image, mode_at, mode);
        })
    };
    assert_eq!(
        with_mode(0o120_777),
        "\"file\" is a symbolic link: put the file itself there"
    );
    for special in [0o010_644, 0o020_644, 0o060_644, 0o140_644, 0] {
        assert!(
            with_mode(special).starts_with("\"file\" is a device"),
            "{special:o}"
        );
    }
    assert!(with_mode(0o040_555).contains("directory record that is damaged"));
}

/// Replaces the attributes of the file by another field.
fn with_field(field: &[u8]) -> String {
    said_of(|image| {
        let at = record_of(image, b"FILE.;1");
        let px = at + place(&image[at..at + 120], b"PX");
        image[px..px + field.len()].copy_from_slice(field);
    })
}

#[test]
fn rock_ridge_fields_that_a_context_may_not_have_are_refused_by_name() {
    for (signature, due) in [
        (b"SL", "\"file\" is a symbolic link"),
        (b"PN", "\"file\" is a device"),
        (b"CL", "\"file\" is relocated"),
        (b"RE", "\"file\" is relocated"),
        (b"ZF", "\"file\" is compressed"),
        (b"SF", "\"file\" is compressed"),
    ] {
        let said = with_field(signature);
        assert!(said.starts_with(due), "{said}");
    }
}

#[test]
fn damaged_rock_ridge_fields_are_refused() {
    for (field, due) in [
        (&b"PX\x03"[..], "damaged"),
        (b"PX\xff", "damaged"),
        (b"PX\x04", "damaged"),
        (b"NM\x04", "damaged"),
        (b"NM\x24\x01\x00", "several names"),
        (b"NM\x24\x01\x02", "several names"),
        (b"NM\x24\x01\x04", "several names"),
    ] {
        let said = with_field(field);
        assert!(
            said.starts_with("\"FILE.;1\" has Rock Ridge fields"),
            "{said}"
        );
        assert!(said.contains(due), "{field:?}: {said}");
    }
}

#[test]
fn continuations_are_bounded() {
    let field = |sector, offset, length| rock_ridge::continuation(sector, offset, length);
    assert!(with_field(&field(0xffff_ffff, 0, 100)).contains("past the end of the volume"));
    assert!(with_field(&field(18, 2000, 100)).contains("over the end of a sector"));
    assert!(with_field(&field(18, 0, 0xffff_ffff)).contains("over the end of a sector"));
    // One that leads to itself.
    let said = said_of(|image| {
        let at = record_of(image, b"FILE.;1");
        let px = at + place(&image[at..at + 120], b"PX");
        let (sector, offset) = (
            u32::try_from(px / SECTOR).unwrap(),
            u32::try_from(px % SECTOR).unwrap(),
        );
        image[px..px + 28].copy_from_slice(&field(sector, offset, 28));
    });
    assert!(said.contains("go on without end"), "{said}");
}

#[test]
fn names_that_are_not_legal_are_refused() {
    for name in [&b"../e"[..], b"a\0bc", b"a\nbc", b"ab\xff\xfe"] {
        let said = said_of(|image| {
            let at = record_of(image, b"FILE.;1");
            let nm = at + place(&image[at..at + 120], b"NM\x09\x01\0file") + 5;
            image[nm..nm + 4].copy_from_slice(name);
        });
        assert!(said.contains("name that is not legal"), "{said}");
        assert!(!said.contains(['\0', '\n']), "{said:?}");
    }
    // The fields for . and .. are for directories' own records.
    let said = said_of(|image| {
        let at = record_of(image, b"FILE.;1");
        image[at + 32] = 1;
        image[at + 33] = 0;
    });
    assert!(said.contains("\"\\0\""), "{said}");
}

#[test]
fn a_name_that_is_there_twice_is_refused() {
    let said = said_of(|image| {
        let at = record_of(image, b"OTHER.;1");
        let nm = at + place(&image[at..at + 120], b"NM\x0a\x01\0other");
        image[nm..nm + 10].copy_from_slice(b"NM\x09\x01\0file\0");
    });
    assert_eq!(said, "\"file\" is there twice");
}

#[test]
fn files_in_pieces_are_refused() {
    let change = |field: usize, value: u8| {
        said_of(|image| {
            let at = record_of(image, b"FILE.;1");
            image[at + field] = value;
        })
    };
    for (field, value) in [
        (25, 1 << 7),
        (25, 1 << 2),
        (26, 1),
        (27, 1),
        (1, 1),
        (28, 2),
    ] {
        let said = change(field, value);
        assert!(
            said.starts_with("\"file\" is not in one piece"),
            "{field}: {said}"
        );
    }
}

#[test]
fn damaged_records_are_refused() {
    let change = |at: usize, value: u8| said_of(|image| image[at] = value);
    let root = read_root(&image(&[
        ("file", b"content"),
        ("folder/inner", b"more"),
        ("other", b""),
    ]));
    for (at, value) in [(root, 0), (root, 33), (root + 32, 200), (root + 33, 7)] {
        assert!(change(at, value).contains("damaged"), "{at}");
    }
    let cut = said_of(|image| {
        let at = record_of(image, b"FOLDER");
        set_both_32(image, at + 10, 100);
    });
    assert_eq!(cut, "\"folder\" has a directory record that is damaged");
}

/// The first byte of the root's records.
fn read_root(image: &[u8]) -> usize {
    record::both_32(&image[16 * SECTOR + 158..]).unwrap() as usize * SECTOR
}

#[test]
fn without_rock_ridge_names_are_the_plain_ones() {
    let mut image = image(&[("Read Me.txt", b"content"), ("folder/inner", b"more")]);
    let root = read_root(&image);
    let sp = root + place(&image[root..root + 120], b"SP\x07\x01");
    image[sp] = b'X';
    let index = read_bytes(&image).unwrap();
    let names: Vec<_> = index.files.keys().collect();
    assert_eq!(names, ["folder/inner", "read_me.txt"]);
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

#[test]
fn files_that_share_an_extent_count_each() {
    let mut image = image(&[("a", &[1; 3000]), ("b", b"x")]);
    let (a, b) = (record_of(&image, b"A.;1"), record_of(&image, b"B.;1"));
    image.copy_within(a + 2..a + 18, b + 2);
    let index = read_bytes(&image).unwrap();
    assert_eq!(index.files["a"], index.files["b"]);
    let limits = Limits {
        bytes: image.len() as u64,
        ..Limits::default()
    };
    let large = |image: &mut Vec<u8>, at: usize| set_both_32(image, at + 2, 0);
    for at in [a, b] {
        large(&mut image, at);
        let all = u32::try_from(image.len()).unwrap();
        set_both_32(&mut image, at + 10, all);
    }
    assert!(matches!(
        read(&image[..], limits),
        Err(ReadError::TooLarge { .. })
    ));
}

fn name() -> impl Strategy<Value = String> {
    let plain = "[a-zA-Z0-9._-]{1,12}";
    let any = proptest::collection::vec(any::<char>(), 1..80).prop_map(String::from_iter);
    let long = "[a-z]{150,255}";
    prop_oneof![4 => plain, 1 => any, 1 => long].prop_filter("legal", |name| is_legal_name(name))
}

fn files() -> impl Strategy<Value = BTreeMap<String, Vec<u8>>> {
    let path = proptest::collection::vec(name(), 1..5).prop_map(|names| names.join("/"));
    let content = proptest::collection::vec(any::<u8>(), 0..5000);
    proptest::collection::btree_map(path, content, 0..40)
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
