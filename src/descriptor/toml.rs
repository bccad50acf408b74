//! The TOML spelling.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::DescriptorError;
use super::tree::{MAX_DEPTH, Node, Value, line_at};

/// The most syntax errors told: one often brings others along.
const MAX_SYNTAX_ERRORS: usize = 10;

pub(super) fn read(text: &str) -> Result<Node, Vec<DescriptorError>> {
    let (table, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        let value = fields(text, table.into_inner(), 0);
        return Ok(Node { line: 1, value });
    }
    let told = errors.iter().take(MAX_SYNTAX_ERRORS);
    let told = told.map(|e| DescriptorError {
        line: e.span().map(|span| line_at(text, span.start)),
        key: String::new(),
        message: format!("not TOML: {}", e.message().trim().replace('\n', "; ")),
    });
    Err(told.collect())
}

fn fields(text: &str, table: DeTable<'_>, depth: usize) -> Value {
    let fields = table.into_iter().map(|(key, value)| {
        let line = line_at(text, key.span().start);
        let mut node = node(text, value, depth + 1);
        if !matches!(node.value, Value::List(_)) {
            node.line = line;
        }
        (key.into_inner().into_owned(), node)
    });
    Value::Table(fields.collect())
}

fn node(text: &str, value: Spanned<DeValue<'_>>, depth: usize) -> Node {
    let line = line_at(text, value.span().start);
    let value = match value.into_inner() {
        DeValue::String(text) => Value::Text(text.into_owned()),
        DeValue::Integer(number) => Value::Number(number.to_string()),
        DeValue::Float(number) => Value::Number(number.to_string()),
        DeValue::Boolean(value) => Value::Boolean(value),
        DeValue::Datetime(_) => Value::Other("a time"),
        _ if depth > MAX_DEPTH => Value::Other("something nested too deeply"),
        DeValue::Array(items) => {
            let items = items.into_iter().map(|item| node(text, item, depth + 1));
            Value::List(items.collect())
        }
        DeValue::Table(table) => fields(text, table, depth),
    };
    Node { line, value }
}
