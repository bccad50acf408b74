//! What needs attention, and what to do about it. Pure: a status in, sentences out.

use std::collections::BTreeMap;

use vmkpi::context::Class;
use vmkpi::link::VERSION;

use super::{Context, LinkState, Live, Status, Vm};

/// How long a row may wait beyond the window it is in, while the broker is connected.
const LATE_MS: u64 = 60_000;

/// How full the outbox may be, in hundredths of its limit.
const FULL_PERCENT: u64 = 90;

/// Says, in `status`, what a person should do, the most urgent first; and that all is well when there is nothing.
pub(super) fn advise(status: &mut Status) {
    status.advice = match &status.live {
        None => vec![
            "vmkpi-host does not run: start it (systemctl start vmkpi-host); rows wait in the guests".into(),
        ],
        Some(live) => {
            let all = [libvirt(live), broker(live), outbox(live), unknown(live)];
            all.into_iter().flatten().chain(folders(live)).collect()
        }
    };
    let live = status.live.as_ref();
    let broker = live.is_some_and(|live| live.broker.connected);
    for vm in &mut status.vms {
        vm.advice = of_vm(vm, broker);
    }
    let quiet = status.vms.iter().all(|vm| vm.advice.is_empty());
    status.healthy = status.running && status.advice.is_empty() && quiet;
}

fn libvirt(live: &Live) -> Option<String> {
    let libvirt = &live.libvirt;
    (!libvirt.connected).then(|| {
        format!(
            "libvirt does not answer at {}: see that libvirtd (or virtqemud) runs and that this user may connect \
             (group libvirt); the log has the reason",
            libvirt.uri
        )
    })
}

fn broker(live: &Live) -> Option<String> {
    let broker = &live.broker;
    (!broker.connected).then(|| {
        format!(
            "no broker is connected at {}: see that it runs and takes our login; rows wait in the guests, \
             measurements in the outbox; the log has the reason",
            broker.url
        )
    })
}

fn outbox(live: &Live) -> Option<String> {
    let outbox = &live.outbox;
    if outbox.errors > 0 {
        return Some(format!(
            "the outbox could not be written or read {} times since the start: look at the log and the state \
             directory's disk; a restart begins the count anew",
            outbox.errors
        ));
    }
    (outbox.bytes > outbox.limit_bytes / 100 * FULL_PERCENT).then(|| {
        format!(
            "the outbox has {} of its {} bytes: see why measurements are not acknowledged, or raise \
             outbox.max_bytes; at the limit the oldest are lost",
            outbox.bytes, outbox.limit_bytes
        )
    })
}

fn unknown(live: &Live) -> Option<String> {
    let unknown = &live.unknown_domains;
    (live.libvirt.connected && !unknown.is_empty()).then(|| {
        format!(
            "no domain is called {}: correct [guest] and [descriptor], or define it",
            unknown.join(", ")
        )
    })
}

/// What is wrong with the folders of contexts, and with who puts them into drives.
fn folders(live: &Live) -> Vec<String> {
    let Some(context) = &live.context else {
        return Vec::new();
    };
    let of = context.problems.iter().map(|problem| {
        format!(
            "{problem}; correct it (vmkpi-host run --check): VMs keep the context that was read before"
        )
    });
    let stuck = (context.stuck > 0).then(|| {
        format!(
            "{} calls that change a VM's context do not return: see to libvirtd and these VMs (virsh domjobinfo)",
            context.stuck
        )
    });
    let others = context.others.iter();
    let others = others.flat_map(|(domain, of)| {
        wrong(domain, of).map(move |problem| format!("{domain}: {problem}"))
    });
    of.chain(stuck).chain(others).collect()
}

/// Contexts that are not what they should be.
fn contexts(vm: &Vm) -> Vec<String> {
    wrong(&vm.domain, &vm.context).collect()
}

fn wrong(domain: &str, of: &BTreeMap<Class, Context>) -> impl Iterator<Item = String> {
    of.iter().filter_map(move |(class, context)| {
        let problem = context.problem.as_ref()?;
        Some(format!(
            "its context of class {class} is not as it should be: {problem}; it is tried again, at once by \
             vmkpi-host recontextualize {domain}"
        ))
    })
}

fn of_vm(vm: &Vm, broker: bool) -> Vec<String> {
    let all = [
        descriptor(vm),
        link(vm),
        unresponsive(vm),
        late(vm, broker),
        lost(vm),
    ];
    all.into_iter().flatten().chain(contexts(vm)).collect()
}

fn descriptor(vm: &Vm) -> Option<String> {
    let error = vm.descriptor.error.as_ref()?;
    let then = match vm.vm {
        Some(_) => "the one before stays in force",
        None => "nothing of this VM is published",
    };
    Some(format!(
        "its descriptor is refused, and {then}: {error}; correct it (vmkpi descriptor check)"
    ))
}

fn link(vm: &Vm) -> Option<String> {
    if !vm.link.wanted || vm.state != "running" {
        return None;
    }
    if let Some(version) = vm.link.other_version {
        return Some(other_version(version));
    }
    let at = vm.link.address.as_deref().unwrap_or("nowhere");
    match vm.link.state {
        LinkState::Up => None,
        LinkState::None => Some(
            "its guest's KPIs are monitored and it has no link: give the domain the channel \
             org.vmkpi.kpi.0, or name the link in [guest]"
                .into(),
        ),
        LinkState::Silent => Some(format!(
            "its guest does not answer on {at}: see that vmkpi-guest runs in it, and uses this link"
        )),
        LinkState::Down => {
            if at.starts_with("tls at ") {
                return Some(format!(
                    "its guest has not come in ({at}): see that its context or its configuration names this host, \
                     and vmkpi_link_refusals_total"
                ));
            }
            let problem = vm.link.problem.as_deref().unwrap_or("connection closed");
            Some(format!(
                "its link {at} cannot be opened ({problem}): see that the guest is up, that this user may open the \
                 socket (docs/HOST.md, Rights), and that nobody else has it open"
            ))
        }
    }
}

/// Neither end can be made to speak the other's version; the older one has to be replaced.
fn other_version(theirs: u32) -> String {
    let newer = match theirs > VERSION {
        true => "this vmkpi-host",
        false => "the vmkpi-guest in it",
    };
    format!(
        "its guest speaks version {theirs} of the link and this host version {VERSION}: update {newer}; until then its \
         rows wait in the guest"
    )
}

fn unresponsive(vm: &Vm) -> Option<String> {
    vm.unresponsive.then(|| {
        "its hypervisor process does not answer libvirt: see to it (virsh domstate, virsh domjobinfo); it is asked \
         by itself until it answers"
            .into()
    })
}

/// Rows that wait though there is somebody to take them.
fn late(vm: &Vm, broker: bool) -> Option<String> {
    let oldest = vm.oldest_unacknowledged_ms?;
    (broker && oldest > vm.window_ms.saturating_add(LATE_MS)).then(|| {
        format!(
            "rows have waited {} s for an acknowledgement though the broker is connected: see that it takes what is \
             published below vmkpi/v1/{}/ (permissions, size of messages)",
            oldest / 1000,
            vm.primary_site.as_deref().unwrap_or("SITE")
        )
    })
}

fn lost(vm: &Vm) -> Option<String> {
    let Vm {
        messages_refused,
        infra_lost,
        ..
    } = vm;
    if *messages_refused > 0 {
        return Some(format!(
            "{messages_refused} of its messages could never be delivered and became gaps: the log says which; a \
             restart begins the count anew"
        ));
    }
    (*infra_lost > 0).then(|| {
        format!(
            "measurements of {infra_lost} moments were lost as the outbox was full: raise outbox.max_bytes, or see why \
             they were not acknowledged; a restart begins the count anew"
        )
    })
}
