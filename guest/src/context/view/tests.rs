use std::collections::BTreeSet;
use std::io::Write as _;

use proptest::prelude::*;
use sha2::{Digest as _, Sha256};

use super::*;
use crate::context::change::{Kind, diff};

/// A layer of files with what they hold, and of directories.
pub(crate) fn layer(class: &str, files: &[(&str, &str)], directories: &[&str]) -> Arc<Layer> {
    let mut content = tempfile::tempfile().unwrap();
    let (mut extents, mut all, mut offset) = (BTreeMap::new(), BTreeSet::new(), 0);
    for path in directories {
        all.extend(ways(path).chain([*path]).map(str::to_owned));
    }
    for (path, text) in files {
        content.write_all(text.as_bytes()).unwrap();
        let length = text.len() as u64;
        let digest = Sha256::digest(text).into();
        let extent = Extent {
            offset,
            length,
            digest,
        };
        extents.insert((*path).to_owned(), extent);
        all.extend(ways(path).map(str::to_owned));
        offset += length;
    }
    Arc::new(Layer::new(class.parse().unwrap(), extents, all, content))
}

fn shown(view: &View) -> Vec<String> {
    let line = |(path, placed): (&String, &Placed)| match placed.node {
        Node::Directory => format!("{path}/ {}", placed.layer),
        Node::File(_) => {
            let text = view.read(path, 100).unwrap().unwrap();
            format!(
                "{path} {} {}",
                placed.layer,
                String::from_utf8(text).unwrap()
            )
        }
    };
    view.nodes().iter().map(line).collect()
}

#[test]
fn directories_merge_and_the_higher_layer_decides_what_a_path_is() {
    let high = layer(
        "infrastructure",
        &[("d/x", "H"), ("f", "H"), ("over/y", "H")],
        &[],
    );
    let low = layer(
        "service",
        &[
            ("d/x", "L"),
            ("d/z", "L"),
            ("f/hidden", "L"),
            ("over", "L"),
            ("f-b", "L"),
        ],
        &["empty"],
    );
    let view = View::new(vec![high, low]);
    let expected = [
        "d/ 0",
        "d/x 0 H",
        "d/z 1 L",
        "empty/ 1",
        "f 0 H",
        "f-b 1 L",
        "over/ 0",
        "over/y 0 H",
    ];
    assert_eq!(shown(&view), expected);
    let holders: Vec<_> = view
        .holders("d/x")
        .iter()
        .map(|h| (h.place, h.shown))
        .collect();
    assert_eq!(holders, [(0, true), (1, false)]);
    assert!(view.holders("d").iter().all(|h| h.shown && h.directory));
    assert!(view.holders("f/hidden").iter().all(|h| !h.shown));
    assert!(view.holders("none").is_empty());
}

#[test]
fn a_hidden_file_still_hides_what_is_beneath_it() {
    let top = layer("infrastructure", &[("a/x", "T")], &[]);
    let middle = layer("site", &[("a", "M")], &[]);
    let bottom = layer("service", &[("a/y", "B")], &[]);
    let view = View::new(vec![top, Arc::clone(&middle), Arc::clone(&bottom)]);
    assert_eq!(shown(&view), ["a/ 0", "a/x 0 T"]);
    let holders = view.holders("a");
    let shown_of = |place: usize| holders.iter().find(|h| h.place == place).unwrap().shown;
    assert_eq!([0, 1, 2].map(shown_of), [true, false, false]);
    assert_eq!(shown(&View::new(vec![middle, bottom])), ["a 0 M"]);
}

#[test]
fn the_generation_is_no_layers() {
    let low = layer(
        "service",
        &[("generation/x", "no"), ("a/generation", "yes")],
        &[],
    );
    let high = layer("infrastructure", &[("generation", "no")], &[]);
    let view = View::new(vec![high, low]);
    assert_eq!(shown(&view), ["a/ 1", "a/generation 1 yes"]);
}

#[test]
fn entries_keep_their_time_while_their_content_stays() {
    let at = Timestamp::from_micros;
    let view = |text| View::new(vec![layer("service", &[("a", text), ("b", "same")], &[])]);
    let before = view("1").entries(&Entries::new(), at(1));
    let after = view("2").entries(&before, at(2));
    assert_eq!((after["a"].since, after["b"].since), (at(2), at(1)));
    let changes = diff(&before, &after);
    assert_eq!((changes.len(), changes[0].change), (1, Kind::Changed));
}

/// The rule by itself: ask the layers from the highest for a path; the first that has it says what it is, and one that has
/// a file on the way to it ends the search.
fn by_rule(layers: &[Arc<Layer>], path: &str) -> Option<(usize, bool)> {
    for (place, layer) in layers.iter().enumerate() {
        if ways(path).any(|way| layer.files.contains_key(way)) {
            return None;
        }
        if layer.files.contains_key(path) {
            return Some((place, false));
        }
        if layer.directories.contains(path) {
            return Some((place, true));
        }
    }
    None
}

fn any_layer() -> impl Strategy<Value = Arc<Layer>> {
    let path = prop::collection::vec("[ab]", 1..4).prop_map(|names| names.join("/"));
    let kind = prop_oneof![Just(None), "[xyz]".prop_map(Some)];
    prop::collection::btree_map(path, kind, 0..6).prop_map(|nodes| {
        let files: Vec<(&str, &str)> = nodes
            .iter()
            .filter_map(|(path, text)| Some((path.as_str(), text.as_deref()?)))
            // What is below a file of the same layer cannot be.
            .filter(|(path, _)| !ways(path).any(|way| matches!(nodes.get(way), Some(Some(_)))))
            .collect();
        let below = |path: &str| {
            files
                .iter()
                .any(|(file, _)| ways(path).chain([path]).any(|w| w == *file))
        };
        let directories: Vec<&str> = nodes
            .iter()
            .filter(|(path, text)| text.is_none() && !below(path))
            .map(|(path, _)| path.as_str())
            .collect();
        let on_the_way: BTreeSet<String> = files
            .iter()
            .map(|(path, _)| *path)
            .chain(directories.iter().copied())
            .flat_map(|path| ways(path).map(str::to_owned).collect::<Vec<_>>())
            .chain(directories.iter().map(|d| (*d).to_owned()))
            .collect();
        let files: Vec<_> = files
            .iter()
            .filter(|(path, _)| !on_the_way.contains(*path))
            .copied()
            .collect();
        layer("service", &files, &directories)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn the_tree_is_what_the_rule_says(layers in prop::collection::vec(any_layer(), 0..5)) {
        let view = View::new(layers.clone());
        let paths: BTreeSet<&String> = layers
            .iter()
            .flat_map(|layer| layer.files.keys().chain(&layer.directories))
            .collect();
        prop_assert!(view.nodes().keys().all(|path| paths.contains(path)));
        for path in paths {
            let found = view.nodes().get(path);
            let found = found.map(|placed| (placed.layer, placed.node == Node::Directory));
            prop_assert_eq!(found, by_rule(&layers, path), "{}", path);
            for holder in view.holders(path) {
                let above = &layers[..holder.place];
                let cut = above.iter().any(|l| ways(path).chain([path.as_str()]).any(|w| l.files.contains_key(w)));
                let first = by_rule(&layers, path).is_some_and(|(place, _)| place == holder.place);
                let merged = holder.directory && !cut && found.is_some_and(|(_, d)| d);
                prop_assert_eq!(holder.shown, first || merged, "{:?}", holder);
            }
        }
    }

    #[test]
    fn a_diff_takes_one_tree_to_the_other(old in prop::collection::vec(any_layer(), 0..3), new in prop::collection::vec(any_layer(), 0..3)) {
        let entries = |layers| View::new(layers).entries(&Entries::new(), Timestamp::from_micros(0));
        let (old, new) = (entries(old), entries(new));
        let mut patched = old.clone();
        for change in diff(&old, &new) {
            match change.change {
                Kind::Removed => prop_assert!(patched.remove(&change.path).is_some()),
                Kind::Added => prop_assert!(patched.insert(change.path.clone(), new[&change.path].clone()).is_none()),
                Kind::Changed => prop_assert!(patched.insert(change.path.clone(), new[&change.path].clone()).is_some()),
            }
        }
        let digests = |entries: &Entries| -> Vec<_> { entries.iter().map(|(p, e)| (p.clone(), e.digest.clone())).collect() };
        prop_assert_eq!(digests(&patched), digests(&new));
    }
}
