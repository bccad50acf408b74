//! The context partition: configuration that is offered to the VM, layer over layer, as one read-only tree.

pub mod guidance;
pub mod layer;
pub mod media;
