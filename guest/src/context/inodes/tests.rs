use super::*;
use crate::context::view::tests::layer;

fn at(micros: i64) -> Timestamp {
    Timestamp::from_micros(micros)
}

fn view(files: &[(&str, &str)], directories: &[&str]) -> View {
    View::new(vec![layer("service", files, directories)])
}

/// Shows a view and says what the kernel has to forget, with paths in place of numbers.
fn show(inodes: &mut Inodes, view: &View) -> Vec<String> {
    let stale = inodes.replace(view, &Entries::new(), at(9));
    let mut text: Vec<String> = stale
        .into_iter()
        .filter_map(|stale| match stale {
            Stale::Name(parent, name) => Some(format!("{parent}:{name}")),
            Stale::Attributes(_) => None,
        })
        .collect();
    text.sort();
    text
}

fn find(inodes: &mut Inodes, path: &str) -> Option<Attr> {
    let mut found = inodes.attr(ROOT);
    for name in path.split('/') {
        found = inodes.lookup(found?.ino, name).unwrap();
    }
    found
}

fn text(inodes: &Inodes, ino: Ino) -> Option<String> {
    match inodes.content(ino)? {
        Content::Layer(layer, extent) => {
            Some(String::from_utf8(layer.read(&extent, 0, 100).unwrap()).unwrap())
        }
        Content::Bytes(bytes) => Some(String::from_utf8(bytes.to_vec()).unwrap()),
        Content::Gone(_) => None,
    }
}

#[test]
fn a_version_has_a_number_of_its_own_and_is_readable_until_it_is_forgotten() {
    let mut inodes = Inodes::new(0, at(0));
    assert_eq!(
        show(&mut inodes, &view(&[("a", "one"), ("b", "same")], &[])),
        ["1:a", "1:b"]
    );
    let (one, same) = (
        find(&mut inodes, "a").unwrap(),
        find(&mut inodes, "b").unwrap(),
    );
    assert_eq!(
        show(&mut inodes, &view(&[("a", "two"), ("b", "same")], &[])),
        ["1:a"]
    );
    let two = find(&mut inodes, "a").unwrap();
    assert_ne!(one.ino, two.ino);
    assert_eq!(find(&mut inodes, "b").unwrap().ino, same.ino);
    assert_eq!(text(&inodes, one.ino).unwrap(), "one");
    assert_eq!(
        (text(&inodes, two.ino).unwrap(), inodes.old()),
        ("two".into(), 1)
    );
    // Back before it is forgotten: the pages that the kernel has are right again.
    assert_eq!(
        show(&mut inodes, &view(&[("a", "one"), ("b", "same")], &[])),
        ["1:a"]
    );
    assert_eq!(find(&mut inodes, "a").unwrap().ino, one.ino);
    inodes.forget(two.ino, 1);
    assert_eq!((text(&inodes, two.ino), inodes.old()), (None, 0));
    inodes.forget(one.ino, 2);
    assert_eq!(text(&inodes, one.ino).unwrap(), "one", "it is in the tree");
}

#[test]
fn what_was_never_looked_up_leaves_nothing_behind() {
    let mut inodes = Inodes::new(0, at(0));
    for n in 0..100 {
        let content = n.to_string();
        show(&mut inodes, &view(&[("a/b/c", &content), ("d", "x")], &[]));
        inodes.set_generation(n, at(0));
    }
    assert_eq!((inodes.old(), inodes.count()), (0, 6));
    // `99`, `x`, and the generation's line.
    assert_eq!(inodes.bytes(), 6);
}

#[test]
fn directories_keep_their_number_and_become_files() {
    let mut inodes = Inodes::new(0, at(0));
    show(&mut inodes, &view(&[("d/x", "1")], &[]));
    let (d, x) = (
        find(&mut inodes, "d").unwrap(),
        find(&mut inodes, "d/x").unwrap(),
    );
    let listing = inodes.names(d.ino).unwrap();
    assert_eq!(
        show(&mut inodes, &view(&[("d/x", "1"), ("d/y", "2")], &[])),
        [format!("{}:y", d.ino)]
    );
    assert_eq!((listing.len(), inodes.names(d.ino).unwrap().len()), (1, 2));
    let stale = show(&mut inodes, &view(&[("d", "file")], &[]));
    assert_eq!(
        stale,
        [
            "1:d".to_owned(),
            format!("{}:x", d.ino),
            format!("{}:y", d.ino)
        ]
    );
    assert_eq!(inodes.lookup(d.ino, "x"), Err(NotThere));
    assert!(!find(&mut inodes, "d").unwrap().directory);
    assert_eq!(inodes.attr(d.ino).unwrap().links, 0);
    // Somebody is still in it: it is the same when it comes back.
    show(&mut inodes, &view(&[("d/x", "1")], &[]));
    assert_eq!(find(&mut inodes, "d").unwrap().ino, d.ino);
    assert_eq!(find(&mut inodes, "d/x").unwrap().ino, x.ino);
    assert_eq!((inodes.parent(d.ino), inodes.parent(ROOT)), (ROOT, ROOT));
}

#[test]
fn the_generation_is_a_file_at_the_top_whatever_is_shown() {
    let mut inodes = Inodes::new(7, at(0));
    let seven = find(&mut inodes, "generation").unwrap();
    show(&mut inodes, &view(&[("zz", "1"), ("a", "1")], &["h"]));
    assert_eq!(find(&mut inodes, "generation").unwrap().ino, seven.ino);
    let stale = inodes.set_generation(8, at(1));
    assert_eq!(stale[0], Stale::Name(ROOT, "generation".into()));
    let eight = find(&mut inodes, "generation").unwrap();
    assert_eq!(text(&inodes, seven.ino).unwrap(), "7\n");
    assert_eq!(text(&inodes, eight.ino).unwrap(), "8\n");
    let names = inodes.names(ROOT).unwrap();
    let names: Vec<&str> = names.iter().map(|name| name.name.as_str()).collect();
    assert_eq!(names, ["a", "generation", "h", "zz"]);
    assert_eq!(inodes.attr(ROOT).unwrap().links, 3);
}

#[test]
fn only_so_many_old_layers_are_kept_for_who_does_not_close() {
    let mut inodes = Inodes::new(0, at(0));
    let mut held = Vec::new();
    let switches = MAX_OLD_LAYERS + 5;
    for n in 0..=switches {
        let content = n.to_string();
        show(&mut inodes, &view(&[("a", &content)], &[]));
        held.push(find(&mut inodes, "a").unwrap().ino);
    }
    let readable: Vec<bool> = held
        .iter()
        .map(|ino| text(&inodes, *ino).is_some())
        .collect();
    let expected: Vec<bool> = (0..=switches).map(|n| n >= 5).collect();
    assert_eq!((readable, inodes.cut_off()), (expected, 5));
    assert_eq!(inodes.attr(held[0]).unwrap().size, 1, "stat still answers");
}

#[test]
fn the_same_content_from_another_layer_is_the_same_inode_and_frees_the_first() {
    let mut inodes = Inodes::new(0, at(0));
    let first = layer("service", &[("a", "same")], &[]);
    show(&mut inodes, &View::new(vec![Arc::clone(&first)]));
    let ino = find(&mut inodes, "a").unwrap().ino;
    let stale = show(&mut inodes, &view(&[("a", "same")], &[]));
    assert!(stale.is_empty(), "{stale:?}");
    assert_eq!(find(&mut inodes, "a").unwrap().ino, ino);
    assert_eq!(Arc::strong_count(&first), 1);
}
