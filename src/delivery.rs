//! How a row reaches its owner, exactly once. Pure state machines: values and a clock reading in,
//! decisions out; the rules are DELIVERY.md's, in ARCHITECTURE.md's words.
//!
//! | module | job |
//! | --- | --- |
//! | [`head`] | the next row's number, time and epoch; what an acknowledgement proves |
//! | [`function`] | min, max, mean, median and the others |
//! | [`window`] | rows in, closed windows out |

pub mod function;
pub mod head;
pub mod window;
