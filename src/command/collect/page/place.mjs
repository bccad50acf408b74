// Where one is on the page, as the fragment of its address: a link to a VM and a time can be kept and sent. Nothing
// here touches the page.

/// The ranges that have a button, in milliseconds.
export const RANGES = { '5m': 300_000, '1h': 3_600_000, '6h': 21_600_000, '24h': 86_400_000 };
/// The longest time that is asked for: ten years.
const LONGEST = 10 * 366 * 86_400_000;

/// Reads a fragment. What it does not say, or says wrong, is as at the beginning.
export function read(fragment) {
  const given = new URLSearchParams(fragment.replace(/^#/, ''));
  const place = { site: given.get('site'), vm: given.get('vm'), range: '1h', from: null, to: null, columns: null };
  if (Object.hasOwn(RANGES, given.get('range') ?? '')) place.range = given.get('range');
  const [from, to] = [Date.parse(given.get('from') ?? ''), Date.parse(given.get('to') ?? '')];
  if (from < to && to - from <= LONGEST) Object.assign(place, { range: 'custom', from, to });
  const columns = given.getAll('show').slice(0, 100);
  if (columns.length > 0) place.columns = columns.filter((name) => name !== '');
  return place;
}

/// Writes one.
export function write(place) {
  const given = new URLSearchParams();
  if (place.site !== null && place.vm !== null) {
    given.set('site', place.site);
    given.set('vm', place.vm);
  }
  if (place.range === 'custom') {
    given.set('from', new Date(place.from).toISOString());
    given.set('to', new Date(place.to).toISOString());
  } else {
    given.set('range', place.range);
  }
  if (place.columns !== null) {
    // An empty one says that nothing is shown, which is not the same as nothing said.
    for (const name of place.columns.length > 0 ? place.columns : ['']) given.append('show', name);
  }
  return `#${given}`;
}

/// From when to when is shown at `now`.
export function window(place, now) {
  return place.range === 'custom' ? [place.from, place.to] : [now - RANGES[place.range], now];
}

/// What a column is called in a fragment.
export function columnName(point, specifier, column) {
  return [point, specifier, column].map(encodeURIComponent).join('|');
}
