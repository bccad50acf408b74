// What happened to a VM, told from what was kept: residences, gaps, missing rows, a Producer that is gone. Nothing here
// touches the page.

import { clock, count, duration, lost, state } from "./words.mjs";

/// Events that are listed, at most.
export const MAX_EVENTS = 500;

const ms = (text) => (text === null || text === undefined ? null : Date.parse(text));

/// Streams put together by their id: from when to when there are rows of any point in it.
function lives(streams) {
  const found = new Map();
  for (const row of streams) {
    const [first, last] = [ms(row.first), ms(row.last)];
    const life = found.get(row.stream) ?? { stream: row.stream, first, last, points: 0 };
    life.points += 1;
    // One whose beginning is not known is the older for it.
    life.first = life.first === null || first === null ? null : Math.min(life.first, first);
    life.last = Math.max(life.last ?? -Infinity, last ?? -Infinity);
    found.set(row.stream, life);
  }
  return [...found.values()].sort((a, b) => (a.first ?? -Infinity) - (b.first ?? -Infinity));
}

/// Where the VM has lived, as far as messages tell: each stream of infrastructure measurements is one residence on one
/// host, in one life of the daemon there.
export function residences(streams) {
  return lives(streams.filter((row) => row.point.startsWith('infra/')));
}

/// The histories of the guest's store: a new stream of KPIs begins one.
export function histories(streams) {
  return lives(streams.filter((row) => !row.point.startsWith('infra/')));
}

/// The moments at which a residence or a history began that is not the first that is known.
export function marks(streams) {
  const moved = residences(streams).slice(1).map((life, n, all) => {
    const before = n > 0 ? all[n - 1] : residences(streams)[0];
    return { kind: 'moved', time: life.first, before, life, text: movedText(before, life) };
  });
  const forked = histories(streams).slice(1).map((life) => ({
    kind: 'forked', time: life.first, life, text: 'The guest’s store began a new stream: it went back in time (a '
      + 'snapshot, a restored disk, a clone), was made anew, or the VM got another identity.',
  }));
  return [...moved, ...forked].filter((mark) => mark.time !== null).sort((a, b) => a.time - b.time);
}

function movedText(before, life) {
  const between = life.first - before.last;
  const how = between >= 0
    ? `The last measurement before is ${duration(between)} older than the first one after.`
    : `For ${duration(between)} both streams have measurements: two hosts had the VM at once, as while it moves.`;
  return 'A new stream of infrastructure measurements: the VM came to another host, or was started again, or the '
    + `host daemon was. Messages do not name hosts, so which of these is not known here. ${how}`;
}

/// Ranges of a series that have no rows: `missing`, which may still come, and `gap`, which never will.
export function bands(gaps, missing) {
  const gap = gaps.map((row) => ({
    kind: 'gap', point: row.point, specifier: row.specifier, from: ms(row.since) ?? ms(row.time), to: ms(row.time),
    text: `${rows(row)} will never come: ${lost(row.reason)} (${row.reason})`,
  }));
  const hole = missing.map((row) => ({
    kind: 'missing', point: row.point, specifier: row.specifier, from: ms(row.since) ?? ms(row.heard), to: ms(row.heard),
    text: `${rows(row)} ${row.through - row.after === 1 ? 'has' : 'have'} not come yet, and may still come`,
  }));
  return gap.concat(hole);
}

function rows(row) {
  return row.through - row.after === 1 ? `Row ${row.through}` : `${count(row.through - row.after, 'row')}, `
    + `${row.after + 1} to ${row.through},`;
}

/// From when to when nothing comes as the Producer is gone, if it is.
export function silence(vm, now) {
  const { kind, text } = state(vm, now);
  if (kind !== 'dead' && kind !== 'left') return undefined;
  return { kind, from: Math.min(Date.parse(vm.heard), now), to: now, text: `Nothing has come since: ${text}` };
}

/// Everything that happened between two times, the latest first, for reading.
export function listed(streams, gaps, missing, vm, [from, to], now) {
  const title = { gap: 'Gap', missing: 'Missing', moved: 'New residence or restart', forked: 'New history', dead: 'No Producer',
    left: 'Stopped' };
  const gone = vm && silence(vm, now);
  const all = [...marks(streams).map((m) => ({ ...m, from: m.time, to: m.time })), ...bands(gaps, missing),
    ...(gone ? [gone] : [])];
  const here = all.filter((event) => event.to >= from && event.from <= to);
  here.sort((a, b) => b.from - a.from);
  return here.slice(0, MAX_EVENTS).map((event) => ({
    ...event, title: title[event.kind], where: event.point ? `${event.point} (${event.specifier})` : '',
    when: event.to > event.from ? `${clock(event.from, 1000, now)} – ${clock(event.to, 1000, now)}` : clock(event.from, 1000, now),
  }));
}
