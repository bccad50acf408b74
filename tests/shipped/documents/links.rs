//! Links lead somewhere, tests that are named exist, and every page is in the table of contents.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use vmkpi_tests::document::Page;

use super::{page, pages, pages_in, root};

/// What does not lead anywhere.
fn broken(from: &Page, target: &str) -> Result<Option<String>> {
    let elsewhere = ["http://", "https://", "mailto:"];
    if elsewhere.iter().any(|scheme| target.starts_with(scheme)) {
        return Ok(None);
    }
    let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
    let folder = Path::new(&from.path).parent().unwrap_or(Path::new(""));
    let path = match file {
        "" => PathBuf::from(&from.path),
        file => folder.join(file),
    };
    if !root().join(&path).exists() {
        return Ok(Some(format!("there is no {}", path.display())));
    }
    if anchor.is_empty() {
        return Ok(None);
    }
    let there = page(&path.display().to_string())?.anchors();
    let is_there = there.iter().any(|a| a == anchor);
    Ok((!is_there).then(|| format!("{} has no heading #{anchor}", path.display())))
}

#[test]
fn every_link_leads_somewhere() -> Result<()> {
    let mut wrong = Vec::new();
    let mut links = 0;
    for page in pages_in("")?.into_iter().chain(pages_in("docs")?) {
        for (line, target) in page.links() {
            links += 1;
            let broken = broken(&page, &target)?;
            wrong.extend(broken.map(|why| format!("{}:{line}: {target}: {why}", page.path)));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    ensure!(links > 100, "only {links} links were found");
    Ok(())
}

#[test]
fn the_contents_have_every_page() -> Result<()> {
    let contents = page("docs/README.md")?;
    let listed: BTreeSet<String> = contents.links().into_iter().map(|(_, to)| to).collect();
    let missing: Vec<String> = pages_in("docs")?
        .iter()
        .filter_map(|page| page.path.strip_prefix("docs/").map(str::to_owned))
        .filter(|name| name != "README.md" && !listed.contains(name))
        .collect();
    ensure!(missing.is_empty(), "docs/README.md lacks {missing:?}");
    let readme = page("README.md")?.links();
    ensure!(readme.iter().any(|(_, to)| to == "docs/README.md"));
    Ok(())
}

/// Whether `test` (FILE, FILE::NAME or FILE::MODULE::NAME) is there.
pub fn is_a_test(test: &str) -> bool {
    let parts: Vec<&str> = test.split("::").collect();
    let (file, name) = match parts[..] {
        [file] => (file.to_owned(), ""),
        [file, name] => (file.to_owned(), name),
        [file, module, name] => {
            let folder = file.trim_end_matches(".rs");
            (format!("{folder}/{module}.rs"), name)
        }
        _ => return false,
    };
    let Ok(text) = std::fs::read_to_string(root().join(file)) else {
        return false;
    };
    name.is_empty() || text.contains(&format!("fn {name}("))
}

#[test]
fn every_test_that_is_named_exists() -> Result<()> {
    let mut wrong = Vec::new();
    let mut named = 0;
    for page in pages()? {
        for (line, span) in page.spans() {
            let file = span.split("::").next().unwrap_or_default();
            if !file.ends_with(".rs") || !file.contains('/') || span.contains([' ', '{', '*']) {
                continue;
            }
            named += 1;
            // The code of a room may be named by its folder alone, as in docs/LINK.md.
            if !is_a_test(&span) {
                wrong.push(format!("{}:{line}: {span}", page.path));
            }
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    ensure!(named > 30, "only {named} were found");
    Ok(())
}
