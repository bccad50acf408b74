//! What a domain's XML says of it and of its devices, and the exporters show beside the figures: series
//! whose value is 1 and whose labels say it. Paths of the host are not among them.

use crate::metrics::{Labels, MAX_DEVICES, Metric, Page};

/// The longest label; a guest's owner may have chosen it.
const MAX_LABEL_CHARS: usize = 256;

/// One series: its labels after `domain` and `uuid`, in the order of the metric's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// Which.
    pub metric: Metric,
    /// The labels' values.
    pub values: Vec<String>,
}

impl Info {
    /// Adds it to the page.
    pub fn add(&self, page: &mut Page, vm: &Labels) {
        let names = &self.metric.about().labels[2..];
        let labels = names.iter().zip(&self.values);
        let labels = labels.fold(vm.clone(), |all, (name, value)| all.with(name, value));
        page.add(self.metric, &labels, 1.0);
    }
}

/// What is looked for in one element: below which path, in which attribute (none: its text), and the
/// label that it is.
type Place = (&'static [&'static str], Option<&'static str>, &'static str);

const DISK: &[Place] = &[
    (&[], Some("type"), "disk_type"),
    (&["driver"], Some("name"), "driver_name"),
    (&["driver"], Some("type"), "driver_type"),
    (&["driver"], Some("cache"), "driver_cache"),
    (&["driver"], Some("discard"), "driver_discard"),
    (&["target"], Some("dev"), "target_device"),
    (&["target"], Some("bus"), "target_bus"),
    (&["serial"], None, "serial"),
];

const INTERFACE: &[Place] = &[
    (&[], Some("type"), "interface_type"),
    (&["mac"], Some("address"), "mac_address"),
    (&["source"], Some("bridge"), "source_bridge"),
    (&["target"], Some("dev"), "target_device"),
    (&["model"], Some("type"), "model_type"),
    (&["mtu"], Some("size"), "mtu_size"),
];

const OS: &[Place] = &[
    (&[], None, "os_type"),
    (&[], Some("arch"), "os_type_arch"),
    (&[], Some("machine"), "os_type_machine"),
];

/// OpenStack's (`nova:instance`).
const INSTANCE: &[Place] = &[
    (&["name"], None, "instance_name"),
    (&["flavor"], Some("name"), "flavor_name"),
    (&["owner", "user"], None, "user_name"),
    (&["owner", "user"], Some("uuid"), "user_id"),
    (&["owner", "project"], None, "project_name"),
    (&["owner", "project"], Some("uuid"), "project_id"),
];

/// An element that becomes a series.
struct Kind {
    path: &'static [&'static str],
    metric: Metric,
    places: &'static [Place],
    /// The label without which there is none.
    needs: &'static str,
}

const KINDS: &[Kind] = &[
    Kind {
        path: &["domain", "os", "type"],
        metric: Metric::DomainInfo,
        places: OS,
        needs: "os_type",
    },
    Kind {
        path: &["domain", "metadata", "instance"],
        metric: Metric::OpenstackInfo,
        places: INSTANCE,
        needs: "instance_name",
    },
    Kind {
        path: &["domain", "devices", "disk"],
        metric: Metric::BlockInfo,
        places: DISK,
        needs: "target_device",
    },
    Kind {
        path: &["domain", "devices", "interface"],
        metric: Metric::NetInfo,
        places: INTERFACE,
        needs: "target_device",
    },
];

/// Collects series while a domain's XML is read.
#[derive(Default)]
pub(super) struct Collector {
    open: Option<(&'static Kind, Info)>,
    found: Vec<Info>,
}

impl Collector {
    /// An element begins; `path` ends with it.
    pub fn start(&mut self, path: &[String], attribute: impl Fn(&str) -> Option<String>) {
        if self.open.is_none() {
            self.open = KINDS.iter().find(|kind| is(path, kind.path)).map(|kind| {
                let metric = kind.metric;
                let values = vec![String::new(); metric.about().labels.len() - 2];
                (kind, Info { metric, values })
            });
        }
        self.set(path, |name| attribute(name?));
    }

    /// Text of the element that `path` ends with, or a part of it.
    pub fn text(&mut self, path: &[String], text: &str) {
        self.set(path, |name| name.is_none().then(|| text.to_owned()));
    }

    /// The element that `path` ends with ends.
    pub fn end(&mut self, path: &[String]) {
        let Some((kind, mut info)) = self.open.take_if(|(kind, _)| is(path, kind.path)) else {
            return;
        };
        for value in &mut info.values {
            *value = value.trim().to_owned();
        }
        let of_kind = |i: &&Info| i.metric == info.metric;
        let room = self.found.iter().filter(of_kind).count() < MAX_DEVICES;
        let names = &info.metric.about().labels[2..];
        let needed = names
            .iter()
            .zip(&info.values)
            .find(|(n, _)| **n == kind.needs);
        let twice = |other: &Info| {
            let mut names = names.iter().zip(info.values.iter().zip(&other.values));
            other.metric == info.metric && names.any(|(n, (a, b))| *n == kind.needs && a == b)
        };
        let is_new = !self.found.iter().any(twice);
        if room && is_new && needed.is_some_and(|(_, value)| !value.is_empty()) {
            self.found.push(info);
        }
    }

    /// What was found.
    pub fn finish(self) -> Vec<Info> {
        self.found
    }

    fn set(&mut self, path: &[String], value: impl Fn(Option<&str>) -> Option<String>) {
        let Some((kind, info)) = &mut self.open else {
            return;
        };
        let names = &info.metric.about().labels[2..];
        let below = path.get(kind.path.len()..).unwrap_or_default();
        for (_, attribute, label) in kind.places.iter().filter(|(p, ..)| is(below, p)) {
            let at = names.iter().position(|name| name == label);
            let (Some(at), Some(value)) = (at, value(*attribute)) else {
                continue;
            };
            let room = MAX_LABEL_CHARS.saturating_sub(info.values[at].chars().count());
            info.values[at].extend(value.chars().take(room));
        }
    }
}

/// Whether the elements of a path have these names, whatever their prefixes.
fn is(path: &[String], names: &[&str]) -> bool {
    let mut pairs = path.iter().zip(names);
    path.len() == names.len() && pairs.all(|(a, b)| a.rsplit(':').next() == Some(b))
}
