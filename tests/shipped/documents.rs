//! The commands of the documentation, each run.
