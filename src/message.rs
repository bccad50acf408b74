//! The published message: topics, and CloudEvents 1.0 in structured JSON. All meaning is in the
//! payload, so that any MQTT client, 3.1.1 included, can read everything. `schemas/message.schema.json`
//! describes it for others; a test holds the two together.

#[cfg(feature = "seal")]
mod sealed;
#[cfg(feature = "sign")]
mod signed;
mod wire;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};
use sha2::{Digest, Sha256};

#[cfg(feature = "sign")]
pub use signed::Received;
#[cfg(any(feature = "seal", feature = "sign"))]
pub(crate) use wire::Attribute;
#[cfg(feature = "sign")]
pub(crate) use wire::{Published64, SampleIn, SampleOut, is_compact_jwe, sample_in, sample_out};

use crate::clock::Timestamp;
use crate::link::{Payload, Row};
use crate::name::{DataPoint, Label, topic_level};
use crate::position::{Position, RowKey, Seq, StreamId};
use crate::topic::{Branch, ROOT};
use crate::value::{Base64Bytes, Published, Value};

/// The CloudEvents media type of a whole event in JSON.
pub const CONTENT_TYPE: &str = "application/cloudevents+json";

/// A message's size above which raw samples are split over several, in bytes.
pub const MAX_MESSAGE_BYTES: usize = 256 << 10;

/// Where data of one point is published: `vmkpi/v1/SITE/data/VM/SPECIFIER/POINT...`.
pub fn data_topic(site: &Label, vm: &Label, specifier: &Label, point: &DataPoint) -> String {
    let below = Branch::Data.topic(site, &[vm, specifier]);
    format!("{below}/{}", point.topic_levels())
}

/// The topic filter of the data of a site and a VM; `None` stands for all of them.
pub fn data_filter(site: Option<&Label>, vm: Option<&Label>) -> String {
    let level = |l: Option<&Label>| l.map_or_else(|| "+".into(), |l| topic_level(l.as_str()));
    let branch = Branch::Data.as_str();
    format!("{ROOT}/{}/{branch}/{}/#", level(site), level(vm))
}

/// Named values of one sample, in the order of their columns.
#[derive(Clone, Debug, PartialEq)]
pub struct Values {
    /// The names.
    pub columns: Arc<[Box<str>]>,
    /// One value for each name.
    pub row: Vec<Value>,
}

impl Values {
    /// Names with their values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.columns.iter().map(|c| &**c).zip(&self.row)
    }
}

impl Serialize for Values {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.row.len()))?;
        for (name, value) in self.iter() {
            map.serialize_entry(name, &Published(value))?;
        }
        map.end()
    }
}

/// What a sample holds.
#[derive(Clone, Debug, PartialEq)]
pub enum SampleBody {
    /// Typed values.
    Values(Values),
    /// Bytes that only the key's owner reads.
    Data(Base64Bytes),
}

/// One row, as it is delivered raw.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The row's number in its table and stream.
    pub seq: Seq,
    /// The row's key.
    pub key: RowKey,
    /// When the row was stored, by the guest's clock.
    pub time: Timestamp,
    /// What it holds.
    pub body: SampleBody,
}

impl Sample {
    /// A row as it came over the link, with its table's columns.
    pub fn of_row(columns: &Arc<[Box<str>]>, row: &Row) -> Self {
        let body = match &row.payload {
            Payload::Values(values) => SampleBody::Values(Values {
                columns: Arc::clone(columns),
                row: values.clone(),
            }),
            Payload::Data(bytes) => SampleBody::Data(bytes.clone()),
        };
        Self {
            seq: row.seq,
            key: row.key,
            time: row.time,
            body,
        }
    }

    /// About how many bytes the sample takes in a message; never less than it does.
    pub fn size_bytes(&self) -> usize {
        const FRAME: usize = 110;
        match &self.body {
            // A control character takes six bytes in JSON, a number at most 25.
            SampleBody::Values(v) => v.iter().fold(FRAME, |sum, (name, value)| {
                let text = match value {
                    Value::Text(t) => json_text_len(t),
                    _ => 25,
                };
                sum + json_text_len(name) + text + 6
            }),
            SampleBody::Data(bytes) => FRAME + bytes.0.len().div_ceil(3) * 4,
        }
    }
}

fn json_text_len(text: &str) -> usize {
    text.bytes()
        .map(|b| match b {
            b'"' | b'\\' => 2,
            0..=0x1f => 6,
            _ => 1,
        })
        .sum()
}

/// The result of a function over the samples of one window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Processed {
    /// The function's name.
    pub function: Box<str>,
    /// The window's beginning, included.
    pub from: Timestamp,
    /// The window's end, excluded.
    pub to: Timestamp,
    /// The result for each column that had a numeric value.
    pub values: BTreeMap<Box<str>, f64>,
    /// How many numeric values went into each.
    pub count: BTreeMap<Box<str>, u64>,
    /// Where the window's own rows begin: a Consumer whose cursor is there accepts the message too.
    pub rows_after: Seq,
    /// The key of that row, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows_after_key: Option<RowKey>,
    /// Whether rows at the window's beginning are missing from it, as another message had them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub partial: bool,
    /// Whether it may repeat rows of a window sent before the stream was forked.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub forked: bool,
}

/// What a message is about.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// Every sample; none in a message that only covers rows.
    Raw(Vec<Sample>),
    /// One window's result.
    Processed(Processed),
    /// Rows that were lost, and why.
    Gap(Box<str>),
    /// One of these, which only the primary site reads.
    Sealed(Sealed),
}

/// What a host has sealed: everybody sees which rows it accounts for, and of what kind it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Sealed {
    /// What is in it.
    pub kind: Kind,
    /// The envelope: a compact JWE over the bytes of what `data` would be.
    pub envelope: Box<str>,
}

/// The kinds of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Samples.
    Raw,
    /// A window's result.
    Processed,
    /// Rows that were lost.
    Gap,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Raw, Self::Processed, Self::Gap];

    /// The CloudEvents type.
    pub fn event_type(self) -> &'static str {
        match self {
            Self::Raw => "org.vmkpi.raw.v1",
            Self::Processed => "org.vmkpi.processed.v1",
            Self::Gap => "org.vmkpi.gap.v1",
        }
    }

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Processed => "processed",
            Self::Gap => "gap",
        }
    }
}

impl Body {
    /// Of which kind it is, sealed or not.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Raw(_) => Kind::Raw,
            Self::Processed(_) => Kind::Processed,
            Self::Gap(_) => Kind::Gap,
            Self::Sealed(sealed) => sealed.kind,
        }
    }
}

/// One published message. It accounts for the rows (after, through] of its instance.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// The primary site.
    pub site: Label,
    /// The VM's name in its descriptor.
    pub vm: Label,
    /// The data point.
    pub point: DataPoint,
    /// The specifier's id.
    pub specifier: Label,
    /// The descriptor's revision.
    pub revision: Box<str>,
    /// The stream the rows belong to.
    pub stream: StreamId,
    /// The row before the first one accounted for.
    pub after: Position,
    /// The last row accounted for.
    pub through: Position,
    /// The guest's acknowledged row.
    pub base: Position,
    /// The latest time the message is about.
    pub time: Timestamp,
    /// The guest's clock minus its host's as measured last, in milliseconds, of a KPI; `None` where it
    /// was not measured, and for infrastructure, which follows the host's clock.
    pub clock_skew_ms: Option<i32>,
    /// What it says.
    pub body: Body,
}

/// Why bytes are no message of ours.
#[derive(Debug, thiserror::Error)]
pub enum EventError {
    /// Not JSON, or a field is missing or of the wrong type.
    #[error("not a vmkpi message: {0}")]
    Json(#[from] serde_json::Error),
    /// The source is not `/vmkpi/SITE/VM`.
    #[error("the source {0:?} is not /vmkpi/SITE/VM")]
    Source(String),
    /// Another version of CloudEvents than 1.0.
    #[error("CloudEvents {0:?} instead of 1.0: its publisher is newer, update this vmkpi")]
    Version(String),
    /// A type this version does not know.
    #[error("unknown event type {0:?}: its publisher is newer, update this vmkpi")]
    Type(String),
    /// `after` beyond `through`, or another impossible range.
    #[error("impossible coverage: after {0}, through {1}")]
    Coverage(Seq, Seq),
    /// A gap that says nothing, a sample with both or neither of values and data, and so on.
    #[error("impossible data: {0}")]
    Data(&'static str),
}

impl Event {
    /// The event's id: the same for the same coverage, whoever publishes it.
    pub fn id(&self) -> String {
        let text = format!(
            "{}\n{}\n{}\n{}\n{}\n{}\n{}",
            self.body.kind().event_type(),
            self.stream,
            self.point,
            self.specifier,
            self.revision,
            self.after.seq,
            self.through.seq
        );
        hex(&Sha256::digest(text.as_bytes())[..16])
    }

    /// The topic the event is published to.
    pub fn topic(&self) -> String {
        data_topic(&self.site, &self.vm, &self.specifier, &self.point)
    }
}

/// Bytes as lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(body: Body) -> Event {
        Event {
            site: "acme".parse().unwrap(),
            vm: "shop a+%ü".parse().unwrap(),
            point: "unencrypted/web".parse().unwrap(),
            specifier: "web-load".parse().unwrap(),
            revision: "00ff".into(),
            stream: StreamId(5),
            after: Position::new(16, RowKey(1)),
            through: Position::new(17, RowKey(0x9f3c)),
            base: Position::START,
            time: Timestamp::from_micros(1),
            clock_skew_ms: Some(-12),
            body,
        }
    }

    fn sample(body: SampleBody) -> Sample {
        Sample {
            seq: 17,
            key: RowKey(0x9f3c),
            time: Timestamp::from_micros(1),
            body,
        }
    }

    #[test]
    fn every_kind_of_event_survives_the_way() {
        let values = Values {
            columns: ["a".into(), "b".into(), "c".into()].into(),
            row: vec![Value::Integer(42), Value::Real(4.0), Value::Null],
        };
        let processed = Processed {
            function: "mean".into(),
            from: Timestamp::from_micros(0),
            to: Timestamp::from_micros(10),
            values: [("a".into(), 41.5)].into(),
            count: [("a".into(), 10)].into(),
            rows_after: 16,
            rows_after_key: None,
            partial: true,
            forked: false,
        };
        for body in [
            Body::Raw(vec![sample(SampleBody::Values(values))]),
            Body::Raw(vec![sample(SampleBody::Data(Base64Bytes(vec![0, 255])))]),
            Body::Raw(vec![]),
            Body::Processed(processed),
            Body::Gap("retention_age".into()),
            Body::Sealed(Sealed {
                kind: Kind::Processed,
                envelope: "e30.AA.AA.AA.AA".into(),
            }),
        ] {
            let event = event(body);
            assert_eq!(Event::decode(&event.encode()).unwrap(), event);
        }
    }

    #[test]
    fn the_envelope_is_cloudevents_and_names_its_coverage() {
        let mut event = event(Body::Raw(vec![]));
        event.through.seq = 1 << 31;
        let json: serde_json::Value = serde_json::from_slice(&event.encode()).unwrap();
        assert_eq!(json["specversion"], "1.0");
        assert_eq!(json["source"], "/vmkpi/acme/shop%20a%2B%25%C3%BC");
        assert_eq!(json["after"], 16);
        assert_eq!(json["clockskewms"], -12);
        assert_eq!(json["through"], "2147483648", "beyond CloudEvents' Integer");
        assert_eq!(Event::decode(&event.encode()).unwrap(), event);
        assert_eq!(
            event.topic(),
            "vmkpi/v1/acme/data/shop a%2B%25ü/web-load/unencrypted/web"
        );
    }

    #[test]
    fn an_event_of_another_version_is_refused_by_name() {
        let good = String::from_utf8(event(Body::Raw(vec![])).encode()).unwrap();
        for (ours, theirs) in [
            ("org.vmkpi.raw.v1", "org.vmkpi.raw.v2"),
            ("\"1.0\"", "\"2.0\""),
        ] {
            let newer = good.replace(ours, theirs);
            let error = Event::decode(newer.as_bytes()).unwrap_err().to_string();
            let named = error.contains(theirs) && error.contains("update this vmkpi");
            assert!(named, "{error}");
        }
    }

    #[test]
    fn what_is_no_event_is_an_error_never_a_panic() {
        let good = event(Body::Raw(vec![])).encode();
        for end in 0..good.len() {
            assert!(Event::decode(&good[..end]).is_err());
        }
        let with = |from: &str, to: &str| {
            String::from_utf8(good.clone())
                .unwrap()
                .replace(from, to)
                .into_bytes()
        };
        assert!(Event::decode(&with("/vmkpi/acme", "/other/acme")).is_err());
        assert!(Event::decode(&with("%C3%BC", "%C3")).is_err());
        assert!(Event::decode(&with("\"after\":16", "\"after\":18")).is_err());
        assert!(Event::decode(&with("\"samples\":[]", "\"samples\":[{}]")).is_err());
        assert!(Event::decode(&with("application/json", "text/plain")).is_err());
        assert!(Event::decode(&with("application/json", "application/jose")).is_err());
        let jose = |envelope: &str| {
            let text = String::from_utf8(with("application/json", "application/jose"));
            let text = text.unwrap().replace("{\"samples\":[]}", envelope);
            Event::decode(text.as_bytes())
        };
        assert!(jose("\"e30.AA.AA.AA.AA\"").is_ok());
        for bad in [
            "\"\"",
            "\"e30.AA.AA.AA\"",
            "\"e30.AA.AA.AA.AA.AA\"",
            "\"e30.AA.AA.AA.=A\"",
            "5",
        ] {
            assert!(jose(bad).is_err(), "{bad}");
        }
    }
}
