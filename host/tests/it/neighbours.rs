//! What the neighbouring exporters show has a counterpart here. Their series are in `tests/neighbours`, from
//! their own pages and documents; which of ours stands for each is in `docs/METRICS.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use vmkpi_host::metrics::ALL;

/// A page with every metric.
const PAGE: &str = include_str!("../golden/metrics.prom");
const DOCS: &str = include_str!("../../../docs/METRICS.md");

/// The series of every neighbour, by file.
fn neighbours() -> BTreeMap<String, BTreeSet<String>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/neighbours");
    let files = std::fs::read_dir(folder).unwrap().map(|file| {
        let file = file.unwrap();
        let text = std::fs::read_to_string(file.path()).unwrap();
        let names = text
            .lines()
            .filter(|l| !l.starts_with('#') && !l.is_empty());
        let name = file.file_name().into_string().unwrap();
        (name, names.map(str::to_owned).collect())
    });
    files.collect()
}

/// What is between backticks.
fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// The table: a neighbour's series, and what stands for it.
fn table() -> BTreeMap<String, String> {
    let (_, section) = DOCS.split_once("| neighbour series | ours |").unwrap();
    let (section, _) = section.split_once("\n\n").unwrap();
    let rows = section.lines().skip(2).map(|row| {
        let mut cells = row.trim_matches('|').split(" | ").map(str::trim);
        (cells.next().unwrap(), cells.next().unwrap().to_owned())
    });
    rows.flat_map(|(theirs, ours)| {
        let theirs = quoted(theirs).into_iter();
        theirs.map(move |name| (name.to_owned(), ours.clone()))
    })
    .collect()
}

fn is_ours(name: &str) -> bool {
    ALL.iter().any(|metric| metric.about().name == name)
}

#[test]
fn every_series_of_the_neighbours_has_a_counterpart_or_a_reason() {
    let (neighbours, table) = (neighbours(), table());
    assert_eq!(neighbours.len(), 4, "{:?}", neighbours.keys());
    for (file, names) in &neighbours {
        assert!(names.len() > 5, "{file}");
        for name in names {
            let Some(ours) = table.get(name) else {
                assert!(
                    is_ours(name),
                    "{file}: {name} is neither ours nor in the table"
                );
                continue;
            };
            assert!(
                !is_ours(name),
                "{name} has the same name here: no row is needed"
            );
            let counterparts = quoted(ours);
            let metrics = counterparts.iter().filter(|text| text.contains('_'));
            assert!(
                metrics.clone().count() > 0 || ours.starts_with("none: "),
                "{file}: {name} has neither a counterpart nor a reason: {ours}"
            );
            for metric in metrics.filter(|_| !ours.starts_with("none: ")) {
                let on_page = PAGE.lines().any(|l| {
                    l.starts_with(&format!("{metric}{{")) || l.starts_with(&format!("{metric} "))
                });
                assert!(on_page, "{name}: {metric} is on no page");
            }
        }
    }
}

#[test]
fn the_table_has_no_row_of_nobody() {
    let known: BTreeSet<String> = neighbours().into_values().flatten().collect();
    for name in table().keys() {
        assert!(known.contains(name), "{name} is no neighbour's series");
    }
}
