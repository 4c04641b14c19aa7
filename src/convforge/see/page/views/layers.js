// The network as a table of its layers, and what one unit of the chosen layer sees of the image.

import { addressOf, change, complete, wholeNumber } from "../address.js";
import { answerTo, share } from "../answer.js";
import { json, numbers, picture } from "../api.js";
import { Board, bitmap, loaded } from "../canvas.js";
import { scaleOf } from "../colours.js";
import { announce, el, latest, problem, say } from "../dom.js";
import { compact, pair, plural, probability, real, shape, sides, whole } from "../numbers.js";
import { onTheme } from "../theme.js";

const BLOCK = 16;
const COLUMNS = [
  ["Layer", "", ""],
  ["Kernel", "", "Rows × columns of the kernel, and how it moves"],
  ["Output", "number", "Channels × rows × columns of what it makes"],
  ["Field", "number", "Receptive field: how many rows × columns of the image one number depends on"],
  ["Parameters", "number", "Numbers that are learned"],
  ["MACs", "number", "Multiply-accumulates: one product added to a sum, for one image"],
  ["Dense", "number wide", "Weights of a fully connected layer that makes the same maps"],
  ["Dense, factor", "number", "A fully connected layer that makes the same maps has so many times the weights"],
];

/** "3×3, stride 2, padding 1": what is not the usual is said. */
export function kernelWords(layer) {
  if (!layer.kernel) return "";
  const parts = [pair(layer.kernel)];
  if (layer.spread) parts.push(`transposed, stride ${pair(layer.spread, true)}`);
  else if (layer.stride && layer.stride.some((n) => n !== 1)) parts.push(`stride ${pair(layer.stride, true)}`);
  if (!layer.spread && layer.padding && layer.padding.flat().some((n) => n !== 0)) parts.push(`padding ${sides(layer.padding)}`);
  if (layer.dilation && layer.dilation.some((n) => n !== 1)) parts.push(`dilation ${pair(layer.dilation, true)}`);
  if (layer.groups > 1) parts.push(layer.groups === layer.input_shape[0] ? "depthwise" : `${layer.groups} groups`);
  return parts.join(", ");
}

/** The receptive field in words. */
export function fieldWords(field) {
  if (field === "all") return "all";
  return field && field.size ? pair(field.size) : "–";
}

/** Rows and columns of a layer's maps; one by one where it makes a single number a channel. */
export function mapShape(layer) {
  const sizes = layer.map_shape || layer.output_shape || [];
  return sizes.length === 3 ? sizes : [sizes[0] || 1, 1, 1];
}

export function openLayers(root, { network, values }) {
  let now = null;
  let seen = null;
  let loading = null;

  const table = el("table", { class: "layer-table" });
  const head = el("thead", {}, el("tr", {}, ...COLUMNS.map(([title, kind, help]) => el("th", { scope: "col", class: kind, title: help, text: title }))));
  const body = el("tbody");
  const rows = network.layers.map((layer) => {
    const link = el("a", { href: addressOf("layers", { layer: layer.index }), tabindex: -1, text: layer.name || layer.type });
    const dense = layer.dense || {};
    const cells = [
      ["", kernelWords(layer)],
      ["number", shape(layer.output_shape)],
      ["number", fieldWords(layer.field)],
      ["number", layer.parameters ? whole(layer.parameters) : layer.shared ? "shared" : "–"],
      ["number", layer.macs ? compact(layer.macs) : "–", layer.macs ? whole(layer.macs) : ""],
      ["number wide", dense.same_maps ? compact(dense.same_maps) : "", dense.same_maps ? whole(dense.same_maps) : ""],
      ["number", dense.same_maps ? `${compact(dense.same_maps_factor)}×` : ""],
    ];
    const row = el(
      "tr",
      { on: { click: (event) => (event.preventDefault(), choose(layer.index)) } },
      el("th", { scope: "row" }, link, el("small", { class: "quiet", text: layer.type }), el("small", { class: "short", text: [kernelWords(layer), shape(layer.output_shape)].filter(Boolean).join(" → ") })),
      ...cells.map(([kind, text, title]) => el("td", { class: kind, text, title: title || null })),
    );
    body.append(row);
    return { row, link, layer, kernel: row.cells[1] };
  });
  const { totals } = network;
  const foot = el(
    "tfoot",
    {},
    el(
      "tr",
      {},
      el("th", { scope: "row", text: "Together" }),
      ...["", "", "", whole(totals.parameters), compact(totals.macs), totals.dense ? compact(totals.dense.same_maps) : "", totals.dense ? `${compact(totals.dense.same_maps_factor)}×` : ""].map((text, i) => el("td", { class: i === 5 ? "number wide" : i ? "number" : "", text })),
    ),
  );
  table.append(el("caption", { class: "hidden", text: `The layers of ${network.name}` }), head, body, foot);
  table.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10 }[event.key];
    const at = rows.findIndex(({ link }) => link === document.activeElement);
    if (!step || at < 0) return;
    event.preventDefault();
    const target = rows[Math.min(rows.length - 1, Math.max(0, at + step))];
    choose(target.layer.index, false);
    target.link.focus();
  });

  const title = el("h2");
  const facts = el("dl", { class: "facts" });
  const links = el("p", { class: "links" });
  const view = new Board({ label: "The image", tallest: 260 });
  const unit = new Board({ label: "Units of the layer", choose: (row, column) => change({ row, column }), tallest: 150, largestCell: 30 });
  const sentence = el("p", { class: "small" });
  const unitTitle = el("h3");
  const status = el("div");
  const shares = el("ol", { class: "shares tall" });
  const answered = el("div", { class: "sight", hidden: true }, el("h3", { text: "What it answers" }), shares);
  const sight = el("div", { class: "sight" }, view.element, sentence, unitTitle, unit.element);
  const panel = el("aside", { class: "card panel", "aria-label": "The chosen layer" }, title, links, status, answered, sight, facts);
  const frame = el("div", {}, table);
  root.append(
    el("header", { class: "intro" }, el("h1", { text: "Layers" }), el("p", { class: "says", text: "The network from the image to its answer. Choose a layer to see what one of its numbers depends on." })),
    el("div", { class: "split" }, frame, panel),
  );
  const release = onTheme(() => draw());

  function choose(layer, push = true) {
    change({ layer, row: null, column: null, channel: null }, push);
  }

  /** Scrolls so that a row can be seen, where the layer beside the table stays in sight. */
  function reveal(row) {
    if (matchMedia("(min-width: 70rem)").matches) row.scrollIntoView({ block: "nearest" });
  }

  function settings(values) {
    const layer = network.layers[wholeNumber(values.layer, network.first_conv ?? 0, 0, network.layers.length - 1)];
    const [, height, width] = mapShape(layer);
    return {
      layer,
      image: network.images.some((image) => String(image.id) === values.image) ? values.image : String(network.images[0]?.id ?? ""),
      row: wholeNumber(values.row, Math.floor(height / 2), 0, height - 1),
      column: wholeNumber(values.column, Math.floor(width / 2), 0, width - 1),
    };
  }

  function describe() {
    const { layer } = now;
    say(title, layer.name ? `Layer ${layer.name}` : layer.type);
    const entries = [
      ["kind", layer.type],
      ["in", shape(layer.spread ? layer.given_shape : layer.input_shape)],
      ["out", shape(layer.output_shape)],
    ];
    if (layer.kernel) entries.push(["kernel", kernelWords(layer)]);
    if (layer.dense) {
      entries.push(["weights", whole(layer.dense.weights)]);
      entries.push(["fully connected to 1,000 neurons", `${whole(layer.dense.to_neurons)}: ${compact(layer.dense.to_neurons_factor)}×`]);
      entries.push(["fully connected, same maps", `${whole(layer.dense.same_maps)}: ${compact(layer.dense.same_maps_factor)}×`]);
    }
    facts.replaceChildren(...entries.map(([term, text]) => el("div", {}, el("dt", { text: term }), el("dd", { text }))));
    const carried = { layer: layer.index, image: now.image };
    const ways = [["maps", "Its maps"]];
    if (layer.slides) ways.unshift(["slide", "Slide it"]);
    if (layer.slides) ways.push(["kernels", "Its kernels"], ["detects", "What it detects"], ["count", "Count its weights"]);
    links.replaceChildren(...ways.map(([view, text]) => el("a", { href: addressOf(view, carried), text })));
    for (const { row, link, layer: other } of rows) {
      const chosen = other === layer;
      row.classList.toggle("chosen", chosen);
      link.tabIndex = chosen ? 0 : -1;
      if (chosen) {
        link.setAttribute("aria-current", "true");
        reveal(row);
      } else link.removeAttribute("aria-current");
    }
  }

  const look = latest(async () => {
    const mine = now;
    if (!network.images.length) {
      sight.hidden = true;
      return;
    }
    if (loading) loading.abort();
    loading = new AbortController();
    try {
      const source = picture(`/api/images/${mine.image}`, { view: "input" });
      const [answer, image, field, maps] = await Promise.all([
        answerTo(mine.image),
        source ? loaded(source) : null,
        json(`/api/layers/${mine.layer.index}/field`, { row: mine.row, column: mine.column }, loading.signal),
        mostActive(mine),
      ]);
      showAnswer(answer, mine.layer);
      seen = { image, box: field.box, ...maps };
      status.replaceChildren();
      sight.hidden = false;
      draw();
    } catch (error) {
      if (error.name === "AbortError") return;
      seen = null;
      sight.hidden = true;
      status.replaceChildren(problem(error));
    }
  });

  /** The map in which most happens: the first may be dead. */
  async function mostActive({ layer, image }) {
    const place = `/api/layers/${layer.index}/maps`;
    const { order } = await json(place, { image }, loading.signal);
    const channel = order[0] ?? 0;
    const first = Math.floor(channel / BLOCK) * BLOCK;
    const block = await numbers(`${place}/values`, { image, first, count: BLOCK }, loading.signal);
    const [, height, width] = mapShape(layer);
    return { channel, map: block.values.subarray((channel - first) * height * width, (channel - first + 1) * height * width) };
  }

  /** The layer that answers says so, in its row and beside it. */
  function showAnswer(answer, chosen) {
    const first = answer.ranking && answer.ranking[0];
    for (const { layer, kernel } of rows) {
      if (first && layer.index === answer.layer) kernel.replaceChildren("answers ", el("b", { text: first.name }), ` ${probability(first.probability)}`);
    }
    answered.hidden = !first || chosen.index !== answer.layer;
    if (!answered.hidden) shares.replaceChildren(...answer.ranking.map((entry) => share(entry)));
  }

  function draw() {
    if (!seen) return;
    const { layer, row, column } = now;
    const [, height, width] = network.input;
    const [, rowsOut, columnsOut] = mapShape(layer);
    const box = seen.box === "all" ? [0, 0, height, width] : seen.box;
    // A field may reach beyond the image: what is out there is padding, and drawn as such.
    const most = [Math.ceil(height / 3), Math.ceil(width / 3)];
    const pad = box
      ? [0, 1].map((axis) => [Math.max(0, -box[axis]), Math.max(0, box[axis] + box[axis + 2] - [height, width][axis])].map((n) => Math.min(n, most[axis])))
      : undefined;
    const lines = (axis) => [Math.max(box[axis], -pad[axis][0]), Math.min(box[axis] + box[axis + 2], [height, width][axis] + pad[axis][1]) - 1];
    view.show({ rows: height, columns: width, picture: seen.image, pad, marks: box ? [{ rows: lines(0), columns: lines(1), frame: true }] : [] });
    let words = "What it depends on cannot be said.";
    if (seen.box === "all") words = "Every unit depends on the whole image.";
    else if (box) {
      const [top, left, tall, wide] = box;
      words = `It depends on ${tall}×${wide} pixels: rows ${top} to ${top + tall - 1}, columns ${left} to ${left + wide - 1}${pad.flat().some((n) => n > 0) ? "; beyond the border there is padding" : ""}.`.replaceAll(" -", " −");
    }
    say(sentence, `Unit in row ${row}, column ${column}. ${words}`);
    view.describe(`The image with the receptive field. ${words}`);
    const area = rowsOut * columnsOut;
    const { channel, map } = seen;
    const value = map[row * columnsOut + column];
    say(unitTitle, area === 1 ? `Channel ${channel}: ${real(value, 6)}` : `Choose a unit on map ${channel}, ${rowsOut}×${columnsOut}`);
    unit.element.hidden = area === 1;
    unit.show({ rows: rowsOut, columns: columnsOut, picture: bitmap(map, rowsOut, columnsOut, scaleOf(map)), cursor: [row, column] });
    unit.describe(`Map ${channel} of ${layer.name}, ${rowsOut} by ${columnsOut}. Row ${row}, column ${column}: ${real(value, 6)}. ${words}`);
    announce(`${layer.name}, row ${row}, column ${column}. ${words}`);
  }

  function update(values) {
    now = settings(values);
    complete({ layer: String(now.layer.index), image: now.image });
    describe();
    look();
  }

  say(head.querySelector("th"), plural(network.layers.length, "layer"));
  update(values);
  return {
    update,
    close() {
      if (loading) loading.abort();
      view.close();
      unit.close();
      release();
    },
  };
}
