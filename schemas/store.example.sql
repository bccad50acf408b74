-- What the program makes of two stores: `users,load` / `42,4.5` in unencrypted/web, then a later one
-- there with a third label, and any bytes in encrypted/web. Columns of a KPI have no declared type:
-- values keep the type they were stored with. Tables of an earlier stream are named
-- ".stream-HEX/NAME" and have the same columns.

-- unencrypted.db
CREATE TABLE "web" (
    _seq INTEGER PRIMARY KEY,             -- 1, 2, 3, ... without a gap, never reused in its stream
    _timestamp INTEGER NOT NULL,          -- microseconds since 1970 UTC; never falls within an epoch
    _epoch INTEGER NOT NULL,
    _key INTEGER NOT NULL,                -- 64 random bits, as a signed integer
    "users",
    "load"
);
ALTER TABLE "web" ADD COLUMN "errors";

-- encrypted.db
CREATE TABLE "web" (
    _seq INTEGER PRIMARY KEY,
    _timestamp INTEGER NOT NULL,
    _epoch INTEGER NOT NULL,
    _key INTEGER NOT NULL,
    "data"
);
