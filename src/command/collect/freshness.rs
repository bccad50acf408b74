//! What the database knows of VMs and their points, for `/metrics`: who is heard, and how old what is kept is.

use rusqlite::Connection;
use vmkpi::clock::Timestamp;

use super::status::{Vm, vms};

/// The most points with a series of their own; the others are counted.
const MAX_POINTS: usize = 10_000;

/// The newest row of a VM's point, or the end of its newest window.
#[derive(Debug, PartialEq, Eq)]
pub struct Newest {
    /// The primary site.
    pub site: String,
    /// The VM.
    pub vm: String,
    /// The data point.
    pub point: String,
    /// When.
    pub time: Timestamp,
}

/// What the database knows.
#[derive(Debug, Default)]
pub struct Known {
    /// Every VM.
    pub vms: Vec<Vm>,
    /// Points of which anything is kept, [`MAX_POINTS`] at most.
    pub newest: Vec<Newest>,
    /// How many more there are.
    pub left_out: usize,
}

impl Known {
    /// Asks it.
    ///
    /// # Errors
    /// SQLite says so.
    pub fn read(connection: &Connection, now: Timestamp) -> rusqlite::Result<Self> {
        let mut newest = newest(connection)?;
        let left_out = newest.len().saturating_sub(MAX_POINTS);
        newest.truncate(MAX_POINTS);
        Ok(Self {
            vms: vms(connection, now)?,
            newest,
            left_out,
        })
    }
}

/// One look at the end of an index for each specifier and table. What is sealed has no such index, and no row to show.
fn newest(connection: &Connection) -> rusqlite::Result<Vec<Newest>> {
    let sql = "SELECT vm.site, vm.name, point, max(max( \
        ifnull((SELECT time FROM sample WHERE sample.series = series.id ORDER BY time DESC LIMIT 1), 0), \
        ifnull((SELECT window_to FROM result WHERE result.series = series.id ORDER BY window_from DESC LIMIT 1), 0))) \
        AS newest FROM series JOIN vm ON vm.id = series.vm GROUP BY vm.site, vm.name, point HAVING newest > 0";
    let mut statement = connection.prepare_cached(sql)?;
    let found = statement.query_map([], |row| {
        Ok(Newest {
            site: row.get(0)?,
            vm: row.get(1)?,
            point: row.get(2)?,
            time: Timestamp::from_micros(row.get(3)?),
        })
    })?;
    found.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_of_all_specifiers_of_a_point_counts_and_what_is_not_kept_is_absent() {
        let connection = Connection::open_in_memory().unwrap();
        for version in super::super::SCHEMA.migrations {
            connection.execute_batch(version).unwrap();
        }
        connection
            .execute_batch(
                "INSERT INTO vm VALUES (1, 'acme', 'shop');
                 INSERT INTO series VALUES (1, 1, 'unencrypted/web', 'raw'), (2, 1, 'unencrypted/web', 'mean'),
                     (3, 1, 'unencrypted/gone', 'raw'), (4, 1, 'infra/cpu', 'mean');
                 INSERT INTO instance (id, series, stream, revision, through, seen, base, heard)
                     VALUES (1, 1, 's', 'r', 9, 9, 0, 99000000);
                 INSERT INTO sample VALUES (1, 1, 1, 1, 1, 5000000, '{}'), (2, 1, 1, 2, 2, 7000000, '{}');
                 INSERT INTO result VALUES
                     (1, 2, 1, 0, 1, 0, 'mean', 0, 10000000, '{}', '{}', 0, 0, NULL),
                     (2, 4, 1, 0, 1, 0, 'mean', 20000000, 30000000, '{}', '{}', 0, 0, NULL);",
            )
            .unwrap();
        let known = Known::read(&connection, Timestamp::from_micros(0)).unwrap();
        let seconds = |n: &Newest| (n.point.clone(), n.time.as_micros() / 1_000_000);
        let found: Vec<_> = known.newest.iter().map(seconds).collect();
        assert_eq!(
            found,
            [
                ("infra/cpu".to_owned(), 30),
                ("unencrypted/web".to_owned(), 10)
            ]
        );
        assert_eq!((known.vms.len(), known.left_out), (1, 0));
    }
}
