// The functions of the page that touch no page: node --test pure.test.mjs

import assert from 'node:assert/strict';
import { test } from 'node:test';

const at = '../../../src/command/collect/page/';
const { domain, floorTo, linear, stepFor, ticks, timeTicks } = await import(`${at}scale.mjs`);
const series = await import(`${at}series.mjs`);
const words = await import(`${at}words.mjs`);
const place = await import(`${at}place.mjs`);
const events = await import(`${at}events.mjs`);

const HOUR = 3_600_000;

test('a picture has no more buckets than it can show', () => {
  for (const span of [1, 1000, 300_000, HOUR, 6 * HOUR, 24 * HOUR, 4000 * 24 * HOUR]) {
    const step = stepFor(span);
    assert.ok(span / step <= 720, `${span}: ${step}`);
    assert.ok(step >= 100 && Number.isInteger(step));
  }
  assert.equal(stepFor(300_000), 500);
  assert.equal(stepFor(HOUR), 5000);
  assert.equal(stepFor(24 * HOUR), 120_000);
  assert.equal(floorTo(1234, 500), 1000);
  assert.equal(floorTo(-1, 500), -500);
});

test('what is shown of values is round and has all of them', () => {
  for (const [low, high] of [[0, 0], [5, 5], [-5, -5], [0, 87], [1e-9, 2e-9], [-3, 7], [1000, 1001], [1e300, 1.5e300], [42, 43]]) {
    const [from, to] = domain(low, high);
    assert.ok(from <= low && to >= high && from < to, `${low} ${high}: ${from} ${to}`);
  }
  assert.deepEqual(domain(3, 87), [0, 100]);
  assert.deepEqual(domain(Infinity, -Infinity), [0, 1]);
  assert.deepEqual(ticks(0, 100, 2), [0, 50, 100]);
  assert.deepEqual(ticks(0, 0.3, 3), [0, 0.1, 0.2, 0.3]);
  assert.ok(ticks(0, Infinity, 2).length < 51);
  assert.equal(linear([0, 10], [100, 0])(5), 50);
  assert.equal(linear([3, 3], [100, 0])(3), 50);
});

test('named times are round on the clock they are shown by', () => {
  const begin = Date.UTC(2026, 10, 20, 17, 3);
  const found = timeTicks(begin, begin + HOUR, 6);
  assert.equal(found.step, 600_000);
  assert.equal(found.times[0], Date.UTC(2026, 10, 20, 17, 10));
  const india = timeTicks(begin, begin + 24 * HOUR, 8, 5.5 * HOUR);
  assert.ok(india.times.every((time) => (time + 5.5 * HOUR) % india.step === 0));
  assert.deepEqual(timeTicks(5, 5, 3).times, []);
});

const row = (time, data, more = {}) => series.bucket({
  time: new Date(time).toISOString(), last: new Date(time).toISOString(), until: null, rows: 1, encrypted: 0, sealed: 0, data, text: {}, ...more,
});
const value = (n) => ({ users: [n, n, n] });

test('only what is new is asked for, and it replaces what had begun', () => {
  const first = [row(0, value(1)), row(5000, value(2)), row(10_000, value(3))];
  assert.equal(series.askFrom(first, 0), 10_000);
  assert.equal(series.askFrom([], 7), 7);
  const merged = series.merge(first, [row(10_000, value(9)), row(15_000, value(4))], 5000);
  assert.deepEqual(series.points(merged, 'users').map((p) => p.mean), [2, 9, 4]);
  assert.equal(series.merge(first, [], 0).length, 3);
  assert.deepEqual(series.merge([], [], 0), []);
});

test('a counter is shown as its rate, and one that begins anew makes no spike', () => {
  const counter = [10, 20, 40, 3, 8].map((n, at) => row(at * 1000, { x_total: [n, n, n] }));
  const found = series.points(counter, 'x_total');
  assert.deepEqual(found.map((p) => p.mean), [10, 20, 5]);
  assert.equal(series.shownName('x_total'), 'x_per_second');
  assert.equal(series.shownName('_total'), '_total');
});

test('a line is not drawn across what is not there', () => {
  const all = [0, 1000, 2000, 9000, 10_000].map((time) => row(time, value(1)));
  const lines = series.segments(series.points(all, 'users'), 1000);
  assert.deepEqual(lines.map((line) => line.length), [3, 2]);
  const broken = series.segments(series.points(all.slice(0, 3), 'users'), 1000, [1500]);
  assert.deepEqual(broken.map((line) => line.length), [2, 1]);
  // Windows, each as long as until the next begins, are one line.
  const windows = [0, 60_000, 120_000].map((time) => row(time, value(1), { until: new Date(time + 60_000).toISOString() }));
  assert.equal(series.segments(series.points(windows, 'users'), 5000).length, 1);
  assert.deepEqual(series.segments([], 1000), []);
});

test('names of columns are names, whatever they are', () => {
  const odd = row(0, JSON.parse('{"__proto__":[1,2,3],"constructor":[1,1,1],"<b>":[0,0,0]}'));
  assert.deepEqual(series.columns([odd]), ['<b>', '__proto__', 'constructor']);
  assert.equal(series.points([odd], '__proto__')[0].mean, 2);
  assert.deepEqual(series.points([odd], 'toString'), []);
  assert.equal(words.lost('constructor'), 'constructor');
  assert.equal(place.read('#range=constructor').range, '1h');
});

test('the point at the cursor is the nearest, if one is near', () => {
  const all = series.points([row(0, value(1)), row(1000, value(2)), row(9000, value(3))], 'users');
  assert.equal(series.nearest(all, 400, 1000).mean, 1);
  assert.equal(series.nearest(all, 600, 1000).mean, 2);
  assert.equal(series.nearest(all, 5000, 1000), undefined);
  assert.equal(series.nearest([], 0, 1000), undefined);
});

test('what is not drawn as a line is counted in bars', () => {
  const sealed = [0, 5000, 60_000].map((time) => row(time, {}, { encrypted: 1, sealed: 2 }));
  const bars = series.bars(sealed, (b) => b.encrypted + b.sealed, [0, HOUR], 60);
  assert.deepEqual(bars.map((bar) => [bar.from, bar.to, bar.mean]), [[0, 60_000, 6], [60_000, 120_000, 3]]);
});

test('numbers and times are short', () => {
  const numbers = [[0, '0'], [42.5, '42.5'], [1234, '1234'], [12_345, '12.35 k'], [0.0123, '12.3 m'], [2.5e9, '2.5 G'], [NaN, '–'], [null, '–'],
    [-3, '-3'], [1e20, '1.00e+20']];
  for (const [n, text] of numbers) assert.equal(words.number(n), text);
  assert.equal(words.quantity(0.02265, words.unitOf('response_seconds')), '22.65 ms');
  assert.equal(words.quantity(2_548_000, words.unitOf('net_transmit_bytes_per_second')), '2.548 MB/s');
  assert.equal(words.quantity(3, words.unitOf('cpu_time_seconds_per_second')), '3');
  assert.equal(words.duration(90_000), '90 s');
  assert.equal(words.duration(7_200_000), '2 h');
  assert.equal(words.clock(Date.UTC(2026, 10, 20, 17, 5, 9)), '17:05:09');
  assert.equal(words.clock(Date.UTC(2026, 10, 19, 17, 5), 60_000, Date.UTC(2026, 10, 20)), '2026-11-19 17:05');
});

test('a VM is what collect status says of it', () => {
  const now = Date.UTC(2026, 10, 20, 17);
  const vm = { lease: null, lease_expires: null, silent: false, missing: 0 };
  const kind = (more) => words.state({ ...vm, ...more }, now).kind;
  assert.equal(kind({}), 'complete');
  assert.equal(kind({ missing: 2 }), 'missing');
  assert.equal(kind({ silent: true, missing: 2 }), 'dead');
  assert.equal(kind({ silent: true, lease: 'live' }), 'dead');
  assert.equal(kind({ lease: 'left', silent: true }), 'left');
  const expired = words.state({ ...vm, lease: 'expired', lease_expires: '2026-11-20T16:59:00Z' }, now);
  assert.equal(expired.text, 'lease expired 60 s ago: its Producer is dead or cut off');
  assert.equal(new Set(Object.values(words.MARKS)).size, 4);
});

test('the command that opens is one, whatever the names are', () => {
  const of = { site: 'acme', vm: "a'; rm -rf $HOME", point: 'encrypted/x y', specifier: 's' };
  const text = words.openCommand('http://127.0.0.1:9106', of, false);
  assert.ok(text.includes(`--vm 'a'\\''; rm -rf $HOME' --point 'encrypted/x y'`), text);
  assert.ok(text.includes('vm=a%27%3B+rm'), text);
  assert.ok(words.openCommand('http://h', of, true).endsWith('vmkpi open --key seal.key.pem'));
});

test('a place survives the address', () => {
  const all = { site: 'a&b', vm: '<x> #1', range: 'custom', from: 1000, to: 2000, columns: ['a|b|c d', 'e'] };
  assert.deepEqual(place.read(place.write(all)), all);
  const none = { ...all, range: '6h', from: null, to: null, columns: [] };
  assert.deepEqual(place.read(place.write(none)), none);
  assert.deepEqual(place.read(''), { site: null, vm: null, range: '1h', from: null, to: null, columns: null });
  assert.equal(place.read('#from=2026-11-20T18:00:00Z&to=2026-11-20T17:00:00Z').range, '1h');
  assert.equal(place.read('#from=0001-01-01T00:00:00Z&to=9999-01-01T00:00:00Z').range, '1h');
  assert.deepEqual(place.window({ range: '5m' }, 400_000), [100_000, 400_000]);
});

const stream = (id, point, first, last) => ({
  stream: id, point, first: first === null ? null : new Date(first).toISOString(), last: new Date(last).toISOString(),
});

test('a new stream of infrastructure is a new residence, and it says no more than is known', () => {
  const all = [stream('a', 'infra/cpu', 1000, 5000), stream('a', 'infra/net', 1100, 5200), stream('b', 'infra/cpu', 5100, 9000),
    stream('k', 'unencrypted/web', 0, 9000)];
  assert.deepEqual(events.residences(all).map((life) => [life.stream, life.first, life.last]), [['a', 1000, 5200], ['b', 5100, 9000]]);
  const [mark, ...others] = events.marks(all);
  assert.equal(others.length, 0);
  assert.equal(mark.time, 5100);
  assert.match(mark.text, /do not name hosts.*two hosts had the VM at once/);
  const later = events.marks([all[0], stream('b', 'infra/cpu', 8000, 9000)])[0];
  assert.match(later.text, /3 s older/);
  assert.deepEqual(events.marks([stream('old', 'infra/cpu', null, 5000), all[0]])[0].time, 1000, 'one of before is the older');
  assert.equal(events.marks([stream('k', 'encrypted/a', 0, 5), stream('l', 'encrypted/a', 6, 9)])[0].kind, 'forked');
});

test('gaps and holes are told apart, with their rows', () => {
  const about = { point: 'p', specifier: 's', after: 10, through: 14 };
  const [gap, hole, short] = events.bands(
    [{ ...about, reason: 'retention_age', since: '2026-11-20T17:00:00Z', time: '2026-11-20T17:05:00Z' }],
    [{ ...about, since: null, heard: '2026-11-20T17:06:00Z' }, { ...about, after: 13, since: '2026-11-20T17:00:00Z', heard: '2026-11-20T17:06:00Z' }]);
  assert.match(gap.text, /^4 rows, 11 to 14, will never come/);
  assert.equal(gap.to - gap.from, 300_000);
  assert.equal(hole.from, hole.to);
  assert.match(short.text, /^Row 14 has not come yet/);
  const now = Date.parse('2026-11-20T18:00:00Z');
  const dead = { lease: 'expired', lease_expires: '2026-11-20T17:30:00Z', heard: '2026-11-20T17:29:00Z', silent: false };
  assert.equal(events.silence(dead, now).from, Date.parse('2026-11-20T17:29:00Z'));
  assert.equal(events.silence({ ...dead, lease: 'live' }, now), undefined);
});
