//! Who may not ask gets no answer, and is counted by kind.

use anyhow::{Result, ensure};
use vmkpi_tests::asking::{POINT, Site, now_us, question, topic};
use vmkpi_tests::collector::{Collector, Key};
use vmkpi_tests::mqtt::Subscriber;
use vmkpi_tests::process::Process;
use vmkpi_tests::wait_for;

use super::numbers;

const MINUTE_US: u64 = 60_000_000;

#[test]
fn strangers_forgeries_replays_and_what_is_not_of_now_get_nothing_and_are_counted() -> Result<()> {
    let mut site = Site::start(&[])?;
    site.store(POINT, 1..=5)?;
    let filter = "vmkpi/v1/acme/answer/#";
    let answers = Subscriber::start(site.chain.broker.address(), filter)?;
    ensure!(numbers(&site.rows(POINT, &[])?) == [1, 2, 3, 4, 5]);
    wait_for(20, "the subscriber to hear answers", || {
        (!answers.messages(0).is_empty()).then_some(())
    })?;
    let heard = answers.messages(0).len();
    let key = site.keys.consumer.file.clone();
    let own = |vm: &str, issued: u64| question(&key, vm, issued, 10);
    let genuine = String::from_utf8(own("shop", now_us())?)?;
    let unsigned = genuine
        .split(",\"signature\"")
        .next()
        .unwrap_or("")
        .to_owned()
        + "}";
    let none = ",\"signature\":\"eyJhbGciOiJub25lIiwia2lkIjoiIiwidHlwIjoidm1rcGktcXVlcnkifQ..\"}";
    let no_algorithm = unsigned.trim_end_matches('}').to_owned() + "}" + none;
    let other_point = genuine.replace(POINT, "unencrypted/closed");
    let stranger = question(&site.keys.stranger.file, "shop", now_us(), 10)?;
    for (reason, payload) in [
        ("malformed", b"what was yesterday?".to_vec()),
        ("malformed", question(&key, "shop", now_us(), 0)?),
        ("unsigned", unsigned.into_bytes()),
        ("wrong_algorithm", no_algorithm.into_bytes()),
        ("unknown_key", stranger),
        ("bad_signature", other_point.into_bytes()),
        ("another_topic", own("other", now_us())?),
        ("old", own("shop", now_us() - 6 * MINUTE_US)?),
        ("ahead", own("shop", now_us() + 6 * MINUTE_US)?),
    ] {
        site.refuses(reason, "shop", &payload, &[])?;
    }
    let retained = own("shop", now_us())?;
    site.refuses("retained", "shop", &retained, &["-r"])?;
    // Nobody is of that name here, so nobody hears it.
    site.publish(&topic("other")?, &own("other", now_us())?, &[])?;
    // Asked in time, and then once more; and after a restart. Of what was asked before it, no answer comes before it.
    let issued = now_us();
    let genuine = own("shop", issued)?;
    site.publish(&topic("shop")?, &genuine, &[])?;
    let id = format!("\"id\":\"{issued:032x}\"");
    let answered = || -> Vec<bool> {
        let texts = answers.messages(heard).into_iter();
        texts
            .map(|m| String::from_utf8_lossy(&m.payload).contains(&id))
            .collect()
    };
    wait_for(20, "the answer", || {
        answered().contains(&true).then_some(())
    })?;
    ensure!(answered() == [true], "somebody else was answered");
    site.refuses("stale", "shop", &genuine, &[])?;
    site.chain.kill_host()?;
    wait_for(30, "the host to listen", || {
        (site.chain.metric("vmkpi_confirmations_connected").ok()? > 0.0).then_some(())
    })?;
    site.refuses("stale", "shop", &genuine, &[])?;
    ensure!(numbers(&site.rows(POINT, &[])?) == [1, 2, 3, 4, 5]);
    wait_for(20, "its answer", || (answered().len() > 1).then_some(()))?;
    ensure!(
        answered().iter().filter(|own| **own).count() == 1,
        "a replay was answered"
    );
    site.fails(
        POINT,
        &[&sign_key(&site.keys.stranger), "--timeout=3"],
        "does not name this Consumer with this key",
    )
}

fn sign_key(key: &Key) -> String {
    format!("--sign-key-file={}", key.file.display())
}

#[test]
fn a_key_that_the_descriptor_names_no_more_counts_no_more() -> Result<()> {
    let site = Site::start(&[])?;
    site.store(POINT, 1..=3)?;
    ensure!(numbers(&site.rows(POINT, &[])?) == [1, 2, 3]);
    let new = Key::make(site.chain.folder(), "new.key")?;
    site.chain.describe(&site.keys.descriptor(&new))?;
    let old = site.keys.consumer.file.clone();
    wait_for(60, "the old key to be refused", || {
        let question = question(&old, "shop", now_us(), 1).ok()?;
        site.publish(&topic("shop").ok()?, &question, &[]).ok()?;
        (site.refused("unknown_key").ok()? > 0.0).then_some(())
    })?;
    site.fails(POINT, &["--timeout=3"], "no answer")?;
    ensure!(numbers(&site.rows(POINT, &[&sign_key(&new)])?) == [1, 2, 3]);
    Ok(())
}

/// Whoever may write to the topic asks as fast as the broker takes it, with the right key and without.
fn flood(site: &Site) -> Result<Process> {
    let mut text = String::new();
    let begin = now_us();
    for n in 0..20_000 {
        // Every tenth is signed: a signature takes the longer part of the time here.
        if n % 10 == 0 {
            let asked = question(&site.keys.consumer.file, "shop", begin + n, 10_000)?;
            text.push_str(&String::from_utf8(asked)?);
        } else {
            text.push_str("{\"site\":\"acme\"}");
        }
        text.push('\n');
    }
    let file = site.chain.folder().join("flood");
    std::fs::write(&file, text)?;
    // The client is the process that ends with the test, and who feeds it ends when nobody reads.
    let script = "exec mosquitto_pub -p \"$1\" -q 1 -t \"$2\" -l < <(while cat \"$3\"; do :; done)";
    let port = site.chain.broker.port().to_string();
    let file = file.display().to_string();
    let topic = topic("shop")?;
    let arguments = ["-c", script, "bash", &port, &topic, &file];
    Process::start(
        site.chain.folder(),
        "flood",
        "/bin/bash".as_ref(),
        arguments,
    )
}

/// How long rows take from their store to the watcher, the longest of some.
fn longest(site: &Site, numbers: std::ops::Range<u64>) -> Result<std::time::Duration> {
    let file = site.chain.mount().join("unencrypted/ready");
    let mut longest = std::time::Duration::ZERO;
    for n in numbers {
        let begun = std::time::Instant::now();
        std::fs::write(&file, format!("n\n{n}\n"))?;
        site.chain.wait_for_lines(60, "a live row", |lines| {
            lines.iter().rev().any(|line| line["values"]["n"] == n)
        })?;
        longest = longest.max(begun.elapsed());
    }
    Ok(longest)
}

#[test]
fn a_flood_of_questions_is_bounded_and_holds_up_no_live_row() -> Result<()> {
    let site = Site::start(&[])?;
    let chain = &site.chain;
    let key = &site.keys.consumer;
    let _collect = Collector::start(chain.folder(), &chain.broker, chain.folder(), key, &[])?;
    site.store(POINT, 1..=3000)?;
    let calm = longest(&site, 1_000_000..1_000_020)?;
    let mut flood = flood(&site)?;
    wait_for(60, "the flood", || {
        (site.refused("too_many").ok()? > 1000.0).then_some(())
    })?;
    let asked = site.chain.metric("vmkpi_queries_total")?;
    let begun = std::time::Instant::now();
    let flooded = longest(&site, 2_000_000..2_000_020)?;
    let seconds = begun.elapsed().as_secs_f64();
    let asked = site.chain.metric("vmkpi_queries_total")? - asked;
    flood.kill()?;
    eprintln!(
        "live rows took {calm:?} at most, {flooded:?} in the flood; {asked} of its questions counted in {seconds} s"
    );
    // The machine is shared: what would hold live rows up is an answer, and each takes a second or more.
    let bound = std::time::Duration::from_secs(5).max(calm * 10);
    ensure!(flooded < bound, "{flooded:?} instead of {calm:?}");
    ensure!(asked <= 10.0 * (seconds + 2.0), "{asked} in {seconds} s");
    Ok(())
}
