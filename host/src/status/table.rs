//! `status` for people: at most 80 columns wide, names longer than their column cut.

use std::fmt::Write as _;

use vmkpi::terminal::{age, bytes, cut, wrap};

use super::{LinkState, Live, Status, Vm};

/// The status as text.
pub fn render(status: &Status) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = lines(status, &mut text);
    text
}

fn lines(status: &Status, out: &mut String) -> std::fmt::Result {
    match &status.live {
        Some(live) => {
            running(live, out)?;
            vms(&status.vms, out)?;
        }
        None => writeln!(out, "not running")?,
    }
    if status.healthy {
        writeln!(out, "\nall is well")?;
    }
    for line in &status.advice {
        writeln!(out)?;
        wrap(out, "=> ", &plain(line))?;
    }
    for vm in &status.vms {
        for line in &vm.advice {
            writeln!(out)?;
            wrap(out, "=> ", &plain(&format!("{}: {line}", vm.domain)))?;
        }
    }
    Ok(())
}

fn running(live: &Live, out: &mut String) -> std::fmt::Result {
    let (version, pid, up) = (&live.version, live.pid, age(live.uptime_ms));
    writeln!(out, "running  vmkpi-host {version}, pid {pid}, for {up}")?;
    let (libvirt, broker, outbox) = (&live.libvirt, &live.broker, &live.outbox);
    let connected = |on: bool, since_ms| match on {
        true => format!("connected for {}", age(since_ms)),
        false => format!("NOT CONNECTED for {}", age(since_ms)),
    };
    let text = format!(
        "{} {}, {} domains",
        libvirt.uri,
        connected(libvirt.connected, libvirt.since_ms),
        libvirt.domains
    );
    wrap(out, "libvirt  ", &plain(&text))?;
    let text = format!(
        "{} {}, {} messages in flight, {} refused for now, {} refused for good",
        broker.url,
        connected(broker.connected, broker.since_ms),
        broker.in_flight,
        broker.deferred,
        broker.refused
    );
    wrap(out, "broker   ", &plain(&text))?;
    let (used, limit) = (bytes(outbox.bytes), bytes(outbox.limit_bytes));
    writeln!(out, "outbox   {used} of {limit}, {} errors", outbox.errors)?;
    writeln!(out, "metrics  http://{}/metrics", live.exporter.listen)
}

fn vms(vms: &[Vm], out: &mut String) -> std::fmt::Result {
    if vms.is_empty() {
        return writeln!(out, "\nno domain has a descriptor");
    }
    writeln!(
        out,
        "\n{:<18} {:<7} {:<6} {:>6} {:>9} {:>7} {:>6} {:>5}  SAMPLE",
        "DOMAIN", "STATE", "LINK", "POINTS", "ROWS", "UNACKED", "OLDEST", "GAPS"
    )?;
    for vm in vms {
        let ago = |ms: Option<u64>| ms.map_or("-".into(), age);
        writeln!(
            out,
            "{:<18} {:<7} {:<6} {:>6} {:>9} {:>7} {:>6} {:>5}  {}",
            cut(&plain(&vm.domain), 18),
            vm.state,
            link(vm),
            vm.points,
            vm.rows_received,
            vm.rows_unacknowledged,
            ago(vm.oldest_unacknowledged_ms),
            vm.gaps,
            ago(vm.last_sample_age_ms),
        )?;
    }
    Ok(())
}

fn link(vm: &Vm) -> &'static str {
    match vm.link.state {
        LinkState::Up if by_network(vm) => "up tls",
        LinkState::Up => "up",
        LinkState::Silent => "silent",
        LinkState::Down => "down",
        LinkState::None => "-",
    }
}

fn by_network(vm: &Vm) -> bool {
    let address = vm.link.address.as_deref();
    address.is_some_and(|address| address.starts_with("tls "))
}

/// Names are others' to choose: control codes of terminals are shown and not obeyed.
fn plain(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}
