//! The event as it is written: CloudEvents' attributes flat, `data` by the event's type.

use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

use super::{Body, Event, EventError, Kind, Processed, Sample, SampleBody, Sealed, Values};
use crate::clock::Timestamp;
use crate::name::{DataPoint, Label};
use crate::position::{Position, RowKey, Seq, StreamId};
use crate::value::{Base64Bytes, Published, Value};

/// The media types of `data`: open, and sealed (RFC 7515, section 9.2.1).
const OPEN: &str = "application/json";
const SEALED: &str = "application/jose";

/// CloudEvents' Integer ends at 2^31-1 (CloudEvents 1.0, type system), so a larger one is a string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Attribute(pub(crate) Seq);

impl Serialize for Attribute {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match i32::try_from(self.0) {
            Ok(small) => serializer.serialize_i32(small),
            Err(_) => serializer.collect_str(&self.0),
        }
    }
}

impl<'de> Deserialize<'de> for Attribute {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Number(Seq),
            Text(String),
        }
        let seq = match Either::deserialize(deserializer)? {
            Either::Number(seq) => seq,
            Either::Text(text) => text.parse().map_err(serde::de::Error::custom)?,
        };
        Ok(Self(seq))
    }
}

/// The event as it is written: attributes flat, as CloudEvents wants them.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Wire<S, D> {
    pub(super) specversion: S,
    pub(super) id: String,
    pub(super) source: String,
    pub(super) subject: DataPoint,
    pub(super) time: Timestamp,
    #[serde(rename = "type")]
    pub(super) event_type: S,
    pub(super) datacontenttype: S,
    pub(super) stream: StreamId,
    pub(super) specifier: Label,
    pub(super) revision: S,
    pub(super) after: Attribute,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) afterkey: Option<RowKey>,
    pub(super) through: Attribute,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) throughkey: Option<RowKey>,
    pub(super) base: Attribute,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) basekey: Option<RowKey>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) clockskewms: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) signature: Option<S>,
    /// Always the last member: what is signed of it are its bytes as they stand.
    pub(super) data: D,
}

/// As it came.
pub(super) type Incoming<'a> = Wire<String, &'a RawValue>;

/// As it goes.
pub(super) type Outgoing<'a> = Wire<String, &'a RawValue>;

#[derive(Serialize)]
#[serde(untagged)]
enum DataOut<'a> {
    Raw { samples: Vec<SampleOut<'a>> },
    Processed(&'a Processed),
    Gap { reason: &'a str },
    Sealed(&'a str),
}

/// A sample as it is written, in messages and in answers.
#[derive(Serialize)]
pub(crate) struct SampleOut<'a> {
    seq: Published64,
    key: RowKey,
    time: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    values: Option<&'a Values>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data_base64: Option<&'a Base64Bytes>,
}

/// A `seq` inside `data`: a string beyond 2^53, as all integers there.
pub(crate) struct Published64(pub(crate) Seq);

impl Serialize for Published64 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let value = Value::Integer(i64::try_from(self.0).unwrap_or(i64::MAX));
        Published(&value).serialize(serializer)
    }
}

#[derive(Deserialize)]
struct DataIn {
    samples: Option<Vec<SampleIn>>,
    reason: Option<Box<str>>,
}

/// A sample as it is read.
#[derive(Deserialize)]
pub(crate) struct SampleIn {
    seq: Attribute,
    key: RowKey,
    time: Timestamp,
    values: Option<serde_json::Map<String, serde_json::Value>>,
    data_base64: Option<Base64Bytes>,
}

impl Event {
    /// The event as CloudEvents 1.0 in structured JSON.
    pub fn encode(&self) -> Vec<u8> {
        let data = self.data();
        bytes(&self.outgoing(&data))
    }

    /// `data`, as it is written and signed.
    pub(super) fn data(&self) -> Box<RawValue> {
        serde_json::value::to_raw_value(&data_out(&self.body)).expect("data has string keys only")
    }

    pub(super) fn outgoing<'a>(&self, data: &'a RawValue) -> Outgoing<'a> {
        let sealed = matches!(self.body, Body::Sealed(_));
        Wire {
            specversion: "1.0".into(),
            id: self.id(),
            source: format!(
                "/vmkpi/{}/{}",
                uri_segment(self.site.as_str()),
                uri_segment(self.vm.as_str())
            ),
            subject: self.point.clone(),
            time: self.time,
            event_type: self.body.kind().event_type().into(),
            datacontenttype: if sealed { SEALED } else { OPEN }.into(),
            stream: self.stream,
            specifier: self.specifier.clone(),
            revision: self.revision.clone().into(),
            after: Attribute(self.after.seq),
            afterkey: self.after.key,
            through: Attribute(self.through.seq),
            throughkey: self.through.key,
            base: Attribute(self.base.seq),
            basekey: self.base.key,
            clockskewms: self.clock_skew_ms,
            signature: None,
            data,
        }
    }

    /// Reads an event. Nobody has vouched for it: `Received` tells who does.
    ///
    /// # Errors
    /// The bytes are no event of ours, or say something impossible.
    pub fn decode(bytes: &[u8]) -> Result<Self, EventError> {
        read(bytes).map(|(event, _)| event)
    }
}

/// The event as JSON.
pub(super) fn bytes(wire: &Outgoing<'_>) -> Vec<u8> {
    serde_json::to_vec(wire).expect("an event has string keys only")
}

/// An event, and what it was read from.
pub(super) fn read(bytes: &[u8]) -> Result<(Event, Incoming<'_>), EventError> {
    let wire: Incoming<'_> = serde_json::from_slice(bytes)?;
    if wire.specversion != "1.0" {
        return Err(EventError::Version(wire.specversion));
    }
    let (site, vm) = parse_source(&wire.source)?;
    let body = body_in(&wire)?;
    if wire.after.0 > wire.through.0 {
        return Err(EventError::Coverage(wire.after.0, wire.through.0));
    }
    let position = |seq: Attribute, key| Position { seq: seq.0, key };
    let event = Event {
        site,
        vm,
        point: wire.subject.clone(),
        specifier: wire.specifier.clone(),
        revision: wire.revision.as_str().into(),
        stream: wire.stream,
        after: position(wire.after, wire.afterkey),
        through: position(wire.through, wire.throughkey),
        base: position(wire.base, wire.basekey),
        time: wire.time,
        clock_skew_ms: wire.clockskewms,
        body,
    };
    Ok((event, wire))
}

fn body_in(wire: &Incoming<'_>) -> Result<Body, EventError> {
    let named = |kind: &Kind| kind.event_type() == wire.event_type;
    let kind = Kind::ALL.into_iter().find(named);
    let kind = kind.ok_or_else(|| EventError::Type(wire.event_type.chars().take(100).collect()))?;
    match wire.datacontenttype.as_str() {
        OPEN => data_in(kind, wire.data.get()),
        SEALED => {
            let envelope: Box<str> = serde_json::from_str(wire.data.get())?;
            if !is_compact_jwe(&envelope) {
                return Err(EventError::Data("sealed, and not a compact JWE"));
            }
            Ok(Body::Sealed(Sealed { kind, envelope }))
        }
        _ => Err(EventError::Data("data of a media type we do not know")),
    }
}

/// Five parts in base64url (RFC 7516, section 3.1).
pub(crate) fn is_compact_jwe(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    text.bytes().filter(|b| *b == b'.').count() == 4 && text.bytes().all(plain)
}

fn data_out(body: &Body) -> DataOut<'_> {
    match body {
        Body::Raw(samples) => DataOut::Raw {
            samples: samples.iter().map(sample_out).collect(),
        },
        Body::Processed(processed) => DataOut::Processed(processed),
        Body::Gap(reason) => DataOut::Gap { reason },
        Body::Sealed(sealed) => DataOut::Sealed(&sealed.envelope),
    }
}

pub(crate) fn sample_out(sample: &Sample) -> SampleOut<'_> {
    let (values, data_base64) = match &sample.body {
        SampleBody::Values(values) => (Some(values), None),
        SampleBody::Data(bytes) => (None, Some(bytes)),
    };
    SampleOut {
        seq: Published64(sample.seq),
        key: sample.key,
        time: sample.time,
        values,
        data_base64,
    }
}

pub(super) fn data_in(kind: Kind, data: &str) -> Result<Body, EventError> {
    match kind {
        Kind::Processed => Ok(Body::Processed(serde_json::from_str(data)?)),
        Kind::Raw => {
            let data: DataIn = serde_json::from_str(data)?;
            let samples = data
                .samples
                .ok_or(EventError::Data("raw without samples"))?;
            let samples: Result<_, _> = samples.into_iter().map(sample_in).collect();
            Ok(Body::Raw(samples?))
        }
        Kind::Gap => {
            let data: DataIn = serde_json::from_str(data)?;
            let reason = data.reason.ok_or(EventError::Data("gap without reason"))?;
            Ok(Body::Gap(reason))
        }
    }
}

pub(crate) fn sample_in(sample: SampleIn) -> Result<Sample, EventError> {
    let body = match (sample.values, sample.data_base64) {
        (Some(map), None) => {
            let mut row = Vec::with_capacity(map.len());
            let mut columns: Vec<Box<str>> = Vec::with_capacity(map.len());
            for (name, value) in map {
                columns.push(name.into());
                row.push(serde_json::from_value(value)?);
            }
            SampleBody::Values(Values {
                columns: columns.into(),
                row,
            })
        }
        (None, Some(bytes)) => SampleBody::Data(bytes),
        _ => {
            return Err(EventError::Data(
                "a sample has either values or data_base64",
            ));
        }
    };
    Ok(Sample {
        seq: sample.seq.0,
        key: sample.key,
        time: sample.time,
        body,
    })
}

/// One path segment of a URI reference (RFC 3986): everything but unreserved characters encoded.
fn uri_segment(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for b in text.bytes() {
        if b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(b));
        } else {
            out.push_str(&format!("%{b:02X}"));
        }
    }
    out
}

fn parse_source(source: &str) -> Result<(Label, Label), EventError> {
    let bad = || EventError::Source(source.chars().take(100).collect());
    let (site, vm) = source
        .strip_prefix("/vmkpi/")
        .and_then(|rest| rest.split_once('/'))
        .ok_or_else(bad)?;
    let label = |segment: &str| uri_decode(segment)?.parse().ok();
    Ok((label(site).ok_or_else(bad)?, label(vm).ok_or_else(bad)?))
}

fn uri_decode(segment: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        if *first == b'%' {
            let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &tail[2..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).ok()
}
