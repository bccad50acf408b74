//! What cloud-init does at the first boot.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::built::{Built, repository};
use super::machine::{Machine, PACKAGES_IN_MACHINE};

/// Where cloud-init looks for what a VM is told, where no provider of a cloud says it.
const SEED: &str = "var/lib/cloud/seed/nocloud";

#[test]
fn a_vm_installs_its_guest_at_the_first_boot() -> Result<()> {
    let Some(built) = Built::get()? else {
        return Ok(());
    };
    let package = built.file("vmkpi-guest")?;
    let told = user_data(&package)?;
    let seed = |root: &Path| {
        let seed = root.join(SEED);
        std::fs::create_dir_all(&seed)?;
        // Images for clouds have locales to choose from, this root has not.
        std::fs::write(
            root.join("etc/cloud/cloud.cfg.d/90-root.cfg"),
            "locale: false\n",
        )?;
        std::fs::write(seed.join("meta-data"), "instance-id: first\n")?;
        Ok(std::fs::write(seed.join("user-data"), &told)?)
    };
    let Some(machine) = Machine::boot_with("clouded", &built.folder, seed)? else {
        return Ok(());
    };
    let shown = "cat /var/log/cloud-init-output.log";
    let schema = format!("cloud-init schema --config-file /{SEED}/user-data");
    machine.sh(&schema)?;
    machine
        .run(["cloud-init", "status", "--wait"])
        .with_context(|| machine.sh(shown).unwrap_or_default())?;
    ensure!(
        machine.is("active", "vmkpi-guest"),
        "{}",
        machine.sh(shown)?
    );
    let kept = machine.sh("cat /etc/vmkpi/guest.toml")?;
    ensure!(
        kept == "retention.age = \"7d\"\n",
        "the VM's own configuration is lost: {kept}"
    );
    machine.sh("echo 42 >/kpi/unencrypted/first")?;
    Ok(())
}

/// The snippet, with what its reader has to fill in.
fn user_data(package: &Path) -> Result<String> {
    let text = std::fs::read_to_string(repository().join("packaging/cloud-init/vmkpi-guest.yaml"))?;
    let name = package.file_name().context("a name")?.to_string_lossy();
    let digest = Command::new("sha256sum").arg(package).output()?;
    let digest = String::from_utf8(digest.stdout)?;
    let digest = digest.split_whitespace().next().context("a digest")?;
    let url = "https://packages.example.org/vmkpi-guest.deb";
    ensure!(text.contains(url), "the snippet has no URL to fill in");
    let text = text.replace(url, &format!("file://{PACKAGES_IN_MACHINE}/{name}"));
    Ok(text.replace(&"0".repeat(64), digest))
}
