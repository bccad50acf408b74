//! Self-protection: what is not delivered from a place whose legislation the service's policy does not allow
//! (Armstrong et al. 2015, "Life cycle": legislations). The policy comes from the image, the place's legislation from
//! the context. Pure.

use std::collections::BTreeSet;
use std::str::FromStr;

use vmkpi::name::{DataPoint, PointPattern};

/// The longest identifier of a legislation.
const MAX_BYTES: usize = 64;

/// Under which legislation a place is: a country, a union, whatever owner and providers agree upon. Letters, digits,
/// `-`, `_` and `.`; upper and lower case are two things.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Legislation(String);

impl Legislation {
    /// Its identifier.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Legislation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        match (1..=MAX_BYTES).contains(&text.len()) && text.bytes().all(plain) {
            true => Ok(Self(text.to_owned())),
            false => Err(format!(
                "{:?} is no legislation: write an identifier such as SE, at most {MAX_BYTES} of A-Z a-z 0-9 - _ .",
                text.chars().take(64).collect::<String>()
            )),
        }
    }
}

/// Which points are delivered from places of which legislations alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Those that are allowed; none: every place is.
    pub legislations: BTreeSet<Legislation>,
    /// The points that are held elsewhere; none: all of them.
    pub points: Vec<PointPattern>,
}

impl Policy {
    /// Why the points are held where the context says `said` of its legislation; `None`: they are not. A place that
    /// says nothing is not allowed: silence would be the way around every policy.
    pub fn objection(&self, said: Option<&str>) -> Option<String> {
        if self.legislations.is_empty() {
            return None;
        }
        let Some(said) = said else {
            return Some("the context does not say under which legislation the VM runs".into());
        };
        match said.trim().parse::<Legislation>() {
            Ok(here) if self.legislations.contains(&here) => None,
            Ok(here) => Some(format!(
                "the VM runs under legislation {}, and the policy allows {}",
                here.as_str(),
                self.allowed()
            )),
            Err(error) => Some(format!("the context's legislation cannot be read: {error}")),
        }
    }

    /// Whether a point is one of those that are held.
    pub fn covers(&self, point: &DataPoint) -> bool {
        self.points.is_empty() || self.points.iter().any(|pattern| pattern.matches(point))
    }

    /// What is allowed, as it is written.
    pub fn allowed(&self) -> String {
        let all: Vec<_> = self.legislations.iter().map(Legislation::as_str).collect();
        all.join(",")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(legislations: &[&str], points: &[&str]) -> Policy {
        Policy {
            legislations: legislations.iter().map(|l| l.parse().unwrap()).collect(),
            points: points.iter().map(|p| p.parse().unwrap()).collect(),
        }
    }

    #[test]
    fn nothing_is_held_without_a_policy_and_all_is_where_nothing_is_said() {
        let none = Policy::default();
        assert_eq!(none.objection(None), None);
        assert_eq!(none.objection(Some("US")), None);
        let policy = policy(&["SE", "EU"], &[]);
        for held in [
            None,
            Some(""),
            Some("US"),
            Some("se"),
            Some("SE EU"),
            Some("SE\nUS"),
        ] {
            assert!(policy.objection(held).is_some(), "{held:?}");
        }
        for allowed in ["SE", "EU\n", " SE\r\n"] {
            assert_eq!(policy.objection(Some(allowed)), None, "{allowed:?}");
        }
        let why = policy.objection(Some("US")).unwrap();
        assert!(why.contains("US") && why.contains("EU,SE"), "{why}");
        let long = "x".repeat(10_000);
        assert!(policy.objection(Some(&long)).unwrap().len() < 400);
    }

    #[test]
    fn a_policy_without_points_is_about_all_of_them() {
        let point = |text: &str| text.parse::<DataPoint>().unwrap();
        assert!(policy(&["SE"], &[]).covers(&point("unencrypted/web")));
        let some = policy(&["SE"], &["unencrypted/patient-*", "encrypted/*"]);
        assert!(some.covers(&point("unencrypted/patient-7")) && some.covers(&point("encrypted/x")));
        assert!(!some.covers(&point("unencrypted/web")));
    }
}
