//! Topics that the broker does not let us publish on: each is said once, however many messages are
//! refused.

use std::collections::HashSet;

/// The most topics remembered; over it no further one is said.
const MAX_TOPICS: usize = 1024;

/// Topics of which it has been said.
#[derive(Debug, Default)]
pub(super) struct Denied(HashSet<String>);

impl Denied {
    /// A message on `topic` was refused: whether that is to be said.
    pub(super) fn is_news(&mut self, topic: &str) -> bool {
        !self.0.contains(topic) && self.0.len() < MAX_TOPICS && self.0.insert(topic.to_owned())
    }

    /// A message on `topic` was taken: whether that is to be said.
    pub(super) fn is_over(&mut self, topic: &str) -> bool {
        !self.0.is_empty() && self.0.remove(topic)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_is_said_once_until_it_is_taken_again() {
        let mut denied = Denied::default();
        assert!(!denied.is_over("a"));
        assert!(denied.is_news("a") && !denied.is_news("a"));
        assert!(denied.is_over("a") && denied.is_news("a"));
        for n in 0..2 * MAX_TOPICS {
            denied.is_news(&n.to_string());
        }
        assert_eq!(denied.0.len(), MAX_TOPICS);
    }
}
