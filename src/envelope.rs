//! What a sealed envelope says in the clear: its protected header (RFC 7516, section 4.1). It says whose data
//! it is, so an envelope that is moved to another VM, point or message does not open as that one's.

use serde::Serialize;

use crate::message::Attribute;
use crate::name::{DataPoint, Label};
use crate::position::{QueryId, Seq, StreamId};

/// The one algorithm that wraps a content key (RFC 7518, section 4.3).
pub(crate) const ALG: &str = "RSA-OAEP-256";
/// The one algorithm that encrypts content (RFC 7518, section 5.3).
pub(crate) const ENC: &str = "A256GCM";
/// Bytes of A256GCM's key, initialization vector and tag.
pub(crate) const KEY_BYTES: usize = 32;
pub(crate) const IV_BYTES: usize = 12;
pub(crate) const TAG_BYTES: usize = 16;

/// What the protected header binds the content to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Bound<'a> {
    /// The VM, by the name its owner gave it.
    pub vm: &'a Label,
    /// The data point.
    pub point: &'a DataPoint,
    /// The message, for what a host seals; nothing more is known inside a guest.
    #[serde(flatten)]
    pub message: Option<BoundMessage<'a>>,
}

/// What a host has sealed: which message, or which page of which answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct BoundMessage<'a>(Content<'a>);

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
enum Content<'a> {
    Message {
        stream: StreamId,
        specifier: &'a Label,
        after: Attribute,
        through: Attribute,
    },
    Answer {
        answer: QueryId,
        page: u32,
    },
}

impl<'a> BoundMessage<'a> {
    /// The message of a specifier's rows (after, through] of a stream.
    pub fn new(stream: StreamId, specifier: &'a Label, (after, through): (Seq, Seq)) -> Self {
        Self(Content::Message {
            stream,
            specifier,
            after: Attribute(after),
            through: Attribute(through),
        })
    }

    /// A page of the answer to a question.
    pub fn answer(answer: QueryId, page: u32) -> Self {
        Self(Content::Answer { answer, page })
    }
}

/// The protected header as it is written, `vm`, `point` and what follows being private names (RFC 7516, 4.3).
#[derive(Serialize)]
pub(crate) struct HeaderOut<'a> {
    pub(crate) alg: &'static str,
    pub(crate) enc: &'static str,
    pub(crate) kid: &'a str,
    #[serde(flatten)]
    pub(crate) bound: &'a Bound<'a>,
}

/// The protected header as it is read. Whatever else is in one, `zip` and `crit` among it, is refused.
#[cfg(feature = "open")]
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HeaderIn {
    alg: String,
    enc: String,
    pub(crate) kid: String,
    vm: Label,
    point: DataPoint,
    stream: Option<StreamId>,
    specifier: Option<Label>,
    after: Option<Attribute>,
    through: Option<Attribute>,
    answer: Option<QueryId>,
    page: Option<u32>,
}

#[cfg(feature = "open")]
impl HeaderIn {
    /// Whether it has our algorithms and binds the content to `expected` and to nothing else.
    pub(crate) fn is_for(&self, expected: &Bound<'_>) -> bool {
        let message = match (self.stream, &self.specifier, self.after, self.through) {
            (Some(stream), Some(specifier), Some(after), Some(through)) => {
                Some(BoundMessage::new(stream, specifier, (after.0, through.0)))
            }
            (None, None, None, None) => None,
            _ => return false,
        };
        let message = match (self.answer, self.page, message) {
            (None, None, message) => message,
            (Some(answer), Some(page), None) => Some(BoundMessage::answer(answer, page)),
            _ => return false,
        };
        let bound = Bound {
            vm: &self.vm,
            point: &self.point,
            message,
        };
        self.alg == ALG && self.enc == ENC && bound == *expected
    }
}
