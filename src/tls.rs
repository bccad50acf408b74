//! TLS over any stream that does not block, the files that mutual TLS is made of, and the name that a VM's certificate
//! gives it. Knows no provider of cryptography: whoever makes a configuration brings one (ring in the guest, aws-lc-rs
//! elsewhere), as a program that was built with both has no default.
//!
//! | module | job |
//! | --- | --- |
//! | [`channel`] | bytes through TLS, as far as a socket that does not block takes and gives them |
//! | [`files`] | certificates and keys of PEM files |
//! | [`mutual`] | the two ends' configurations of a link: TLS 1.3, certificates on both sides |
//! | [`vm_name`] | `urn:vmkpi:SITE:VM`: who a VM is, in its certificate |
//! | [`explain`] | what a failure means, and what to do |

pub mod channel;
pub mod explain;
pub mod files;
pub mod mutual;
pub mod vm_name;

pub use channel::Channel;
pub use explain::explain;
pub use files::MutualFiles;
pub use vm_name::VmName;
