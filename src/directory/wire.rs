//! How an entry is written, signed and read. The signature is over the exact bytes of `data` and the four attributes
//! before it, so that it counts for no other site or name, and for no other time.

use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use super::entry::{
    Confirmer, ConsumerEntry, Entry, Lease, ProducerEntry, Role, Side, Specifier, Subject, Take,
    Term,
};
use super::{MAX_BYTES, MAX_LEASE_SECONDS, MAX_POINTS, MAX_SPECIFIERS, MAX_TAKES};
use crate::clock::Timestamp;
use crate::descriptor::{Format, Function, MAX_CONFIRMS};
use crate::name::{DataPoint, Label, PointPattern};
use crate::sign::{Keyring, Purpose, Refusal, SigningKey, VerifyingKey};

/// Why bytes are no lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoLease {
    /// Too long, or not of the form.
    Malformed,
    /// It is not on its topic.
    Elsewhere,
    /// It ends before it begins, or lasts too long.
    Term,
    /// Its signature does not count.
    Signature(Refusal),
}

#[derive(Serialize, Deserialize)]
struct Wire<'a> {
    site: Label,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    vm: Option<Label>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    consumer: Option<Label>,
    issued: Timestamp,
    expires_at: Timestamp,
    #[serde(borrow)]
    data: &'a RawValue,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    signature: Option<String>,
}

/// A lease as it is published: signed, where there is a key.
pub fn encode(subject: &Subject, term: Term, entry: &Entry, key: Option<&SigningKey>) -> Vec<u8> {
    let data = match entry {
        Entry::Producer(entry) => serde_json::value::to_raw_value(entry),
        Entry::Consumer(entry) => serde_json::value::to_raw_value(entry),
    };
    let data = data.expect("an entry has string keys only");
    let signature = key.map(|key| {
        signed(subject, term, |attributes| {
            key.sign(Purpose::Entry, attributes, data.get().as_bytes())
        })
    });
    let name = |side| (subject.side == side).then(|| subject.name.clone());
    let wire = Wire {
        site: subject.site.clone(),
        vm: name(Side::Producer),
        consumer: name(Side::Consumer),
        issued: term.issued,
        expires_at: term.expires_at,
        data: &data,
        signature,
    };
    serde_json::to_vec(&wire).expect("a lease has string keys only")
}

/// Hands the attributes that are signed to `with`.
fn signed<T>(subject: &Subject, term: Term, with: impl FnOnce(&[(&str, &str)]) -> T) -> T {
    with(&[
        ("site", subject.site.as_str()),
        (subject.side.key(), subject.name.as_str()),
        ("issued", &term.issued.to_string()),
        ("expires_at", &term.expires_at.to_string()),
    ])
}

/// A lease of which nobody has looked at the signature yet.
pub(super) struct Unverified<'a> {
    pub(super) lease: Lease,
    data: &'a RawValue,
    signature: Option<String>,
}

/// Reads a lease on a topic of the Directory.
pub(super) fn decode<'a>(
    side: Side,
    topic: &str,
    bytes: &'a [u8],
) -> Result<Unverified<'a>, NoLease> {
    if bytes.len() > MAX_BYTES {
        return Err(NoLease::Malformed);
    }
    let wire: Wire<'a> = serde_json::from_slice(bytes).map_err(|_| NoLease::Malformed)?;
    let name = match (side, wire.vm, wire.consumer) {
        (Side::Producer, Some(name), None) | (Side::Consumer, None, Some(name)) => name,
        (_, None, None) => return Err(NoLease::Malformed),
        _ => return Err(NoLease::Elsewhere),
    };
    let subject = Subject {
        side,
        site: wire.site,
        name,
    };
    if subject.topic() != topic {
        return Err(NoLease::Elsewhere);
    }
    let term = Term {
        issued: wire.issued,
        expires_at: wire.expires_at,
    };
    if !term.is_possible() {
        return Err(NoLease::Term);
    }
    let text = wire.data.get();
    let entry = match side {
        Side::Producer => serde_json::from_str(text).map(Entry::Producer),
        Side::Consumer => serde_json::from_str(text).map(Entry::Consumer),
    };
    let lease = Lease {
        subject,
        term,
        entry: entry.map_err(|_| NoLease::Malformed)?,
        signer: None,
    };
    Ok(Unverified {
        lease,
        data: wire.data,
        signature: wire.signature,
    })
}

impl Unverified<'_> {
    /// Which of these keys signed it.
    pub(super) fn signer(&self, keys: &Keyring) -> Result<Box<str>, NoLease> {
        let lease = &self.lease;
        signed(&lease.subject, lease.term, |attributes| {
            let data = self.data.get().as_bytes();
            let signature = self.signature.as_deref();
            let verified = keys.verify(Purpose::Entry, attributes, data, signature);
            verified
                .map(|key| key.kid().into())
                .map_err(NoLease::Signature)
        })
    }
}

/// The schema's example folder is read with it: whether the text is a lease by its form, on whatever topic it
/// belongs to, and what is wrong with it if not.
///
/// # Errors
/// What is wrong, in words.
pub fn check(bytes: &[u8]) -> Result<Subject, String> {
    let wire: Wire<'_> = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    let (side, name) = match (&wire.vm, &wire.consumer) {
        (Some(vm), None) => (Side::Producer, vm),
        (None, Some(consumer)) => (Side::Consumer, consumer),
        _ => return Err("an entry is of a vm or of a consumer".into()),
    };
    let (site, name) = (wire.site.clone(), name.clone());
    let subject = Subject { side, site, name };
    let data = wire.data.get();
    match side {
        Side::Producer => serde_json::from_str::<ProducerEntry>(data).map(drop),
        Side::Consumer => serde_json::from_str::<ConsumerEntry>(data).map(drop),
    }
    .map_err(|e| e.to_string())?;
    match decode(side, &subject.topic(), bytes) {
        Ok(_) => Ok(subject),
        Err(NoLease::Term) => Err(format!(
            "a lease ends after it begins, and within {MAX_LEASE_SECONDS} s"
        )),
        Err(why) => Err(format!("{why:?}")),
    }
}

#[derive(Serialize, Deserialize)]
struct WireSpecifier {
    id: Label,
    point: PointPattern,
    interval_ms: u64,
    delivery_ms: u64,
    format: Box<str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    function: Option<Box<str>>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    seal: bool,
}

#[derive(Serialize, Deserialize)]
struct WireConfirmer {
    name: Label,
    key: Box<str>,
}

#[derive(Serialize, Deserialize)]
struct WireProducer {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    service: Option<Label>,
    revision: Box<str>,
    specifiers: Vec<WireSpecifier>,
    points: Vec<DataPoint>,
    #[serde(default, skip_serializing_if = "is_zero")]
    more_points: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    confirm: Vec<WireConfirmer>,
}

#[derive(Serialize, Deserialize)]
struct WireConsumer {
    role: Role,
    takes: Vec<Take>,
    key: Box<str>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Refuses a list that is too long.
fn at_most<T, E: serde::de::Error>(list: &[T], most: usize, what: &str) -> Result<(), E> {
    match list.len() <= most {
        true => Ok(()),
        false => Err(E::custom(format!("more than {most} {what}"))),
    }
}

impl Serialize for ProducerEntry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let confirm = self.confirm.iter().map(|confirm| WireConfirmer {
            name: confirm.name.clone(),
            key: confirm.key.to_base64().into(),
        });
        let wire = WireProducer {
            service: self.service.clone(),
            revision: self.revision.clone(),
            specifiers: self.specifiers.iter().map(WireSpecifier::from).collect(),
            points: self.points.clone(),
            more_points: self.more_points,
            confirm: confirm.collect(),
        };
        wire.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for ProducerEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wire = WireProducer::deserialize(deserializer)?;
        at_most(&wire.specifiers, MAX_SPECIFIERS, "specifiers")?;
        at_most(&wire.points, MAX_POINTS, "points")?;
        at_most(&wire.confirm, MAX_CONFIRMS, "Consumers in confirm")?;
        if wire.revision.len() != 16 || !wire.revision.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(D::Error::custom("a revision has 16 hexadecimal digits"));
        }
        let specifiers = wire.specifiers.into_iter().map(Specifier::try_from);
        let confirm = wire.confirm.into_iter().map(|confirm| {
            let key = VerifyingKey::from_text(&confirm.key).map_err(D::Error::custom)?;
            let name = confirm.name;
            Ok(Confirmer { name, key })
        });
        Ok(Self {
            service: wire.service,
            revision: wire.revision,
            specifiers: specifiers
                .collect::<Result<_, _>>()
                .map_err(D::Error::custom)?,
            points: wire.points,
            more_points: wire.more_points,
            confirm: confirm.collect::<Result<_, D::Error>>()?,
        })
    }
}

impl From<&Specifier> for WireSpecifier {
    fn from(of: &Specifier) -> Self {
        let (format, function) = match of.format {
            Format::Raw => ("raw", None),
            Format::Processed(function) => ("processed", Some(function.as_str().into())),
        };
        Self {
            id: of.id.clone(),
            point: of.point.clone(),
            interval_ms: of.interval_ms,
            delivery_ms: of.delivery_ms,
            format: format.into(),
            function,
            seal: of.seal,
        }
    }
}

/// A specifier that says something impossible.
#[derive(Debug)]
struct NoSpecifier;

impl fmt::Display for NoSpecifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a format is raw, or processed with a function that is known")
    }
}

impl TryFrom<WireSpecifier> for Specifier {
    type Error = NoSpecifier;

    fn try_from(wire: WireSpecifier) -> Result<Self, NoSpecifier> {
        let function = wire.function.as_deref().map(Function::from_name);
        let format = match (&*wire.format, function) {
            ("raw", None) => Format::Raw,
            ("processed", Some(Some(function))) => Format::Processed(function),
            _ => return Err(NoSpecifier),
        };
        Ok(Self {
            id: wire.id,
            point: wire.point,
            interval_ms: wire.interval_ms,
            delivery_ms: wire.delivery_ms,
            format,
            seal: wire.seal,
        })
    }
}

impl Serialize for ConsumerEntry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let wire = WireConsumer {
            role: self.role,
            takes: self.takes.clone(),
            key: self.key.to_base64().into(),
        };
        wire.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for ConsumerEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wire = WireConsumer::deserialize(deserializer)?;
        at_most(&wire.takes, MAX_TAKES, "wishes in takes")?;
        Ok(Self {
            role: wire.role,
            takes: wire.takes,
            key: VerifyingKey::from_text(&wire.key).map_err(D::Error::custom)?,
        })
    }
}
