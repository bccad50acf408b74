//! The wire shapes.

use super::*;
use serde_json::json;

fn table() -> TableId {
    TableId {
        stream: StreamId(0xab),
        point: "unencrypted/web".parse().unwrap(),
    }
}

#[test]
fn messages_have_the_documented_shape_and_survive_the_way() {
    let rows = GuestMessage::Rows(Rows {
        nonce: Nonce(1),
        stream: table().stream,
        point: table().point,
        columns: ["current_users".into()].into(),
        rows: vec![Row {
            seq: 17,
            key: RowKey(0x9f3c),
            epoch: 2,
            time: Timestamp::from_micros(1),
            payload: Payload::Values(vec![Value::Integer(42)]),
        }],
        acked: Mark::default(),
        query: None,
        trimmed: None,
        trimmed_reason: None,
    });
    let json = serde_json::to_value(&rows).unwrap();
    assert_eq!(
        json,
        json!({
            "op": "rows", "nonce": "00000000000000000000000000000001",
            "stream": "000000000000000000000000000000ab", "point": "unencrypted/web",
            "columns": ["current_users"],
            "rows": [{"seq": 17, "key": "0000000000009f3c", "epoch": 2,
                      "time": "1970-01-01T00:00:00.000001Z", "values": [42]}],
            "acked": {"seq": 0, "epoch": 0, "time": "1970-01-01T00:00:00.000000Z"},
        })
    );
    assert_eq!(serde_json::from_value::<GuestMessage>(json).unwrap(), rows);
}

#[test]
fn a_guest_may_say_how_full_its_databases_are_and_need_not() {
    let frame = r#""op":"alive","nonce":"00000000000000000000000000000001","time":"1970-01-01T00:00:00.000001Z""#;
    let alive = |databases| GuestMessage::Alive {
        nonce: Nonce(1),
        time: Timestamp::from_micros(1),
        databases,
    };
    let full = DatabaseUse {
        bytes: 4096,
        limit: 1 << 32,
    };
    let one = Databases {
        unencrypted: Some(full),
        encrypted: None,
    };
    for (message, more) in [
        (alive(None), ""),
        (
            alive(Some(one)),
            r#","databases":{"unencrypted":{"bytes":4096,"limit":4294967296}}"#,
        ),
    ] {
        let line = format!("{{{frame}{more}}}");
        assert_eq!(serde_json::to_string(&message).unwrap(), line);
        assert_eq!(GuestMessage::decode(line.as_bytes()).unwrap(), message);
    }
}

#[test]
fn host_messages_survive_the_way() {
    let table = table();
    for message in [
        HostMessage::Hello {
            version: VERSION,
            nonce: Nonce(7),
            uuid: Some("u".into()),
            genid: None,
            have: vec![Have {
                table: table.clone(),
                highest: Position::new(3, RowKey(4)),
            }],
        },
        HostMessage::Subscribe {
            nonce: Nonce(7),
            patterns: vec!["unencrypted/*".parse().unwrap()],
            from: vec![From {
                table: table.clone(),
                seq: 4,
            }],
        },
        HostMessage::Query {
            nonce: Nonce(7),
            id: 9,
            from: From {
                table: table.clone(),
                seq: 1,
            },
            limit: 5,
        },
        HostMessage::Ack {
            nonce: Nonce(7),
            table,
            cursors: vec![Position::START],
        },
    ] {
        let line = encode(&message);
        assert_eq!(line.last(), Some(&b'\n'));
        assert_eq!(HostMessage::decode(&line).unwrap(), message);
    }
}
