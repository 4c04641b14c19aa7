// The stand-alone slide: a small image, a kernel that can be typed into, and everything computed in the page.

import { change, wholeNumber } from "../address.js";
import { formula, outputShape, positions, slide, unit } from "../arithmetic.js";
import { Board, bitmap, legend, partOfWindow } from "../canvas.js";
import { IMAGES, KERNELS, PRESETS } from "../classics.js";
import { scaleFor, scaleOf } from "../colours.js";
import { button, segmented, stepper } from "../controls.js";
import { announce, el, freshId, say } from "../dom.js";
import { alike, exact, plural } from "../numbers.js";
import { Fitted, NumberGrid, Products } from "../products.js";
import { onTheme } from "../theme.js";
import { Transport } from "../transport.js";

const BRIGHTEST = 9;
const LARGEST_KERNEL = 7;
const LARGEST_SIDE = 24;
const LONGEST_CHAIN = 4; // convolutions, one after the other
const COLOURS = ["red", "green", "blue"];

/** "1,0,-1,2" → numbers, if they make a square kernel of a reasonable size; else null. */
function readWeights(text) {
  if (!text) return null;
  const numbers = text.split(",").map(Number);
  const side = Math.round(Math.sqrt(numbers.length));
  if (side < 1 || side > LARGEST_KERNEL || side * side !== numbers.length || !numbers.every(Number.isFinite)) return null;
  return Array.from({ length: side }, (_, i) => numbers.slice(i * side, (i + 1) * side));
}

/** "0123…" → channels of square images of digits; null where it makes none. */
function readPixels(text, channels) {
  if (!text || !/^\d+$/.test(text) || text.length % channels) return null;
  const area = text.length / channels;
  const side = Math.round(Math.sqrt(area));
  if (side * side !== area || side > LARGEST_SIDE) return null;
  return Array.from({ length: channels }, (_, c) => Float32Array.from(text.slice(c * area, (c + 1) * area), Number));
}

/** What the address says, completed by its preset. */
function settings(values) {
  const preset = PRESETS[values.preset] || PRESETS["lesson-stride-1"];
  const input = values.input in IMAGES ? values.input : preset.input;
  const plain = IMAGES[input].channels;
  const pixels = readPixels(values.pixels, plain.length) || plain.map((grid) => Float32Array.from(grid.flat()));
  const name = values.kernel in KERNELS ? values.kernel : preset.kernel;
  const typed = values.kernel === "own" ? readWeights(values.weights) : null;
  return {
    preset: values.preset in PRESETS ? values.preset : "lesson-stride-1",
    input,
    pixels,
    side: Math.round(Math.sqrt(pixels[0].length)),
    kernel: typed ? "own" : name,
    weights: typed || KERNELS[name].weights,
    stride: wholeNumber(values.stride, preset.stride, 1, 9),
    padding: wholeNumber(values.padding, preset.padding, 0, 9),
    dilation: wholeNumber(values.dilation, preset.dilation, 1, 9),
    groups: plain.length === 3 ? (wholeNumber(values.groups, preset.groups, 1, 3) === 3 ? 3 : 1) : 1,
    again: wholeNumber(values.again, 0, 0, 9),
    row: wholeNumber(values.row, 0),
    column: wholeNumber(values.column, 0),
    channel: wholeNumber(values.channel, 0, 0, plain.length - 1),
  };
}

/** The rows of a small map as text, for those who cannot see it. */
function inWords(values, columns, write) {
  const lines = [];
  for (let i = 0; i < values.length; i += columns) lines.push(Array.from(values.subarray(i, i + columns), write).join(" "));
  return lines.length <= 13 ? lines.map((line, i) => `row ${i}: ${line}`).join("; ") : "";
}

export function openPlay(root, { values }) {
  let now = null;
  let preview = null;
  let playing = false;
  let pen = BRIGHTEST;
  let pencil = [0, 0];

  const chooser = (label, entries, choose) => {
    const select = el("select", { id: freshId("choice"), on: { change: () => choose(select.value) } });
    for (const [name, { title }] of Object.entries(entries)) select.append(el("option", { value: name, text: title }));
    return { select, element: el("div", { class: "field" }, el("label", { for: select.id, text: label }), select) };
  };
  const clear = { input: null, kernel: null, weights: null, pixels: null, stride: null, padding: null, dilation: null, groups: null, again: null, row: null, column: null, channel: null };
  const presets = chooser("Example", PRESETS, (preset) => change({ ...clear, preset }, true));
  const images = chooser("Input", IMAGES, (input) => change({ input, pixels: null, again: null, groups: null, channel: null, row: 0, column: 0 }, true));
  const kernels = chooser("Kernel", { ...KERNELS, own: { title: "Your own" } }, (kernel) => {
    if (kernel === "own") setWeights(now.weights);
    else change({ kernel, weights: null }, true);
  });
  const numbers = Object.fromEntries(
    [
      ["stride", "Stride", "How many pixels the kernel moves between two outputs"],
      ["padding", "Padding", "Zeros that are put around the input"],
      ["dilation", "Dilation", "Distance between two neighbouring weights of the kernel; 1 means no gaps"],
      ["groups", "Groups", "Into how many independent parts the channels are split"],
    ].map(([name, label, help]) => [name, stepper({ label, help, change: (value) => change({ [name]: value }, true) })]),
  );
  const size = stepper({ label: "Kernel size", help: "Rows and columns of the kernel", change: resize });
  const channel = segmented({ label: "Output channel", options: COLOURS.map((_, i) => [String(i), String(i)]), change: (value) => change({ channel: value }, true) });

  const input = new Board({ label: "Input", tallest: partOfWindow, choose: paintAt, hover: null, key: typed });
  const output = new Board({ label: "Output", tallest: partOfWindow, choose: (row, column) => choose(row, column), hover: hover });
  output.canvas.addEventListener("pointerleave", () => hover(null));
  const grid = new NumberGrid("", { edit: weightTyped });
  const frame = el("div", { class: "kernel-frame" }, grid.element);
  const fitted = new Fitted(frame);
  const transport = new Transport({
    move: (position) => choose(Math.floor(position / shapeOut()[1]), position % shapeOut()[1]),
    playing: (on) => {
      playing = on;
      mark();
    },
  });
  const products = new Products({ choose: () => {}, reorder: () => {}, nameOf: (c) => (now.pixels.length === 3 ? `Input channel ${c}, ${COLOURS[c]}` : "The one input channel") });
  const says = el("p", { class: "says" });
  const kernelSays = el("p", { class: "small quiet" });
  const formulas = el("p", { class: "formula" });
  const outputLegend = el("div", { class: "legend" });
  const inputTitle = el("h2");
  const outputTitle = el("h2");
  const productsTitle = el("h2");
  const failed = el("p", { class: "notice", role: "status" });
  const pens = stepper({ label: "Pen", help: "The brightness that a click on the input paints", change: (value) => ((pen = value), pens.set(pen, { low: 0, high: BRIGHTEST })) });
  pens.set(pen, { low: 0, high: BRIGHTEST });
  const again = button("Feed the output in again", () => change({ again: now.again + 1, row: 0, column: 0 }, true));
  const back = button("Back to the first input", () => change({ again: null, row: 0, column: 0 }, true));
  const boards = el(
    "div",
    { class: "boards" },
    el("section", { class: "card" }, el("header", {}, inputTitle), input.element, el("footer", {}, pens.element, el("p", { class: "small quiet", text: "Click or drag to paint; with the keyboard, arrow keys and digits." }))),
    el("section", { class: "card middle" }, el("header", {}, el("h2", { text: "Kernel" })), el("div", { class: "row" }, kernels.element, size.element), frame, kernelSays),
    el("section", { class: "card" }, el("header", {}, outputTitle), output.element, outputLegend, el("footer", {}, channel.element, again, back)),
  );
  const chains = el("div", { class: "chains" });
  const chain = el("section", { class: "card chain", "aria-label": "The same kernel again and again" }, el("header", {}, el("h2", { text: "The same kernel, again and again" })), chains);
  const results = el("div", { class: "results" }, transport.element, el("section", { class: "arithmetic" }, productsTitle, products.element));
  root.append(
    el("header", { class: "intro" }, el("h1", { text: "Play" }), says),
    el("div", { class: "row controls" }, presets.element, images.element, ...["stride", "padding", "dilation", "groups"].map((name) => numbers[name].element)),
    el("div", { class: "formulas" }, formulas),
    failed,
    boards,
    chain,
    results,
  );
  const release = onTheme(() => show());
  let computed = null;

  function shapeOut() {
    return computed.shape;
  }

  function setWeights(weights) {
    change({ kernel: "own", weights: weights.flat().map((value) => Number(value.toPrecision(6))).join(",") }, true);
  }

  function weightTyped(i, j, text) {
    const value = Number(text.replace("−", "-").replace(",", ".").trim());
    const weights = now.weights.map((line) => [...line]);
    if (text.trim() !== "" && Number.isFinite(value)) weights[i][j] = value;
    setWeights(weights);
  }

  /** The kernel's middle stays where it is; what is new around it is zero. */
  function resize(side) {
    const old = now.weights;
    const offset = Math.floor(old.length / 2) - Math.floor(side / 2);
    setWeights(Array.from({ length: side }, (_, i) => Array.from({ length: side }, (_, j) => old[i + offset]?.[j + offset] ?? 0)));
  }

  function setPixel(row, column, value) {
    const channels = now.first.map((grid) => Float32Array.from(grid));
    const target = channels.length === 3 ? now.channel : 0;
    if (channels[target][row * now.firstSide + column] === value) return;
    channels[target][row * now.firstSide + column] = value;
    change({ pixels: channels.map((grid) => Array.from(grid).join("")).join(""), input: now.input });
  }

  function paintAt(row, column, event) {
    pencil = [row, column];
    if (event instanceof PointerEvent && now.again === 0) setPixel(row, column, pen);
    mark();
    if (!(event instanceof PointerEvent)) announce(`Input row ${row}, column ${column}: ${now.plane[row * now.side + column]}`);
  }

  function typed(event) {
    if (!/^\d$/.test(event.key) || now.again > 0 || event.ctrlKey || event.metaKey || event.altKey) return false;
    setPixel(pencil[0], pencil[1], Number(event.key));
    return true;
  }

  function choose(row, column) {
    preview = null;
    change({ row, column });
  }

  function hover(row, column) {
    preview = row === null || playing ? null : [row, column];
    mark();
  }

  /** Everything that follows from the address, computed anew: a few thousand products. */
  function compute() {
    const { weights } = now;
    const side = weights.length;
    const flat = Float32Array.from(weights.flat());
    const channels = now.pixels.length;
    const spec = {
      kernel: [side, side],
      stride: [now.stride, now.stride],
      padding: [[now.padding, now.padding], [now.padding, now.padding]],
      dilation: [now.dilation, now.dilation],
      groups: now.groups,
    };
    const all = Array.from({ length: channels }, (_, c) => c);
    const reads = (k) => (now.groups === 1 ? all : [k]);
    const weightsOf = (k) => Float32Array.from(reads(k).flatMap(() => Array.from(flat)));
    now.first = now.pixels;
    now.firstSide = now.side;
    let planes = now.pixels;
    let height = now.side;
    const maps = (k, planes, height) => slide({ channel: (c) => planes[c], size: [height, height], channels: reads(k), weights: weightsOf(k), bias: 0, spec });
    let times = 0;
    while (times < now.again && outputShape(spec, [height, height])[0] >= 1) {
      const before = planes;
      const size = height;
      planes = all.map((k) => maps(k, before, size));
      height = outputShape(spec, [height, height])[0];
      times += 1;
    }
    now.again = times;
    now.side = height;
    now.planes = planes;
    now.plane = planes[reads(now.channel)[0]];
    const shape = outputShape(spec, [height, height]);
    computed = { spec, shape, reads, weightsOf, fits: shape[0] >= 1 };
    if (computed.fits) computed.map = maps(now.channel, planes, height);
  }

  /** What the kernel makes of the input, of that, and so on, with this padding; `ends` says why there is no more. */
  function stagesWith(padding) {
    const { kernel } = computed.spec;
    const spec = { ...computed.spec, padding: [[padding, padding], [padding, padding]] };
    const span = now.dilation * (kernel[0] - 1) + 1;
    const all = now.first.map((_, c) => c);
    const stages = [{ side: now.firstSide, planes: now.first }];
    while (stages.length <= LONGEST_CHAIN) {
      const { side, planes } = stages[stages.length - 1];
      const [out] = outputShape(spec, [side, side]);
      if (out < 1) return { padding, stages, ends: `${side}×${side} is left; the kernel spans ${span} and does not fit into ${side + 2 * padding}×${side + 2 * padding}.` };
      const made = all.map((k) => slide({ channel: (c) => planes[c], size: [side, side], channels: computed.reads(k), weights: computed.weightsOf(k), bias: 0, spec }));
      stages.push({ side: out, planes: made });
    }
    const sides = stages.map(({ side }) => side);
    return { padding, stages, ends: sides.every((side) => side === sides[0]) ? "and so on: the size stays." : "and so on." };
  }

  /** Without padding, and with as much as the reader chose, or as keeps the size. */
  function showChains() {
    const same = Math.floor((now.dilation * (computed.spec.kernel[0] - 1)) / 2);
    const paddings = [...new Set([0, now.padding || same])];
    chains.replaceChildren(...paddings.map((padding) => chainLine(stagesWith(padding))));
  }

  function chainLine({ padding, stages, ends }) {
    const sizes = stages.map(({ side }) => `${side}×${side}`);
    const title = el("h3", { text: `${padding ? `With padding ${padding}` : "Without padding"}: ${sizes.join(" → ")}` });
    const parts = stages.flatMap(({ side, planes }, i) => {
      const plane = planes[planes.length === 3 ? computed.reads(now.channel)[0] : 0];
      const scale = i ? scaleOf(plane) : scaleFor(0, BRIGHTEST);
      const canvas = bitmap(plane, side, side, scale);
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", `${side} by ${side}. ${inWords(plane, side, alike(plane))}`);
      canvas.style.width = `${Math.min(104, Math.max(22, side * 12))}px`;
      const here = padding === now.padding && i === now.again;
      const words = i ? `after ${plural(i, "convolution")}` : "the input";
      const step = el("button", { type: "button", class: "link-step", "aria-pressed": String(here), title: words, on: { click: () => change({ padding, again: i || null, row: 0, column: 0 }, true) } }, canvas, el("span", { text: `${side}×${side}` }));
      return i ? [el("span", { class: "sign", text: "→", "aria-hidden": true }), step] : [step];
    });
    return el("div", { class: "chain-line" }, title, el("div", { class: "links-of" }, ...parts, el("span", { class: "ends", text: ends })));
  }

  function show() {
    if (!now) return;
    const colour = now.planes.length === 3;
    presets.select.value = now.preset;
    images.select.value = now.input;
    kernels.select.value = now.kernel;
    for (const name of ["stride", "padding", "dilation"]) numbers[name].set(now[name], { low: name === "padding" ? 0 : 1, high: 9 });
    numbers.groups.set(now.groups, { low: 1, high: colour ? 3 : 1, choices: colour ? [1, 3] : [1] });
    size.set(now.weights.length, { low: 1, high: LARGEST_KERNEL });
    channel.element.hidden = !colour;
    channel.set(String(now.channel));
    say(says, PRESETS[now.preset].says);
    say(kernelSays, now.kernel === "own" ? "Your own weights: type into the cells." : KERNELS[now.kernel].says);
    const flat = now.weights.flat();
    const reach = Math.max(...flat.map(Math.abs), 1e-9);
    grid.show(now.weights, scaleFor(-reach, reach), alike(flat));
    fitted.refit();
    const { spec } = computed;
    say(formulas, `Output size: ${formula(now.side, spec.kernel[0], now.stride, spec.padding[0], now.dilation)}`);
    showChains();
    failed.hidden = computed.fits;
    results.hidden = !computed.fits;
    output.element.hidden = !computed.fits;
    outputLegend.hidden = !computed.fits;
    again.disabled = !computed.fits;
    back.hidden = now.again === 0;
    const side = computed.shape[0];
    const counted = now.again ? `, after ${plural(now.again, "convolution")}` : "";
    say(inputTitle, `Input, ${now.side}×${now.side}${colour ? ` · channel ${computed.reads(now.channel)[0]}` : ""}${counted}`);
    say(outputTitle, computed.fits ? `Output, ${side}×${side}` : `No output: ${now.side}×${now.side} is left`);
    if (!computed.fits) say(failed, `${now.again ? `After ${plural(now.again, "convolution")} ${now.side}×${now.side} is left. ` : ""}The kernel spans ${now.dilation * (spec.kernel[0] - 1) + 1} pixels and does not fit into ${now.side + 2 * now.padding}: more padding, a smaller kernel or less dilation makes room.`);
    else {
      computed.scale = scaleOf(computed.map);
      legend(outputLegend, computed.scale, alike(computed.map));
    }
    mark();
  }

  function mark() {
    if (!now) return;
    const { spec, shape, fits } = computed;
    const inputScale = now.again ? scaleOf(now.plane) : scaleFor(0, BRIGHTEST);
    const writeInput = alike(now.plane);
    const at = fits ? preview || [Math.min(now.row, shape[0] - 1), Math.min(now.column, shape[1] - 1)] : null;
    input.show({
      rows: now.side,
      columns: now.side,
      picture: bitmap(now.plane, now.side, now.side, inputScale),
      values: now.plane,
      scale: inputScale,
      write: writeInput,
      pad: spec.padding,
      marks: at ? [{ rows: positions(spec, 0, at[0]), columns: positions(spec, 1, at[1]) }] : [],
      cursor: document.activeElement === input.canvas ? pencil : null,
    });
    input.describe(`Input, ${now.side} by ${now.side}. ${inWords(now.plane, now.side, writeInput)}. Arrow keys move, digits write.`);
    if (!fits) return;
    const [row, column] = at;
    const writeOutput = alike(computed.map);
    output.show({
      rows: shape[0],
      columns: shape[1],
      picture: bitmap(computed.map, shape[0], shape[1], computed.scale),
      values: computed.map,
      scale: computed.scale,
      write: writeOutput,
      cursor: at,
      upTo: playing ? row * shape[1] + column + 1 : null,
    });
    const answer = unit({
      channel: (c) => now.planes[c],
      size: [now.side, now.side],
      channels: computed.reads(now.channel),
      weights: computed.weightsOf(now.channel),
      bias: 0,
      spec,
      row,
      column,
    });
    products.show({ ...answer, size: [now.side, now.side] }, answer.sums.map((_, i) => i), "index");
    say(productsTitle, `The products behind output row ${row}, column ${column}`);
    transport.set(row * shape[1] + column, shape[0] * shape[1], `row ${row}, column ${column}`);
    output.describe(`Output, ${shape[0]} by ${shape[1]}. Row ${row}, column ${column} is ${writeOutput(answer.total)}. ${inWords(computed.map, shape[1], writeOutput)}`);
    if (!playing && !preview) announce(`Row ${row}, column ${column}: ${exact(answer.total)}`);
  }

  input.canvas.addEventListener("focus", mark);
  input.canvas.addEventListener("blur", mark);

  function update(values) {
    now = settings(values);
    compute();
    show();
  }

  update(values);
  return {
    update,
    close() {
      transport.stop();
      input.close();
      output.close();
      products.close();
      fitted.close();
      release();
    },
  };
}
