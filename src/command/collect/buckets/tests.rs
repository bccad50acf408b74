use super::*;
use crate::command::database::Database;

struct Fixture {
    connection: Connection,
    _dir: tempfile::TempDir,
}

fn fixture(rows: &str) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kpi.db");
    let database = Database::open(&path, &crate::command::collect::SCHEMA).unwrap();
    let connection = database.connection;
    let sql = "INSERT INTO vm VALUES (1, 'acme', 'shop');
        INSERT INTO series VALUES (1, 1, 'unencrypted/web', 's'), (2, 1, 'infra/cpu', 'i');
        INSERT INTO instance VALUES (1, 1, '00', 'r', 9, NULL, 12, 0, 5, 1, 2), (2, 2, '00', 'r', 9, NULL, 9, 0, 5, 1, 2);";
    connection.execute_batch(sql).unwrap();
    connection.execute_batch(rows).unwrap();
    Fixture {
        connection,
        _dir: dir,
    }
}

const ALL: &str = "from=1970-01-01T00:00:00Z&to=1970-01-02T00:00:00Z&step=10s";

impl Fixture {
    fn ask(&self, query: &str) -> Answer {
        let query = format!("site=acme&vm=shop&{query}");
        Buckets::parse(&query)
            .unwrap()
            .ask(&self.connection)
            .unwrap()
    }

    fn web(&self, query: &str) -> Answer {
        self.ask(&format!("point=unencrypted/web&specifier=s&{query}"))
    }
}

#[test]
fn rows_of_a_bucket_become_their_least_mean_and_greatest() {
    let at = fixture(
        r#"INSERT INTO sample VALUES
            (1, 1, 1, 1, 1, 1000000, '{"n":1,"state":"calm","none":null}'),
            (2, 1, 1, 2, 2, 9999999, '{"n":4,"state":"busy","big":"9007199254740993","deep":{"n":7},"list":[1]}'),
            (3, 1, 1, 3, 3, 30000000, '{"n":-2.5}'),
            (4, 1, 1, 4, 4, 31000000, x'00ff'),
            (5, 2, 2, 1, 5, 1000000, '{"n":1000}');
        INSERT INTO sealed VALUES (1, 1, 1, 4, NULL, 9, NULL, 'raw', 32000000, 'e30..');"#,
    );
    let found = at.web(ALL);
    assert_eq!(
        found.body,
        concat!(
            "{\"rows\":[\n",
            r#"{"time":"1970-01-01T00:00:00.000000Z","last":"1970-01-01T00:00:09.999999Z","until":null,"rows":2,"encrypted":0,"sealed":0,"#,
            r#""data":{"big":[9007199254740992.0,9007199254740992.0,9007199254740992.0],"n":[1.0,2.5,4.0]},"#,
            r#""text":{"state":"busy"}},"#,
            "\n",
            r#"{"time":"1970-01-01T00:00:30.000000Z","last":"1970-01-01T00:00:32.000000Z","until":null,"rows":7,"encrypted":1,"sealed":5,"#,
            r#""data":{"n":[-2.5,-2.5,-2.5]},"text":{}}"#,
            "\n],\"next\":null}\n"
        )
    );
    assert_eq!(found.next, None);
}

#[test]
fn windows_are_at_their_beginning_and_say_until_when_they_last() {
    let at = fixture(
        r#"INSERT INTO result VALUES
            (1, 1, 1, 0, 3, 0, 'mean', 10000000, 20000000, '{"n":2}', '{"n":2}', 0, 0, NULL),
            (2, 1, 1, 3, 6, 0, 'mean', 20000000, 30000000, '{"n":3}', '{"n":2}', 0, 0, NULL);"#,
    );
    let found = at.web(&format!("{ALL}&format=csv")).body;
    let lines: Vec<_> = found.lines().collect();
    assert_eq!(lines[0], "time,last,until,rows,encrypted,sealed,data,text");
    assert_eq!(
        lines[1],
        r#"1970-01-01T00:00:10.000000Z,1970-01-01T00:00:10.000000Z,1970-01-01T00:00:20.000000Z,1,0,0,"{""n"":[2.0,2.0,2.0]}",{}"#
    );
    assert_eq!(lines.len(), 3);
}

#[test]
fn pages_connect_and_a_later_question_begins_where_it_says() {
    let at = fixture("");
    for n in 0..100 {
        let sql = "INSERT INTO sample VALUES (?1, 1, 1, ?1, ?1, ?1 * 3000000, '{\"n\":1}')";
        at.connection.execute(sql, [n]).unwrap();
    }
    let whole = at.web(ALL);
    let rows = |answer: &Answer| answer.body.matches("\"time\"").count();
    assert_eq!(rows(&whole), 30);
    let (mut after, mut pages, mut all) = (String::new(), 0, String::new());
    loop {
        let page = at.web(&format!("{ALL}&limit=7{after}"));
        pages += 1;
        let lines = page.body.lines().filter(|line| line.contains("time"));
        lines.for_each(|line| all += line.trim_end_matches(','));
        match page.next {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    assert_eq!(pages, 5);
    let once: String = whole
        .body
        .lines()
        .filter(|l| l.contains("time"))
        .map(|l| l.trim_end_matches(','))
        .collect();
    assert_eq!(all, once);
    let late = "from=1970-01-01T00:04:50Z&to=1970-01-02T00:00:00Z&step=10s";
    assert_eq!(rows(&at.web(late)), 1);
    assert_eq!(
        rows(&at.ask(&format!("point=infra/none&specifier=s&{ALL}"))),
        0
    );
}

#[test]
fn columns_without_end_are_left_out() {
    let mut bucket = Bucket::new(0);
    for n in 0..3000 {
        let data = format!("{{\"c{n}\":1,\"t{n}\":\"{}\"}}", "x".repeat(1000));
        bucket.add((0, None), 1, ValueRef::Text(data.as_bytes()));
    }
    let (data, text) = (bucket.data(), bucket.text());
    let columns = data.matches(":[").count() + text.matches(":\"").count();
    assert_eq!((bucket.rows, columns), (3000, 1000));
    assert!(text.len() < 100 * 1000, "{}", text.len());
}

#[test]
fn what_is_no_question_is_refused_and_says_what_is() {
    let good = format!("site=acme&vm=shop&point=infra/cpu&specifier=i&{ALL}");
    assert!(Buckets::parse(&good).is_ok());
    for (query, hint) in [
        ("site=acme", "vm is needed, of site, vm, point"),
        (&*good.replace("10s", "0s"), "no duration"),
        (&good.replace("10s", "fast"), "step"),
        (&good.replace("10s", "200000000d"), "step"),
        (
            &good.replace("1970-01-02T00:00:00Z", "now"),
            "to: a time as",
        ),
        (&format!("{good}&after=x"), "earlier page"),
        (&format!("{good}&limit=0"), "1 to 10000"),
        (&format!("{good}&where=1"), "there are site, vm"),
    ] {
        let error = Buckets::parse(query).unwrap_err();
        assert!(error.contains(hint), "{query}: {error}");
    }
}

#[test]
fn a_bucket_begins_at_multiples_of_its_step() {
    assert_eq!(floor(25, 10), 20);
    assert_eq!(floor(-1, 10), -10);
    assert_eq!(floor(i64::MIN, 3), i64::MIN, "no time is too early");
}
