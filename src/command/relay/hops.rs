//! What is said beside a message (MQTT 5 properties): everything but what is of one connection alone crosses as it
//! came, and a user property counts how often the message has been forwarded, so that no circle of relays keeps it
//! for ever. Brokers of MQTT 3.1.1 lose it; nothing of a message's meaning is in it.

use std::collections::hash_map::DefaultHasher;
use std::collections::{HashMap, VecDeque};
use std::hash::{Hash as _, Hasher as _};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use vmkpi::broker::publisher::Properties;

/// The user property that counts.
pub const NAME: &str = "vmkpi-hops";
/// How often a message is forwarded at most: more sites in a row than there will be.
pub const MAX_HOPS: u8 = 8;
/// How many forwarded messages are remembered, to know one that comes back.
const REMEMBERED: usize = 512;

/// How often a message has been forwarded; nothing if what it says is no number.
pub fn of(properties: &Properties) -> Option<u8> {
    let said = properties.user_properties.iter().filter(|(k, _)| k == NAME);
    said.map(|(_, hops)| hops.parse().ok())
        .try_fold(0, |most: u8, hops: Option<u8>| Some(most.max(hops?)))
}

/// What goes out with a message that has then been forwarded so often.
pub fn forwarded(mut properties: Properties, hops: u8) -> Properties {
    properties.user_properties.retain(|(k, _)| k != NAME);
    let hops = (NAME.to_owned(), hops.to_string());
    properties.user_properties.push(hops);
    // Of the connection it came on.
    properties.topic_alias = None;
    properties.subscription_identifiers.clear();
    properties
}

/// What properties hold, in bytes.
pub fn size_bytes(properties: &Properties) -> usize {
    let user = properties.user_properties.iter();
    let texts = [&properties.content_type, &properties.response_topic];
    user.map(|(k, v)| k.len() + v.len() + 5).sum::<usize>()
        + texts
            .iter()
            .map(|t| t.as_ref().map_or(0, String::len))
            .sum::<usize>()
        + properties
            .correlation_data
            .as_ref()
            .map_or(0, bytes::Bytes::len)
}

/// Properties on disk.
#[derive(Default, Serialize, Deserialize)]
struct Kept {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    format: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expiry_seconds: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    content_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    response_topic: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    correlation: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    user: Vec<(String, String)>,
}

/// Properties as they are kept.
pub fn encode(properties: &Properties) -> String {
    let correlation = properties.correlation_data.as_ref();
    let kept = Kept {
        format: properties.payload_format_indicator,
        expiry_seconds: properties.message_expiry_interval,
        content_type: properties.content_type.clone(),
        response_topic: properties.response_topic.clone(),
        correlation: correlation.map(|data| STANDARD.encode(data)),
        user: properties.user_properties.clone(),
    };
    serde_json::to_string(&kept).expect("texts and numbers")
}

/// Properties that were kept. What somebody else has written there is left out.
pub fn decode(text: &str) -> Properties {
    let kept: Kept = serde_json::from_str(text).unwrap_or_default();
    let correlation = kept.correlation.and_then(|data| STANDARD.decode(data).ok());
    Properties {
        payload_format_indicator: kept.format,
        message_expiry_interval: kept.expiry_seconds,
        content_type: kept.content_type,
        response_topic: kept.response_topic,
        correlation_data: correlation.map(Into::into),
        user_properties: kept.user,
        ..Properties::default()
    }
}

/// What of a message's life is left after so many seconds; nothing if its life is over (MQTT 5, 3.3.2.3.3).
pub fn aged(mut properties: Properties, seconds: u64) -> Option<Properties> {
    if let Some(expiry) = properties.message_expiry_interval {
        let left = u64::from(expiry)
            .checked_sub(seconds)
            .filter(|left| *left > 0)?;
        properties.message_expiry_interval = u32::try_from(left).ok();
    }
    Some(properties)
}

/// Messages that were forwarded lately, to know one that comes back: then both brokers are one, or a bridge or
/// another relay leads back.
#[derive(Debug, Default)]
pub struct Forwarded {
    order: VecDeque<u64>,
    hops: HashMap<u64, u8>,
}

impl Forwarded {
    /// Remembers one that goes out as forwarded `hops` times.
    pub fn add(&mut self, topic: &str, payload: &[u8], hops: u8) {
        let print = print(topic, payload);
        if self.hops.insert(print, hops).is_none() {
            self.order.push_back(print);
        }
        while self.order.len() > REMEMBERED {
            if let Some(oldest) = self.order.pop_front() {
                self.hops.remove(&oldest);
            }
        }
    }

    /// Whether a message that was forwarded `hops` times is one of them. One that its sender repeats is not: that
    /// has been forwarded less often.
    pub fn comes_back(&self, topic: &str, payload: &[u8], hops: u8) -> bool {
        hops > 0
            && self
                .hops
                .get(&print(topic, payload))
                .is_some_and(|ours| hops >= *ours)
    }
}

fn print(topic: &str, payload: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    (topic, payload).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Properties {
        Properties {
            payload_format_indicator: Some(1),
            message_expiry_interval: Some(60),
            topic_alias: Some(3),
            response_topic: Some("answer/here".into()),
            correlation_data: Some(vec![0, 255].into()),
            user_properties: vec![("a".into(), "1".into()), ("a".into(), "2".into())],
            subscription_identifiers: vec![7],
            content_type: Some("application/x".into()),
        }
    }

    #[test]
    fn properties_are_kept_but_for_those_of_a_connection() {
        let out = forwarded(full(), 1);
        assert_eq!(decode(&encode(&out)), out);
        assert_eq!(
            (out.topic_alias, out.subscription_identifiers.len()),
            (None, 0)
        );
        let mut expected = full();
        expected.topic_alias = None;
        expected.subscription_identifiers.clear();
        expected.user_properties.push((NAME.into(), "1".into()));
        assert_eq!(out, expected);
        assert_eq!(decode("no JSON"), Properties::default());
    }

    #[test]
    fn the_highest_count_counts_and_what_is_no_number_is_none() {
        assert_eq!(of(&full()), Some(0));
        let mut several = forwarded(full(), 3);
        several.user_properties.push((NAME.into(), "5".into()));
        assert_eq!(of(&several), Some(5));
        let out = forwarded(several.clone(), 6);
        assert_eq!(of(&out), Some(6));
        assert_eq!(
            out.user_properties
                .iter()
                .filter(|(k, _)| k == NAME)
                .count(),
            1
        );
        several.user_properties.push((NAME.into(), "-1".into()));
        assert_eq!(of(&several), None);
    }

    #[test]
    fn a_life_goes_on_in_the_spool() {
        let left = aged(full(), 59).and_then(|p| p.message_expiry_interval);
        assert_eq!(left, Some(1));
        assert_eq!(aged(full(), 60), None);
        assert_eq!(
            aged(Properties::default(), 1 << 40),
            Some(Properties::default())
        );
    }

    #[test]
    fn a_message_that_comes_back_is_known_and_a_repeated_one_is_not() {
        let mut lately = Forwarded::default();
        lately.add("t", b"x", 2);
        assert!(lately.comes_back("t", b"x", 2) && lately.comes_back("t", b"x", 3));
        assert!(!lately.comes_back("t", b"x", 1), "its sender repeats it");
        assert!(!lately.comes_back("t", b"y", 2));
        for n in 0..REMEMBERED {
            lately.add("t", &n.to_be_bytes(), 1);
        }
        assert!(!lately.comes_back("t", b"x", 2));
        assert_eq!(
            (lately.order.len(), lately.hops.len()),
            (REMEMBERED, REMEMBERED)
        );
    }
}
