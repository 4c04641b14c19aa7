// Arrow keys: on pictures of numbers they move a cursor, in grids of tiles they move the focus.

const FAR = 10;

/** Where a key moves a cursor within rows × columns; null for a key that moves nothing. */
export function moved(event, [row, column], [rows, columns]) {
  if (event.altKey || event.metaKey) return null;
  const step = event.shiftKey ? FAR : 1;
  const within = (value, size) => Math.min(size - 1, Math.max(0, value));
  switch (event.key) {
    case "ArrowLeft":
      return [row, within(column - step, columns)];
    case "ArrowRight":
      return [row, within(column + step, columns)];
    case "ArrowUp":
      return [within(row - step, rows), column];
    case "ArrowDown":
      return [within(row + step, rows), column];
    case "PageUp":
      return [within(row - FAR, rows), column];
    case "PageDown":
      return [within(row + FAR, rows), column];
    case "Home":
      return event.ctrlKey ? [0, 0] : [row, 0];
    case "End":
      return event.ctrlKey ? [rows - 1, columns - 1] : [row, columns - 1];
    default:
      return null;
  }
}

/** How many of the container's tiles stand in one row, read from the layout. */
function perRow(tiles) {
  const top = tiles[0].offsetTop;
  const next = tiles.findIndex((tile) => tile.offsetTop !== top);
  return next < 0 ? tiles.length : next;
}

/**
 * Makes the children of `container` one stop of the Tab key, among which arrow keys move.
 *
 * The tile that has the focus, or had it last, is the one that Tab comes back to.
 */
export function roving(container) {
  const tiles = () => [...container.children];
  const hold = (tile) => {
    for (const other of container.querySelectorAll(':scope > [tabindex="0"]')) if (other !== tile) other.tabIndex = -1;
    tile.tabIndex = 0;
  };
  container.addEventListener("focusin", (event) => {
    const tile = event.target.closest("*");
    if (tile.parentElement === container) hold(tile);
  });
  container.addEventListener("keydown", (event) => {
    const all = tiles();
    const at = all.indexOf(document.activeElement);
    if (at < 0) return;
    const columns = perRow(all);
    const rows = Math.ceil(all.length / columns);
    const target = moved(event, [Math.floor(at / columns), at % columns], [rows, columns]);
    if (!target) return;
    event.preventDefault();
    const tile = all[Math.min(all.length - 1, target[0] * columns + target[1])];
    hold(tile);
    tile.focus();
  });
  return {
    /** After the tiles were replaced: the first one is where Tab arrives, unless one is marked already. */
    refresh() {
      const all = tiles();
      if (all.length && !all.some((tile) => tile.tabIndex === 0)) all[0].tabIndex = 0;
    },
  };
}
