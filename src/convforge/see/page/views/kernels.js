// The kernels themselves: the first layer's in colour with their names, deeper ones by input channel, and the film of
// how they were learned.

import { change, complete, wholeNumber } from "../address.js";
import { has, json, numbers } from "../api.js";
import { Board, bitmap, colourBitmap, legend } from "../canvas.js";
import { scaleFor } from "../colours.js";
import { layerSelect, segmented } from "../controls.js";
import { announce, el, problem, say } from "../dom.js";
import { roving } from "../keyboard.js";
import { alike, exact, pair, plural, real, whole } from "../numbers.js";
import { Fitted, NumberGrid } from "../products.js";
import { onTheme } from "../theme.js";
import { Transport } from "../transport.js";

const FIGURES = 3;
const UNCLEAR = "unclear";

function reach(values, from = 0, to = values.length) {
  let largest = 0;
  for (let i = from; i < to; i += 1) {
    const size = Math.abs(values[i]);
    if (size > largest) largest = size;
  }
  return largest || 1;
}

/** "16 kernels: 12 horizontal edges, 3 textures, 1 unclear": how a layer's names split. */
function splitWords(names) {
  const counts = new Map();
  for (const { name } of names) counts.set(name, (counts.get(name) || 0) + 1);
  const parts = [...counts].sort((a, b) => b[1] - a[1]).map(([name, count]) => `${count} ${count === 1 || name === "unclear" ? name : `${name}s`}`);
  return `${plural(names.length, "kernel")}: ${parts.join(", ")}`;
}

/** "leans to an edge at 50°" of "unclear: leans to an edge at 50°; coherence 0.75"; nothing of a kernel like noise. */
function leaning({ words }) {
  return (words || "").match(/leans to [^;]*/)?.[0] ?? (/noise/.test(words || "") ? "" : (words || "").replace(`${UNCLEAR}: `, ""));
}

/** What can be said of all that are unclear together, once. */
function unclearWords(names, weights) {
  const unclear = names.filter(({ name }) => name === UNCLEAR);
  const leaning = unclear.filter(({ words }) => /leans to/.test(words || "")).length;
  const noise = unclear.filter(({ words }) => /noise/.test(words || "")).length;
  if (!unclear.length) return "";
  const said = [];
  if (noise) said.push(`the ${weights} weights of ${noise === unclear.length ? "all of them" : noise} prefer no direction, colour or roundness more than noise does`);
  if (leaning) said.push(leaning === 1 ? "one leans to something, which stands below it" : `${leaning === unclear.length ? "all" : leaning} lean to something, which stands below them`);
  return said.length ? ` Of the unclear ones, ${said.join(", and ")}.` : "";
}

/** A figure of the namer's: a number, or a colour with a patch of it. */
function figure(value) {
  if (typeof value === "number") return el("dd", { text: real(value, 3) });
  const swatch = /^#[0-9a-f]{6}$/i.test(value) ? el("i", { class: "swatch", style: { background: value } }) : null;
  return el("dd", {}, swatch, String(value));
}

export function openKernels(root, { network, values }) {
  const sliding = network.layers.filter((layer) => layer.slides);
  if (!sliding.length) {
    root.append(el("p", { class: "notice", text: "This network has no 2-D convolution." }));
    return { update() {}, close() {} };
  }
  let now = null;
  let seen = null;
  let loading = null;
  let film = null;

  const layers = layerSelect({ layers: sliding, change: (layer) => change({ layer, channel: null, input: null }, true) });
  const range = segmented({ label: "Colours", options: [["own", "Each kernel its own", "The colours span the weights of the one kernel"], ["shared", "One for all", "The colours span the weights of the whole layer"]], change: (value) => change({ range: value === "own" ? null : value }, true) });
  const order = segmented({ label: "Order", options: [["channel", "By channel"], ["size", "Strongest first", "By the root of the sum of squares"]], change: (value) => change({ order: value }, true) });
  const summary = el("p", { class: "reading" });
  const status = el("div");
  const key = el("div", { class: "legend" });
  const grid = el("div", { class: "tiles named", role: "group", "aria-label": "Kernels" });
  const tab = roving(grid);
  const frameLabel = el("span", { class: "quiet" });
  const transport = new Transport({ move: (frame) => showFrame(frame) });
  const player = el("section", { class: "card film", hidden: true, "aria-label": "Film of the kernels" }, el("header", {}, el("h2", { text: "Film: from random to learned" }), frameLabel), transport.element);
  const overview = new Board({ label: "All kernels by input channel", choose: (row, column) => change({ channel: row, input: column }), tallest: 420, largestCell: 20 });
  const overviewTitle = el("h2");
  const chosenTitle = el("h2");
  const chosenNote = el("p", { class: "small quiet" });
  const facts = el("dl", { class: "facts" });
  const tables = [];
  const tablesBox = el("div", { class: "tables" });
  const fitted = new Fitted(tablesBox);
  const deep = el("section", { class: "card deep" }, el("header", {}, overviewTitle), el("p", { class: "small quiet says" }), overview.element, key);
  const panel = el("aside", { class: "card panel", "aria-label": "The chosen kernel" }, chosenTitle, chosenNote, tablesBox, facts);
  const main = el("div", {}, summary, grid);
  const split = el("div", { class: "split" }, el("div", { class: "stack" }, player, main, deep), panel);
  root.append(
    el("header", { class: "intro" }, el("h1", { text: "Kernels" }), el("p", { class: "says", text: "The learned numbers. The first layer's look for patterns of pixels, deeper ones weigh the maps of the layer before." })),
    el("div", { class: "row controls" }, layers.element, range.element, order.element),
    status,
    split,
  );
  const release = onTheme(() => {
    if (seen) show();
  });

  const visible = new Set();
  const watcher = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (!isIntersecting) visible.delete(target);
      else {
        visible.add(target);
        drawTile(target);
      }
    }
  }, { rootMargin: "200px" });

  function settings(values) {
    const wanted = wholeNumber(values.layer, network.first_conv ?? sliding[0].index);
    const layer = sliding.find((candidate) => candidate.index === wanted) || sliding.find((candidate) => candidate.index > wanted) || sliding[0];
    return {
      layer,
      channel: wholeNumber(values.channel, 0, 0, layer.output_shape[0] - 1),
      input: wholeNumber(values.input, null),
      range: values.range === "shared" ? "shared" : "own",
      // Of deeper kernels most weights are near nothing: those that weigh most come first.
      order: ["size", "channel"].includes(values.order) ? values.order : layer.index === network.first_conv ? "channel" : "size",
    };
  }

  async function load() {
    if (loading) loading.abort();
    const control = (loading = new AbortController());
    root.setAttribute("aria-busy", "true");
    transport.stop();
    try {
      const { layer } = now;
      const [about, weights] = await Promise.all([
        json(`/api/layers/${layer.index}/kernels`, {}, control.signal),
        numbers(`/api/layers/${layer.index}/kernels/values`, {}, control.signal),
      ]);
      if (control.signal.aborted) return;
      const [count, channels, height, width] = about.shape;
      const isFirst = layer.index === network.first_conv && (channels === 3 || channels === 1);
      seen = { layer, about, values: weights.values, learned: weights.values, count, channels, height, width, area: height * width, size: channels * height * width, isFirst, scale: reach(weights.values) };
      status.replaceChildren();
      split.hidden = false;
      await openFilm(control);
      show();
    } catch (error) {
      if (error.name === "AbortError") return;
      seen = null;
      split.hidden = true;
      status.replaceChildren(problem(error));
    } finally {
      if (loading === control) root.removeAttribute("aria-busy");
    }
  }

  async function openFilm(control) {
    player.hidden = true;
    if (!network.film || !seen.isFirst || !has("/api/film", {})) return;
    film = await json("/api/film", {}, control.signal);
    if (!film.frames.length || (film.layer !== undefined && film.layer !== seen.layer.index)) return;
    player.hidden = false;
    setFrame(film.frames.length - 1);
  }

  function setFrame(frame) {
    const { label, step } = film.frames[frame];
    const words = label || `step ${whole(step)}`;
    transport.set(frame, film.frames.length, words);
    // The names below were measured on the learned kernels; a random one that is called an edge would puzzle.
    say(frameLabel, frame < film.frames.length - 1 ? `${words} · names as learned` : words);
  }

  async function showFrame(frame) {
    const mine = seen;
    setFrame(frame);
    try {
      const found = await numbers(`/api/film/${frame}`, {}, loading.signal);
      if (seen !== mine || transport.position !== frame || found.values.length !== seen.learned.length) return;
      seen.values = found.values;
      for (const tile of visible) drawTile(tile);
      showChosen();
    } catch (error) {
      if (error.name !== "AbortError") status.replaceChildren(problem(error));
    }
  }

  /** Root of the sum of squares of a stretch of weights. */
  function strength(from, length) {
    let sum = 0;
    for (let i = from; i < from + length; i += 1) sum += seen.learned[i] ** 2;
    return Math.sqrt(sum);
  }

  function show() {
    const { isFirst, about, count, channels, height, width } = seen;
    grid.classList.toggle("by-input", !isFirst);
    grid.setAttribute("aria-label", isFirst ? "Kernels" : `Kernel ${now.channel}, by input channel`);
    if (isFirst && about.names) say(summary, `${(about.split ? about.split.words : splitWords(about.names)).replace(": ", ", named by measurement: ")}.${unclearWords(about.names, channels * height * width)}`);
    else if (isFirst) say(summary, `${plural(count, "kernel")} of ${height}×${width} on ${plural(channels, "channel")}.`);
    else say(summary, `Kernel ${now.channel} of ${count}: ${height}×${width} weights on each of ${plural(channels, "input channel")}.`);
    deep.hidden = isFirst;
    if (!isFirst) showOverview();
    lay();
    showChosen();
  }

  /** The input channel that is looked at: the one that the kernel weighs most, where the reader has chosen none. */
  function inputShown() {
    const { channels, size, area } = seen;
    if (now.input !== null) return Math.min(now.input, channels - 1);
    const sizes = Array.from({ length: channels }, (_, i) => strength(now.channel * size + i * area, area));
    return sizes.indexOf(Math.max(...sizes));
  }

  /** What the tiles are of: kernels in the first layer, input channels of the chosen kernel in deeper ones. */
  function items() {
    const { isFirst, count, channels, size, area } = seen;
    const all = Array.from({ length: isFirst ? count : channels }, (_, i) => i);
    if (now.order === "channel") return all;
    const of = (i) => (isFirst ? strength(i * size, size) : strength(now.channel * size + i * area, area));
    const sizes = all.map(of);
    return all.sort((a, b) => sizes[b] - sizes[a]);
  }

  function lay() {
    const { isFirst, about, layer } = seen;
    watcher.disconnect();
    visible.clear();
    const groupFirst = Math.floor(now.channel / (layer.output_shape[0] / layer.groups)) * (layer.input_shape[0] / layer.groups);
    grid.replaceChildren(
      ...items().map((i) => {
        const verdict = isFirst && about.names ? about.names[i] : null;
        const parts = [];
        if (verdict) {
          const figures = Object.entries(verdict.figures || {}).slice(0, FIGURES);
          const words = (verdict.words || "").replace(`${verdict.name} at `, "").replace(`${verdict.name}: `, "").replace(`${verdict.name}, `, "");
          // What has no name is said once, above; here stands what it leans to, if it does.
          if (verdict.name === UNCLEAR) parts.push(el("small", { text: leaning(verdict) }));
          else parts.push(el("strong", { text: verdict.name }), el("small", { text: words || figures.map(([name, value]) => `${name.replaceAll("_", " ")} ${real(value, 2)}`).join(", ") }));
        }
        const words = verdict ? `: ${verdict.name}. ${verdict.words || ""}` : "";
        const tile = el(
          "button",
          { type: "button", class: "tile", tabindex: -1, "data-item": i, "aria-label": `${isFirst ? "Kernel" : "Input channel"} ${isFirst ? i : groupFirst + i}${words}`, on: { click: () => change(isFirst ? { channel: i } : { input: i }) } },
          el("canvas", { width: 1, height: 1 }),
          el("span", { text: String(isFirst ? i : groupFirst + i) }),
          ...parts,
        );
        watcher.observe(tile);
        return tile;
      }),
    );
    seen.laid = laidFor();
    tab.refresh();
  }

  function laidFor() {
    return `${now.order} ${seen.isFirst ? "" : now.channel}`;
  }

  function drawTile(tile) {
    const i = Number(tile.dataset.item);
    const { isFirst, size, area, height, width, channels, values } = seen;
    const canvas = tile.firstElementChild;
    if (isFirst) {
      const own = now.range === "shared" ? reach(values) : reach(values, i * size, (i + 1) * size);
      if (channels === 3) colourBitmap(values, height, width, -own, own, i * size, canvas);
      else bitmap(values, height, width, scaleFor(-own, own), i * size, canvas);
      return;
    }
    const from = now.channel * size;
    const own = now.range === "shared" ? seen.scale : reach(values, from, from + size);
    bitmap(values, height, width, scaleFor(-own, own), from + i * area, canvas);
  }

  /** Every kernel's strength for every input channel; for 1×1 kernels the weights themselves. */
  function showOverview() {
    const { count, channels, area, values } = seen;
    if (!seen.map) {
      seen.map = area === 1 ? values : Float32Array.from({ length: count * channels }, (_, i) => strength(i * area, area));
    }
    const largest = reach(seen.map);
    const scale = area === 1 ? scaleFor(-largest, largest) : scaleFor(0, largest);
    const write = alike([scale.low, scale.high]);
    say(overviewTitle, `All ${count} kernels by input channel`);
    say(deep.querySelector(".says"), area === 1 ? "Rows are kernels, columns the input channels that they weigh; the colour is the weight." : "Rows are kernels, columns the input channels that they weigh; bright is a strong slice (root of the sum of squares). Choose one.");
    overview.show({ rows: count, columns: channels, picture: bitmap(seen.map, count, channels, scale), cursor: [now.channel, inputShown()] });
    const chosen = seen.map[now.channel * channels + inputShown()];
    overview.describe(`${count} kernels by ${channels} input channels. Kernel ${now.channel}, input channel ${inputShown()}: ${real(chosen)}.`);
    legend(key, scale, write);
  }

  function showChosen() {
    const { isFirst, channels, height, width, area, size, values, about } = seen;
    const slice = isFirst ? null : inputShown();
    for (const tile of grid.children) tile.setAttribute("aria-pressed", String(Number(tile.dataset.item) === (isFirst ? now.channel : slice)));
    if (!grid.contains(document.activeElement)) {
      for (const other of grid.querySelectorAll('[tabindex="0"]')) other.tabIndex = -1;
      const pressed = grid.querySelector('[aria-pressed="true"]');
      if (pressed) pressed.tabIndex = 0;
    }
    const from = now.channel * size;
    const shown = isFirst ? Array.from({ length: channels }, (_, c) => c) : [slice];
    const own = reach(values, from, from + size);
    const grids = shown.map((c) => Array.from({ length: height }, (_, r) => Array.from(values.subarray(from + c * area + r * width, from + c * area + (r + 1) * width))));
    const write = alike(grids.flat(2));
    const rgb = isFirst && channels === 3;
    tablesBox.replaceChildren(
      ...grids.map((grid, i) => {
        tables[i] ||= new NumberGrid("");
        tables[i].show(grid, scaleFor(-own, own), write);
        say(tables[i].caption, rgb ? `weights on ${["red", "green", "blue"][i]}` : "weights");
        return tables[i].element;
      }),
    );
    fitted.refit();
    const rows = grids.flat();
    const verdict = isFirst && about.names ? about.names[now.channel] : null;
    say(chosenTitle, isFirst ? `Kernel ${now.channel}${verdict ? `: ${verdict.name}` : ""}` : `Kernel ${now.channel}, input channel ${slice}`);
    facts.hidden = !verdict;
    if (verdict) facts.replaceChildren(...Object.entries(verdict.figures || {}).map(([name, value]) => el("div", {}, el("dt", { text: name.replaceAll("_", " ") }), figure(value))));
    say(chosenNote, (verdict && verdict.words) || `${pair([height, width])} weights, ${exact(Math.min(...rows.flat()))} to ${exact(Math.max(...rows.flat()))}`);
    announce(`${chosenTitle.textContent}. ${chosenNote.textContent}`);
  }

  function update(values) {
    now = settings(values);
    complete({ layer: String(now.layer.index) });
    layers.set(now.layer.index);
    range.set(now.range);
    order.set(now.order);
    if (!seen || seen.layer !== now.layer) load();
    else if (seen.laid !== laidFor()) show();
    else {
      for (const tile of visible) drawTile(tile);
      if (!seen.isFirst) showOverview();
      showChosen();
    }
  }

  update(values);
  return {
    update,
    close() {
      transport.stop();
      if (loading) loading.abort();
      watcher.disconnect();
      overview.close();
      fitted.close();
      release();
    },
  };
}
