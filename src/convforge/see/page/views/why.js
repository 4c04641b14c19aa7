// The answer taken apart: which places of the image contributed to a class, which channels carried it there, and from
// each of these to its products.

import { addressOf, change, complete, wholeNumber } from "../address.js";
import { answerTo } from "../answer.js";
import { canRun, exported, has, json, picture, runJob } from "../api.js";
import { Board, bitmap, legend, loaded, overlaid, partOfWindow } from "../canvas.js";
import { scaleFor } from "../colours.js";
import { button, layerSelect, segmented } from "../controls.js";
import { announce, el, freshId, problem, say } from "../dom.js";
import { alike, exact, plural, power, probability, real } from "../numbers.js";
import { onTheme } from "../theme.js";

const CHANNELS = 12;
const METHODS = {
  cam: ["Adds up", "Class-activation map: contributions that add up to the network's number"],
  layercam: ["LayerCAM", "Gradient × activation at a layer: shows where, and adds up to nothing in particular"],
  occlusion: ["Occlusion", "How much less the class gets when a grey square covers the place"],
};

/** "layer features.18.2 (ReLU6)". */
function layerWords(layer) {
  return `layer ${layer.name} (${layer.type})`;
}

export function openWhy(root, { network, values }) {
  if (!network.images.length) {
    root.append(el("p", { class: "notice", text: "There is no image to look at: name some on the command line." }));
    return { update() {}, close() {} };
  }
  let now = null;
  let seen = null;
  let loading = null;
  let preview = null;

  const chooser = (label, choose) => {
    const select = el("select", { id: freshId("class"), on: { change: () => choose(select.value) } });
    return { select, element: el("div", { class: "field class-field" }, el("label", { for: select.id, text: label }), select) };
  };
  const classes = chooser("Class", (of) => change({ of, row: null, column: null }, true));
  const others = chooser("Compared with", (against) => change({ against: against === "" ? null : against }, true));
  const method = segmented({ label: "Method", options: Object.entries(METHODS).map(([name, [title, help]]) => [name, title, help]), change: (name) => change({ method: name, at: null, row: null, column: null }, true) });
  const layers = layerSelect({ layers: network.layers.filter(({ map_shape: shape }) => shape && shape[1] * shape[2] > 1), label: "At the layer", change: (at) => change({ at, row: null, column: null }, true) });
  const intro = el("p", { class: "says", text: "The answer taken apart: orange speaks for the class, blue against it." });
  const ending = el("p", { class: "reading" });
  const status = el("div");
  const image = new Board({ label: "The image", choose: (row, column) => choose(...cellOf(row, column)), hover: (row, column) => hover(cellOf(row, column)), tallest: partOfWindow });
  const map = new Board({ label: "Contributions", choose, hover: (row, column) => hover([row, column]), tallest: partOfWindow, largestCell: 96 });
  for (const board of [image, map]) board.canvas.addEventListener("pointerleave", () => hover(null));
  const key = el("div", { class: "legend" });
  const mapTitle = el("h2");
  const lost = el("p", { class: "small quiet lost" });
  const sums = el("dl", { class: "calculation adds-up" });
  const sumsCard = el("section", { class: "card" }, el("header", {}, el("h2", { text: "The sum" })), sums);
  const place = el("h2");
  const whole = button("The whole image", () => change({ row: null, column: null }, true));
  const rest = el("p", { class: "small quiet" });
  const list = el("tbody");
  const table = el("table", { class: "layer-table carried" }, el("caption", { class: "hidden", text: "Channels that carried most" }), el("thead", {}, el("tr", {}, ...["Channel", "activation", "× weight", "= contribution", ""].map((text, i) => el("th", { scope: "col", class: i ? "number" : "", text })))), list);
  const channels = el("section", { class: "card" }, el("header", {}, place, whole), rest, table);
  const boards = el(
    "div",
    { class: "boards" },
    el("section", { class: "card" }, el("header", {}, el("h2", { text: "Where on the image" })), image.element, key),
    el("section", { class: "card" }, el("header", {}, mapTitle), map.element, lost),
    sumsCard,
  );
  root.append(
    el("header", { class: "intro" }, el("h1", { text: "Why" }), intro),
    el("div", { class: "row controls" }, classes.element, others.element, method.element, layers.element),
    ending,
    status,
    boards,
    channels,
  );
  const release = onTheme(() => draw());

  /** The place of the maps that is drawn over a pixel. */
  function cellOf(row, column) {
    const [, height, width] = network.input;
    return [Math.min(seen.size[0] - 1, Math.floor(((row + 0.5) * seen.size[0]) / height)), Math.min(seen.size[1] - 1, Math.floor(((column + 0.5) * seen.size[1]) / width))];
  }

  function choose(row, column) {
    preview = null;
    change({ row, column });
  }

  function hover(cell) {
    if (String(cell) === String(preview)) return;
    preview = cell;
    draw();
  }

  function settings(values) {
    return {
      image: network.images.some((candidate) => String(candidate.id) === values.image) ? values.image : String(network.images[0].id),
      of: wholeNumber(values.of, null),
      against: wholeNumber(values.against, null),
      method: values.method in METHODS ? values.method : "cam",
      at: wholeNumber(values.at, null),
      row: wholeNumber(values.row, null),
      column: wholeNumber(values.column, null),
    };
  }

  function nameOf(number) {
    return network.classes && network.classes[number] !== undefined ? network.classes[number] : String(number);
  }

  function question() {
    const { of, against, at } = now;
    const chosen = { image: now.image, of: of ?? seen.answer.ranking[0].class, against: against ?? undefined };
    if (now.method === "layercam") return { ...chosen, method: "layercam", layer: at ?? undefined };
    return chosen;
  }

  /** The classes to choose from, the most probable first; of an exported file those that it holds. */
  function offer() {
    const { ranking } = seen.answer;
    const entry = ({ class: number, name, probability: share }) => el("option", { value: number, text: `${name} · ${probability(share)}` });
    const count = seen.answer.classes;
    const all = exported ? [] : Array.from({ length: count }, (_, number) => el("option", { value: number, text: nameOf(number) }));
    const groups = () => [el("optgroup", { label: "Most probable" }, ...ranking.map(entry)), ...(count > ranking.length && !exported ? [el("optgroup", { label: "All" }, ...all.map((option) => option.cloneNode(true)))] : [])];
    classes.select.replaceChildren(...groups());
    others.select.replaceChildren(el("option", { value: "", text: "nothing" }), ...groups());
  }

  async function load() {
    if (loading) loading.abort();
    const control = (loading = new AbortController());
    root.setAttribute("aria-busy", "true");
    try {
      const answer = await answerTo(now.image);
      if (control.signal.aborted) return;
      if (!answer.ranking) throw new Error(answer.why);
      seen = { key: key_(), answer, found: null };
      offer();
      const asked = question();
      classes.select.value = String(asked.of);
      others.select.value = asked.against === undefined ? "" : String(asked.against);
      const source = picture(`/api/images/${now.image}`, { view: "input" });
      const [photograph, found] = await Promise.all([source ? loaded(source) : null, now.method === "occlusion" ? occlusion(asked, control.signal) : contributions(asked, control.signal)]);
      if (control.signal.aborted || !found) return;
      seen = { ...seen, photograph, found, asked };
      const shown = found.values !== null;
      boards.hidden = channels.hidden = !shown;
      layers.element.hidden = now.method !== "layercam" || !shown;
      if (!shown) {
        say(ending, "");
        status.replaceChildren(el("p", { class: "notice", text: found.why }));
        return;
      }
      status.replaceChildren();
      prepare();
      draw();
      explain();
    } catch (error) {
      if (error.name === "AbortError" || control.signal.aborted) return;
      boards.hidden = channels.hidden = true;
      say(ending, "");
      status.replaceChildren(problem(error));
    } finally {
      if (loading === control) root.removeAttribute("aria-busy");
    }
  }

  async function contributions(asked, signal) {
    const found = await json("/api/why", asked, signal);
    // Where nothing adds up, what shows where is still worth seeing.
    const other = { ...asked, method: "layercam" };
    if (found.values === null && now.method === "cam" && found.layers.length && has("/api/why", other)) {
      const instead = await json("/api/why", other, signal);
      return { ...instead, instead: found.why };
    }
    return found;
  }

  async function occlusion(asked, signal) {
    boards.hidden = channels.hidden = true;
    const body = { image: Number(asked.image), of: asked.of, ...(asked.against === undefined ? {} : { against: asked.against }) };
    if (!canRun(body)) throw new Error("Occlusion for this image and class is not in this file: “convforge see”, with the model and the image, shows it.");
    const found = await runJob(body, ({ done, total }) => status.replaceChildren(el("p", { class: "quiet", text: total ? `Covering place ${done} of ${total} …` : "Covering places …" })), signal, "/api/jobs/occlusion");
    return found && { ...found, method: "occlusion", exact: false, layers: [] };
  }

  function key_() {
    return JSON.stringify([now.image, now.of, now.against, now.method, now.at]);
  }

  function prepare() {
    const { found, asked } = seen;
    const flat = found.values.flat();
    const reach = Math.max(1e-30, ...flat.map(Math.abs));
    const compared = asked.against === undefined ? nameOf(asked.of) : `${nameOf(asked.of)} rather than ${nameOf(asked.against)}`;
    seen.flat = Float32Array.from(flat);
    seen.size = [found.values.length, found.values[0].length];
    seen.scale = scaleFor(-reach, reach);
    seen.write = alike(flat);
    seen.compared = compared;
    if (found.layer !== undefined) layers.set(found.layer);
    method.set(found.instead ? "layercam" : now.method);
    layers.element.hidden = found.method !== "layercam";
    const at = found.layer === undefined ? "" : layerWords(network.layers[found.layer]);
    const words = {
      cam: `Class-activation map for ${compared}, of the maps of ${at}: ${found.ending}. What the places contributed is, with the bias, the network's number.`,
      layercam: `LayerCAM for ${compared}, gradient × activation at ${at}: ${found.ending}. It shows where; its numbers add up to nothing in particular.`,
      occlusion: `Occlusion for ${compared}: by how much the network's number falls when a grey square of ${found.side}×${found.side} pixels covers the place, moved by ${found.step}.`,
    };
    say(ending, words[found.method]);
    if (found.instead) status.replaceChildren(el("p", { class: "notice", text: found.instead }));
    say(mapTitle, found.method === "occlusion" ? `What covering each place takes away, ${seen.size.join("×")}` : `Contribution of each place, ${seen.size.join("×")}`);
    legend(key, seen.scale, seen.write);
    sumsCard.hidden = !found.exact;
    if (found.exact) {
      const line = (term, value, kind, title) => el("div", { class: kind }, el("dt", { text: term }), el("dd", { text: value, title }));
      const digits = alike([found.sum, found.bias, found.total], 3);
      sums.replaceChildren(
        line(`sum of ${plural(flat.length, "place")}`, digits(found.sum), "places", exact(found.sum)),
        line("+ bias", digits(found.bias), "bias", exact(found.bias)),
        line(`= the number for ${compared}`, digits(found.total), "total", exact(found.total)),
        line("the model computed", digits(found.logit), "model", exact(found.logit)),
        line("difference", power(found.difference), "difference", String(found.difference)),
      );
    }
    channels.hidden = found.method === "occlusion";
    say(intro, `The answer taken apart: orange speaks for the class, blue against it. ${found.method === "occlusion" ? "Choose a place to see what covering it takes away." : "Choose a place to see which channels carried it."}`);
  }

  /** What covering the place that is pointed at does to the network's number. */
  function showLost(cursor) {
    lost.hidden = seen.found.method !== "occlusion";
    if (lost.hidden) return;
    if (!cursor) return say(lost, `The number is ${real(seen.found.logit)} with nothing covered.`);
    const fall = seen.flat[cursor[0] * seen.size[1] + cursor[1]];
    say(lost, `Row ${cursor[0]}, column ${cursor[1]}: the number ${fall < 0 ? "rises" : "falls"} by ${real(Math.abs(fall))}, from ${real(seen.found.logit)} to ${real(seen.found.logit - fall)}.`);
  }

  function at() {
    if (preview) return preview;
    if (now.row === null || now.column === null) return null;
    return [Math.min(now.row, seen.size[0] - 1), Math.min(now.column, seen.size[1] - 1)];
  }

  function draw() {
    if (!seen || !seen.flat) return;
    const [rows, columns] = seen.size;
    const cursor = at();
    const [, height, width] = network.input;
    showLost(cursor);
    const common = { rows, columns, cursor, from: [Math.floor(rows / 2), Math.floor(columns / 2)] };
    map.show({ ...common, picture: bitmap(seen.flat, rows, columns, seen.scale), values: seen.flat, scale: seen.scale, write: seen.write });
    // On the image cells have the image's proportions: the board is as many cells as there are pixels.
    const marks = cursor ? [{ rows: edges(cursor[0], rows, height), columns: edges(cursor[1], columns, width), frame: true }] : [];
    image.show({ rows: height, columns: width, picture: overlaid(seen.photograph, seen.flat, rows, columns, seen.scale, height, width), marks });
    const largest = seen.flat.indexOf(Math.max(...seen.flat));
    const words = `Most speaks for it in row ${Math.floor(largest / columns)}, column ${largest % columns}: ${real(seen.flat[largest])}.`;
    const chosen = cursor ? ` Chosen: row ${cursor[0]}, column ${cursor[1]}: ${real(seen.flat[cursor[0] * columns + cursor[1]])}.` : "";
    image.describe(`The image, ${height} by ${width}, with what each place contributed to ${seen.compared}. ${words}`);
    map.describe(`Contributions of ${rows} by ${columns} places to ${seen.compared}. ${words}${chosen}`);
  }

  /** The pixels, first and last, that a row or column of the maps is drawn over. */
  function edges(index, count, size) {
    return [Math.round((index * size) / count), Math.max(Math.round((index * size) / count), Math.round(((index + 1) * size) / count) - 1)];
  }

  async function explain() {
    const { found, asked } = seen;
    if (found.method === "occlusion") return;
    const mine = seen;
    const chosen = now.row === null || now.column === null ? null : at();
    const ask = { ...asked, method: found.method === "layercam" ? "layercam" : undefined, count: CHANNELS, ...(chosen ? { row: chosen[0], column: chosen[1] } : {}) };
    whole.disabled = !chosen;
    const words = chosen ? `row ${chosen[0]}, column ${chosen[1]}` : "the whole image";
    try {
      if (!has("/api/why/region", ask)) {
        say(place, `The channels of ${words}`);
        say(rest, "These are not in this file; “convforge see” shows them.");
        list.replaceChildren();
        return;
      }
      const region = await json("/api/why/region", ask, loading.signal);
      if (seen !== mine) return;
      showChannels(region, words);
    } catch (error) {
      if (error.name !== "AbortError") status.replaceChildren(problem(error));
    }
  }

  function showChannels({ layer, channels: carried, count, sum }, words) {
    const write = alike(carried.map((one) => one.value), 1);
    const weights = alike(carried.map((one) => one.weight), 1);
    const activations = alike(carried.map((one) => one.activation));
    const most = Math.max(1e-30, ...carried.map((one) => Math.abs(one.value)));
    const others = sum - carried.reduce((total, one) => total + one.value, 0);
    say(place, `What carried ${words}`);
    say(rest, `${plural(carried.length, "channel")} of ${count} in ${layerWords(network.layers[layer])}, largest first${carried.length < count ? `; the others together ${write(others)}` : ""}; all together ${write(sum)}.${now.row === null && carried.some((one) => one.weight !== null) ? " Activations are means over the image." : ""}`);
    list.replaceChildren(
      ...carried.map(({ channel, activation, weight, value, slide }) => {
        const target = slide ? addressOf("slide", { layer: slide.layer, image: now.image, channel: slide.channel, row: slide.row, column: slide.column }) : addressOf("maps", { layer, image: now.image, channel });
        return el(
          "tr",
          {},
          el("th", { scope: "row" }, el("a", { href: addressOf("maps", { layer, image: now.image, channel }), text: String(channel) })),
          el("td", { class: "number", text: activations(activation) }),
          el("td", { class: "number", text: weights(weight) }),
          el("td", { class: "number", title: exact(value) }, el("span", { class: `bar-of ${value < 0 ? "against" : "for"}`, "aria-hidden": true, style: { width: `${(Math.abs(value) / most) * 4}rem` } }), write(value)),
          el("td", { class: "number" }, el("a", { href: target, text: slide ? "its products" : "its map" })),
        );
      }),
    );
    announce(`${seen.compared}: ${words} contributed ${real(sum)}.`);
  }

  function update(values) {
    now = settings(values);
    complete({ image: now.image });
    method.set(now.method);
    preview = null;
    if (!seen || seen.key !== key_()) load();
    else if (seen.flat) {
      draw();
      explain();
    }
  }

  update(values);
  return {
    update,
    close() {
      if (loading) loading.abort();
      image.close();
      map.close();
      release();
    },
  };
}
