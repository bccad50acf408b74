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

/// A boot sector that locks the tray of the IDE CD-ROM `hdc`, again and again:
///
/// ```text
/// 7c00  cli; cld; xor ax,ax; mov ds,ax
/// 7c06  select 0x176 (master); wait while busy; features 0, 8 bytes; command 0xa0 (PACKET); wait while busy
/// 7c2b  no data wanted: again; outsw 6 words of the packet at 7c43: PREVENT MEDIUM REMOVAL (SCSI MMC)
/// 7c3a  wait a while; again
/// ```
const LOCK: [u8; 79] = [
    0xfa, 0xfc, 0x31, 0xc0, 0x8e, 0xd8, 0xba, 0x76, 0x01, 0xb0, 0xa0, 0xee, 0x42, 0xec, 0xa8, 0x80,
    0x75, 0xfb, 0xba, 0x71, 0x01, 0x30, 0xc0, 0xee, 0xba, 0x74, 0x01, 0xee, 0x42, 0xb0, 0x08, 0xee,
    0xba, 0x77, 0x01, 0xb0, 0xa0, 0xee, 0xec, 0xa8, 0x80, 0x75, 0xfb, 0xa8, 0x08, 0x74, 0xd7, 0xba,
    0x70, 0x01, 0xbe, 0x43, 0x7c, 0xb9, 0x06, 0x00, 0xf3, 0x6f, 0xb9, 0xff, 0xff, 0xe4, 0x80, 0xe2,
    0xfc, 0xeb, 0xc3, 0x1e, 0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
];

/// A boot sector that does nothing.
const HALT: [u8; 4] = [0xfa, 0xf4, 0xeb, 0xfd];

/// Writes a disk that boots it.
fn disk(offering: &Offering, program: &[u8]) -> Result<std::path::PathBuf> {
    let path = offering.folder().join("boot.disk");
    let mut sectors = vec![0; 1 << 20];
    sectors[..program.len()].copy_from_slice(program);
    sectors[510..512].copy_from_slice(&[0x55, 0xaa]);
    // The same file: QEMU has it open.
    let mut file = std::fs::File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)?;
    std::io::Write::write_all(&mut file, &sectors)?;
    Ok(path)
}

/// A VM that boots it, with a CD-ROM on IDE, whose guest locks the tray.
fn locked(offering: &Offering) -> Result<()> {
    let devices = format!(
        "<disk type='file' device='disk'><driver name='qemu' type='raw' cache='none'/><source file='{}'/><target dev='vda' bus='virtio'/></disk>{}",
        disk(offering, &LOCK)?.display(),
        cdrom("hdc", INFRA, None).replace("bus='scsi'", "bus='ide'")
    );
    offering.boot("vm", &devices, true)?;
    wait_for(PATIENCE, "the guest to lock the tray", || {
        let show = ["qemu-monitor-command", "vm", "--hmp", "info block"];
        let said = offering.hypervisor.virsh(&show).ok()?;
        said.contains("Removable device: locked").then_some(())
    })
}

#[test]
#[ignore = "libvirt 9.0 may take a tray for open that the guest has shut, until it is restarted; make soak"]
fn a_guest_that_holds_the_medium_is_asked_again_until_it_lets_go() -> Result<()> {
    let Some(offering) = Offering::start(&[("infrastructure/n.j2", "{{ event }}")], &[])? else {
        return Ok(());
    };
    locked(&offering)?;
    let (code, said) = offering.recontextualize(&["vm", "--event=asked"])?;
    let problem = &said["classes"]["infrastructure"]["problem"];
    let problem = problem.as_str().unwrap_or_default();
    ensure!(
        code == Some(1) && problem.contains("does not let go"),
        "{said}"
    );
    offering.wait_for_problem("vm", "infrastructure", |problem| {
        problem.is_some_and(|p| p.contains("context.force"))
    })?;
    // Another VM is not held up by it.
    offering.boot(
        "free",
        &(SCSI.to_owned() + &cdrom("sda", INFRA, None)),
        true,
    )?;
    offering.wait_for_file(("free", "sda", "infrastructure"), "n", "started")?;
    disk(&offering, &HALT)?;
    offering.hypervisor.virsh(&["reset", "vm"])?;
    offering.wait_for_file(("vm", "hdc", "infrastructure"), "n", "asked")?;
    offering.wait_for_problem("vm", "infrastructure", |problem| problem.is_none())
}

#[test]
fn a_medium_is_taken_from_a_guest_that_holds_it_only_if_the_operator_says_so() -> Result<()> {
    let files = [("infrastructure/n.j2", "{{ event }}")];
    let Some(offering) = Offering::start(&files, &["--context.force=true"])? else {
        return Ok(());
    };
    locked(&offering)?;
    // The guest goes on locking it; in the end it is forced.
    offering.recontextualize(&["vm", "--event=forced"])?;
    offering.wait_for_file(("vm", "hdc", "infrastructure"), "n", "forced")
}

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

    let said = offering.recontextualize_well(&["vm", "--event=deploy-7"])?;
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
    let said = offering.recontextualize_well(&["vm", "--class=infrastructure"])?;
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
    offering.wait_for_problem("vm", "infrastructure", |problem| problem.is_none())?;
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
    let eject = ["change-media", "vm", "sda", "--eject", "--live"];
    wait_for(PATIENCE, "the BIOS to let go of the tray", || {
        offering.hypervisor.virsh(&eject).ok()
    })?;
    offering.recontextualize_well(&["vm"])?;
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
    let said = offering.recontextualize_well(&["stranger"])?;
    ensure!(said["classes"]["service"]["outcome"] == "spared", "{said}");
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
        let media = offering.media("vm").ok()?;
        media.get("sda")?.is_none().then_some(())
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
    for n in 1..=6 {
        let text = n.to_string();
        offering.put("infrastructure/n", &text)?;
        // At another moment each time: before it is read, or while it is changed.
        let read = || offering.host.words().matches("read anew").count() >= n;
        if n % 2 == 0 {
            wait_for(PATIENCE, "the folder to be read", || read().then_some(()))?;
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
    offering.wait_for_file(("later", "sda", "infrastructure"), "n", "6")
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
    let said = offering.recontextualize_well(&["stays"])?;
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
