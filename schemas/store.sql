-- The store of the guest: encrypted.db and unencrypted.db, SQLite 3 in WAL mode, one of each in the
-- state directory. Any SQLite reader may open them while the partition is mounted.
--
-- A KPI's rows are in the table named exactly like its file. Names with a leading dot are vmkpi's own:
-- a file with such a name is scratch and never stored.

-- PRAGMA application_id = 0x766b7069 ("vkpi"); PRAGMA user_version = 4.

-- One line for each thing there is one of.
--   stream         the stream that new rows go to, 32 hexadecimal digits
--   refused_total  how many inputs were ever refused
--   vm_uuid, vm_genid  of the VM the store was last used in, once a host has said them
CREATE TABLE ".meta" (
    key TEXT NOT NULL PRIMARY KEY,
    value NOT NULL
) WITHOUT ROWID;

-- One row for each name ever stored: what reading the file gives, also when its rows are gone.
CREATE TABLE ".files" (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    removed INTEGER NOT NULL DEFAULT 0,   -- 1: the file was removed; its rows stay
    mtime INTEGER NOT NULL,               -- of the last store, microseconds since 1970 UTC, where form is NULL
    epoch INTEGER NOT NULL,               -- of the next row; grows at each start of the program
    content BLOB NOT NULL,                -- the bytes of the last store, where form is NULL
    -- Otherwise the bytes follow from the last row, which has the time too: the form with the row's values
    -- in place of X'00' and the byte after it: 'v' as the value is written shortest, '0' + n a double with n
    -- digits after the point, 'b' an encrypted row's bytes.
    form BLOB,
    mode INTEGER                          -- permission bits after a chmod; NULL: those of the mount
);

-- One row for each table of each stream: what is acknowledged, and what retention took. While trimmed_seq
-- is beyond acked_seq, the rows between are lost, and each host is told so until they are acknowledged.
CREATE TABLE ".marks" (
    stream TEXT NOT NULL,
    name TEXT NOT NULL,
    moved INTEGER NOT NULL DEFAULT 0,     -- rows moved into the stream when it was minted
    acked_seq INTEGER NOT NULL DEFAULT 0,
    acked_key INTEGER,
    acked_epoch INTEGER NOT NULL DEFAULT 0,
    acked_timestamp INTEGER NOT NULL DEFAULT 0,
    trimmed_seq INTEGER NOT NULL DEFAULT 0,
    trimmed_key INTEGER,
    trimmed_epoch INTEGER NOT NULL DEFAULT 0,
    trimmed_timestamp INTEGER NOT NULL DEFAULT 0,
    bytes INTEGER NOT NULL DEFAULT 0,     -- of the rows held, through sized_seq
    sized_seq INTEGER NOT NULL DEFAULT 0, -- brought up to date each 1,024 rows and by retention
    wanted INTEGER NOT NULL DEFAULT 0,    -- 1: a host has subscribed to the table, or acknowledged of it
    lost INTEGER NOT NULL DEFAULT 0,      -- rows dropped before they were acknowledged
    lost_reason TEXT,                     -- why the last row that retention took went, lost or not
    PRIMARY KEY (stream, name)
) WITHOUT ROWID;

-- The last inputs that were refused, so that bad input loses nothing: at most 100, and 256 KiB of them.
CREATE TABLE ".refused" (
    id INTEGER PRIMARY KEY AUTOINCREMENT, -- never given twice
    name TEXT NOT NULL,
    timestamp INTEGER NOT NULL,           -- microseconds since 1970 UTC
    reason TEXT NOT NULL,
    size INTEGER NOT NULL,                -- bytes written
    input BLOB NOT NULL                   -- the first 4,096 of them
);
