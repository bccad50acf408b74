//! A descriptor as people write it, before it is validated: every key has the right type, and there is no
//! key that nobody knows.

use std::path::PathBuf;

use super::DescriptorError;
use super::tree::{Node, Value};

/// The keys of a descriptor.
#[derive(Debug, Default)]
pub(super) struct Wire {
    pub(super) vm: Option<String>,
    pub(super) service: Option<String>,
    pub(super) primary_site: Option<String>,
    pub(super) primary_key: Option<String>,
    pub(super) primary_key_file: Option<PathBuf>,
    pub(super) monitor: Vec<WireMonitor>,
    pub(super) confirm: Vec<WireConfirm>,
}

/// The keys of a monitoring specifier.
#[derive(Debug, Default)]
pub(super) struct WireMonitor {
    pub(super) id: Option<String>,
    pub(super) point: Option<String>,
    pub(super) interval_ms: Option<u64>,
    pub(super) interval: Option<String>,
    pub(super) delivery_ms: Option<u64>,
    pub(super) delivery: Option<String>,
    pub(super) format: Option<String>,
    pub(super) function: Option<String>,
    pub(super) when: Option<String>,
    pub(super) seal: Option<bool>,
}

/// The keys of a Consumer whose confirmations count.
#[derive(Debug, Default)]
pub(super) struct WireConfirm {
    pub(super) name: Option<String>,
    pub(super) key: Option<String>,
}

/// Takes a table apart, key by key; what is left over nobody knows.
struct Keys<'n, 'e> {
    place: String,
    left: Vec<(&'n str, &'n Node)>,
    known: Vec<&'static str>,
    errors: &'e mut Vec<DescriptorError>,
}

impl<'n, 'e> Keys<'n, 'e> {
    fn of(place: &str, node: &'n Node, errors: &'e mut Vec<DescriptorError>) -> Option<Self> {
        let Value::Table(fields) = &node.value else {
            let message = format!("a table of keys is expected, not {}", node.value.kind());
            errors.push(DescriptorError::on(node.line, place, message));
            return None;
        };
        let mut keys = Self {
            place: place.to_owned(),
            left: Vec::new(),
            known: Vec::new(),
            errors,
        };
        for (key, node) in fields {
            if keys.left.iter().any(|(known, _)| known == key) {
                keys.refuse(key, node, "it is given twice");
            } else {
                keys.left.push((key, node));
            }
        }
        Some(keys)
    }

    fn key(&self, name: &str) -> String {
        match self.place.as_str() {
            "" => name.to_owned(),
            place => format!("{place}.{name}"),
        }
    }

    fn refuse(&mut self, name: &str, node: &Node, message: impl Into<String>) {
        let error = DescriptorError::on(node.line, self.key(name), message);
        self.errors.push(error);
    }

    fn take(&mut self, name: &'static str) -> Option<&'n Node> {
        self.known.push(name);
        let at = self.left.iter().position(|(key, _)| *key == name)?;
        Some(self.left.remove(at).1)
    }

    fn expected<T>(&mut self, name: &str, node: &Node, expected: &str) -> Option<T> {
        let found = node.value.kind();
        self.refuse(name, node, format!("{expected} is expected, not {found}"));
        None
    }

    fn text(&mut self, name: &'static str) -> Option<String> {
        let node = self.take(name)?;
        match &node.value {
            Value::Text(text) => Some(text.clone()),
            _ => self.expected(name, node, "text"),
        }
    }

    fn boolean(&mut self, name: &'static str) -> Option<bool> {
        let node = self.take(name)?;
        match node.value {
            Value::Boolean(value) => Some(value),
            _ => self.expected(name, node, "true or false"),
        }
    }

    fn milliseconds(&mut self, name: &'static str) -> Option<u64> {
        let node = self.take(name)?;
        let Value::Number(digits) = &node.value else {
            return self.expected(name, node, "a whole number of milliseconds");
        };
        let number = digits.parse().ok();
        if number.is_none() {
            let message = format!("{digits} is no whole number of milliseconds, 0 or more");
            self.refuse(name, node, message);
        }
        number
    }

    fn list(&mut self, name: &'static str) -> &'n [Node] {
        let Some(node) = self.take(name) else {
            return &[];
        };
        match &node.value {
            Value::List(items) => items,
            _ => {
                let expected = format!("a list, [[{name}]],");
                self.expected::<()>(name, node, &expected);
                &[]
            }
        }
    }

    /// Refuses what is left over.
    fn end(mut self) {
        let known = self.known.join(", ");
        for (name, node) in std::mem::take(&mut self.left) {
            self.refuse(name, node, format!("unknown key; there are {known}"));
        }
    }
}

/// Reads the keys of a descriptor. What is refused is as if it were absent.
pub(super) fn read(node: &Node, errors: &mut Vec<DescriptorError>) -> Wire {
    let mut wire = Wire::default();
    let Some(mut keys) = Keys::of("", node, errors) else {
        return wire;
    };
    wire.vm = keys.text("vm");
    wire.service = keys.text("service");
    wire.primary_site = keys.text("primary_site");
    wire.primary_key = keys.text("primary_key");
    wire.primary_key_file = keys.text("primary_key_file").map(PathBuf::from);
    let (monitors, confirms) = (keys.list("monitor"), keys.list("confirm"));
    keys.end();
    for (place, node) in (1..).zip(monitors) {
        let monitor = monitor(&format!("monitor[{place}]"), node, errors);
        wire.monitor.push(monitor);
    }
    for (place, node) in (1..).zip(confirms) {
        let confirm = confirm(&format!("confirm[{place}]"), node, errors);
        wire.confirm.push(confirm);
    }
    wire
}

fn monitor(place: &str, node: &Node, errors: &mut Vec<DescriptorError>) -> WireMonitor {
    let Some(mut keys) = Keys::of(place, node, errors) else {
        return WireMonitor::default();
    };
    let monitor = WireMonitor {
        id: keys.text("id"),
        point: keys.text("point"),
        interval_ms: keys.milliseconds("interval_ms"),
        interval: keys.text("interval"),
        delivery_ms: keys.milliseconds("delivery_ms"),
        delivery: keys.text("delivery"),
        format: keys.text("format"),
        function: keys.text("function"),
        when: keys.text("when"),
        seal: keys.boolean("seal"),
    };
    keys.end();
    monitor
}

fn confirm(place: &str, node: &Node, errors: &mut Vec<DescriptorError>) -> WireConfirm {
    let Some(mut keys) = Keys::of(place, node, errors) else {
        return WireConfirm::default();
    };
    let confirm = WireConfirm {
        name: keys.text("name"),
        key: keys.text("key"),
    };
    keys.end();
    confirm
}
