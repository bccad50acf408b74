//! Who does not come in over the network, and what strangers at the door cost: nothing that a VM would notice.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use vmkpi_tests::away::{Away, Host, VM};
use vmkpi_tests::chain::EVERY_ROW;
use vmkpi_tests::pki::{Ca, Pair};
use vmkpi_tests::wait_for;

/// Shakes hands as openssl does, and waits until the host has ended it; what was said.
fn knock(host: &Host, shows: Option<&Pair>, further: &[&str]) -> Result<String> {
    let mut command = Command::new("timeout");
    command.args([
        "20",
        "openssl",
        "s_client",
        "-connect",
        &host.door.to_string(),
    ]);
    if let Some(pair) = shows {
        command
            .arg("-cert")
            .arg(&pair.cert)
            .arg("-key")
            .arg(&pair.key);
    }
    let mut child = command
        .args(further)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    // Its standard input stays open: only the host ends the conversation.
    let input = child.stdin.take();
    let output = child.wait_with_output()?;
    drop(input);
    let (out, err) = (output.stdout, output.stderr);
    Ok(String::from_utf8_lossy(&[out, err].concat()).into_owned())
}

/// It is refused for `reason`, and told `alert`.
fn is_refused(host: &Host, shows: Option<&Pair>, (reason, alert): (&str, &str)) -> Result<()> {
    let before = host.refused(reason)?;
    let said = knock(host, shows, &[])?;
    ensure!(said.contains(alert), "{reason}: {said}");
    ensure!(!said.contains("\"op\""), "it was greeted: {said}");
    wait_for(10, reason, || {
        (host.refused(reason).ok()? > before).then_some(())
    })
}

fn unsigned(folder: &Path) -> Result<Pair> {
    let ca = Ca::new(folder, "own")?;
    ca.vm("own-vm", VM)
}

#[test]
fn a_host_lets_in_the_vm_of_a_certificate_that_counts_and_nobody_else() -> Result<()> {
    let mut away = Away::new(EVERY_ROW)?;
    let host = away.host("a", &[])?;
    away.start_guest(&host.url(), "")?;
    away.send("first", 1)?;
    let other = away.ca.vm("other", "urn:vmkpi:acme:bank")?;
    let site = away.ca.vm("site", "urn:vmkpi:evil:shop")?;
    let two = away
        .ca
        .vm("two", &format!("{VM},URI:urn:vmkpi:acme:bank"))?;
    let nameless = away.ca.client("nameless", "shop")?;
    let server = away.ca.server("server", "IP:127.0.0.1")?;
    let old = away.ca.expired("old", "vm", &format!("URI:{VM}"))?;
    let strange = unsigned(away.folder())?;
    let unknown = ("unknown_vm", "access denied");
    for pair in [&other, &site, &two, &nameless] {
        is_refused(&host, Some(pair), unknown)?;
    }
    is_refused(&host, Some(&strange), ("certificate", "alert"))?;
    is_refused(&host, Some(&old), ("certificate", "expired"))?;
    is_refused(&host, Some(&server), ("certificate", "alert"))?;
    is_refused(&host, None, ("certificate", "certificate required"))?;
    let said = knock(&host, Some(&away.vm), &["-tls1_2"])?;
    ensure!(said.contains("alert"), "TLS 1.2: {said}");
    // The VM itself did not notice; and openssl, with its certificate, is greeted as it is: the newest wins.
    away.send("first", 2)?;
    let words = host.process.words();
    let warned = words.lines().filter(|l| l.contains("unknown_vm")).count();
    assert_eq!(warned, 1, "said once, and counted: {words}");
    Ok(())
}

/// Connects and sends these bytes.
fn send(host: &Host, bytes: &[u8]) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(host.door)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    // It may be hung up on in the middle.
    let _ = stream.write_all(bytes);
    Ok(stream)
}

#[test]
fn garbage_silence_and_floods_at_the_door_keep_no_vm_out() -> Result<()> {
    let mut away = Away::new(EVERY_ROW)?;
    let host = away.host("a", &[])?;
    away.start_guest(&host.url(), "")?;
    away.send("first", 1)?;
    let nonsense: Vec<u8> = (0..1_000_000u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    let endless: Vec<u8> = b"\x16\x03\x03\x40\x00\x0b\x00\xff\xff"
        .iter()
        .copied()
        .chain(std::iter::repeat_n(0, 1 << 20))
        .collect();
    for bytes in [
        &nonsense[..],
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &b"{\"op\":\"hello\"}\n"[..],
        &endless,
    ] {
        let mut stream = send(&host, bytes)?;
        let mut rest = Vec::new();
        // An end or a reset, and within the time that a handshake has.
        let ended = stream.read_to_end(&mut rest);
        let waited = matches!(&ended, Err(e) if e.kind() == std::io::ErrorKind::WouldBlock);
        ensure!(!waited, "it is waited for: {rest:?}");
    }
    // The stream ends before its end is counted.
    wait_for(30, "what is no handshake to be counted", || {
        (host.refused("handshake").ok()? >= 3).then_some(())
    })?;
    // More than may shake hands at a time, half of which have begun to.
    let flood: Vec<TcpStream> = (0..600)
        .map(|n| send(&host, if n % 2 == 0 { &[] } else { hello }))
        .collect::<Result<_>>()
        .context("the flood")?;
    away.restart_guest()?;
    away.send("first", 2)?;
    wait_for(30, "the slow to be sent away", || {
        let (late, crowded) = (host.refused("late").ok()?, host.refused("crowded").ok()?);
        (late > 0 && late + crowded >= 600).then_some(())
    })
    .with_context(|| format!("{:?} {:?}", host.refused("late"), host.refused("crowded")))?;
    drop(flood);
    let size = std::fs::metadata(&host.process.err)?.len();
    ensure!(size < 20_000, "a flood is none of log lines: {size}");
    ensure!(away.judge("unencrypted/first", [1, 2])? == 2);
    Ok(())
}
