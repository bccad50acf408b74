//! Envelopes and signatures, made and opened both ways by libraries that are not ours: Python's jwcrypto, Node's
//! WebCrypto and Java's standard library. `schemas/vectors/` keeps what each of them made, for others to try; the test
//! with `UPDATE_VECTORS=1` writes it anew.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use vmkpi::clock::Timestamp;
use vmkpi::message::{Body, Event, Received};
use vmkpi::name::{DataPoint, Label};
use vmkpi::open::{OpeningKey, OpeningKeys};
use vmkpi::position::{Position, RowKey, StreamId};
use vmkpi::seal::{Bound, SealingKey};
use vmkpi::sign::{Keyring, Purpose, SigningKey, VerifyingKey};
use vmkpi::value::Base64Bytes;
use vmkpi_tests::schema;

/// Another library, as a program that answers questions.
struct Library {
    name: &'static str,
    process: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Library {
    fn start(name: &'static str, program: &str, script: &str) -> Result<Option<Self>> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("vectors")
            .join(script);
        let started = Command::new(program)
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let mut process = match started {
            Ok(process) => process,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                eprintln!(
                    "SKIPPED: {name}: there is no {program}; tools/setup.sh test installs it"
                );
                return Ok(None);
            }
            Err(error) => return Err(error).context(program.to_owned()),
        };
        let questions = process.stdin.take().context("a pipe")?;
        let answers = BufReader::new(process.stdout.take().context("a pipe")?);
        Ok(Some(Self {
            name,
            process,
            questions,
            answers,
        }))
    }

    /// Those that are there. Python's has to be: it is one Debian package.
    fn all() -> Result<Vec<Self>> {
        let all = [
            // The interpreter that has Debian's python3-jwcrypto.
            Self::start("jwcrypto", "/usr/bin/python3", "jose.py")?,
            Self::start("webcrypto", "node", "jose.mjs")?,
            Self::start("java", "java", "Jose.java")?,
        ];
        let there: Vec<Self> = all.into_iter().flatten().collect();
        ensure!(there.iter().any(|l| l.name == "jwcrypto"), "no Python");
        Ok(there)
    }

    fn ask(&mut self, question: &[&str]) -> Result<String> {
        writeln!(self.questions, "{}", question.join(" "))?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        if answer.is_empty() {
            bail!("{} ended at {}", self.name, question[0]);
        }
        Ok(answer.trim_end().to_owned())
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn folder() -> PathBuf {
    schema::folder().join("vectors")
}

fn text(name: &str) -> Result<String> {
    std::fs::read_to_string(folder().join(name)).with_context(|| name.to_owned())
}

/// A key's DER in base64.
fn der(name: &str) -> Result<String> {
    Ok(text(name)?
        .lines()
        .filter(|l| !l.starts_with('-'))
        .collect())
}

fn base64(bytes: &[u8]) -> Result<String> {
    let value = serde_json::to_value(Base64Bytes(bytes.to_vec()))?;
    Ok(value.as_str().context("text")?.to_owned())
}

fn from_base64(text: &str) -> Result<Vec<u8>> {
    Ok(serde_json::from_value::<Base64Bytes>(text.into())?.0)
}

/// As JOSE has it.
fn base64url(bytes: &[u8]) -> Result<String> {
    let plain = base64(bytes)?;
    Ok(plain
        .trim_end_matches('=')
        .replace('+', "-")
        .replace('/', "_"))
}

fn keys() -> Result<OpeningKeys> {
    Ok([OpeningKey::from_pem(&text("seal.key.pem")?)?]
        .into_iter()
        .collect())
}

fn place() -> Result<(Label, DataPoint)> {
    Ok(("shop-frontend-1".parse()?, "encrypted/orders".parse()?))
}

fn bound(place: &(Label, DataPoint)) -> Bound<'_> {
    Bound {
        vm: &place.0,
        point: &place.1,
        message: None,
    }
}

const CONTENT: &[u8] = "id,amount\n17,4.20\u{e4}\n".as_bytes();

/// What is asked of every envelope of the vectors.
fn opens_everywhere(libraries: &mut [Library], envelope: &str) -> Result<()> {
    let place = place()?;
    ensure!(keys()?.open(&bound(&place), envelope)? == CONTENT, "ours");
    let private = der("seal.key.pem")?;
    for library in libraries {
        let answer = library.ask(&["open", &private, envelope])?;
        ensure!(
            answer != "refused",
            "{} does not open {envelope}",
            library.name
        );
        ensure!(
            from_base64(&answer)? == CONTENT,
            "{}: {answer}",
            library.name
        );
    }
    Ok(())
}

/// An envelope by us and by each library, made now.
fn made(libraries: &mut [Library]) -> Result<Vec<(&'static str, String)>> {
    let (place, key) = (place()?, SealingKey::from_pem(&text("seal.pub.pem")?)?);
    let header = json!({"alg": "RSA-OAEP-256", "enc": "A256GCM", "kid": key.kid(),
        "vm": place.0, "point": place.1});
    let header = base64url(&serde_json::to_vec(&header)?)?;
    let (public, content) = (der("seal.pub.pem")?, base64(CONTENT)?);
    let mut made = vec![("vmkpi", key.seal(&bound(&place), CONTENT.to_vec())?)];
    for library in libraries {
        let envelope = library.ask(&["seal", &public, &header, &content])?;
        made.push((library.name, envelope));
    }
    Ok(made)
}

fn stored(name: &str) -> Result<Value> {
    Ok(serde_json::from_str(&text(name)?)?)
}

fn update(name: &str, value: &Value) -> Result<()> {
    if std::env::var_os("UPDATE_VECTORS").is_some() {
        std::fs::write(folder().join(name), format!("{value:#}\n"))?;
    }
    Ok(())
}

#[test]
fn envelopes_open_whoever_made_them_and_whoever_opens_them() -> Result<()> {
    let mut libraries = Library::all()?;
    let made = made(&mut libraries)?;
    for (by, envelope) in &made {
        opens_everywhere(&mut libraries, envelope).with_context(|| format!("made by {by}"))?;
    }
    let (place, kid) = (place()?, SealingKey::from_pem(&text("seal.pub.pem")?)?);
    let list: Vec<Value> = made
        .iter()
        .map(|(by, e)| json!({"by": by, "envelope": e}))
        .collect();
    update(
        "envelopes.json",
        &json!({"kid": kid.kid(), "vm": place.0, "point": place.1,
        "content": std::str::from_utf8(CONTENT)?, "valid": list, "refused": refused(&made[0].1)?}),
    )?;
    let vectors = stored("envelopes.json")?;
    let valid = vectors["valid"].as_array().context("a list")?;
    assert_eq!(valid.len(), 4, "of us and three libraries");
    for vector in valid {
        let envelope = vector["envelope"].as_str().context("text")?;
        opens_everywhere(&mut libraries, envelope).with_context(|| vector["by"].to_string())?;
    }
    for vector in vectors["refused"].as_array().context("a list")? {
        let envelope = vector["envelope"].as_str().context("text")?;
        let opened = keys()?.open(&bound(&place), envelope);
        assert!(opened.is_err(), "{}", vector["why"]);
    }
    Ok(())
}

/// What nobody may open, from an envelope that everybody opens.
fn refused(good: &str) -> Result<Vec<Value>> {
    let (head, rest) = good.split_once('.').context("parts")?;
    let decoded = from_base64(&pad(&head.replace('-', "+").replace('_', "/")))?;
    let header: Value = serde_json::from_slice(&decoded)?;
    let with = |key: &str, value: Value| -> Result<String> {
        let mut header = header.clone();
        header[key] = value;
        Ok(format!(
            "{}.{rest}",
            base64url(&serde_json::to_vec(&header)?)?
        ))
    };
    let altered = |at: usize| -> Result<String> {
        let mut parts: Vec<String> = good.split('.').map(ToOwned::to_owned).collect();
        let part = parts.get_mut(at).context("a part")?;
        let first = if part.starts_with('A') { "B" } else { "A" };
        part.replace_range(..1, first);
        Ok(parts.join("."))
    };
    let all = [
        ("alg RSA1_5", with("alg", "RSA1_5".into())?),
        ("alg dir", with("alg", "dir".into())?),
        ("alg RSA-OAEP (SHA-1)", with("alg", "RSA-OAEP".into())?),
        ("enc A128GCM", with("enc", "A128GCM".into())?),
        ("zip", with("zip", "DEF".into())?),
        ("unknown crit", with("crit", json!(["exp"]))?),
        ("unknown kid", with("kid", "nobody".into())?),
        ("another VM", with("vm", "shop-frontend-2".into())?),
        ("another point", with("point", "encrypted/other".into())?),
        (
            "a message's binding",
            with("stream", "0".repeat(32).into())?,
        ),
        ("wrapped key altered", altered(1)?),
        ("initialization vector altered", altered(2)?),
        ("ciphertext altered", altered(3)?),
        ("tag altered", altered(4)?),
        (
            "four parts",
            good.rsplit_once('.').context("parts")?.0.to_owned(),
        ),
    ];
    let vector = |(why, envelope): &(&str, String)| json!({"why": why, "envelope": envelope});
    Ok(all.iter().map(vector).collect())
}

fn pad(text: &str) -> String {
    format!("{text}{}", "=".repeat((4 - text.len() % 4) % 4))
}

fn event() -> Result<Event> {
    Ok(Event {
        site: "acme".parse()?,
        vm: "shop-frontend-1".parse()?,
        point: "unencrypted/w\u{e4}b".parse()?,
        specifier: "web-load".parse()?,
        revision: "a1b2c3d4e5f60718".into(),
        stream: StreamId(0x0f3c),
        after: Position::new(16, RowKey(0x77aa)),
        through: Position::new((1 << 31) + 5, RowKey(0x9f3c)),
        base: Position::START,
        time: Timestamp::from_micros(1_795_194_000_000_001),
        clock_skew_ms: Some(-12),
        body: Body::Gap("retention_age".into()),
    })
}

/// What is signed of a message, as docs/MESSAGES.md says it, by nothing of ours.
fn payload(message: &str) -> Result<Vec<u8>> {
    let value: Value = serde_json::from_str(message)?;
    let names = "specversion id source subject time type datacontenttype stream specifier revision after afterkey \
                 through throughkey base basekey clockskewms";
    let mut payload = String::new();
    for name in names.split_whitespace() {
        let value = match &value[name] {
            Value::Null => continue,
            Value::String(text) => text.clone(),
            number => number.to_string(),
        };
        payload.push_str(&format!("{name} {} {value}\n", value.len()));
    }
    let (_, data) = message.split_once("\"data\":").context("data")?;
    let data = data.strip_suffix('}').context("the last member")?;
    Ok(format!("{payload}\n{data}").into_bytes())
}

fn with_signature(signature: &str) -> Result<String> {
    let message = String::from_utf8(event()?.encode())?;
    let signature = format!("\"signature\":\"{signature}\",\"data\":");
    Ok(message.replacen("\"data\":", &signature, 1))
}

fn verifies_everywhere(libraries: &mut [Library], message: &str) -> Result<()> {
    let ring = Keyring::from_iter([VerifyingKey::from_text(&text("sign.pub.pem")?)?]);
    let received = Received::decode(message.as_bytes())?;
    ensure!(received.verify(&ring).is_ok(), "ours");
    let (public, signed) = (der("sign.pub.pem")?, payload(message)?);
    let value: Value = serde_json::from_str(message)?;
    let jws = value["signature"].as_str().context("signed")?;
    for library in libraries {
        let mut ask = |payload: &[u8]| library.ask(&["verify", &public, jws, &base64(payload)?]);
        ensure!(ask(&signed)? == "ok", "not verified");
        let altered = [&signed[..], b" "].concat();
        ensure!(ask(&altered)? == "refused", "verified what was altered");
    }
    Ok(())
}

#[test]
fn signatures_verify_whoever_made_them_and_whoever_verifies_them() -> Result<()> {
    let mut libraries = Library::all()?;
    let key = SigningKey::from_pem(&text("sign.key.pem")?)?;
    let header = json!({"alg": "EdDSA", "kid": key.kid(), "typ": "vmkpi-message"});
    let header = base64url(&serde_json::to_vec(&header)?)?;
    let mut made = vec![("vmkpi", String::from_utf8(event()?.encode_signed(&key))?)];
    let plain = String::from_utf8(event()?.encode())?;
    let (private, signed) = (der("sign.key.pem")?, base64(&payload(&plain)?)?);
    for library in &mut libraries {
        let jws = library.ask(&["sign", &private, &header, &signed])?;
        made.push((library.name, with_signature(&jws)?));
    }
    for (by, message) in &made {
        verifies_everywhere(&mut libraries, message).with_context(|| format!("made by {by}"))?;
    }
    // Ed25519 is deterministic (RFC 8032, section 8.2): all of them say the same.
    assert!(made.iter().all(|(_, m)| *m == made[0].1), "{made:#?}");
    let signed = String::from_utf8(payload(&made[0].1)?)?;
    update(
        "signatures.json",
        &json!({"kid": key.kid(), "message": made[0].1, "payload": signed,
        "refused": forgeries(&made[0].1, &key)?}),
    )?;
    let vectors = stored("signatures.json")?;
    let message = vectors["message"].as_str().context("text")?;
    verifies_everywhere(&mut libraries, message)?;
    assert_eq!(vectors["payload"], String::from_utf8(payload(message)?)?);
    let ring = Keyring::from_iter([key.public().clone()]);
    for vector in vectors["refused"].as_array().context("a list")? {
        let message = vector["message"].as_str().context("text")?;
        let refusal = Received::decode(message.as_bytes())?.verify(&ring).err();
        let why = refusal.context("verified")?.as_str();
        assert_eq!(vector["why"], why, "{message}");
    }
    Ok(())
}

/// What nobody may believe.
fn forgeries(good: &str, key: &SigningKey) -> Result<Vec<Value>> {
    let header = |text: String| -> Result<String> {
        with_signature(&format!(
            "{}..{}",
            base64url(text.as_bytes())?,
            "A".repeat(86)
        ))
    };
    let kid = key.kid();
    let confirmation = key.sign(Purpose::Confirmation, &[], b"");
    let none = String::from_utf8(event()?.encode())?;
    let all = [
        ("unsigned", none),
        (
            "wrong_algorithm",
            header(format!(
                r#"{{"alg":"none","kid":"{kid}","typ":"vmkpi-message"}}"#
            ))?,
        ),
        (
            "wrong_algorithm",
            header(format!(
                r#"{{"alg":"HS256","kid":"{kid}","typ":"vmkpi-message"}}"#
            ))?,
        ),
        (
            "unknown_key",
            header(r#"{"alg":"EdDSA","kid":"nobody","typ":"vmkpi-message"}"#.into())?,
        ),
        (
            "malformed_signature",
            header(format!(
                r#"{{"alg":"EdDSA","kid":"{kid}","typ":"vmkpi-message","crit":[]}}"#
            ))?,
        ),
        (
            "bad_signature",
            header(format!(
                r#"{{"alg":"EdDSA","kid":"{kid}","typ":"vmkpi-message"}}"#
            ))?,
        ),
        ("bad_signature", with_signature(&confirmation)?),
        (
            "bad_signature",
            good.replacen("retention_age", "retention_row", 1),
        ),
        (
            "bad_signature",
            good.replacen("\"after\":16", "\"after\":15", 1),
        ),
        (
            "bad_signature",
            good.replacen("/vmkpi/acme/", "/vmkpi/evil/", 1),
        ),
    ];
    let vector = |(why, message): &(&str, String)| json!({"why": why, "message": message});
    Ok(all.iter().map(vector).collect())
}
