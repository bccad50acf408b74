//! The JSON Schemas, as anyone else would use them.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail};
use jsonschema::Validator;
use serde_json::Value;

/// The folder `schemas/`.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../schemas")
}

/// A schema, compiled.
///
/// # Errors
/// It is no valid JSON Schema.
pub fn load(name: &str) -> Result<Validator> {
    let text = std::fs::read_to_string(folder().join(name))?;
    let schema: Value = serde_json::from_str(&text)?;
    jsonschema::draft202012::meta::validate(&schema).map_err(|e| anyhow!("{name}: {e}"))?;
    jsonschema::draft202012::new(&schema).map_err(|e| anyhow!("{name}: {e}"))
}

/// An example: JSON, or TOML as JSON.
///
/// # Errors
/// It is neither.
pub fn example(path: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(path)?;
    if path.extension().is_some_and(|e| e == "toml") {
        let table: toml::Table = toml::from_str(&text)?;
        return Ok(serde_json::to_value(table)?);
    }
    serde_json::from_str(&text).with_context(|| path.display().to_string())
}

/// The place and the keyword of each violation, as `/monitor/0/format enum`.
pub fn violations(schema: &Validator, value: &Value) -> Vec<String> {
    schema
        .iter_errors(value)
        .map(|e| {
            let path = e.schema_path().to_string();
            format!(
                "{} {}",
                e.instance_path(),
                path.rsplit('/').next().unwrap_or("")
            )
        })
        .collect()
}

/// Checks a published message.
///
/// # Errors
/// What the schema has against it.
pub fn check_message(schema: &Validator, payload: &[u8]) -> Result<()> {
    let value: Value = serde_json::from_slice(payload)?;
    let violations: Vec<String> = schema.iter_errors(&value).map(|e| e.to_string()).collect();
    if violations.is_empty() {
        return Ok(());
    }
    bail!(
        "{}\n{}",
        violations.join("\n"),
        String::from_utf8_lossy(payload)
    )
}
