//! `status` for people: at most 80 columns wide, names longer than their column cut.

use std::fmt::Write as _;

use vmkpi::context::Class;
use vmkpi::terminal::{age, bytes, cut, wrap};

use super::{LinkState, Live, Status, Vm};
use crate::context::{Answer, OfClass};

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
            contexts(status, out)?;
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
    writeln!(out, "metrics  http://{}/metrics", live.exporter.listen)?;
    if let Some(context) = &live.context {
        let classes: Vec<&str> = context.classes.iter().map(Class::as_str).collect();
        writeln!(out, "context  {}", classes.join(", "))?;
    }
    Ok(())
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

fn contexts(status: &Status, out: &mut String) -> std::fmt::Result {
    let described = status.vms.iter().map(|vm| (&vm.domain, &vm.context));
    let live = status.live.as_ref().and_then(|live| live.context.as_ref());
    let others = live.iter().flat_map(|context| &context.others);
    let all: Vec<_> = described
        .chain(others)
        .flat_map(|(domain, of)| {
            of.iter()
                .map(move |(class, context)| (domain, class, context))
        })
        .collect();
    if all.is_empty() {
        return Ok(());
    }
    writeln!(
        out,
        "\n{:<18} {:<26} {:<6} {:<13} SINCE",
        "DOMAIN", "CONTEXT", "DRIVE", "CONTENT"
    )?;
    for (domain, class, context) in all {
        let digest = context.digest.as_deref().unwrap_or("-");
        let problem = if context.problem.is_some() { "!" } else { "" };
        writeln!(
            out,
            "{:<18} {:<26} {:<6} {:<13} {}",
            cut(&plain(domain), 18),
            class.as_str(),
            plain(context.drive.as_deref().unwrap_or("-")),
            format!("{}{problem}", digest.get(..12).unwrap_or(digest)),
            context.since_ms.map_or("-".into(), age),
        )?;
    }
    Ok(())
}

/// What became of a request, as text.
pub fn render_answer(answer: &Answer) -> String {
    let mut text = String::new();
    for (class, done) in &answer.classes {
        // Writing to a String cannot fail.
        let _ = of_class(class, done, &mut text);
    }
    text
}

fn of_class(class: &Class, done: &OfClass, out: &mut String) -> std::fmt::Result {
    let drive = done
        .drive
        .as_deref()
        .map(|drive| format!(" in {}", plain(drive)));
    let digest = done.digest.as_deref().map(|digest| format!(" {digest}"));
    writeln!(
        out,
        "{class}: {}{}{}",
        done.outcome,
        digest.unwrap_or_default(),
        drive.unwrap_or_default()
    )?;
    writeln!(
        out,
        "  resolve {:.3} ms, detach {:.3} ms, prepare {:.3} ms, attach {:.3} ms (libvirt {:.3} ms of it)",
        done.resolve_ms, done.detach_ms, done.prepare_ms, done.attach_ms, done.libvirt_ms
    )
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
