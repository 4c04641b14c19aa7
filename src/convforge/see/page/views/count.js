// Parameter sharing as a picture: the same few weights at every position, beside a dense layer that has one for each
// pair of numbers; and what that means for a layer of this network.

import { change, complete, wholeNumber } from "../address.js";
import { Board } from "../canvas.js";
import { layerSelect } from "../controls.js";
import { announce, el, say } from "../dom.js";
import { pair, plural, real, whole } from "../numbers.js";
import { colour, onTheme } from "../theme.js";

const SIDE = 6; // a small input, so that every connection can be drawn
const KERNEL = 3;
const OUT = SIDE - KERNEL + 1;
const SVG = "http://www.w3.org/2000/svg";
const LARGEST_SQUARE = 200;
const LESSON = { image: [3, 224, 224], neurons: 1000, kernels: 64, kernel: 3 };

/** Nine colours that can be told apart, one a weight. */
const weightColour = (index) => `oklch(0.68 0.15 ${(index * 40 + 20) % 360})`;
/** A dense layer's weights: every connection another. */
const denseColour = (index) => `oklch(${0.5 + ((index * 7) % 11) / 28} 0.13 ${(index * 137.5) % 360})`;

function svg(name, attributes, ...children) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, String(value));
  node.append(...children);
  return node;
}

export function openCount(root, { network, values }) {
  const countable = network.layers.filter((layer) => layer.dense);
  let now = null;

  const layers = countable.length ? layerSelect({ layers: countable, change: (layer) => change({ layer }, true) }) : null;
  const shared = figure(false);
  const dense = figure(true);
  const outputs = OUT * OUT;
  const card = (title, says, one) => el("section", { class: "card sharing" }, el("header", {}, el("h2", { text: title })), el("p", { class: "small quiet says", text: says }), one.drawing, el("p", { class: "small quiet", text: one.caption }), one.board.element);
  const sentence = el("p", { class: "reading" });
  const calculation = el("dl", { class: "calculation" });
  const squares = el("div", { class: "squares" });
  root.append(
    el("header", { class: "intro" }, el("h1", { text: "Count" }), el("p", { class: "says", text: "A convolution uses the same weights everywhere; a fully connected (dense) layer has one for each pair of numbers." })),
    el(
      "div",
      { class: "pairs" },
      card(`Convolution: ${KERNEL * KERNEL} weights`, `${KERNEL}×${KERNEL} weights make ${OUT}×${OUT} outputs of a ${SIDE}×${SIDE} input: each is used ${outputs} times.`, shared),
      card(`Dense: ${SIDE * SIDE * outputs} weights`, `The same ${outputs} outputs of the same ${SIDE * SIDE} inputs: each weight is used once.`, dense),
    ),
    sentence,
    el("section", { class: "card numbers-card" }, el("header", {}, el("h2", { text: "In this network" }), layers ? layers.element : null), el("div", { class: "two" }, calculation, squares)),
    lesson(),
  );
  const release = onTheme(draw);

  /** Lines from inputs to the chosen output, and the matrix of all weights, a row an output. */
  function figure(isDense) {
    const drawing = svg("svg", { viewBox: "0 0 560 236", class: "connections", role: "img" });
    const board = new Board({ label: "", choose: (row) => change({ unit: row }), largestCell: 14, tallest: 240 });
    const caption = isDense ? "All its weights: a row an output, a column an input. No two are the same." : "The same as a matrix: a row an output, a column an input. The few colours come back in every row; all else is zero.";
    return { drawing, board, caption, isDense };
  }

  function lesson() {
    const [channels, height, width] = LESSON.image;
    const denseWeights = channels * height * width * LESSON.neurons;
    const weights = LESSON.kernel * LESSON.kernel * channels * LESSON.kernels;
    return el(
      "section",
      { class: "card lesson" },
      el("header", {}, el("h2", { text: "The textbook's example" })),
      el(
        "dl",
        { class: "calculation" },
        el("div", {}, el("dt", { text: `fully connected, ${height}×${width} colour image to ${whole(LESSON.neurons)} neurons` }), el("dd", { text: `${height} × ${width} × ${channels} × ${whole(LESSON.neurons)} = ${whole(denseWeights)}` })),
        el("div", {}, el("dt", { text: `convolution, ${LESSON.kernels} kernels of 3×3×3 on the same image` }), el("dd", { text: `3 × 3 × 3 × ${LESSON.kernels} = ${whole(weights)}` })),
        el("div", {}, el("dt", { text: "fewer by a factor of" }), el("dd", { class: "strong", text: `${whole(denseWeights / weights)}×` })),
      ),
    );
  }

  function weightAt(isDense, unit, input) {
    if (isDense) return unit * SIDE * SIDE + input;
    const row = Math.floor(input / SIDE) - Math.floor(unit / OUT);
    const column = (input % SIDE) - (unit % OUT);
    return row >= 0 && column >= 0 && row < KERNEL && column < KERNEL ? row * KERNEL + column : -1;
  }

  function draw() {
    if (!now) return;
    for (const one of [shared, dense]) {
      drawConnections(one);
      drawMatrix(one);
    }
  }

  function drawConnections({ drawing, isDense }) {
    const cell = 32;
    const small = 32;
    const [left, top] = [14, 22];
    const [right, middle] = [410, top + (SIDE * cell - OUT * small) / 2];
    const parts = [];
    const inputs = SIDE * SIDE;
    const [unitRow, unitColumn] = [Math.floor(now.unit / OUT), now.unit % OUT];
    const target = [right + unitColumn * small + small / 2, middle + unitRow * small + small / 2];
    for (let input = 0; input < inputs; input += 1) {
      const [x, y] = [left + (input % SIDE) * cell, top + Math.floor(input / SIDE) * cell];
      const weight = weightAt(isDense, now.unit, input);
      const fill = weight < 0 ? "var(--faint)" : isDense ? denseColour(weight) : weightColour(weight);
      parts.push(svg("rect", { x: x + 1, y: y + 1, width: cell - 2, height: cell - 2, rx: 3, class: "cell" }));
      parts[parts.length - 1].style.fill = fill;
    }
    for (let output = 0; output < outputs; output += 1) {
      const [x, y] = [right + (output % OUT) * small, middle + Math.floor(output / OUT) * small];
      const box = svg("rect", { x: x + 1, y: y + 1, width: small - 2, height: small - 2, rx: 3, class: output === now.unit ? "cell chosen" : "cell live" });
      box.addEventListener("pointerenter", () => change({ unit: output }));
      parts.push(box);
    }
    for (let input = 0; input < inputs; input += 1) {
      const weight = weightAt(isDense, now.unit, input);
      if (weight < 0) continue;
      const line = svg("line", { x1: left + (input % SIDE) * cell + cell / 2, y1: top + Math.floor(input / SIDE) * cell + cell / 2, x2: target[0], y2: target[1], class: "wire" });
      line.style.stroke = isDense ? denseColour(weight) : weightColour(weight);
      parts.push(line);
    }
    const label = (x, text) => svg("text", { x, y: 12, class: "axis" }, text);
    parts.push(label(left, `input ${SIDE}×${SIDE}`), label(right, `output ${OUT}×${OUT}`));
    drawing.replaceChildren(...parts);
    const count = isDense ? inputs : KERNEL * KERNEL;
    drawing.setAttribute("aria-label", `Output in row ${unitRow}, column ${unitColumn} is connected to ${count} of ${inputs} inputs, ${isDense ? "by weights of its own" : "by the same nine weights as every other output"}.`);
  }

  function drawMatrix({ board, isDense }) {
    const inputs = SIDE * SIDE;
    const picture = document.createElement("canvas");
    picture.width = inputs;
    picture.height = outputs;
    const context = picture.getContext("2d");
    context.fillStyle = colour("--faint");
    context.fillRect(0, 0, inputs, outputs);
    for (let unit = 0; unit < outputs; unit += 1) {
      for (let input = 0; input < inputs; input += 1) {
        const weight = weightAt(isDense, unit, input);
        if (weight < 0) continue;
        context.fillStyle = isDense ? denseColour(weight) : weightColour(weight);
        context.fillRect(input, unit, 1, 1);
      }
    }
    board.show({ rows: outputs, columns: inputs, picture, from: [now.unit, 0], marks: [{ rows: [now.unit], columns: [0, inputs - 1], frame: true }] });
    const words = isDense ? `${inputs * outputs} different weights` : `${KERNEL * KERNEL} weights, repeated in each row; ${inputs * outputs - KERNEL * KERNEL * outputs} zeros`;
    board.describe(`Matrix of ${outputs} outputs by ${inputs} inputs: ${words}. Row ${now.unit} is chosen.`);
  }

  function showNumbers() {
    const [row, column] = [Math.floor(now.unit / OUT), now.unit % OUT];
    say(sentence, `Output row ${row}, column ${column}: the convolution multiplies ${KERNEL * KERNEL} inputs by the ${KERNEL * KERNEL} weights that all outputs share, the dense layer all ${SIDE * SIDE} inputs by weights of its own.`);
    const { layer } = now;
    if (!layer) {
      calculation.replaceChildren(el("p", { class: "quiet", text: "This network has no convolution to compare." }));
      return;
    }
    layers.set(layer.index);
    const [channels, height, width] = layer.input_shape;
    const [kernels, outHeight, outWidth] = layer.output_shape;
    const [kh, kw] = layer.kernel;
    const { weights, to_neurons: neurons, same_maps: maps } = layer.dense;
    const perGroup = channels / layer.groups;
    const grouped = layer.groups > 1 ? ` (${channels} channels in ${layer.groups} groups)` : "";
    const rows = [
      [`${plural(kernels, "kernel")} of ${perGroup}×${pair(layer.kernel)}${grouped}`, `${kernels} × ${perGroup} × ${kh} × ${kw} = ${whole(weights)}`, "its weights"],
      ["each weight is used", `${outHeight} × ${outWidth} = ${whole(outHeight * outWidth)} times`],
      ["fully connected to 1,000 neurons", `${channels} × ${height} × ${width} × 1,000 = ${whole(neurons)}`],
      ["", `${whole(neurons / weights)} times its weights`],
      ["fully connected, making the same maps", `(${channels} × ${height} × ${width}) × (${kernels} × ${outHeight} × ${outWidth}) = ${whole(maps)}`],
      ["", `${whole(maps / weights)} times its weights`],
    ];
    calculation.replaceChildren(...rows.map(([term, text]) => el("div", {}, el("dt", { text: term }), el("dd", { text }))));
    squares.replaceChildren(area("1,000 neurons", neurons / weights), area("same maps", maps / weights));
  }

  /** Areas in proportion: the dot is the convolution, the square the dense layer. Where that does not fit on a page, it
   * fades out, and its width is said in a unit of length. */
  function area(title, factor) {
    const dot = 3;
    const side = Math.sqrt(factor) * dot;
    const fits = side <= LARGEST_SQUARE;
    const metres = (side / 96) * 0.0254; // a CSS pixel is 1/96 inch
    const width = metres >= 1 ? `${real(metres, 2)} m` : `${real(metres * 100, 2)} cm`;
    const shown = Math.min(side, LARGEST_SQUARE);
    return el(
      "figure",
      { class: "area" },
      el(
        "div",
        { class: "area-box", role: "img", "aria-label": `Dense layer, ${title}: ${whole(factor)} times the convolution's weights` },
        el("span", { class: "dot", style: { width: `${dot}px`, height: `${dot}px` } }),
        el("span", { class: fits ? "big" : "big cut", style: { width: `${shown}px`, height: `${shown}px` } }),
      ),
      el("figcaption", { class: "small" }, el("b", { text: title }), el("br"), el("span", { class: "quiet", text: fits ? "The dot is the convolution, the square the dense layer." : `If the dot is the convolution, the dense layer is a square ${width} wide.` })),
    );
  }

  function update(values) {
    const wanted = wholeNumber(values.layer, network.first_conv ?? 0);
    const layer = countable.find((candidate) => candidate.index === wanted) || countable.find((candidate) => candidate.index > wanted) || countable[0];
    now = { unit: wholeNumber(values.unit, 0, 0, outputs - 1), layer };
    if (layer) complete({ layer: String(layer.index) });
    draw();
    showNumbers();
    announce(sentence.textContent);
  }

  update(values);
  return {
    update,
    close() {
      shared.board.close();
      dense.board.close();
      release();
    },
  };
}
