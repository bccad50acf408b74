//! What each language sealed opens with the private key, and for its VM and point alone.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use vmkpi_tests::chain::{Chain, EVERY_ROW};
use vmkpi_tests::collector::{Collector, Key};
use vmkpi_tests::scratch::Scratch;
use vmkpi_tests::{schema, wait_for};

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

/// A site's keys in `keys` of a folder, as `vmkpi key new seal` makes them, which would take seconds.
fn keys_in(folder: &Path) -> Result<PathBuf> {
    let keys = folder.join("keys");
    std::fs::create_dir(&keys)?;
    for (name, mode) in [("seal.key.pem", 0o600), ("seal.pub.pem", 0o644)] {
        std::fs::copy(schema::folder().join("vectors").join(name), keys.join(name))?;
        std::fs::set_permissions(keys.join(name), Permissions::from_mode(mode))?;
    }
    Ok(keys)
}

#[test]
fn what_each_language_seals_opens_with_the_private_key() -> Result<()> {
    let (sealing, opening) = examples()?;
    let keys = Scratch::new()?;
    let folder = keys_in(keys.path())?;
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
    // The README opens one of them; the others likewise.
    let opening_of = |example: &Example| -> Result<Example> {
        let command = opening
            .command
            .replace("encrypted/python", &point(example)?);
        Ok(opening.with(command))
    };
    let all: Vec<_> = sealing.iter().map(opening_of).collect::<Result<_>>()?;
    for (example, opened) in desk.succeed(&all)? {
        ensure!(opened == ORDER, "{}: {opened:?}", example.command);
    }
    // Moved to another point it is another's.
    let moved = |e: &Example| {
        e.with(
            e.command
                .replace("--point encrypted/", "--point encrypted/an"),
        )
    };
    for (example, output) in desk.run_all(&all.iter().map(moved).collect::<Vec<_>>())? {
        let refused = !output.status.success() && output.stdout.is_empty();
        ensure!(refused, "{} opens elsewhere", example.command);
    }
    for example in &sealing {
        let point = point(example)?;
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
