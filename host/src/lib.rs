//! The host's side of vmkpi: it follows libvirt's domains, reads KPIs over each domain's link, takes
//! infrastructure measurements, and publishes both as their VM descriptors say.
//!
//! | module | job |
//! | --- | --- |
//! | [`metrics`] | every metric of the exporter, in one table |
//! | [`libvirt`] | domains and statistics; the only room that knows libvirt |

pub mod libvirt;
pub mod metrics;
