//! What VMs are told, by the real program, below a real libvirtd, in the drives of real QEMUs.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use vmkpi_tests::lab::PATIENCE;
use vmkpi_tests::lab::offered::{Offering, SCSI, cdrom};
use vmkpi_tests::wait_for;

const INFRA: &str = "VMKPI_INFRASTRUCTURE";
const ENDPOINT: (&str, &str) = (
    "infrastructure/monitoring/endpoint",
    "virtio-serial:org.vmkpi.kpi.0\n",
);
const WHO: (&str, &str) = ("infrastructure/who.j2", "{{ vm }} {{ event }}");

/// A medium that is not ours.
fn foreign(offering: &Offering) -> Result<std::path::PathBuf> {
    let path = offering.folder().join("install.iso");
    std::fs::write(&path, vec![0; 1 << 16])?;
    Ok(path)
}

#[test]
fn a_vm_has_its_context_from_its_boot_to_its_end_as_templates_and_operators_will() -> Result<()> {
    let Some(offering) = Offering::start(&[ENDPOINT, WHO], &[])? else {
        return Ok(());
    };
    let place = ("vm", "sda", "infrastructure");
    offering.boot("vm", &(SCSI.to_owned() + &cdrom("sda", INFRA, None)), true)?;
    offering.wait_for_file(place, "who", "vm-of-acme started")?;
    let files = offering
        .files("vm", "sda", "infrastructure")
        .context("its files")?;
    ensure!(
        files["monitoring/endpoint"] == ENDPOINT.1 && files.len() == 2,
        "{files:?}"
    );
    let xml = offering.hypervisor.virsh(&["dumpxml", "vm"])?;
    ensure!(xml.contains("startupPolicy='optional'"), "{xml}");

    offering.put("infrastructure/who.j2", "{{ vm }} {{ event }} again")?;
    offering.wait_for_file(place, "who", "vm-of-acme started again")?;
    offering.wait_for_images(1)?;

    let (code, said) = offering.recontextualize(&["vm", "--event=deploy-7"])?;
    ensure!(code == Some(0), "{said}");
    let done = &said["classes"]["infrastructure"];
    ensure!(
        done["outcome"] == "changed" && done["drive"] == "sda",
        "{said}"
    );
    for phase in ["resolve_ms", "prepare_ms", "attach_ms"] {
        ensure!(
            done[phase].as_f64().is_some_and(|ms| ms > 0.0),
            "{phase}: {said}"
        );
    }
    offering.wait_for_file(place, "who", "vm-of-acme deploy-7 again")?;
    let (code, said) = offering.recontextualize(&["vm", "--class=infrastructure"])?;
    ensure!(code == Some(0), "{said}");
    ensure!(
        said["classes"]["infrastructure"]["outcome"] == "unchanged",
        "{said}"
    );
    for (arguments, problem) in [
        (&["nobody"][..], "no VM nobody runs on this host"),
        (&["vm", "--class=service"], "class service is not offered"),
    ] {
        let (code, said) = offering.recontextualize(arguments)?;
        let words = said["problem"].as_str().unwrap_or_default();
        ensure!(
            code == Some(1) && words.contains(problem),
            "{code:?} {said}"
        );
    }
    let changed = "vmkpi_recontextualizations_total{event=\"operator\",outcome=\"changed\"}";
    ensure!(offering.metric(changed)? == 1.0);

    offering.hypervisor.virsh(&["destroy", "vm"])?;
    offering.wait_for_images(0)
}

#[test]
fn a_template_with_a_mistake_leaves_what_was_there() -> Result<()> {
    let Some(offering) = Offering::start(&[ENDPOINT, WHO], &[])? else {
        return Ok(());
    };
    let place = ("vm", "sda", "infrastructure");
    offering.boot("vm", &(SCSI.to_owned() + &cdrom("sda", INFRA, None)), true)?;
    offering.wait_for_file(place, "who", "vm-of-acme started")?;
    offering.put("infrastructure/who.j2", "{{ nobody }}")?;
    offering.wait_for_problem("vm", "infrastructure", |problem| {
        problem.is_some_and(|p| p.contains("who.j2:1: undefined value"))
    })?;
    offering.wait_for_file(place, "who", "vm-of-acme started")?;
    offering.put("infrastructure/who.j2", "{{ vm")?;
    wait_for(PATIENCE, "status to say it", || {
        let status = offering.status().ok()?;
        let problems = status["live"]["context"]["problems"].to_string();
        problems.contains("syntax error").then_some(())
    })?;
    offering.wait_for_file(place, "who", "vm-of-acme started")?;
    offering.put("infrastructure/who.j2", "{{ vm }} is right")?;
    offering.wait_for_file(place, "who", "vm-of-acme is right")?;
    offering.wait_for_problem("vm", "infrastructure", |problem| problem.is_none())
}

#[test]
fn a_medium_that_is_not_ours_is_never_taken_out() -> Result<()> {
    let Some(offering) = Offering::start(&[ENDPOINT], &[])? else {
        return Ok(());
    };
    let install = foreign(&offering)?;
    let devices = SCSI.to_owned() + &cdrom("sda", INFRA, Some(&install));
    offering.boot("vm", &devices, true)?;
    offering.wait_for_problem("vm", "infrastructure", |problem| {
        problem.is_some_and(|p| p.contains("not ours") && p.contains("install.iso"))
    })?;
    let (code, said) = offering.recontextualize(&["vm"])?;
    ensure!(code == Some(1), "{said}");
    ensure!(offering.media("vm")?["sda"].as_deref() == Some(&*install));
    ensure!(offering.metric("vmkpi_context_errors_total{reason=\"foreign\"}")? >= 2.0);
    offering
        .hypervisor
        .virsh(&["change-media", "vm", "sda", "--eject", "--live"])?;
    let (code, said) = offering.recontextualize(&["vm"])?;
    ensure!(code == Some(0), "{said}");
    let text = ENDPOINT.1;
    offering.wait_for_file(("vm", "sda", "infrastructure"), "monitoring/endpoint", text)
}

#[test]
fn a_drive_is_attached_where_there_is_none_and_only_to_vms_that_are_ours() -> Result<()> {
    let files = [ENDPOINT, ("service/a", "x")];
    let Some(offering) = Offering::start(&files, &[])? else {
        return Ok(());
    };
    offering.boot("bare", SCSI, true)?;
    let text = ENDPOINT.1;
    offering.wait_for_file(
        ("bare", "sda", "infrastructure"),
        "monitoring/endpoint",
        text,
    )?;
    offering.wait_for_file(("bare", "sdb", "service"), "a", "x")?;
    // Without a controller it is said what to add.
    offering.boot("none", "", true)?;
    offering.wait_for_problem("none", "service", |problem| {
        problem.is_some_and(|p| {
            p.contains("<serial>VMKPI_SERVICE</serial>") && p.contains("virtio-scsi")
        })
    })?;
    // Nobody has said that this one is ours, but for one drive by its label.
    let install = foreign(&offering)?;
    let devices = [
        SCSI,
        &cdrom("sda", "", None),
        &cdrom("sdb", INFRA, None),
        &cdrom("sdc", "", Some(&install)),
    ]
    .concat();
    offering.boot("stranger", &devices, false)?;
    offering.wait_for_file(
        ("stranger", "sdb", "infrastructure"),
        "monitoring/endpoint",
        text,
    )?;
    let (code, said) = offering.recontextualize(&["stranger"])?;
    ensure!(
        code == Some(0) && said["classes"]["service"]["outcome"] == "spared",
        "{said}"
    );
    let media = offering.media("stranger")?;
    ensure!(media.len() == 3 && media["sda"].is_none(), "{media:?}");
    ensure!(media["sdc"].as_deref() == Some(&*install), "{media:?}");
    Ok(())
}

#[test]
fn each_class_has_its_drive_and_one_that_is_not_offered_any_more_leaves_it() -> Result<()> {
    let files = [ENDPOINT, ("service/a", "x")];
    let Some(offering) = Offering::start(&files, &[])? else {
        return Ok(());
    };
    let devices = [
        SCSI,
        &cdrom("sda", "VMKPI_SERVICE", None),
        &cdrom("sdb", INFRA, None),
    ]
    .concat();
    offering.boot("vm", &devices, true)?;
    let text = ENDPOINT.1;
    offering.wait_for_file(("vm", "sdb", "infrastructure"), "monitoring/endpoint", text)?;
    offering.wait_for_file(("vm", "sda", "service"), "a", "x")?;
    let before = offering.media("vm")?;
    offering.put("service/a", "y")?;
    offering.wait_for_file(("vm", "sda", "service"), "a", "y")?;
    ensure!(offering.media("vm")?["sdb"] == before["sdb"], "the other's");
    offering.remove_class("service")?;
    wait_for(PATIENCE, "the medium to be taken out", || {
        offering.media("vm").ok()?["sda"].is_none().then_some(())
    })
    .with_context(|| offering.words())?;
    ensure!(offering.media("vm")?["sdb"] == before["sdb"], "the other's");
    offering.wait_for_images(1)
}

#[test]
fn a_drive_is_detached_and_attached_again_where_that_is_wanted() -> Result<()> {
    let files = [ENDPOINT, ("infrastructure/n", "0")];
    let Some(offering) = Offering::start(&files, &["--context.swap=device"])? else {
        return Ok(());
    };
    offering.boot("vm", &(SCSI.to_owned() + &cdrom("sda", INFRA, None)), true)?;
    let place = ("vm", "sda", "infrastructure");
    offering.wait_for_file(place, "n", "0")?;
    for n in ["1", "2"] {
        offering.put("infrastructure/n", n)?;
        offering.wait_for_file(place, "n", n)?;
    }
    let xml = offering.hypervisor.virsh(&["dumpxml", "vm"])?;
    ensure!(
        xml.matches("device='cdrom'").count() == 1 && xml.contains(INFRA),
        "{xml}"
    );
    ensure!(
        offering.metric("vmkpi_recontextualization_phase_seconds_sum{phase=\"detach\"}")? > 0.0
    );
    offering.wait_for_images(1)
}

#[test]
fn a_libvirtd_that_is_killed_in_the_middle_leaves_nothing_wrong() -> Result<()> {
    let files = [ENDPOINT, ("infrastructure/n", "0")];
    let Some(offering) = Offering::start(&files, &[])? else {
        return Ok(());
    };
    let place = ("vm", "sda", "infrastructure");
    offering.boot("vm", &(SCSI.to_owned() + &cdrom("sda", INFRA, None)), true)?;
    offering.wait_for_file(place, "n", "0")?;
    for n in 1..=4 {
        let text = n.to_string();
        offering.put("infrastructure/n", &text)?;
        // At another moment each time: while it is read, changed, or thereafter.
        let images = offering.images();
        let begun = || std::fs::read_dir(&images).map_or(0, Iterator::count) > 1;
        if n % 2 == 0 {
            wait_for(PATIENCE, "the new image", || begun().then_some(()))
                .or_else(|_| offering.wait_for_file(place, "n", &text))?;
        }
        offering.hypervisor.kill_libvirtd()?;
        offering.wait_for_file(place, "n", &text)?;
        offering.wait_for_images(1)?;
    }
    // Events come again.
    offering.boot(
        "later",
        &(SCSI.to_owned() + &cdrom("sda", INFRA, None)),
        true,
    )?;
    offering.wait_for_file(("later", "sda", "infrastructure"), "n", "4")
}

#[test]
fn a_daemon_that_is_killed_finds_what_has_happened_since() -> Result<()> {
    let files = [ENDPOINT, ("infrastructure/n", "0")];
    let Some(mut offering) = Offering::start(&files, &[])? else {
        return Ok(());
    };
    let devices = SCSI.to_owned() + &cdrom("sda", INFRA, None);
    for vm in ["stays", "leaves"] {
        offering.boot(vm, &devices, true)?;
        offering.wait_for_file((vm, "sda", "infrastructure"), "n", "0")?;
    }
    // Nothing has changed: nothing is changed.
    let before = offering.media("stays")?;
    offering.kill_host()?;
    offering.start_host()?;
    let (code, said) = offering.recontextualize(&["stays"])?;
    ensure!(code == Some(0), "{said}");
    ensure!(
        said["classes"]["infrastructure"]["outcome"] == "unchanged",
        "{said}"
    );
    ensure!(offering.media("stays")? == before);
    let found = "vmkpi_recontextualizations_total{event=\"found\",outcome=\"unchanged\"}";
    wait_for(PATIENCE, "both to be looked at", || {
        (offering.metric(found).ok()? >= 2.0).then_some(())
    })?;

    offering.put("infrastructure/n", "1")?;
    offering.kill_host()?;
    offering.hypervisor.virsh(&["destroy", "leaves"])?;
    offering.boot("new", &devices, true)?;
    ensure!(
        offering.count_images() >= 2,
        "nobody was there to remove them"
    );
    offering.start_host()?;
    for vm in ["stays", "new"] {
        offering.wait_for_file((vm, "sda", "infrastructure"), "n", "1")?;
    }
    offering.wait_for_images(2)
}

#[test]
fn a_vm_that_is_saved_and_restored_has_its_context_again() -> Result<()> {
    let Some(offering) = Offering::start(&[ENDPOINT, WHO], &[])? else {
        return Ok(());
    };
    let place = ("vm", "sda", "infrastructure");
    offering.boot("vm", &(SCSI.to_owned() + &cdrom("sda", INFRA, None)), true)?;
    offering.wait_for_file(place, "who", "vm-of-acme started")?;
    let file = offering.folder().join("saved").display().to_string();
    offering.hypervisor.virsh(&["save", "vm", &file])?;
    offering.wait_for_images(0)?;
    offering.hypervisor.virsh(&["restore", &file])?;
    offering.wait_for_file(place, "who", "vm-of-acme restored")?;
    ensure!(Path::new(&file).exists());
    Ok(())
}
