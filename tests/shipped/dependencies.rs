//! The rules of deny.toml for licences, bans and duplicates, where cargo-deny is not installed: each crate that is
//! built has a licence that is allowed, each that is there twice and each exception has its reason. Advisories take
//! cargo-deny, which the forge's audit runs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn rules() -> Result<toml::Table> {
    Ok(std::fs::read_to_string(root().join("deny.toml"))?.parse()?)
}

/// Crates that are built for one of the systems of deny.toml: name, version and licence.
fn crates(rules: &toml::Table) -> Result<BTreeSet<[String; 3]>> {
    let mut all = BTreeSet::new();
    for target in list(&rules["graph"]["targets"]) {
        let target = target.as_str().context("a target")?;
        let output = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()))
            .current_dir(root())
            .args(["tree", "--locked", "--workspace", "--all-features"])
            .args(["--prefix=none", "--format={p}\t{l}", "--target", target])
            .stdin(Stdio::null())
            .output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "cargo tree: {said}");
        let lines = String::from_utf8(output.stdout)?;
        let crates = lines.lines().filter(|line| !line.is_empty());
        for line in crates {
            all.insert(read(line).with_context(|| line.to_owned())?);
        }
    }
    Ok(all)
}

/// A line of `cargo tree`: `name vVERSION (where from)`, a tab, the licence, and whether it was there before.
fn read(line: &str) -> Option<[String; 3]> {
    let (package, licence) = line.split_once('\t')?;
    let mut words = package.split(' ');
    let (name, version) = (words.next()?, words.next()?.strip_prefix('v')?);
    let licence = licence.trim_end_matches("(*)").trim_end();
    Some([name, version, licence].map(str::to_owned))
}

fn list(value: &toml::Value) -> &[toml::Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn texts(value: &toml::Value) -> BTreeSet<&str> {
    list(value).iter().filter_map(toml::Value::as_str).collect()
}

/// Whether an expression of SPDX (AND binds closer than OR; a slash is an old OR) can be kept to.
fn is_allowed(expression: &str, allowed: &BTreeSet<&str>) -> bool {
    let spaced = expression.replace('/', " OR ");
    let spaced = spaced.replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut words = words.as_slice();
    either(&mut words, allowed) && words.is_empty()
}

fn either(words: &mut &[&str], allowed: &BTreeSet<&str>) -> bool {
    let mut is = both(words, allowed);
    while let ["OR", rest @ ..] = *words {
        *words = rest;
        is |= both(words, allowed);
    }
    is
}

fn both(words: &mut &[&str], allowed: &BTreeSet<&str>) -> bool {
    let mut is = one(words, allowed);
    while let ["AND", rest @ ..] = *words {
        *words = rest;
        is &= one(words, allowed);
    }
    is
}

fn one(words: &mut &[&str], allowed: &BTreeSet<&str>) -> bool {
    match *words {
        ["(", rest @ ..] => {
            *words = rest;
            let is = either(words, allowed);
            let ends = words.first() == Some(&")");
            *words = words.get(1..).unwrap_or_default();
            is && ends
        }
        [licence, "WITH", exception, rest @ ..] => {
            *words = rest;
            allowed.contains(format!("{licence} WITH {exception}").as_str())
        }
        [licence, rest @ ..] => {
            *words = rest;
            allowed.contains(licence)
        }
        [] => false,
    }
}

#[test]
fn an_expression_is_kept_to_as_a_whole() {
    let allowed = ["MIT", "ISC", "Apache-2.0 WITH LLVM-exception"].into();
    for (expression, expected) in [
        ("MIT", true),
        ("GPL-3.0 OR MIT", true),
        ("GPL-3.0/MIT", true),
        ("GPL-3.0 AND MIT", false),
        ("ISC AND (GPL-3.0 OR MIT)", true),
        ("ISC AND (GPL-3.0 OR MIT", false),
        ("Apache-2.0 WITH LLVM-exception", true),
        ("Apache-2.0", false),
        ("", false),
    ] {
        assert_eq!(is_allowed(expression, &allowed), expected, "{expression}");
    }
}

#[test]
fn each_crate_has_a_licence_that_is_allowed() -> Result<()> {
    let rules = rules()?;
    let licenses = &rules["licenses"];
    let allowed = texts(&licenses["allow"]);
    let exceptions: BTreeMap<_, _> = list(&licenses["exceptions"])
        .iter()
        .map(|e| (e["crate"].as_str().unwrap_or_default(), texts(&e["allow"])))
        .collect();
    let crates = crates(&rules)?;
    ensure!(crates.len() > 100, "{} crates", crates.len());
    for [name, version, licence] in &crates {
        let except = exceptions.get(name.as_str());
        let fits = is_allowed(licence, &allowed) || except.is_some_and(|e| is_allowed(licence, e));
        ensure!(fits, "{name} {version} is under {licence:?}: deny.toml");
    }
    for name in exceptions.keys() {
        let used = crates.iter().any(|[n, ..]| n == name);
        ensure!(
            used,
            "deny.toml excepts {name}, which is not there any more"
        );
    }
    Ok(())
}

#[test]
fn what_is_banned_is_not_there_and_what_is_there_twice_has_a_reason() -> Result<()> {
    let rules = rules()?;
    let bans = &rules["bans"];
    let crates = crates(&rules)?;
    for ban in list(&bans["deny"]) {
        let name = ban["crate"].as_str().context("crate")?;
        ensure!(!crates.iter().any(|[n, ..]| n == name), "{name} is banned");
    }
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for [name, version, _] in &crates {
        versions.entry(name).or_default().push(version);
    }
    for skip in list(&bans["skip"]) {
        let spec = skip["crate"].as_str().context("crate")?;
        ensure!(skip.get("reason").is_some(), "{spec} has no reason");
        let (name, old) = spec.split_once('@').context(spec.to_owned())?;
        let there = versions.get_mut(name).with_context(|| spec.to_owned())?;
        let before = there.len();
        there.retain(|v| *v != old && !v.starts_with(&format!("{old}.")));
        let gone = there.len() < before;
        ensure!(gone && !there.is_empty(), "deny.toml: {spec} is needless");
    }
    for (name, versions) in versions {
        let told =
            "bring them together, or say in deny.toml (bans.skip) who holds the older one back";
        ensure!(versions.len() == 1, "{name} {versions:?}: {told}");
    }
    Ok(())
}

#[test]
fn each_advisory_that_is_passed_over_has_a_reason_and_its_crate() -> Result<()> {
    for advisory in list(&rules()?["advisories"]["ignore"]) {
        let reason = advisory["reason"].as_str().unwrap_or_default();
        ensure!(!reason.is_empty(), "{advisory:?}");
    }
    Ok(())
}
