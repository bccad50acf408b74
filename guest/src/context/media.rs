//! Watches the CD-ROM drives for contexts: each medium whose label is a class's becomes a layer.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use vmkpi::context::Class;

use crate::context::layer::Layer;

/// What a drive holds has changed.
#[derive(Clone, Debug)]
pub struct MediaEvent {
    /// Whose context it is.
    pub class: Class,
    /// The drive by its kernel name, such as `sr0`.
    pub drive: String,
    /// The layer; `None`: the medium is gone.
    pub layer: Option<Arc<Layer>>,
}

/// What to watch, and how.
#[derive(Clone, Debug)]
pub struct MediaConfig {
    /// Where the kernel lists block devices: `/sys/class/block`.
    pub sys: PathBuf,
    /// Where their nodes are: `/dev`.
    pub dev: PathBuf,
    /// Where media are copied to before they are read. It is made if it is not there.
    pub spool: PathBuf,
    /// How often a drive is asked whether its medium changed, where nothing suggests that it will.
    pub poll_interval: Duration,
}

/// What `status` says of a drive.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DriveStatus {
    /// Its kernel name.
    pub drive: String,
    /// The label of the medium in it; `None`: there is none, or none that can be read.
    pub label: Option<String>,
    /// The class, if a layer of this medium is in force.
    pub class: Option<Class>,
    /// Why the medium, though there, gives no layer, and what to do.
    pub problem: Option<String>,
    /// How often a medium was read in full.
    pub read: u64,
    /// How often a medium was refused or could not be read.
    pub failed: u64,
}
