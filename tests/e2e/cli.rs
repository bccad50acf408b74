//! The command line: exit status, and errors that say where and why.

use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::Value;
use vmkpi_tests::process::vmkpi;
use vmkpi_tests::scratch::Scratch;

const GOOD: &str = "vm = \"a\"\nprimary_site = \"b\"\n[[monitor]]\npoint = \"unencrypted/web\"\n";

/// What is checked, the line and key of its error, and a word of the reason.
const BAD: [(&str, Option<u64>, &str, &str); 12] = [
    ("primary_site = \"b\"\n", None, "vm", "missing"),
    (
        "vm = \"../a\"\nprimary_site = \"b\"\n",
        Some(1),
        "vm",
        "slash",
    ),
    (
        "vm = 7\nprimary_site = \"b\"\n",
        Some(1),
        "vm",
        "text is expected",
    ),
    (
        "vm = \"a\"\nprimary_site = \"b\"\nversion = 2\n",
        Some(3),
        "version",
        "unknown key",
    ),
    (
        "GOODfunction = \"avg\"\ndelivery_ms = 1000\n",
        Some(5),
        "monitor[1].function",
        "there are min",
    ),
    (
        "GOODfunction = \"mean\"\n",
        None,
        "monitor[1].delivery_ms",
        "above 0",
    ),
    (
        "GOODinterval_ms = 300\ndelivery_ms = 1000\n",
        Some(6),
        "monitor[1].delivery_ms",
        "multiple",
    ),
    (
        "GOODinterval = \"soon\"\n",
        Some(5),
        "monitor[1].interval",
        "no duration",
    ),
    (
        "GOODinterval_ms = 99999999\n",
        Some(5),
        "monitor[1].interval_ms",
        "more than a day",
    ),
    (
        "GOOD[[monitor]]\nid = \"monitor-1\"\npoint = \"infra/*\"\n",
        Some(6),
        "monitor[2].id",
        "earlier",
    ),
    (
        "GOODwhen = \"a >\"\n",
        Some(5),
        "monitor[1].when",
        "not CEL",
    ),
    (
        "vm = \"a\"\nprimary_site = \"b\"\nprimary_key_file = \"gone.pem\"\n",
        Some(3),
        "primary_key_file",
        "gone.pem",
    ),
];

fn check(file: &Path) -> Result<(Option<i32>, Value)> {
    let file = file.to_string_lossy();
    let output = vmkpi(&["descriptor", "check", "--format", "json", &file])?;
    let answer = serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    Ok((output.status.code(), answer))
}

#[test]
fn a_bad_descriptor_is_refused_with_line_key_and_reason() -> Result<()> {
    let scratch = Scratch::new()?;
    let file = scratch.path().join("descriptor.toml");
    for (text, line, key, word) in BAD {
        std::fs::write(&file, text.replace("GOOD", GOOD))?;
        let (status, answer) = check(&file)?;
        assert_eq!(
            (status, &answer["valid"]),
            (Some(1), &Value::Bool(false)),
            "{text}"
        );
        let error = &answer["errors"][0];
        assert_eq!(error["key"], key, "{text}: {answer}");
        if line.is_some() {
            assert_eq!(error["line"].as_u64(), line, "{text}: {answer}");
        }
        let message = error["message"].as_str().unwrap_or_default();
        assert!(message.contains(word), "{text}: {message}");
    }
    Ok(())
}

#[test]
fn a_good_descriptor_has_the_same_revision_in_every_spelling() -> Result<()> {
    let scratch = Scratch::new()?;
    let (toml, json) = (scratch.path().join("a.toml"), scratch.path().join("a.json"));
    std::fs::write(&toml, GOOD)?;
    let text = r#"{"vm":"a","primary_site":"b","monitor":[{"point":"unencrypted/web"}]}"#;
    std::fs::write(&json, text)?;
    let ((status, first), (_, second)) = (check(&toml)?, check(&json)?);
    assert_eq!(status, Some(0));
    assert_eq!(first, second);
    assert_eq!(first["revision"].as_str().map(str::len), Some(16));
    let output = vmkpi(&["descriptor", "check", &toml.to_string_lossy()])?;
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("valid, revision "));
    Ok(())
}

#[test]
fn a_descriptor_is_converted_from_each_spelling_to_each() -> Result<()> {
    let scratch = Scratch::new()?;
    let first = scratch.path().join("first.toml");
    std::fs::write(&first, format!("{GOOD}when = \"a > 1 && b != '<'\"\n"))?;
    let (_, valid) = check(&first)?;
    let mut from = first.to_string_lossy().into_owned();
    for to in [
        "xml", "ovf", "json", "toml", "ovf", "toml", "json", "xml", "toml",
    ] {
        let output = vmkpi(&["descriptor", "convert", &from, "--to", to])?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "{from} to {to}: {said}");
        let next = scratch.path().join(format!("next.{to}"));
        std::fs::write(&next, &output.stdout)?;
        assert_eq!(check(&next)?, (Some(0), valid.clone()), "{from} to {to}");
        from = next.to_string_lossy().into_owned();
    }
    std::fs::write(&first, "vm = 1\n[[monitor]]\npoint = \"x\"\n")?;
    let output = vmkpi(&[
        "descriptor",
        "convert",
        &first.to_string_lossy(),
        "--to",
        "json",
    ])?;
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    for line in [
        "primary_site: missing",
        "line 1: vm",
        "line 3: monitor[1].point",
    ] {
        assert!(said.contains(line), "{said}");
    }
    Ok(())
}

#[test]
fn what_is_asked_wrongly_is_a_usage_error() -> Result<()> {
    for (arguments, word) in [
        (&["descriptor", "check", "/nonexistent"][..], "No such file"),
        (&["descriptor", "check", "/proc/self/exe"], "UTF-8"),
        (&["broker", "--listen", "0.0.0.0:0"], "loopback"),
        (&["watch"], "--broker"),
        (
            &["watch", "--broker", "mqtt://user:secret@h"],
            "credentials",
        ),
        (&["watch", "--broker", "nowhere"], "mqtt://HOST"),
        (
            &["watch", "--broker", "mqtt://h", "--seconds", "0"],
            "seconds",
        ),
        (&["watch", "--broker", "mqtt://h", "--vm", "a/b"], "slash"),
        (
            &["watch", "--broker", "mqtt://h", "--count", "0"],
            "--count",
        ),
    ] {
        let output = vmkpi(arguments)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.contains(word), "{arguments:?}: {said}");
    }
    Ok(())
}

#[test]
fn a_password_in_a_url_is_refused_and_not_repeated() -> Result<()> {
    let url = "mqtt://u:hunter2@localhost";
    for arguments in [
        &["watch", "--broker", url][..],
        &["relay", "--site", "a", "--state", "s", "--from", url],
    ] {
        let output = vmkpi(arguments)?;
        assert_eq!(output.status.code(), Some(2));
        let said = String::from_utf8(output.stderr)?;
        assert!(
            said.contains("no login") && !said.contains("hunter2"),
            "{said}"
        );
    }
    Ok(())
}

#[test]
fn a_broker_that_is_never_there_is_a_failure_and_said_once() -> Result<()> {
    let address = vmkpi_tests::scratch::free_address()?;
    let output = vmkpi(&[
        "watch",
        "--broker",
        &format!("mqtt://{address}"),
        "--seconds",
        "1",
    ])?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(said.matches("trying again").count(), 1, "{said}");
    Ok(())
}
