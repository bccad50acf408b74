//! What each language sealed opens with the private key, and for its VM and point alone.

use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use vmkpi_tests::chain::{Chain, EVERY_ROW};
use vmkpi_tests::mqtt::Subscriber;
use vmkpi_tests::process::{program, vmkpi};
use vmkpi_tests::scratch::Scratch;
use vmkpi_tests::wait_for;

use super::table::{Desk, Example, runnable};

const ORDER: &str = include_str!("../../../examples/order.csv");

/// Those that seal, and the one that opens.
fn examples() -> Result<(Vec<Example>, Example)> {
    let mut examples = runnable("Sealing for the VM's owner")?;
    let at = examples.iter().position(|e| e.language == "opening");
    let opening = examples.remove(at.context("nothing opens")?);
    Ok((examples, opening))
}

/// `encrypted/NAME` of a command.
fn point(example: &Example) -> Result<String> {
    let mut words = example.command.split(' ');
    let point = words.find(|word| word.starts_with("encrypted/"));
    Ok(point.context("no point")?.to_owned())
}

#[test]
fn what_each_language_seals_opens_with_the_private_key() -> Result<()> {
    let (sealing, opening) = examples()?;
    let keys = Scratch::new()?;
    let folder = keys.path().join("keys");
    let made = vmkpi(&["key", "new", "seal", "--dir", &folder.display().to_string()])?;
    ensure!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    let key = format!(
        "--primary-key-file={}",
        folder.join("seal.pub.pem").display()
    );
    let chain = Chain::start_with(EVERY_ROW, &[&key], &[])?;
    let published = Subscriber::start(
        chain.broker.address(),
        "vmkpi/v1/acme/data/shop/+/encrypted/#",
    )?;
    let desk = Desk::new(keys.path(), &chain.mount());

    desk.succeed(&sealing)?;
    for example in &sealing {
        let point = point(example)?;
        // The README opens one of them; the others likewise.
        let of = |point: &str| opening.with(opening.command.replace("encrypted/python", point));
        let opened = desk.succeed(&[of(&point)])?;
        ensure!(opened[0].1 == ORDER, "{point}: {:?}", opened[0].1);
        // Moved to another point it is another's.
        let moved = of(&point)
            .command
            .replace(&format!("--point {point}"), "--point encrypted/other");
        let moved = desk.run_all(&[opening.with(moved)])?;
        ensure!(!moved[0].1.status.success(), "{point} opens elsewhere");
        ensure!(moved[0].1.stdout.is_empty(), "{point} opens elsewhere");

        let message = wait_for(30, &point, || {
            let messages = published.messages(0);
            messages.into_iter().find(|m| m.topic.ends_with(&point))
        })?;
        let shown = open_message(
            &folder.join("seal.key.pem").display().to_string(),
            &message.payload,
        )?;
        ensure!(
            String::from_utf8_lossy(&shown.stderr).is_empty(),
            "{shown:?}"
        );
        let event: Value = serde_json::from_slice(&shown.stdout)?;
        let content = &event["data"]["samples"][0]["data_base64"];
        ensure!(content == "aWQsYW1vdW50CjE3LDQuMjAK", "{point}: {event}");
    }
    Ok(())
}

/// `vmkpi open` of a published message.
fn open_message(key: &str, payload: &[u8]) -> Result<Output> {
    let mut child = Command::new(program("vmkpi")?)
        .args(["open", "--key", key])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    std::io::Write::write_all(&mut child.stdin.take().context("a pipe")?, payload)?;
    Ok(child.wait_with_output()?)
}

#[test]
fn nothing_to_seal_and_no_partition_are_told() -> Result<()> {
    let (sealing, _) = examples()?;
    let scratch = Scratch::new()?;
    let desk = Desk::new(scratch.path(), &scratch.path().join("kpi"));
    let empty = |e: &Example| e.with(e.command.replace("examples/order.csv", "/dev/null"));
    let nothing: Vec<_> = sealing.iter().map(empty).collect();
    for (examples, words) in [
        (&nothing, "nothing on standard input"),
        (&sealing, "no such file"),
    ] {
        for (example, output) in desk.run_all(examples)? {
            let said = String::from_utf8_lossy(&output.stderr).to_lowercase();
            ensure!(!output.status.success(), "{}", example.command);
            let java = words.starts_with("no such") && said.contains("nosuchfile");
            ensure!(said.contains(words) || java, "{}: {said}", example.command);
            ensure!(!said.contains("traceback"), "{}: {said}", example.command);
        }
    }
    Ok(())
}
