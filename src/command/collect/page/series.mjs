// What was kept of a data point, in buckets as /api/v1/buckets answers, and what of it makes a line. Nothing here
// touches the page.

import { floorTo, stepFor } from "./scale.mjs";

/// What a counter's column ends in, and what its rate's does, as in the results of functions.
const COUNTER = '_total';
const RATE = '_per_second';
/// Columns of a point that are told apart, at most.
export const MAX_COLUMNS = 200;

/// A row of the API with its times in milliseconds.
export function bucket(row) {
  return {
    time: Date.parse(row.time),
    last: Date.parse(row.last),
    until: row.until === null ? null : Date.parse(row.until),
    rows: row.rows,
    encrypted: row.encrypted,
    sealed: row.sealed,
    data: row.data,
    text: row.text,
  };
}

/// `known` buckets, with those that came (they replace what they are newer than) and without what ended before `from`.
export function merge(known, came, from) {
  const first = came.length > 0 ? came[0].time : Infinity;
  const kept = known.filter((b) => b.time < first && Math.max(b.last, b.until ?? b.last) >= from);
  return kept.concat(came);
}

/// From when on to ask: the last bucket may have grown since.
export function askFrom(known, from) {
  return known.length > 0 ? Math.max(known.at(-1).time, from) : from;
}

/// The columns of numbers in these buckets, by name.
export function columns(buckets) {
  const names = new Set();
  for (const b of buckets) {
    for (const name of Object.keys(b.data)) if (names.size < MAX_COLUMNS) names.add(name);
  }
  return [...names].sort();
}

/// What a column's line is called: a counter is shown as its rate.
export function shownName(column) {
  return isCounter(column) ? column.slice(0, -COUNTER.length) + RATE : column;
}

export function isCounter(column) {
  return column.endsWith(COUNTER) && column.length > COUNTER.length;
}

/// The points of a column: when it begins and ends, least, mean and greatest.
export function points(buckets, column) {
  return isCounter(column) ? rates(buckets, column) : values(buckets, column);
}

function values(buckets, column) {
  const found = [];
  for (const b of buckets) {
    if (!Object.hasOwn(b.data, column)) continue;
    const [low, mean, high] = b.data[column];
    if (mean === null) continue;
    const from = b.until === null ? b.last : b.time;
    found.push({ from, to: b.until ?? b.last, low, mean, high });
  }
  return found;
}

/// How fast a counter grows from one bucket to the next. Where it falls it has begun anew, and no rate is known.
function rates(buckets, column) {
  const found = [];
  let before;
  for (const b of buckets) {
    if (!Object.hasOwn(b.data, column)) continue;
    const here = { at: b.last, low: b.data[column][0], high: b.data[column][2] };
    if (before && here.at > before.at && here.low >= before.high) {
      const rate = ((here.high - before.high) * 1000) / (here.at - before.at);
      found.push({ from: here.at, to: here.at, low: rate, mean: rate, high: rate, since: before.at });
    }
    before = here;
  }
  return found;
}

/// Lines that are not drawn across what is not there: points further apart than three times what is usual here, or
/// than three buckets, begin a new one, and so does each time in `breaks`.
export function segments(all, step, breaks = []) {
  const usual = median(all.slice(1).map((p, n) => p.from - all[n].to).filter((gap) => gap > 0));
  const most = 3 * Math.max(step, usual);
  const found = [];
  let line = [];
  for (const point of all) {
    const before = line.at(-1);
    const broken = before && breaks.some((time) => before.to < time && time <= point.from);
    if (before && (broken || point.from - before.to > most)) {
      found.push(line);
      line = [];
    }
    line.push(point);
  }
  return line.length > 0 ? found.concat([line]) : found;
}

function median(numbers) {
  const sorted = numbers.sort((a, b) => a - b);
  return sorted.length > 0 ? sorted[Math.floor(sorted.length / 2)] : 0;
}

/// The least and the greatest of points.
export function extent(all) {
  let [low, high] = [Infinity, -Infinity];
  for (const p of all) {
    low = Math.min(low, p.low);
    high = Math.max(high, p.high);
  }
  return [low, high];
}

/// The point nearest to a time, if one is within `reach`.
export function nearest(all, time, reach) {
  let [low, high] = [0, all.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (all[middle].to < time) low = middle + 1;
    else high = middle;
  }
  const away = (p) => (p ? Math.max(p.from - time, time - p.to, 0) : Infinity);
  const best = away(all[low]) <= away(all[low - 1]) ? all[low] : all[low - 1];
  return away(best) <= reach ? best : undefined;
}

/// How many rows `count` finds, in `most` bars at most from `from` to `to`.
export function bars(buckets, count, [from, to], most) {
  const step = stepFor(to - from, most);
  const found = new Map();
  for (const b of buckets) {
    const rows = count(b);
    const time = floorTo(b.time, step);
    if (rows > 0) found.set(time, (found.get(time) ?? 0) + rows);
  }
  return [...found].map(([time, rows]) => ({ from: time, to: time + step, low: rows, mean: rows, high: rows }));
}

/// The latest text of each column.
export function texts(buckets) {
  const found = new Map();
  for (const b of buckets) {
    for (const [name, text] of Object.entries(b.text)) if (found.size < MAX_COLUMNS) found.set(name, text);
  }
  return found;
}

/// Which points are shown first: KPIs, then processors, memory, network, disks, and the others.
export function rank(point) {
  const order = ['unencrypted/', 'encrypted/', 'infra/cpu', 'infra/memory', 'infra/net', 'infra/block', 'infra/vcpu'];
  const at = order.findIndex((begin) => point.startsWith(begin));
  return at < 0 ? order.length : at;
}

/// The columns of a point that are shown unless somebody chooses: `most` of them, those that say most first, and none
/// that only says what was configured, or when.
export function preferred(point, names, most) {
  if (!point.startsWith('infra/')) return names.slice(0, most);
  const telling = [/^cpu_time/, /^memory_(rss|unused|usable|actual)/, /^net_receive_bytes/, /^net_transmit_bytes/,
    /^block_write_bytes/, /^block_read_bytes/, /^vcpu_time/];
  const found = telling.flatMap((pattern) => names.filter((name) => pattern.test(name)));
  const dull = /(maximum|capacity|physical|timestamp|^state|^vcpus?(_|$)|_state)/;
  const others = names.filter((name) => !dull.test(name));
  return [...new Set(found.concat(found.length > 0 ? [] : others))].slice(0, most);
}
