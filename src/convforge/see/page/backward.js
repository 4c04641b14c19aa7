// The other direction: for one image and its loss, the products behind the gradient of one weight, their sum beside
// autograd's, and what one step of learning changes.

import { has, json, numbers } from "./api.js";
import { Board, bitmap, legend, partOfWindow } from "./canvas.js";
import { scaleFor } from "./colours.js";
import { segmented, stepper } from "./controls.js";
import { announce, el, problem, say } from "./dom.js";
import { alike, exact, plural, power, probability, real } from "./numbers.js";
import { Fitted, NumberGrid } from "./products.js";

const RATES = ["0.001", "0.01", "0.1"];
const USUAL = "0.001"; // a step that is too long leads away from where the gradient points

function reach(values) {
  let largest = 1e-30;
  for (const value of values) if (Math.abs(value) > largest) largest = Math.abs(value);
  return largest;
}

export class Backward {
  /** `change(values)` puts what the reader chooses into the address: read, wrow, wcolumn, rate. */
  constructor(change) {
    this.change = change;
    this.title = el("h2");
    this.says = el("p", { class: "says" });
    this.read = stepper({ label: "Input channel", help: "Which input channel the kernel's weights are for", change: (read) => change({ read, wrow: null, wcolumn: null }) });
    this.rate = segmented({ label: "Step", options: RATES.map((rate) => [rate, rate, "The learning rate: the gradient is taken so many times from the weights"]), change: (rate) => change({ rate }) });
    this.gradient = new Board({ label: "Gradient of the kernel", choose: (wrow, wcolumn) => change({ wrow, wcolumn }), tallest: 190, largestCell: 64 });
    this.tables = ["kernel", "after one step"].map((caption) => new NumberGrid(caption));
    this.tablesBox = el("div", { class: "tables" }, ...this.tables.map((table) => table.element));
    this.fitted = new Fitted(this.tablesBox);
    const boards = [["met", "What the weight met"], ["incoming", "× what came back"], ["products", "= products"]];
    this.boards = Object.fromEntries(boards.map(([name, title]) => [name, { title: el("h2", { text: title }), board: new Board({ label: title, tallest: partOfWindow }), key: el("div", { class: "legend" }) }]));
    this.sum = el("dl", { class: "result" });
    this.largest = el("p", { class: "small quiet" });
    this.after = el("tbody");
    this.status = el("div");
    this.ofClass = el("th", { scope: "col", class: "number" });
    const table = el("table", { class: "layer-table learning" }, el("thead", {}, el("tr", {}, el("td"), el("th", { scope: "col", class: "number", text: "loss" }), this.ofClass)), this.after);
    this.content = el(
      "div",
      { class: "stack" },
      el("div", { class: "boards" }, ...Object.values(this.boards).map(({ title, board, key }) => el("section", { class: "card" }, el("header", {}, title), board.element, key))),
      this.sum,
      this.largest,
      el(
        "div",
        { class: "pairs" },
        el("section", { class: "card" }, el("header", {}, el("h2", { text: "Gradient of the kernel: choose a weight" }), this.read.element), this.gradient.element, this.tablesBox),
        el("section", { class: "card" }, el("header", {}, el("h2", { text: "What one step of learning changes" }), this.rate.element), table, el("p", { class: "small quiet", text: "The gradient of this one image, times the step, is taken from the weights. Batch norms keep their statistics." })),
      ),
    );
    this.content.hidden = true; // until there are numbers
    this.element = el("section", { class: "arithmetic backward" }, this.title, this.says, this.status, this.content);
  }

  /** Where the reader is: {layer, image, channel, of, read, row, column, rate}; undefined where nothing was chosen. */
  async show(place, signal) {
    const where = `/api/layers/${place.layer.index}/backward`;
    const rate = RATES.includes(place.rate) ? place.rate : USUAL;
    const asked = { image: place.image, channel: place.channel, of: place.of, read: place.read, row: place.row, column: place.column };
    try {
      if (!has(`${where}/loss`, { image: place.image, of: place.of })) {
        throw new Error(`What the loss of this image sends back to layer ${place.layer.name} is not in this file: “convforge see”, with the model and the image, shows it.`);
      }
      const [found, values, step] = await Promise.all([
        json(where, asked, signal),
        numbers(`${where}/values`, asked, signal),
        json(`${where}/step`, { image: place.image, of: place.of, rate }, signal),
      ]);
      if (signal.aborted) return;
      this.status.replaceChildren();
      this.content.hidden = false;
      this.write(place, found, values, step, rate);
    } catch (error) {
      if (error.name === "AbortError" || signal.aborted) return;
      this.content.hidden = true;
      this.status.replaceChildren(problem(error));
    }
  }

  write(place, found, { values }, step, rate) {
    const { name, class: number } = found.of;
    const [rows, columns] = found.shape;
    const area = rows * columns;
    say(this.title, `Where the gradient of weight ${found.row}, ${found.column} comes from: kernel ${place.channel}, input channel ${found.input}`);
    say(this.says, `The loss of this image is −log of the probability of ${name}: −log ${found.probability.toPrecision(3)} = ${real(found.loss)}. It is followed back to this layer's output; at every position the weight met a number of the input, and their products add up to its gradient.`);
    Object.values(this.boards).forEach(({ board, key }, i) => {
      const plane = values.subarray(i * area, (i + 1) * area);
      const largest = reach(plane);
      const scale = scaleFor(-largest, largest);
      const write = alike(plane);
      board.show({ rows, columns, picture: bitmap(plane, rows, columns, scale), values: plane, scale, write, marks: [] });
      board.describe(`${["What the weight met", "The gradient that came back", "Their products"][i]}, ${rows} by ${columns}, up to ${real(largest)} in size.`);
      legend(key, scale, write);
    });
    const relative = Math.abs(found.difference) / Math.max(found.magnitude, 1e-30);
    const lines = [
      [`sum of ${plural(area, "product")}`, real(found.total, 7), "total", exact(found.total)],
      ["autograd computed", real(found.autograd, 7), "model", exact(found.autograd)],
      ["difference", power(found.difference), "difference", String(found.difference), `(${power(relative, 1)} of the sizes of the products)`],
    ];
    this.sum.replaceChildren(...lines.map(([term, text, kind, title, note]) => el("div", { class: kind }, el("dt", { text: term }), el("dd", {}, el("span", { class: "value", text, title }), note && el("small", { class: "quiet", text: ` ${note}` })))));
    const parts = found.largest.filter(({ product }) => product !== 0).map(({ row, column, met, incoming, product }) => `${real(met, 3)} × ${real(incoming, 3)} = ${real(product, 3)} at row ${row}, column ${column}`);
    say(this.largest, parts.length ? `The largest: ${parts.join("; ")}.` : "All products are zero: nothing came back here, or the weight met nothing.");
    this.showKernel(found, Number(rate));
    this.rate.set(rate);
    this.read.set(found.read, { low: 0, high: found.inputs - 1, of: found.inputs - 1 });
    say(this.ofClass, `probability of ${name}`);
    const digits = (value) => real(value, 5);
    const entries = [["now", step.before], [`after a step of ${rate} in this layer alone`, step.layer], [`after a step of ${rate} in the whole network`, step.network]];
    this.after.replaceChildren(
      ...entries.map(([words, one]) => el("tr", {}, el("th", { scope: "row", text: words }), el("td", { class: "number", text: digits(one.loss), title: exact(one.loss) }), el("td", { class: "number", text: probability(one.probability) }))),
    );
    announce(`Weight ${found.row}, ${found.column}: gradient ${exact(found.total)}, autograd ${exact(found.autograd)}, for class ${number}.`);
  }

  showKernel(found, rate) {
    const flat = Float32Array.from(found.gradient.flat());
    const [height, width] = [found.gradient.length, found.gradient[0].length];
    const scale = scaleFor(-reach(flat), reach(flat));
    const write = alike(flat);
    this.gradient.show({ rows: height, columns: width, picture: bitmap(flat, height, width, scale), values: flat, scale, write, cursor: [found.row, found.column] });
    this.gradient.describe(`Gradient of ${height} by ${width} weights. Row ${found.row}, column ${found.column}: ${real(found.autograd)}.`);
    const after = found.kernel.map((line, i) => line.map((value, j) => value - rate * found.gradient[i][j]));
    const all = [...found.kernel.flat(), ...after.flat()];
    const kernelScale = scaleFor(-reach(all), reach(all));
    const writeKernel = alike(all, 1);
    [found.kernel, after].forEach((values, i) => this.tables[i].show(values, kernelScale, writeKernel));
    this.fitted.refit();
  }

  close() {
    for (const { board } of Object.values(this.boards)) board.close();
    this.gradient.close();
    this.fitted.close();
  }
}
