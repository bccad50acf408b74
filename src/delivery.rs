//! How a row reaches its owner, exactly once. Pure state machines: values and a clock reading in,
//! decisions out; docs/DELIVERY.md tells the rules.
//!
//! | module | job |
//! | --- | --- |
//! | [`head`] | the next row's number, time and epoch; what an acknowledgement proves |
//! | [`spool`] | the guest's part of the link, in memory |
//! | [`function`] | min, max, mean, median and the others |
//! | [`window`] | rows in, closed windows out |
//! | [`producer`] | the host's part: instances, coverage, acknowledgement, repair |
//! | [`skew`] | how far the guest's clock is from the host's |
//! | [`waiting`] | how long the oldest has waited |
//! | [`consumer`] | what a message is to a Consumer |
//! | [`hole`] | what a Consumer does about a hole that nobody fills |

pub mod consumer;
pub mod function;
pub mod head;
pub mod hole;
pub mod producer;
pub mod skew;
pub mod spool;
pub mod waiting;
pub mod window;

#[cfg(test)]
mod tests;
