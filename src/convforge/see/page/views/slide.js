// A real layer on a real image: the kernel slides over what the layer was given, and each output number is taken apart.

import { change, complete, wholeNumber } from "../address.js";
import { json, numbers, picture } from "../api.js";
import { positions } from "../arithmetic.js";
import { Backward } from "../backward.js";
import { Board, bitmap, legend, loaded, partOfWindow } from "../canvas.js";
import { scaleOf } from "../colours.js";
import { button, layerSelect, layerTitle, segmented, stepper } from "../controls.js";
import { announce, el, freshId, latest, problem, say } from "../dom.js";
import { alike, exact, pair, plural, power, real, shape, sides } from "../numbers.js";
import { overridden } from "../offline.js";
import { Products, gridsAtOnce } from "../products.js";
import { onTheme } from "../theme.js";
import { Transport } from "../transport.js";

const BLOCK = 16;
const CLOSE_UP = 13; // input pixels across the close-up, unless the kernel spans more
const PRIMARIES = ["red", "green", "blue"];
const OVERRIDES = ["stride", "padding", "dilation", "groups"];

/** The numbers that divide both. */
function commonDivisors(a, b) {
  return Array.from({ length: Math.min(a, b) }, (_, i) => i + 1).filter((n) => a % n === 0 && b % n === 0);
}

export function openSlide(root, { network, values }) {
  const sliding = network.layers.filter((layer) => layer.slides);
  if (!sliding.length || !network.images.length) {
    root.append(el("p", { class: "notice", text: sliding.length ? "There is no image to look at: name some on the command line." : "This network has no 2-D convolution whose numbers can be traced." }));
    return { update() {}, close() {} };
  }
  let now = null; // what the address says
  let seen = null; // what has been loaded for it
  let preview = null; // the pixel under the mouse
  let playing = false;
  let loading = null;

  const layers = layerSelect({ layers: sliding, change: (layer) => change({ layer, channel: null, row: null, column: null, from: null, show: null, read: null, wrow: null, wcolumn: null, ...cleared() }, true) });
  const channel = stepper({ label: "Output channel", help: "Which of the layer's kernels, and so which of its maps", change: (value) => change({ channel: value, from: null, show: null }, true) });
  const controls = Object.fromEntries(
    [
      ["stride", "Stride", "How many pixels the kernel moves between two outputs"],
      ["padding", "Padding", "Rows and columns put around the input"],
      ["dilation", "Dilation", "Distance between neighbouring weights; 1 means no gaps"],
      ["groups", "Groups", "Into how many independent parts the channels are split"],
    ].map(([name, label, help]) => [name, stepper({ label, help, change: (value) => override(name, value) })]),
  );
  const reset = button("As in the model", () => change({ ...cleared() }, true), { quiet: true });
  const formulas = el("p", { class: "formula" });
  const input = new Board({ label: "Input", tallest: partOfWindow });
  const near = new Board({ label: "Close-up", tallest: partOfWindow });
  const output = new Board({ label: "Output", tallest: partOfWindow, choose: (row, column) => choose(row, column), hover: (row, column) => hover([row, column]) });
  output.canvas.addEventListener("pointerleave", () => hover(null));
  const showing = el("select", { id: freshId("shown"), on: { change: () => change({ show: showing.value }) } });
  const inputTitle = el("h2");
  const outputTitle = el("h2");
  const nearTitle = el("h2", { text: "Close-up" });
  const productsTitle = el("h2");
  const inputLegend = el("div", { class: "legend" });
  const outputLegend = el("div", { class: "legend" });
  const nearNote = el("p", { class: "small quiet" });
  const status = el("div", { class: "status" });
  const transport = new Transport({
    move: (position) => choose(Math.floor(position / seen.size[1]), position % seen.size[1]),
    playing: (on) => {
      playing = on;
      draw();
    },
  });
  const products = new Products({
    choose: (position) => change({ from: position, order: "index", show: seen && seen.colour && now.show === "colours" ? null : channelsRead()[position] }),
    reorder: (order) => change({ order: order === "size" ? null : order, from: null }),
    nameOf: (c) => channelName(c),
  });
  const spreadNote = el("p", { class: "says spread" });
  const boards = el(
    "div",
    { class: "boards" },
    el("section", { class: "card" }, el("header", {}, inputTitle, el("div", { class: "field" }, el("label", { for: showing.id, class: "hidden", text: "Show of the input" }), showing)), input.element, inputLegend),
    el("section", { class: "card" }, el("header", {}, nearTitle), near.element, nearNote),
    el("section", { class: "card" }, el("header", {}, outputTitle), output.element, outputLegend),
  );
  const arithmetic = el("section", { class: "arithmetic" }, productsTitle, products.element);
  const intro = el("p", { class: "says" });
  const backward = new Backward((values) => change(values, true));
  const direction = segmented({ label: "Direction", options: [["forward", "Forward", "From the input to an output number"], ["backward", "Backward", "From the loss to the gradient of a weight"]], change: (value) => change({ direction: value === "forward" ? null : value }, true) });
  root.append(
    el("header", { class: "intro" }, el("h1", { text: "Slide" }), intro),
    el("div", { class: "row controls" }, layers.element, channel.element, direction.element, ...OVERRIDES.map((name) => controls[name].element)),
    el("div", { class: "formulas" }, formulas, reset),
    status,
    spreadNote,
    boards,
    transport.element,
    arithmetic,
  );
  const release = onTheme(() => repaint());

  function cleared() {
    return Object.fromEntries(OVERRIDES.map((name) => [name, null]));
  }

  /** A value that is the model's own is no override. */
  function override(name, value) {
    const own = ownNumber(now.layer, name);
    change({ [name]: value === own ? null : value, ...(name === "groups" ? { from: null, show: null } : {}) }, true);
  }

  function ownNumber(layer, name) {
    if (name === "groups") return layer.groups;
    const all = layer[name].flat();
    return all.every((value) => value === all[0]) ? all[0] : null;
  }

  function settings(values) {
    const wanted = wholeNumber(values.layer, network.first_conv ?? sliding[0].index);
    const layer = sliding.find((candidate) => candidate.index === wanted) || sliding.find((candidate) => candidate.index > wanted) || sliding[0];
    const image = network.images.some((candidate) => String(candidate.id) === values.image) ? values.image : String(network.images[0].id);
    const overrides = {};
    for (const name of layer.spread ? [] : OVERRIDES) if (/^\d{1,3}$/.test(values[name] || "")) overrides[name] = values[name];
    return {
      layer,
      image,
      overrides,
      // Where the address says none, the map in which most happens is looked up (null until then).
      channel: wholeNumber(values.channel, null, 0, layer.output_shape[0] - 1),
      row: wholeNumber(values.row, null),
      column: wholeNumber(values.column, null),
      from: wholeNumber(values.from, 0),
      order: values.order === "index" ? "index" : "size",
      show: values.show,
      backward: values.direction === "backward",
      weight: { of: wholeNumber(values.of), read: wholeNumber(values.read), row: wholeNumber(values.wrow), column: wholeNumber(values.wcolumn), rate: values.rate },
    };
  }

  function channelsRead() {
    const { layer, overrides } = now;
    const groups = Number(overrides.groups || layer.groups);
    const perGroup = Math.max(1, Math.floor(layer.input_shape[0] / groups));
    const first = Math.floor(now.channel / Math.max(1, layer.output_shape[0] / groups)) * perGroup;
    return Array.from({ length: perGroup }, (_, i) => first + i);
  }

  function channelName(c) {
    const primary = seen && seen.image && now.layer.input_shape[0] === 3 ? `, ${PRIMARIES[c]}` : "";
    return `Input channel ${c}${primary}`;
  }

  function question() {
    return { image: now.image, channel: now.channel, ...now.overrides };
  }

  function showControls() {
    const { layer, overrides } = now;
    layers.set(layer.index);
    channel.set(now.channel ?? 0, { low: 0, high: layer.output_shape[0] - 1, of: layer.output_shape[0] - 1 });
    for (const name of ["stride", "padding", "dilation"]) {
      const own = ownNumber(layer, name);
      const value = overrides[name] === undefined ? own : Number(overrides[name]);
      const written = name === "padding" ? sides(layer.padding) : pair(layer[name]);
      controls[name].set(value ?? Math.max(...layer[name].flat()), { low: name === "padding" ? 0 : 1, high: 64, as: value === null ? written : "" });
    }
    const divisors = commonDivisors(layer.input_shape[0], layer.output_shape[0]);
    controls.groups.set(Number(overrides.groups || layer.groups), { low: 1, high: divisors[divisors.length - 1], choices: divisors });
    reset.disabled = Object.keys(overrides).length === 0;
    // What a transposed layer slides over was spread for its own stride: other settings would be another layer.
    const fixed = Boolean(layer.spread) || now.backward;
    for (const name of OVERRIDES) controls[name].element.hidden = fixed;
    reset.hidden = fixed;
    spreadNote.hidden = !layer.spread;
    if (layer.spread) say(spreadNote, `A transposed convolution of stride ${pair(layer.spread, true)}: ${layer.spread.some((n) => n > 1) ? `zeros stand between the input's numbers, ${pair(layer.spread.map((n) => n - 1), true)} from each to the next, and` : ""} its kernel, turned by 180°, slides over that one by one.`);
  }

  function choose(row, column) {
    preview = null;
    change({ row, column });
  }

  function hover(cell) {
    const next = playing ? null : cell;
    if (String(next) === String(preview)) return;
    preview = next;
    if (seen) {
      draw();
      explain();
    }
  }

  function at() {
    const [height, width] = seen.size;
    const [row, column] = preview || [now.row, now.column];
    return [Math.min(row, height - 1), Math.min(column, width - 1)];
  }

  // --- loading ---------------------------------------------------------------------------------------------------------

  async function load() {
    if (loading) loading.abort();
    const control = (loading = new AbortController());
    root.setAttribute("aria-busy", "true");
    try {
      const { layer } = now;
      const place = `/api/layers/${layer.index}`;
      if (now.channel === null) {
        const { order } = await json(`${place}/maps`, { image: now.image }, control.signal);
        if (control.signal.aborted) return;
        now.channel = order[0];
        complete({ channel: String(now.channel) });
        showControls();
      }
      const [frame, map, given] = await Promise.all([
        json(`${place}/slide`, question(), control.signal),
        numbers(`${place}/slide/values`, question(), control.signal),
        json(`${place}/input`, { image: now.image }, control.signal),
      ]);
      if (control.signal.aborted) return;
      const size = frame.output_shape.slice(-2);
      const found = {
        key: key(),
        spec: overridden(layer, now.overrides),
        size,
        map: map.values,
        scale: scaleOf(map.values),
        formula: frame.formula,
        image: Boolean(given.image),
        given,
        inputSize: layer.input_shape.slice(-2),
        colour: null,
        planes: new Map(),
      };
      if (frame.spec && frame.spec.padding && Array.isArray(frame.spec.padding)) found.spec.padding = frame.spec.padding;
      if (found.image && [1, 3].includes(layer.input_shape[0])) {
        const source = picture(`/api/images/${now.image}`, { view: "input" });
        if (source) found.colour = await loaded(source);
        if (control.signal.aborted) return;
      }
      seen = found;
      if (now.row === null || now.column === null) pointAtLargest();
      status.replaceChildren();
      showDirection();
      offerInputs();
      showFrame();
      await showInput();
      explain();
    } catch (error) {
      if (error.name === "AbortError" || control.signal.aborted) return;
      seen = null;
      say(formulas, "");
      boards.hidden = arithmetic.hidden = transport.element.hidden = true;
      backward.element.remove();
      status.replaceChildren(problem(error));
    } finally {
      if (loading === control) root.removeAttribute("aria-busy");
    }
  }

  /** Where nothing is said, the number that stands out most is taken apart. */
  function pointAtLargest() {
    let best = 0;
    for (let i = 1; i < seen.map.length; i += 1) if (Math.abs(seen.map[i]) > Math.abs(seen.map[best])) best = i;
    now.row = Math.floor(best / seen.size[1]);
    now.column = best % seen.size[1];
    complete({ row: String(now.row), column: String(now.column) });
  }

  function key() {
    return JSON.stringify([now.layer.index, now.image, now.channel, now.overrides]);
  }

  function offerInputs() {
    const channels = channelsRead();
    const options = seen.colour ? [el("option", { value: "colours", text: now.layer.input_shape[0] === 3 ? "in colour" : "in grey" })] : [];
    options.push(...channels.map((c) => el("option", { value: c, text: channelName(c).replace("Input c", "C").replace("Channel", "channel") })));
    showing.replaceChildren(...options);
  }

  function shownInput() {
    const channels = channelsRead();
    if (seen.colour && (now.show === undefined || now.show === "colours")) return "colours";
    // Where the reader has chosen none, the one that says most: the first may be dead.
    const usual = channels.includes(seen.lead) ? seen.lead : channels[0];
    const wanted = wholeNumber(now.show, usual);
    return channels.includes(wanted) ? wanted : usual;
  }

  async function plane(index) {
    if (seen.planes.has(index)) return seen.planes.get(index);
    const mine = seen;
    const first = Math.floor(index / BLOCK) * BLOCK;
    const block = await numbers(`/api/layers/${now.layer.index}/input/values`, { image: now.image, first, count: BLOCK }, loading.signal);
    const area = mine.inputSize[0] * mine.inputSize[1];
    const found = block.values.subarray((index - first) * area, (index - first + 1) * area);
    mine.planes.set(index, found);
    return found;
  }

  /** The input's picture: in colour where it is the image itself, or one channel. */
  async function showInput() {
    const wanted = shownInput();
    showing.value = String(wanted);
    const mine = seen;
    if (wanted === "colours") mine.shown = { picture: mine.colour };
    else {
      const values = await plane(wanted);
      if (seen !== mine) return;
      const { min, max } = mine.given.channels.find((entry) => entry.index === wanted) || {};
      const scale = min === undefined ? scaleOf(values) : scaleOf([min, max]);
      mine.shown = { values, scale, write: alike([scale.low, scale.high]), picture: bitmap(values, ...mine.inputSize, scale) };
    }
    if (mine.shown.scale) legend(inputLegend, mine.shown.scale, mine.shown.write);
    else inputLegend.replaceChildren(el("span", { text: "what the network sees, its normalisation undone" }));
    draw();
  }

  function showFrame() {
    const { layer } = now;
    const texts = typeof seen.formula === "string" ? [seen.formula] : [seen.formula.height, seen.formula.width];
    formulas.replaceChildren(
      ...(texts[0] === texts[1] || texts.length === 1
        ? [el("span", {}, el("b", { text: "Height and width " }), texts[0])]
        : [el("span", {}, el("b", { text: "Height " }), texts[0]), el("span", {}, el("b", { text: "Width " }), texts[1])]),
    );
    say(inputTitle, `Input, ${shape(layer.input_shape)}`);
    say(outputTitle, `Output channel ${now.channel}, ${shape(seen.size)}`);
    seen.picture = bitmap(seen.map, ...seen.size, seen.scale);
    seen.write = alike([seen.scale.low, seen.scale.high]);
    legend(outputLegend, seen.scale, seen.write);
  }

  function repaint() {
    if (!seen) return;
    showFrame();
    showInput();
    explain();
  }

  // --- drawing ---------------------------------------------------------------------------------------------------------

  function draw() {
    if (!seen || !seen.shown) return;
    const [row, column] = at();
    const { spec, size, inputSize, shown } = seen;
    const mark = { rows: positions(spec, 0, row), columns: positions(spec, 1, column) };
    input.show({
      rows: inputSize[0],
      columns: inputSize[1],
      picture: shown.picture,
      values: shown.values,
      scale: shown.scale,
      write: shown.write,
      pad: spec.padding,
      marks: [mark],
    });
    const reach = `rows ${mark.rows[0]} to ${mark.rows[mark.rows.length - 1]}, columns ${mark.columns[0]} to ${mark.columns[mark.columns.length - 1]}`;
    input.describe(`Input of ${now.layer.name}, ${shape(now.layer.input_shape)}. The patch is ${reach}${spec.dilation.some((d) => d > 1) ? `, with gaps of ${pair(spec.dilation)}` : ""}.`);
    drawNear(mark);
    const value = seen.map[row * size[1] + column];
    output.show({
      rows: size[0],
      columns: size[1],
      picture: seen.picture,
      values: seen.map,
      scale: seen.scale,
      write: seen.write,
      cursor: [row, column],
      upTo: playing ? row * size[1] + column + 1 : null,
    });
    const words = `row ${row}, column ${column}`;
    output.describe(`Output channel ${now.channel} of ${now.layer.name}, ${size[0]} by ${size[1]}, values from ${real(seen.scale.signed ? Math.min(...extremes()) : 0)} to ${real(Math.max(...extremes()))}. Chosen: ${words}, ${real(value, 6)}.`);
    transport.set(row * size[1] + column, size[0] * size[1], words);
  }

  function extremes() {
    if (!seen.extremes) {
      let [low, high] = [Infinity, -Infinity];
      for (const value of seen.map) {
        if (value < low) low = value;
        if (value > high) high = value;
      }
      seen.extremes = [low, high];
    }
    return seen.extremes;
  }

  /** The input around the patch, large: rows and columns beyond its border are padding. */
  function drawNear(mark) {
    const { spec, inputSize, shown } = seen;
    const windows = [mark.rows, mark.columns].map((list, axis) => {
      const span = list[list.length - 1] - list[0] + 1;
      const [before, after] = spec.padding[axis];
      const size = inputSize[axis];
      const length = Math.min(Math.max(CLOSE_UP, span + 4), size + before + after);
      let start = Math.round(list[0] + span / 2 - length / 2);
      start = Math.max(-before, Math.min(start, size + after - length));
      const inside = [Math.max(0, start), Math.min(size, start + length)];
      return { start: inside[0], count: inside[1] - inside[0], pad: [inside[0] - start, start + length - inside[1]] };
    });
    const [rows, columns] = windows;
    if (rows.count < 1 || columns.count < 1) return;
    const crop = document.createElement("canvas");
    crop.width = columns.count;
    crop.height = rows.count;
    const context = crop.getContext("2d");
    const [across, down] = [shown.picture.width / inputSize[1], shown.picture.height / inputSize[0]];
    context.imageSmoothingEnabled = false;
    context.drawImage(shown.picture, columns.start * across, rows.start * down, columns.count * across, rows.count * down, 0, 0, columns.count, rows.count);
    let values = null;
    if (shown.values) {
      values = new Float32Array(rows.count * columns.count);
      for (let r = 0; r < rows.count; r += 1) {
        const from = (rows.start + r) * inputSize[1] + columns.start;
        values.set(shown.values.subarray(from, from + columns.count), r * columns.count);
      }
    }
    near.show({
      rows: rows.count,
      columns: columns.count,
      picture: crop,
      values,
      scale: shown.scale,
      write: shown.write,
      pad: [rows.pad, columns.pad],
      marks: [{ rows: mark.rows.map((y) => y - rows.start), columns: mark.columns.map((x) => x - columns.start) }],
    });
    say(nearNote, `Rows ${rows.start}–${rows.start + rows.count - 1}, columns ${columns.start}–${columns.start + columns.count - 1}${[...rows.pad, ...columns.pad].some((n) => n > 0) ? "; hatched: padding" : ""}`);
    near.describe(`Close-up of the input around the patch: rows ${mark.rows.join(", ")} and columns ${mark.columns.join(", ")} meet the kernel's weights.`);
  }

  // --- the arithmetic --------------------------------------------------------------------------------------------------

  /** Forward, the patch, kernel and products of an output number; backward, those of a weight. */
  function showDirection() {
    boards.hidden = transport.element.hidden = arithmetic.hidden = now.backward;
    if (now.backward && !backward.element.isConnected) root.append(backward.element); // moved, it would lose the focus
    else if (!now.backward) backward.element.remove();
    direction.set(now.backward ? "backward" : "forward");
    say(intro, now.backward ? "The other direction: choose a weight of the kernel below, and the products behind its gradient stand above it." : "Point at an output number: its patch is marked on the input, and its products and sums stand below. A click keeps it.");
  }

  const explain = latest(async () => {
    if (!seen) return;
    if (now.backward) {
      const { layer, image, channel: at, weight } = now;
      await backward.show({ layer, image, channel: at, ...weight }, loading.signal);
      return;
    }
    const mine = seen;
    const [row, column] = at();
    const place = `/api/layers/${now.layer.index}/unit`;
    const ask = { ...question(), row, column };
    const many = channelsRead().length;
    const count = gridsAtOnce(mine.spec.kernel, many);
    const signal = loading.signal;
    let unit;
    let shown;
    try {
      if (now.order === "size" && many > count) {
        const sums = (await json(place, { ...ask, channels: "0,1" }, signal)).sums;
        shown = sums.map((value, i) => [Math.abs(value), i]).sort((a, b) => b[0] - a[0]).slice(0, count).map(([, i]) => i);
        const parts = await Promise.all(shown.map((i) => json(place, { ...ask, channels: `${i},1` }, signal)));
        unit = { ...parts[0], patch: parts.map((p) => p.patch[0]), kernel: parts.map((p) => p.kernel[0]), products: parts.map((p) => p.products[0]) };
      } else {
        const first = Math.max(0, Math.min(now.from, many - count));
        unit = await json(place, { ...ask, channels: `${first},${count}` }, signal);
        shown = Array.from({ length: count }, (_, i) => first + i);
      }
    } catch (error) {
      if (error.name !== "AbortError" && seen === mine) status.replaceChildren(problem(error));
      return;
    }
    if (seen !== mine) return;
    status.replaceChildren();
    products.show({ ...unit, size: mine.inputSize }, shown, now.order);
    say(productsTitle, `The products behind row ${row}, column ${column} of output channel ${now.channel}`);
    if (!playing && !preview && now.show === undefined && !seen.colour && now.order === "size") {
      const largest = unit.sums.reduce((best, value, i) => (Math.abs(value) > Math.abs(unit.sums[best]) ? i : best), 0);
      seen.lead = unit.inputs.channels[largest];
      if (String(shownInput()) !== showing.value) showInput();
    }
    if (!playing && !preview) {
      const compared = unit.model === null || unit.model === undefined ? "" : ` The model computed ${exact(unit.model)}; the difference is ${power(unit.difference)}.`;
      announce(`Row ${row}, column ${column}: ${exact(unit.total)}, from ${plural(many, "input channel")}.${compared}`);
    }
  });

  function update(values) {
    now = settings(values);
    complete({ layer: String(now.layer.index), image: now.image });
    showControls();
    document.title = `${layerTitle(now.layer)} · ${network.short ?? network.name}`;
    if (seen && now.channel !== null && seen.key === key()) {
      showDirection();
      if (now.row === null || now.column === null) pointAtLargest();
      if (String(shownInput()) !== showing.value) showInput();
      else draw();
      explain();
    } else {
      seen = null;
      preview = null;
      transport.stop();
      load();
    }
  }

  update(values);
  return {
    update,
    close() {
      transport.stop();
      if (loading) loading.abort();
      for (const board of [input, near, output]) board.close();
      products.close();
      backward.close();
      release();
    },
  };
}
