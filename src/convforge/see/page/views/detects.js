// What channels detect, for an early, a middle and a deep layer side by side: the patches of the images that excite a
// channel most, an image made to excite it, and the classes that it prefers.

import { addressOf, change, complete, wholeNumber } from "../address.js";
import { canRun, json, pictureAt, runJob } from "../api.js";
import { layerSelect, stepper } from "../controls.js";
import { announce, el, problem, say } from "../dom.js";
import { pair, plural, real } from "../numbers.js";
import { fieldWords, mapShape } from "./layers.js";

const STAGES = [
  { name: "early", title: "Early", says: "Edges, colours: what can be seen in a few pixels." },
  { name: "middle", title: "Middle", says: "Textures, corners, parts: edges put together." },
  { name: "deep", title: "Deep", says: "Shapes and objects: most of the image at once." },
];
const PATCHES = 9;
const CLASSES = 5;

/** A convolution near each end and one between, as the server says; fewer where there are fewer. Those that mix channels
 * are preferred to depthwise ones, and those that see patterns to 1×1. */
function usualLayers(network) {
  if (network.stages && network.stages.length) return network.stages;
  const spatial = network.layers.filter((layer) => layer.slides && mapShape(layer)[1] * mapShape(layer)[2] > 1);
  const mixing = spatial.filter((layer) => layer.groups === 1 || layer.groups < layer.input_shape[0]);
  const seeing = mixing.filter((layer) => layer.kernel[0] * layer.kernel[1] > 1);
  const found = [seeing, mixing, spatial].find((list) => list.length >= STAGES.length) || (spatial.length ? spatial : network.layers.slice(-1));
  return [...new Set([found[0], found[Math.floor((found.length - 1) / 2)], found[found.length - 1]])].map((layer) => layer.index);
}

export function openDetects(root, { network, values }) {
  const labelled = network.images.some((image) => image.label !== undefined && image.label !== null);
  const kinds = [
    { kind: "patches", title: "Patches that excite it most", start: "Look through the images" },
    { kind: "ascent", title: "An image made to excite it", start: "Synthesise" },
    ...(labelled ? [{ kind: "classes", title: "Classes that it prefers", start: "Compare the classes" }] : []),
  ];
  const usual = usualLayers(network);
  // Results by question, so that going back and forth finds them.
  const found = new Map();
  const active = new Map();
  let latestValues = null;
  let closed = false;
  let now = null;
  let queue = Promise.resolve();
  const running = new Set();

  const stages = usual.length === 2 ? [STAGES[0], STAGES[2]] : STAGES.slice(0, usual.length);
  const columns = stages.map((stage, place) => column(stage, place));
  root.append(
    el("header", { class: "intro" }, el("h1", { text: "Detects" }), el("p", { class: "says", text: `What single channels answer to, in ${plural(network.searched ?? network.images.length, "image")}. Each layer builds on the one before: from edges through textures and parts to objects.` })),
    el("div", { class: "stages" }, ...columns.map((one) => one.element)),
  );

  /** One thing after another: the server has one pair of hands. */
  function enqueue(work) {
    queue = queue.then(work, work);
    return queue;
  }

  function column(stage, place) {
    const layers = layerSelect({ layers: network.layers, change: (layer) => set(place, layer, null) });
    const channel = stepper({ label: "Channel", change: (value) => set(place, mine().layer.index, value) });
    const facts = el("p", { class: "small quiet" });
    const parts = kinds.map((kind) => part(kind));
    const element = el(
      "section",
      { class: "card stage", "aria-label": stage.title },
      el("header", {}, el("h2", { text: stage.title }), el("p", { class: "small quiet", text: stage.says })),
      el("div", { class: "row" }, layers.element, channel.element),
      facts,
      ...parts.map((one) => one.element),
    );
    const mine = () => now[place];

    function part(kind) {
      const box = el("div", { class: "finding" });
      const start = el("button", { type: "button", text: kind.start, on: { click: () => (run(), show()) } });
      const bar = el("progress", { max: 1 });
      const what = el("span", { class: "small quiet" });
      const cancel = el("button", { type: "button", text: "Cancel" });
      const work = el("div", { class: "work", hidden: true }, bar, what, cancel);
      const action = el("div", { class: "action" }, start, work);
      const key = () => JSON.stringify(question());
      let control = null;

      function question() {
        const { layer, channel } = mine();
        const body = { kind: kind.kind, layer: layer.index, channel };
        return kind.kind === "patches" ? { ...body, count: PATCHES } : body;
      }

      function run() {
        const body = question();
        const wanted = key();
        if (found.has(wanted) || running.has(wanted) || !canRun(body)) return;
        running.add(wanted);
        const abort = new AbortController();
        control = abort;
        say(what, "waiting for its turn");
        bar.removeAttribute("value");
        start.hidden = true;
        work.hidden = false;
        cancel.onclick = () => abort.abort();
        enqueue(async () => {
          try {
            if (abort.signal.aborted) return;
            const result = await runJob(body, ({ done, total, what: words }) => {
              if (control !== abort) return;
              if (total) {
                bar.max = total;
                bar.value = done || 0;
              }
              say(what, words || (total ? `${done} of ${total}` : ""));
            }, abort.signal);
            if (result) found.set(wanted, { result });
          } catch (error) {
            found.set(wanted, { error });
          } finally {
            running.delete(wanted);
            if (control === abort) control = null;
            if (now) show();
          }
        });
      }

      function show() {
        const entry = found.get(key());
        const busy = control !== null && running.has(key());
        work.hidden = !busy;
        start.hidden = busy || Boolean(entry && entry.result);
        action.hidden = !busy && start.hidden;
        start.disabled = !canRun(question());
        if (entry && entry.error) box.replaceChildren(problem(entry.error));
        else if (entry) {
          box.replaceChildren(render(kind.kind, entry.result, mine()));
          found.set(key(), entry);
        } else box.replaceChildren(placeholder(kind.kind));
      }

      return {
        element: el("div", { class: "part" }, el("h3", { text: kind.title }), box, action),
        run,
        show,
        /** The question has changed: what was under way for the old one is no longer wanted. */
        leave() {
          if (control) control.abort();
          control = null;
        },
      };
    }

    return {
      element,
      startAll() {
        for (const one of parts) one.run();
        for (const one of parts) one.show();
      },
      leave() {
        for (const one of parts) one.leave();
      },
      show() {
        const { layer, channel: at } = mine();
        layers.set(layer.index);
        const [count, height, width] = mapShape(layer);
        channel.set(at, { low: 0, high: count - 1, of: count - 1 });
        const sees = layer.field === "all" ? "each sees the whole image" : layer.field ? `each sees ${fieldWords(layer.field)} pixels` : "what each sees cannot be said";
        say(facts, `${plural(count, "channel")} of ${height}×${width} units; ${sees}.`);
        for (const one of parts) one.show();
      },
    };
  }

  function placeholder(kind) {
    if (kind === "patches") return el("div", { class: "patches", "aria-hidden": true }, ...Array.from({ length: PATCHES }, () => el("span", { class: "empty" })));
    if (kind === "ascent") return el("span", { class: "empty wide", "aria-hidden": true });
    return el("span", { class: "empty low", "aria-hidden": true });
  }

  function render(kind, result, { layer, channel }) {
    if (kind === "patches") {
      if (!result.patches.length) return el("p", { class: "quiet", text: "No image excites it." });
      const [, tall, wide] = network.input;
      const beyond = result.patches.some(({ shown }) => shown && (shown[0] < 0 || shown[1] < 0 || shown[0] + shown[2] > tall || shown[1] + shown[3] > wide));
      const list = el(
        "ul",
        { class: "patches" },
        ...result.patches.map((patch) => {
          const image = network.images.find((candidate) => candidate.id === patch.image);
          const name = patch.name || image?.name || "";
          const words = `${name}${patch.label ? `, ${patch.label}` : ""}: ${real(patch.value)} at row ${patch.row}, column ${patch.column}`;
          const target = layer.slides ? addressOf("slide", { layer: layer.index, image: patch.image, channel, row: patch.row, column: patch.column }) : addressOf("maps", { layer: layer.index, image: patch.image, channel, row: patch.row, column: patch.column });
          return el("li", {}, el("a", { href: target, title: words, "aria-label": words }, el("img", { src: pictureAt(patch.src), alt: "" }), el("span", { text: real(patch.value, 3) })));
        }),
      );
      return el("div", {}, list, beyond && el("p", { class: "small quiet", text: "Hatched: beyond the border of the image, where there is padding." }));
    }
    if (kind === "ascent") {
      const words = `An image that excites channel ${channel} to ${real(result.value)}`;
      const compared = Number.isFinite(result.best) ? `; the best real image: ${real(result.best, 3)}` : "";
      const note = result.note ? ` ${result.note}` : "";
      const seen = result.window ? ", what one unit sees" : "";
      return el("figure", { class: "ascent-figure" }, el("img", { src: pictureAt(result.src), alt: words }), el("figcaption", { class: "small quiet", text: `${result.size ? `${pair(result.size)} pixels${seen}. ` : ""}The channel's answer: ${real(result.value, 3)}${compared}.${note}` }));
    }
    const classes = Array.isArray(result) ? result : result.classes;
    const most = Math.max(...classes.map((one) => Math.abs(one.mean)), 1e-30);
    return el(
      "ul",
      { class: "classes" },
      ...classes.slice(0, CLASSES).map((one) => el("li", {}, el("span", { class: "name", text: one.name }), el("span", { class: "meter", "aria-hidden": true }, el("i", { style: { width: `${(Math.max(0, one.mean) / most) * 100}%` } })), el("span", { class: "number", text: real(one.mean, 3) }))),
      classes.length > CLASSES && el("li", { class: "small quiet", text: `and ${plural(classes.length - CLASSES, "class", "classes")} less` }),
    );
  }

  function set(place, layer, channel) {
    const chosen = now.map((one, i) => (i === place ? { layer: { index: layer }, channel: channel ?? "" } : one));
    change({ layers: chosen.map((one) => one.layer.index).join(","), channels: chosen.map((one) => one.channel).join(","), layer: null, channel: null }, true);
  }

  /** A layer that a reader comes with from another view takes the place of the stage that it is nearest to. */
  function settings(values) {
    const read = (text) => {
      const numbers = /^\d{0,6}(,\d{0,6})*$/.test(text || "") ? (text || "").split(",").map((part) => (part === "" ? null : Number(part))) : [];
      return numbers.length === usual.length ? numbers : null;
    };
    const indices = (read(values.layers) || usual).map((index, i) => index ?? usual[i]);
    const channels = read(values.channels) || usual.map(() => null);
    if (values.layer !== undefined && !values.layers) {
      const wanted = wholeNumber(values.layer, usual[0], 0, network.layers.length - 1);
      const place = usual.map((index, i) => [Math.abs(index - wanted), i]).sort((a, b) => a[0] - b[0])[0][1];
      indices[place] = wanted;
      channels[place] = wholeNumber(values.channel, null);
    }
    return indices.map((index, i) => {
      const layer = network.layers[Math.min(index, network.layers.length - 1)];
      const channel = channels[i] ?? active.get(layer.index);
      return { layer, channel: channel === undefined ? null : Math.min(channel, mapShape(layer)[0] - 1) };
    });
  }

  /** The channel of each layer in which most happens for the image: another may be dead. */
  async function findActive(layers, image) {
    await Promise.all(
      layers.map(async ({ index }) => {
        try {
          const { order } = await json(`/api/layers/${index}/maps`, { image });
          active.set(index, order[0] ?? 0);
        } catch {
          active.set(index, 0); // a layer without maps, or one that is not in the file: its own card says so
        }
      }),
    );
  }

  function update(values) {
    latestValues = values;
    const wanted = settings(values);
    const unknown = wanted.filter((one) => one.channel === null).map((one) => one.layer);
    if (unknown.length) {
      root.setAttribute("aria-busy", "true");
      const image = network.images.find(({ id }) => String(id) === values.image) || network.images[0];
      const known = image ? findActive(unknown, image.id) : Promise.resolve(unknown.forEach(({ index }) => active.set(index, 0)));
      known.then(() => {
        if (latestValues === values && !closed) update(values);
      });
      return;
    }
    root.removeAttribute("aria-busy");
    const before = now;
    now = wanted;
    complete({ layers: now.map((one) => one.layer.index).join(","), channels: now.map((one) => one.channel).join(",") }, "channels");
    columns.forEach((one, i) => {
      const changed = before && (before[i].layer !== now[i].layer || before[i].channel !== now[i].channel);
      if (changed) one.leave();
      one.show();
      if (network.images.length && (!before || changed)) one.startAll();
    });
    announce(now.map((one, i) => `${stages[i].title}: ${one.layer.name}, channel ${one.channel}`).join(". "));
  }

  update(values);
  return {
    update,
    close() {
      closed = true;
      for (const one of columns) if (now) one.leave();
      now = null;
    },
  };
}
