// One image after the other, and one key to say what it is. A decision is written by the server before the next image
// is shown, so that nothing is lost when the page is closed.

import { announce, el, problem, say } from "./see/dom.js";
import { startTheme, toggleTheme } from "./see/theme.js";

const SMALL = 128; // pixels; smaller images are shown as squares, not as a blur
const GROUPS = {
  wrong: "Most wrong: the network answers something else",
  unsure: "Most unsure: its first two answers are close",
  decided: "Decided before",
};
/** What the run did with an image: on its card, and below it in the list. */
const PARTS = {
  "held out": ["The run held it out: it has not learned from it.", "held out"],
  "learned from": ["The run has learned from it, with the label of that time.", "learned"],
  "not seen": ["The run has not seen it.", "not seen"],
};

const main = document.getElementById("view");
let desk = null; // what the server has told
let at = 0;
let busy = false;
let failure = null;
const tiles = [];

const percent = (share) => (share >= 0.0995 ? `${(share * 100).toFixed(0)} %` : `${(share * 100).toFixed(1)} %`);
const few = () => desk.classes.length <= 9;
const present = () => desk.images[at];

/** The classes that digits stand for: all of them where there are few, else what the network answers. */
function keyed() {
  return few() ? desk.classes : present().answers.map((answer) => answer.class).filter((name) => name !== present().was);
}

async function ask(path, options) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error("The server does not answer: has “convforge relabel” been stopped? What was decided is kept.");
  }
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error || `The server answered with status ${answer.status}.`);
  return found;
}

// ---------------------------------------------------------------------------------------------------------------------
// Deciding
// ---------------------------------------------------------------------------------------------------------------------

/** Asks the server to write something down; shows what came of it. */
async function write(path, options) {
  if (busy) return false;
  busy = true;
  failure = null;
  try {
    const made = await ask(path, options);
    Object.assign(desk.images[made.image], { decided: made.decided, label: made.label });
    tiles[made.image].draw();
    return true;
  } catch (error) {
    failure = error;
    return false;
  } finally {
    busy = false;
    progress();
  }
}

async function decide(label) {
  const number = at;
  const body = JSON.stringify({ image: number, label });
  const headers = { "Content-Type": "application/json" };
  if (!(await write("api/decisions", { method: "POST", headers, body }))) return show(at);
  const next = following(number);
  const words = label === null ? "Left out." : label === desk.images[number].was ? `Kept as ${label}.` : `Now ${label}.`;
  show(next === null ? number : next);
  announce(next === null ? `${words} All images are decided.` : `${words} Next: ${present().name}`);
}

async function takeBack() {
  if (!present().decided) return;
  await write(`api/decisions/${at}`, { method: "DELETE" });
  show(at);
  if (!failure) announce(`Taken back: ${present().was}.`);
}

/** The next image that is not decided, from the start again if need be; null if there is none. */
function following(number) {
  const count = desk.images.length;
  for (let step = 1; step <= count; step += 1) {
    const other = (number + step) % count;
    if (!desk.images[other].decided) return other;
  }
  return null;
}

// ---------------------------------------------------------------------------------------------------------------------
// Showing
// ---------------------------------------------------------------------------------------------------------------------

function progress() {
  const done = desk.images.filter((image) => image.decided);
  const out = done.filter((image) => image.label === null).length;
  const changed = done.filter((image) => image.label !== null && image.label !== image.was).length;
  const counts = `${changed} relabelled, ${out} left out, ${done.length - changed - out} kept`;
  say(document.getElementById("progress"), `${done.length} of ${desk.images.length} decided: ${counts}`);
}

function key(name) {
  return el("kbd", { text: name });
}

function choice(label, name) {
  const image = present();
  const chosen = image.decided && image.label === label;
  return el(
    "button",
    { type: "button", "aria-pressed": chosen ? "true" : "false", "data-class": label, on: { click: () => decide(label) } },
    name ? key(name) : null,
    el("span", { text: label }),
  );
}

function answers(image) {
  const rows = image.answers.slice(0, 5).map((answer) => ({ name: answer.class, share: answer.share }));
  if (!rows.some((row) => row.name === image.was)) rows.push({ name: image.was, share: image.share });
  const cells = rows.flatMap(({ name, share }) => [
    el("span", { class: name === image.was ? "name labelled" : "name", text: name }),
    el("span", { class: "bar", "aria-hidden": "true" }, el("i", { style: { width: `${share * 100}%` } })),
    el("span", { class: "share", text: percent(share) }),
  ]);
  return el("div", { class: "answers" }, ...cells);
}

function state(image) {
  if (!image.decided) return el("p", { class: "state quiet", text: "Not decided yet." });
  if (image.label === null) return el("p", { class: "state changed", text: "Left out: the next run does not see it." });
  const words = image.label === image.was ? `Kept as ${image.was}.` : `Relabelled: the next run takes it for ${image.label}.`;
  return el("p", { class: "state changed", text: words });
}

function others() {
  if (few()) return null;
  const list = el("datalist", { id: "classes" }, ...desk.classes.map((name) => el("option", { value: name })));
  const input = el("input", { type: "search", id: "other", list: "classes", autocomplete: "off", placeholder: "Name of a class" });
  const form = el(
    "form",
    { class: "other" },
    el("label", { for: "other", class: "small quiet" }, key("/"), el("span", { text: ` Any of the ${desk.classes.length} classes, then Enter` })),
    input,
    list,
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const typed = input.value.trim().toLowerCase();
    const fits = desk.classes.filter((name) => name.toLowerCase().startsWith(typed));
    const found = fits.find((name) => name.toLowerCase() === typed) || (fits.length === 1 ? fits[0] : null);
    if (typed && found) decide(found);
    else announce(typed ? `${fits.length} classes begin with ${typed}.` : "Type the name of a class.");
  });
  return form;
}

function done() {
  if (following(at) !== null || !present().decided) return null;
  return el("p", { class: "notice", role: "status", text: `All ${desk.images.length} images are decided. The next run on ${desk.folder} learns from that; this page can be closed.` });
}

/** Shows an image; the strip stays as it is, so that its pictures are loaded once. */
function show(number) {
  at = number;
  const image = present();
  const picture = el("img", { src: `api/images/${at}`, alt: `${image.name}, labelled ${image.was}` });
  picture.addEventListener("load", () => picture.classList.toggle("small", Math.max(picture.naturalWidth, picture.naturalHeight) < SMALL));
  const first = image.answers[0];
  const agrees = first.class === image.was;
  const heading = agrees ? `${image.was}, but is it?` : `${image.was}, or ${first.class}?`;
  const hint = agrees
    ? `It lies in the folder ${image.was}, and the network gives that ${percent(image.share)}.`
    : `It lies in the folder ${image.was}; the network answers ${first.class} with ${percent(first.share)}.`;
  const panel = el(
    "section",
    { class: "says-what", "aria-label": "What it is" },
    el("div", {}, el("h1", { text: heading }), el("p", { class: "says", text: hint }), image.part ? el("p", { class: "says seen-as", text: PARTS[image.part][0] }) : null),
    answers(image),
    failure ? problem(failure) : null,
    state(image),
    el(
      "div",
      { class: "deeds" },
      el("button", { type: "button", class: "deed main", id: "keep", on: { click: () => decide(image.was) } }, key("Enter"), el("span", { text: `Keep ${image.was}` })),
      el("button", { type: "button", class: "deed", id: "out", "aria-pressed": image.decided && image.label === null ? "true" : "false", on: { click: () => decide(null) } }, key("X"), el("span", { text: "Leave out" })),
      el("button", { type: "button", class: "deed", id: "undo", disabled: !image.decided, on: { click: takeBack } }, key("U"), el("span", { text: "Take back" })),
    ),
    el("div", { class: "choices", role: "group", "aria-label": "Another class" }, ...keyed().map((name, index) => choice(name, index < 9 ? String(index + 1) : null))),
    others(),
    el(
      "div",
      { class: "deeds" },
      el("button", { type: "button", class: "deed", id: "back", on: { click: () => step(-1) } }, key("←"), el("span", { text: "Previous" })),
      el("button", { type: "button", class: "deed", id: "on", on: { click: () => step(1) } }, key("→"), el("span", { text: "Next" })),
    ),
    done(),
  );
  main.querySelector(".desk").replaceChildren(
    el("figure", { class: "shown" }, el("div", { class: "frame" }, picture), el("figcaption", {}, el("strong", { text: image.name }), el("span", { class: "quiet small", text: `  ${at + 1} of ${desk.images.length}` }))),
    panel,
  );
  for (const [index, tile] of tiles.entries()) tile.here(index === at);
  progress();
}

function step(by) {
  failure = null;
  show((at + by + desk.images.length) % desk.images.length);
  announce(present().name);
}

/** From the strip: the keys are for the image then, and no longer for the button that was pressed. */
function pick(number) {
  failure = null;
  show(number);
  main.focus({ preventScroll: true });
  main.querySelector(".desk").scrollIntoView({ block: "nearest" });
}

/** An image in the strip. */
function tileOf(image, number) {
  const mark = el("span", { class: "mark", hidden: true });
  const named = image.part ? `${image.name}, ${image.part}` : image.name;
  const node = el("button", { type: "button", class: "tile", title: named, on: { click: () => pick(number) } }, el("img", { src: `api/images/${number}?side=128`, alt: "", loading: "lazy" }), image.part ? el("span", { class: "seen-as", text: PARTS[image.part][1] }) : null, mark);
  function draw() {
    node.classList.toggle("decided", image.decided);
    node.classList.toggle("out", image.decided && image.label === null);
    mark.hidden = !image.decided;
    const words = image.label === null ? "left out" : image.label === image.was ? "kept" : image.label;
    say(mark, words);
    node.setAttribute("aria-label", `${named}, labelled ${image.was}${image.decided ? `, ${words}` : ""}`);
  }
  draw();
  return {
    node,
    draw,
    here(is) {
      node.toggleAttribute("aria-current", is);
      if (is) node.setAttribute("aria-current", "true");
    },
  };
}

function strip() {
  const sections = Object.entries(GROUPS).map(([group, words]) => {
    const members = [...desk.images.keys()].filter((number) => desk.images[number].group === group);
    if (!members.length) return null;
    return el("section", {}, el("h2", { text: `${words} (${members.length})` }), el("div", { class: "tiles" }, ...members.map((number) => tiles[number].node)));
  });
  return el("div", { class: "strip" }, ...sections);
}

// ---------------------------------------------------------------------------------------------------------------------
// Keys
// ---------------------------------------------------------------------------------------------------------------------

addEventListener("keydown", (event) => {
  if (!desk || event.altKey || event.ctrlKey || event.metaKey) return;
  if (event.target instanceof HTMLInputElement) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  // Enter on a button that has the focus presses that button.
  const onButton = event.target instanceof HTMLButtonElement && (event.key === "Enter" || event.key === " ");
  if (onButton) return;
  if (event.repeat && !event.key.startsWith("Arrow")) return; // a key that is held decides once
  const digit = /^[1-9]$/.test(event.key) ? keyed()[Number(event.key) - 1] : undefined;
  if (digit !== undefined) decide(digit);
  else if (event.key === "Enter") decide(present().was);
  else if (event.key.toLowerCase() === "x" || event.key === "Delete") decide(null);
  else if (event.key.toLowerCase() === "u" || event.key === "Backspace") takeBack();
  else if (event.key === "ArrowLeft") step(-1);
  else if (event.key === "ArrowRight") step(1);
  else if (event.key === "/" && document.getElementById("other")) document.getElementById("other").focus();
  else return;
  event.preventDefault();
});

async function start() {
  startTheme();
  document.getElementById("theme").addEventListener("click", toggleTheme);
  try {
    desk = await ask("api/images");
  } catch (error) {
    main.replaceChildren(problem(error));
    return;
  }
  say(document.getElementById("run"), `relabel · ${desk.run}`);
  document.title = `${desk.run} · convforge relabel`;
  tiles.push(...desk.images.map(tileOf));
  main.replaceChildren(
    el("div", { class: "desk" }),
    el("p", { class: "quiet small saved" }, "Each decision is written at once into ", el("code", { text: desk.file }), "; no image is moved or deleted."),
    strip(),
  );
  const first = desk.images.findIndex((image) => !image.decided);
  show(first < 0 ? 0 : first);
  main.dataset.ready = "true";
}

start();
