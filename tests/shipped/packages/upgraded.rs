//! What an administrator does later.

use anyhow::{Result, ensure};
use vmkpi_tests::scratch::Scratch;
use vmkpi_tests::wait_for;

use super::PATIENCE;
use super::built::Built;
use super::machine::{Machine, PACKAGES_IN_MACHINE};

/// Every file, but for what is nobody's: caches, logs, and dpkg's and systemd's own.
const FILES: &str = "find / -xdev \
    \\( -path /proc -o -path /sys -o -path /run -o -path /tmp -o -path /var/log -o -path /var/cache \
       -o -path /var/lib/dpkg -o -path /var/lib/systemd -o -path /var/lib/mosquitto -o -path /packages \\) -prune \
    -o -print | grep -v '^/etc/[a-z]*-$' | sort";

/// The host's, as the administrator has it.
const EDITED: &str =
    "# mine\nbroker.url = \"mqtt://127.0.0.1\"\nlibvirt.uri = \"test:///default\"\n";

#[test]
fn an_upgrade_keeps_what_was_edited_and_a_purge_leaves_nothing() -> Result<()> {
    let Some(built) = Built::get()? else {
        return Ok(());
    };
    let scratch = Scratch::new()?;
    let files = [
        ("vmkpi-guest", "/etc/vmkpi/guest.toml"),
        ("vmkpi-host", "/etc/vmkpi/host.toml"),
    ];
    built.later(scratch.path(), &files)?;
    for entry in std::fs::read_dir(&built.folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default();
        std::fs::copy(&path, scratch.path().join(name))?;
    }
    let Some(machine) = Machine::boot("upgraded", scratch.path())? else {
        return Ok(());
    };
    let before = machine.sh(FILES)?;
    // Where the address is there already, the host is started.
    machine.write("/etc/vmkpi/host.toml", EDITED)?;
    machine.sh(&format!(
        "dpkg --force-confold -i {PACKAGES_IN_MACHINE}/*_amd64.deb"
    ))?;
    ensure!(
        machine.is("active", "vmkpi-host"),
        "a host that is told enough is not started"
    );
    completions_load(&machine)?;
    upgrade(&machine)?;
    remove(&machine)?;
    machine.run(["dpkg", "--purge", "vmkpi", "vmkpi-guest", "vmkpi-host"])?;
    let after = machine.sh(FILES)?;
    let was: Vec<&str> = before.lines().collect();
    let left: Vec<&str> = after.lines().filter(|file| !was.contains(file)).collect();
    ensure!(left.is_empty(), "a purge leaves {left:?}");
    machine.run([
        "getent",
        "passwd",
        "vmkpi-host",
        "vmkpi-collect",
        "vmkpi-relay",
    ])?;
    Ok(())
}

/// As bash-completion does it, at the first TAB.
fn completions_load(machine: &Machine) -> Result<()> {
    for program in ["vmkpi", "vmkpi-guest", "vmkpi-host"] {
        let load = format!(
            ". /usr/share/bash-completion/bash_completion; _completion_loader {program}; complete -p {program}"
        );
        let loaded = machine.run(["bash", "-c", &load])?;
        ensure!(loaded.contains("_vmkpi"), "{program}: {loaded}");
    }
    Ok(())
}

fn upgrade(machine: &Machine) -> Result<()> {
    machine.sh("echo 42 >/kpi/unencrypted/kept")?;
    let running = "systemctl show -P MainPID vmkpi-guest vmkpi-host";
    let before = machine.sh(running)?;
    machine.sh(&format!(
        "dpkg --force-confold -i {PACKAGES_IN_MACHINE}/*_later.deb"
    ))?;
    let both = || {
        (machine.is("active", "vmkpi-guest") && machine.is("active", "vmkpi-host")).then_some(())
    };
    wait_for(PATIENCE, "the services of the later version", both)?;
    ensure!(machine.sh(running)? != before, "the old programs still run");
    for unit in ["vmkpi-collect", "vmkpi-relay"] {
        ensure!(!machine.is("active", unit), "an upgrade has started {unit}");
    }
    ensure!(
        machine.sh("cat /etc/vmkpi/host.toml")? == EDITED,
        "the edited file is lost"
    );
    let unedited = machine.sh("cat /etc/vmkpi/guest.toml")?;
    ensure!(
        unedited.ends_with("# later\n"),
        "the file that nobody edited is old"
    );
    ensure!(
        machine.sh("cat /kpi/unencrypted/kept")? == "42\n",
        "a KPI is lost"
    );
    Ok(())
}

/// Programs go; what was told and what was stored stays.
fn remove(machine: &Machine) -> Result<()> {
    machine.run(["dpkg", "--remove", "vmkpi", "vmkpi-guest", "vmkpi-host"])?;
    let mounted = machine.run(["findmnt", "/kpi"]);
    ensure!(mounted.is_err(), "the partition is still there");
    let left = machine.sh("pgrep -l vmkpi || true")?;
    ensure!(left.is_empty(), "still running: {left}");
    machine.sh("test -f /etc/vmkpi/host.toml && test -f /var/lib/vmkpi/unencrypted.db && test ! -e /usr/bin/vmkpi-host")?;
    Ok(())
}
