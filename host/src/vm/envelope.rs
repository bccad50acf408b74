//! From a producer's message to what is published: sealed for the primary site where its specifier says so, and
//! signed by this site.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;
use vmkpi::delivery::producer::Publication;
use vmkpi::seal::{SealError, SealingKey};
use vmkpi::sign::SigningKey;

/// The site's key, which every message is signed with, as it is now; `None` signs none.
pub type Signer = watch::Receiver<Option<Arc<SigningKey>>>;

/// What messages are made with, and how many were.
#[derive(Clone, Debug)]
pub struct Envelopes {
    signer: Signer,
    /// The last key that was sealed to, and the text it was read from.
    sealer: Option<(Arc<str>, SealingKey)>,
    /// Messages that could not be sealed, with their lanes: they do not leave as they are ...
    waiting: Vec<(u64, Publication)>,
    /// ... and are tried again.
    due: Vec<(u64, Publication)>,
    /// Messages that were sealed.
    pub sealed: u64,
    /// Attempts to seal one that failed.
    pub failures: u64,
}

impl Envelopes {
    /// With the site's key, if it signs: each message with the one that is in force when it is made.
    pub fn new(signer: Signer) -> Self {
        Self {
            signer,
            sealer: None,
            waiting: Vec::new(),
            due: Vec::new(),
            sealed: 0,
            failures: 0,
        }
    }

    /// Keeps a message that could not be sealed.
    pub fn keep(&mut self, lane: u64, publication: Publication, error: &SealError) {
        if self.waiting.is_empty() {
            tracing::error!(%error, vm = %publication.event.vm.as_str(), "a message cannot be sealed, and so it is not published; it is tried again each second");
        }
        self.waiting.push((lane, publication));
    }

    /// A second has passed: what was kept may be tried again.
    pub fn tick(&mut self) {
        self.due.append(&mut self.waiting);
    }

    /// What may be tried again now.
    pub fn take_due(&mut self) -> Vec<(u64, Publication)> {
        std::mem::take(&mut self.due)
    }

    /// Nobody counts on what this lane made any more.
    pub fn forget(&mut self, lane: u64) {
        self.waiting.retain(|(of, _)| *of != lane);
        self.due.retain(|(of, _)| *of != lane);
    }

    /// The bytes to publish. What has to be sealed never leaves as it is.
    ///
    /// # Errors
    /// It cannot be sealed.
    pub fn encode(&mut self, publication: &Publication) -> Result<Bytes, SealError> {
        let sealed = match &publication.seal_to {
            None => None,
            Some(pem) => {
                let sealed = self.seal(pem, publication);
                self.failures += u64::from(sealed.is_err());
                Some(sealed?)
            }
        };
        self.sealed += u64::from(sealed.is_some());
        let event = sealed.as_ref().unwrap_or(&publication.event);
        let bytes = match &*self.signer.borrow() {
            Some(key) => event.encode_signed(key),
            None => event.encode(),
        };
        Ok(Bytes::from(bytes))
    }

    fn seal(
        &mut self,
        pem: &Arc<str>,
        publication: &Publication,
    ) -> Result<vmkpi::message::Event, SealError> {
        let key = match self.sealer.take() {
            Some((text, key)) if text == *pem => key,
            _ => SealingKey::fast_from_pem(pem)?,
        };
        let (_, key) = self.sealer.insert((Arc::clone(pem), key));
        publication.event.as_ref().clone().seal(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmkpi::delivery::producer::Token;
    use vmkpi::message::{Body, Event, Received};
    use vmkpi::position::{Position, RowKey, StreamId};
    use vmkpi::sign::Keyring;

    const SIGN: &str = include_str!("../../../schemas/vectors/sign.key.pem");
    const OTHER_SIGN: &str = "-----BEGIN PRIVATE KEY-----\n\
        MC4CAQAwBQYDK2VwBCIEIPNDubr8Y+IAuQ14B4eRCMAqIvwDcWftLXrZw3RhvZf2\n-----END PRIVATE KEY-----\n";
    const SEAL: &str = include_str!("../../../schemas/vectors/seal.pub.pem");

    fn publication(seal_to: Option<&str>) -> Publication {
        let event = Event {
            site: "acme".parse().unwrap(),
            vm: "shop".parse().unwrap(),
            point: "unencrypted/web".parse().unwrap(),
            specifier: "web".parse().unwrap(),
            revision: "00ff".into(),
            stream: StreamId(5),
            after: Position::new(16, RowKey(1)),
            through: Position::new(17, RowKey(2)),
            base: Position::START,
            time: vmkpi::clock::Timestamp::from_micros(1),
            clock_skew_ms: None,
            body: Body::Gap("a_secret_reason".into()),
        };
        Publication {
            token: Token(1),
            event: Box::new(event),
            seal_to: seal_to.map(Into::into),
        }
    }

    fn says(bytes: &Bytes) -> bool {
        String::from_utf8_lossy(bytes).contains("a_secret_reason")
    }

    #[test]
    fn a_message_is_sealed_and_signed_as_it_should_be() {
        let signer = Arc::new(SigningKey::from_pem(SIGN).unwrap());
        let ring = Keyring::from_iter([signer.public().clone()]);
        for signer in [None, Some(signer)] {
            let mut envelopes = Envelopes::new(watch::channel(signer.clone()).1);
            let open = envelopes.encode(&publication(None)).unwrap();
            let sealed = envelopes.encode(&publication(Some(SEAL))).unwrap();
            assert!(says(&open) && !says(&sealed));
            assert_eq!((envelopes.sealed, envelopes.failures), (1, 0));
            for bytes in [open, sealed] {
                let verified = Received::decode(&bytes).unwrap().verify(&ring).is_ok();
                assert_eq!(verified, signer.is_some());
            }
        }
    }

    #[test]
    fn a_replaced_key_signs_the_next_message() {
        let [old, new] = [SIGN, OTHER_SIGN].map(|pem| Arc::new(SigningKey::from_pem(pem).unwrap()));
        let (replace, signer) = watch::channel(Some(Arc::clone(&old)));
        let mut envelopes = Envelopes::new(signer);
        let mut signed_by = |key: &SigningKey| {
            let bytes = envelopes.encode(&publication(None)).unwrap();
            let ring = Keyring::from_iter([key.public().clone()]);
            Received::decode(&bytes).unwrap().verify(&ring).is_ok()
        };
        assert!(signed_by(&old));
        replace.send_replace(Some(Arc::clone(&new)));
        assert!(signed_by(&new) && !signed_by(&old));
    }

    #[test]
    fn what_cannot_be_sealed_is_kept_and_tried_again_each_second() {
        let mut envelopes = Envelopes::new(watch::channel(None).1);
        for lane in [3, 4] {
            let publication = publication(Some("no key"));
            let error = envelopes.encode(&publication).unwrap_err();
            envelopes.keep(lane, publication, &error);
        }
        assert_eq!((envelopes.sealed, envelopes.failures), (0, 2));
        assert!(envelopes.take_due().is_empty(), "not at once");
        envelopes.tick();
        envelopes.forget(3);
        let due: Vec<u64> = envelopes.take_due().iter().map(|(lane, _)| *lane).collect();
        assert_eq!(due, [4]);
        assert!(envelopes.take_due().is_empty());
    }
}
