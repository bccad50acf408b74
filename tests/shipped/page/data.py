"""An hour of a site, as `vmkpi collect` would have kept it: python3 data.py DATABASE. The database is made by collect.

What it tells: a shop whose visitors come in waves, its processors beside them; a gap, as the guest's disk was full;
a live migration, with measurements of both hosts for a moment; rows that have not come yet; a Producer that died.
"""

import json
import math
import sqlite3
import sys
import time

SECOND = 1_000_000
HOUR = 3600

now = int(time.time())
begin = now - HOUR
database = sqlite3.connect(sys.argv[1])
seed = 12345


def noise():
    """Between -1 and 1, the same each time."""
    global seed
    seed = (seed * 1103515245 + 12345) % 2**31
    return seed / 2**30 - 1


def vm(site, name, heard=now, expires=now + 45, left=0):
    number = database.execute("INSERT INTO vm (site, name) VALUES (?, ?) RETURNING id", (site, name)).fetchone()[0]
    lease = (site, name, heard * SECOND, expires * SECOND, left)
    database.execute("INSERT INTO lease VALUES (?, ?, ?, ?, ?)", lease)
    return number


def series(of, point, specifier):
    sql = "INSERT INTO series (vm, point, specifier) VALUES (?, ?, ?) RETURNING id"
    return database.execute(sql, (of, point, specifier)).fetchone()[0]


def instance(of, stream, rows, missing=0, heard=now):
    first, last = int(rows[0][0] * SECOND), int(rows[-1][0] * SECOND)
    number = len(rows)
    sql = "INSERT INTO instance (series, stream, revision, through, seen, base, heard, first, last) \
           VALUES (?, ?, 'r', ?, ?, 0, ?, ?, ?) RETURNING id"
    values = (of, stream, number, number + missing, heard * SECOND, first, last)
    made = database.execute(sql, values).fetchone()[0]
    for seq, (at, data) in enumerate(rows, 1):
        key = made * 10_000_000 + seq
        body = data if isinstance(data, bytes) else json.dumps(data)
        sql = "INSERT INTO sample (series, instance, seq, key, time, data) VALUES (?, ?, ?, ?, ?, ?)"
        database.execute(sql, (of, made, seq, key, int(at * SECOND), body))
    return made


def users_at(at):
    part = (at - begin) / HOUR
    wave = 160 + 70 * math.sin(part * 11) + 45 * math.sin(part * 31 + 1)
    rush = 190 * math.exp(-(((part - 0.72) / 0.035) ** 2))
    return max(0.0, wave + rush)


def shop(of):
    gap, hole = (begin + 1130, begin + 1330), now - 170
    web, cpu, cpu_stream = [], [], [[], []]
    moved = begin + 2060
    total = 4100.0
    for at in range(begin, now):
        users = users_at(at)
        load = min(3.9, 0.25 + users / 118 * (1.0 if at < moved else 0.82))
        total += load * (1 + 0.03 * noise())
        if at % 5 == 0:
            values = {"cpu_time_seconds_total": round(total, 3), "vcpus": 4}
            # Around a migration both hosts measure for a moment.
            cpu_stream[at >= moved].append((at + 0.2, values))
    for at in range(begin, now):
        users = users_at(at) + 7 * noise()
        slow = 0.021 + max(0.0, users - 240) ** 1.6 / 60_000 + 0.004 * abs(noise())
        row = {"current_users": round(users), "response_seconds": round(slow, 4)}
        if not gap[0] < at < gap[1]:
            web.append((at + 0.01, row))
    kpi = series(of, "unencrypted/web", "every-row")
    made = instance(kpi, "5e10c3a9", web)
    sql = "INSERT INTO gap (series, instance, after, through, reason, time, since) VALUES (?, ?, ?, ?, ?, ?, ?)"
    database.execute(sql, (kpi, made, 1131, 1330, "retention_bytes", gap[1] * SECOND, gap[0] * SECOND))
    orders = [(at, {"waiting": max(0, round((users_at(at) / 60) ** 1.6 + 1.5 * noise())), "state": "calm"})
              for at in range(begin, hole, 2)]
    instance(series(of, "unencrypted/orders", "every-row"), "5e10c3a9", orders, missing=85)
    infra = series(of, "infra/cpu", "machine")
    instance(infra, "a91c20f4", cpu_stream[0], heard=moved)
    instance(infra, "b7d01e66", cpu_stream[1])
    net = series(of, "infra/net/eth0", "machine")
    sent = 8e9
    halves = [[], []]
    for at in range(begin, now, 5):
        sent += users_at(at) * 5 * 21_000 * (1 + 0.15 * noise())
        halves[at >= moved].append((at + 0.2, {"device": "eth0", "net_transmit_bytes_total": round(sent)}))
    instance(net, "a91c20f4", halves[0], heard=moved)
    instance(net, "b7d01e66", halves[1])
    secret = [(at, b"eyJhbGciOiJSU0EtT0FFUC0yNTYifQ") for at in range(begin, now, 20)]
    instance(series(of, "encrypted/payments", "every-blob"), "5e10c3a9", secret)


def other(of, until=now):
    rows = [(at, {"queries_per_second": round(900 + 300 * math.sin(at / 300) + 30 * noise())})
            for at in range(begin, until, 2)]
    instance(series(of, "unencrypted/db", "every-row"), "77aa0102", rows, heard=until)


shop(vm("acme", "shop-frontend-1"))
other(vm("acme", "shop-db"))
other(vm("acme", "shop-search", heard=now - 540, expires=now - 480), now - 540)
other(vm("globex", "ledger"))
other(vm("globex", "nightly-batch", heard=now - 1500, expires=now - 1500, left=1), now - 1500)
database.commit()
