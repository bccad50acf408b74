//! From an MQTT packet to a valid message. Whoever may publish to the broker is not trusted: what is
//! no message of ours is counted, said once for each kind, and never more than that.

use rumqttc::Publish;

use vmkpi::message::Event;
use vmkpi::name::PointPattern;

use super::super::print::Console;
use super::text::safe;

/// Why a message is not looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It was retained: nobody says now what it says.
    Retained,
    /// It is none of ours.
    Malformed,
    /// It claims another origin than its topic.
    AnotherTopic,
}

impl Refused {
    /// Every reason.
    pub const ALL: [Self; 3] = [Self::Retained, Self::Malformed, Self::AnotherTopic];

    /// Its name, as a label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Retained => "retained",
            Self::Malformed => "malformed",
            Self::AnotherTopic => "another_topic",
        }
    }

    fn sentence(self) -> &'static str {
        match self {
            Self::Retained => "a retained message",
            Self::Malformed => "a message that is none of ours",
            Self::AnotherTopic => "a message that claims another origin than its topic",
        }
    }
}

/// Reads messages and counts what is none.
pub struct Intake {
    point: Option<PointPattern>,
    refused: [u64; Refused::ALL.len()],
}

impl Intake {
    /// Lets through the points that match, all of them without a pattern.
    pub fn new(point: Option<PointPattern>) -> Self {
        Self {
            point,
            refused: [0; Refused::ALL.len()],
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
                let count = &mut self.refused[kind as usize];
                *count += 1;
                if *count == 1 {
                    let kind = kind.sentence();
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
        for kind in Refused::ALL {
            let count = self.refused(kind);
            if count > 1 {
                console.say(&format!("ignored {count} times: {}", kind.sentence()));
            }
        }
    }

    /// How many were refused for this reason.
    pub fn refused(&self, kind: Refused) -> u64 {
        self.refused[kind as usize]
    }
}

fn check(publish: &Publish) -> Result<Event, (Refused, String)> {
    if publish.retain {
        return Err((Refused::Retained, String::new()));
    }
    let event = Event::decode(&publish.payload).map_err(|e| {
        let detail: String = e.to_string().chars().take(300).collect();
        (Refused::Malformed, format!(": {detail}"))
    })?;
    // A broker guards topics; a payload may not claim what its topic does not.
    if event.topic().as_bytes() != publish.topic {
        return Err((Refused::AnotherTopic, String::new()));
    }
    Ok(event)
}
