// Starts the page: theme, network, and whichever view the address names.

import { addressOf, follow, present as presentAddress, settle } from "./address.js";
import { Asked } from "./answer.js";
import { exported, json } from "./api.js";
import { el, problem, say } from "./dom.js";
import { plural, shape } from "./numbers.js";
import { startTheme, toggleTheme } from "./theme.js";
import { openCount } from "./views/count.js";
import { openDetects } from "./views/detects.js";
import { openKernels } from "./views/kernels.js";
import { openLayers } from "./views/layers.js";
import { openMaps } from "./views/maps.js";
import { openPlay } from "./views/play.js";
import { openSlide } from "./views/slide.js";
import { openWhy } from "./views/why.js";

const VIEWS = [
  { name: "slide", title: "Slide", open: openSlide },
  { name: "why", title: "Why", open: openWhy },
  { name: "layers", title: "Layers", open: openLayers },
  { name: "maps", title: "Feature maps", open: openMaps },
  { name: "kernels", title: "Kernels", open: openKernels },
  { name: "detects", title: "Detects", open: openDetects },
  { name: "count", title: "Count", open: openCount },
  { name: "play", title: "Play", open: openPlay, alone: true },
];
// What a reader has chosen in one view and expects to find in the next.
const CARRIED = ["layer", "image", "channel"];

const main = document.getElementById("view");
let present = { name: "", view: null };
let network = null;
let failure = null;
let asked = null;

const links = new Map(VIEWS.map((view) => [view, el("a", { text: view.title })]));
document.getElementById("views").append(...[...links.values()].map((link) => el("li", {}, link)));

function tabs(values) {
  const carried = Object.fromEntries(CARRIED.filter((name) => name in values).map((name) => [name, values[name]]));
  for (const [view, link] of links) {
    link.setAttribute("href", addressOf(view.name, view.alone ? {} : carried));
    if (view.name === present.name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

/** Shows what the address says: the view that is open takes over new values, another one is opened afresh. */
function receive({ view: wanted, values }) {
  const view = VIEWS.find((candidate) => candidate.name === wanted) || VIEWS[0];
  if (asked) {
    asked.element.hidden = Boolean(view.alone);
    asked.show(values.image);
  }
  if (view.name === present.name && present.view) {
    present.view.update(values);
    tabs(values);
    return;
  }
  if (present.view) present.view.close();
  present = { name: view.name, view: null };
  document.title = `${view.title} · ${network ? network.short ?? network.name : "convforge see"}`;
  tabs(values);
  if (failure && !view.alone) {
    main.replaceChildren(problem(failure));
    return;
  }
  const section = el("section", { class: `view ${view.name}`, "aria-label": view.title });
  main.replaceChildren(section);
  scrollTo(0, 0);
  try {
    present.view = view.open(section, { network, values });
  } catch (error) {
    section.replaceChildren(problem(error));
    throw error;
  }
}

async function start() {
  startTheme();
  document.getElementById("theme").addEventListener("click", toggleTheme);
  document.querySelector("[data-skip]").addEventListener("click", (event) => {
    event.preventDefault(); // the part after # is the view's address
    main.focus();
  });
  try {
    network = await json("/api/network");
    if (network.images.length) asked = new Asked(document.getElementById("asked"), network);
    const parts = [network.short ?? network.name, shape(network.input), plural(network.layers.length, "layer")];
    say(document.getElementById("network"), parts.join(" · "));
    document.getElementById("network").title = network.name;
    const notes = [...(network.notes || [])];
    if (exported) notes.push(`This is an exported file, which needs no server. It holds ${plural(network.images.length, "image")} of ${network.images_in_all ?? network.images.length}${network.images.length < network.images_in_all ? ", for convforge see --export --images puts more of them in" : ""}, and the layers that fit.`);
    if (notes.length) {
      document.getElementById("notes").replaceChildren(
        el("details", { class: "notes", name: "notes" }, el("summary", { text: plural(notes.length, "note") }), el("ul", {}, ...notes.map((note) => el("li", { text: note })))),
      );
    }
  } catch (error) {
    failure = error;
  }
  const first = presentAddress().view;
  if (!VIEWS.some((view) => view.name === first)) settle(failure ? "play" : "slide");
  follow(receive);
}

start();
