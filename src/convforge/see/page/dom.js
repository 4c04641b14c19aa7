// Elements in one call, and the few things that every view does with them.

/** An element: attributes by name; `class`, `text`, `style` (an object) and `on` (listeners) are what they say. */
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "class") node.className = value;
    else if (name === "text") node.textContent = value;
    else if (name === "style") for (const [key, part] of Object.entries(value)) node.style.setProperty(key, part);
    else if (name === "on") for (const [event, listener] of Object.entries(value)) node.addEventListener(event, listener);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

const SVG = "http://www.w3.org/2000/svg";

/** A picture of strokes in a square of 24 × 24, hidden from screen readers: the button around it carries the words. */
export function icon(path, filled = false) {
  const node = document.createElementNS(SVG, "svg");
  node.setAttribute("viewBox", "0 0 24 24");
  node.setAttribute("aria-hidden", "true");
  node.setAttribute("class", filled ? "icon filled" : "icon");
  const shape = document.createElementNS(SVG, "path");
  shape.setAttribute("d", path);
  node.append(shape);
  return node;
}

/** Writes only what differs, so that a screen reader and the layout are left alone by what stays the same. */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

let turn = 0;

/** Speaks a sentence through the page's live region; a sentence that is followed by another at once is not spoken. */
export function announce(text) {
  clearTimeout(turn);
  turn = setTimeout(() => say(document.getElementById("live"), text), 250);
}

let last = 0;

/** An id that no other element has. */
export function freshId(word) {
  last += 1;
  return `${word}-${last}`;
}

/** A sentence for what went wrong, where the view would have been. */
export function problem(error) {
  return el("p", { class: "notice", role: "alert", text: error.message || String(error) });
}

/** Calls `work` with the newest arguments only: while one call is under way, those in between are dropped. */
export function latest(work) {
  let busy = false;
  let waiting = null;
  return async function call(...args) {
    if (busy) {
      waiting = args;
      return;
    }
    busy = true;
    try {
      await work(...args);
    } finally {
      busy = false;
      if (waiting) {
        const next = waiting;
        waiting = null;
        call(...next);
      }
    }
  };
}
