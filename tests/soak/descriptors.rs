//! The descriptors of a soak. Each VM's changes again and again; two of its specifiers are always there, so
//! that every row is accounted for, and the others change, go and come back.

use std::fmt::Write as _;

use anyhow::{Result, anyhow};
use vmkpi::descriptor::{Descriptor, Monitor, Spelling};

use crate::seed::Seed;

/// What a specifier may say that is now this, now that.
pub const FLIPS: [&str; 7] = [
    "interval_ms = 1000",
    "interval_ms = 500\ndelivery_ms = 1000\nfunction = \"max\"",
    "when = \"n % 2 == 0\"",
    "delivery_ms = 2000",
    "delivery_ms = 1000\nfunction = \"count\"\nwhen = \"n > 1000000.0\"",
    "interval_ms = 1000\nfunction = \"last\"\nwhen = \"absent > 1\"",
    "",
];

const WINDOWS: [&str; 4] = [
    "delivery_ms = 1000\nfunction = \"count\"",
    "delivery_ms = 2000\nfunction = \"mean\"",
    "interval_ms = 200\ndelivery_ms = 1000\nfunction = \"sum\"",
    "interval_ms = 500\nfunction = \"min\"",
];

/// The specifier that comes and goes.
pub const FLIP: &str = "flip";

/// The text of a descriptor of `vm`.
pub fn draw(vm: &str, seed: &mut Seed) -> String {
    let delivery_ms = 1000 * seed.below(3);
    let mut text = format!("vm = \"{vm}\"\nprimary_site = \"acme\"\n");
    for (id, directory) in [("every-row", "unencrypted"), ("every-blob", "encrypted")] {
        specifier(
            &mut text,
            id,
            &format!("{directory}/*"),
            &format!("delivery_ms = {delivery_ms}"),
        );
    }
    let windows = pick(&WINDOWS, seed);
    specifier(&mut text, "windows", "unencrypted/*", windows);
    let infra = ["interval_ms = 250", "interval_ms = 500\ndelivery_ms = 1000"];
    specifier(&mut text, "infra", "infra/*", pick(&infra, seed));
    if seed.below(3) > 0 {
        specifier(&mut text, FLIP, "unencrypted/*", pick(&FLIPS, seed));
    }
    text
}

fn pick<'a>(choices: &[&'a str], seed: &mut Seed) -> &'a str {
    choices[usize::try_from(seed.below(choices.len() as u64)).unwrap_or(0)]
}

fn specifier(text: &mut String, id: &str, point: &str, rest: &str) {
    // Writing to a String never fails.
    let _ = write!(
        text,
        "[[monitor]]\nid = \"{id}\"\npoint = \"{point}\"\n{rest}\n"
    );
}

/// The descriptors that a VM has had, oldest first.
#[derive(Default)]
pub struct History(Vec<(String, Descriptor)>);

impl History {
    /// Notes one.
    ///
    /// # Errors
    /// It is none.
    pub fn add(&mut self, text: &str) -> Result<()> {
        let no_file = |_: &std::path::Path| Err(std::io::Error::other("none"));
        let descriptor = Descriptor::parse(text, Spelling::Toml, &no_file)
            .map_err(|errors| anyhow!("{errors:?} in {text}"))?;
        self.0.push((descriptor.revision(), descriptor));
        Ok(())
    }

    /// What a specifier said in a revision.
    pub fn monitor(&self, revision: &str, id: &str) -> Option<&Monitor> {
        let (_, descriptor) = self.0.iter().find(|(r, _)| r == revision)?;
        descriptor.monitors.iter().find(|m| m.id.as_str() == id)
    }

    /// Whether a specifier was ever away.
    pub fn was_away(&self, id: &str) -> bool {
        let has = |d: &Descriptor| d.monitors.iter().any(|m| m.id.as_str() == id);
        !self.0.iter().all(|(_, descriptor)| has(descriptor))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_descriptor_is_valid_and_they_differ() {
        let (mut seed, mut history) = (Seed(1), History::default());
        for _ in 0..300 {
            history.add(&draw("vm0", &mut seed)).unwrap();
        }
        let revisions: std::collections::HashSet<_> = history.0.iter().map(|(r, _)| r).collect();
        assert!(revisions.len() > 50);
        assert!(history.was_away(FLIP) && !history.was_away("every-row"));
    }
}
