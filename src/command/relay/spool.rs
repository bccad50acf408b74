//! The spool: what has been taken from the one broker and not yet been acknowledged by the other, in one SQLite file,
//! synced at each commit. Only the functions of its tables; the thread that calls them is [`super::keeper`].

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};
use vmkpi::clock::Timestamp;

use super::alive::{Name, Vm};
use crate::command::database::Schema;

/// A relay's spool; `schemas/relay.sql` documents it.
pub const SCHEMA: Schema = Schema {
    program: "vmkpi relay",
    migrations: &[include_str!("../../../schemas/relay.sql")],
};
/// What a message needs besides its texts, in bytes: its row, its index, its share of pages.
const ROW_BYTES: usize = 100;

/// The file in the state directory.
pub fn file(state: &Path) -> PathBuf {
    state.join("relay.db")
}

/// A message to keep.
#[derive(Clone, Debug)]
pub struct Message {
    /// Where it goes.
    pub topic: String,
    /// What it says.
    pub payload: Bytes,
    /// Whether the broker keeps it.
    pub retain: bool,
    /// What is said beside it, as [`super::hops::encode`] writes it.
    pub properties: String,
}

impl Message {
    /// What it counts against the limit.
    pub fn size_bytes(&self) -> u64 {
        (self.topic.len() + self.payload.len() + self.properties.len() + ROW_BYTES) as u64
    }
}

/// A message that is kept.
#[derive(Debug)]
pub struct Row {
    /// Its number.
    pub id: i64,
    /// When it was kept.
    pub kept: Timestamp,
    /// What it is.
    pub message: Message,
}

/// What the spool holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Messages.
    pub rows: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What the spool holds, by itself.
///
/// # Errors
/// SQLite says so.
pub fn held(connection: &Connection) -> rusqlite::Result<Held> {
    let sql = "SELECT count(*), ifnull(sum(bytes), 0) FROM spool";
    connection.query_row(sql, [], |row| {
        Ok(Held {
            rows: row.get(0)?,
            bytes: row.get(1)?,
        })
    })
}

/// When the oldest message was kept.
///
/// # Errors
/// SQLite says so.
pub fn oldest(connection: &Connection) -> rusqlite::Result<Option<Timestamp>> {
    let sql = "SELECT kept FROM spool ORDER BY id LIMIT 1";
    let kept = connection.prepare_cached(sql)?.query_row([], |r| r.get(0));
    Ok(kept.optional()?.map(Timestamp::from_micros))
}

/// Keeps a message. What went for it: of a retained topic the last is enough.
///
/// # Errors
/// SQLite says so.
pub fn keep(
    transaction: &Transaction<'_>,
    message: &Message,
    now: Timestamp,
) -> rusqlite::Result<Held> {
    let mut gone = Held::default();
    if message.retain {
        let sql = "DELETE FROM spool WHERE topic = ? AND retain = 1 RETURNING bytes";
        let mut statement = transaction.prepare_cached(sql)?;
        let bytes = statement.query_map([&message.topic], |r| r.get::<_, u64>(0))?;
        for bytes in bytes {
            gone.rows += 1;
            gone.bytes += bytes?;
        }
    }
    let sql = "INSERT INTO spool (kept, retain, bytes, topic, properties, payload) VALUES (?, ?, ?, ?, ?, ?)";
    transaction.prepare_cached(sql)?.execute(params![
        now.as_micros(),
        message.retain,
        message.size_bytes(),
        message.topic,
        message.properties,
        &message.payload[..],
    ])?;
    Ok(gone)
}

/// Removes messages that have arrived. What that makes room for.
///
/// # Errors
/// SQLite says so.
pub fn remove(transaction: &Transaction<'_>, ids: &BTreeSet<i64>) -> rusqlite::Result<Held> {
    let mut gone = Held::default();
    let sql = "DELETE FROM spool WHERE id = ? RETURNING bytes";
    let mut statement = transaction.prepare_cached(sql)?;
    for id in ids {
        let bytes: Option<u64> = statement.query_row([id], |r| r.get(0)).optional()?;
        gone.rows += u64::from(bytes.is_some());
        gone.bytes += bytes.unwrap_or(0);
    }
    Ok(gone)
}

/// What to read of the spool.
#[derive(Debug, Default)]
pub struct Reading {
    /// Messages after this one.
    pub after: i64,
    /// At most so many.
    pub rows: usize,
    /// And at most about so many bytes.
    pub bytes: usize,
    /// But none of these topics.
    pub but: HashSet<String>,
    /// And none of these: they are on their way.
    pub sent: BTreeSet<i64>,
}

/// A part of the spool, in order.
#[derive(Debug, Default)]
pub struct Part {
    /// The messages.
    pub rows: Vec<Row>,
    /// Everything through here has been looked at.
    pub through: i64,
    /// The first that was left out for its topic.
    pub left_out: Option<i64>,
    /// Whether there was nothing after it.
    pub end: bool,
}

/// Reads a part of the spool.
///
/// # Errors
/// SQLite says so.
pub fn read(connection: &Connection, reading: &Reading) -> rusqlite::Result<Part> {
    let sql =
        "SELECT id, kept, retain, topic, properties, payload FROM spool WHERE id > ? ORDER BY id";
    let mut statement = connection.prepare_cached(sql)?;
    let mut found = statement.query([reading.after])?;
    let (mut part, mut bytes) = (Part::default(), 0);
    part.through = reading.after;
    while part.rows.len() < reading.rows && bytes < reading.bytes {
        let Some(row) = found.next()? else {
            part.end = true;
            break;
        };
        let id = row.get(0)?;
        part.through = id;
        let topic = row.get_ref(3)?.as_str()?;
        if reading.sent.contains(&id) {
            continue;
        }
        if reading.but.contains(topic) {
            part.left_out = part.left_out.or(Some(id));
            continue;
        }
        let message = Message {
            topic: topic.to_owned(),
            payload: Bytes::copy_from_slice(row.get_ref(5)?.as_blob()?),
            retain: row.get(2)?,
            properties: row.get(4)?,
        };
        bytes += message.payload.len();
        let kept = Timestamp::from_micros(row.get(1)?);
        part.rows.push(Row { id, kept, message });
    }
    Ok(part)
}

/// What was known of VMs.
///
/// # Errors
/// SQLite says so.
pub fn vms(connection: &Connection) -> rusqlite::Result<Vec<(Name, Vm)>> {
    let sql = "SELECT site, vm, heard, forwarded, lease, silent FROM vm ORDER BY site, vm";
    let mut statement = connection.prepare(sql)?;
    let time = |micros: Option<i64>| micros.map(Timestamp::from_micros);
    let found = statement.query_map([], |row| {
        let vm = Vm {
            heard: Timestamp::from_micros(row.get(2)?),
            forwarded: time(row.get(3)?),
            lease: time(row.get(4)?),
            silent: row.get(5)?,
        };
        Ok(((row.get(0)?, row.get(1)?), vm))
    })?;
    found.collect()
}

/// Keeps what is known of VMs in place of what was.
///
/// # Errors
/// SQLite says so.
pub fn set_vms(transaction: &Transaction<'_>, vms: &[(Name, Vm)]) -> rusqlite::Result<()> {
    transaction.execute("DELETE FROM vm", [])?;
    let sql =
        "INSERT INTO vm (site, vm, heard, forwarded, lease, silent) VALUES (?, ?, ?, ?, ?, ?)";
    let mut statement = transaction.prepare_cached(sql)?;
    for ((site, name), vm) in vms {
        statement.execute(params![
            site,
            name,
            vm.heard.as_micros(),
            vm.forwarded.map(Timestamp::as_micros),
            vm.lease.map(Timestamp::as_micros),
            vm.silent,
        ])?;
    }
    Ok(())
}

/// The filters that the session at the broker may hold, and from now on these.
///
/// # Errors
/// SQLite says so.
pub fn change_filters(
    connection: &Connection,
    filters: &BTreeSet<String>,
) -> rusqlite::Result<BTreeSet<String>> {
    let sql = "SELECT value FROM about WHERE name = 'filters'";
    let before: Option<String> = connection.query_row(sql, [], |r| r.get(0)).optional()?;
    let before: BTreeSet<String> = before
        .and_then(|text| serde_json::from_str(&text).ok())
        .unwrap_or_default();
    // Both, until the broker has heard of the change: a filter too much is let go again, one too few never.
    let both: BTreeSet<&String> = before.union(filters).collect();
    let text = serde_json::to_string(&both).expect("texts");
    let sql =
        "INSERT INTO about VALUES ('filters', ?) ON CONFLICT DO UPDATE SET value = excluded.value";
    connection.execute(sql, [text])?;
    Ok(before)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::database::Database;

    fn database() -> (tempfile::TempDir, Connection) {
        let dir = tempfile::tempdir().unwrap();
        let database = Database::open(&file(dir.path()), &SCHEMA).unwrap();
        (dir, database.connection)
    }

    fn message(topic: &str, payload: &'static str, retain: bool) -> Message {
        Message {
            topic: topic.to_owned(),
            payload: payload.into(),
            retain,
            properties: "{}".to_owned(),
        }
    }

    fn keep_all(connection: &mut Connection, messages: &[Message]) -> Held {
        let transaction = connection.transaction().unwrap();
        let mut gone = Held::default();
        for message in messages {
            let held = keep(&transaction, message, Timestamp::now()).unwrap();
            gone.rows += held.rows;
            gone.bytes += held.bytes;
        }
        transaction.commit().unwrap();
        gone
    }

    fn payloads(part: &Part) -> Vec<&str> {
        let rows = part.rows.iter();
        rows.map(|row| std::str::from_utf8(&row.message.payload).unwrap())
            .collect()
    }

    fn all() -> Reading {
        Reading {
            rows: 100,
            bytes: 1 << 20,
            ..Reading::default()
        }
    }

    #[test]
    fn messages_come_out_as_they_went_in_and_numbers_are_never_used_again() {
        let (_dir, mut connection) = database();
        let messages = ["a", "b", "a"].map(|topic| message(topic, "x", false));
        keep_all(&mut connection, &messages);
        let part = read(&connection, &all()).unwrap();
        assert_eq!((part.rows.len(), part.end), (3, true));
        assert_eq!(part.rows[1].message.topic, "b");
        let size: u64 = messages.iter().map(Message::size_bytes).sum();
        let held_now = held(&connection).unwrap();
        assert_eq!((held_now.rows, held_now.bytes), (3, size));
        let ids: BTreeSet<i64> = part.rows.iter().map(|row| row.id).collect();
        let transaction = connection.transaction().unwrap();
        assert_eq!(remove(&transaction, &ids).unwrap(), held_now);
        assert_eq!(remove(&transaction, &ids).unwrap(), Held::default());
        transaction.commit().unwrap();
        assert_eq!(oldest(&connection).unwrap(), None);
        keep_all(&mut connection, &messages[..1]);
        let again = read(&connection, &all()).unwrap();
        assert!(again.rows[0].id > *ids.last().unwrap());
    }

    #[test]
    fn of_a_retained_topic_the_last_message_is_kept() {
        let (_dir, mut connection) = database();
        let gone = keep_all(
            &mut connection,
            &[
                message("lease", "1", true),
                message("data", "2", false),
                message("lease", "3", true),
                message("lease", "", true),
                message("data", "4", false),
            ],
        );
        assert_eq!(gone.rows, 2);
        assert_eq!(
            payloads(&read(&connection, &all()).unwrap()),
            ["2", "", "4"]
        );
    }

    #[test]
    fn a_part_is_bounded_and_leaves_out_what_is_not_wanted() {
        let (_dir, mut connection) = database();
        let messages = ["a", "b", "c", "b", "d"].map(|topic| message(topic, "12345", false));
        keep_all(&mut connection, &messages);
        let part = read(&connection, &Reading { rows: 2, ..all() }).unwrap();
        assert_eq!((part.rows.len(), part.through, part.end), (2, 2, false));
        let part = read(&connection, &Reading { bytes: 6, ..all() }).unwrap();
        assert_eq!(part.rows.len(), 2, "the one that is too much is the last");
        let reading = Reading {
            but: ["b".to_owned()].into(),
            sent: [3].into(),
            ..all()
        };
        let part = read(&connection, &reading).unwrap();
        let ids: Vec<i64> = part.rows.iter().map(|row| row.id).collect();
        assert_eq!((ids, part.left_out, part.through), (vec![1, 5], Some(2), 5));
    }

    #[test]
    fn what_is_known_of_vms_and_filters_is_there_again() {
        let (_dir, mut connection) = database();
        let now = Timestamp::now();
        let vm = Vm {
            heard: now,
            forwarded: None,
            lease: Some(now),
            silent: true,
        };
        let known = vec![(("acme".to_owned(), "vm".to_owned()), vm)];
        for _ in 0..2 {
            let transaction = connection.transaction().unwrap();
            set_vms(&transaction, &known).unwrap();
            transaction.commit().unwrap();
        }
        assert_eq!(vms(&connection).unwrap(), known);
        let filters = |text: &str| BTreeSet::from([text.to_owned()]);
        assert!(
            change_filters(&connection, &filters("a"))
                .unwrap()
                .is_empty()
        );
        assert_eq!(
            change_filters(&connection, &filters("b")).unwrap(),
            filters("a")
        );
        assert_eq!(change_filters(&connection, &filters("b")).unwrap().len(), 2);
    }
}
