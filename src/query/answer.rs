//! What is answered: a page of rows, signed by the site and sealed where the point's messages are, or why there
//! is none. A page says from where on it goes (`after`) and where the next one begins, so whoever asks takes each
//! row once, whatever comes twice or from two hosts.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{MAX_RECEIVED_BYTES, Place, Subject};
use crate::clock::Timestamp;
use crate::link::HistoryPosition;
use crate::message::{
    Attribute, Published64, Sample, SampleIn, SampleOut, is_compact_jwe, sample_in, sample_out,
};
use crate::name::{DataPoint, Label};
use crate::position::{QueryId, Seq, StreamId};
use crate::sign::{Keyring, Purpose, Refusal, SigningKey, VerifyingKey};

/// One message of an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The question's id.
    pub id: QueryId,
    /// 0, 1, 2, ... in each answer.
    pub page: u32,
    /// What it says.
    pub body: Body,
}

/// What a message of an answer says.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// Rows.
    Page(Page),
    /// There is no page, and none will come.
    Failed(Reason),
    /// A page that only the primary site reads: a compact JWE over the bytes of what `data` would be.
    Sealed(Box<str>),
}

/// A page of rows, by `_seq`, of one stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    /// The data point.
    pub point: DataPoint,
    /// The stream of all its rows.
    pub stream: StreamId,
    /// The place it goes on from: the question's `after`, then the `next` of the page before.
    pub after: Option<HistoryPosition>,
    /// The rows.
    pub samples: Vec<Sample>,
    /// Where to go on; absent when there is nothing more.
    pub next: Option<HistoryPosition>,
    /// No page of this answer follows; with a `next` there is more for another question.
    pub last: bool,
    /// Rows of the span that the guest's retention has taken.
    pub trimmed: Option<Trimmed>,
    /// Rows between `after` and `next` that are too large for an answer.
    pub left_out: u64,
}

/// What retention has taken of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trimmed {
    /// Rows through here are gone.
    pub through: Seq,
    /// When the last of them had been stored.
    pub time: Timestamp,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The VM runs here, and its guest cannot be reached.
    Unreachable,
    /// The guest does not answer.
    TimedOut,
    /// Too many ask at once.
    Busy,
    /// The guest holds nothing of this point.
    UnknownPoint,
    /// Nobody keeps the history of infrastructure measurements where the VM runs.
    NotKept,
    /// It cannot be sealed, and so it does not leave.
    Unsealed,
    /// The guest cannot read it, or anything else.
    Failed,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Self; 7] = [
        Self::Unreachable,
        Self::TimedOut,
        Self::Busy,
        Self::UnknownPoint,
        Self::NotKept,
        Self::Unsealed,
        Self::Failed,
    ];

    /// Its name, on the wire and as a label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::TimedOut => "timed_out",
            Self::Busy => "busy",
            Self::UnknownPoint => "unknown_point",
            Self::NotKept => "not_kept",
            Self::Unsealed => "unsealed",
            Self::Failed => "failed",
        }
    }

    /// A reason of a later version is [`Self::Failed`].
    fn from_name(name: &str) -> Self {
        let known = Self::ALL.into_iter().find(|reason| reason.as_str() == name);
        known.unwrap_or(Self::Failed)
    }

    /// Whether the same question may be answered a little later, or by another host.
    pub fn passes(self) -> bool {
        matches!(self, Self::Unreachable | Self::TimedOut | Self::Busy)
    }
}

/// Why bytes are no answer.
#[derive(Debug, thiserror::Error)]
pub enum NotAnswer {
    /// Longer than any.
    #[error("longer than an answer may be")]
    TooLong,
    /// Not JSON, or a field is missing or of the wrong type.
    #[error("not an answer: {0}")]
    Json(#[from] serde_json::Error),
    /// It speaks of another site, Consumer or VM than its topic.
    #[error("an answer about another site, Consumer or VM than its topic")]
    Elsewhere,
    /// Data that is neither a page, a failure nor an envelope.
    #[error("impossible data: {0}")]
    Data(String),
}

#[derive(Serialize, Deserialize)]
struct Wire<'a> {
    site: Label,
    consumer: Label,
    vm: Label,
    issued: u64,
    id: QueryId,
    page: u32,
    #[serde(borrow)]
    data: &'a RawValue,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    signature: Option<String>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum DataOut<'a> {
    Page(PageOut<'a>),
    Failed { error: &'static str },
    Sealed(&'a str),
}

#[derive(Serialize)]
struct PageOut<'a> {
    point: &'a DataPoint,
    stream: StreamId,
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<Place>,
    samples: Vec<SampleOut<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<Place>,
    last: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    trimmed: Option<TrimmedOut>,
    #[serde(skip_serializing_if = "is_none")]
    left_out: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_none(count: &u64) -> bool {
    *count == 0
}

#[derive(Serialize)]
struct TrimmedOut {
    through: Published64,
    time: Timestamp,
}

#[derive(Deserialize)]
struct DataIn {
    error: Option<Box<str>>,
    point: Option<DataPoint>,
    stream: Option<StreamId>,
    after: Option<Place>,
    samples: Option<Vec<SampleIn>>,
    next: Option<Place>,
    last: Option<bool>,
    trimmed: Option<TrimmedIn>,
    #[serde(default)]
    left_out: u64,
}

#[derive(Deserialize)]
struct TrimmedIn {
    through: Attribute,
    time: Timestamp,
}

impl Body {
    /// `data`, as it is written and signed, or sealed.
    fn data(&self) -> Box<RawValue> {
        let out = match self {
            Self::Page(page) => DataOut::Page(page_out(page)),
            Self::Failed(reason) => DataOut::Failed {
                error: reason.as_str(),
            },
            Self::Sealed(envelope) => DataOut::Sealed(envelope),
        };
        serde_json::value::to_raw_value(&out).expect("data has string keys only")
    }

    fn read(data: &str) -> Result<Self, NotAnswer> {
        if data.starts_with('"') {
            let envelope: Box<str> = serde_json::from_str(data)?;
            return match is_compact_jwe(&envelope) {
                true => Ok(Self::Sealed(envelope)),
                false => Err(NotAnswer::Data("sealed, and not a compact JWE".into())),
            };
        }
        let data: DataIn = serde_json::from_str(data)?;
        match data.error {
            Some(reason) => Ok(Self::Failed(Reason::from_name(&reason))),
            None => page_in(data).map(Self::Page),
        }
    }
}

fn page_out(page: &Page) -> PageOut<'_> {
    PageOut {
        point: &page.point,
        stream: page.stream,
        after: page.after.map(Place),
        samples: page.samples.iter().map(sample_out).collect(),
        next: page.next.map(Place),
        last: page.last,
        trimmed: page.trimmed.map(|trimmed| TrimmedOut {
            through: Published64(trimmed.through),
            time: trimmed.time,
        }),
        left_out: page.left_out,
    }
}

fn page_in(data: DataIn) -> Result<Page, NotAnswer> {
    let missing = |what: &str| NotAnswer::Data(format!("a page without {what}"));
    let samples = data.samples.ok_or_else(|| missing("samples"))?;
    let samples: Result<Vec<Sample>, _> = samples.into_iter().map(sample_in).collect();
    let samples = samples.map_err(|error| NotAnswer::Data(error.to_string()))?;
    if !samples.is_sorted_by(|a, b| a.seq < b.seq) {
        return Err(NotAnswer::Data("rows out of order".into()));
    }
    Ok(Page {
        point: data.point.ok_or_else(|| missing("point"))?,
        stream: data.stream.ok_or_else(|| missing("stream"))?,
        after: data.after.map(|place| place.0),
        samples,
        next: data.next.map(|place| place.0),
        last: data.last.ok_or_else(|| missing("last"))?,
        trimmed: data.trimmed.map(|trimmed| Trimmed {
            through: trimmed.through.0,
            time: trimmed.time,
        }),
        left_out: data.left_out,
    })
}

impl Answer {
    /// The answer as it is published to `subject`'s Consumer, at `issued` (microseconds since 1970), signed if the
    /// site signs.
    pub fn encode(&self, subject: &Subject, issued: u64, key: Option<&SigningKey>) -> Vec<u8> {
        let data = self.body.data();
        let mut wire = Wire {
            site: subject.site.clone(),
            consumer: subject.consumer.clone(),
            vm: subject.vm.clone(),
            issued,
            id: self.id,
            page: self.page,
            data: &data,
            signature: None,
        };
        wire.signature = key.map(|key| {
            signed(&wire, |attributes| {
                key.sign(Purpose::Answer, attributes, data.get().as_bytes())
            })
        });
        serde_json::to_vec(&wire).expect("an answer has string keys only")
    }

    /// The same with its page sealed; what is no page stays as it is.
    ///
    /// # Errors
    /// There are no random bytes.
    #[cfg(feature = "seal")]
    pub fn seal(
        self,
        vm: &Label,
        key: &crate::seal::SealingKey,
    ) -> Result<Self, crate::seal::SealError> {
        let Body::Page(page) = &self.body else {
            return Ok(self);
        };
        let content = self.body.data().get().as_bytes().to_vec();
        let envelope = key.seal(&self.bound(vm, &page.point), content)?;
        let body = Body::Sealed(envelope.into());
        Ok(Self { body, ..self })
    }

    /// The same with its page open; what is not sealed stays as it is. `point` is what was asked for.
    ///
    /// # Errors
    /// The envelope does not open with these keys, or was sealed for another answer.
    #[cfg(feature = "open")]
    pub fn open(
        self,
        (vm, point): (&Label, &DataPoint),
        keys: &crate::open::OpeningKeys,
    ) -> Result<Self, crate::open::Unopened> {
        use crate::open::Unopened;
        let Body::Sealed(envelope) = &self.body else {
            return Ok(self);
        };
        let content = keys.open(&self.bound(vm, point), envelope)?;
        let text = std::str::from_utf8(&content).map_err(|_| Unopened)?;
        let body = Body::read(text).map_err(|_| Unopened)?;
        match &body {
            Body::Page(page) if page.point == *point => Ok(Self { body, ..self }),
            _ => Err(Unopened),
        }
    }

    /// What its envelope is bound to: it opens in no other answer.
    #[cfg(feature = "seal")]
    fn bound<'a>(&self, vm: &'a Label, point: &'a DataPoint) -> crate::seal::Bound<'a> {
        crate::seal::Bound {
            vm,
            point,
            message: Some(crate::seal::BoundMessage::answer(self.id, self.page)),
        }
    }
}

/// An answer as it came: what it says, and what a signature is over.
#[derive(Debug)]
pub struct Received<'a> {
    /// What it says; nobody has vouched for it yet.
    pub answer: Answer,
    wire: Wire<'a>,
}

impl std::fmt::Debug for Wire<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wire")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl<'a> Received<'a> {
    /// Reads an answer from the topic of `subject`.
    ///
    /// # Errors
    /// The bytes are no answer, or one of another topic.
    pub fn decode(bytes: &'a [u8], subject: &Subject) -> Result<Self, NotAnswer> {
        if bytes.len() > MAX_RECEIVED_BYTES {
            return Err(NotAnswer::TooLong);
        }
        let wire: Wire<'a> = serde_json::from_slice(bytes)?;
        let claimed = (&wire.site, &wire.consumer, &wire.vm);
        if claimed != (&subject.site, &subject.consumer, &subject.vm) {
            return Err(NotAnswer::Elsewhere);
        }
        let answer = Answer {
            id: wire.id,
            page: wire.page,
            body: Body::read(wire.data.get())?,
        };
        Ok(Self { answer, wire })
    }

    /// Who has signed exactly this.
    ///
    /// # Errors
    /// None of `ring`'s keys, and why the signature does not count.
    pub fn verify<'k>(&self, ring: &'k Keyring) -> Result<&'k VerifyingKey, Refusal> {
        let signature = self.wire.signature.as_deref();
        signed(&self.wire, |attributes| {
            let data = self.wire.data.get().as_bytes();
            ring.verify(Purpose::Answer, attributes, data, signature)
        })
    }
}

/// Hands the attributes that are signed to `with`.
fn signed<T>(wire: &Wire<'_>, with: impl FnOnce(&[(&str, &str)]) -> T) -> T {
    with(&[
        ("site", wire.site.as_str()),
        ("consumer", wire.consumer.as_str()),
        ("vm", wire.vm.as_str()),
        ("issued", &wire.issued.to_string()),
        ("id", &wire.id.to_string()),
        ("page", &wire.page.to_string()),
    ])
}
