//! Windows of KPIs and of infrastructure side by side: results of one VM over the same time, joined on (vm,
//! from, to). KPI windows follow the guest's clock and the others the host's; the skew between them stands
//! beside.

use std::collections::BTreeMap;

use vmkpi::clock::Timestamp;
use vmkpi::message::{Body, Event, Processed};
use vmkpi::name::DataPoint;

use super::text::{fit, number, safe};

/// The most VMs remembered; what comes beyond is not joined.
const MAX_VMS: usize = 200;
/// The windows remembered of each VM: results of one window come in several messages, and KPIs when
/// the next row or mark has closed it.
const MAX_WINDOWS: usize = 16;
/// The most results remembered on each side of a window.
const MAX_RESULTS: usize = 50;

/// From (included) and to (excluded).
type Span = (Timestamp, Timestamp);

/// Results by point, function, specifier and column.
type Results = BTreeMap<(String, String, String), f64>;

#[derive(Default)]
struct Window {
    kpi: Results,
    infra: Results,
}

#[derive(Default)]
struct Vm {
    /// The guest's clock minus the host's, as the last message said.
    skew_ms: Option<i32>,
    windows: BTreeMap<Span, Window>,
}

/// The last windows of each VM.
#[derive(Default)]
pub struct Windows {
    /// By site and name.
    vms: BTreeMap<(String, String), Vm>,
}

impl Windows {
    /// Takes what is new.
    pub fn update(&mut self, event: &Event) {
        let key = (event.site.as_str().to_owned(), event.vm.as_str().to_owned());
        if self.vms.len() >= MAX_VMS && !self.vms.contains_key(&key) {
            return;
        }
        let vm = self.vms.entry(key).or_default();
        vm.skew_ms = event.clock_skew_ms.or(vm.skew_ms);
        if let Body::Processed(processed) = &event.body {
            vm.take(event, processed);
        }
    }

    /// The newest window of each VM that has both sides, in at most `height` lines of `width` columns.
    pub fn render(&self, (width, height): (usize, usize)) -> Vec<String> {
        let mut lines = Vec::new();
        for ((_, name), vm) in &self.vms {
            let mut newest_first = vm.windows.iter().rev();
            let joined = newest_first.find(|(_, w)| !w.kpi.is_empty() && !w.infra.is_empty());
            if let Some((span, window)) = joined {
                lines.push(fit(&head(name, *span, vm.skew_ms), width));
                lines.extend(sides(window, width));
            }
        }
        if lines.len() > height {
            let left_out = lines.len() + 1 - height;
            lines.truncate(height.saturating_sub(1));
            lines.push(fit(&format!("... and {left_out} more lines"), width));
        }
        lines
    }
}

impl Vm {
    fn take(&mut self, event: &Event, processed: &Processed) {
        let window = self
            .windows
            .entry((processed.from, processed.to))
            .or_default();
        let results = match event.point {
            DataPoint::Kpi(..) => &mut window.kpi,
            DataPoint::Infra(..) => &mut window.infra,
        };
        for (column, value) in &processed.values {
            let what = format!("{} {}", event.point, processed.function);
            let key = (what, column.to_string(), event.specifier.to_string());
            if results.len() < MAX_RESULTS || results.contains_key(&key) {
                results.insert(key, *value);
            }
        }
        while self.windows.len() > MAX_WINDOWS {
            self.windows.pop_first();
        }
    }
}

fn head(vm: &str, (from, to): Span, skew_ms: Option<i32>) -> String {
    let clock = |time: Timestamp| time.to_string().get(11..19).unwrap_or("?").to_owned();
    let seconds = to.as_seconds_f64() - from.as_seconds_f64();
    let skew = match skew_ms {
        Some(ms) => format!("clock skew {ms:+} ms"),
        None => "clock skew not measured".to_owned(),
    };
    format!(
        "{}  {} to {} UTC ({} s), {skew}",
        safe(vm),
        clock(from),
        clock(to),
        number(seconds)
    )
}

/// The results of both sides, line by line.
fn sides(window: &Window, width: usize) -> Vec<String> {
    let room = width.saturating_sub(5) / 2;
    let count = window.kpi.len().max(window.infra.len());
    let (mut kpi, mut infra) = (window.kpi.iter(), window.infra.iter());
    let lines = (0..count).map(|_| {
        let (left, right) = (result(kpi.next(), room), result(infra.next(), room));
        format!("  {left} | {right}").trim_end().to_owned()
    });
    lines.collect()
}

fn result(result: Option<(&(String, String, String), &f64)>, room: usize) -> String {
    let Some(((what, column, _), value)) = result else {
        return fit("", room);
    };
    let value = number(*value);
    let name = fit(
        &format!("{what} {column}"),
        room.saturating_sub(value.len() + 1),
    );
    fit(&format!("{name} {value}"), room)
}

#[cfg(test)]
mod tests {
    use super::*;
    use unicode_width::UnicodeWidthStr;
    use vmkpi::position::{Position, StreamId};

    fn event(vm: &str, point: &str, window: i64, column: &str, skew: Option<i32>) -> Event {
        let micros = |ms: i64| Timestamp::from_micros(1_795_194_000_000_000 + ms * 1000);
        Event {
            site: "acme".parse().unwrap(),
            vm: vm.parse().unwrap(),
            point: point.parse().unwrap(),
            specifier: "load".parse().unwrap(),
            revision: "00".into(),
            stream: StreamId(1),
            after: Position::START,
            through: Position { seq: 1, key: None },
            base: Position::START,
            time: micros(0),
            clock_skew_ms: skew,
            body: Body::Processed(Processed {
                function: "mean".into(),
                from: micros(window * 10_000),
                to: micros((window + 1) * 10_000),
                values: [(column.into(), 41.5)].into(),
                count: [(column.into(), 10)].into(),
                rows_after: 0,
                rows_after_key: None,
                partial: false,
                forked: false,
            }),
        }
    }

    #[test]
    fn results_over_the_same_time_stand_side_by_side_with_the_skew() {
        let mut windows = Windows::default();
        windows.update(&event("shop", "unencrypted/web", 0, "users", Some(-12)));
        windows.update(&event("shop", "infra/cpu", 1, "load", None));
        assert_eq!(windows.render((80, 10)), [""; 0], "not the same time");
        windows.update(&event("shop", "infra/cpu", 0, "load", None));
        windows.update(&event("shop", "infra/net/net0", 0, "bytes", None));
        windows.update(&event("other", "infra/cpu", 0, "load", None));
        let lines = windows.render((100, 10));
        assert_eq!(lines.len(), 3, "{lines:?}");
        let head = "shop  17:00:00 to 17:00:10 UTC (10 s), clock skew -12 ms";
        assert_eq!(lines[0].trim_end(), head);
        let (left, right) = lines[1].split_once(" | ").unwrap();
        assert!(
            left.contains("unencrypted/web mean users") && left.contains("41.5"),
            "{left}"
        );
        assert!(
            right.contains("infra/cpu mean load") && right.contains("41.5"),
            "{right}"
        );
        assert!(
            lines[2].contains("| infra/net/net0 mean bytes"),
            "{lines:?}"
        );
        windows.update(&event("shop", "unencrypted/web", 1, "users", None));
        let newest = &windows.render((100, 10))[0];
        assert!(
            newest.contains("17:00:10 to 17:00:20") && newest.contains("-12 ms"),
            "{newest}"
        );
    }

    #[test]
    fn a_flood_of_vms_windows_and_columns_is_bounded() {
        let mut windows = Windows::default();
        for n in 0..300_i64 {
            for point in ["unencrypted/a\u{1b}b", "infra/cpu"] {
                let Ok(_) = point.parse::<DataPoint>() else {
                    continue;
                };
                windows.update(&event(&format!("vm{n}"), point, n, "c", None));
                windows.update(&event("vm0", point, n, "c", None));
                windows.update(&event("vm0", point, 300, &format!("c\u{1b}{n}"), None));
            }
            windows.update(&event(
                "vm0",
                "unencrypted/a",
                300,
                &format!("k\u{1b}{n}"),
                None,
            ));
        }
        assert_eq!(windows.vms.len(), MAX_VMS);
        let vm = &windows.vms[&("acme".to_owned(), "vm0".to_owned())];
        assert!(vm.windows.len() <= MAX_WINDOWS);
        assert!(vm.windows.values().all(|w| w.kpi.len() <= MAX_RESULTS));
        for (width, height) in [(20, 1), (80, 12), (200, 60)] {
            let lines = windows.render((width, height));
            assert!(!lines.is_empty() && lines.len() <= height, "{lines:?}");
            for line in lines {
                assert!(
                    line.width() <= width.max(25) && !line.contains(char::is_control),
                    "{line:?}"
                );
            }
        }
    }
}
