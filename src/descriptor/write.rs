//! From a descriptor to each of its spellings. Whatever is read again is the same descriptor.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::{
    Descriptor, Format, MAX_MONITORS, METADATA_NAMESPACE, Monitor, OVF_NAMESPACES, Spelling,
};

/// Keys with their values.
type Keys = Vec<(&'static str, Scalar)>;

enum Scalar {
    Text(String),
    Number(u64),
    Truth(bool),
}

/// What every spelling has: the descriptor's own keys, and those of its lists.
struct Parts {
    own: Keys,
    primary_key: Option<String>,
    monitors: Vec<Keys>,
    confirms: Vec<Keys>,
}

pub(super) fn write(descriptor: &Descriptor, spelling: Spelling) -> String {
    let parts = Parts::of(descriptor);
    match spelling {
        Spelling::Toml => toml(&parts),
        Spelling::Json => json(&parts),
        Spelling::Xml => metadata(&parts),
        Spelling::Ovf => envelope(descriptor, &parts),
    }
}

impl Parts {
    fn of(descriptor: &Descriptor) -> Self {
        let text = |text: &dyn ToString| Scalar::Text(text.to_string());
        let mut own = vec![("vm", text(&descriptor.vm))];
        own.extend(descriptor.service.iter().map(|s| ("service", text(s))));
        own.push(("primary_site", text(&descriptor.primary_site)));
        // The default for infrastructure is one more than may be given; left out, it comes again.
        let given = descriptor.monitors.iter().take(MAX_MONITORS);
        let confirms = descriptor.confirm.iter().map(|confirm| {
            let key = BASE64.encode(confirm.key);
            vec![("name", text(&confirm.name)), ("key", Scalar::Text(key))]
        });
        Self {
            own,
            primary_key: descriptor.primary_key.clone(),
            monitors: given.map(monitor).collect(),
            confirms: confirms.collect(),
        }
    }
}

fn monitor(monitor: &Monitor) -> Keys {
    let text = |text: &dyn ToString| Scalar::Text(text.to_string());
    let mut keys = vec![
        ("id", text(&monitor.id)),
        ("point", text(&monitor.point)),
        ("interval_ms", Scalar::Number(monitor.interval_ms)),
        ("delivery_ms", Scalar::Number(monitor.delivery_ms)),
    ];
    match monitor.format {
        Format::Raw => keys.push(("format", text(&"raw"))),
        Format::Processed(function) => {
            keys.push(("format", text(&"processed")));
            keys.push(("function", text(&function.as_str())));
        }
    }
    keys.extend(monitor.when.iter().map(|when| ("when", text(when))));
    if monitor.seal {
        keys.push(("seal", Scalar::Truth(true)));
    }
    keys
}

fn toml(parts: &Parts) -> String {
    let mut out = String::new();
    toml_keys(&mut out, &parts.own);
    if let Some(pem) = &parts.primary_key {
        // PEM has neither quotes nor backslashes. A newline after the quotes is no part of the text.
        push(
            &mut out,
            format_args!("primary_key = \"\"\"\n{pem}\"\"\"\n"),
        );
    }
    let lists = [("confirm", &parts.confirms), ("monitor", &parts.monitors)];
    for (name, keys) in lists
        .iter()
        .flat_map(|(n, l)| l.iter().map(move |k| (n, k)))
    {
        push(&mut out, format_args!("\n[[{name}]]\n"));
        toml_keys(&mut out, keys);
    }
    out
}

fn toml_keys(out: &mut String, keys: &Keys) {
    for (key, value) in keys {
        match value {
            Scalar::Number(number) => push(out, format_args!("{key} = {number}\n")),
            Scalar::Truth(truth) => push(out, format_args!("{key} = {truth}\n")),
            Scalar::Text(text) => push(out, format_args!("{key} = {}\n", toml_text(text))),
        }
    }
}

/// A basic string (TOML 1.0).
fn toml_text(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => push(&mut out, format_args!("\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out + "\""
}

fn json(parts: &Parts) -> String {
    use serde_json::{Map, Value};
    let object = |keys: &Keys| -> Map<String, Value> {
        let fields = keys.iter().map(|(key, value)| {
            let value = match value {
                Scalar::Text(text) => Value::from(text.as_str()),
                Scalar::Number(number) => Value::from(*number),
                Scalar::Truth(truth) => Value::from(*truth),
            };
            ((*key).to_owned(), value)
        });
        fields.collect()
    };
    let list = |list: &[Keys]| Value::Array(list.iter().map(|k| object(k).into()).collect());
    let mut all = object(&parts.own);
    if let Some(pem) = &parts.primary_key {
        all.insert("primary_key".into(), pem.as_str().into());
    }
    if !parts.confirms.is_empty() {
        all.insert("confirm".into(), list(&parts.confirms));
    }
    all.insert("monitor".into(), list(&parts.monitors));
    format!("{:#}\n", Value::Object(all))
}

/// The envelope with nothing in it but one virtual system and its section (DSP0243, section 7).
fn envelope(descriptor: &Descriptor, parts: &Parts) -> String {
    let [ovf, _] = OVF_NAMESPACES;
    let vm = xml_text(descriptor.vm.as_str());
    let begin = "<vmkpi:MonitoringSection ovf:required=\"false\"";
    let info = "<ovf:Info>How the virtual machine is monitored</ovf:Info>";
    let inner = element(parts, "vmkpi:", "    ", begin, info);
    let section = format!("{inner}    </vmkpi:MonitoringSection>\n");
    format!(
        r#"<?xml version="1.0" encoding="UTF-8"?>
<ovf:Envelope xmlns:ovf="{ovf}" xmlns:vmkpi="{METADATA_NAMESPACE}">
  <ovf:References/>
  <ovf:VirtualSystem ovf:id="{vm}">
    <ovf:Info>A virtual machine</ovf:Info>
{section}  </ovf:VirtualSystem>
</ovf:Envelope>
"#
    )
}

/// The element of the metadata. Its namespace is the default one: libvirt declares a prefix of its own, and
/// refuses an element that has declared the same.
fn metadata(parts: &Parts) -> String {
    let begin = format!("<monitoring xmlns=\"{METADATA_NAMESPACE}\"");
    element(parts, "", "", &begin, "") + "</monitoring>\n"
}

/// The descriptor's element but its end, at an indentation; `begin` is its name, `first` what it begins with.
fn element(parts: &Parts, prefix: &str, indent: &str, begin: &str, first: &str) -> String {
    let mut out = format!("{indent}{begin}");
    attributes(&mut out, &parts.own);
    out.push_str(">\n");
    if !first.is_empty() {
        push(&mut out, format_args!("{indent}  {first}\n"));
    }
    if let Some(pem) = &parts.primary_key {
        let (pem, name) = (xml_text(pem), format!("{prefix}primary_key"));
        push(&mut out, format_args!("{indent}  <{name}>{pem}</{name}>\n"));
    }
    let lists = [("confirm", &parts.confirms), ("monitor", &parts.monitors)];
    for (item, list) in lists {
        for keys in list {
            push(&mut out, format_args!("{indent}  <{prefix}{item}"));
            attributes(&mut out, keys);
            out.push_str("/>\n");
        }
    }
    out
}

fn attributes(out: &mut String, keys: &Keys) {
    for (key, value) in keys {
        match value {
            Scalar::Number(number) => push(out, format_args!(" {key}=\"{number}\"")),
            Scalar::Truth(truth) => push(out, format_args!(" {key}=\"{truth}\"")),
            Scalar::Text(text) => {
                // A parser would make blanks of them (XML 1.0, section 3.3.3).
                let text = xml_text(text).replace('\n', "&#10;").replace('\t', "&#9;");
                push(out, format_args!(" {key}=\"{text}\""));
            }
        }
    }
}

fn xml_text(text: &str) -> String {
    quick_xml::escape::escape(text).into_owned()
}

fn push(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = out.write_fmt(text);
}
