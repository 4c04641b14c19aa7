// Where the page's numbers come from: the server that sent the page, or, in an exported file, the data stored in it.
// Nothing else is ever asked.

import { computedHere } from "./offline.js";

const KEEP_BYTES = 96 * 2 ** 20;
const POLL = 250;

const element = document.getElementById("stored");
const stored = element ? JSON.parse(element.textContent) : null;
const kept = new Map();
let keptBytes = 0;

/** Whether this is an exported file, which has no server behind it. */
export const exported = stored !== null;

/** The address of a request, parameters by name, so that equal questions are written equally. */
export function canonical(path, parameters = {}) {
  const query = Object.entries(parameters)
    .filter(([, value]) => value !== undefined && value !== null)
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([name, value]) => `${name}=${encodeURIComponent(value).replaceAll("%2C", ",")}`)
    .join("&");
  return query ? `${path}?${query}` : path;
}

function keep(key, value, bytes) {
  kept.set(key, { value, bytes });
  keptBytes += bytes;
  for (const [oldest, entry] of kept) {
    if (keptBytes <= KEEP_BYTES || oldest === key) break;
    kept.delete(oldest);
    keptBytes -= entry.bytes;
  }
  return value;
}

function recall(key) {
  const entry = kept.get(key);
  if (!entry) return undefined;
  kept.delete(key); // the most recently used stands last
  kept.set(key, entry);
  return entry.value;
}

function bytesOf(base64) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i += 1) bytes[i] = text.charCodeAt(i);
  return bytes;
}

/** Whether a question can be answered: always with a server, and by what is stored without. */
export function has(path, parameters) {
  return !exported || canonical(path, parameters) in stored;
}

let asking = 0;

/** The page shows that it waits (style.css), and whoever tests it knows when it does not. */
function waiting(more) {
  asking += more;
  document.documentElement.toggleAttribute("data-asking", asking > 0);
}

/** Asks the server; `read` takes the numbers or the JSON out of its answer. */
async function request(key, options, read) {
  waiting(1);
  try {
    const answer = await fetch(key.replace(/^\//, ""), options);
    if (answer.ok) return await read(answer);
    const failure = new Error(await sentenceOf(answer));
    failure.status = answer.status;
    throw failure;
  } catch (error) {
    if (error instanceof TypeError) throw new Error("The server does not answer: has “convforge see” been stopped?");
    throw error;
  } finally {
    waiting(-1);
  }
}

async function sentenceOf(answer) {
  try {
    const found = await answer.json();
    if (typeof found.error === "string") return found.error;
  } catch {
    // not JSON: the status has to do
  }
  return `The server answered with status ${answer.status}.`;
}

const asJson = (answer) => answer.json();

function missing(what) {
  return new Error(`${what} is not in this file. It shows what was chosen when it was exported; “convforge see” shows the rest.`);
}

/** JSON; answers are kept, since a model does not change while it is looked at. */
export async function json(path, parameters, signal) {
  const key = canonical(path, parameters);
  const found = recall(key);
  if (found !== undefined) return found;
  if (exported) {
    if (key in stored) return stored[key].json;
    const computed = await computedHere(path, parameters, { json, numbers });
    if (computed) return computed;
    throw missing("This part");
  }
  const text = await request(key, { signal }, (answer) => answer.text());
  return keep(key, JSON.parse(text), text.length * 4);
}

/** Numbers: {shape, values}, float32. */
export async function numbers(path, parameters, signal) {
  const key = canonical(path, parameters);
  const found = recall(key);
  if (found !== undefined) return found;
  if (exported) {
    if (key in stored) {
      const values = new Float32Array(bytesOf(stored[key].base64).buffer);
      return keep(key, { shape: stored[key].shape, values }, values.byteLength);
    }
    const computed = await computedHere(path, parameters, { json, numbers });
    if (computed) return computed;
    throw missing("This part");
  }
  const answered = await request(key, { signal }, async (answer) => ({
    shape: (answer.headers.get("X-Shape") || "").split(",").map(Number),
    values: new Float32Array(await answer.arrayBuffer()),
  }));
  return keep(key, answered, answered.values.byteLength);
}

/** What an <img> shows: an address of the server, or the stored picture itself; "" where there is none. */
export function picture(path, parameters) {
  const key = canonical(path, parameters);
  if (!exported) return key.replace(/^\//, "");
  return key in stored ? `data:${stored[key].type};base64,${stored[key].base64}` : "";
}

/** A picture that an answer names by its address. */
export function pictureAt(address) {
  if (address.startsWith("data:")) return address;
  const [path, query = ""] = address.split("?");
  return picture(path, Object.fromEntries(new URLSearchParams(query)));
}

// ---------------------------------------------------------------------------------------------------------------------
// Work that takes longer than a moment
// ---------------------------------------------------------------------------------------------------------------------

function jobKey(body) {
  return `job ${JSON.stringify(Object.fromEntries(Object.entries(body).sort(([a], [b]) => (a < b ? -1 : 1))))}`;
}

/** Whether a job can be started here, or its result is stored. */
export function canRun(body) {
  return !exported || jobKey(body) in stored;
}

/**
 * Runs a job to its end and returns its result; null if it was cancelled.
 *
 * `where` is what starts it. `progress({done, total, what})` is called as it goes on; aborting `signal` cancels it on the server, too.
 */
export async function runJob(body, progress, signal, where = "/api/jobs") {
  if (exported) {
    const key = jobKey(body);
    if (key in stored) return stored[key].json;
    throw missing("This result");
  }
  const headers = { "Content-Type": "application/json" };
  let state = await request(where, { method: "POST", headers, body: JSON.stringify(body) }, asJson);
  const place = `/api/jobs/${encodeURIComponent(state.id)}`;
  while (state.state === undefined || state.state === "running" || state.state === "waiting") {
    progress(state);
    if (signal.aborted) {
      await request(place, { method: "DELETE" }, asJson);
      return null;
    }
    await new Promise((resume) => {
      const timer = setTimeout(resume, POLL);
      signal.addEventListener("abort", () => (clearTimeout(timer), resume()), { once: true });
    });
    if (!signal.aborted) state = { id: state.id, ...(await request(place, {}, asJson)) };
  }
  if (state.state === "failed") throw new Error(state.error || state.what || "The work has failed.");
  if (state.state === "cancelled") return null;
  return state.result;
}
