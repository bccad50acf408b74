//! From text to a valid descriptor: each spelling is read into [`Wire`], and one validator makes a
//! [`Descriptor`] of it or says everything that is wrong.

use std::collections::HashSet;
use std::path::Path;

use super::{
    Descriptor, DescriptorError, Format, Function, MAX_DESCRIPTOR_BYTES, MAX_INTERVAL_MS,
    MAX_MONITORS, MAX_WINDOW_SAMPLES, MIN_INFRA_INTERVAL_MS, MIN_RSA_BITS, Monitor, Spelling, Wire,
    WireMonitor, xml,
};
use crate::name::{Label, PointPattern};

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
    let wire = read(text, spelling).map_err(|e| vec![e])?;
    validate(wire, read_key).map_err(|mut errors| {
        if spelling == Spelling::Toml {
            for error in &mut errors {
                error.line = toml_line(text, &error.key);
            }
        }
        errors
    })
}

fn read(text: &str, spelling: Spelling) -> Result<Wire, DescriptorError> {
    match spelling {
        Spelling::Toml => toml::from_str(text).map_err(|e| DescriptorError {
            line: e.span().map(|span| line_of(text, span.start)),
            key: String::new(),
            message: e.message().trim().to_owned(),
        }),
        Spelling::Json => serde_json::from_str(text).map_err(|e| DescriptorError {
            line: (e.line() > 0).then(|| e.line()),
            key: String::new(),
            message: e.to_string(),
        }),
        Spelling::Xml => xml::read(text),
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    let before = &text.as_bytes()[..offset.min(text.len())];
    1 + before.iter().filter(|b| **b == b'\n').count()
}

/// The line of `key` in a TOML text: its own, or that of its `[[monitor]]` where it is absent.
fn toml_line(text: &str, key: &str) -> Option<usize> {
    let (index, field) = match key.strip_prefix("monitor[").and_then(|k| k.split_once(']')) {
        Some((index, rest)) => (index.parse::<usize>().ok(), rest.trim_start_matches('.')),
        None => (None, key),
    };
    let (mut section, mut header) = (0, None);
    for (at, line) in text.lines().enumerate().map(|(at, l)| (at + 1, l.trim())) {
        if line.starts_with('[') {
            section += usize::from(line.replace(' ', "").starts_with("[[monitor]]"));
            if index == Some(section) && header.is_none() {
                header = Some(at);
            }
        }
        let here = index.unwrap_or(0) == section;
        let names_field = line
            .strip_prefix(field)
            .is_some_and(|rest| rest.trim_start().starts_with('='));
        if here && !field.is_empty() && names_field {
            return Some(at);
        }
    }
    header
}

fn validate(
    wire: Wire,
    read_key: &dyn Fn(&Path) -> std::io::Result<String>,
) -> Result<Descriptor, Errors> {
    let mut errors = Vec::new();
    let vm = required(wire.vm.as_deref(), "vm", &mut errors);
    let service = wire
        .service
        .and_then(|s| checked(s.parse(), "service", &mut errors));
    let primary_site = required(wire.primary_site.as_deref(), "primary_site", &mut errors);
    let primary_key = match (wire.primary_key, wire.primary_key_file) {
        (Some(_), Some(_)) => {
            let message = "give either primary_key or primary_key_file, not both";
            errors.push(DescriptorError::at("primary_key_file", message));
            None
        }
        (Some(pem), None) => check_key("primary_key", &pem, &mut errors),
        (None, Some(path)) => match read_key(&path) {
            Ok(pem) => check_key("primary_key_file", &pem, &mut errors),
            Err(e) => {
                let message = format!("{}: {e}", path.display());
                errors.push(DescriptorError::at("primary_key_file", message));
                None
            }
        },
        (None, None) => None,
    };
    if wire.confirm.is_some() {
        errors.push(unsupported("confirm"));
    }
    let monitors = validate_monitors(wire.monitor, &mut errors);
    match (vm, primary_site) {
        (Some(vm), Some(primary_site)) if errors.is_empty() => Ok(Descriptor {
            vm,
            service,
            primary_site,
            primary_key,
            monitors,
        }),
        _ => Err(errors),
    }
}

fn unsupported(key: impl Into<String>) -> DescriptorError {
    DescriptorError::at(key, "not supported by this version of vmkpi; leave it out")
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
    let problem = match rsa_bits(pem) {
        Some(bits) if bits >= MIN_RSA_BITS => return Some(pem.trim().to_owned()),
        Some(bits) => format!("an RSA key of {bits} bits; {MIN_RSA_BITS} or more are needed"),
        None => "not an RSA public key in PEM (\"-----BEGIN PUBLIC KEY-----\")".to_owned(),
    };
    errors.push(DescriptorError::at(key, problem));
    None
}

/// rsaEncryption (RFC 8017, appendix A.1).
const RSA_ENCRYPTION: spki::ObjectIdentifier =
    spki::ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");

/// The bits of the modulus of an RSA public key in PEM.
fn rsa_bits(pem: &str) -> Option<usize> {
    use spki::der::{Decode, DecodePem};
    let info = spki::SubjectPublicKeyInfoOwned::from_pem(pem.trim()).ok()?;
    if info.algorithm.oid != RSA_ENCRYPTION {
        return None;
    }
    let key = pkcs1::RsaPublicKey::from_der(info.subject_public_key.as_bytes()?).ok()?;
    let modulus = key.modulus.as_bytes();
    let leading_zeros = modulus.first()?.leading_zeros() as usize;
    Some(modulus.len() * 8 - leading_zeros)
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
    if wire.when.is_some() {
        errors.push(unsupported(key("when")));
    }
    if wire.seal.is_some() {
        errors.push(unsupported(key("seal")));
    }
    let monitor = Monitor {
        id: id?,
        point: point?,
        interval_ms: interval_ms?,
        delivery_ms: delivery_ms?,
        format: format?,
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
    if !monitor.point.is_kpi() && (1..MIN_INFRA_INTERVAL_MS).contains(&interval) {
        refuse(
            "interval_ms",
            format!("infrastructure is sampled at most every {MIN_INFRA_INTERVAL_MS} ms"),
        );
    }
}
