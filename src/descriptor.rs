//! The VM descriptor: what a VM is and how it is monitored. One model and one validator; the
//! spellings (TOML, JSON, a `<vmkpi:monitoring>` element of libvirt metadata, an OVF section) only differ in how
//! they are read and written. `schemas/descriptor.schema.json` describes the JSON and TOML form,
//! `schemas/monitoring.xsd` the XML forms.
//!
//! ```text
//! TOML ─┐                                                       ┌─ TOML
//! JSON ─┼─> tree (keys, values, lines) ─> wire ─> Descriptor ───┼─ JSON
//! XML  ─┤                                 types   all the rest  ├─ XML
//! OVF  ─┘                                                       └─ OVF
//! ```
//!
//! The monitoring specifier is that of Elmroth and Larsson, "Interfaces for placement, migration,
//! and monitoring of virtual machines in federated clouds" (2009), section IV.

mod json;
mod keys;
mod parse;
mod toml;
mod tree;
mod wire;
mod write;
mod xml;

use std::path::Path;

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::message::hex;
use crate::name::{DataPoint, Label, PointPattern};
use crate::value::Base64Bytes;
use crate::when::When;

#[cfg(feature = "sign")]
pub(crate) use keys::ed25519;
pub use xml::{METADATA_NAMESPACE, OVF_NAMESPACES};

/// The most monitoring specifiers in one descriptor.
pub const MAX_MONITORS: usize = 64;
/// The most Consumers whose confirmations count.
pub const MAX_CONFIRMS: usize = 16;
/// The longest interval, in milliseconds: a day.
pub const MAX_INTERVAL_MS: u64 = 86_400_000;
/// The most samples that one window may be made of.
pub const MAX_WINDOW_SAMPLES: u64 = 100_000;
/// The largest descriptor accepted, in bytes.
pub const MAX_DESCRIPTOR_BYTES: usize = 256 << 10;
/// Infrastructure is sampled at most this often, in milliseconds; what interval 0 means there.
pub const MIN_INFRA_INTERVAL_MS: u64 = 100;
/// The least RSA modulus of a primary site's key, in bits (NIST SP 800-57 part 1, 2030 and beyond).
pub const MIN_RSA_BITS: usize = 3072;

/// A function over the samples of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Function {
    /// The least value.
    Min,
    /// The greatest value.
    Max,
    /// The arithmetic mean.
    Mean,
    /// The middle value; of an even count the mean of the two middle ones.
    Median,
    /// The 90th percentile by nearest rank.
    P90,
    /// The 99th percentile by nearest rank.
    P99,
    /// The sum.
    Sum,
    /// How many values there were.
    Count,
    /// The last value.
    Last,
}

impl Function {
    /// Every function, in the order the documentation names them.
    pub const ALL: [Self; 9] = [
        Self::Min,
        Self::Max,
        Self::Mean,
        Self::Median,
        Self::P90,
        Self::P99,
        Self::Sum,
        Self::Count,
        Self::Last,
    ];

    /// The function's name in a descriptor and in messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Min => "min",
            Self::Max => "max",
            Self::Mean => "mean",
            Self::Median => "median",
            Self::P90 => "p90",
            Self::P99 => "p99",
            Self::Sum => "sum",
            Self::Count => "count",
            Self::Last => "last",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|f| f.as_str() == name)
    }
}

/// In what form samples are delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Every sample of the delivery interval.
    Raw,
    /// One result of a function over them.
    Processed(Function),
}

/// A monitoring specifier.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Monitor {
    /// Unique in the descriptor.
    pub id: Label,
    /// The data points it is about.
    pub point: PointPattern,
    /// How often they are sampled, in milliseconds; 0 is every stored row.
    pub interval_ms: u64,
    /// How often samples are delivered, in milliseconds; 0 is as soon as available.
    pub delivery_ms: u64,
    /// In what form.
    pub format: Format,
    /// Only samples (raw) or results (processed) for which this holds are delivered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub when: Option<When>,
    /// Whether the host encrypts it for the primary site before it leaves.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub seal: bool,
}

impl Monitor {
    /// The length of the windows, in milliseconds; 0 makes every row a window of its own.
    pub fn window_ms(&self) -> u64 {
        if self.delivery_ms > 0 {
            self.delivery_ms
        } else {
            self.interval_ms
        }
    }
}

/// A Consumer whose confirmations acknowledge (docs/DELIVERY.md, "Acknowledgement").
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Confirm {
    /// Its name, unique in the descriptor.
    pub name: Label,
    /// Its Ed25519 public key (RFC 8032), by which its confirmations are known.
    #[serde(serialize_with = "base64_text")]
    pub key: [u8; 32],
}

fn base64_text<S: serde::Serializer>(key: &[u8; 32], serializer: S) -> Result<S::Ok, S::Error> {
    Base64Bytes(key.to_vec()).serialize(serializer)
}

/// A valid VM descriptor. Serialized, it is the normal form that the revision is a hash of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Descriptor {
    /// The service owner's name for the VM.
    pub vm: Label,
    /// The service the VM is part of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<Label>,
    /// The site that is contractually bound to the service owner.
    pub primary_site: Label,
    /// The primary site's RSA public key, PEM (SubjectPublicKeyInfo, RFC 7468).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub primary_key: Option<String>,
    /// Whose confirmations acknowledge; nobody's: the broker's word does.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub confirm: Vec<Confirm>,
    /// The monitoring specifiers; one for `infra/*` is always among them.
    pub monitors: Vec<Monitor>,
}

/// A way to write a descriptor down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spelling {
    /// TOML 1.0.
    Toml,
    /// JSON.
    Json,
    /// The `<vmkpi:monitoring>` element of a libvirt domain's metadata.
    Xml,
    /// The `<vmkpi:MonitoringSection>` of a virtual system in an OVF envelope (DMTF DSP0243).
    Ovf,
}

impl Spelling {
    /// Every spelling.
    pub const ALL: [Self; 4] = [Self::Toml, Self::Json, Self::Xml, Self::Ovf];

    /// The spelling a file has by the ending of its name; TOML if it has no known one.
    pub fn of_path(path: &Path) -> Self {
        match path.extension().and_then(|e| e.to_str()) {
            Some("json") => Self::Json,
            Some("xml") => Self::Xml,
            Some("ovf") => Self::Ovf,
            _ => Self::Toml,
        }
    }
}

/// Why a descriptor is refused: where, what, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{}{message}", .line.map(|l| format!("line {l}: ")).unwrap_or_default(),
        if .key.is_empty() { String::new() } else { format!("{}: ", .key) })]
pub struct DescriptorError {
    /// The line, counted from 1, where it is known.
    pub line: Option<usize>,
    /// The key, as in `monitor[2].function`; empty where the whole text is meant.
    pub key: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl DescriptorError {
    fn at(key: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            line: None,
            key: key.into(),
            message: message.into(),
        }
    }

    fn on(line: usize, key: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            line: Some(line),
            ..Self::at(key, message)
        }
    }
}

impl Descriptor {
    /// Reads and validates a descriptor. `read_key` opens a `primary_key_file`; it is not called
    /// for metadata, whose author may not name files of the host.
    ///
    /// ```
    /// use vmkpi::descriptor::{Descriptor, Spelling};
    /// let text = r#"
    ///     vm = "shop-frontend-1"
    ///     primary_site = "acme"
    ///     [[monitor]]
    ///     point = "unencrypted/web"
    ///     function = "avg"
    /// "#;
    /// let errors = Descriptor::parse(text, Spelling::Toml, &|path| std::fs::read_to_string(path))
    ///     .unwrap_err();
    /// assert!(errors[0].to_string().starts_with("line 6: monitor[1].function: unknown function"));
    /// ```
    ///
    /// # Errors
    /// Every error found, in the order of the text.
    pub fn parse(
        text: &str,
        spelling: Spelling,
        read_key: &dyn Fn(&Path) -> std::io::Result<String>,
    ) -> Result<Self, Vec<DescriptorError>> {
        parse::parse(text, spelling, read_key)
    }

    /// The descriptor in a spelling. Read again, it is the same descriptor, to its revision; a default
    /// that was filled in is written out.
    ///
    /// ```
    /// use vmkpi::descriptor::{Descriptor, Spelling};
    /// let no_file = |_: &std::path::Path| Err(std::io::Error::other("none"));
    /// let text = "vm = \"shop\"\nprimary_site = \"acme\"\n";
    /// let descriptor = Descriptor::parse(text, Spelling::Toml, &no_file).unwrap();
    /// let ovf = descriptor.write(Spelling::Ovf);
    /// assert!(ovf.contains("<vmkpi:MonitoringSection"));
    /// assert_eq!(Descriptor::parse(&ovf, Spelling::Ovf, &no_file), Ok(descriptor));
    /// ```
    pub fn write(&self, spelling: Spelling) -> String {
        write::write(self, spelling)
    }

    /// The hash of the normal form: 16 hexadecimal digits, the same for every spelling.
    pub fn revision(&self) -> String {
        let normal = serde_json::to_vec(self).expect("a descriptor has string keys only");
        hex(&Sha256::digest(normal)[..8])
    }

    /// The names of the Consumers whose confirmations acknowledge.
    pub fn consumers(&self) -> Vec<Label> {
        self.confirm.iter().map(|c| c.name.clone()).collect()
    }

    /// The specifiers that name `point`.
    pub fn monitors_of<'a>(&'a self, point: &'a DataPoint) -> impl Iterator<Item = &'a Monitor> {
        self.monitors.iter().filter(|m| m.point.matches(point))
    }
}

#[cfg(test)]
mod tests;
