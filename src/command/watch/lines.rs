//! A sample as one JSON object a line: the contract with programs that read `--format json`.

use serde::Serialize;

use vmkpi::clock::Timestamp;
use vmkpi::message::{Body, Event, Processed, Sample, SampleBody, Sealed, Values};
use vmkpi::name::{DataPoint, Label};
use vmkpi::position::{Seq, StreamId};
use vmkpi::value::{Base64Bytes, Published, Value};

use super::cursor::Missing;

#[derive(Serialize)]
struct Line<'a, B> {
    site: &'a Label,
    vm: &'a Label,
    point: &'a DataPoint,
    /// Of what was delivered; history that was asked for has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    specifier: Option<&'a Label>,
    stream: StreamId,
    #[serde(flatten)]
    body: B,
}

#[derive(Serialize)]
struct SampleLine<'a> {
    seq: Number,
    time: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    values: Option<&'a Values>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data_base64: Option<&'a Base64Bytes>,
}

#[derive(Serialize)]
struct ProcessedLine<'a> {
    function: &'a str,
    from: Timestamp,
    to: Timestamp,
    values: &'a std::collections::BTreeMap<Box<str>, f64>,
    count: &'a std::collections::BTreeMap<Box<str>, u64>,
    after: Number,
    through: Number,
}

#[derive(Serialize)]
struct GapLine<'a> {
    gap: &'a str,
    after: Number,
    through: Number,
}

#[derive(Serialize)]
struct SealedLine<'a> {
    sealed: &'static str,
    envelope: &'a str,
    after: Number,
    through: Number,
}

#[derive(Serialize)]
struct MissingLine {
    missing: Range,
}

#[derive(Serialize)]
struct Range {
    after: Number,
    through: Number,
}

/// A row's number, with the rule for published integers: a string beyond 2^53.
struct Number(Seq);

impl Serialize for Number {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let value = i64::try_from(self.0)
            .map_or_else(|_| Value::Text(self.0.to_string().into()), Value::Integer);
        Published(&value).serialize(serializer)
    }
}

/// The lines of a message: one for each sample, one for a result, a gap, or what is sealed to us.
pub fn of_event(event: &Event) -> Vec<String> {
    match &event.body {
        Body::Raw(samples) => samples.iter().map(|s| line(event, sample(s))).collect(),
        Body::Processed(processed) => vec![line(event, result(event, processed))],
        Body::Sealed(body) => vec![line(event, sealed(event, body))],
        Body::Gap(reason) => {
            let (after, through) = (Number(event.after.seq), Number(event.through.seq));
            vec![line(
                event,
                GapLine {
                    gap: reason,
                    after,
                    through,
                },
            )]
        }
    }
}

fn sealed<'a>(event: &Event, sealed: &'a Sealed) -> SealedLine<'a> {
    SealedLine {
        sealed: sealed.kind.as_str(),
        envelope: &sealed.envelope,
        after: Number(event.after.seq),
        through: Number(event.through.seq),
    }
}

/// The line that says which rows of the message's instance never came.
pub fn of_missing(event: &Event, missing: Missing) -> String {
    let range = Range {
        after: Number(missing.after),
        through: Number(missing.through),
    };
    line(event, MissingLine { missing: range })
}

fn line(event: &Event, body: impl Serialize) -> String {
    let line = Line {
        site: &event.site,
        vm: &event.vm,
        point: &event.point,
        specifier: Some(&event.specifier),
        stream: event.stream,
        body,
    };
    serde_json::to_string(&line).expect("a line has string keys only")
}

/// The line of a row that was asked for.
pub fn of_row(
    (site, vm, point): (&Label, &Label, &DataPoint),
    stream: StreamId,
    row: &Sample,
) -> String {
    let line = Line {
        site,
        vm,
        point,
        specifier: None,
        stream,
        body: sample(row),
    };
    serde_json::to_string(&line).expect("a line has string keys only")
}

fn sample(sample: &Sample) -> SampleLine<'_> {
    let (values, data_base64) = match &sample.body {
        SampleBody::Values(values) => (Some(values), None),
        SampleBody::Data(bytes) => (None, Some(bytes)),
    };
    SampleLine {
        seq: Number(sample.seq),
        time: sample.time,
        values,
        data_base64,
    }
}

fn result<'a>(event: &Event, processed: &'a Processed) -> ProcessedLine<'a> {
    ProcessedLine {
        function: &processed.function,
        from: processed.from,
        to: processed.to,
        values: &processed.values,
        count: &processed.count,
        after: Number(event.after.seq),
        through: Number(event.through.seq),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmkpi::position::{Position, RowKey};

    fn event(body: Body) -> Event {
        Event {
            site: "acme".parse().unwrap(),
            vm: "shop".parse().unwrap(),
            point: "unencrypted/web".parse().unwrap(),
            specifier: "load".parse().unwrap(),
            revision: "00".into(),
            stream: StreamId(1),
            after: Position { seq: 1, key: None },
            through: Position { seq: 3, key: None },
            base: Position::START,
            time: Timestamp::from_micros(0),
            clock_skew_ms: None,
            body,
        }
    }

    const HEAD: &str = r#"{"site":"acme","vm":"shop","point":"unencrypted/web","specifier":"load","stream":"00000000000000000000000000000001","#;

    fn sample_of(seq: Seq, body: SampleBody) -> Sample {
        Sample {
            seq,
            key: RowKey(1),
            time: Timestamp::from_micros(1),
            body,
        }
    }

    #[test]
    fn lines_are_exactly_as_documented() {
        let values = Values {
            columns: [
                "n".into(),
                "r".into(),
                "t".into(),
                "none".into(),
                "big".into(),
            ]
            .into(),
            row: vec![
                Value::Integer(42),
                Value::Real(4.0),
                Value::Text("007".into()),
                Value::Null,
                Value::Integer(i64::MAX),
            ],
        };
        let raw = Body::Raw(vec![
            sample_of(2, SampleBody::Values(values)),
            sample_of((1 << 53) + 1, SampleBody::Data(Base64Bytes(vec![0xff]))),
        ]);
        let lines = of_event(&event(raw));
        assert_eq!(
            lines[0],
            format!(
                r#"{HEAD}"seq":2,"time":"1970-01-01T00:00:00.000001Z","values":{{"n":42,"r":4.0,"t":"007","none":null,"big":"9223372036854775807"}}}}"#
            )
        );
        assert_eq!(
            lines[1],
            format!(
                r#"{HEAD}"seq":"9007199254740993","time":"1970-01-01T00:00:00.000001Z","data_base64":"/w=="}}"#
            )
        );
    }

    #[test]
    fn results_gaps_and_missing_ranges_name_their_coverage() {
        let processed = Processed {
            function: "mean".into(),
            from: Timestamp::from_micros(0),
            to: Timestamp::from_micros(1_000_000),
            values: [("a".into(), 41.5)].into(),
            count: [("a".into(), 10)].into(),
            rows_after: 1,
            rows_after_key: None,
            partial: false,
            forked: false,
        };
        assert_eq!(
            of_event(&event(Body::Processed(processed))),
            [format!(
                r#"{HEAD}"function":"mean","from":"1970-01-01T00:00:00.000000Z","to":"1970-01-01T00:00:01.000000Z","values":{{"a":41.5}},"count":{{"a":10}},"after":1,"through":3}}"#
            )]
        );
        assert_eq!(
            of_event(&event(Body::Gap("retention_age".into()))),
            [format!(
                r#"{HEAD}"gap":"retention_age","after":1,"through":3}}"#
            )]
        );
        let missing = Missing {
            after: 4,
            through: 6,
        };
        assert_eq!(
            of_missing(&event(Body::Raw(vec![])), missing),
            format!(r#"{HEAD}"missing":{{"after":4,"through":6}}}}"#)
        );
    }
}
