-- What version 2 adds to the database of `vmkpi collect` (collect.sql): what the Directory says of Producers.

-- The last lease of a VM (docs/DIRECTORY.md), by the clock of who said it.
CREATE TABLE lease (
    site TEXT NOT NULL,             -- the primary site
    vm TEXT NOT NULL,               -- by its descriptor
    issued INTEGER NOT NULL,        -- when it was said
    expires INTEGER NOT NULL,       -- when it ends, unless it was renewed
    removed INTEGER NOT NULL,       -- 1: it was taken back, as the VM stopped
    PRIMARY KEY (site, vm)
) STRICT, WITHOUT ROWID;

-- lease: live, expired (its Producer is dead or cut off), left (it stopped), or NULL: it never had one.
DROP VIEW vms;
CREATE VIEW vms AS
SELECT vm.site, vm.name AS vm, count(DISTINCT point) AS points, count(*) AS instances, max(heard) AS heard,
    sum(seen > instance.through) AS missing,
    CASE WHEN lease.removed THEN 'left'
        WHEN lease.expires <= (julianday('now') - 2440587.5) * 86400000000.0 THEN 'expired'
        WHEN lease.expires IS NOT NULL THEN 'live' END AS lease,
    lease.expires AS lease_expires
FROM vm JOIN series ON series.vm = vm.id JOIN instance ON instance.series = series.id
LEFT JOIN lease ON lease.site = vm.site AND lease.vm = vm.name
GROUP BY vm.id;
