//! Infrastructure measurements: from libvirt's figures to rows of `infra/GROUP[/DEVICE]`, and the
//! [`Lane`] they are delivered on.
//!
//! Nothing of the host is in a row: devices have the guest's names, and paths are never read.

mod lane;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use vmkpi::descriptor::{Descriptor, MIN_INFRA_INTERVAL_MS};
use vmkpi::name::DataPoint;
use vmkpi::value::Value;

use crate::libvirt::figures::{Figures, Group, Reading, Readings};

pub use lane::{Lane, Of};

/// One row, before it has a number.
#[derive(Clone, Debug, PartialEq)]
pub struct Measurement {
    /// Which point it is of.
    pub point: DataPoint,
    /// The names of the values.
    pub columns: Arc<[Box<str>]>,
    /// The values.
    pub values: Vec<Value>,
}

/// The rows that `figures` make. `interfaces` names network devices as the guest has them.
pub fn measurements(
    figures: &Figures,
    interfaces: &BTreeMap<String, String>,
) -> impl Iterator<Item = Measurement> {
    figures.groups().filter_map(|(group, index, readings)| {
        let device = device_name(group, index, readings, interfaces);
        let columns = readings.readings.iter().map(|r| r.figure.column.into());
        let values = readings.readings.iter().map(Reading::value);
        let named = device.iter().map(String::as_str);
        Some(Measurement {
            point: point(group, device.as_deref())?,
            columns: named
                .clone()
                .map(|_| "device".into())
                .chain(columns)
                .collect(),
            values: named.map(|d| Value::Text(d.into())).chain(values).collect(),
        })
    })
}

fn point(group: Group, device: Option<&str>) -> Option<DataPoint> {
    let device = match device {
        Some(device) => Some(device.parse().ok()?),
        None => None,
    };
    Some(DataPoint::Infra(group.as_str().parse().ok()?, device))
}

/// The guest's name of a device: a disk's target, an interface's alias in place of the host's tap.
fn device_name(
    group: Group,
    index: u32,
    readings: &Readings,
    interfaces: &BTreeMap<String, String>,
) -> Option<String> {
    match group {
        Group::Net => {
            let alias = readings.name.as_ref().and_then(|tap| interfaces.get(tap));
            Some(alias.cloned().unwrap_or_else(|| format!("net{index}")))
        }
        Group::Block => {
            let target = readings.name.clone();
            Some(target.unwrap_or_else(|| format!("block{index}")))
        }
        _ if group.has_devices() => {
            Some(readings.name.clone().unwrap_or_else(|| index.to_string()))
        }
        _ => None,
    }
}

/// The shortest interval at which `descriptor` wants infrastructure; none of it can be nothing.
pub fn pace(descriptor: &Descriptor) -> Option<Duration> {
    let infra = descriptor.monitors.iter().filter(|m| !m.point.is_kpi());
    infra
        .map(|m| Duration::from_millis(m.interval_ms.max(MIN_INFRA_INTERVAL_MS)))
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::libvirt::figures::Param;

    fn figures(cpu_ns: u64) -> Figures {
        let mut figures = Figures::default();
        figures.set("state.state", Param::Number(1));
        figures.set("cpu.time", Param::Number(cpu_ns));
        figures.set("net.0.name", Param::Text("vnet7"));
        figures.set("net.0.rx.bytes", Param::Number(5));
        figures.set("block.0.name", Param::Text("vda"));
        figures.set("block.0.path", Param::Text("/secret/path.qcow2"));
        figures.set("block.0.rd.bytes", Param::Number(9));
        figures
    }

    #[test]
    fn rows_have_the_guests_names_and_nothing_of_the_host() {
        let interfaces = BTreeMap::from([("vnet7".to_owned(), "net0".to_owned())]);
        let rows: Vec<_> = measurements(&figures(1), &interfaces).collect();
        let points: Vec<_> = rows.iter().map(|m| m.point.to_string()).collect();
        assert_eq!(
            points,
            [
                "infra/state",
                "infra/cpu",
                "infra/net/net0",
                "infra/block/vda"
            ]
        );
        let block = &rows[3];
        assert_eq!(&*block.columns[0], "device");
        assert_eq!(block.values[0], Value::Text("vda".into()));
        let all = format!("{rows:?}");
        assert!(!all.contains("vnet") && !all.contains("secret"), "{all}");
    }
}
