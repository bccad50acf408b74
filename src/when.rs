//! Predicates: what `when` of a monitoring specifier says, in the Common Expression Language (CEL). Each
//! column is a variable, and `row["any name"]` is one whose name is no identifier. A predicate costs a
//! bounded time whatever a guest writes: there are no loops, no regular expressions, few nodes, and long
//! text is not looked at (docs/DESCRIPTOR.md, "When").
//!
//! The feature `when` compiles the interpreter in. Without it no [`When`] can be made, and a descriptor
//! that has one is refused.

#[cfg(not(feature = "when"))]
mod absent;
#[cfg(feature = "when")]
mod check;
#[cfg(feature = "when")]
mod program;

use std::borrow::Cow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

use crate::value::Value;

#[cfg(not(feature = "when"))]
use absent::Program;
#[cfg(feature = "when")]
use program::Program;

/// The longest predicate, in bytes.
pub const MAX_WHEN_BYTES: usize = 1000;
/// The most nodes (names, values, operators, calls) of a predicate.
pub const MAX_WHEN_NODES: usize = 100;
/// Text longer than this, in bytes, is to a predicate as if it were missing.
pub const MAX_WHEN_TEXT_BYTES: usize = 1024;

/// Why a predicate is refused: what is wrong and what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct WhenError(String);

/// A predicate that was neither true nor false: a column is missing or NULL, or has another type than
/// the predicate takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the predicate is neither true nor false")]
pub struct Undecided;

/// A valid predicate.
#[derive(Clone)]
pub struct When {
    text: Arc<str>,
    program: Arc<Program>,
}

/// How a predicate gets at a column's value; `None` where there is no such column.
pub type Lookup<'a> = dyn Fn(&str) -> Option<Cow<'a, Value>> + Sync + 'a;

impl When {
    /// The predicate as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The columns it asks for, each once.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.program.columns()
    }

    /// Whether it holds for the values that `lookup` knows.
    ///
    /// ```
    /// # #[cfg(feature = "when")] {
    /// use std::borrow::Cow;
    /// use vmkpi::value::Value;
    /// use vmkpi::when::{Undecided, When};
    /// let when: When = "current_users > 1000".parse().unwrap();
    /// let users = |name: &str| (name == "current_users").then_some(Cow::Owned(Value::Integer(1001)));
    /// assert_eq!(when.holds(&users), Ok(true));
    /// assert_eq!(when.holds(&|_: &str| None), Err(Undecided));
    /// # }
    /// ```
    ///
    /// # Errors
    /// It is neither true nor false.
    pub fn holds(&self, lookup: &Lookup<'_>) -> Result<bool, Undecided> {
        self.program.holds(lookup)
    }
}

impl FromStr for When {
    type Err = WhenError;

    fn from_str(text: &str) -> Result<Self, WhenError> {
        if text.len() > MAX_WHEN_BYTES {
            let long = format!("{} bytes; at most {MAX_WHEN_BYTES} are allowed", text.len());
            return Err(WhenError(long));
        }
        if text
            .chars()
            .any(|c| c.is_control() && !matches!(c, '\n' | '\t'))
        {
            return Err(WhenError("it has a control character".into()));
        }
        Ok(Self {
            program: Arc::new(Program::compile(text)?),
            text: text.into(),
        })
    }
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

impl PartialEq for When {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for When {}

impl Hash for When {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl serde::Serialize for When {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

#[cfg(all(test, feature = "when"))]
mod tests;
