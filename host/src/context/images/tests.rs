//! Images by their names, and what is on disk.

use vmkpi::iso9660;

use super::*;

const UUID: &str = "11111111-2222-4333-8444-555555555555";
const OTHER: &str = "99999999-2222-4333-8444-555555555555";

fn class(name: &str) -> Class {
    name.parse().unwrap()
}

fn files(text: &str) -> Files {
    Files::from([("monitoring/endpoint".to_owned(), text.as_bytes().to_vec())])
}

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<String> = entries
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn the_same_files_are_the_same_image_which_is_written_once() {
    let directory = tempfile::tempdir().unwrap();
    let images = Images::open(&directory.path().join("a/b")).unwrap();
    let (infra, service) = (class("infrastructure"), class("service"));
    let first = images.make(&infra, UUID, &files("x")).unwrap();
    assert!(first.written);
    let mode = std::fs::metadata(&first.path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let begun = std::fs::metadata(&first.path).unwrap().modified().unwrap();
    let again = images.make(&infra, UUID, &files("x")).unwrap();
    assert_eq!(
        (again.path.clone(), again.written),
        (first.path.clone(), false)
    );
    assert_eq!(
        std::fs::metadata(&first.path).unwrap().modified().unwrap(),
        begun
    );
    for (class, uuid, text) in [
        (&infra, UUID, "y"),
        (&infra, OTHER, "x"),
        (&service, UUID, "x"),
    ] {
        let other = images.make(class, uuid, &files(text)).unwrap();
        assert!(other.written && other.path != first.path);
    }
    // An earlier daemon's is used when it is whole, and made again when not.
    let later = Images::open(&directory.path().join("a/b")).unwrap();
    assert!(!later.make(&infra, UUID, &files("x")).unwrap().written);
    let later = Images::open(&directory.path().join("a/b")).unwrap();
    std::fs::write(&first.path, "half").unwrap();
    assert!(later.make(&infra, UUID, &files("x")).unwrap().written);
    std::fs::remove_file(&first.path).unwrap();
    assert!(
        later.make(&infra, UUID, &files("x")).unwrap().written,
        "somebody has removed it"
    );
    let file = std::fs::File::open(&first.path).unwrap();
    let index = iso9660::read(&file, iso9660::Limits::default()).unwrap();
    assert_eq!(index.label, "VMKPI_INFRASTRUCTURE");
    assert_eq!(
        index.files.keys().collect::<Vec<_>>(),
        ["monitoring/endpoint"]
    );
}

#[test]
fn images_are_removed_by_vm_and_class_and_nothing_else_is() {
    let directory = tempfile::tempdir().unwrap();
    let images = Images::open(directory.path()).unwrap();
    let (infra, service) = (class("infrastructure"), class("service"));
    let kept = images.make(&infra, UUID, &files("new")).unwrap();
    images.make(&infra, UUID, &files("old")).unwrap();
    images.make(&service, UUID, &files("s")).unwrap();
    images.make(&infra, OTHER, &files("o")).unwrap();
    for foreign in [
        "notes.txt",
        "vmkpi-infrastructure.iso",
        "vmkpi-infrastructure-x-y.iso",
    ] {
        std::fs::write(directory.path().join(foreign), "").unwrap();
    }
    assert_eq!(
        images.owners().unwrap(),
        [OTHER, UUID].map(str::to_owned).into()
    );
    assert_eq!(images.keep_only(&infra, UUID, Some(&kept.path)).unwrap(), 1);
    assert!(kept.path.exists());
    assert_eq!(images.remove(UUID).unwrap(), 2);
    assert_eq!(images.owners().unwrap(), [OTHER.to_owned()].into());
    assert_eq!(names(directory.path()).len(), 4);
}

#[test]
fn what_was_begun_and_not_ended_is_gone_at_the_next_start() {
    let directory = tempfile::tempdir().unwrap();
    let unfinished = directory
        .path()
        .join(format!(".vmkpi-infrastructure-{UUID}-00.iso"));
    std::fs::write(&unfinished, "half").unwrap();
    Images::open(directory.path()).unwrap();
    assert!(names(directory.path()).is_empty());
}

#[test]
fn only_names_that_are_whole_are_images() {
    let digest = "00112233445566778899aabbccddeeff";
    let infra = class("infrastructure");
    let good = format!("/x/vmkpi-infrastructure-{UUID}-{digest}.iso");
    assert!(is_of(Path::new(&good), &infra) && !is_of(Path::new(&good), &class("service")));
    for bad in [
        "/x/vmkpi-infrastructure.iso".to_owned(),
        good.replace(".iso", ".img"),
        good.replace("vmkpi-", "cidata-"),
        good.replace("eeff", "ee"),
        good.replace("eeff", "eeé"),
        good.replace(UUID, "é1111111-2222-4333-8444-55555555555"),
        format!("{good}/.."),
        "?".to_owned(),
    ] {
        assert!(!is_of(Path::new(&bad), &infra), "{bad}");
    }
}

#[test]
fn what_no_image_can_hold_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let images = Images::open(directory.path()).unwrap();
    let files = Files::from([("a\nb".to_owned(), Vec::new())]);
    let error = images.make(&class("service"), UUID, &files).unwrap_err();
    assert!(error.to_string().contains("ISO 9660"), "{error}");
    assert!(names(directory.path()).is_empty());
}
