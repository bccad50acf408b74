// Scales and ticks: from times and values to places on a picture, and which of them to name. Nothing here touches the page.

/// How long a bucket may be, in seconds; each divides the next longer unit of the clock.
const STEPS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400];
/// Buckets in a picture, at most: more than that no screen shows.
export const MAX_BUCKETS = 720;
/// Between two named times, in seconds.
const TIME_TICKS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400,
  172800, 604800, 1209600, 2592000, 7776000, 31536000];

/// The shortest bucket, in milliseconds, of which no more than `most` make up `span` milliseconds.
export function stepFor(span, most = MAX_BUCKETS) {
  const fits = STEPS.find((step) => span / (step * 1000) <= most);
  return (fits ?? Math.ceil(span / most / 86_400_000) * 86_400) * 1000;
}

/// The beginning of the bucket that holds `time`.
export function floorTo(time, step) {
  return Math.floor(time / step) * step;
}

/// A function from [a, b] onto [from, to]. Where a and b are one, everything is in the middle.
export function linear([a, b], [from, to]) {
  if (!(b > a)) return () => (from + to) / 2;
  return (value) => from + ((value - a) / (b - a)) * (to - from);
}

/// A round number near `rough`: 1, 2 or 5 times a power of ten.
function round(rough) {
  const power = 10 ** Math.floor(Math.log10(rough));
  const part = rough / power;
  return (part < 1.5 ? 1 : part < 3.5 ? 2 : part < 7.5 ? 5 : 10) * power;
}

/// The range of values that is shown: round at both ends, with the zero where it is not far.
export function domain(least, greatest) {
  if (!Number.isFinite(least) || !Number.isFinite(greatest)) return [0, 1];
  let [low, high] = [least, greatest];
  if (low >= 0 && low < (high - low) * 2) low = 0;
  if (high <= 0 && -high < (high - low) * 2) high = 0;
  if (low === high) return low === 0 ? [0, 1] : [Math.min(0, low * 2), Math.max(0, low * 2)];
  const step = round((high - low) / 4);
  if (!Number.isFinite(step) || step === 0) return [low, high];
  return [Math.floor(low / step + 1e-9) * step, Math.ceil(high / step - 1e-9) * step];
}

/// Round values in [low, high], about `count` of them.
export function ticks(low, high, count) {
  if (!(high > low) || !Number.isFinite(high - low)) return [low];
  const step = round((high - low) / count);
  const found = [];
  for (let n = Math.ceil(low / step - 1e-9); n * step <= high + step * 1e-9 && found.length < 50; n += 1) {
    found.push(Number((n * step).toPrecision(12)));
  }
  return found;
}

/// Times in [from, to] that a clock shows as round, about `count` of them; `offset` is local time minus UTC. In
/// milliseconds, all of them.
export function timeTicks(from, to, count, offset = 0) {
  const span = to - from;
  if (!(span > 0)) return { step: 1000, times: [] };
  const wanted = span / count / 1000;
  const step = (TIME_TICKS.find((s) => s >= wanted) ?? TIME_TICKS.at(-1)) * 1000;
  const times = [];
  for (let time = Math.ceil((from + offset) / step) * step - offset; time <= to && times.length < 100; time += step) {
    times.push(time);
  }
  return { step, times };
}
