// All maps of a layer for the chosen image; one of them large, with its true values.

import { addressOf, change, complete, wholeNumber } from "../address.js";
import { answerTo } from "../answer.js";
import { json, numbers } from "../api.js";
import { Board, bitmap, legend } from "../canvas.js";
import { scaleFor, scaleOf } from "../colours.js";
import { layerSelect, segmented } from "../controls.js";
import { announce, el, problem, say } from "../dom.js";
import { roving } from "../keyboard.js";
import { alike, exact, percent, plural, real, whole } from "../numbers.js";
import { onTheme } from "../theme.js";
import { mapShape } from "./layers.js";

const BLOCK = 16;
const SIZES = { small: 64, medium: 104, large: 176 };

export function openMaps(root, { network, values }) {
  if (!network.images.length) {
    root.append(el("p", { class: "notice", text: "There is no image to look at: name some on the command line." }));
    return { update() {}, close() {} };
  }
  let now = null;
  let seen = null;
  let preview = null;
  let loading = null;

  const layers = layerSelect({ layers: network.layers, change: (layer) => change({ layer, channel: null, row: null, column: null }, true) });
  const order = segmented({ label: "Order", options: [["activity", "Most active first", "By the standard deviation of the map"], ["channel", "By channel"]], change: (value) => change({ order: value === "activity" ? null : value }, true) });
  const range = segmented({ label: "Brightness", options: [["own", "Each map its own", "The colours span the values of the one map"], ["shared", "One for all", "The colours span the values of the whole layer"]], change: (value) => change({ range: value === "own" ? null : value }, true) });
  const zoom = segmented({ label: "Size", options: [["small", "S"], ["medium", "M"], ["large", "L"]], change: (value) => change({ size: value === "medium" ? null : value }, true) });
  const count = el("p", { class: "quiet small" });
  const status = el("div");
  const grid = el("div", { class: "tiles", role: "group", "aria-label": "Feature maps" });
  const tab = roving(grid);
  const title = el("h2");
  const board = new Board({
    label: "The chosen map",
    choose: (row, column) => ((preview = null), change({ row, column })),
    hover: (row, column) => hover([row, column]),
    tallest: 460,
    largestCell: 48,
  });
  board.canvas.addEventListener("pointerleave", () => hover(null));
  const key = el("div", { class: "legend" });
  const value = el("p", { class: "reading" });
  const facts = el("dl", { class: "facts" });
  const way = el("p", { class: "links" });
  const panel = el("aside", { class: "card panel", "aria-label": "The chosen map" }, title, board.element, key, value, facts, way);
  const split = el("div", { class: "split" }, el("div", {}, count, grid), panel);
  root.append(
    el("header", { class: "intro" }, el("h1", { text: "Feature maps" }), el("p", { class: "says", text: "What the layer made of the image: one map a channel, bright where its kernel found what it looks for; where numbers are of both signs, orange, and blue for the opposite." })),
    el("div", { class: "row controls" }, layers.element, order.element, range.element, zoom.element),
    status,
    split,
  );
  const release = onTheme(() => {
    for (const tile of grid.children) tile.dataset.drawn = "";
    for (const tile of visible) drawTile(tile);
    drawLarge();
  });

  // Only tiles that can be seen are drawn: a layer may have two thousand maps.
  const visible = new Set();
  const watcher = new IntersectionObserver(
    (entries) => {
      for (const { target, isIntersecting } of entries) {
        if (!isIntersecting) visible.delete(target);
        else {
          visible.add(target);
          drawTile(target);
        }
      }
    },
    { rootMargin: "300px" },
  );

  function settings(values) {
    const layer = network.layers[wholeNumber(values.layer, network.first_conv ?? 0, 0, network.layers.length - 1)];
    return {
      layer,
      image: network.images.some((image) => String(image.id) === values.image) ? values.image : String(network.images[0].id),
      order: values.order === "channel" ? "channel" : "activity",
      range: values.range === "shared" ? "shared" : "own",
      size: values.size in SIZES ? values.size : "medium",
      channel: wholeNumber(values.channel, null),
      row: wholeNumber(values.row, null),
      column: wholeNumber(values.column, null),
    };
  }

  async function plane(channel) {
    const mine = seen;
    const first = Math.floor(channel / BLOCK) * BLOCK;
    const block = await numbers(`/api/layers/${mine.layer.index}/maps/values`, { image: mine.image, first, count: BLOCK }, loading.signal);
    return block.values.subarray((channel - first) * mine.area, (channel - first + 1) * mine.area);
  }

  function scaleOfMap(channel, map) {
    return now.range === "shared" || seen.area === 1 ? seen.scale : scaleOf(map); // one number alone would always be bright
  }

  async function drawTile(tile) {
    const mark = `${seen.key} ${now.range}`;
    if (tile.dataset.drawn === mark) return;
    const channel = Number(tile.dataset.channel);
    try {
      const mine = seen;
      const map = await plane(channel);
      if (seen !== mine || `${seen.key} ${now.range}` !== mark) return;
      bitmap(map, mine.height, mine.width, scaleOfMap(channel, map), 0, tile.firstElementChild);
      tile.dataset.drawn = mark;
    } catch (error) {
      if (error.name !== "AbortError") status.replaceChildren(problem(error));
    }
  }

  async function load() {
    if (loading) loading.abort();
    const control = (loading = new AbortController());
    root.setAttribute("aria-busy", "true");
    try {
      const { layer, image } = now;
      const [summary, answer] = await Promise.all([json(`/api/layers/${layer.index}/maps`, { image }, control.signal), answerTo(image)]);
      if (control.signal.aborted) return;
      const [, height, width] = summary.shape.length === 3 ? summary.shape : mapShape(layer);
      const low = Math.min(0, ...summary.channels.map((channel) => channel.min ?? 0));
      const high = Math.max(...summary.channels.map((channel) => channel.max ?? 0));
      seen = { key: `${layer.index} ${image}`, layer, image, summary, classes: answer.layer === layer.index ? network.classes : null, height, width, area: height * width, scale: scaleFor(low, high) };
      status.replaceChildren();
      split.hidden = false;
      lay();
      showChosen();
    } catch (error) {
      if (error.name === "AbortError") return;
      seen = null;
      split.hidden = true;
      status.replaceChildren(problem(error));
    } finally {
      if (loading === control) root.removeAttribute("aria-busy");
    }
  }

  /** The channel's number; of the layer that answers, with its class. */
  function nameOf(channel) {
    const name = seen.classes ? seen.classes[channel] : String(channel);
    return name === String(channel) ? name : `${channel}: ${name}`;
  }

  function channelsInOrder() {
    return now.order === "activity" ? seen.summary.order : seen.summary.channels.map((channel) => channel.index);
  }

  function chosen() {
    const { length } = seen.summary.channels;
    return now.channel === null ? seen.summary.order[0] : Math.min(now.channel, length - 1);
  }

  function lay() {
    const { channels } = seen.summary;
    const silent = channels.filter((channel) => channel.min === channel.max).length;
    say(count, `${plural(channels.length, "map")} of ${seen.height}×${seen.width}${silent ? `; ${whole(silent)} the same everywhere` : ""}`);
    watcher.disconnect();
    visible.clear();
    const side = SIZES[now.size];
    grid.style.setProperty("--tile", `${side}px`);
    grid.style.setProperty("--ratio", `${seen.width} / ${seen.height}`);
    seen.laid = `${now.order} ${now.size}`;
    grid.replaceChildren(
      ...channelsInOrder().map((index) => {
        const { max, deviation } = channels[index];
        const tile = el(
          "button",
          { type: "button", class: "tile", tabindex: -1, "data-channel": index, "aria-label": `Channel ${nameOf(index)}, largest ${real(max)}, deviation ${real(deviation)}`, on: { click: () => change({ channel: index }, true) } },
          el("canvas", { width: 1, height: 1 }),
          el("span", { text: nameOf(index) }),
        );
        watcher.observe(tile);
        return tile;
      }),
    );
    mark();
    tab.refresh();
  }

  function mark() {
    const wanted = String(chosen());
    for (const tile of grid.children) {
      const on = tile.dataset.channel === wanted;
      if (on !== (tile.getAttribute("aria-pressed") === "true")) tile.setAttribute("aria-pressed", String(on));
      if (on && !grid.contains(document.activeElement)) {
        for (const other of grid.querySelectorAll('[tabindex="0"]')) other.tabIndex = -1;
        tile.tabIndex = 0;
      }
    }
  }

  async function showChosen() {
    const mine = seen;
    const channel = chosen();
    mark();
    try {
      const map = await plane(channel);
      if (seen !== mine || chosen() !== channel) return;
      seen.large = { channel, map };
      drawLarge();
    } catch (error) {
      if (error.name !== "AbortError") status.replaceChildren(problem(error));
    }
  }

  function hover(cell) {
    preview = cell;
    drawLarge();
  }

  function drawLarge() {
    if (!seen || !seen.large) return;
    const { channel, map } = seen.large;
    const { height, width } = seen;
    const entry = seen.summary.channels[channel];
    const scale = scaleOfMap(channel, map);
    const write = alike([scale.low, scale.high]);
    const pinned = [Math.min(now.row ?? Math.floor(height / 2), height - 1), Math.min(now.column ?? Math.floor(width / 2), width - 1)];
    const [row, column] = preview || pinned;
    const number = map[row * width + column];
    say(title, `Channel ${nameOf(channel)}`);
    board.show({ rows: height, columns: width, picture: bitmap(map, height, width, scale), values: map, scale, write, cursor: [row, column] });
    board.describe(`Map of channel ${channel}, ${height} by ${width}, from ${real(entry.min)} to ${real(entry.max)}. Row ${row}, column ${column}: ${exact(number)}.`);
    legend(key, scale, write);
    value.replaceChildren(el("span", { class: "quiet", text: `row ${row}, column ${column} ` }), el("output", { text: exact(number) }));
    const entries = [["smallest", real(entry.min)], ["largest", real(entry.max)], ["mean", real(entry.mean)], ["deviation", real(entry.deviation)], ["above zero", percent(entry.active)]];
    facts.replaceChildren(...entries.map(([term, text]) => el("div", {}, el("dt", { text: term }), el("dd", { text }))));
    const place = { layer: seen.layer.index, image: seen.image, channel };
    way.replaceChildren(
      ...(seen.layer.slides ? [el("a", { href: addressOf("slide", { ...place, row: pinned[0], column: pinned[1] }), text: "The products behind this number" })] : []),
      el("a", { href: addressOf("detects", place), text: "What this channel detects" }),
    );
    if (!preview) announce(`Channel ${channel}, row ${row}, column ${column}: ${exact(number)}`);
  }

  function update(values) {
    now = settings(values);
    complete({ layer: String(now.layer.index), image: now.image });
    layers.set(now.layer.index);
    order.set(now.order);
    range.set(now.range);
    zoom.set(now.size);
    if (!seen || seen.key !== `${now.layer.index} ${now.image}`) {
      preview = null;
      load();
      return;
    }
    if (seen.laid !== `${now.order} ${now.size}`) lay();
    for (const tile of visible) drawTile(tile);
    showChosen();
  }

  update(values);
  return {
    update,
    close() {
      if (loading) loading.abort();
      watcher.disconnect();
      board.close();
      release();
    },
  };
}
