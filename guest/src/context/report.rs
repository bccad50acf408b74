//! What the context says about itself, to `status` and `vmkpi-guest context`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use vmkpi::clock::Timestamp;
use vmkpi::context::Class;

use super::hooks::HooksStatus;
use super::layer::Layer;
use super::media::DriveStatus;
use super::memory::Counted;
use super::stack::Held;
use super::view::{Holder, hex};

/// The context of a program that runs.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ContextStatus {
    /// Where it is mounted.
    pub mount: PathBuf,
    /// Whether it is.
    pub mounted: bool,
    /// The number of its last change.
    pub generation: u64,
    /// Whether layers that were there before a restart are still waited for; changes are not counted until then.
    pub starting: bool,
    /// The layers, the highest first.
    pub layers: Vec<LayerStatus>,
    /// The CD-ROM drives.
    #[serde(default)]
    pub drives: Vec<DriveStatus>,
    /// Files that are shown, but for the generation's.
    pub files: usize,
    /// The hooks.
    pub hooks: HooksStatus,
    /// Old layers that were let go although something of them was open.
    pub cut_off: u64,
    /// What is wrong, and what to do.
    pub problems: Vec<String>,
}

/// A layer that is shown.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LayerStatus {
    /// Whose it is.
    pub class: Class,
    /// Where it comes from.
    pub source: String,
    /// Its files, shown or hidden.
    pub files: usize,
    /// Bytes of them.
    pub bytes: u64,
    /// Since when it is shown.
    pub since: Timestamp,
    /// The SHA-256 of its paths and contents, in hexadecimal.
    pub digest: String,
    /// Whether it has gone, and is shown until it is clear that no other comes.
    pub lingers: bool,
}

impl LayerStatus {
    /// That of a layer.
    pub fn of(held: &Held) -> Self {
        let layer = &held.layer;
        Self {
            class: layer.class.clone(),
            source: held.source.to_string(),
            files: layer.files.len(),
            bytes: layer.files.values().map(|extent| extent.length).sum(),
            since: held.since,
            digest: digest(layer),
            lingers: held.leaves.is_some(),
        }
    }
}

/// What a request through the control socket is answered with.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// `context`.
    Context(Box<ContextStatus>),
    /// `where PATH`: the layers that have it.
    Where(Vec<Holder>),
    /// `changes`: the last changes, the latest last.
    Changes(Vec<Counted>),
    /// `apply`: what [`HooksStatus::told`] reaches when all hooks were run.
    Apply(u64),
    /// Why there is none.
    Refused(String),
}

/// Of a layer's paths and contents: two with the same one are the same.
fn digest(layer: &Layer) -> String {
    let mut all = Sha256::new();
    for path in &layer.directories {
        all.update(path);
        all.update([0]);
    }
    for (path, extent) in &layer.files {
        all.update(path);
        all.update([0]);
        all.update(extent.digest);
    }
    hex(&all.finalize().into())
}
