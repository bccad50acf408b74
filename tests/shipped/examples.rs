//! The examples, each run as `examples/README.md` says.

#[path = "examples/reading.rs"]
mod reading;
#[path = "examples/sealing.rs"]
mod sealing;
#[path = "examples/table.rs"]
mod table;
#[path = "examples/web.rs"]
mod web;
#[path = "examples/writing.rs"]
mod writing;
