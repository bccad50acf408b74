-- The store of the guest: encrypted.db and unencrypted.db, SQLite 3 in WAL mode, one of each in the
-- state directory. Any SQLite reader may open them while the partition is mounted.
--
-- A KPI's rows are in the table named exactly like its file. Names with a leading dot are vmkpi's own:
-- a file with such a name is scratch and never stored.

-- PRAGMA application_id = 0x766b7069 ("vkpi"); PRAGMA user_version = 2.

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
    mtime INTEGER NOT NULL,               -- of the last store, microseconds since 1970 UTC
    epoch INTEGER NOT NULL,               -- of the next row; grows at each start of the program
    content BLOB NOT NULL,                -- the bytes of the last store
    mode INTEGER                          -- permission bits after a chmod; NULL: those of the mount
);

-- One row for each table of each stream: what is acknowledged, and what retention took.
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
    PRIMARY KEY (stream, name)
) WITHOUT ROWID;

-- The last inputs that were refused, so that bad input loses nothing.
CREATE TABLE ".refused" (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    timestamp INTEGER NOT NULL,           -- microseconds since 1970 UTC
    reason TEXT NOT NULL,
    size INTEGER NOT NULL,                -- bytes written
    input BLOB NOT NULL                   -- the first 4096 of them
);
