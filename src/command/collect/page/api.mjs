// Questions to the query API of the collect that has served this page, and to nobody else.

/// Pages of one answer, at most: what is further is asked for the next time.
const MAX_PAGES = 20;
const TIMEOUT = 15_000;

/// The clock of the collect minus this browser's, in milliseconds, as its last answer said.
export let skew = 0;

async function get(view, parameters, signal) {
  const query = new URLSearchParams(parameters);
  const timeout = AbortSignal.timeout(TIMEOUT);
  const response = await fetch(`/api/v1/${view}?${query}`, {
    signal: signal ? AbortSignal.any([signal, timeout]) : timeout,
    credentials: 'omit', cache: 'no-store',
  });
  noteTime(response.headers.get('date'));
  if (!response.ok) {
    const why = (await response.text()).trim().slice(0, 300);
    throw new Error(`${view}: ${why || response.status}`);
  }
  return response.json();
}

/// The header has whole seconds: what is within two is as good as no difference.
function noteTime(text) {
  const there = Date.parse(text ?? '');
  if (!Number.isFinite(there)) return;
  const difference = there + 500 - Date.now();
  skew = Math.abs(difference) < 2000 ? 0 : difference;
}

/// All rows that a question has, in as many pages as that takes; `whole` is false where there are more than anybody
/// reads.
export async function ask(view, parameters, signal) {
  const rows = [];
  let after;
  for (let page = 0; page < MAX_PAGES; page += 1) {
    const given = { limit: '10000', ...parameters, ...(after ? { after } : {}) };
    const answer = await get(view, given, signal);
    // Not by spreading: a page may have more rows than a call may have arguments.
    for (const row of answer.rows) rows.push(row);
    if (!answer.next) return { rows, whole: true };
    after = answer.next;
  }
  return { rows, whole: false };
}
