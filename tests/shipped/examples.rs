//! The examples, each run.
