//! What a stranger does on the first day.

use anyhow::{Context as _, Result, ensure};
use vmkpi_tests::wait_for;

use super::PATIENCE;
use super::built::Built;
use super::machine::{Machine, PACKAGES_IN_MACHINE};

/// Everything that vmkpi-guest is told: its host is on a network, as the test's hypervisor has no ports.
const GUEST: &str = r#"
link = "tls:localhost:9879"
[link_tls]
cert_file = "/etc/vmkpi/link/shop.cert.pem"
key_file = "/etc/vmkpi/link/shop.key.pem"
ca_file = "/etc/vmkpi/link/ca.cert.pem"
"#;

/// Everything that vmkpi-host is told.
const HOST: &str = r#"
[libvirt]
uri = "test:///default"
[broker]
url = "mqtt://127.0.0.1"
[link]
listen_address = "127.0.0.1:9879"
[link.tls]
cert_file = "/etc/vmkpi/link/localhost.cert.pem"
key_file = "/etc/vmkpi/link/localhost.key.pem"
ca_file = "/etc/vmkpi/link/ca.cert.pem"
[descriptor]
test = "/etc/vmkpi/shop.toml"
"#;

const DESCRIPTOR: &str = r#"
vm = "shop"
primary_site = "acme"
[[monitor]]
point = "unencrypted/*"
"#;

/// Whom the link's keys belong to; a guest's are root's anyway.
const KEYS: &str = "
    vmkpi key new tls --dir /etc/vmkpi/link --site acme --vm shop --endpoint localhost
    chgrp vmkpi-host /etc/vmkpi/link /etc/vmkpi/link/localhost.key.pem
    chmod 750 /etc/vmkpi/link
    chmod 640 /etc/vmkpi/link/localhost.key.pem";

/// The drop-in without which the guest's unit has no network, as docs/INSTALL.md has it.
const NETWORK: &str = "
    install -D -m 644 -t /etc/systemd/system/vmkpi-guest.service.d \\
        /usr/share/doc/vmkpi-guest/examples/vmkpi-guest-network.conf";

/// What one starts from.
const EXAMPLES: &str = "
    cd /usr/share/doc
    test -f vmkpi/examples/python/kpi.py
    test -f vmkpi/examples/grafana/vmkpi-kpis.json
    test -f vmkpi-host/examples/prometheus/vmkpi.rules.yml";

const UNITS: [&str; 4] = ["vmkpi-guest", "vmkpi-host", "vmkpi-collect", "vmkpi-relay"];

#[test]
fn a_kpi_of_an_unprivileged_user_is_seen_at_the_primary_site() -> Result<()> {
    let Some(built) = Built::get()? else {
        return Ok(());
    };
    let Some(machine) = Machine::boot("installed", &built.folder)? else {
        return Ok(());
    };
    let said = machine.sh(&format!("dpkg -i {PACKAGES_IN_MACHINE}/*.deb"))?;
    let names_the_key = said.contains("Set broker.url in /etc/vmkpi/host.toml");
    ensure!(names_the_key, "nothing says what to do: {said}");
    nothing_has_failed(&machine)?;
    machine.sh(EXAMPLES)?;
    configure(&machine)?;
    machine.sh("systemctl daemon-reload && systemctl restart vmkpi-guest")?;
    machine.sh("systemctl start vmkpi-host && systemctl enable --now vmkpi-collect")?;
    users_are_their_own(&machine)?;
    machine.sh("systemctl reload vmkpi-host vmkpi-guest")?;
    let store = "printf 'users,load\\n42,0.7\\n' >/kpi/unencrypted/web";
    machine.run(["runuser", "-u", "nobody", "--", "sh", "-c", store])?;
    let question = "http://127.0.0.1:9106/api/v1/samples?vm=shop&point=unencrypted/web";
    let seen = || {
        let answer = machine.fetch(question).ok()?;
        answer
            .contains(r#""data":{"users":42,"load":0.7}"#)
            .then_some(())
    };
    wait_for(PATIENCE, "the KPI at the primary site", seen).with_context(|| {
        machine
            .sh("vmkpi-host status || true; vmkpi-guest status")
            .unwrap_or_default()
    })?;
    let page = machine.fetch("http://127.0.0.1:9106/")?;
    ensure!(page.to_lowercase().contains("<!doctype html>"), "{page}");
    // Both say themselves that all is well, once the row is acknowledged.
    let well = || {
        let host = machine.run(["vmkpi-host", "status"]);
        host.and_then(|_| machine.run(["vmkpi-guest", "status", "--check"]))
            .ok()
    };
    wait_for(PATIENCE, "both daemons to be well", well)?;
    Ok(())
}

/// The guest runs as it came; nobody can know the host's broker, and whether this machine collects is not the package's
/// to say. None of that is a failure.
fn nothing_has_failed(machine: &Machine) -> Result<()> {
    ensure!(machine.run(["systemctl", "is-system-running"])?.trim() == "running");
    ensure!(
        machine.is("active", "vmkpi-guest"),
        "the guest does not run"
    );
    ensure!(
        machine.is("enabled", "vmkpi-host"),
        "the host is not enabled"
    );
    for unit in &UNITS[1..] {
        ensure!(!machine.is("active", unit), "{unit} runs");
    }
    for unit in &UNITS[2..] {
        ensure!(!machine.is("enabled", unit), "{unit} is enabled");
    }
    for unit in UNITS {
        machine.run(["systemd-analyze", "verify", &format!("{unit}.service")])?;
    }
    Ok(())
}

fn configure(machine: &Machine) -> Result<()> {
    machine.sh(KEYS)?;
    machine.write("/etc/vmkpi/guest.toml", GUEST)?;
    machine.write("/etc/vmkpi/host.toml", HOST)?;
    machine.write("/etc/vmkpi/shop.toml", DESCRIPTOR)?;
    machine.sh(NETWORK)?;
    let check = [
        "runuser",
        "-u",
        "vmkpi-host",
        "--",
        "vmkpi-host",
        "run",
        "--check",
    ];
    machine.run(check)?;
    Ok(())
}

/// Who runs what.
fn users_are_their_own(machine: &Machine) -> Result<()> {
    for (unit, user) in [
        ("vmkpi-guest", "root"),
        ("vmkpi-host", "vmkpi-host"),
        ("vmkpi-collect", "vmkpi-collect"),
    ] {
        let up = || machine.is("active", unit).then_some(());
        wait_for(PATIENCE, unit, up)?;
        let who = format!("stat -c %U /proc/$(systemctl show -P MainPID {unit})");
        let who = machine.sh(&who)?;
        ensure!(who.trim() == user, "{unit} runs as {who}");
    }
    Ok(())
}
