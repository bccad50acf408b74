//! What a named Consumer says to a Producer, in the one form that confirmations and questions have: signed by the
//! Consumer's key, for one site and VM.
//!
//! ```text
//! {"site","consumer","vm","issued","data":{...},"signature"}
//! ```
//! The signature is over the exact bytes of `data` and the four attributes before it, so that it counts for no
//! other site, Consumer or VM, and for no other purpose; `issued` tells an old one that is sent again.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::name::Label;
use crate::sign::{Keyring, Purpose, Refusal, SigningKey};
use crate::topic::Branch;

/// Which Consumer, and which VM.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subject {
    /// The primary site.
    pub site: Label,
    /// The Consumer, by its name in the VM's descriptor.
    pub consumer: Label,
    /// The VM, by its name in its descriptor.
    pub vm: Label,
}

impl Subject {
    /// Where it stands in a branch of `CONSUMER/VM`.
    pub fn topic(&self, branch: Branch) -> String {
        branch.topic(&self.site, &[&self.consumer, &self.vm])
    }
}

/// Why bytes are no word of a Consumer's that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotHeard {
    /// Too long, or not of the form.
    Malformed,
    /// It speaks of another site, Consumer or VM than its topic.
    Elsewhere,
    /// Its signature does not count.
    Refused(Refusal),
}

impl NotHeard {
    /// Its name, as a label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Elsewhere => "another_topic",
            Self::Refused(refusal) => refusal.as_str(),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Wire<'a> {
    site: Label,
    consumer: Label,
    vm: Label,
    issued: u64,
    #[serde(borrow)]
    data: &'a RawValue,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    signature: Option<String>,
}

/// The message, signed. `issued` is greater than that of every earlier one of the Consumer's.
pub(crate) fn encode<D: Serialize>(
    (subject, issued, purpose): (&Subject, u64, Purpose),
    data: &D,
    key: &SigningKey,
) -> Vec<u8> {
    let data = serde_json::value::to_raw_value(data).expect("data has string keys only");
    let signature = signed(subject, issued, |attributes| {
        key.sign(purpose, attributes, data.get().as_bytes())
    });
    let wire = Wire {
        site: subject.site.clone(),
        consumer: subject.consumer.clone(),
        vm: subject.vm.clone(),
        issued,
        data: &data,
        signature: Some(signature),
    };
    serde_json::to_vec(&wire).expect("a message has string keys only")
}

/// What a message on a topic of `subject` says, if one of `keys` signed it, and when it was issued.
pub(crate) fn decode<'a, D: Deserialize<'a>>(
    bytes: &'a [u8],
    max_bytes: usize,
    (subject, purpose): (&Subject, Purpose),
    keys: &Keyring,
) -> Result<(u64, D), NotHeard> {
    let malformed = |_| NotHeard::Malformed;
    if bytes.len() > max_bytes {
        return Err(NotHeard::Malformed);
    }
    let wire: Wire<'_> = serde_json::from_slice(bytes).map_err(malformed)?;
    if (&wire.site, &wire.consumer, &wire.vm) != (&subject.site, &subject.consumer, &subject.vm) {
        return Err(NotHeard::Elsewhere);
    }
    let data = wire.data.get();
    signed(subject, wire.issued, |attributes| {
        let signature = wire.signature.as_deref();
        let verified = keys.verify(purpose, attributes, data.as_bytes(), signature);
        verified.map(|_| ()).map_err(NotHeard::Refused)
    })?;
    let data = serde_json::from_str(data).map_err(malformed)?;
    Ok((wire.issued, data))
}

/// Hands the attributes that are signed to `with`.
fn signed<T>(subject: &Subject, issued: u64, with: impl FnOnce(&[(&str, &str)]) -> T) -> T {
    with(&[
        ("site", subject.site.as_str()),
        ("consumer", subject.consumer.as_str()),
        ("vm", subject.vm.as_str()),
        ("issued", &issued.to_string()),
    ])
}
