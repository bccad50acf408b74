//! Functions over the samples of a window. Only numeric, finite values count; sums and means are in
//! f64, in the order of the rows, so that whoever computes a window gets the same bits.

use std::collections::BTreeMap;

use crate::descriptor::{Function, MAX_WINDOW_SAMPLES};
use crate::value::Value;

/// The ending of a counter's name. A counter is processed as a rate per second, within one window
/// and one epoch, and never as its raw value.
pub(crate) const COUNTER: &str = "_total";
/// The ending of a rate's name.
pub(crate) const RATE: &str = "_per_second";

/// What a column takes besides its name and values, in bytes, about: itself and its place in the map.
const COLUMN_BYTES: usize = size_of::<Column>() + 2 * size_of::<Box<str>>();

/// One column's values so far.
#[derive(Clone, Debug, Default)]
struct Column {
    count: u64,
    sum: f64,
    min: f64,
    max: f64,
    last: f64,
    /// Every value, where the function needs them in order.
    values: Vec<f64>,
    /// A counter's last value and its time in microseconds.
    counter: Option<(f64, i64)>,
}

/// The accumulated samples of a window.
#[derive(Clone, Debug)]
pub struct Aggregate {
    function: Function,
    columns: BTreeMap<Box<str>, Column>,
    held_bytes: usize,
}

impl Aggregate {
    /// Nothing yet.
    pub fn new(function: Function) -> Self {
        Self {
            function,
            columns: BTreeMap::new(),
            held_bytes: 0,
        }
    }

    /// The function that is applied.
    pub fn function(&self) -> Function {
        self.function
    }

    /// Bytes that it holds, about.
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Adds a sample taken at `micros` microseconds.
    pub fn add(&mut self, columns: &[Box<str>], values: &[Value], micros: i64) {
        for (name, value) in columns.iter().zip(values) {
            let Some(number) = value.as_f64() else {
                continue;
            };
            if !self.columns.contains_key(name) {
                self.columns.insert(name.clone(), Column::default());
                self.held_bytes += COLUMN_BYTES + name.len();
            }
            if let Some(column) = self.columns.get_mut(name) {
                let kept = column.values.len();
                column.add(name.ends_with(COUNTER), number, micros, self.function);
                self.held_bytes += (column.values.len() - kept) * size_of::<f64>();
            }
        }
    }

    /// The result and the count of each column. A column whose function needs more values in order
    /// than [`MAX_WINDOW_SAMPLES`] has a count and no result.
    pub fn result(&self) -> (BTreeMap<Box<str>, f64>, BTreeMap<Box<str>, u64>) {
        let (mut values, mut counts) = (BTreeMap::new(), BTreeMap::new());
        for (name, column) in self.columns.iter().filter(|(_, c)| c.count > 0) {
            let name: Box<str> = match name.strip_suffix(COUNTER) {
                Some(stem) => format!("{stem}{RATE}").into(),
                None => name.clone(),
            };
            counts.insert(name.clone(), column.count);
            if let Some(result) = column.result(self.function).filter(|r| r.is_finite()) {
                values.insert(name, result);
            }
        }
        (values, counts)
    }
}

fn needs_order(function: Function) -> bool {
    matches!(function, Function::Median | Function::P90 | Function::P99)
}

impl Column {
    fn add(&mut self, counter: bool, number: f64, micros: i64, function: Function) {
        if counter {
            let before = self.counter.replace((number, micros));
            // A counter that fell was reset: what it counted meanwhile is not known.
            if let Some((old, then)) = before
                && number >= old
                && micros > then
            {
                let seconds = (micros - then) as f64 / 1e6;
                self.push((number - old) / seconds, function);
            }
        } else {
            self.push(number, function);
        }
    }

    fn push(&mut self, number: f64, function: Function) {
        let first = self.count == 0;
        self.count += 1;
        self.sum += number;
        self.last = number;
        self.min = if first { number } else { self.min.min(number) };
        self.max = if first { number } else { self.max.max(number) };
        if needs_order(function) && self.values.len() as u64 <= MAX_WINDOW_SAMPLES {
            self.values.push(number);
        }
    }

    fn result(&self, function: Function) -> Option<f64> {
        match function {
            Function::Min => Some(self.min),
            Function::Max => Some(self.max),
            Function::Mean => Some(self.sum / self.count as f64),
            Function::Sum => Some(self.sum),
            Function::Count => Some(self.count as f64),
            Function::Last => Some(self.last),
            Function::Median | Function::P90 | Function::P99 => self.in_order(function),
        }
    }

    fn in_order(&self, function: Function) -> Option<f64> {
        if self.values.len() as u64 != self.count {
            return None;
        }
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        let n = sorted.len();
        // Nearest rank: the smallest value with at least p percent of all at or below it.
        let rank = |percent: usize| sorted[(n * percent).div_ceil(100).max(1) - 1];
        Some(match function {
            Function::P90 => rank(90),
            Function::P99 => rank(99),
            _ if n % 2 == 1 => sorted[n / 2],
            _ => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(function: Function, name: &str, samples: &[(Value, i64)]) -> (Option<f64>, u64) {
        let mut aggregate = Aggregate::new(function);
        for (value, seconds) in samples {
            aggregate.add(
                &[name.into()],
                std::slice::from_ref(value),
                seconds * 1_000_000,
            );
        }
        let (values, counts) = aggregate.result();
        (
            values.values().next().copied(),
            counts.values().next().copied().unwrap_or(0),
        )
    }

    #[test]
    fn functions_say_what_their_names_say() {
        let samples: Vec<_> = [4, 1, 3, 2].map(|i| (Value::Integer(i), i)).into();
        for (function, expected) in [
            (Function::Min, 1.0),
            (Function::Max, 4.0),
            (Function::Mean, 2.5),
            (Function::Median, 2.5),
            (Function::P90, 4.0),
            (Function::P99, 4.0),
            (Function::Sum, 10.0),
            (Function::Count, 4.0),
            (Function::Last, 2.0),
        ] {
            assert_eq!(
                apply(function, "a", &samples),
                (Some(expected), 4),
                "{function:?}"
            );
        }
        let ten: Vec<_> = (1..=10).map(|i| (Value::Real(f64::from(i)), 0)).collect();
        assert_eq!(apply(Function::P90, "a", &ten).0, Some(9.0));
        assert_eq!(apply(Function::Median, "a", &ten[..3]).0, Some(2.0));
    }

    #[test]
    fn what_is_no_number_is_left_out() {
        let samples = [
            (Value::Null, 0),
            (Value::Text("7".into()), 0),
            (Value::Integer(3), 0),
        ];
        assert_eq!(apply(Function::Mean, "a", &samples), (Some(3.0), 1));
        assert_eq!(apply(Function::Mean, "a", &samples[..2]), (None, 0));
        let huge = [(Value::Real(f64::MAX), 0), (Value::Real(f64::MAX), 0)];
        assert_eq!(
            apply(Function::Sum, "a", &huge),
            (None, 2),
            "not finite: a count alone"
        );
    }

    #[test]
    fn a_counter_is_a_rate_and_a_reset_is_left_out() {
        let samples = [10, 20, 5, 8]
            .map(Value::Integer)
            .into_iter()
            .zip([0, 5, 6, 7]);
        let samples: Vec<_> = samples.collect();
        assert_eq!(
            apply(Function::Mean, "rx_bytes_total", &samples),
            (Some(2.5), 2)
        );
        let mut aggregate = Aggregate::new(Function::Max);
        aggregate.add(&["x_total".into()], &[Value::Integer(1)], 0);
        assert!(aggregate.result().0.is_empty(), "one value is no rate");
        aggregate.add(&["x_total".into()], &[Value::Integer(2)], 1_000_000);
        assert_eq!(
            aggregate.result().0.keys().next().map(|k| &**k),
            Some("x_per_second")
        );
    }

    #[test]
    fn a_median_over_its_budget_has_a_count_and_no_value() {
        let one = [(Value::Integer(1), 0)];
        let mut aggregate = Aggregate::new(Function::Median);
        for _ in 0..=MAX_WINDOW_SAMPLES + 1 {
            aggregate.add(&["a".into()], std::slice::from_ref(&one[0].0), 0);
        }
        let (values, counts) = aggregate.result();
        assert!(values.is_empty());
        assert_eq!(counts["a"], MAX_WINDOW_SAMPLES + 2);
    }
}
