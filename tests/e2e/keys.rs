//! `vmkpi key`, `seal` and `open`, as an operator uses them, and as others misuse them.

use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use vmkpi_tests::process::{program, vmkpi};
use vmkpi_tests::scratch::Scratch;

fn done(arguments: &[&str]) -> Result<String> {
    let output = vmkpi(arguments)?;
    let said = String::from_utf8(output.stderr)?;
    ensure!(output.status.success(), "{arguments:?}: {said}");
    Ok(String::from_utf8(output.stdout)?)
}

/// What is said to what is refused.
fn refused(arguments: &[&str], code: i32) -> Result<String> {
    let output = vmkpi(arguments)?;
    let said = String::from_utf8(output.stderr)?;
    ensure!(output.status.code() == Some(code), "{arguments:?}: {said}");
    Ok(said)
}

fn fed(arguments: &[&str], input: &[u8]) -> Result<Output> {
    let mut process = Command::new(program("vmkpi")?)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut stdin = process.stdin.take().context("a pipe")?;
    match stdin.write_all(input) {
        // What is refused at once is not read.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
        written => written?,
    }
    drop(stdin);
    Ok(process.wait_with_output()?)
}

fn path(folder: &Path, name: &str) -> Result<String> {
    let path = folder.join(name);
    Ok(path.to_str().context("a path in UTF-8")?.to_owned())
}

fn files(folder: &Path) -> Result<Vec<(String, u32)>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        files.push((name, entry.metadata()?.mode() & 0o777));
    }
    files.sort();
    Ok(files)
}

#[test]
fn keys_are_made_with_safe_modes_and_over_nothing() -> Result<()> {
    let scratch = Scratch::new()?;
    let dir = path(scratch.path(), "keys")?;
    let said = done(&["key", "new", "seal", "sign", "--dir", &dir])?;
    let expected = [
        ("seal.key.pem", 0o600),
        ("seal.pub.pem", 0o644),
        ("sign.key.pem", 0o600),
        ("sign.pub.pem", 0o644),
    ];
    let made = files(Path::new(&dir))?;
    assert_eq!(made, expected.map(|(name, mode)| (name.to_owned(), mode)));
    assert!(
        expected.iter().all(|(name, _)| said.contains(name)),
        "{said}"
    );
    assert_eq!(std::fs::metadata(&dir)?.mode() & 0o777, 0o700);
    let read = |name: &str| std::fs::read(Path::new(&dir).join(name));
    let before = read("sign.key.pem")?;
    // One of two is there: none is written.
    std::fs::remove_file(Path::new(&dir).join("sign.pub.pem"))?;
    let said = refused(&["key", "new", "sign", "--dir", &dir], 2)?;
    assert!(
        said.contains("already there, and nothing was written"),
        "{said}"
    );
    assert_eq!(read("sign.key.pem")?, before);
    assert_eq!(files(Path::new(&dir))?.len(), 3);
    done(&["key", "new", "sign", "--dir", &dir, "--overwrite"])?;
    assert_ne!(read("sign.key.pem")?, before);
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o770))?;
    let said = refused(&["key", "new", "sign", "--dir", &dir, "--overwrite"], 1)?;
    assert!(said.contains("others may write in it"), "{said}");
    let said = refused(
        &["key", "new", "seal", "--dir", &dir, "--rsa-bits", "2048"],
        2,
    )?;
    assert!(said.contains("3072"), "{said}");
    Ok(())
}

#[test]
fn what_is_shown_is_what_a_descriptor_takes() -> Result<()> {
    let scratch = Scratch::new()?;
    let dir = path(scratch.path(), "keys")?;
    done(&["key", "new", "seal", "sign", "--dir", &dir])?;
    let lines = done(&["key", "show", &dir, "--format=json"])?;
    let shown: Vec<Value> = lines
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    assert_eq!(shown.len(), 4);
    let of = |kind: &str, private: bool| {
        let found = shown
            .iter()
            .find(|s| s["kind"] == kind && s["private"] == private);
        found.context("shown")
    };
    let (seal, sign) = (of("rsa", false)?, of("ed25519", false)?);
    assert_eq!(
        seal["kid"],
        of("rsa", true)?["kid"],
        "both halves have one name"
    );
    assert_eq!(sign["kid"], of("ed25519", true)?["kid"]);
    assert_eq!(seal["bits"], 3072);
    let paste = |shown: &Value| shown["paste"].as_str().map(ToOwned::to_owned);
    let descriptor = format!(
        "vm = \"shop\"\nprimary_site = \"acme\"\n{}\n{}\n[[monitor]]\npoint = \"unencrypted/web\"\nseal = true\n",
        paste(seal).context("to paste")?,
        paste(sign).context("to paste")?
    );
    let file = path(scratch.path(), "shop.toml")?;
    std::fs::write(&file, descriptor)?;
    done(&["descriptor", "check", &file])?;
    for private in lines.lines().filter(|l| l.contains("\"private\":true")) {
        assert!(!private.contains("BEGIN"), "{private}");
    }
    let said = refused(&["key", "show", "/etc/passwd"], 2)?;
    assert!(said.contains("/etc/passwd"), "{said}");
    Ok(())
}

#[test]
fn certificates_are_of_one_ca_and_for_one_use_as_openssl_sees_it() -> Result<()> {
    let scratch = Scratch::new()?;
    let dir = path(scratch.path(), "tls")?;
    let base = ["key", "new", "tls", "--dir", &dir];
    let new =
        |further: &[&'static str]| -> Vec<&str> { base.iter().chain(further).copied().collect() };
    done(&new(&[
        "--site=acme",
        "--server=broker.acme.example",
        "--server=::1",
        "--client=hosts",
    ]))?;
    done(&new(&["--site=acme", "--client=collect"]))?;
    let ca = path(Path::new(&dir), "ca.cert.pem")?;
    let verify = |name: &str, purpose: &str| -> Result<bool> {
        let cert = path(Path::new(&dir), &format!("{name}.cert.pem"))?;
        let verified = Command::new("openssl")
            .args([
                "verify",
                "-x509_strict",
                "-CAfile",
                &ca,
                "-purpose",
                purpose,
                &cert,
            ])
            .output()?;
        Ok(verified.status.success())
    };
    for name in ["hosts", "collect"] {
        assert!(verify(name, "sslclient")?, "{name}");
        assert!(!verify(name, "sslserver")?, "{name}");
    }
    for name in ["broker.acme.example", "--1"] {
        assert!(verify(name, "sslserver")?, "{name}");
        assert!(!verify(name, "sslclient")?, "{name}");
    }
    let secrets = files(Path::new(&dir))?;
    let secrets: Vec<_> = secrets
        .iter()
        .filter(|(name, _)| name.ends_with(".key.pem"))
        .collect();
    assert_eq!(secrets.len(), 5);
    assert!(
        secrets.iter().all(|(_, mode)| *mode == 0o600),
        "{secrets:?}"
    );
    for (further, code, words) in [
        (&["--site=other", "--client=x"][..], 1, "another site"),
        (&["--site=acme"], 2, "the CA is there"),
        (&["--client=x"], 2, "--site"),
        (&["--site=acme", "--client=../x"], 2, "A-Z"),
        (&["--site=acme", "--client=ca"], 2, "none of"),
        (&["--site=acme", "--client=hosts"], 2, "already there"),
    ] {
        let said = refused(&new(further), code)?;
        assert!(said.contains(words), "{words}: {said}");
    }
    std::fs::remove_file(Path::new(&dir).join("ca.key.pem"))?;
    let said = refused(&new(&["--site=acme", "--client=x"]), 1)?;
    assert!(said.contains("belong together"), "{said}");
    Ok(())
}

#[test]
fn what_is_sealed_by_hand_is_opened_by_hand_and_by_no_other_key_or_place() -> Result<()> {
    let scratch = Scratch::new()?;
    let (mine, theirs) = (
        path(scratch.path(), "mine")?,
        path(scratch.path(), "theirs")?,
    );
    for dir in [&mine, &theirs] {
        done(&["key", "new", "seal", "--dir", dir])?;
    }
    let (public, private) = (
        format!("{mine}/seal.pub.pem"),
        format!("{mine}/seal.key.pem"),
    );
    let place = ["--vm", "shop", "--point", "encrypted/orders"];
    let content: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    let sealed = fed(
        &[&["seal", "--key", &public][..], &place].concat(),
        &content,
    )?;
    ensure!(
        sealed.status.success(),
        "{}",
        String::from_utf8_lossy(&sealed.stderr)
    );
    let open = |keys: &[&str], place: &[&str]| {
        let keys = keys.iter().flat_map(|key| ["--key", key]);
        let arguments: Vec<&str> = ["open"]
            .into_iter()
            .chain(keys)
            .chain(place.iter().copied())
            .collect();
        fed(&arguments, &sealed.stdout)
    };
    for keys in [&[private.as_str()][..], &[&mine], &[&theirs, &mine]] {
        let opened = open(keys, &place)?;
        assert!(
            opened.status.success() && opened.stdout == content,
            "{keys:?}"
        );
    }
    let elsewhere = ["--vm", "shop", "--point", "encrypted/other"];
    let other = ["--vm", "other", "--point", "encrypted/orders"];
    let mut words = Vec::new();
    for (key, place) in [(&theirs, place), (&mine, elsewhere), (&mine, other)] {
        let opened = open(&[key], &place)?;
        assert_eq!(opened.status.code(), Some(1));
        assert!(opened.stdout.is_empty());
        words.push(opened.stderr);
    }
    assert!(
        words.iter().all(|said| *said == words[0]),
        "one error for all"
    );
    assert_eq!(open(&[&mine], &[])?.status.code(), Some(2));
    std::fs::set_permissions(&private, std::fs::Permissions::from_mode(0o644))?;
    let exposed = open(&[&private], &place)?;
    assert_eq!(exposed.status.code(), Some(2));
    let said = String::from_utf8(exposed.stderr)?;
    assert!(said.contains("chmod o="), "{said}");
    let in_folder = open(&[&mine, &theirs], &place)?;
    assert_eq!(in_folder.status.code(), Some(2), "not passed over");
    let garbage = fed(&["open", "--key", &theirs], b"{\"specversion\":\n{}\n")?;
    assert_eq!(garbage.status.code(), Some(1));
    let said = String::from_utf8(garbage.stderr)?;
    assert!(
        said.contains("line 1:") && said.contains("line 2:"),
        "{said}"
    );
    Ok(())
}
