//! Programs of an earlier version with those of this one.
