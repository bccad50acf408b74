//! A page of numbers for Prometheus (text format 0.0.4).

use std::fmt::Write as _;

/// A page that grows. Writing to a string cannot fail.
pub struct Page {
    prefix: &'static str,
    text: String,
}

impl Page {
    /// An empty one, of series whose names begin with `prefix`.
    pub fn new(prefix: &'static str) -> Self {
        Self {
            prefix,
            text: String::new(),
        }
    }

    /// What it says.
    pub fn into_text(self) -> String {
        self.text
    }

    /// The head of a series of this kind.
    pub fn head(&mut self, name: &str, help: &str, kind: &str) {
        let _ = writeln!(
            self.text,
            "# HELP {0}{name} {help}\n# TYPE {0}{name} {kind}",
            self.prefix
        );
    }

    /// A value of it.
    pub fn line(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        let _ = write!(self.text, "{}{name}", self.prefix);
        for (at, (label, text)) in labels.iter().enumerate() {
            let open = if at == 0 { '{' } else { ',' };
            let text = text
                .replace('\\', "\\\\")
                .replace('"', "\\\"")
                .replace('\n', "\\n");
            let _ = write!(self.text, "{open}{label}=\"{text}\"");
        }
        let close = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.text, "{close} {value}");
    }

    /// A series of one value that may fall.
    pub fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.head(name, help, "gauge");
        self.line(name, &[], value);
    }

    /// A series of one value that only grows.
    pub fn counter(&mut self, name: &str, help: &str, count: u64) {
        self.head(name, help, "counter");
        self.line(name, &[], count as f64);
    }
}
