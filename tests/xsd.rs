//! The XML spellings' schema, xmllint, our own reader and the examples agree: what is valid is valid to
//! both, what is invalid is invalid to both and for the stated reason, and `refused` holds what only our
//! reader can see.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::Value;
use vmkpi::descriptor::{Descriptor, Spelling};
use vmkpi_tests::schema::{example, folder};
use vmkpi_tests::scratch::Scratch;

/// What the schema has against a document; nothing, if it is valid.
fn violations(file: &Path) -> Result<Option<String>> {
    let schema = match Spelling::of_path(file) {
        Spelling::Ovf => "ovf-monitoring.xsd",
        _ => "monitoring.xsd",
    };
    let output = Command::new("xmllint")
        .args(["--noout", "--nonet", "--schema"])
        .arg(folder().join(schema))
        .arg(file)
        .output()
        .context("xmllint is not installed (tools/setup.sh test)")?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Ok((!output.status.success()).then_some(said))
}

fn read(text: &str, spelling: Spelling) -> Result<Descriptor, String> {
    let no_file = |_: &Path| Err(std::io::Error::other("XML names no file"));
    Descriptor::parse(text, spelling, &no_file).map_err(|errors| {
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        errors.join("\n")
    })
}

fn reader(file: &Path) -> Result<Option<String>> {
    let text = std::fs::read_to_string(file)?;
    Ok(read(&text, Spelling::of_path(file)).err())
}

/// The examples of a group with the reasons that are stated for them.
fn examples(group: &str) -> Result<Vec<(PathBuf, Value)>> {
    let folder = folder().join("examples/xml").join(group);
    let reasons = match group {
        "valid" => Value::Null,
        _ => example(&folder.join("reasons.json"))?,
    };
    let mut examples = Vec::new();
    for entry in std::fs::read_dir(&folder)? {
        let file = entry?.path();
        let name = file.file_name().context("a name")?.to_string_lossy();
        if name != "reasons.json" {
            let reason = reasons.get(&*name).cloned().unwrap_or_default();
            assert!(group == "valid" || reason.is_object(), "no reason: {name}");
            examples.push((file, reason));
        }
    }
    let stated = reasons
        .as_object()
        .map_or(examples.len(), serde_json::Map::len);
    assert_eq!(
        stated,
        examples.len(),
        "a reason without an example in {group}"
    );
    Ok(examples)
}

fn stated<'a>(reason: &'a Value, by: &str) -> &'a str {
    reason[by].as_str().unwrap_or("?")
}

#[test]
fn valid_examples_are_valid_to_schema_and_reader() -> Result<()> {
    for (file, _) in examples("valid")? {
        assert_eq!(violations(&file)?, None, "{}", file.display());
        assert_eq!(reader(&file)?, None, "{}", file.display());
    }
    Ok(())
}

#[test]
fn invalid_examples_fail_for_the_stated_reason() -> Result<()> {
    for (file, reason) in examples("invalid")? {
        let name = file.display();
        let by_schema = violations(&file)?.with_context(|| format!("{name} is valid"))?;
        assert!(by_schema.contains(stated(&reason, "schema")), "{by_schema}");
        let by_reader = reader(&file)?.with_context(|| format!("{name} is read"))?;
        assert!(
            by_reader.contains(stated(&reason, "validator")),
            "{name}: {by_reader}"
        );
    }
    Ok(())
}

#[test]
fn what_the_schema_cannot_see_the_reader_does() -> Result<()> {
    for (file, reason) in examples("refused")? {
        let name = file.display();
        assert_eq!(violations(&file)?, None, "{name}");
        let by_reader = reader(&file)?.with_context(|| format!("{name} is read"))?;
        assert!(
            by_reader.contains(stated(&reason, "validator")),
            "{name}: {by_reader}"
        );
    }
    Ok(())
}

/// Every valid example, of TOML and JSON too, as we write it ourselves.
#[test]
fn what_the_library_writes_is_valid() -> Result<()> {
    let scratch = Scratch::new()?;
    let mut written = 0;
    for kind in ["xml", "descriptor"] {
        for entry in std::fs::read_dir(folder().join("examples").join(kind).join("valid"))? {
            let file = entry?.path();
            let beside = file.parent().context("a folder")?.to_owned();
            let read_key = |key: &Path| std::fs::read_to_string(beside.join(key));
            let text = std::fs::read_to_string(&file)?;
            let descriptor = Descriptor::parse(&text, Spelling::of_path(&file), &read_key);
            let descriptor = descriptor.map_err(|e| anyhow::anyhow!("{e:?}"))?;
            for (ending, spelling) in [("xml", Spelling::Xml), ("ovf", Spelling::Ovf)] {
                let out = scratch.path().join(format!("written.{ending}"));
                let text = descriptor.write(spelling);
                std::fs::write(&out, &text)?;
                assert_eq!(violations(&out)?, None, "{}\n{text}", file.display());
                assert_eq!(read(&text, spelling).as_ref(), Ok(&descriptor));
                written += 1;
            }
        }
    }
    assert!(written >= 10, "{written} documents");
    Ok(())
}
