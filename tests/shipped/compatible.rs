//! Programs of an earlier version with those of this one.
//!
//! tests/compat/versions lists the earlier versions, and tools/earlier.sh builds their programs out of this
//! repository's history. docs/RELEASING.md says what is promised.

#[path = "compatible/downgrade.rs"]
mod downgrade;
#[path = "compatible/formats.rs"]
mod formats;
#[path = "compatible/mixed.rs"]
mod mixed;
#[path = "compatible/versions.rs"]
mod versions;
