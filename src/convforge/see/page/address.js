// The address is the state: #/slide?layer=0&row=3. Views change it here and are told of it here, so that every address
// can be shared and reloaded, and the back button goes back.

const HOLD = 250;

/** In a frame of a notebook there is no address of the page's own: then it is kept here, and links are followed here. */
class OwnAddress {
  constructor() {
    this.hash = "";
    this.arrive = () => {};
    document.addEventListener("click", (event) => {
      const link = event.target.closest && event.target.closest('a[href^="#/"]');
      if (!link || event.defaultPrevented) return;
      event.preventDefault();
      this.go(link.getAttribute("href"));
    });
  }

  replace(hash) {
    this.hash = hash;
  }

  push(hash) {
    this.hash = hash;
  }

  go(hash) {
    this.hash = hash;
    this.arrive();
  }

  follow(arrive) {
    this.arrive = arrive;
  }
}

class BrowsersAddress {
  get hash() {
    return location.hash;
  }

  replace(hash) {
    history.replaceState(null, "", hash);
  }

  push(hash) {
    history.pushState(null, "", hash);
  }

  go(hash) {
    location.hash = hash;
  }

  follow(arrive) {
    addEventListener("hashchange", arrive);
    addEventListener("popstate", () => {
      const found = parse(location.hash);
      if (addressOf(found.view, found.values) !== addressOf(state.view, state.values)) arrive();
    });
  }
}

const address = location.protocol === "about:" ? new OwnAddress() : new BrowsersAddress();

let state = { view: "", values: {} };
let pending = 0;
let listener = () => {};

/** "#/slide?layer=0&row=3" → {view: "slide", values: {layer: "0", row: "3"}}. */
export function parse(hash) {
  const [path, query = ""] = hash.replace(/^#\/?/, "").split("?");
  return { view: path.replace(/\/+$/, ""), values: Object.fromEntries(new URLSearchParams(query)) };
}

/** The address of a view with these values; undefined and null ones are left out. */
export function addressOf(view, values = {}) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(values)) {
    if (value !== undefined && value !== null && value !== "") query.set(name, String(value));
  }
  // Commas stay readable: an address is for people, too.
  const text = query.toString().replaceAll("%2C", ",");
  return text ? `#/${view}?${text}` : `#/${view}`;
}

function flush() {
  if (!pending) return;
  clearTimeout(pending);
  pending = 0;
  address.replace(addressOf(state.view, state.values));
}

/**
 * Changes values of the present view; null takes one away.
 *
 * Steps that a reader would not want to go back through one by one (`push` false: a cursor that moves) replace the
 * entry of the history, and not more often than browsers allow.
 */
export function change(values, push = false) {
  const next = { ...state.values, ...values };
  for (const [name, value] of Object.entries(next)) {
    if (value === null || value === undefined) delete next[name];
    else next[name] = String(value);
  }
  if (push) {
    flush();
    state = { view: state.view, values: next };
    if (addressOf(state.view, next) !== address.hash) address.push(addressOf(state.view, next));
  } else {
    state = { view: state.view, values: next };
    clearTimeout(pending);
    pending = setTimeout(flush, HOLD);
  }
  listener(state);
}

/** Values that were missing from the address and have been filled in: no step of the reader's. Those of `over` had gaps,
 * and are replaced. */
export function complete(values, ...over) {
  const filled = Object.fromEntries(over.map((name) => [name, values[name]]));
  state = { view: state.view, values: { ...values, ...state.values, ...filled } };
}

/** Goes to another view. */
export function go(view, values = {}) {
  flush();
  address.go(addressOf(view, values));
}

/** What the address says now. */
export function present() {
  return parse(address.hash);
}

/** Another address in the place of the present one, before anybody follows it. */
export function settle(view) {
  address.replace(addressOf(view));
}

/** Calls `receive({view, values})` now and whenever the address changes. */
export function follow(receive) {
  listener = receive;
  const arrive = () => {
    clearTimeout(pending);
    pending = 0;
    state = present();
    receive(state);
  };
  address.follow(arrive);
  addEventListener("pagehide", flush);
  arrive();
}

/** A whole number from the address, within bounds; `otherwise` where there is none. */
export function wholeNumber(text, otherwise, low = 0, high = Infinity) {
  if (text === undefined || !/^\d{1,9}$/.test(text)) return otherwise;
  return Math.min(high, Math.max(low, Number(text)));
}
