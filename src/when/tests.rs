use super::*;

fn holds(when: &str, columns: &[(&str, Value)]) -> Result<bool, Undecided> {
    let when: When = when.parse().unwrap_or_else(|e| panic!("{when}: {e}"));
    let lookup = |name: &str| {
        let found = columns.iter().find(|(column, _)| *column == name);
        found.map(|(_, value)| Cow::Borrowed(value))
    };
    when.holds(&lookup)
}

fn text(text: &str) -> Value {
    Value::Text(text.into())
}

#[test]
fn a_predicate_is_true_or_false_of_a_row() {
    let row = [
        ("users", Value::Integer(1001)),
        ("load", Value::Real(0.5)),
        ("state", text("degraded")),
        ("queue length", Value::Integer(7)),
        ("nothing", Value::Null),
        ("big", Value::Integer((1 << 53) + 1)),
    ];
    for (when, expected) in [
        ("users > 1000", true),
        ("users > 1000.5", true),
        ("load < 1", true),
        ("users == 1001.0", true),
        ("users > 1000 && load > 0.9", false),
        ("!(users > 1000) || state.startsWith('deg')", true),
        ("state in ['degraded', 'down']", true),
        ("row[\"queue length\"] >= 7", true),
        ("row.users == users", true),
        ("has(row.nothing)", false),
        ("has(row.queue) || 'queue length' in row", true),
        ("'absent' in row", false),
        ("double(users) * load > 500.0", true),
        ("size(state) == 8 ? load > 0.1 : false", true),
        ("-users < -1000 && users % 2 == 1", true),
        ("big == 9007199254740993", true),
        ("absent > 1 || users > 1000", true),
        ("users > 1000\n\t// a comment\n", true),
    ] {
        assert_eq!(holds(when, &row), Ok(expected), "{when}");
    }
}

#[test]
fn what_is_missing_null_or_of_another_type_is_undecided() {
    let row = [
        ("users", Value::Integer(7)),
        ("least", Value::Integer(i64::MIN)),
        ("state", text("up")),
        ("nothing", Value::Null),
        ("long", text(&"x".repeat(MAX_WHEN_TEXT_BYTES + 1))),
        ("row.users", Value::Integer(1)),
    ];
    for when in [
        "absent > 1",
        "nothing > 1",
        "nothing == 1",
        "state > 1",
        "users > 'a'",
        "users / 0 > 1",
        "users + 1.5 > 1.0",
        "row.absent > 1",
        "long == 'x'",
        "long != 'x'",
        "long.contains('x')",
        "int(state) > 1",
        "least / -1 > 0",
        "least % -1 == 1",
        "-least > 0",
        "least - 1 < 0",
        "least * 2 < 0",
        "int(1e300 * double(users)) > 0",
        "users > 1 ? absent > 1 : true",
    ] {
        assert_eq!(holds(when, &row), Err(Undecided), "{when}");
    }
    assert_eq!(
        holds("row.users == 7", &row),
        Ok(true),
        "a name with a dot is another column"
    );
}

#[test]
fn what_could_cost_much_or_can_never_hold_is_refused_with_its_reason() {
    for (when, word) in [
        ("", "not CEL"),
        ("users >", "not CEL"),
        ("users = 1", "not CEL"),
        ("users > 1;", "not CEL"),
        ("[1, 2].all(x, x > users)", "they loop"),
        ("[1].exists(x, [1].map(y, y).size() > 0)", "they loop"),
        ("state.matches('(a+)+$')", "matches is not offered"),
        ("users", "neither true nor false"),
        ("users + 1", "neither true nor false"),
        ("[true]", "neither true nor false"),
        ("true ? users : users", "neither true nor false"),
        ("'a'", "neither true nor false"),
        ("_seq > 1", "underscore"),
        ("web.users > 1", "no member"),
        ("(users > 1).x == 1", "no member"),
        ("row == row", "row needs"),
        ("row[users] == 1", "written out"),
        ("state['x'] == 1", "only row has members"),
        ("{'a': 1} == {'a': 2}", "values, lists, columns"),
        ("cel.Type{} == 1", "values, lists, columns"),
        (".users > 1", "leave the dot"),
        ("timestamp('x') > timestamp('y')", "not offered"),
        ("a\u{7} > 1", "control character"),
    ] {
        let refused = when.parse::<When>().unwrap_err().to_string();
        assert!(refused.contains(word), "{when}: {refused}");
    }
    let long = format!("users > {}", "1".repeat(MAX_WHEN_BYTES));
    assert!(
        long.parse::<When>()
            .unwrap_err()
            .to_string()
            .contains("at most 1000")
    );
    let many = format!("users > {}1", "1+".repeat(MAX_WHEN_NODES));
    assert!(
        many.parse::<When>()
            .unwrap_err()
            .to_string()
            .contains("more than 100")
    );
}

/// Whoever writes a descriptor cannot stop the host either: a thread's stack as tokio's workers have it,
/// and the longest text of each kind of nesting.
#[test]
fn the_deepest_expressions_are_refused_or_read_in_a_bounded_stack_and_time() {
    let begun = std::time::Instant::now();
    let nested = |open: &str, inner: &str, close: &str| {
        let times = (MAX_WHEN_BYTES - inner.len()) / (open.len() + close.len());
        format!("{}{inner}{}", open.repeat(times), close.repeat(times))
    };
    let texts = [
        nested("(", "a > 1", ")"),
        nested("!", "a > 1", ""),
        nested("-", "1", ""),
        nested("[", "1", "]"),
        nested("", "a > 1", " && a > 1"),
        nested("a?", "1", ":2"),
        nested("a ? b : ", "1", ""),
        nested("size(", "a", ")"),
        nested("{1:", "1", "}"),
        nested("", "a", ".b"),
        nested("", "row", "[1]"),
        nested("(", "", ""),
        nested("a<", "1", ""),
        nested("a.all(x,", "1", ")"),
        nested("[[(", "1", ""),
        nested("'", "", ""),
        nested("\\", "", ""),
        nested("\u{1f642}", "", ""),
    ];
    let reader = std::thread::Builder::new()
        .stack_size(2 << 20)
        .spawn(move || {
            for text in &texts {
                let _ = text.parse::<When>();
            }
        });
    reader.unwrap().join().unwrap();
    assert!(begun.elapsed().as_secs() < 30, "{:?}", begun.elapsed());
}

/// The dearest expression on the longest text: far less than what reading its row costs.
#[test]
fn a_hostile_row_costs_a_bounded_time() {
    let long = text(&"a".repeat(MAX_WHEN_TEXT_BYTES));
    let tests: Vec<_> = std::iter::repeat_n("a.contains(b+b+'b')", 12).collect();
    let when: When = format!("!({})", tests.join("||")).parse().unwrap();
    let lookup = |_: &str| Some(Cow::Borrowed(&long));
    let begun = std::time::Instant::now();
    for _ in 0..100 {
        assert_eq!(when.holds(&lookup), Ok(true));
    }
    assert!(begun.elapsed().as_millis() < 3000, "{:?}", begun.elapsed());
}
