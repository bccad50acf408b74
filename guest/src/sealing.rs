//! `vmkpi-guest seal`: what is piped through it leaves the application encrypted. Only to a key pinned in the
//! image (`primary_key_file`) or named on the command line; no context layer has a say.

use anyhow::{Context as _, bail};
use vmkpi::name::{Area, DataPoint, Label};
use vmkpi::seal::{Bound, SealingKey};

use crate::settings::Settings;

/// Seals for one VM and point.
pub struct Sealer<'a> {
    key: SealingKey,
    bound: Bound<'a>,
    /// Bytes of a store, which the envelope has to fit.
    limit: usize,
}

impl<'a> Sealer<'a> {
    /// A sealer with the VM and key of `settings`.
    ///
    /// # Errors
    /// The VM or the key is missing or unusable; the point is not in `encrypted/`.
    pub fn new(settings: &'a Settings, point: &'a DataPoint) -> anyhow::Result<Self> {
        let DataPoint::Kpi(Area::Encrypted, _) = point else {
            bail!(
                "{point} is not in encrypted/: vmkpi would parse it; write --point encrypted/NAME"
            );
        };
        let vm: &Label = settings.vm.as_ref().context(
            "there is no VM to bind to: set vm in the configuration to its name in the descriptor, or give --vm NAME",
        )?;
        let (_, key) = settings.primary_key()?;
        Ok(Self {
            key,
            bound: Bound {
                vm,
                point,
                message: None,
            },
            limit: settings.limits.store_bytes,
        })
    }

    /// The most bytes that can be sealed so that they fit a store.
    pub fn room(&self) -> usize {
        self.key.room(&self.bound, self.limit)
    }

    /// The envelope.
    ///
    /// # Errors
    /// There is nothing to seal, or more than fits a store.
    pub fn seal(&self, content: Vec<u8>) -> anyhow::Result<String> {
        let point = self.bound.point;
        if content.is_empty() {
            // What comes of a command that failed must not look like a measurement.
            bail!("{point}: there is nothing on standard input, so nothing is sealed");
        }
        if content.len() > self.room() {
            bail!(
                "{point}: more than {} bytes; sealed, they would not fit a store of {}",
                self.room(),
                self.limit
            );
        }
        self.key
            .seal(&self.bound, content)
            .context(point.to_string())
    }
}
