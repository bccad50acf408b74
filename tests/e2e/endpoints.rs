//! Guests on a network, and contexts that lead them elsewhere: each row arrives once, whatever the endpoint is, and one
//! that leads nowhere cuts nobody off.

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, ensure};
use vmkpi_tests::away::{Away, Host};
use vmkpi_tests::chain::EVERY_ROW;
use vmkpi_tests::ledger::Writer;
use vmkpi_tests::pki::Ca;
use vmkpi_tests::proxy::{Proxy, Weather};
use vmkpi_tests::{said_since, wait_for};

const PAUSE: Duration = Duration::from_millis(4);

#[test]
fn rows_arrive_once_over_tls_though_the_host_and_the_guest_are_killed() -> Result<()> {
    let mut away = Away::new(EVERY_ROW)?;
    let mut host = away.host("a", &[])?;
    away.start_guest(&host.url(), "")?;
    away.send("first", 1)?;
    let by = |link: serde_json::Value| {
        let address = link["address"].as_str().unwrap_or_default().to_owned();
        (link["state"] == "up" && address.starts_with("tls from 127.0.0.1:")).then_some(())
    };
    wait_for(20, "the host to say so", || by(host.link().ok()?))?;
    let mut writer = Writer::start(away.folder(), &[away.file("load")], PAUSE)?;
    for n in 2..5 {
        host.restart()?;
        away.send("first", n)?;
    }
    away.restart_guest()?;
    away.send("first", 5)?;
    writer.stop()?;
    ensure!(away.judge("unencrypted/load", writer.stored()?)? > 20);
    Ok(())
}

/// Changes the endpoint, and waits until rows go there.
fn go_to(away: &Away, host: &Host) -> Result<Duration> {
    let begun = Instant::now();
    away.offer(Some(&format!("{}\n", host.url())), None)?;
    away.wait_for_endpoint(&host.url())?;
    Ok(begun.elapsed())
}

#[test]
fn a_link_goes_over_from_host_to_host_and_back_to_the_image_s_own() -> Result<()> {
    let mut away = Away::new(EVERY_ROW)?;
    let socket = format!("unix:{}", away.folder().join("link").display());
    // The first has the guest's own endpoint, too, as a domain has its port.
    let a = away.host("a", &[format!("--guest=test={socket}")])?;
    let b = away.host("b", &[])?;
    away.start_guest(&socket, "")?;
    away.send("first", 1)?;
    let mut writer = Writer::start(away.folder(), &[away.file("load")], PAUSE)?;
    for (round, host) in [&b, &a, &b, &a].into_iter().enumerate() {
        let took = go_to(&away, host)?;
        away.send("first", 2 + round as u64)?;
        let is = |link: serde_json::Value| {
            let by = link["address"].as_str().unwrap_or_default().to_owned();
            (link["state"] == "up" && by.starts_with("tls from")).then_some(())
        };
        wait_for(20, "the host to say so", || is(host.link().ok()?))
            .with_context(|| format!("{:?}", host.link()))?;
        // Two program starts included; 80 ms on a machine with nothing else to do.
        ensure!(took < Duration::from_secs(10), "{took:?}");
    }
    // On the same host, from the network back to the socket: no context names an endpoint any more.
    away.offer(None, None)?;
    away.wait_for_endpoint(&socket)?;
    away.send("first", 9)?;
    let link = away.status()?["live"]["link"].take();
    assert_eq!(
        (&link["of_context"], &link["wanted"]),
        (&false.into(), &().into()),
        "{link}"
    );
    writer.stop()?;
    ensure!(away.judge("unencrypted/load", writer.stored()?)? > 20);
    assert_eq!(away.status()?["live"]["endpoint_changes"], 5);
    Ok(())
}

#[test]
#[ignore = "a figure for docs/PERFORMANCE.md: what a new endpoint costs a guest that nobody emulates; make soak"]
fn how_long_a_guest_takes_to_another_endpoint() -> Result<()> {
    let mut away = Away::new(EVERY_ROW)?;
    let debug = ["--log-level=info,vmkpi_host::vm=debug".to_owned()];
    let hosts = [away.host("a", &debug)?, away.host("b", &debug)?];
    away.start_guest(&hosts[0].url(), "")?;
    away.send("first", 1)?;
    let mut writer = Writer::start(away.folder(), &[away.file("load")], PAUSE)?;
    let mut took = Vec::new();
    for host in hosts.iter().rev().cycle().take(20) {
        let begin = SystemTime::now();
        away.offer(Some(&host.url()), None)?;
        let answered = || {
            said_since(
                &host.process.err,
                "the guest has answered the greeting",
                begin,
            )
        };
        took.push(wait_for(
            30,
            "the guest to answer at the other host",
            answered,
        )?);
    }
    writer.stop()?;
    took.sort();
    eprintln!(
        "from a new context to the guest's answer at the other host, of {}: {:?} (median), at most {:?}",
        took.len(),
        took[took.len() / 2],
        took[took.len() - 1]
    );
    Ok(())
}

#[test]
fn an_endpoint_that_is_wrong_unreachable_or_forged_leaves_the_one_in_force() -> Result<()> {
    let mut away = Away::new(EVERY_ROW)?;
    let good = away.host("good", &[])?;
    let thief = Ca::new(away.folder(), "thief")?;
    let forged = thief.server("forged", "IP:127.0.0.1")?;
    let elsewhere = away.ca.server("elsewhere", "DNS:elsewhere.example")?;
    let expired = away.ca.expired("expired", "door", "IP:127.0.0.1")?;
    let forged = away.host_that_shows("forged", &forged, &[])?;
    let elsewhere = away.host_that_shows("elsewhere", &elsewhere, &[])?;
    let expired = away.host_that_shows("expired", &expired, &[])?;
    away.start_guest(&good.url(), "")?;
    away.send("first", 0)?;
    let nobody = vmkpi_tests::scratch::free_address()?;
    let cases = [
        (forged.url(), "CA"),
        (elsewhere.url(), "another name"),
        (expired.url(), "expired"),
        (format!("tls:{nobody}"), "refused"),
        (format!("tls:{}", away.broker.address()), "hung up"),
        ("tls:no-such-name.invalid:1".to_owned(), "no address"),
        ("virtio-serial:org.vmkpi.none.0".to_owned(), "No such file"),
        ("unix:/run/link".to_owned(), "may not name"),
        ("http://thief.example/".to_owned(), "unknown scheme"),
        (String::new(), "empty"),
    ];
    for (n, (endpoint, why)) in (1..).zip(&cases) {
        away.offer(Some(endpoint), None)?;
        let said = |link: &serde_json::Value| {
            let problem = link["wanted"]["problem"].as_str().unwrap_or_default();
            link["wanted"]["endpoint"] == **endpoint && problem.contains(why)
        };
        let link = away.wait_for_link(why, said)?;
        assert_eq!(
            (&link["endpoint"], &link["connected"]),
            (&good.url().into(), &true.into())
        );
        away.send("first", n)?;
    }
    let words = away.words();
    ensure!(words.contains("the one in force stays"), "{words}");
    let advice = away.status()?["advice"].to_string();
    ensure!(advice.contains("stays in force"), "{advice}");
    ensure!(away.status()?["live"]["endpoint_failures"].as_u64() >= Some(cases.len() as u64));
    // Taken back, it is as if nothing had been.
    away.offer(None, None)?;
    away.wait_for_link("peace", |link| link["wanted"].is_null())?;
    ensure!(away.judge("unencrypted/first", 0..=cases.len() as u64)? > 5);
    Ok(())
}

#[test]
fn a_network_that_is_cut_again_and_again_costs_no_row() -> Result<()> {
    let mut away = Away::new(EVERY_ROW)?;
    let host = away.host("a", &[])?;
    let network = Proxy::start(host.door)?;
    away.start_guest(&format!("tls:{}", network.address()), "")?;
    away.send("first", 0)?;
    let mut writer = Writer::start(away.folder(), &[away.file("load")], PAUSE)?;
    for (n, weather) in (1u64..).zip([
        Weather::Cut,
        Weather::Blackout,
        Weather::Silent,
        Weather::Blackout,
    ]) {
        network.set(weather);
        // At first there may be no notes yet.
        let stored = writer.stored().map_or(0, |stored| stored.len());
        wait_for(20, "rows to be stored meanwhile", || {
            (writer.stored().ok()?.len() > stored + 100).then_some(())
        })?;
        network.clear_up();
        away.send("first", n)?;
    }
    writer.stop()?;
    ensure!(away.judge("unencrypted/load", writer.stored()?)? > 400);
    Ok(())
}
