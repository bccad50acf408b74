// The page of a collect: what is chosen, what is known, and when to ask for more. What it shows is in chart.mjs and
// lists.mjs, what it says in words.mjs, and what it asks in api.mjs.

import * as api from "./api.mjs";
import { Chart, cadence, draw, patterns } from "./chart.mjs";
import { bands, listed, marks, residences, silence } from "./events.mjs";
import { kindOf, showEvents, showHead, showPoints, showSealed, showVms } from "./lists.mjs";
import { RANGES, columnName, read, window as windowOf, write } from "./place.mjs";
import { floorTo, stepFor } from "./scale.mjs";
import { askFrom, bars, bucket, columns, extent, merge, points, preferred, rank, segments, shownName } from "./series.mjs";
import { clock, date, state, unitOf } from "./words.mjs";

/// Strips in the picture, and series that are asked for without having been chosen.
const MAX_STRIPS = 24;
const MAX_SERIES = 12;
/// So long before what is shown a residence may have ended that is told of, in milliseconds.
const STREAMS_BEFORE = 7 * 86_400_000;
/// Bars that count what is sealed.
const MAX_BARS = 60;
/// Columns of one point, and of all points of a kind, that are shown unless somebody chooses.
const FIRST_OF_POINT = { kpi: 3, infra: 2 };
const FIRST_OF_KIND = { kpi: 4, infra: 4 };
/// Between two looks, in milliseconds: as often as a bucket ends, within these.
const LOOK = [1000, 5000];
/// Series asked for at once: collect answers four questions at a time, and we are not alone.
const AT_ONCE = 2;
const HATCHED = [['gap', 'gap: these rows will never come'], ['missing', 'missing: they have not come yet'],
  ['dead', 'no Producer: it is dead, cut off or has stopped']];

const $ = (id) => document.getElementById(id);
const page = {
  place: read(location.hash), vms: [], series: new Map(), of: null, streams: [], gaps: [], missing: [],
  pausedAt: null, asked: null, timer: null, step: 0, whole: true, ever: false, lost: false,
};
const chart = new Chart($('chart'), $('plot'), $('tip'), { cursor: () => {}, zoom });
const vmParts = { sites: $('sites'), filter: $('filter'), filterOf: $('filter-of'), none: $('none'), count: $('vms-count') };
const headParts = { name: $('vm-name'), state: $('vm-state') };

const now = () => page.pausedAt ?? Date.now() + api.skew;

/// The VM that is shown: the one of the address, else the first there is.
function chosen() {
  const { site, vm } = page.place;
  if (vm === null) return page.vms[0];
  return page.vms.find((one) => one.vm === vm && (site === null || one.site === site));
}

// Asking

/// Asks for what is new, shows it, and does so again after a while.
async function look() {
  clearTimeout(page.timer);
  page.asked?.abort();
  const asked = new AbortController();
  page.asked = asked;
  const begin = performance.now();
  try {
    await askAll(asked.signal);
    trouble(null);
  } catch (error) {
    if (asked.signal.aborted) return;
    trouble(error);
  }
  if (page.asked !== asked) return;
  show();
  const took = performance.now() - begin;
  const pause = Math.max(LOOK[0], Math.min(page.step, LOOK[1]), 3 * took);
  if (page.pausedAt === null && !document.hidden) page.timer = setTimeout(look, pause);
}

async function askAll(signal) {
  page.vms = (await api.ask('vms', {}, signal)).rows;
  const vm = chosen();
  // What is seen first is who there is, however long the rest takes.
  if (page.of === null) show();
  page.ever = true;
  const of = vm ? JSON.stringify([vm.site, vm.vm]) : null;
  if (of !== page.of) Object.assign(page, { of, series: new Map(), streams: [], gaps: [], missing: [] });
  if (!vm) return;
  const [from, to] = windowOf(page.place, now());
  const name = { site: vm.site, vm: vm.vm };
  await askPoints(name, signal);
  const since = (before) => ({ from: new Date(from - before).toISOString() });
  // A stream says what was before it, which may have ended long ago.
  const about = [['streams', since(STREAMS_BEFORE)], ['gaps', since(0)], ['missing', {}]];
  for (const [view, more] of about) page[view] = (await api.ask(view, { ...name, ...more }, signal)).rows;
  await askSeries(from, to, signal);
}

async function askPoints(name, signal) {
  const { rows } = await api.ask('points', name, signal);
  const known = page.series;
  page.series = new Map(rows.map((row) => {
    const key = columnName(row.point, row.specifier, '');
    const before = known.get(key) ?? { ...name, key, point: row.point, specifier: row.specifier, buckets: [], step: 0, from: 0 };
    return [key, Object.assign(before, { heard: Date.parse(row.heard) })];
  }));
}

/// Asks for the buckets of what is shown, from where they are known on.
async function askSeries(from, to, signal) {
  const step = stepFor(to - from);
  page.step = step;
  const waiting = wanted();
  let whole = true;
  const worker = async () => {
    for (let one = waiting.shift(); one; one = waiting.shift()) {
      const begin = floorTo(from, step);
      // Another step, or a time before what is known: from the beginning. What is there is shown until that is here.
      const known = one.step !== step || begin < one.from ? [] : one.buckets;
      const { site, vm, point, specifier } = one;
      const ask = {
        site, vm, point, specifier, step: `${step}ms`,
        from: new Date(askFrom(known, begin)).toISOString(), to: new Date(to + step).toISOString(),
      };
      const answer = await api.ask('buckets', ask, signal);
      Object.assign(one, { buckets: merge(known, answer.rows.map(bucket), begin), step, from: begin });
      whole &&= answer.whole;
      if (one.buckets.length > 0 && !one.seen) show();
      one.seen = true;
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
  page.whole = whole;
}

/// The series whose columns are shown, or may be.
function wanted() {
  const all = [...page.series.values()].sort((a, b) => rank(a.point) - rank(b.point) || (a.point < b.point ? -1 : 1));
  if (page.place.columns === null) return all.slice(0, MAX_SERIES);
  return all.filter((one) => page.place.columns.some((name) => name.startsWith(one.key)));
}

// What is shown

/// The columns that are shown of a series.
function columnsOf(one, room) {
  const names = columns(one.buckets);
  const kind = kindOf(one.point);
  if (page.place.columns === null) {
    const most = Math.min(FIRST_OF_POINT[kind] ?? 0, room[kind] ?? 0);
    const found = preferred(one.point, names, most);
    if (kind in room) room[kind] -= found.length;
    return found;
  }
  const has = (column) => page.place.columns.includes(columnName(one.point, one.specifier, column));
  return has('*') ? preferred(one.point, names, FIRST_OF_POINT.kpi) : names.filter(has);
}

function strips(step, span, broken) {
  const found = [];
  const room = { ...FIRST_OF_KIND };
  const absent = bands(page.gaps, page.missing);
  for (const one of wanted()) {
    const own = absent.filter((band) => band.point === one.point && band.specifier === one.specifier);
    const about = { point: one.point, specifier: one.specifier, bands: own, step };
    for (const column of columnsOf(one, room)) {
      const all = points(one.buckets, column);
      const breaks = own.map((band) => band.to).concat(kindOf(one.point) === 'infra' ? broken : []);
      found.push({
        ...about, key: columnName(one.point, one.specifier, column), kind: kindOf(one.point) === 'infra' ? 'infra' : 'kpi', name: shownName(column),
        of: one.point + cadence(all), points: all, segments: segments(all, step, breaks), extent: extent(all),
        unit: unitOf(shownName(column)),
      });
    }
    const counted = countedRows(one, span);
    if (counted) found.push({ ...about, ...counted, key: one.key, kind: 'sealed', of: one.point, unit: '', segments: [] });
  }
  const order = { kpi: 0, sealed: 1, infra: 2 };
  return found.sort((a, b) => order[a.kind] - order[b.kind]).slice(0, MAX_STRIPS);
}

/// Rows of which only the number can be drawn: sealed ones, and those of a KPI without numbers.
function countedRows(one, span) {
  const sealed = bars(one.buckets, (b) => b.encrypted + b.sealed, span, MAX_BARS);
  if (sealed.length > 0) return { name: 'sealed rows', points: sealed, extent: [0, extent(sealed)[1]] };
  if (columns(one.buckets).length > 0 || kindOf(one.point) === 'infra') return undefined;
  const all = bars(one.buckets, (b) => b.rows, span, MAX_BARS);
  return { name: 'rows', points: all, extent: [0, extent(all)[1]] };
}

function show() {
  const at = now();
  const vm = chosen();
  showVms(vmParts, page.vms, vm, at, (one) => write({ ...page.place, site: one.site, vm: one.vm, columns: null }));
  if (vm || page.ever) showHead(headParts, vm, at);
  if (!vm && page.place.vm !== null && page.ever) $('vm-state').textContent = `Nothing has come of “${page.place.vm}” yet.`;
  document.title = vm ? `${vm.vm} – vmkpi` : 'vmkpi';
  showTools();
  const [from, to] = windowOf(page.place, at);
  const series = [...page.series.values()];
  showChart(vm, from, to, at);
  showPoints($('points'), series, at, isShown, choose);
  showEvents($('events'), $('no-events'), vm ? listed(page.streams, page.gaps, page.missing, vm, [from, to], at) : [], around);
  showSealed($('sealed-of'), $('sealed'), sealedOf(series), location.origin);
}

function showChart(vm, from, to, at) {
  const step = page.step || stepFor(to - from);
  const found = marks(page.streams);
  const homes = residences(page.streams);
  const lived = homes.map((life, n) => ({ name: life.stream.slice(0, 6), even: n % 2 === 0, from: life.first ?? from, to: life.last }));
  const shown = strips(step, [from, to], found.filter((mark) => mark.kind === 'moved').map((mark) => mark.time));
  page.shown = shown;
  chart.show({
    from, to, step, now: at, strips: shown, homes: lived, marks: found, silence: vm && silence(vm, at),
    summary: summary(vm, shown, from, to, at),
  });
}

/// The picture in a sentence, for those who do not see it.
function summary(vm, shown, from, to, at) {
  if (!vm) return 'No data';
  const names = shown.map((strip) => `${strip.name} of ${strip.point}`).join(', ') || 'no column yet';
  return `${vm.vm}, ${state(vm, at).text}, from ${clock(from, 1000, at)} to ${clock(to, 1000, at)}: ${names}`;
}

function sealedOf(series) {
  const counted = (by) => series.map((one) => ({
    ...one, key: `${one.key}${by}`, by, rows: one.buckets.reduce((sum, b) => sum + b[by], 0),
  }));
  return [...counted('encrypted'), ...counted('sealed')].filter((one) => one.rows > 0);
}

// Choosing

function isShown(one, column) {
  if (page.place.columns !== null) return page.place.columns.includes(columnName(one.point, one.specifier, column));
  return (page.shown ?? []).some((strip) => strip.key === (column === '*' ? one.key : columnName(one.point, one.specifier, column)));
}

function choose(one, column, whether) {
  const names = page.place.columns ?? (page.shown ?? []).map((strip) => strip.key);
  const name = columnName(one.point, one.specifier, column);
  const others = names.filter((other) => other !== name && !(column === '*' && other.startsWith(one.key)));
  go({ columns: whether ? [...others, name] : others });
}

/// Goes to another place: the address says so, and what it shows is asked for.
function go(change) {
  Object.assign(page.place, change);
  history.replaceState(null, '', write(page.place));
  show();
  look();
}

function zoom(from, to) {
  if (to - from < 1000) return;
  setPause(null);
  go({ range: 'custom', from: Math.round(from), to: Math.round(to) });
}

/// A time with as much again before and after it.
function around(event) {
  const room = Math.max(event.to - event.from, 60_000);
  zoom(event.from - room, event.to + room);
}

function scale(factor) {
  const [from, to] = windowOf(page.place, now());
  const middle = chart.cursor ?? (from + to) / 2;
  zoom(middle - (middle - from) * factor, Math.min(middle + (to - middle) * factor, now()));
}

function setPause(at) {
  page.pausedAt = at;
  $('pause').setAttribute('aria-pressed', String(at !== null));
  $('pause').textContent = at === null ? 'Pause' : 'Go on';
}

function togglePause() {
  setPause(page.pausedAt === null ? now() : null);
  if (page.pausedAt === null) look();
  else clearTimeout(page.timer);
  showTools();
}

function showTools() {
  for (const button of $('ranges').children) {
    button.setAttribute('aria-pressed', String(button.dataset.range === page.place.range));
  }
  const { lost } = page;
  const text = lost ? 'not connected' : page.pausedAt !== null ? 'paused' : page.place.range === 'custom' ? 'a fixed time' : 'live';
  const live = $('live');
  if (live.textContent !== text && (page.ever || lost)) live.textContent = text;
  live.className = `live${lost ? ' lost' : page.pausedAt !== null ? ' paused' : ''}`;
}

function trouble(error) {
  const more = page.whole ? '' : 'There is more than is shown here: choose a shorter time.';
  const text = error ? `collect does not answer as it should; trying again. ${error.message}` : more;
  page.lost = Boolean(error);
  $('trouble').hidden = text === '';
  if ($('trouble').textContent !== text) $('trouble').textContent = text;
}

/// A time as `datetime-local` has it.
const local = (time) => `${date(time)}T${clock(time, 1000)}`;

function openCustom() {
  const form = $('custom');
  form.hidden = !form.hidden;
  const button = document.querySelector('[data-range=custom]');
  button.setAttribute('aria-expanded', String(!form.hidden));
  const [from, to] = windowOf(page.place, now());
  $('from').value = local(from);
  $('to').value = local(to);
  if (!form.hidden) $('from').focus();
}

function chooseRange(event) {
  const range = event.target.closest('button')?.dataset.range;
  if (range === 'custom') openCustom();
  else if (range in RANGES) {
    $('custom').hidden = true;
    setPause(null);
    go({ range, from: null, to: null });
  }
}

function chooseCustom(event) {
  event.preventDefault();
  const [from, to] = [new Date($('from').value).getTime(), new Date($('to').value).getTime()];
  const good = from < to;
  $('wrong').textContent = good ? '' : 'The end is not after the beginning.';
  if (good) zoom(from, to);
}

function press(event) {
  const [from, to] = windowOf(page.place, now());
  const step = Math.max(page.step, (to - from) / 200) * (event.shiftKey ? 10 : 1);
  const at = chart.cursor ?? to;
  const keys = {
    ArrowLeft: () => chart.moveTo(at - step), ArrowRight: () => chart.moveTo(at + step), Home: () => chart.moveTo(from),
    End: () => chart.moveTo(to), Escape: () => chart.moveTo(null), '+': () => scale(0.5), '=': () => scale(0.5),
    '-': () => scale(2), ' ': togglePause,
  };
  if (!Object.hasOwn(keys, event.key) || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  keys[event.key]();
  $('reading').textContent = chart.spoken();
}

// The beginning

function showLegend() {
  const item = (image, text) => {
    const entry = document.createElement('li');
    const picture = draw('svg', { viewBox: '0 0 26 14', 'aria-hidden': 'true' }, ...image);
    entry.append(picture, text);
    return entry;
  };
  const line = (kind) => [draw('g', { class: kind }, draw('path', { class: 'range', d: 'M1 6L25 1V8L1 13Z' }), draw('path', { class: 'curve', d: 'M1 9L25 5' }))];
  $('legend').append(item(line('kpi'), 'KPI, mean and range'), item(line('infra'), 'infrastructure'));
  for (const [kind, text] of HATCHED) {
    $('legend').append(item([patterns(), draw('rect', { class: `band ${kind}`, x: 1, y: 1, width: 24, height: 12 })], text));
  }
  const moved = [draw('line', { class: 'moved', x1: 13, x2: 13, y1: 0, y2: 14 }), draw('path', { class: 'sign', d: 'M13 0l6 7l-6 7l-6 -7z' })];
  $('legend').append(item(moved, 'new residence: another host, or a restart'));
}

function begin() {
  showLegend();
  if (matchMedia('(max-width: 820px)').matches) $('vms-of').open = false;
  addEventListener('hashchange', () => {
    page.place = read(location.hash);
    chart.moveTo(null);
    look();
  });
  document.addEventListener('visibilitychange', () => {
    if (document.hidden) clearTimeout(page.timer);
    else if (page.pausedAt === null) look();
  });
  $('ranges').addEventListener('click', chooseRange);
  $('custom').addEventListener('submit', chooseCustom);
  $('pause').addEventListener('click', togglePause);
  $('filter').addEventListener('input', show);
  $('chart').addEventListener('keydown', press);
  $('skip').addEventListener('click', (event) => {
    event.preventDefault();
    $('chart').focus();
  });
  look();
}

begin();
