//! The event as it is written: CloudEvents' attributes flat, `data` by the event's type.

use serde::{Deserialize, Serialize, Serializer};

use super::{Body, Event, EventError, Processed, Sample, SampleBody, Values};
use crate::clock::Timestamp;
use crate::name::{DataPoint, Label};
use crate::position::{Position, RowKey, Seq, StreamId};
use crate::value::{Base64Bytes, Published, Value};

/// CloudEvents' Integer ends at 2^31-1 (CloudEvents 1.0, type system), so a larger one is a string.
#[derive(Clone, Copy)]
struct Attribute(Seq);

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
#[derive(Serialize, Deserialize)]
struct Wire<S, D> {
    specversion: S,
    id: String,
    source: String,
    subject: DataPoint,
    time: Timestamp,
    #[serde(rename = "type")]
    event_type: S,
    datacontenttype: S,
    stream: StreamId,
    specifier: Label,
    revision: S,
    after: Attribute,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    afterkey: Option<RowKey>,
    through: Attribute,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    throughkey: Option<RowKey>,
    base: Attribute,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    basekey: Option<RowKey>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    clockskewms: Option<i32>,
    data: D,
}

#[derive(Serialize)]
#[serde(untagged)]
enum DataOut<'a> {
    Raw { samples: Vec<SampleOut<'a>> },
    Processed(&'a Processed),
    Gap { reason: &'a str },
}

#[derive(Serialize)]
struct SampleOut<'a> {
    seq: Published64,
    key: RowKey,
    time: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    values: Option<&'a Values>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data_base64: Option<&'a Base64Bytes>,
}

/// A `seq` inside `data`: a string beyond 2^53, as all integers there.
struct Published64(Seq);

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

#[derive(Deserialize)]
struct SampleIn {
    seq: Attribute,
    key: RowKey,
    time: Timestamp,
    values: Option<serde_json::Map<String, serde_json::Value>>,
    data_base64: Option<Base64Bytes>,
}

impl Event {
    /// The event as CloudEvents 1.0 in structured JSON.
    pub fn encode(&self) -> Vec<u8> {
        let wire = Wire {
            specversion: "1.0",
            id: self.id(),
            source: format!(
                "/vmkpi/{}/{}",
                uri_segment(self.site.as_str()),
                uri_segment(self.vm.as_str())
            ),
            subject: self.point.clone(),
            time: self.time,
            event_type: self.body.event_type(),
            datacontenttype: "application/json",
            stream: self.stream,
            specifier: self.specifier.clone(),
            revision: &*self.revision,
            after: Attribute(self.after.seq),
            afterkey: self.after.key,
            through: Attribute(self.through.seq),
            throughkey: self.through.key,
            base: Attribute(self.base.seq),
            basekey: self.base.key,
            clockskewms: self.clock_skew_ms,
            data: data_out(&self.body),
        };
        serde_json::to_vec(&wire).expect("an event has string keys only")
    }

    /// Reads an event.
    ///
    /// # Errors
    /// The bytes are no event of ours, or say something impossible.
    pub fn decode(bytes: &[u8]) -> Result<Self, EventError> {
        let wire: Wire<String, &serde_json::value::RawValue> = serde_json::from_slice(bytes)?;
        if wire.specversion != "1.0" {
            return Err(EventError::Version(wire.specversion));
        }
        let (site, vm) = parse_source(&wire.source)?;
        let body = data_in(&wire.event_type, wire.data.get())?;
        if wire.after.0 > wire.through.0 {
            return Err(EventError::Coverage(wire.after.0, wire.through.0));
        }
        let position = |seq: Attribute, key| Position { seq: seq.0, key };
        Ok(Self {
            site,
            vm,
            point: wire.subject,
            specifier: wire.specifier,
            revision: wire.revision.into(),
            stream: wire.stream,
            after: position(wire.after, wire.afterkey),
            through: position(wire.through, wire.throughkey),
            base: position(wire.base, wire.basekey),
            time: wire.time,
            clock_skew_ms: wire.clockskewms,
            body,
        })
    }
}

fn data_out(body: &Body) -> DataOut<'_> {
    match body {
        Body::Raw(samples) => DataOut::Raw {
            samples: samples.iter().map(sample_out).collect(),
        },
        Body::Processed(processed) => DataOut::Processed(processed),
        Body::Gap(reason) => DataOut::Gap { reason },
    }
}

fn sample_out(sample: &Sample) -> SampleOut<'_> {
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

fn data_in(event_type: &str, data: &str) -> Result<Body, EventError> {
    match event_type {
        "org.vmkpi.processed.v1" => Ok(Body::Processed(serde_json::from_str(data)?)),
        "org.vmkpi.raw.v1" => {
            let data: DataIn = serde_json::from_str(data)?;
            let samples = data
                .samples
                .ok_or(EventError::Data("raw without samples"))?;
            let samples: Result<_, _> = samples.into_iter().map(sample_in).collect();
            Ok(Body::Raw(samples?))
        }
        "org.vmkpi.gap.v1" => {
            let data: DataIn = serde_json::from_str(data)?;
            let reason = data.reason.ok_or(EventError::Data("gap without reason"))?;
            Ok(Body::Gap(reason))
        }
        other => Err(EventError::Type(other.into())),
    }
}

fn sample_in(sample: SampleIn) -> Result<Sample, EventError> {
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
