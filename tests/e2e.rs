//! End to end, over real parts.
