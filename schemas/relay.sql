-- The spool of `vmkpi relay`, version 1 (PRAGMA user_version): DIR/relay.db of its --state. docs/RELAY.md explains it.
--
-- Times are microseconds since 1970, UTC.

-- One row a name: 'id', random, of the spool, by which the broker knows the relay again; 'filters', what the relay
-- subscribes to, as a JSON list.
CREATE TABLE about (
    name TEXT PRIMARY KEY,
    value ANY NOT NULL
) STRICT, WITHOUT ROWID;

-- What has been taken from the one broker and not yet been acknowledged by the other, in the order it came. The
-- number of a message is never used again.
CREATE TABLE spool (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    kept INTEGER NOT NULL,          -- when
    retain INTEGER NOT NULL,        -- 1: the broker keeps the last one of its topic
    bytes INTEGER NOT NULL,         -- what counts against --spool.max-bytes
    topic TEXT NOT NULL,
    properties TEXT NOT NULL,       -- MQTT 5, as JSON
    payload BLOB NOT NULL
) STRICT;

-- Of a topic that is retained the last message is enough.
CREATE INDEX retained ON spool (topic) WHERE retain = 1;

-- VMs whose messages are forwarded, and whether they are alive; written each few seconds.
CREATE TABLE vm (
    site TEXT NOT NULL,             -- as its topics write it
    vm TEXT NOT NULL,
    heard INTEGER NOT NULL,         -- when a message of it last came
    forwarded INTEGER,              -- when one was last acknowledged by the next broker
    lease INTEGER,                  -- until when its Producer says that it is there
    silent INTEGER NOT NULL,        -- 1: nothing of it comes
    PRIMARY KEY (site, vm)
) STRICT, WITHOUT ROWID;
