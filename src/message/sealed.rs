//! Messages that only the primary site reads: `data` is an envelope, and every attribute stays in the clear.

use super::{Body, Event};
use crate::envelope::{Bound, BoundMessage};

impl Event {
    /// What an envelope in this message is bound to: it opens in no other.
    fn bound(&self) -> Bound<'_> {
        let range = (self.after.seq, self.through.seq);
        Bound {
            vm: &self.vm,
            point: &self.point,
            message: Some(BoundMessage::new(self.stream, &self.specifier, range)),
        }
    }

    /// The message with its `data` sealed, whatever is in it; one that is sealed already stays as it is.
    ///
    /// # Errors
    /// There are no random bytes.
    pub fn seal(self, key: &crate::seal::SealingKey) -> Result<Self, crate::seal::SealError> {
        if matches!(self.body, Body::Sealed(_)) {
            return Ok(self);
        }
        let content = self.data().get().as_bytes().to_vec();
        let envelope = key.seal(&self.bound(), content)?.into();
        let kind = self.body.kind();
        let body = Body::Sealed(super::Sealed { kind, envelope });
        Ok(Self { body, ..self })
    }

    /// The message as it was before it was sealed; one that is not sealed stays as it is.
    ///
    /// # Errors
    /// The envelope does not open with these keys, or was sealed for another message.
    #[cfg(feature = "open")]
    pub fn open(&self, keys: &crate::open::OpeningKeys) -> Result<Self, crate::open::Unopened> {
        let Body::Sealed(sealed) = &self.body else {
            return Ok(self.clone());
        };
        let content = keys.open(&self.bound(), &sealed.envelope)?;
        let text = std::str::from_utf8(&content).map_err(|_| crate::open::Unopened)?;
        let body = super::wire::data_in(sealed.kind, text).map_err(|_| crate::open::Unopened)?;
        Ok(Self {
            body,
            ..self.clone()
        })
    }
}
