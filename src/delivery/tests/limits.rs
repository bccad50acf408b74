//! What a guest says has limits, and so has what a host keeps and says.

use super::*;

#[test]
fn a_row_numbered_beyond_all_numbers_is_refused() {
    let mut world = World::new(1, Rules::default());
    let producer = world.hosts[0].as_mut().unwrap();
    let table = TableId {
        stream: StreamId(1),
        point: "unencrypted/a".parse().unwrap(),
    };
    producer.connected(Nonce(5), 0);
    let hello = format!(
        r#"{{"op":"hello","version":1,"nonce":"{}","stream":"{}","tables":[]}}"#,
        Nonce(5),
        table.stream
    );
    producer.on_message(serde_json::from_str(&hello).unwrap(), 0);
    for seq in [0, i64::MAX as u64 + 1, u64::MAX] {
        let rows = format!(
            r#"{{"op":"rows","nonce":"{}","stream":"{}","point":"unencrypted/a","columns":[],
               "rows":[{{"seq":{seq},"key":"{}","epoch":0,"time":"2026-01-01T00:00:00Z","values":[]}}],
               "acked":{{"seq":0}}}}"#,
            Nonce(5),
            table.stream,
            RowKey(1)
        );
        producer.on_message(serde_json::from_str(&rows).unwrap(), 0);
    }
    assert_eq!(producer.counters().lines_refused, 3);
    assert_eq!(producer.counters().rows, 0);
}

/// A guest fills the raw windows of many tables: they share a budget, and nothing is left out.
#[test]
fn open_raw_windows_of_one_vm_hold_a_bounded_number_of_bytes() {
    let text = "vm='v'\nprimary_site='s'\n[[monitor]]\npoint='unencrypted/*'\ndelivery_ms=60000";
    let no_file = |_: &std::path::Path| Err(std::io::Error::other("none"));
    let descriptor = Descriptor::parse(text, Spelling::Toml, &no_file).unwrap();
    let mut producer = Producer::new(Source::Kpi, Identity::default(), &descriptor, 0);
    let mut guest = Spool::new(StreamId(1), SpoolLimits::default());
    producer.connected(Nonce(1), 0);
    let long = Payload::Values(vec![Value::Text("x".repeat(150_000).into())]);
    let (mut samples, mut held) = (0, 0);
    for round in 0..100u64 {
        let (point, now) = (
            format!("unencrypted/t{round}").parse().unwrap(),
            Timestamp::from_micros(1),
        );
        guest.append(
            &point,
            [COLUMN.into()].into(),
            long.clone(),
            RowKey(round),
            now,
        );
        loop {
            while let Some(line) = guest.poll() {
                producer.on_message(line, 0);
                held = held.max(producer.held_bytes());
            }
            let Some(output) = producer.poll() else { break };
            match output {
                Output::Send(line) => guest.on_message(line, &mut || StreamId(2)),
                Output::Publish(p) => {
                    let Body::Raw(raw) = &p.event.body else {
                        panic!()
                    };
                    samples += raw.len();
                    producer.on_puback(p.token, 0);
                }
            }
        }
    }
    assert!(
        held > crate::delivery::producer::MAX_HELD_BYTES / 2,
        "{held}"
    );
    assert!(held <= crate::delivery::producer::MAX_HELD_BYTES, "{held}");
    assert!(samples > 50, "the rest waits in its windows: {samples}");
}

/// A guest with as many and as long names as a host follows: what the host says of them fits into its lines.
#[test]
fn what_a_host_says_of_five_thousand_tables_fits_into_a_line() {
    let descriptor = describe(&mut Rng(1), None, None);
    let mut producer = Producer::new(Source::Kpi, Identity::default(), &descriptor, 0);
    let mut guest = Spool::new(StreamId(1), SpoolLimits::default());
    for n in 0..crate::delivery::producer::MAX_TABLES as u64 {
        let point = format!("unencrypted/{}{n:05}", "\"".repeat(195));
        let row = Payload::Values(vec![Value::Integer(1)]);
        let now = Timestamp::from_micros(1);
        let point = point.parse().unwrap();
        guest.append(&point, [COLUMN.into()].into(), row, RowKey(n), now);
    }
    let mut told = 0;
    for nonce in [1, 2] {
        producer.connected(Nonce(nonce), 0);
        loop {
            while let Some(line) = guest.poll() {
                producer.on_message(line, 0);
            }
            let Some(output) = producer.poll() else { break };
            match output {
                Output::Send(line) => {
                    assert!(crate::link::encode(&line).len() < crate::link::MAX_LINE_BYTES);
                    if let HostMessage::Hello { have, .. } = &line {
                        told = have.len();
                    }
                    guest.on_message(line, &mut || StreamId(2));
                }
                Output::Publish(p) => producer.on_puback(p.token, 0),
            }
        }
    }
    assert!((2000..5000).contains(&told), "{told}");
}
