//! From text to a valid descriptor: each spelling is read into a tree and then [`Wire`], and one validator makes a
//! [`Descriptor`] of it or says everything that is wrong.

use std::collections::HashSet;
use std::path::Path;

use super::wire::{self, Wire, WireConfirm, WireMonitor};
use super::{
    Confirm, Descriptor, DescriptorError, Format, Function, MAX_CONFIRMS, MAX_DESCRIPTOR_BYTES,
    MAX_INTERVAL_MS, MAX_MONITORS, MAX_WINDOW_SAMPLES, MIN_INFRA_INTERVAL_MS, Monitor, Spelling,
    keys, tree,
};
use crate::delivery::function::{COUNTER, RATE};
use crate::name::{Label, PointPattern};
use crate::when::When;

type Errors = Vec<DescriptorError>;

pub(super) fn parse(
    text: &str,
    spelling: Spelling,
    read_key: &dyn Fn(&Path) -> std::io::Result<String>,
) -> Result<Descriptor, Errors> {
    if text.len() > MAX_DESCRIPTOR_BYTES {
        let message = format!(
            "{} bytes; at most {MAX_DESCRIPTOR_BYTES} are read",
            text.len()
        );
        return Err(vec![DescriptorError::at("", message)]);
    }
    let (tree, mut errors) = tree::read(text, spelling)?;
    let mut wire = wire::read(&tree, &mut errors);
    if matches!(spelling, Spelling::Xml | Spelling::Ovf) && wire.primary_key_file.take().is_some() {
        let message = "XML has the key itself, in <vmkpi:primary_key>, and names no file";
        errors.push(DescriptorError::at("primary_key_file", message));
    }
    let descriptor = validate(wire, read_key, &mut errors);
    for error in &mut errors {
        error.line = error.line.or_else(|| tree.line_of(&error.key));
    }
    errors.sort_by_key(|error| error.line);
    match descriptor {
        Some(descriptor) if errors.is_empty() => Ok(descriptor),
        _ => Err(errors),
    }
}

fn validate(
    wire: Wire,
    read_key: &dyn Fn(&Path) -> std::io::Result<String>,
    errors: &mut Errors,
) -> Option<Descriptor> {
    let vm = required(wire.vm.as_deref(), "vm", errors);
    let service = wire
        .service
        .and_then(|s| checked(s.parse(), "service", errors));
    let primary_site = required(wire.primary_site.as_deref(), "primary_site", errors);
    // One that is wrong is told for itself.
    let has_key = wire.primary_key.is_some() || wire.primary_key_file.is_some();
    let primary_key = match (wire.primary_key, wire.primary_key_file) {
        (Some(_), Some(_)) => {
            let message = "give either primary_key or primary_key_file, not both";
            errors.push(DescriptorError::at("primary_key_file", message));
            None
        }
        (Some(pem), None) => check_key("primary_key", &pem, errors),
        (None, Some(path)) => match read_key(&path) {
            Ok(pem) => check_key("primary_key_file", &pem, errors),
            Err(e) => {
                let message = format!("{}: {e}", path.display());
                errors.push(DescriptorError::at("primary_key_file", message));
                None
            }
        },
        (None, None) => None,
    };
    let confirm = validate_confirms(wire.confirm, errors);
    let sealed = wire.monitor.iter().position(|m| m.seal == Some(true));
    if let Some(place) = sealed.filter(|_| !has_key) {
        let message = "nobody to seal for: give primary_key or primary_key_file";
        let key = format!("monitor[{}].seal", place + 1);
        errors.push(DescriptorError::at(key, message));
    }
    let monitors = validate_monitors(wire.monitor, errors);
    Some(Descriptor {
        vm: vm?,
        service,
        primary_site: primary_site?,
        primary_key,
        confirm,
        monitors,
    })
}

fn validate_confirms(wire: Vec<WireConfirm>, errors: &mut Errors) -> Vec<Confirm> {
    if wire.len() > MAX_CONFIRMS {
        let message = format!(
            "{} Consumers; at most {MAX_CONFIRMS} are allowed",
            wire.len()
        );
        errors.push(DescriptorError::at("confirm", message));
        return Vec::new();
    }
    let mut confirms: Vec<Confirm> = Vec::new();
    for (place, wire) in (1..).zip(wire) {
        let key = |field: &str| format!("confirm[{place}].{field}");
        let name: Option<Label> = required(wire.name.as_deref(), &key("name"), errors);
        let public = match &wire.key {
            Some(text) => checked(keys::ed25519(text), &key("key"), errors),
            None => required::<Label>(None, &key("key"), errors).map(|_| [0; 32]),
        };
        let (Some(name), Some(public)) = (name, public) else {
            continue;
        };
        if confirms.iter().any(|known| known.name == name) {
            let message = format!("{:?} is the name of an earlier Consumer", name.as_str());
            errors.push(DescriptorError::at(key("name"), message));
        } else {
            confirms.push(Confirm { name, key: public });
        }
    }
    confirms
}

fn required<T>(value: Option<&str>, key: &str, errors: &mut Errors) -> Option<T>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    match value {
        Some(text) => checked(text.parse(), key, errors),
        None => {
            errors.push(DescriptorError::at(key, "missing; it must be given"));
            None
        }
    }
}

fn checked<T, E: std::fmt::Display>(
    result: Result<T, E>,
    key: &str,
    errors: &mut Errors,
) -> Option<T> {
    result
        .map_err(|e| errors.push(DescriptorError::at(key, e.to_string())))
        .ok()
}

fn check_key(key: &str, pem: &str, errors: &mut Errors) -> Option<String> {
    checked(keys::check_rsa(pem), key, errors)?;
    Some(pem.trim().replace("\r\n", "\n"))
}

fn validate_monitors(wire: Vec<WireMonitor>, errors: &mut Errors) -> Vec<Monitor> {
    if wire.len() > MAX_MONITORS {
        let message = format!(
            "{} specifiers; at most {MAX_MONITORS} are allowed",
            wire.len()
        );
        errors.push(DescriptorError::at("monitor", message));
        return Vec::new();
    }
    let mut monitors = Vec::new();
    let mut ids = HashSet::new();
    for (place, wire) in (1..).zip(wire) {
        let place_key = format!("monitor[{place}]");
        let Some(monitor) = validate_monitor(wire, place, &place_key, errors) else {
            continue;
        };
        if ids.insert(monitor.id.clone()) {
            monitors.push(monitor);
        } else {
            let message = format!(
                "{:?} is the id of an earlier specifier",
                monitor.id.as_str()
            );
            errors.push(DescriptorError::at(format!("{place_key}.id"), message));
        }
    }
    if monitors.iter().all(|m| m.point.is_kpi()) {
        monitors.push(default_infra(&ids));
    }
    monitors
}

/// All VMs are accounted for: what a descriptor without a specifier for infrastructure gets.
fn default_infra(taken: &HashSet<Label>) -> Monitor {
    let id = (0..)
        .map(|n| match n {
            0 => "infra".to_owned(),
            n => format!("infra-{n}"),
        })
        .filter_map(|id| id.parse().ok())
        .find(|id| !taken.contains(id))
        .expect("a finite set does not hold every number");
    Monitor {
        id,
        point: "infra/*".parse().expect("a valid pattern"),
        interval_ms: 10_000,
        delivery_ms: 60_000,
        format: Format::Processed(Function::Mean),
        when: None,
        seal: false,
    }
}

fn validate_monitor(
    wire: WireMonitor,
    place: usize,
    place_key: &str,
    errors: &mut Errors,
) -> Option<Monitor> {
    let before = errors.len();
    let key = |field: &str| format!("{place_key}.{field}");
    let id = match &wire.id {
        Some(id) => checked(id.parse(), &key("id"), errors),
        None => format!("monitor-{place}").parse().ok(),
    };
    let point: Option<PointPattern> = required(wire.point.as_deref(), &key("point"), errors);
    let interval_ms = interval(wire.interval_ms, wire.interval, &key("interval"), errors);
    let delivery_ms = interval(wire.delivery_ms, wire.delivery, &key("delivery"), errors);
    let format = format_of(
        wire.format.as_deref(),
        wire.function.as_deref(),
        place_key,
        errors,
    );
    let when = wire.when.as_deref().map(str::parse);
    let when = when.and_then(|parsed| checked(parsed, &key("when"), errors));
    let monitor = Monitor {
        id: id?,
        point: point?,
        interval_ms: interval_ms?,
        delivery_ms: delivery_ms?,
        format: format?,
        when,
        seal: wire.seal.unwrap_or(false),
    };
    check_together(&monitor, place_key, errors);
    (errors.len() == before).then_some(monitor)
}

fn interval(ms: Option<u64>, text: Option<String>, key: &str, errors: &mut Errors) -> Option<u64> {
    let value = match (ms, text) {
        (Some(_), Some(_)) => Err(format!("give either {key} or {key}_ms, not both")),
        (Some(ms), None) => Ok(ms),
        (None, Some(text)) => duration_ms(&text)
            .ok_or_else(|| format!("{text:?} is no duration: write \"500ms\", \"10s\", \"5m\"")),
        (None, None) => Ok(0),
    };
    let value = value.and_then(|ms| match ms {
        0..=MAX_INTERVAL_MS => Ok(ms),
        _ => Err(format!("{ms} ms is more than a day ({MAX_INTERVAL_MS} ms)")),
    });
    match value {
        Ok(ms) => Some(ms),
        Err(message) => {
            let named = if ms.is_some() {
                format!("{key}_ms")
            } else {
                key.to_owned()
            };
            errors.push(DescriptorError::at(named, message));
            None
        }
    }
}

/// `500ms`, `10s`, `5m`, `1h`, `1d` in milliseconds.
fn duration_ms(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

fn format_of(
    format: Option<&str>,
    function: Option<&str>,
    place_key: &str,
    errors: &mut Errors,
) -> Option<Format> {
    let names = || Function::ALL.map(Function::as_str).join(", ");
    let (field, message) = match (format, function) {
        (None | Some("raw"), None) => return Some(Format::Raw),
        (None | Some("processed"), Some(name)) => match Function::from_name(name) {
            Some(function) => return Some(Format::Processed(function)),
            None => (
                "function",
                format!("unknown function {name:?}; there are {}", names()),
            ),
        },
        (Some("processed"), None) => (
            "function",
            format!("missing; processed needs one of {}", names()),
        ),
        (Some("raw"), Some(_)) => (
            "function",
            "raw delivers every sample: leave function out, or write format = \"processed\""
                .to_owned(),
        ),
        (Some(other), _) => (
            "format",
            format!("unknown format {other:?}; there are raw and processed"),
        ),
    };
    errors.push(DescriptorError::at(format!("{place_key}.{field}"), message));
    None
}

/// What is legal alone and impossible together.
fn check_together(monitor: &Monitor, place_key: &str, errors: &mut Errors) {
    let (interval, delivery) = (monitor.interval_ms, monitor.delivery_ms);
    let mut refuse = |field: &str, message: String| {
        errors.push(DescriptorError::at(format!("{place_key}.{field}"), message));
    };
    if interval > 0 && delivery > 0 && delivery % interval != 0 {
        refuse(
            "delivery_ms",
            format!("{delivery} is not a multiple of interval_ms, {interval}"),
        );
    }
    if delivery.checked_div(interval).unwrap_or(0) > MAX_WINDOW_SAMPLES {
        refuse(
            "delivery_ms",
            format!(
                "more than {MAX_WINDOW_SAMPLES} samples a delivery; sample or deliver otherwise"
            ),
        );
    }
    if matches!(monitor.format, Format::Processed(_)) {
        if monitor.window_ms() == 0 {
            refuse(
                "delivery_ms",
                "processed needs a delivery_ms or an interval_ms above 0".to_owned(),
            );
        }
        if monitor.point.is_encrypted() {
            refuse(
                "format",
                "an encrypted point cannot be processed: nobody but the key's owner reads it"
                    .to_owned(),
            );
        }
    }
    if let Some(when) = &monitor.when
        && let Some(message) = check_when(when, monitor)
    {
        refuse("when", message);
    }
    if monitor.seal && monitor.point.is_encrypted() {
        let message = "an encrypted point is sealed by its application; nobody else seals it again";
        refuse("seal", message.to_owned());
    }
    if !monitor.point.is_kpi() && (1..MIN_INFRA_INTERVAL_MS).contains(&interval) {
        refuse(
            "interval_ms",
            format!("infrastructure is sampled at most every {MIN_INFRA_INTERVAL_MS} ms"),
        );
    }
}

/// Why a predicate can never hold for what a specifier delivers, where that is certain: which columns a
/// KPI has, only its application knows.
fn check_when(when: &When, monitor: &Monitor) -> Option<String> {
    if monitor.point.is_encrypted() {
        return Some(
            "an encrypted point has no values to ask: nobody but the key's owner reads it".into(),
        );
    }
    let processed = matches!(monitor.format, Format::Processed(_));
    let counter = when.columns().find_map(|c| c.strip_suffix(COUNTER));
    counter.filter(|_| processed).map(|stem| {
        format!("{stem}{COUNTER} is a counter, and processed as a rate: ask for {stem}{RATE}")
    })
}
