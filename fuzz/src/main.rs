//! Fuzz targets for everything of vmkpi that reads what others wrote. Each asserts what must hold of whatever
//! bytes come: what is taken survives being written and read again, what is refused is refused with a
//! reason, limits hold, and nothing panics. `tools/fuzz.sh` builds and runs them.
#![no_main]

mod images;
mod lines;
mod machines;
mod texts;
mod vouched;

// As they are, without the packages around them.
#[path = "../../guest/src/csv.rs"]
mod csv;
#[path = "../../host/src/libvirt/xml.rs"]
mod domain_xml;
#[path = "../../host/src/libvirt/info.rs"]
#[allow(dead_code, reason = "only what reads XML is fuzzed")]
mod info;
#[path = "../../host/src/metrics.rs"]
#[allow(dead_code, reason = "what reads XML knows the metrics it is for")]
mod metrics;

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

/// A target.
type Target = fn(&[u8]);

/// Every target by its name, which is its corpus' name too.
const TARGETS: &[(&str, Target)] = &[
    ("host_line", lines::host_line),
    ("guest_line", lines::guest_line),
    ("line_reader", lines::line_reader),
    ("producer", machines::producer),
    ("spool", machines::spool),
    ("csv", texts::csv),
    ("names", texts::names),
    ("descriptor", texts::descriptor),
    ("domain_xml", texts::domain_xml),
    ("event", texts::event),
    ("image", images::image),
    ("question", vouched::question),
    ("answer", vouched::answer),
    ("envelope", vouched::envelope),
    ("signature", vouched::signature),
];

static TARGET: OnceLock<Target> = OnceLock::new();

/// The target that VMKPI_FUZZ names.
fn chosen() -> Target {
    let name = std::env::var("VMKPI_FUZZ").unwrap_or_default();
    match TARGETS.iter().find(|(known, _)| *known == name) {
        Some((_, target)) => *target,
        None => {
            let known: Vec<_> = TARGETS.iter().map(|(known, _)| *known).collect();
            panic!("VMKPI_FUZZ={name:?}: choose one of {}", known.join(", "))
        }
    }
}

fuzz_target!(|data: &[u8]| TARGET.get_or_init(chosen)(data));
