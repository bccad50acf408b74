//! Every format that outlives a program has a version, and a test of what becomes of a newer one.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};

/// The table of ARCHITECTURE.md: a format, its version, where, and `file::test` of a newer one.
fn rows(page: &str) -> Vec<Vec<&str>> {
    let section = page.split("\n## ").find(|s| s.starts_with("Formats"));
    let lines = section.unwrap_or_default().lines();
    let lines = lines.filter(|line| line.starts_with('|')).skip(2);
    lines
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect()
}

/// Whether a test of that name is in that file.
fn exists(root: &Path, named: &str) -> Result<bool> {
    let (file, test) = named.split_once("::").with_context(|| named.to_owned())?;
    let text = std::fs::read_to_string(root.join(file)).with_context(|| named.to_owned())?;
    let mut lines = text.lines().map(str::trim).peekable();
    let begin = format!("fn {test}(");
    while let Some(line) = lines.next() {
        let next = lines.peek().copied().unwrap_or_default();
        let next = next.trim_start_matches("async ");
        if matches!(line, "#[test]" | "#[tokio::test]") && next.starts_with(&begin) {
            return Ok(true);
        }
    }
    Ok(false)
}

#[test]
fn each_format_has_a_version_and_a_test_of_a_newer_one() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let page = std::fs::read_to_string(root.join("ARCHITECTURE.md"))?;
    let rows = rows(&page);
    ensure!(rows.len() >= 10, "{} formats", rows.len());
    for row in rows {
        ensure!(row.len() == 4, "{row:?}");
        ensure!(!row[1].is_empty(), "{} has no version", row[0]);
        let tests = row[3].split(", ").map(|cell| cell.trim_matches('`'));
        for test in tests {
            ensure!(exists(&root, test)?, "{}: {test} is no test", row[0]);
        }
    }
    Ok(())
}
