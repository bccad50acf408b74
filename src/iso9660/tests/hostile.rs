//! Images with some bytes changed.

use super::*;

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
