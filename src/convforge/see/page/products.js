// The arithmetic of one output number: patch × kernel = products, the sum of each input channel, the sum over channels,
// the bias, the result, and how far the model's own number is from it.

import { colourOf, css, inkOn, scaleFor } from "./colours.js";
import { segmented } from "./controls.js";
import { el, say } from "./dom.js";
import { alike, exact, plural, power, real } from "./numbers.js";
import { colour, onTheme } from "./theme.js";

const EQUATION = 4; // sums of so few channels are written out as an equation

function largest(grids) {
  let size = 0;
  for (const value of grids.flat(3)) if (Math.abs(value) > size) size = Math.abs(value);
  return size || 1;
}

/** A table of numbers on their colours. With `edit`, its cells can be typed into. */
export class NumberGrid {
  constructor(caption, { edit = null } = {}) {
    this.caption = el("caption", { text: caption });
    this.body = el("tbody");
    this.edit = edit;
    this.element = el("table", { class: edit ? "numbers editable" : "numbers" }, this.caption, this.body);
    this.shape = "";
  }

  lay(rows, columns) {
    if (this.shape === `${rows}×${columns}`) return;
    this.shape = `${rows}×${columns}`;
    this.element.classList.toggle("close", columns >= 5 && columns < 9);
    this.element.classList.toggle("closest", columns >= 9);
    this.cells = Array.from({ length: rows }, (_, i) => Array.from({ length: columns }, (_, j) => this.cell(i, j)));
    this.body.replaceChildren(...this.cells.map((line) => el("tr", {}, ...line.map((cell) => cell.box))));
  }

  /** `box` is the table's cell, `face` what shows the number: the same, or a field to type into. */
  cell(i, j) {
    const box = el("td");
    if (!this.edit) return { box, face: box };
    const face = el("input", {
      type: "text",
      inputmode: "decimal",
      autocomplete: "off",
      "aria-label": `Weight in row ${i + 1}, column ${j + 1}`,
      on: {
        change: () => this.edit(i, j, face.value),
        focus: () => face.select(),
        keydown: (event) => this.walk(event, i, j),
      },
    });
    box.append(face);
    return { box, face };
  }

  walk(event, i, j) {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], Enter: [1, 0] }[event.key];
    const target = step && this.cells[i + step[0]] && this.cells[i + step[0]][j + step[1]];
    if (!target) return;
    event.preventDefault();
    target.face.focus();
  }

  show(values, scale, write, padded = null) {
    this.lay(values.length, values[0].length);
    values.forEach((line, i) =>
      line.forEach((value, j) => {
        const { box, face } = this.cells[i][j];
        const outside = padded !== null && padded(i, j);
        const back = colourOf(scale, value);
        box.classList.toggle("padded", outside);
        box.style.backgroundColor = outside ? "" : css(back);
        face.style.color = outside ? "" : inkOn(back);
        if (!this.edit) {
          say(face, write(value));
          face.title = outside ? "padding: beyond the border of the input" : exact(value);
        } else if (document.activeElement !== face) face.value = write(value);
      }),
    );
  }
}

/**
 * Keeps tables within their container: one that is wider than it is drawn smaller, so that no column is cut off.
 *
 * `refit` is for after the numbers have changed.
 */
export class Fitted {
  constructor(container) {
    this.container = container;
    this.observer = new ResizeObserver(() => this.refit());
    this.observer.observe(container);
  }

  refit() {
    const room = this.container.clientWidth;
    const tables = [...this.container.querySelectorAll("table.numbers")];
    if (!room) return;
    for (const table of tables) table.style.zoom = "";
    const widths = tables.map((table) => table.offsetWidth);
    const style = getComputedStyle(this.container);
    const inside = room - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
    tables.forEach((table, i) => {
      if (widths[i] > inside) table.style.zoom = String(Math.max(0.3, (inside - 1) / widths[i]));
    });
  }

  close() {
    this.observer.disconnect();
  }
}

/** "channels 4 to 7 of 64 that are read": by the numbers that the channels have. */
function stretch(channels, shown, count) {
  const [from, to] = [channels[shown[0]], channels[shown[shown.length - 1]]];
  return from === to ? `channel ${from}, one of ${count} that are read` : `channels ${from} to ${to}, of ${count} that are read`;
}

/** [3, 4, 5, 9] → [[3, 3], [9, 1]]: neighbours together, as [first, how many]. */
function stretches(places) {
  const found = [];
  for (const place of [...places].sort((a, b) => a - b)) {
    const last = found[found.length - 1];
    if (last && last[0] + last[1] === place) last[1] += 1;
    else found.push([place, 1]);
  }
  return found;
}

/** Bars of signed numbers, one a channel; a click or the arrow keys choose one. */
class Bars {
  constructor(choose) {
    this.canvas = el("canvas", { class: "bars", tabindex: 0, role: "application", "aria-roledescription": "bar chart: arrow keys choose a channel" });
    this.element = el("div", { class: "bars-frame" }, this.canvas);
    this.values = [];
    this.chosen = [];
    new ResizeObserver(() => this.draw()).observe(this.element);
    this.release = onTheme(() => this.draw());
    this.canvas.addEventListener("click", (event) => {
      const box = this.canvas.getBoundingClientRect();
      const at = Math.floor(((event.clientX - box.left) / box.width) * this.values.length);
      choose(Math.min(this.values.length - 1, Math.max(0, at)));
    });
    this.canvas.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10 }[event.key];
      if (!step) return;
      event.preventDefault();
      choose(Math.min(this.values.length - 1, Math.max(0, (this.chosen[0] || 0) + step)));
    });
  }

  show(values, chosen, label) {
    this.values = values;
    this.chosen = chosen;
    this.canvas.setAttribute("aria-label", label);
    this.draw();
  }

  draw() {
    const width = this.element.clientWidth;
    if (!width || !this.values.length) return;
    const ratio = window.devicePixelRatio || 1;
    const height = 72;
    this.canvas.width = width * ratio;
    this.canvas.height = height * ratio;
    this.canvas.style.height = `${height}px`;
    const context = this.canvas.getContext("2d");
    context.scale(ratio, ratio);
    const top = Math.max(0, ...this.values);
    const bottom = Math.min(0, ...this.values);
    const span = top - bottom || 1;
    const level = (value) => 2 + ((top - value) / span) * (height - 4);
    const step = width / this.values.length;
    const gap = step > 4 ? 1 : 0;
    const scale = scaleFor(-Math.max(top, -bottom), Math.max(top, -bottom));
    this.values.forEach((value, i) => {
      context.fillStyle = css(colourOf(scale, (value < 0 ? scale.low : scale.high) * 0.66));
      const [from, to] = [level(0), level(value)];
      context.fillRect(i * step, Math.min(from, to), Math.max(1, step - gap), Math.max(1, Math.abs(to - from)));
    });
    context.fillStyle = colour("--quiet");
    context.fillRect(0, level(0) - 0.5, width, 1);
    context.strokeStyle = colour("--accent");
    context.lineWidth = 2;
    for (const [from, count] of stretches(this.chosen)) context.strokeRect(from * step, 1, Math.max(2, count * step - gap), height - 2);
  }
}

/** How many channels' grids fit side by side. */
export function gridsAtOnce([kh, kw], channels) {
  const cells = kh * kw;
  return Math.min(channels, cells === 1 ? 8 : cells <= 9 ? 4 : cells <= 25 ? 3 : cells <= 49 ? 3 : 1);
}

export class Products {
  /** `choose(position)` asks for the channel at that position of the list; `reorder(order)` for "index" or "size". */
  constructor({ choose, reorder, nameOf }) {
    this.nameOf = nameOf;
    this.lines = [];
    this.list = el("div", { class: "channels" });
    this.widest = { shape: "", width: 0 };
    this.fits = [];
    this.bars = new Bars(choose);
    this.choose = choose;
    this.range = el("span", { class: "quiet" });
    this.before = el("button", { type: "button", text: "‹", "aria-label": "Channels before these", on: { click: () => choose(Math.max(0, this.shown[0] - this.step)) } });
    this.after = el("button", { type: "button", text: "›", "aria-label": "Channels after these", on: { click: () => choose(this.shown[0] + this.step) } });
    this.order = segmented({ label: "Order", options: [["index", "As they come"], ["size", "Largest sum first"]], change: reorder });
    this.pager = el("div", { class: "row pager" }, this.before, this.range, this.after, this.order.element);
    this.barsTitle = el("p", { class: "small quiet" });
    this.many = el("div", { class: "many" }, this.pager, this.barsTitle, this.bars.element);
    this.equation = el("dl", { class: "result" });
    this.element = el("div", { class: "products" }, this.list, this.many, this.equation);
    this.shown = [0];
    this.step = 1;
  }

  line(i) {
    if (!this.lines[i]) {
      const title = el("h3");
      const grids = ["patch", "kernel", "products"].map((word) => new NumberGrid(word));
      const sum = el("output");
      const [a, b, c] = grids.map((grid) => grid.element);
      const sign = (text) => el("span", { class: "sign", text });
      const equation = el("div", { class: "equation" }, a, sign("×"), b, sign("="), c);
      this.fits[i] = new Fitted(equation);
      const heading = el("div", { class: "heading" }, title, el("p", { class: "sum" }, el("span", { class: "quiet", text: "sum " }), sum));
      this.lines[i] = { title, grids, sum, element: el("section", { class: "channel" }, heading, equation) };
    }
    return this.lines[i];
  }

  /** `unit` is the server's answer; `shown` the positions, within its list of input channels, that patch, kernel and
   * products are of; `order` how they were chosen. */
  show(unit, shown, order) {
    const channels = unit.inputs.channels;
    const kernelScale = scaleFor(-largest(unit.kernel), largest(unit.kernel));
    const patchScale = scaleFor(-largest(unit.patch), largest(unit.patch));
    const productScale = scaleFor(-largest(unit.products), largest(unit.products));
    const writers = [unit.patch, unit.kernel, unit.products].map((grids) => alike(grids.flat(2)));
    const sum = alike([...unit.sums, unit.bias, unit.total], 3);
    const padded = (i, j) => this.isPadding(unit, i, j);
    this.shown = shown;
    this.step = gridsAtOnce([unit.kernel[0].length, unit.kernel[0][0].length], channels.length);
    const parts = shown.map((position, i) => {
      const line = this.line(i);
      say(line.title, this.nameOf(channels[position]));
      line.grids[0].show(unit.patch[i], patchScale, writers[0], padded);
      line.grids[1].show(unit.kernel[i], kernelScale, writers[1]);
      line.grids[2].show(unit.products[i], productScale, writers[2]);
      say(line.sum, sum(unit.sums[position]));
      line.sum.title = exact(unit.sums[position]);
      return line.element;
    });
    const present = [...this.list.children];
    if (parts.length !== present.length || parts.some((part, i) => part !== present[i])) this.list.replaceChildren(...parts);
    this.widen(unit.kernel[0], parts.length);
    this.showMany(unit, shown, order);
    this.showResult(unit, sum);
  }

  /** Cards as wide as the widest that this kernel has needed: nothing is cut off, and nothing jumps as numbers change. */
  widen(kernel, count) {
    const shape = `${kernel.length}×${kernel[0].length}`;
    if (this.widest.shape !== shape) this.widest = { shape, width: 0 };
    for (let i = 0; i < count; i += 1) {
      const equation = this.lines[i].element.lastElementChild;
      const gap = parseFloat(getComputedStyle(equation).columnGap) || 0;
      for (const table of equation.querySelectorAll("table.numbers")) table.style.zoom = "";
      const parts = [...equation.children].map((part) => part.offsetWidth + gap);
      this.widest.width = Math.max(this.widest.width, Math.ceil(parts.reduce((sum, part) => sum + part, 0) - gap + 36));
    }
    this.list.style.setProperty("--equation", `${Math.max(200, this.widest.width)}px`);
    for (const one of this.fits.slice(0, count)) one.refit();
  }

  isPadding(unit, i, j) {
    const sources = unit.inputs.sources;
    if (sources) return sources.rows[i] === null || sources.columns[j] === null;
    const [height, width] = unit.size;
    const [row, column] = [unit.inputs.rows[i], unit.inputs.columns[j]];
    return row < 0 || column < 0 || row >= height || column >= width;
  }

  showMany(unit, shown, order) {
    const count = unit.sums.length;
    this.many.hidden = count <= shown.length;
    if (this.many.hidden) return;
    this.order.set(order);
    const first = shown[0];
    const ranked = order === "size";
    say(this.range, ranked ? `${plural(shown.length, "channel")} of ${count}` : stretch(unit.inputs.channels, shown, count));
    this.before.disabled = ranked || first === 0;
    this.after.disabled = ranked || first + shown.length >= count;
    say(this.barsTitle, `The sums of all ${count} input channels; a click shows one`);
    const top = unit.sums.map((value, i) => [Math.abs(value), i]).sort((a, b) => b[0] - a[0]).slice(0, 3);
    const words = top.map(([, i]) => `${this.nameOf(unit.inputs.channels[i])}: ${real(unit.sums[i])}`).join(", ");
    this.bars.show(unit.sums, shown, `Sums of ${count} channels. Largest: ${words}`);
  }

  showResult(unit, write) {
    const entries = [];
    const count = unit.sums.length;
    const sums = unit.sums.reduce((a, b) => a + b, 0);
    if (count > 1 && count <= EQUATION) {
      const text = unit.sums.map((value, i) => (i ? (value < 0 ? ` − ${write(-value)}` : ` + ${write(value)}`) : write(value))).join("");
      entries.push([`sum over ${count} channels`, `${text} = ${write(sums)}`]);
    } else if (count > 1) entries.push([`sum over ${plural(count, "channel")}`, write(sums)]);
    entries.push(["+ bias", write(unit.bias)], ["= result", write(unit.total), "total"]);
    if (unit.model !== null && unit.model !== undefined) {
      entries.push(["the model computed", write(unit.model), "model"]);
      const relative = Math.abs(unit.difference) / Math.max(unit.magnitude || Math.abs(unit.total), 1e-30);
      entries.push(["difference", `${power(unit.difference)}`, "difference", `(${power(relative, 1)} of the sizes of the products)`]);
    } else if (unit.model === null) {
      entries.push(["the model computed", "nothing to compare with: you changed the layer", "none"]);
    }
    this.equation.replaceChildren(
      ...entries.map(([term, value, kind, note]) =>
        el("div", { class: kind }, el("dt", { text: term }), el("dd", {}, el("span", { class: "value", text: value, title: kind === "total" ? exact(unit.total) : kind === "model" ? exact(unit.model) : null }), note && el("small", { class: "quiet", text: ` ${note}` }))),
      ),
    );
  }

  close() {
    for (const one of this.fits) one.close();
    this.bars.release();
  }
}
