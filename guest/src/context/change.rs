//! What a change of the context changes: two trees compared by content, and changes that became one. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use vmkpi::clock::Timestamp;
use vmkpi::context::Class;

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The SHA-256 of a file's content, in hexadecimal; none of a directory.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub digest: Option<String>,
    /// The class of the highest layer that has it.
    pub class: Class,
    /// Since when it is so.
    pub since: Timestamp,
}

/// A tree by path. The paths of directories end with `/`: a file that becomes a directory is one that goes and one that
/// comes.
pub type Entries = BTreeMap<String, Entry>;

/// What became of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// It came.
    Added,
    /// Its content is another.
    Changed,
    /// It went.
    Removed,
}

impl Kind {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Changed => "changed",
            Self::Removed => "removed",
        }
    }

    /// What it is together with what happened next.
    fn then(self, next: Self) -> Self {
        match (self, next) {
            (Self::Added, Self::Changed) => Self::Added,
            (Self::Removed, Self::Added) => Self::Changed,
            (_, next) => next,
        }
    }
}

/// A path that changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Which; that of a directory ends with `/`.
    pub path: String,
    /// What became of it.
    pub change: Kind,
    /// The class of the layer that it is from now, or was from before it went.
    pub layer: Class,
}

/// What is other in `new` than in `old`, by path. A path that another layer gives the same content has not changed.
pub fn diff(old: &Entries, new: &Entries) -> Vec<Change> {
    let change = |(path, entry): (&String, &Entry), change| Change {
        path: path.clone(),
        change,
        layer: entry.class.clone(),
    };
    let gone = old.iter().filter(|(path, _)| !new.contains_key(*path));
    let mut changes: Vec<Change> = gone.map(|entry| change(entry, Kind::Removed)).collect();
    for (path, entry) in new {
        match old.get(path) {
            None => changes.push(change((path, entry), Kind::Added)),
            Some(before) if before.digest != entry.digest => {
                changes.push(change((path, entry), Kind::Changed));
            }
            Some(_) => {}
        }
    }
    changes.sort_by(|a, b| a.path.cmp(&b.path));
    changes
}

/// Every path as one that came: what a first start and `apply` tell the hooks.
pub fn everything(entries: &Entries) -> Vec<Change> {
    diff(&Entries::new(), entries)
}

/// Changes of which nobody was told yet, as one. A path that changed and changed back is kept: whoever acted upon the
/// state between has to act again.
pub fn join(first: Vec<Change>, then: Vec<Change>) -> Vec<Change> {
    let mut joined: BTreeMap<String, Change> = first
        .into_iter()
        .map(|change| (change.path.clone(), change))
        .collect();
    for mut change in then {
        if let Some(before) = joined.get(&change.path) {
            change.change = before.change.then(change.change);
        }
        joined.insert(change.path.clone(), change);
    }
    joined.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(list: &[(&str, &str)]) -> Entries {
        let entry = |(path, digest): &(&str, &str)| {
            let entry = Entry {
                digest: (!digest.is_empty()).then(|| (*digest).to_owned()),
                class: "service".parse().unwrap(),
                since: Timestamp::from_micros(0),
            };
            ((*path).to_owned(), entry)
        };
        list.iter().map(entry).collect()
    }

    fn told(changes: &[Change]) -> Vec<(&str, Kind)> {
        let told = changes.iter();
        told.map(|change| (change.path.as_str(), change.change))
            .collect()
    }

    #[test]
    fn a_diff_names_what_came_went_and_is_other() {
        let old = entries(&[("a", "1"), ("b", "1"), ("c", "1"), ("d/", "")]);
        let new = entries(&[("a", "1"), ("b", "2"), ("c/", ""), ("c/x", "1"), ("d/", "")]);
        let changes = diff(&old, &new);
        let expected = [
            ("b", Kind::Changed),
            ("c", Kind::Removed),
            ("c/", Kind::Added),
            ("c/x", Kind::Added),
        ];
        assert_eq!(told(&changes), expected);
        assert!(diff(&new, &new).is_empty());
        assert_eq!(everything(&old).len(), 4);
    }

    #[test]
    fn there_and_back_is_told_and_a_path_is_told_once() {
        let (a, b) = (entries(&[("x", "1")]), entries(&[("x", "2"), ("y", "1")]));
        let back = join(diff(&a, &b), diff(&b, &a));
        assert_eq!(told(&back), [("x", Kind::Changed), ("y", Kind::Removed)]);
        let gone = join(diff(&b, &a), diff(&a, &b));
        assert_eq!(told(&gone), [("x", Kind::Changed), ("y", Kind::Changed)]);
        let new = join(diff(&Entries::new(), &a), diff(&a, &entries(&[("x", "3")])));
        assert_eq!(told(&new), [("x", Kind::Added)]);
    }
}
