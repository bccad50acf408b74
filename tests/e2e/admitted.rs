//! The broker that `vmkpi broker --print-config mosquitto` makes: each role can do what it must, and nothing else.

#[path = "admitted/table.rs"]
mod table;

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use vmkpi_tests::admitted::Admitted;
use vmkpi_tests::chain::{Broker, Chain};
use vmkpi_tests::collector::{Collector, Key, NAME, confirmed_by};
use vmkpi_tests::ledger::Writer;
use vmkpi_tests::pki::Ca;
use vmkpi_tests::process::{Process, program, vmkpi};
use vmkpi_tests::scratch::Scratch;
use vmkpi_tests::wait_for;

use table::{OPTIONS, TABLE, USERS};

/// Publishes `mark` until everybody who hears anything has heard it.
fn mark(site: &Admitted, broker: &Broker, ears: &[(&str, Process)], mark: &str) -> Result<()> {
    let heard_by = |(user, ear): &(&str, Process)| {
        let hears = TABLE.iter().any(|(_, _, readers)| readers.contains(user));
        let mark = format!(" {mark}");
        !hears || heard(ear).is_ok_and(|lines| lines.iter().any(|l| l.ends_with(&mark)))
    };
    wait_for(30, &format!("{mark} to be heard"), || {
        for (row, writer) in [(0, "hosts"), (8, "collect"), (12, "guests"), (16, "globex")] {
            site.publish(broker, writer, TABLE[row].0, mark).ok()?;
        }
        ears.iter().all(heard_by).then_some(())
    })
}

/// The lines of topic and payload that an ear has heard.
fn heard(ear: &Process) -> Result<BTreeSet<String>> {
    let text = std::fs::read_to_string(&ear.out)?;
    Ok(text.lines().map(ToOwned::to_owned).collect())
}

/// Everybody writes everything; who hears it says whether it was let through, and to whom.
#[test]
fn each_user_may_read_and_write_its_branches_and_nothing_else() -> Result<()> {
    let scratch = Scratch::new()?;
    let site = Admitted::new(scratch.path(), &USERS)?;
    let broker = site.start(&OPTIONS)?;
    let ears = USERS
        .iter()
        .map(|user| Ok((*user, site.listen(&broker, user)?)))
        .collect::<Result<Vec<_>>>()?;
    mark(&site, &broker, &ears, "begin")?;
    for (row, (topic, writers, _)) in TABLE.iter().enumerate() {
        for user in USERS {
            let text = format!("row-{row}-{user}");
            let said = site.publish(&broker, user, topic, &text)?;
            // Whoever may not is told so.
            let told = said.contains("Not authorized");
            ensure!(told != writers.contains(&user), "{user} {topic}: {said}");
        }
    }
    // What was published before has come before it.
    mark(&site, &broker, &ears, "end")?;
    for (user, ear) in &ears {
        let rows = TABLE.iter().enumerate();
        let expected: BTreeSet<String> = rows
            .filter(|(_, (_, _, readers))| readers.contains(user))
            .flat_map(|(at, (topic, writers, _))| {
                writers.iter().map(move |w| format!("{topic} row-{at}-{w}"))
            })
            .collect();
        let mut got = heard(ear)?;
        got.retain(|l| !l.ends_with(" begin") && !l.ends_with(" end"));
        let more: Vec<_> = got.difference(&expected).collect();
        let less: Vec<_> = expected.difference(&got).collect();
        ensure!(
            more.is_empty() && less.is_empty(),
            "{user} hears {more:?}, and does not hear {less:?}"
        );
    }
    Ok(())
}

#[test]
fn who_has_no_certificate_of_the_ca_is_not_let_in() -> Result<()> {
    let scratch = Scratch::new()?;
    let site = Admitted::new(scratch.path(), &["hosts"])?;
    let broker = site.start(&["--site=acme", "--host=hosts"])?;
    let stranger = Ca::new(scratch.path(), "stranger")?.client("forged", "hosts")?;
    let path = |path: std::path::PathBuf| path.display().to_string();
    let (ca, port) = (path(site.tls("ca.cert.pem")), broker.port().to_string());
    let pair = |cert: String, key: String| vec!["--cert".to_owned(), cert, "--key".into(), key];
    let server = ["127.0.0.1.cert.pem", "127.0.0.1.key.pem"].map(|name| path(site.tls(name)));
    let [cert, key] = server;
    for (who, options) in [
        ("nobody", vec![]),
        ("the broker itself", pair(cert, key)),
        (
            "a CA of its own",
            pair(path(stranger.cert), path(stranger.key)),
        ),
    ] {
        let output = Command::new("mosquitto_pub")
            .args(["-V", "5", "-q", "1", "-h", "127.0.0.1", "-p", &port])
            .args(["--cafile", &ca, "-t", "vmkpi/v1/acme/data/x", "-m", "x"])
            .args(options)
            .output()?;
        ensure!(!output.status.success(), "{who} was let in");
    }
    let log = broker.log();
    ensure!(!log.contains("New client connected"), "{log}");
    Ok(())
}

/// A chain whose parts all come by certificates to a generated broker.
fn chain(key: &Key) -> Result<(Chain, Admitted)> {
    let consumer = format!("--consumer={NAME}");
    let options = [
        "--site=acme",
        "--host=hosts",
        &consumer,
        "--reader=dashboard",
    ];
    chain_at(key, &["hosts", NAME, "dashboard"], &options)
}

/// The same with a broker made of `options`, for who is named by `clients`.
fn chain_at(key: &Key, clients: &[&str], options: &[&str]) -> Result<(Chain, Admitted)> {
    let scratch = Scratch::new()?;
    let site = Admitted::new(scratch.path(), clients)?;
    let broker = site.start(options)?;
    let mut arguments = ["watch", "--format=json", "--show-gaps"]
        .map(String::from)
        .to_vec();
    arguments.push(format!("--broker={}", broker.url()));
    arguments.extend(site.options("dashboard"));
    let watch = Process::start(scratch.path(), "watch", &program("vmkpi")?, arguments)?;
    let hosts = site.options("hosts");
    let hosts = hosts.each_ref().map(String::as_str);
    let descriptor = confirmed_by(key);
    let chain = Chain::start_at((scratch, broker), watch, &descriptor, (&[], &hosts))?;
    Ok((chain, site))
}

fn collect(chain: &Chain, site: &Admitted, key: &Key) -> Result<Collector> {
    let options = site.options(NAME);
    let options = options.each_ref().map(String::as_str);
    Collector::start(chain.folder(), &chain.broker, chain.folder(), key, &options)
}

#[test]
fn the_whole_chain_works_through_it_and_confirms() -> Result<()> {
    let keys = Scratch::new()?;
    let key = Key::make(keys.path(), "collect.key")?;
    let (mut chain, site) = chain(&key)?;
    let collector = collect(&chain, &site, &key)?;
    let file = chain.mount().join("unencrypted/load");
    let mut writer = Writer::start(chain.folder(), &[file], Duration::from_millis(2))?;
    wait_for(60, "rows to be kept", || {
        (collector.count() > 300).then_some(())
    })
    .with_context(|| format!("{}\n{}", collector.process.words(), chain.words()))?;
    // Its sessions and its ACL are there after a restart.
    chain.broker.restart_after(Duration::ZERO)?;
    let before = collector.count();
    wait_for(60, "more of them", || {
        (collector.count() > before + 300).then_some(())
    })
    .with_context(|| format!("{}\n{}", collector.process.words(), chain.words()))?;
    writer.stop()?;
    collector.judge(&chain, &writer, 120)?;
    let last = *writer.stored()?.iter().max().context("a store")?;
    chain.wait_for_lines(20, "the last row to be watched", |lines| {
        lines.iter().any(|l| l["values"]["n"] == last)
    })?;
    let page = chain.scrape()?;
    let deferred = "vmkpi_broker_messages_deferred_total 0";
    ensure!(
        page.lines().any(|l| l == deferred),
        "the ACL denies: {page}"
    );
    let log = chain.broker.log();
    ensure!(
        !log.contains("Error:") && !log.contains("Warning:"),
        "{log}"
    );
    Ok(())
}

/// Two sites with a broker, a CA and an ACL each; the relay has a certificate of both.
#[test]
fn a_relay_carries_everything_between_two_generated_brokers() -> Result<()> {
    let keys = Scratch::new()?;
    let key = Key::make(keys.path(), "collect.key")?;
    let lower = [
        "--site=acme",
        "--host=hosts",
        "--reader=dashboard",
        "--relay-out=relay",
    ];
    let (chain, site) = chain_at(&key, &["hosts", "dashboard", "relay"], &lower)?;
    let scratch = Scratch::new()?;
    let primary = Admitted::new(scratch.path(), &["relay", NAME])?;
    let consumer = format!("--consumer={NAME}");
    let broker = primary.start(&["--site=acme", "--relay-in=relay", &consumer])?;
    let mut arguments = ["relay", "--site=acme"].map(String::from).to_vec();
    arguments.push(format!(
        "--state={}",
        scratch.path().join("spool").display()
    ));
    for (end, url, site) in [
        ("from", chain.broker.url(), &site),
        ("to", broker.url(), &primary),
    ] {
        arguments.push(format!("--{end}={url}"));
        let options = site.options("relay");
        let of_end = |o: String| o.replacen("--broker.", &format!("--{end}."), 1);
        arguments.extend(options.map(of_end));
    }
    let relay = Process::start(scratch.path(), "relay", &program("vmkpi")?, arguments)?;
    let options = primary.options(NAME);
    let options = options.each_ref().map(String::as_str);
    let collector = Collector::start(scratch.path(), &broker, scratch.path(), &key, &options)?;
    let file = chain.mount().join("unencrypted/load");
    let mut writer = Writer::start(chain.folder(), &[file], Duration::from_millis(2))?;
    wait_for(60, "rows to be kept", || {
        (collector.count() > 300).then_some(())
    })
    .with_context(|| relay.words() + &chain.words())?;
    writer.stop()?;
    collector
        .judge(&chain, &writer, 120)
        .with_context(|| relay.words())?;
    Ok(())
}

#[test]
fn files_are_written_over_nothing_and_wrong_options_are_refused() -> Result<()> {
    let scratch = Scratch::new()?;
    let site = Admitted::new(scratch.path(), &["hosts"])?;
    let (tls, dir) = (site.tls("").display().to_string(), site.place());
    let dir = dir.display().to_string();
    let run = |server: &str, more: &[&str]| -> Result<(Option<i32>, String, String)> {
        let mut arguments = vec!["broker", "--print-config=mosquitto", "--etc", &tls];
        arguments.extend(["--site=acme", "--server", server]);
        arguments.extend(more);
        let output = vmkpi(&arguments)?;
        let text = |bytes| String::from_utf8(bytes);
        Ok((
            output.status.code(),
            text(output.stdout)?,
            text(output.stderr)?,
        ))
    };
    let name = "127.0.0.1";
    let (code, out, said) = run(name, &["--host=hosts"])?;
    ensure!(code == Some(0) && out.contains("user hosts\n"), "{said}");
    ensure!(out.matches(" <==\n").count() == 2, "{out}");
    ensure!(said.contains("ca.key.pem"), "the CA's key is there: {said}");
    let written = ["--host=hosts", "--dir", &dir];
    ensure!(run(name, &written)?.0 == Some(0));
    let acl = std::fs::read_to_string(site.place().join("acl"))?;
    ensure!(out.ends_with(&format!("{acl}\n")), "{out}");
    let (code, _, said) = run(name, &written)?;
    ensure!(code == Some(2) && said.contains("already there"), "{said}");
    let again = ["--host=other", "--dir", &dir, "--overwrite"];
    ensure!(run(name, &again)?.0 == Some(0));
    for (server, more, words) in [
        ("gone", vec!["--host=hosts"], "gone.cert.pem"),
        (name, vec![], "nobody may come"),
        (name, vec!["--host=a\ntopic readwrite #"], "are expected"),
        (name, vec!["--host=hosts@b"], "does not serve b"),
        (name, vec!["--host=hosts", "--site=b"], "hosts@SITE"),
        (
            name,
            vec!["--host=hosts", "--state=/a\nlistener 1"],
            "--state",
        ),
    ] {
        let (code, out, said) = run(server, &more)?;
        ensure!(code == Some(2) && said.contains(words), "{more:?}: {said}");
        ensure!(out.is_empty(), "{out}");
    }
    Ok(())
}

/// The commands of the documentation, as they stand there.
#[test]
fn the_documented_commands_make_what_is_documented() -> Result<()> {
    let documentation = include_str!("../../docs/BROKER.md").replace("\\\n", " ");
    let scratch = Scratch::new()?;
    for begin in [
        "vmkpi key new tls",
        "vmkpi broker --print-config",
        "cp tls/",
    ] {
        let line = documentation.lines().find(|l| l.starts_with(begin));
        let line = line.with_context(|| format!("{begin} is not documented"))?;
        let mut words = line.split_whitespace();
        let name = words.next().context("a program")?;
        let program = match name {
            "vmkpi" => program(name)?,
            name => name.into(),
        };
        let output = Command::new(program)
            .args(words)
            .current_dir(scratch.path())
            .output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{line}: {said}");
    }
    let made = |name: &str| std::fs::read_to_string(scratch.path().join("vmkpi").join(name));
    let (configuration, acl) = (made("vmkpi.conf")?, made("acl")?);
    for (name, text) in [("vmkpi.conf", &configuration), ("acl", &acl)] {
        // The documentation shows what they say, without comments.
        let says = |l: &&str| !l.is_empty() && !l.starts_with('#');
        let missing: Vec<_> = text
            .lines()
            .filter(says)
            .filter(|l| !documentation.contains(l))
            .collect();
        ensure!(
            missing.is_empty(),
            "{name} is documented without {missing:?}"
        );
    }
    for name in [
        "ca.cert.pem",
        "broker.acme.example.cert.pem",
        "broker.acme.example.key.pem",
    ] {
        ensure!(
            configuration.contains(&format!("/etc/mosquitto/vmkpi/{name}")),
            "{name}"
        );
        made(name)?;
    }
    Ok(())
}

#[test]
fn who_is_struck_from_the_acl_is_out_with_the_next_reload() -> Result<()> {
    let scratch = Scratch::new()?;
    let site = Admitted::new(scratch.path(), &["hosts", "reader"])?;
    let mut broker = site.start(&["--site=acme", "--host=hosts", "--reader=reader"])?;
    let topic = "vmkpi/v1/acme/data/shop/load/infra/cpu";
    let denied = |broker: &Broker| -> Result<bool> {
        let said = site.publish(broker, "hosts", topic, "row-")?;
        Ok(said.contains("Not authorized"))
    };
    ensure!(!denied(&broker)?, "a host may write data");
    let acl = site.place().join("acl");
    let rules = std::fs::read_to_string(&acl)?.replace("user hosts", "user others");
    std::fs::write(&acl, rules)?;
    broker.process().signal(rustix::process::Signal::HUP)?;
    wait_for(20, "the ACL to be read again", || {
        denied(&broker).ok().filter(|d| *d)
    })?;
    Ok(())
}
