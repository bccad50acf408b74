//! What each language sealed opens with the private key, and for its VM and point alone.

use anyhow::{Context as _, Result, ensure};
use vmkpi_tests::chain::{Chain, EVERY_ROW};
use vmkpi_tests::collector::{Collector, Key};
use vmkpi_tests::process::vmkpi;
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
    let consumer = Key::make(keys.path(), "consumer")?;
    let opens = format!("--key={}", folder.join("seal.key.pem").display());
    let collect = Collector::start(
        keys.path(),
        &chain.broker,
        keys.path(),
        &consumer,
        &[&opens],
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

        // Who has the key keeps it in the clear.
        let sql = format!("SELECT CAST(data AS TEXT) FROM samples WHERE point = '{point}'");
        let kept = wait_for(30, &point, || collect.query(&sql).ok()?.pop());
        let kept = kept.with_context(|| collect.process.words())?;
        ensure!(kept[0] == ORDER, "{point}: {kept}");
    }
    Ok(())
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
