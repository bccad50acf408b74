//! What a predicate may be made of. An allow-list: whatever is not known to cost little, whatever the
//! values, is refused by name.

use std::collections::BTreeSet;

use cel::common::ast::operators as op;
use cel::common::ast::{CallExpr, Expr, IdedExpr, LiteralValue, SelectExpr};

use super::{MAX_WHEN_NODES, WhenError};

/// The map of all columns, for names that are no identifiers.
pub(super) const ROW: &str = "row";

/// Operators that give a boolean.
const COMPARISONS: [&str; 10] = [
    op::LOGICAL_AND,
    op::LOGICAL_OR,
    op::LOGICAL_NOT,
    op::EQUALS,
    op::NOT_EQUALS,
    op::GREATER,
    op::GREATER_EQUALS,
    op::LESS,
    op::LESS_EQUALS,
    op::IN,
];
/// Operators that give what their operands are.
const ARITHMETIC: [&str; 6] = [
    op::ADD,
    op::SUBSTRACT,
    op::MULTIPLY,
    op::DIVIDE,
    op::MODULO,
    op::NEGATE,
];
/// Functions of a text that give a boolean.
const TESTS: [&str; 3] = ["contains", "startsWith", "endsWith"];
/// Functions that give a number or a text.
const CONVERSIONS: [&str; 4] = ["size", "int", "double", "string"];

/// The columns that a predicate asks for.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// As variables.
    pub(super) variables: BTreeSet<Box<str>>,
    /// By `row["name"]`, `row.name` or `"name" in row`.
    pub(super) of_row: BTreeSet<Box<str>>,
}

fn refuse<T>(message: impl Into<String>) -> Result<T, WhenError> {
    Err(WhenError(message.into()))
}

/// Checks an expression and says which columns it asks for.
pub(super) fn check(root: &IdedExpr) -> Result<Names, WhenError> {
    let mut names = Names::default();
    let (mut open, mut nodes) = (vec![&root.expr], 0);
    while let Some(expr) = open.pop() {
        nodes += 1;
        if nodes > MAX_WHEN_NODES {
            return refuse(format!(
                "it has more than {MAX_WHEN_NODES} names, values and operators"
            ));
        }
        match expr {
            Expr::Literal(_) => {}
            Expr::Ident(name) => variable(name, &mut names)?,
            Expr::Select(select) => member(select, &mut names)?,
            Expr::List(list) if list.optional_indices.is_empty() => {
                open.extend(list.elements.iter().map(|e| &e.expr));
            }
            Expr::Call(call) => open.extend(call_parts(call, &mut names)?),
            Expr::Comprehension(_) => {
                return refuse(
                    "all, exists, exists_one, map and filter are not offered: they loop",
                );
            }
            _ => return refuse("it may hold values, lists, columns, operators and calls only"),
        }
    }
    match could_be_boolean(&root.expr) {
        true => Ok(names),
        false => refuse("it is neither true nor false; compare, as in current_users > 1000"),
    }
}

fn variable(name: &str, names: &mut Names) -> Result<(), WhenError> {
    if name == ROW {
        return refuse("row needs a column's name: row[\"current users\"]");
    }
    if name.starts_with('.') {
        return refuse(format!("{name}: leave the dot before the name out"));
    }
    if name.starts_with('_') {
        let never = format!("{name}: no column's name begins with an underscore");
        return refuse(never);
    }
    names.variables.insert(name.into());
    Ok(())
}

/// `row.name`, also in `has(row.name)`.
fn member(select: &SelectExpr, names: &mut Names) -> Result<(), WhenError> {
    let of = match &select.operand.expr {
        Expr::Ident(name) => name.as_str(),
        _ => "what is before the dot",
    };
    if of != ROW {
        let field = &select.field;
        return refuse(format!(
            "{of} has no member {field}; a column with a dot in its name is row[\"a.b\"]"
        ));
    }
    names.of_row.insert(select.field.as_str().into());
    Ok(())
}

/// The operands of a call that are to be looked at.
fn call_parts<'e>(call: &'e CallExpr, names: &mut Names) -> Result<Vec<&'e Expr>, WhenError> {
    let name = call.func_name.as_str();
    let parts: Vec<&Expr> = call
        .target
        .iter()
        .map(|t| &t.expr)
        .chain(call.args.iter().map(|a| &a.expr))
        .collect();
    let is_row = |e: &Expr| matches!(e, Expr::Ident(name) if name == ROW);
    let column = match (name, &parts[..]) {
        (op::INDEX, [map, key]) if is_row(map) => Some(key),
        (op::IN, [key, map]) if is_row(map) => Some(key),
        _ => None,
    };
    match column {
        Some(Expr::Literal(LiteralValue::String(column))) => {
            names.of_row.insert(column.inner().into());
            return Ok(Vec::new());
        }
        Some(_) => return refuse("a column's name in row[...] must be written out, as text"),
        None => {}
    }
    let known = COMPARISONS.iter().chain(&ARITHMETIC).chain(&TESTS);
    let mut known = known.chain(&CONVERSIONS).chain(&[op::CONDITIONAL]);
    if known.any(|k| *k == name) {
        return Ok(parts);
    }
    let offered = [&TESTS[..], &CONVERSIONS[..]].concat().join(", ");
    match name {
        op::INDEX => refuse("only row has members: row[\"current users\"]"),
        _ => refuse(format!(
            "{name} is not offered; there are {offered} and has(row.name)"
        )),
    }
}

/// Whether an expression may be true or false. Where only its values tell, it may.
fn could_be_boolean(expr: &Expr) -> bool {
    match expr {
        Expr::Literal(literal) => matches!(literal, LiteralValue::Boolean(_)),
        Expr::List(_) => false,
        // A KPI has numbers and text, no booleans.
        Expr::Ident(_) => false,
        Expr::Select(select) => select.test,
        Expr::Call(call) => {
            let name = call.func_name.as_str();
            match name {
                op::CONDITIONAL => call.args[1..].iter().all(|a| could_be_boolean(&a.expr)),
                _ => COMPARISONS.contains(&name) || TESTS.contains(&name),
            }
        }
        _ => true,
    }
}
