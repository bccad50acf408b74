-- What version 3 adds to the database of `vmkpi collect` (collect.sql, collect.2.sql): from when to when there are
-- rows of a stream, where in time a gap begins, and ways to gaps and sealed messages by time.

ALTER TABLE instance ADD COLUMN first INTEGER;  -- time of the first row kept of it; 0: before version 3
ALTER TABLE instance ADD COLUMN last INTEGER;   -- time of the latest; NULL: none yet
UPDATE instance SET first = 0, last = 0;
ALTER TABLE gap ADD COLUMN since INTEGER;       -- time of the latest row before it, where there is one

CREATE INDEX gap_time ON gap (series, time, id);
CREATE INDEX sealed_time ON sealed (series, time, id);

DROP VIEW gaps;
CREATE VIEW gaps AS
SELECT gap.id, vm.site, vm.name AS vm, point, specifier, stream, after, gap.through, reason, since, time
FROM gap JOIN instance ON instance.id = gap.instance JOIN series ON series.id = gap.series
JOIN vm ON vm.id = series.vm;

DROP VIEW missing;
CREATE VIEW missing AS
SELECT vm.site, vm.name AS vm, point, specifier, stream, instance.through AS after, seen AS through,
    nullif(last, 0) AS since, heard
FROM instance JOIN series ON series.id = instance.series JOIN vm ON vm.id = series.vm
WHERE seen > instance.through;

-- A stream of infrastructure measurements is of one residence of the VM and one life of the host daemon there
-- (docs/DELIVERY.md, "Sessions"); one of KPIs is of one history of the guest's store.
CREATE VIEW streams AS
SELECT vm.site, vm.name AS vm, point, specifier, stream, revision, nullif(first, 0) AS first,
    nullif(last, 0) AS last, heard, through
FROM instance JOIN series ON series.id = instance.series JOIN vm ON vm.id = series.vm;
