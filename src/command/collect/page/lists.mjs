// Lists and tables beside the picture. What is there already is changed, not made anew: whoever has it in focus, or
// reads it, is not thrown out each second. Everything from data is set as text.

import { columns, isCounter, rank, shownName, texts } from "./series.mjs";
import { MARKS, count, duration, openCommand, quantity, state, unitOf } from "./words.mjs";

/// VMs that are listed, at most; the filter finds the others.
const MAX_VMS = 300;
/// From so many on there is a filter.
const FILTER_FROM = 10;
/// Points and columns that are listed, at most.
const MAX_POINTS = 300;
const MAX_OPTIONS = 60;

/// An element with text.
export function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

/// Sets a text only where it is another: a reader's selection stays.
function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/// Brings the children of `parent` to one for each item, in order, by their keys.
function sync(parent, items, keyOf, make, change) {
  const known = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  items.forEach((item, place) => {
    const key = keyOf(item);
    const child = known.get(key) ?? make(item);
    child.dataset.key = key;
    known.delete(key);
    change(child, item);
    if (parent.children[place] !== child) parent.insertBefore(child, parent.children[place] ?? null);
  });
  for (const child of known.values()) child.remove();
}

/// Sites with their VMs; `linkTo` makes the address of one.
export function showVms(parts, vms, chosen, now, linkTo) {
  const wanted = parts.filter.value.trim().toLowerCase();
  const matches = (vm) => `${vm.site} ${vm.vm}`.toLowerCase().includes(wanted);
  const shown = (wanted ? vms.filter(matches) : vms).slice(0, MAX_VMS);
  parts.filterOf.hidden = vms.length < FILTER_FROM;
  parts.none.hidden = vms.length > 0;
  say(parts.count, vms.length === shown.length ? `(${vms.length})` : `(${shown.length} of ${vms.length})`);
  const sites = [...new Set(shown.map((vm) => vm.site))];
  const make = () => element('div', { className: 'site' }, element('h3'), element('ul'));
  sync(parts.sites, sites, (site) => site, make, (group, site) => {
    say(group.children[0], site);
    const own = shown.filter((vm) => vm.site === site);
    sync(group.children[1], own, (vm) => vm.vm, makeVm, (item, vm) => changeVm(item, vm, chosen, now, linkTo));
  });
}

function makeVm() {
  const mark = element('i', { className: 'mark', ariaHidden: 'true' });
  return element('li', {}, element('a', {}, mark, element('span', { className: 'name' }), element('span', { className: 'about' })));
}

function changeVm(item, vm, chosen, now, linkTo) {
  const link = item.firstChild;
  const [mark, name, about] = link.children;
  const { kind, label, text } = state(vm, now);
  const link_to = linkTo(vm);
  if (link.getAttribute('href') !== link_to) link.setAttribute('href', link_to);
  link.setAttribute('aria-current', String(chosen !== undefined && vm.site === chosen.site && vm.vm === chosen.vm));
  link.title = `${vm.vm}: ${text}`;
  mark.className = `mark ${kind}`;
  say(mark, MARKS[kind]);
  say(name, vm.vm);
  say(about, `${label}, ${count(vm.points, 'point')}, ${duration(Math.max(0, now - Date.parse(vm.heard)))} ago`);
}

/// The head of a VM.
export function showHead(parts, vm, now) {
  say(parts.name, vm ? vm.vm : 'No VM');
  parts.state.replaceChildren();
  if (!vm) return;
  const { kind, text } = state(vm, now);
  const about = `${text}. Site ${vm.site}, ${count(vm.points, 'point')}, last message `
    + `${duration(Math.max(0, now - Date.parse(vm.heard)))} ago.`;
  parts.state.append(element('i', { className: `mark ${kind}`, ariaHidden: 'true', textContent: MARKS[kind] }), ` ${about}`);
}

/// What kind of point it is, for its colour.
export function kindOf(point) {
  return point.startsWith('infra/') ? 'infra' : point.startsWith('encrypted/') ? 'sealed' : 'kpi';
}

/// Points with the columns that can be shown. `series` are { point, specifier, buckets, heard, asked }; `isShown` and
/// `choose(item, column, whether)` are about a column of one, `*` for one that is not known yet.
export function showPoints(body, series, now, isShown, choose) {
  const sorted = [...series].sort((a, b) => rank(a.point) - rank(b.point) || (a.point < b.point ? -1 : 1));
  const make = () => element('tr', {}, ...Array.from({ length: 5 }, () => element('td')));
  sync(body, sorted.slice(0, MAX_POINTS), (item) => item.key, make, (row, item) => {
    const [point, specifier, options, latest, heard] = row.children;
    point.className = `${kindOf(item.point)}-name`;
    say(point, item.point);
    say(specifier, item.specifier);
    showOptions(options, item, isShown, choose);
    say(latest, latestOf(item));
    say(heard, `${duration(Math.max(0, now - item.heard))} ago`);
  });
}

function showOptions(cell, item, isShown, choose) {
  const names = columns(item.buckets).slice(0, MAX_OPTIONS);
  const all = names.length > 0 ? names : ['*'];
  const make = (column) => {
    const box = element('input', { type: 'checkbox' });
    box.addEventListener('change', () => choose(item, column, box.checked));
    return element('label', {}, box, element('span'));
  };
  if (!cell.firstChild) cell.append(element('div', { className: 'options' }));
  sync(cell.firstChild, all, (column) => column, make, (label, column) => {
    label.firstChild.checked = isShown(item, column);
    const name = kindOf(item.point) === 'sealed' ? 'rows' : 'show';
    say(label.lastChild, column === '*' ? name : shownName(column));
  });
}

/// The latest values of a point, texts too.
function latestOf(item) {
  const last = item.buckets.at(-1);
  if (!last) return '';
  const numbers = Object.entries(last.data).filter(([name]) => !isCounter(name)).map(([name, [, mean]]) => `${name} ${quantity(mean, unitOf(name))}`);
  const words = [...texts(item.buckets)].map(([name, text]) => `${name} “${text}”`);
  const said = numbers.concat(words);
  return said.slice(0, 4).join(', ') + (said.length > 4 ? ', …' : '');
}

/// What happened.
export function showEvents(body, none, events, show) {
  none.hidden = events.length > 0;
  const make = () => {
    const button = element('button', { type: 'button', className: 'time' });
    return element('tr', {}, element('td', { className: 'when' }, button), element('td'), element('td'));
  };
  const keyOf = (event) => `${event.kind} ${event.from} ${event.where} ${event.text.length}`;
  sync(body, events, keyOf, make, (row, event) => {
    const [when, what, known] = row.children;
    const button = when.firstChild;
    say(button, event.when);
    button.title = 'Show this time';
    button.onclick = () => show(event);
    what.className = `what ${event.kind}`;
    say(what, event.title);
    say(known, event.where ? `${event.where}: ${event.text}` : event.text);
  });
}

/// What is sealed, and the command for each.
export function showSealed(section, list, sealed, origin) {
  section.hidden = sealed.length === 0;
  const make = () => element('li', {}, element('span'), element('code', { tabIndex: 0 }));
  sync(list, sealed, (item) => item.key, make, (entry, item) => {
    const bySite = item.by === 'sealed';
    const who = bySite ? 'sealed by the host for the primary site' : 'encrypted in the guest';
    say(entry.children[0], `${item.point} (${item.specifier}): ${count(item.rows, 'row')} in this time, ${who}`);
    say(entry.children[1], openCommand(origin, item, bySite));
  });
}
