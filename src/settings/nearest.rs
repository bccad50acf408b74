//! The known name that somebody most likely meant.

/// The candidate nearest to `name` by Levenshtein distance, if any is near enough to be a slip. The last
/// part of a dotted name counts alone, too: a key in the wrong section is found.
pub(super) fn nearest<'a>(
    name: &str,
    candidates: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    let last = |name: &'a str| name.rsplit('.').next().unwrap_or(name);
    let bare = name.rsplit('.').next().unwrap_or(name);
    let slips = (name.len() / 3).clamp(1, 4);
    candidates
        .map(|known| {
            // At equal distance the whole name wins.
            let whole = distance(name, known) * 2;
            (whole.min(distance(bare, last(known)) * 2 + 1), known)
        })
        .filter(|(far, _)| *far <= slips * 2 + 1)
        .min_by_key(|(far, _)| *far)
        .map(|(_, known)| known)
}

fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_found_and_nonsense_is_not() {
        let known = ["mount", "limits.store_bytes", "limits.files", "vm"];
        let near = |name| nearest(name, known.into_iter());
        assert_eq!(near("mout"), Some("mount"));
        assert_eq!(near("limits.store_byte"), Some("limits.store_bytes"));
        assert_eq!(near("store_bytes"), Some("limits.store_bytes"));
        assert_eq!(near("access.files"), Some("limits.files"));
        assert_eq!(near("something_else"), None);
    }
}
