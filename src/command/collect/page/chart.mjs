// The picture: one strip for each column, all on one time axis, with what is missing, what moved, and a cursor through
// all of them. It is told what to draw, and tells where somebody points.

import { domain, linear, ticks, timeTicks } from "./scale.mjs";
import { nearest } from "./series.mjs";
import { clock, duration, quantity } from "./words.mjs";

const SVG = 'http://www.w3.org/2000/svg';
const STRIP = { caption: 24, plot: 74, counted: 30, after: 12 };
const LANE = 22;
const AXIS = 24;
/// Bands that are narrower are drawn as wide as this: what is lost is seen however short it was.
const LEAST_BAND = 4;
/// Bands and marks in a picture, at most.
const MAX_DRAWN = 400;

/// An element of a picture. Text is text, whatever is in it.
export function draw(name, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

/// Where the strips of a model are, from top to bottom, and how high the picture is.
function layout(model, width) {
  const narrow = width < 560;
  const left = narrow ? 54 : 62;
  const right = width - 6;
  const lane = model.homes.length > 0 ? LANE : 0;
  let top = lane + 4;
  const strips = model.strips.map((strip) => {
    const plot = top + STRIP.caption;
    const bottom = plot + (strip.kind === 'sealed' ? STRIP.counted : STRIP.plot);
    top = bottom + STRIP.after;
    return { strip, caption: plot - 9, top: plot, bottom };
  });
  return { left, right, width, lane, strips, bottom: Math.max(top - STRIP.after, 60), height: Math.max(top, 60) + AXIS, narrow };
}

export class Chart {
  /// `said` is told what happens: `cursor(time or null)`, `zoom(from, to)`.
  constructor(frame, plot, tip, said) {
    Object.assign(this, { frame, plot, tip, said, cursor: null, drag: null, model: null });
    frame.addEventListener('pointermove', (event) => this.point(event));
    frame.addEventListener('pointerdown', (event) => this.press(event));
    frame.addEventListener('pointerup', (event) => this.release(event));
    frame.addEventListener('pointercancel', () => this.let());
    frame.addEventListener('pointerleave', () => this.drag === null && this.let());
    new ResizeObserver(() => this.model && this.show(this.model)).observe(frame);
  }

  /// Draws a model: { from, to, step, now, strips, homes, marks, silence, summary }.
  show(model) {
    this.model = model;
    const width = Math.max(280, Math.floor(this.frame.clientWidth));
    const at = layout(model, width);
    this.at = at;
    this.x = linear([model.from, model.to], [at.left, at.right]);
    this.plot.setAttribute('viewBox', `0 0 ${width} ${at.height}`);
    this.plot.setAttribute('height', at.height);
    this.frame.setAttribute('aria-label', model.summary);
    this.over = draw('g');
    this.plot.replaceChildren(
      patterns(), ...this.homes(), ...at.strips.map((place) => this.strip(place)), this.axis(), ...this.marks(), this.over);
    this.drawCursor();
  }

  strip({ strip, caption, top, bottom }) {
    const { left, right } = this.at;
    const group = draw('g', { class: strip.kind, 'data-key': strip.key });
    const range = domain(...strip.extent);
    Object.assign(strip, { y: linear(range, [bottom, top]), range, top, bottom });
    group.append(draw('rect', { class: 'chip', x: 2, y: caption - 10, width: 10, height: 10, rx: 2 }));
    group.append(this.caption(strip, caption));
    strip.readout = draw('text', { class: 'value', x: right, y: caption });
    group.append(strip.readout, ...this.grid(strip));
    const lines = strip.kind === 'sealed' ? this.bars(strip) : this.curves(strip);
    group.append(...this.bands(strip), ...lines);
    group.append(draw('line', { class: 'base', x1: left, x2: right, y1: bottom + 0.5, y2: bottom + 0.5 }));
    return group;
  }

  caption(strip, y) {
    const room = Math.floor((this.at.width - 130) / 7.2);
    const text = draw('text', { class: 'caption', x: 18, y }, cut(strip.name, room));
    const left = room - strip.name.length - 2;
    if (left > 6) text.append(draw('tspan', { class: 'of', dx: 8, 'font-weight': 400 }, cut(strip.of, left)));
    return text;
  }

  /// Round values, each with a line. Where there is no value none is named.
  grid(strip) {
    const { left, right } = this.at;
    const values = strip.points.length > 0 ? ticks(...strip.range, strip.kind === 'sealed' ? 1 : 2) : [];
    return values.flatMap((value) => {
      const y = strip.y(value);
      // The name of the uppermost stays below the caption.
      const place = { x: left - 6, y: y + (y < strip.top + 6 ? 8 : 3.5) };
      return [draw('line', { class: 'grid', x1: left, x2: right, y1: y, y2: y }), draw('text', { class: 'tick y', ...place }, quantity(value, strip.unit))];
    });
  }

  curves(strip) {
    const path = [];
    for (const line of strip.segments) {
      const { area, curve } = outline(line, this.x, strip.y);
      if (area) path.push(draw('path', { class: 'range', d: area }));
      path.push(draw('path', { class: 'curve', d: curve }));
    }
    return path;
  }

  bars(strip) {
    const within = (x) => Math.min(Math.max(x, this.at.left), this.at.right);
    return strip.points.map((point) => {
      const [from, to] = [within(this.x(point.from)), within(this.x(point.to))];
      const y = strip.y(point.mean);
      return draw('rect', { class: 'bar', x: from, y, width: Math.max(1, to - from - 1), height: Math.max(1, strip.bottom - y) });
    });
  }

  /// Ranges without rows, over the strip they are of; a Producer that is gone, over all of them.
  bands(strip) {
    const all = this.model.silence ? [...strip.bands, this.model.silence] : strip.bands;
    return all.slice(-MAX_DRAWN).flatMap((band) => {
      const [from, to] = this.place(band);
      if (to <= from) return [];
      const place = { x: from, y: strip.top, width: to - from, height: strip.bottom - strip.top };
      const name = { gap: 'gap', missing: 'missing', dead: 'no Producer', left: 'stopped' }[band.kind];
      const drawn = [draw('rect', { class: `band ${band.kind}`, ...place })];
      if (to - from > name.length * 6) {
        const middle = { x: (from + to) / 2, y: (strip.top + strip.bottom) / 2 + 4 };
        drawn.push(draw('text', { class: `band-name ${band.kind}`, ...middle }, name));
      }
      return drawn;
    });
  }

  place(band) {
    const { left, right } = this.at;
    const within = (x) => Math.min(Math.max(x, left), right);
    if (band.to < this.model.from || band.from > this.model.to) return [0, 0];
    const [from, to] = [this.x(band.from), this.x(band.to)];
    const wider = Math.max(0, LEAST_BAND - (to - from)) / 2;
    return [within(from - wider), within(to + wider)];
  }

  /// A lane that shows the streams of infrastructure measurements, one beside the other.
  homes() {
    const { narrow } = this.at;
    return this.model.homes.slice(-MAX_DRAWN).flatMap((home) => {
      const [from, to] = this.place({ from: home.from, to: home.to });
      if (to <= from) return [];
      const drawn = [draw('rect', { class: `home ${home.even ? 'a' : 'b'}`, x: from, y: 1, width: to - from, height: LANE - 6, rx: 3 })];
      const name = narrow ? home.name : `residence ${home.name}…`;
      if (to - from > name.length * 6.5 + 16) drawn.push(draw('text', { class: 'home-name', x: from + 10, y: 13 }, name));
      return drawn;
    });
  }

  marks() {
    const { left, right, bottom } = this.at;
    return this.model.marks.slice(-MAX_DRAWN).flatMap((mark) => {
      const x = this.x(mark.time);
      if (x < left || x > right) return [];
      const sign = mark.kind === 'moved' ? `M${x} 0 l7 8 l-7 8 l-7 -8 z` : `M${x - 6} 2 h12 v12 h-12 z`;
      return [
        draw('line', { class: mark.kind, x1: x, x2: x, y1: 0, y2: bottom }),
        draw('path', { class: mark.kind === 'moved' ? 'sign' : 'sign fork', d: sign }),
      ];
    });
  }

  axis() {
    const { bottom, width } = this.at;
    const { from, to, now } = this.model;
    const offset = -new Date(to).getTimezoneOffset() * 60_000;
    const found = timeTicks(from, to, Math.max(2, Math.floor(width / 110)), offset);
    const group = draw('g');
    for (const time of found.times) {
      const x = this.x(time);
      group.append(draw('line', { class: 'base', x1: x, x2: x, y1: bottom, y2: bottom + 5 }));
      const name = found.step >= 86_400_000 ? clock(time, 60_000, now).split(' ')[0] : clock(time, found.step, now);
      // A name is not cut off at an edge; with the date it is long.
      const half = name.length * 3.1;
      if (x - half < 0 || x + half > width) continue;
      group.append(draw('text', { class: 'tick x', x, y: bottom + 18 }, name));
    }
    return group;
  }

  /// Puts the cursor at a time; null takes it away.
  moveTo(time) {
    const { from, to } = this.model ?? {};
    this.cursor = time === null ? null : Math.min(Math.max(time, from), to);
    this.drawCursor();
    this.said.cursor(this.cursor);
  }

  drawCursor() {
    const { model, at } = this;
    if (!model) return;
    this.over.replaceChildren();
    const time = this.cursor;
    for (const { strip } of at.strips) this.read(strip, time);
    this.tip.hidden = time === null;
    if (this.drag) this.over.append(this.picked());
    if (time === null) return;
    const x = this.x(time);
    this.over.append(draw('line', { class: 'cursor', x1: x, x2: x, y1: 0, y2: at.bottom }));
    this.fillTip(x, time);
  }

  /// A strip's value: at the cursor, or the latest.
  read(strip, time) {
    const point = time === null ? strip.points.at(-1) : nearest(strip.points, time, this.reach());
    strip.read = point;
    // There is room for the range only where the picture is wide.
    const value = point && (time === null || this.at.narrow) ? quantity(point.mean, strip.unit) : this.valueOf(strip);
    strip.readout.textContent = point || time !== null ? value : '';
    if (time === null || !point) return;
    const x = this.x(Math.min(Math.max(time, point.from), point.to));
    if (x >= this.at.left - 1) this.over.append(draw('circle', { class: 'dot', cx: x, cy: strip.y(point.mean), r: 3.5, fill: 'currentColor' }));
  }

  reach() {
    return Math.max(this.model.step * 2, (this.model.to - this.model.from) / 100);
  }

  fillTip(x, time) {
    const title = document.createElement('strong');
    title.textContent = clock(time, Math.min(this.model.step, 1000), this.model.now);
    const known = this.knownAt(time).map((text) => {
      const line = document.createElement('p');
      line.textContent = text;
      return line;
    });
    this.tip.replaceChildren(title, ...known);
    const { width } = this.at;
    const wide = this.tip.offsetWidth;
    this.tip.style.left = `${x + wide + 24 < width ? x + 14 : Math.max(0, x - wide - 14)}px`;
    this.tip.style.top = '-4px';
  }

  valueOf(strip) {
    const point = strip.read;
    if (!point) return 'no row';
    const spread = point.low < point.high ? ` (${quantity(point.low, strip.unit)} – ${quantity(point.high, strip.unit)})` : '';
    return quantity(point.mean, strip.unit) + spread;
  }

  /// What is known of a moment beside its values.
  knownAt(time) {
    const near = 5 * (this.model.to - this.model.from) / Math.max(1, this.at.right - this.at.left);
    const here = (band) => band.from - near <= time && time <= band.to + near;
    const found = this.model.marks.filter((mark) => Math.abs(mark.time - time) <= near).map((mark) => mark.text);
    if (this.model.silence && here(this.model.silence)) found.push(this.model.silence.text);
    for (const { strip } of this.at.strips) {
      for (const band of strip.bands) if (here(band)) found.push(`${band.point}: ${band.text}`);
    }
    return [...new Set(found)].slice(0, 4);
  }

  /// The cursor's moment for those who hear it.
  spoken() {
    if (this.cursor === null) return '';
    const values = this.at.strips.map(({ strip }) => `${strip.name} ${this.valueOf(strip)}`);
    return [clock(this.cursor, 1000, this.model.now), ...values, ...this.knownAt(this.cursor)].join('; ');
  }

  timeOf(event) {
    const box = this.frame.getBoundingClientRect();
    const { left, right } = this.at;
    const back = linear([left, right], [this.model.from, this.model.to]);
    return back(Math.min(Math.max(event.clientX - box.left, left), right));
  }

  point(event) {
    if (!this.model) return;
    if (this.drag) this.drag.to = this.timeOf(event);
    this.moveTo(this.timeOf(event));
  }

  press(event) {
    if (!this.model || event.button !== 0 || event.pointerType === 'touch') return;
    this.frame.setPointerCapture(event.pointerId);
    this.drag = { from: this.timeOf(event), to: this.timeOf(event) };
  }

  release() {
    const drag = this.drag;
    this.drag = null;
    if (!drag) return;
    const [from, to] = [Math.min(drag.from, drag.to), Math.max(drag.from, drag.to)];
    // A click is no drag.
    if (this.x(to) - this.x(from) > 6) this.said.zoom(from, to);
    else this.drawCursor();
  }

  let() {
    this.drag = null;
    this.moveTo(null);
  }

  picked() {
    const [from, to] = [this.x(this.drag.from), this.x(this.drag.to)];
    return draw('rect', { class: 'picked', x: Math.min(from, to), y: 0, width: Math.abs(to - from), height: this.at.bottom });
  }
}

/// A line's path, and the area between its least and greatest where they differ.
function outline(line, x, y) {
  const place = (at, value) => `${x(at).toFixed(1)} ${y(value).toFixed(1)}`;
  const ends = (p) => (p.to > p.from ? [p.from, p.to] : [p.from]);
  const along = (value) => line.flatMap((p) => ends(p).map((at) => place(at, value(p))));
  const means = along((p) => p.mean);
  // One point alone is seen as a dot: a line of no length has round ends.
  const curve = `M${means.join('L')}${means.length === 1 ? 'h.01' : ''}`;
  if (!line.some((p) => p.low < p.high) || means.length === 1) return { curve };
  const back = along((p) => p.low).reverse();
  return { curve, area: `M${along((p) => p.high).join('L')}L${back.join('L')}Z` };
}

/// Hatches: one for each thing that is not there, each with its own direction.
export function patterns() {
  const hatch = (id, turn, gap, width) => draw('pattern', {
    id, width: gap, height: gap, patternUnits: 'userSpaceOnUse', patternTransform: `rotate(${turn})`,
  }, draw('line', { class: id, x1: 0, x2: 0, y1: 0, y2: gap, 'stroke-width': width }));
  return draw('defs', {}, hatch('hatch-gap', 45, 6, 3), hatch('hatch-missing', -45, 9, 2), hatch('hatch-dead', 0, 5, 1.5));
}

function cut(text, room) {
  return text.length > room ? `${text.slice(0, Math.max(1, room - 1))}…` : text;
}

/// How long a strip's windows are, for its caption.
export function cadence(points) {
  const window = points.findLast((p) => p.to > p.from);
  return window ? `, windows of ${duration(window.to - window.from)}` : '';
}
