// Light or dark: the system's choice, unless the reader makes one. Canvases ask here, and redraw when it changes.

const system = matchMedia("(prefers-color-scheme: dark)");
const KEPT = "convforge-theme";
const listeners = new Set();
const known = new Map();

function kept() {
  try {
    return localStorage.getItem(KEPT);
  } catch {
    return null; // a browser that keeps nothing for files, or for anyone
  }
}

/** Whether the page is dark now. */
export function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : system.matches;
}

/** Calls `listener` whenever colours change; returns what ends that. */
export function onTheme(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

function changed() {
  known.clear();
  for (const listener of listeners) listener();
}

/** Takes over what the reader chose last time, and follows the system otherwise. */
export function startTheme() {
  const chosen = kept();
  if (chosen === "dark" || chosen === "light") document.documentElement.dataset.theme = chosen;
  system.addEventListener("change", changed);
}

/** The other one of light and dark. */
export function toggleTheme() {
  const chosen = isDark() ? "light" : "dark";
  document.documentElement.dataset.theme = chosen;
  try {
    localStorage.setItem(KEPT, chosen);
  } catch {
    // not kept, but chosen for this page
  }
  changed();
}

/** A colour of the style sheet by its name, such as "--accent", as canvases want it. */
export function colour(name) {
  if (!known.has(name)) {
    const probe = document.getElementById("probe");
    probe.style.setProperty("color", `var(${name})`);
    known.set(name, getComputedStyle(probe).color);
  }
  return known.get(name);
}
