//! From an MQTT packet to a valid message. Whoever may publish to the broker is not trusted: what is
//! no message of ours is counted, said once for each kind, and never more than that.

use std::collections::BTreeMap;

use rumqttc::Publish;

use vmkpi::message::Event;
use vmkpi::name::PointPattern;

use super::super::print::Console;
use super::text::safe;

/// Reads messages and counts what is none.
pub struct Intake {
    point: Option<PointPattern>,
    refused: BTreeMap<&'static str, u64>,
}

impl Intake {
    /// Lets through the points that match, all of them without a pattern.
    pub fn new(point: Option<PointPattern>) -> Self {
        Self {
            point,
            refused: BTreeMap::new(),
        }
    }

    /// The message, if it is one and is wanted.
    pub fn read(&mut self, publish: &Publish, console: &mut Console) -> Option<Event> {
        match check(publish) {
            Ok(event) => {
                let wanted = self.point.as_ref().is_none_or(|p| p.matches(&event.point));
                wanted.then_some(event)
            }
            Err((kind, detail)) => {
                let count = self.refused.entry(kind).or_default();
                *count += 1;
                if *count == 1 {
                    let topic = safe(&String::from_utf8_lossy(&publish.topic));
                    let topic: String = topic.chars().take(200).collect();
                    console.say(&format!("ignored {kind} on {topic}{}", safe(&detail)));
                }
                None
            }
        }
    }

    /// Says at the end what was said only once.
    pub fn report(&self, console: &mut Console) {
        for (kind, count) in self.refused.iter().filter(|(_, count)| **count > 1) {
            console.say(&format!("ignored {count} times: {kind}"));
        }
    }
}

fn check(publish: &Publish) -> Result<Event, (&'static str, String)> {
    if publish.retain {
        return Err(("a retained message", String::new()));
    }
    let event = Event::decode(&publish.payload).map_err(|e| {
        let detail: String = e.to_string().chars().take(300).collect();
        ("a message that is none of ours", format!(": {detail}"))
    })?;
    // A broker guards topics; a payload may not claim what its topic does not.
    if event.topic().as_bytes() != publish.topic {
        return Err((
            "a message that claims another origin than its topic",
            String::new(),
        ));
    }
    Ok(event)
}
