// What several views let the reader choose with: a layer, an image, a number, one of a few.

import { picture, exported } from "./api.js";
import { el, freshId, icon } from "./dom.js";
import { roving } from "./keyboard.js";
import { pair, plural, short } from "./numbers.js";

const SHOWN_AT_ONCE = 120;

function labelled(label, control, help) {
  control.id = freshId("control");
  const text = el("label", { for: control.id, text: label });
  if (help) text.title = help;
  return text;
}

/** "features.0.0 · Conv2d 3×3": as short as says which layer it is. */
export function layerTitle(layer) {
  const kernel = layer.kernel ? ` ${pair(layer.kernel)}` : "";
  return `${layer.name} · ${layer.type}${kernel}`;
}

/** A list of layers to choose one from. */
export function layerSelect({ layers, change, label = "Layer" }) {
  const select = el("select", { on: { change: () => change(Number(select.value)) } });
  for (const layer of layers) select.append(el("option", { value: layer.index, text: layerTitle(layer) }));
  const text = labelled(label, select);
  return {
    element: el("div", { class: "field layer-field" }, text, select),
    set(index) {
      select.value = String(index);
    },
  };
}

/** A whole number with buttons for one less and one more; typing and the arrow keys work, too. */
export function stepper({ label, change, help = "" }) {
  let bounds = [0, Infinity];
  const input = el("input", { type: "text", inputmode: "numeric", autocomplete: "off", role: "spinbutton", class: "spin" });
  const fewer = el("button", { type: "button", class: "step", tabindex: -1, "aria-hidden": true, text: "−" });
  const more = el("button", { type: "button", class: "step", tabindex: -1, "aria-hidden": true, text: "+" });
  let present = 0;
  let allowed = null;
  const choose = (value) => {
    let next = Math.min(bounds[1], Math.max(bounds[0], value));
    if (allowed && !allowed.includes(next)) {
      const wanted = value > present ? allowed.find((v) => v >= value) : [...allowed].reverse().find((v) => v <= value);
      next = wanted === undefined ? present : wanted;
    }
    if (next !== present) change(next);
    else input.value = input.dataset.as || String(present);
  };
  const by = (step) => {
    if (!allowed) return choose(present + step);
    const at = allowed.indexOf(present);
    return choose(allowed[Math.min(allowed.length - 1, Math.max(0, (at < 0 ? 0 : at) + step))]);
  };
  fewer.addEventListener("click", () => by(-1));
  more.addEventListener("click", () => by(1));
  input.addEventListener("change", () => {
    if (/^\s*\d{1,6}\s*$/.test(input.value)) choose(Number(input.value));
    else input.value = input.dataset.as || String(present);
  });
  input.addEventListener("keydown", (event) => {
    const steps = { ArrowUp: 1, ArrowDown: -1, PageUp: 10, PageDown: -10 }[event.key];
    if (!steps) return;
    event.preventDefault();
    if (allowed) by(Math.sign(steps));
    else choose(present + steps);
  });
  const text = labelled(label, input, help);
  return {
    element: el("div", { class: "field" }, text, el("div", { class: "stepper" }, fewer, input, more)),
    /** Shows a value; `as` is what to write where one number does not say it (sides that differ). */
    set(value, { low = 0, high = Infinity, as = "", of = null, choices = null } = {}) {
      present = value;
      bounds = [low, high];
      allowed = choices;
      input.dataset.as = as;
      input.value = as || String(value);
      input.setAttribute("aria-valuenow", String(value));
      input.setAttribute("aria-valuemin", String(low));
      if (Number.isFinite(high)) input.setAttribute("aria-valuemax", String(high));
      input.setAttribute("aria-valuetext", as || (of ? `${value} of ${of}` : String(value)));
      fewer.disabled = allowed ? allowed.indexOf(value) <= 0 : value <= low;
      more.disabled = allowed ? allowed.indexOf(value) >= allowed.length - 1 : value >= high;
    },
  };
}

/** A few possibilities side by side, of which one holds: radio buttons that look like a switch. */
export function segmented({ label, options, change }) {
  const name = freshId("choice");
  const inputs = new Map();
  const parts = options.map(([value, text, help]) => {
    const input = el("input", { type: "radio", name, value, on: { change: () => change(value) } });
    inputs.set(value, input);
    return el("label", { title: help }, input, el("span", { text }));
  });
  const id = freshId("legend");
  return {
    element: el(
      "div",
      { class: "field", role: "radiogroup", "aria-labelledby": id },
      el("span", { class: "label", id, text: label }),
      el("div", { class: "segments" }, ...parts),
    ),
    set(value) {
      const input = inputs.get(value);
      if (input) input.checked = true;
    },
  };
}

/** A small picture of an image. */
export function thumbnail(id, side = 96) {
  return exported ? picture(`/api/images/${id}`, { view: "input" }) : picture(`/api/images/${id}`, { view: "thumb", side });
}

/** The image that is looked at, and a dialog with all of them. */
export function imagePicker({ images, change }) {
  const small = el("img", { alt: "", class: "thumb" });
  const name = el("span", { class: "name" });
  const button = el("button", { type: "button", class: "picker", "aria-haspopup": "dialog" }, small, name, icon("M6 9l6 6 6-6"));
  const text = labelled("Image", button);
  const filter = el("input", { type: "search", placeholder: "Find by name", "aria-label": "Find an image by name" });
  const grid = el("div", { class: "images", role: "group", "aria-label": "Images" });
  const count = el("p", { class: "quiet", "aria-live": "polite" });
  const more = el("button", { type: "button", text: "Show more" });
  const heading = el("h2", { text: "Choose an image", id: freshId("heading") });
  const dismiss = el("button", { type: "button", class: "plain", "aria-label": "Close", on: { click: () => dialog.close() } }, icon("M6 6l12 12M18 6L6 18"));
  const dialog = el(
    "dialog",
    { class: "images-dialog", "aria-labelledby": heading.id },
    el("header", {}, heading, dismiss),
    filter,
    grid,
    el("footer", {}, count, more),
  );
  const tab = roving(grid);
  let limit = SHOWN_AT_ONCE;
  let chosen = null;

  const fill = () => {
    const wanted = filter.value.trim().toLowerCase();
    const found = images.filter((image) => !wanted || `${image.name} ${image.label || ""}`.toLowerCase().includes(wanted));
    grid.replaceChildren(
      ...found.slice(0, limit).map((image) =>
        el(
          "button",
          {
            type: "button",
            class: "image",
            tabindex: image.id === chosen ? 0 : -1,
            "aria-pressed": image.id === chosen ? "true" : "false",
            on: {
              click: () => {
                dialog.close();
                change(image.id);
              },
            },
          },
          el("img", { src: thumbnail(image.id), alt: "", loading: "lazy", width: 96, height: 96 }),
          el("span", { text: short(image.name, 24), title: image.name }),
          image.label && el("small", { text: image.label }),
        ),
      ),
    );
    tab.refresh();
    count.textContent = plural(found.length, "image");
    more.hidden = found.length <= limit;
  };
  button.addEventListener("click", () => {
    fill();
    dialog.showModal();
    const pressed = grid.querySelector('[aria-pressed="true"]');
    if (pressed) pressed.focus();
  });
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
  filter.addEventListener("input", () => {
    limit = SHOWN_AT_ONCE;
    fill();
  });
  more.addEventListener("click", () => {
    limit += SHOWN_AT_ONCE;
    fill();
  });
  return {
    element: el("div", { class: "field" }, text, button, dialog),
    set(id) {
      chosen = id;
      const image = images.find((candidate) => candidate.id === id);
      name.textContent = image ? short(image.name) : "none";
      button.title = image ? image.name : "";
      const source = image ? thumbnail(image.id) : "";
      if (source && small.getAttribute("src") !== source) small.src = source;
    },
  };
}

/** A button with words, or with a picture and words that only screen readers get. */
export function button(label, click, { path = "", filled = false, quiet = false } = {}) {
  const attributes = { type: "button", class: path ? "tool" : quiet ? "plain" : "", on: { click } };
  if (!path) return el("button", { ...attributes, text: label });
  return el("button", { ...attributes, "aria-label": label, title: label }, icon(path, filled));
}
