//! Schemas, validators and examples agree: what is valid is valid to both, what is invalid is
//! invalid to both and for the stated reason, and `refused` holds what only the validator can see.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::Value;
use vmkpi::clock::Timestamp;
use vmkpi::descriptor::{Descriptor, Spelling};
use vmkpi::message::{Body, Event, Processed, Sample, SampleBody, Values};
use vmkpi::position::{Position, RowKey, StreamId};
use vmkpi::query::{Question, Received, Subject};
use vmkpi::sign::{Keyring, Refusal, VerifyingKey};
use vmkpi::value::Base64Bytes;
use vmkpi_tests::schema::{check_message, example, folder, load, violations};

fn files(kind: &str, group: &str) -> Result<Vec<PathBuf>> {
    let folder = folder().join("examples").join(kind).join(group);
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)?
        .map(|e| Ok(e?.path()))
        .collect::<Result<_>>()?;
    files.retain(|f| f.file_name().is_some_and(|n| n != "reasons.json"));
    files.sort();
    assert!(!files.is_empty(), "{kind}/{group}");
    Ok(files)
}

/// The stated reason of each example of a group, and that none is stated in vain.
fn reasons(kind: &str, group: &str) -> Result<Vec<(PathBuf, Value)>> {
    let files = files(kind, group)?;
    let folder = folder().join("examples").join(kind).join(group);
    let reasons = example(&folder.join("reasons.json"))?;
    let reasons = reasons.as_object().context("reasons.json is an object")?;
    assert_eq!(reasons.len(), files.len(), "{kind}/{group}/reasons.json");
    files
        .into_iter()
        .map(|file| {
            let name = file
                .file_name()
                .context("a name")?
                .to_string_lossy()
                .into_owned();
            let reason = reasons.get(&name).with_context(|| name.clone())?.clone();
            Ok((file, reason))
        })
        .collect()
}

/// What our own reader has against an example of a kind.
type Reader = fn(&Path) -> Result<Option<String>>;

fn descriptor(path: &Path) -> Result<Option<String>> {
    let beside = path.parent().context("a folder")?.to_owned();
    let read_key = |key: &Path| std::fs::read_to_string(beside.join(key));
    let text = std::fs::read_to_string(path)?;
    let result = Descriptor::parse(&text, Spelling::of_path(path), &read_key);
    Ok(result.err().map(|errors| {
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        errors.join("\n")
    }))
}

fn message(path: &Path) -> Result<Option<String>> {
    let bytes = serde_json::to_vec(&example(path)?)?;
    Ok(Event::decode(&bytes).err().map(|e| e.to_string()))
}

fn lease(path: &Path) -> Result<Option<String>> {
    let bytes = serde_json::to_vec(&example(path)?)?;
    Ok(vmkpi::directory::check(&bytes).err())
}

/// Who asks whom in all examples.
fn subject() -> Result<Subject> {
    Ok(Subject {
        site: "acme".parse()?,
        consumer: "acme-collect".parse()?,
        vm: "shop-frontend-1".parse()?,
    })
}

/// Whose key the examples are signed with.
fn ring() -> Result<Keyring> {
    let key = std::fs::read_to_string(folder().join("vectors/sign.pub.pem"))?;
    Ok([VerifyingKey::from_text(&key)?].into_iter().collect())
}

fn question(path: &Path) -> Result<Option<String>> {
    let bytes = serde_json::to_vec(&example(path)?)?;
    let heard = Question::decode(&bytes, &subject()?, &ring()?);
    Ok(heard.err().map(|e| e.as_str().to_owned()))
}

fn answer(path: &Path) -> Result<Option<String>> {
    let bytes = serde_json::to_vec(&example(path)?)?;
    let subject = subject()?;
    let received = match Received::decode(&bytes, &subject) {
        Ok(received) => received,
        Err(error) => return Ok(Some(error.to_string())),
    };
    let verified = received.verify(&ring()?).map(drop);
    assert!(matches!(verified, Ok(()) | Err(Refusal::Unsigned)));
    Ok(None)
}

const KINDS: [(&str, &str, Reader); 5] = [
    ("descriptor", "descriptor.schema.json", descriptor),
    ("message", "message.schema.json", message),
    ("query", "query.schema.json", question),
    ("answer", "answer.schema.json", answer),
    ("lease", "lease.schema.json", lease),
];

#[test]
fn valid_examples_are_valid_to_schema_and_validator() -> Result<()> {
    for (kind, schema, reader) in KINDS {
        let schema = load(schema)?;
        for file in files(kind, "valid")? {
            let violations = violations(&schema, &example(&file)?);
            assert!(violations.is_empty(), "{}: {violations:?}", file.display());
            assert_eq!(reader(&file)?, None, "{}", file.display());
        }
    }
    Ok(())
}

#[test]
fn invalid_examples_fail_for_the_stated_reason() -> Result<()> {
    for (kind, schema, reader) in KINDS {
        let schema = load(schema)?;
        for (file, reason) in reasons(kind, "invalid")? {
            let text = |key: &str| reason[key].as_str().unwrap_or("?").to_owned();
            let stated = format!("{} {}", text("at"), text("keyword"));
            let violations = violations(&schema, &example(&file)?);
            assert!(
                violations.contains(&stated),
                "{}: {stated}: {violations:?}",
                file.display()
            );
            let refusal = reader(&file)?.with_context(|| format!("{} is read", file.display()))?;
            assert!(
                refusal.contains(&text("validator")),
                "{}: {refusal}",
                file.display()
            );
        }
    }
    Ok(())
}

#[test]
fn what_a_schema_cannot_see_the_validator_does() -> Result<()> {
    for (kind, schema, reader) in KINDS {
        let schema = load(schema)?;
        for (file, reason) in reasons(kind, "refused")? {
            let violations = violations(&schema, &example(&file)?);
            assert!(violations.is_empty(), "{}: {violations:?}", file.display());
            let refusal = reader(&file)?.with_context(|| format!("{} is read", file.display()))?;
            let stated = reason["validator"].as_str().unwrap_or("?");
            assert!(refusal.contains(stated), "{}: {refusal}", file.display());
        }
    }
    Ok(())
}

/// Every field of both schemas says what it is.
#[test]
fn every_property_is_described_or_refers_to_what_is() -> Result<()> {
    for (_, schema, _) in KINDS {
        let schema = example(&folder().join(schema))?;
        for (name, property) in schema["properties"].as_object().context("properties")? {
            let plain = ["type", "datacontenttype", "data"].contains(&name.as_str());
            assert!(plain || property.get("description").is_some(), "{name}");
        }
    }
    Ok(())
}

fn event(body: Body, seq: u64) -> Result<Event> {
    Ok(Event {
        site: "a cme%/ü".replace('/', "").parse()?,
        vm: "shop+#".parse()?,
        point: "infra/block/vda".parse()?,
        specifier: "x".parse()?,
        revision: "00".into(),
        stream: StreamId(u128::MAX),
        after: Position { seq: 0, key: None },
        through: Position::new(seq, RowKey(u64::MAX)),
        base: Position::START,
        time: Timestamp::from_micros(i64::MAX),
        clock_skew_ms: Some(i32::MIN),
        body,
    })
}

fn processed(partial: bool) -> Body {
    Body::Processed(Processed {
        function: "p99".into(),
        from: Timestamp::default(),
        to: Timestamp::from_micros(1),
        values: [("a".into(), f64::MIN_POSITIVE)].into(),
        count: [("a".into(), u64::from(u32::MAX))].into(),
        rows_after: 0,
        rows_after_key: partial.then_some(RowKey(1)),
        partial,
        forked: partial,
    })
}

#[test]
fn what_the_library_writes_is_valid() -> Result<()> {
    use vmkpi::value::Value as Kpi;
    let schema = load("message.schema.json")?;
    let row = vec![
        Kpi::Null,
        Kpi::Integer(i64::MIN),
        Kpi::Integer(1 << 53),
        Kpi::Real(-1e300),
        Kpi::Text("\u{0}\"".into()),
    ];
    let columns = ["a", "b", "c", "d", "e\n"].map(Box::from).into();
    let sample = |body| Sample {
        seq: 1 << 60,
        key: RowKey(0),
        time: Timestamp::default(),
        body,
    };
    for body in [
        Body::Raw(vec![]),
        Body::Raw(vec![sample(SampleBody::Values(Values { columns, row }))]),
        Body::Raw(vec![sample(SampleBody::Data(Base64Bytes(vec![
            1, 2, 3, 4,
        ])))]),
        processed(true),
        processed(false),
        Body::Gap("retention_rows".into()),
    ] {
        for seq in [0, 1 << 31, (1 << 63) - 1] {
            check_message(&schema, &event(body.clone(), seq)?.encode())?;
        }
    }
    Ok(())
}
