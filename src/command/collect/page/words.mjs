// What is said of things, in words and numbers. Nothing here touches the page.

/// A number as people read it: at most four digits that count.
export function number(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return '–';
  const size = Math.abs(value);
  if (size === 0) return '0';
  if (size >= 1e15 || size < 1e-6) return value.toExponential(2);
  const units = [[1e12, 'T'], [1e9, 'G'], [1e6, 'M'], [1e4, 'k', 1e3]];
  for (const [from, name, divisor] of units) {
    if (size >= from) return digits(value / (divisor ?? from)) + ' ' + name;
  }
  if (size < 1e-3) return digits(value * 1e6) + ' µ';
  if (size < 0.1) return digits(value * 1e3) + ' m';
  return digits(value);
}

/// What a column is measured in, as its name says by the naming of Prometheus.
export function unitOf(column) {
  const units = [['_seconds_per_second', ''], ['_bytes_per_second', 'B/s'], ['_bytes', 'B'], ['_seconds', 's'], ['_per_second', '/s']];
  return units.find(([end]) => column.endsWith(end))?.[1] ?? '';
}

/// A number with its unit.
export function quantity(value, unit) {
  const text = number(value);
  if (unit === '' || text === '–') return text;
  return text.includes(' ') ? text + unit : `${text} ${unit}`;
}

function digits(value) {
  return String(Number(value.toPrecision(4)));
}

/// How long, from milliseconds.
export function duration(ms) {
  const seconds = Math.abs(ms) / 1000;
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 10) return `${Number(seconds.toFixed(1))} s`;
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172_800) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86_400)} d`;
}

const two = (n) => String(n).padStart(2, '0');

/// The time of day, with as many digits as `step` milliseconds ask for; with the date, where it is of another day.
export function clock(time, step = 1000, today = undefined) {
  const at = new Date(time);
  if (!Number.isFinite(at.getTime())) return '–';
  let text = `${two(at.getHours())}:${two(at.getMinutes())}`;
  if (step < 60_000) text += `:${two(at.getSeconds())}`;
  if (step < 1000) text += `.${Math.floor(at.getMilliseconds() / 100)}`;
  const other = today !== undefined && new Date(today).toDateString() !== at.toDateString();
  return other ? `${date(time)} ${text}` : text;
}

/// The date.
export function date(time) {
  const at = new Date(time);
  return `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;
}

/// How things stand with a VM, in the words of `vmkpi collect status`; `kind` says which mark it gets.
export function state(vm, now) {
  const silent = 'silent: its Producer is dead or cut off';
  if (vm.lease === 'expired') {
    const ago = duration(now - Date.parse(vm.lease_expires));
    return { kind: 'dead', label: 'lease expired', text: `lease expired ${ago} ago: its Producer is dead or cut off` };
  }
  if (vm.lease === 'left') return { kind: 'left', label: 'left', text: 'left the Directory: it has stopped' };
  if (vm.silent && vm.lease) {
    return { kind: 'dead', label: 'silent', text: 'silent, with a live lease: its messages do not come' };
  }
  if (vm.silent) return { kind: 'dead', label: 'silent', text: silent };
  if (vm.missing > 0) {
    return { kind: 'missing', label: 'missing', text: `rows are missing in ${count(vm.missing, 'instance')}` };
  }
  return { kind: 'complete', label: 'complete', text: 'complete' };
}

/// Each kind of state has a shape of its own: none is told by its colour alone.
export const MARKS = { complete: '●', missing: '◐', dead: '✕', left: '○' };

const LOST = {
  retention_rows: 'the guest kept no more rows',
  retention_bytes: 'the guest kept no more bytes, or the outbox of the host did not',
  retention_age: 'the guest keeps nothing that old',
  retention_streams: 'the VM restarted more often than its measurements could be delivered',
  retention: 'they went by retention',
  sample_too_large: 'a sample is larger than a message may be',
  window_too_large: 'the open windows of the VM were over their budget',
  unreadable: 'where they were kept they cannot be read',
  not_sent: 'this collect missed them, and nobody sends them again',
};

/// Why rows will never come.
export function lost(reason) {
  return Object.hasOwn(LOST, reason) ? LOST[reason] : String(reason);
}

/// How many of something.
export function count(n, one, many = `${one}s`) {
  return `${n.toLocaleString('en')} ${n === 1 ? one : many}`;
}

/// A word of a command line, whatever is in it (POSIX shell).
export function quote(text) {
  return /^[A-Za-z0-9_.,:/@%+=-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

/// The command that shows what is sealed: `sealed` messages by the host, or rows of an `encrypted/` point by the guest.
export function openCommand(origin, { site, vm, point, specifier }, bySite) {
  const query = new URLSearchParams({ site, vm, point, specifier, limit: '10000' });
  const ask = (view) => `curl -s ${quote(`${origin}/api/v1/${view}?${query}`)}`;
  if (bySite) return `${ask('sealed')} | jq -c '.rows[]' | vmkpi open --key seal.key.pem`;
  const open = `vmkpi open --key seal.key.pem --vm ${quote(vm)} --point ${quote(point)}`;
  return `${ask('samples')} | jq -rj '.rows[-1].data_base64 | @base64d' | ${open}`;
}
