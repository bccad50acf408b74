//! Images of contexts, from whoever made them.

use std::collections::BTreeMap;

use vmkpi::context::{MAX_DEPTH, MAX_ENTRIES, MAX_IMAGE_BYTES, is_legal_name};
use vmkpi::iso9660::{DESCRIPTOR_OFFSET, Index, Limits, digest, read, write};

/// From the volume descriptor on, as what is before it is not read: what is taken obeys the limits, and is written
/// and read as the same.
pub fn image(data: &[u8]) {
    let mut image = vec![0; usize::try_from(DESCRIPTOR_OFFSET).expect("it is small")];
    image.extend(data);
    let few = Limits {
        bytes: 12_000,
        entries: 3,
        depth: 2,
    };
    if let Ok(index) = read(&image[..], few) {
        obeys(&index, few, &image);
    }
    let all = Limits::default();
    assert_eq!(
        (all.bytes, all.entries, all.depth),
        (MAX_IMAGE_BYTES, MAX_ENTRIES, MAX_DEPTH)
    );
    match read(&image[..], all) {
        Ok(index) => {
            obeys(&index, all, &image);
            written_again(&index, &image);
        }
        Err(error) => {
            let said = error.to_string();
            assert!(!said.is_empty() && !said.contains('\0'), "{said:?}");
        }
    }
}

fn obeys(index: &Index, limits: Limits, image: &[u8]) {
    assert!(index.size <= limits.bytes && index.size <= image.len() as u64);
    assert!(index.files.len() + index.directories.len() <= limits.entries);
    for path in index.files.keys().chain(&index.directories) {
        assert!(path.split('/').all(is_legal_name), "{path:?}");
        assert!(path.split('/').count() <= limits.depth, "{path:?}");
        let parent = path.rsplit_once('/').map(|(parent, _)| parent);
        assert!(
            parent.is_none_or(|parent| index.directories.contains(parent)),
            "{path:?}"
        );
    }
    assert!(
        index
            .files
            .keys()
            .all(|path| !index.directories.contains(path))
    );
    let bytes: u64 = index.files.values().map(|(_, length)| length).sum();
    assert!(bytes <= limits.bytes);
    for place in index.files.values() {
        assert!(place.0 + place.1 <= index.size);
        digest(image, *place).expect("it is within the image");
    }
}

fn written_again(index: &Index, image: &[u8]) {
    let content = |(start, length): &(u64, u64)| {
        let start = usize::try_from(*start).expect("it is small");
        image[start..start + usize::try_from(*length).expect("it is small")].to_vec()
    };
    let files: BTreeMap<_, _> = index
        .files
        .iter()
        .map(|(path, place)| (path.clone(), content(place)))
        .collect();
    let written = write("VMKPI_FUZZ", &files).expect("what is read may be written");
    let again = read(&written[..], Limits::default()).expect("what is written is read");
    assert!(again.files.keys().eq(index.files.keys()));
    assert!(again.directories.is_subset(&index.directories));
    for (path, place) in &again.files {
        assert_eq!(
            digest(&written[..], *place).ok(),
            digest(image, index.files[path]).ok()
        );
    }
}
