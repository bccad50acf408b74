//! A compiled predicate, and its evaluation on one row.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use cel::common::types::{CelBool, CelDouble, CelInt, CelMap, CelMapKey, CelString};
use cel::common::value::{CowVal, Val};
use cel::context::VariableResolver;
use cel::{Context, Env};

use super::check::{Names, ROW, check};
use super::{Lookup, MAX_WHEN_TEXT_BYTES, Undecided, WhenError};
use crate::value::Value;

/// CEL's standard library, without optional values. Built once: it is a large table.
static ENV: LazyLock<Arc<Env>> =
    LazyLock::new(|| Arc::new(Env::stdlib().with_optional_support(false)));

#[derive(Debug)]
pub(super) struct Program {
    program: cel::Program,
    names: Names,
}

impl Program {
    pub(super) fn compile(text: &str) -> Result<Self, WhenError> {
        let program = ENV.compile(text).map_err(|errors| {
            let first = errors.errors.first();
            let why = first.map_or_else(String::new, |e| {
                format!(" at character {}: {}", e.pos.1, e.msg)
            });
            WhenError(format!("not CEL{why}"))
        })?;
        let names = check(program.expression())?;
        Ok(Self { program, names })
    }

    pub(super) fn columns(&self) -> impl Iterator<Item = &str> {
        let of_row = self.names.of_row.difference(&self.names.variables);
        self.names.variables.iter().chain(of_row).map(|n| &**n)
    }

    pub(super) fn holds(&self, lookup: &Lookup<'_>) -> Result<bool, Undecided> {
        let variables = Variables {
            names: &self.names,
            lookup,
        };
        let mut context = Context::with_env(Arc::clone(&ENV));
        context.set_variable_resolver(&variables);
        let result = cel::Value::resolve_val(self.program.expression(), &context);
        let value = result.map_err(|_| Undecided)?;
        let decided = value.downcast_ref::<CelBool>().ok_or(Undecided)?;
        Ok(*decided.inner())
    }
}

/// The columns of one row, looked up when the expression comes to them.
struct Variables<'a, 'l> {
    names: &'a Names,
    lookup: &'a Lookup<'l>,
}

impl Variables<'_, '_> {
    fn value<'v>(&self, column: &str) -> Option<Box<dyn Val + 'v>> {
        match (self.lookup)(column)?.into_owned() {
            Value::Null => None,
            Value::Integer(number) => Some(Box::new(CelInt::from(number))),
            Value::Real(number) => Some(Box::new(CelDouble::from(number))),
            Value::Text(text) if text.len() > MAX_WHEN_TEXT_BYTES => None,
            Value::Text(text) => Some(Box::new(CelString::from(String::from(text)))),
        }
    }

    /// The columns that the expression asks for by `row`, those that are there.
    fn row<'v>(&self) -> HashMap<CelMapKey<'v>, Box<dyn Val + 'v>> {
        let known = self.names.of_row.iter().filter_map(|column| {
            let key = CelMapKey::from(String::from(&**column));
            Some((key, self.value(column)?))
        });
        known.collect()
    }
}

impl VariableResolver for Variables<'_, '_> {
    fn resolve<'b>(&'b self, name: &str) -> Option<CowVal<'b, 'b>> {
        if name == ROW {
            return Some(CowVal::owned(CelMap::from(self.row())));
        }
        // Only what was checked: `row.x` is asked for as a name, too, and a column may be called so.
        let asked = self.names.variables.contains(name);
        asked.then(|| self.value(name)).flatten().map(CowVal::Owned)
    }
}
