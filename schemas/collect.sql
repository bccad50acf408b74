-- The database of `vmkpi collect`, version 1 (PRAGMA user_version). docs/COLLECT.md explains it with examples.
--
-- Times are microseconds since 1970, UTC. A key (64 bits) is a signed INTEGER, as in the guest's store. What is
-- for reading is at the end: the views samples, sample_values, results, result_values, joined, gaps,
-- sealed_messages, missing, vms.

-- One row a name: 'id', random, of the database; 'issued', the number of the last confirmation.
CREATE TABLE about (
    name TEXT PRIMARY KEY,
    value ANY NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE vm (
    id INTEGER PRIMARY KEY,
    site TEXT NOT NULL,             -- the primary site
    name TEXT NOT NULL,             -- by its descriptor
    UNIQUE (site, name)
) STRICT;

-- What one monitoring specifier delivers of one data point of one VM.
CREATE TABLE series (
    id INTEGER PRIMARY KEY,
    vm INTEGER NOT NULL REFERENCES vm,
    point TEXT NOT NULL,            -- unencrypted/NAME, encrypted/NAME, infra/GROUP
    specifier TEXT NOT NULL,
    UNIQUE (vm, point, specifier)
) STRICT;

-- The same in one stream: the unit of coverage (docs/DELIVERY.md). What is here of it: everything through `through`.
CREATE TABLE instance (
    id INTEGER PRIMARY KEY,
    series INTEGER NOT NULL REFERENCES series,
    stream TEXT NOT NULL,
    revision TEXT NOT NULL,         -- of the descriptor, in the last message
    through INTEGER NOT NULL,       -- the cursor: rows through this one are accounted for
    through_key INTEGER,            -- that row's key, where it is known
    seen INTEGER NOT NULL,          -- the last row that any message spoke of; beyond `through`, rows are missing
    base INTEGER NOT NULL,          -- the row through which the guest was acknowledged, in the last message
    heard INTEGER NOT NULL,         -- when the last message came, by this machine's clock
    UNIQUE (series, stream)
) STRICT;

-- A row of a KPI or an infrastructure measurement, delivered raw.
CREATE TABLE sample (
    id INTEGER PRIMARY KEY,         -- in the order of keeping, without a gap
    series INTEGER NOT NULL REFERENCES series,
    instance INTEGER NOT NULL REFERENCES instance,
    seq INTEGER NOT NULL,           -- its number in the stream
    key INTEGER NOT NULL,           -- its key: the same row has it in every stream
    time INTEGER NOT NULL,          -- when it was stored, by the guest's clock (infra: by its host's)
    data ANY NOT NULL               -- TEXT: a JSON object, column to value; BLOB: the bytes of an encrypted point
) STRICT;
-- A row that came again in a new stream, after the guest's store went back in time, is kept once.
CREATE UNIQUE INDEX sample_key ON sample (series, key);
CREATE INDEX sample_time ON sample (series, time, id);

-- The result of a function over the samples of one window.
CREATE TABLE result (
    id INTEGER PRIMARY KEY,         -- in the order of keeping, without a gap
    series INTEGER NOT NULL REFERENCES series,
    instance INTEGER NOT NULL REFERENCES instance,
    after INTEGER NOT NULL,         -- the rows (after, through] are accounted for ...
    through INTEGER NOT NULL,
    rows_after INTEGER NOT NULL,    -- ... and those of the window are (rows_after, through]
    function TEXT NOT NULL,
    window_from INTEGER NOT NULL,   -- included
    window_to INTEGER NOT NULL,     -- excluded
    data TEXT NOT NULL,             -- a JSON object, column to result
    count TEXT NOT NULL,            -- a JSON object, column to the number of values
    partial INTEGER NOT NULL,       -- 1: rows at its beginning are missing, another message had them
    forked INTEGER NOT NULL,        -- 1: it may repeat rows of a window sent before the store went back in time
    clock_skew_ms INTEGER           -- the guest's clock minus its host's, where it was measured
) STRICT;
CREATE INDEX result_time ON result (series, window_from, id);

-- Rows (after, through] that will never come, and why: as its Producer announced it, or `not_sent`: this
-- collect has missed them, and nobody sends them again, as it confirms nothing, or as no descriptor names it.
CREATE TABLE gap (
    id INTEGER PRIMARY KEY,
    series INTEGER NOT NULL REFERENCES series,
    instance INTEGER NOT NULL REFERENCES instance,
    after INTEGER NOT NULL,
    through INTEGER NOT NULL,
    reason TEXT NOT NULL,
    time INTEGER NOT NULL           -- the latest time the message is about
) STRICT;

-- A message that the host has sealed for the primary site and that was not opened: without --key, or with another.
CREATE TABLE sealed (
    id INTEGER PRIMARY KEY,
    series INTEGER NOT NULL REFERENCES series,
    instance INTEGER NOT NULL REFERENCES instance,
    after INTEGER NOT NULL,         -- the rows (after, through] are in it, or accounted for by it
    after_key INTEGER,
    through INTEGER NOT NULL,
    through_key INTEGER,
    kind TEXT NOT NULL,             -- raw, processed or gap
    time INTEGER NOT NULL,          -- the latest time the message is about
    envelope TEXT NOT NULL          -- the compact JWE; `vmkpi open` opens it
) STRICT;

-- When the samples, results, gaps and sealed messages from these ids on were kept, once a minute: retention by age goes by it.
CREATE TABLE kept (
    time INTEGER PRIMARY KEY,
    sample INTEGER NOT NULL,
    result INTEGER NOT NULL,
    gap INTEGER NOT NULL,
    sealed INTEGER NOT NULL
) STRICT;

CREATE VIEW samples AS
SELECT sample.id, vm.site, vm.name AS vm, point, specifier, stream, seq, key, time, data
FROM sample JOIN instance ON instance.id = sample.instance JOIN series ON series.id = sample.series
JOIN vm ON vm.id = series.vm;

-- One row a column; encrypted points have none.
CREATE VIEW sample_values AS
SELECT samples.id, site, vm, point, specifier, stream, seq, time, json_each.key AS "column", json_each.value
FROM samples, json_each(CASE typeof(data) WHEN 'text' THEN data ELSE '{}' END);

CREATE VIEW results AS
SELECT result.id, vm.site, vm.name AS vm, point, specifier, stream, after, result.through, rows_after, function,
    window_from, window_to, data, count, partial, forked, clock_skew_ms
FROM result JOIN instance ON instance.id = result.instance JOIN series ON series.id = result.series
JOIN vm ON vm.id = series.vm;

CREATE VIEW result_values AS
SELECT results.id, site, vm, point, specifier, stream, function, window_from, window_to, json_each.key AS "column",
    json_each.value, results.count ->> ('$."' || json_each.key || '"') AS count
FROM results, json_each(data);

-- Windows of KPIs beside windows of infrastructure of the same VM and the same time.
CREATE VIEW joined AS
SELECT vm.site, vm.name AS vm, k.window_from, k.window_to, ks.point AS kpi_point, ks.specifier AS kpi_specifier,
    k.function AS kpi_function, k.data AS kpi, i_s.point AS infra_point, i_s.specifier AS infra_specifier,
    i.function AS infra_function, i.data AS infra, k.clock_skew_ms, k.id AS kpi_id, i.id AS infra_id
FROM result AS k JOIN series AS ks ON ks.id = k.series JOIN vm ON vm.id = ks.vm
JOIN series AS i_s ON i_s.vm = ks.vm AND i_s.point LIKE 'infra/%'
JOIN result AS i ON i.series = i_s.id AND i.window_from = k.window_from AND i.window_to = k.window_to
WHERE ks.point NOT LIKE 'infra/%';

CREATE VIEW gaps AS
SELECT gap.id, vm.site, vm.name AS vm, point, specifier, stream, after, gap.through, reason, time
FROM gap JOIN instance ON instance.id = gap.instance JOIN series ON series.id = gap.series
JOIN vm ON vm.id = series.vm;

CREATE VIEW sealed_messages AS
SELECT sealed.id, vm.site, vm.name AS vm, point, specifier, stream, after, sealed.through, kind, time, envelope
FROM sealed JOIN instance ON instance.id = sealed.instance JOIN series ON series.id = sealed.series
JOIN vm ON vm.id = series.vm;

-- Rows (after, through] that have not come, and may still come.
CREATE VIEW missing AS
SELECT vm.site, vm.name AS vm, point, specifier, stream, instance.through AS after, seen AS through, heard
FROM instance JOIN series ON series.id = instance.series JOIN vm ON vm.id = series.vm
WHERE seen > instance.through;

CREATE VIEW vms AS
SELECT vm.site, vm.name AS vm, count(DISTINCT point) AS points, count(*) AS instances, max(heard) AS heard,
    sum(seen > instance.through) AS missing
FROM vm JOIN series ON series.vm = vm.id JOIN instance ON instance.series = series.id
GROUP BY vm.id;
