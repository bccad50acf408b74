//! The documentation: each command is run or says why not, each piece of configuration is what the programs take, each
//! link leads somewhere, and each error text is one that a program prints.
//!
//! A block of commands (```` ```sh ````) is run, in the order of its page, by one shell in a folder of its own; a plain
//! block right behind it is what it prints. What cannot be run here has a comment above it with the reason, and the test
//! that shows it all the same: `<!-- not run: it needs systemd; shown by tests/shipped/packages.rs -->`.

#[path = "documents/configuration.rs"]
mod configuration;
#[path = "documents/form.rs"]
mod form;
#[path = "documents/links.rs"]
mod links;
#[path = "documents/run.rs"]
mod run;
#[path = "documents/words.rs"]
mod words;

use std::path::{Path, PathBuf};

use anyhow::Result;
use vmkpi_tests::document::Page;

/// The repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The Markdown files of a folder.
fn pages_in(folder: &str) -> Result<Vec<Page>> {
    let mut pages = Vec::new();
    for entry in std::fs::read_dir(root().join(folder))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".md") {
            let path = Path::new(folder).join(name);
            let text = std::fs::read_to_string(root().join(&path))?;
            let path = path.display().to_string();
            pages.push(Page { path, text });
        }
    }
    pages.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(pages)
}

/// What a user reads: README.md and docs/.
fn pages() -> Result<Vec<Page>> {
    let text = std::fs::read_to_string(root().join("README.md"))?;
    let path = "README.md".to_owned();
    let mut pages = vec![Page { path, text }];
    pages.extend(pages_in("docs")?);
    Ok(pages)
}

/// The one of this path.
fn page(path: &str) -> Result<Page> {
    let text = std::fs::read_to_string(root().join(path))?;
    let path = path.to_owned();
    Ok(Page { path, text })
}
