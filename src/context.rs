//! What host and guest agree on about context: configuration that is offered to a VM while it runs, by class, on a
//! virtual CD-ROM each, and that the guest shows as one tree of layers (Armstrong et al., "Contextualization: dynamic
//! configuration of virtual machines", 2015; "Runtime Virtual Machine Recontextualization for Clouds", 2013).

use std::fmt;
use std::str::FromStr;

use crate::text::text_serde;

/// What the volume labels of contexts begin with; the class follows, in capitals.
pub const LABEL_PREFIX: &str = "VMKPI_";

/// The class that the infrastructure offers, the provider who runs the VM at the moment.
pub const INFRASTRUCTURE: &str = "infrastructure";

/// The class that comes with the service, from its owner.
pub const SERVICE: &str = "service";

/// The file that holds the link's URL.
pub const ENDPOINT_FILE: &str = "monitoring/endpoint";

/// The file that says under which legislation the VM runs.
pub const LEGISLATION_FILE: &str = "legislation";

/// The file at the top of the context partition that holds the number of its last change.
pub const GENERATION_FILE: &str = "generation";

/// The largest image of a layer, in bytes: contexts are configuration, not data.
pub const MAX_IMAGE_BYTES: u64 = 64 << 20;

/// The most files and directories of a layer.
pub const MAX_ENTRIES: usize = 4096;

/// The deepest path of a layer, in names.
pub const MAX_DEPTH: usize = 16;

/// The longest name in a path, in bytes.
pub const MAX_NAME_BYTES: usize = 255;

/// The longest class: with its prefix it fills a volume identifier of ISO 9660 (32 characters).
const MAX_CLASS_BYTES: usize = 32 - LABEL_PREFIX.len();

/// By whom a context is offered: `service`, `infrastructure`, or a name of the provider's own. Lower-case letters,
/// digits and `_`, which are what a volume label has, up to 26, a letter first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Class(String);

/// Text that is no class.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0:?} is no context class: write a lower-case letter, then lower-case letters, digits or _, at most {MAX_CLASS_BYTES} in all"
)]
pub struct ClassError(String);

impl Class {
    /// Its name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The volume label of its media.
    pub fn label(&self) -> String {
        format!("{LABEL_PREFIX}{}", self.0.to_ascii_uppercase())
    }

    /// The class of a medium with that label; `None` if it is no context.
    pub fn of_label(label: &str) -> Option<Self> {
        let class = label.strip_prefix(LABEL_PREFIX)?;
        let lower = class.bytes().any(|b| b.is_ascii_lowercase());
        class.to_ascii_lowercase().parse().ok().filter(|_| !lower)
    }
}

impl FromStr for Class {
    type Err = ClassError;

    fn from_str(text: &str) -> Result<Self, ClassError> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        let good = text.len() <= MAX_CLASS_BYTES
            && text.bytes().all(plain)
            && text.starts_with(|c: char| c.is_ascii_lowercase());
        match good {
            true => Ok(Self(text.to_owned())),
            false => Err(ClassError(text.chars().take(64).collect())),
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

text_serde!(Class);

/// Whether a name may be in a layer: UTF-8 without control characters or `/`, not `.` or `..`, and not too long.
pub fn is_legal_name(name: &str) -> bool {
    !name.is_empty()
        && name != "."
        && name != ".."
        && name.len() <= MAX_NAME_BYTES
        && !name.chars().any(|c| c == '/' || c.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_is_its_label_in_small_letters() {
        for good in [
            INFRASTRUCTURE,
            SERVICE,
            "x",
            "site_2",
            "abcdefghijklmnopqrstuvwxyz",
        ] {
            let class: Class = good.parse().unwrap();
            assert!(class.label().len() <= 32);
            assert_eq!(Class::of_label(&class.label()), Some(class));
        }
        let long = "a".repeat(27);
        for bad in ["", "Service", "1st", "_x", "a-b", "a b", "ä", &long] {
            let error = bad.parse::<Class>().unwrap_err().to_string();
            assert!(error.contains("lower-case"), "{error}");
        }
        for other in [
            "VMKPI_",
            "cidata",
            "config-2",
            "VMKPI_Service",
            "vmkpi_SERVICE",
        ] {
            assert_eq!(Class::of_label(other), None, "{other}");
        }
    }

    #[test]
    fn names_lead_nowhere() {
        assert!(is_legal_name("endpoint") && is_legal_name("größe") && is_legal_name("..."));
        for bad in ["", ".", "..", "a/b", "a\n", "\0", &"x".repeat(256)] {
            assert!(!is_legal_name(bad), "{bad:?}");
        }
    }
}
