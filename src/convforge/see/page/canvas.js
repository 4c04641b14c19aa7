// Numbers as pixels. `bitmap` paints an array into a picture, one number a pixel; a `Board` shows one enlarged, with
// its border of padding, its numbers where they fit, marks and a cursor, and lets a pixel be chosen.

import { colourOf, css, gradient, inkOn, paint } from "./colours.js";
import { el } from "./dom.js";
import { moved } from "./keyboard.js";
import { colour, onTheme } from "./theme.js";

const NUMBERS_FROM = 27; // CSS pixels that a cell needs for a number in it
const BETWEEN = 7; // from the end of one number to the beginning of the next
const SMALLEST = 7.5; // of letters
const LINES_FROM = 7; // and for lines between cells

/** An array from `offset` on as a picture of height × width pixels. */
export function bitmap(values, height, width, scale, offset = 0, canvas = document.createElement("canvas")) {
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  paint(image.data, values, scale, offset);
  context.putImageData(image, 0, 0);
  return canvas;
}

/** Three channels as colours: `low` is black and `high` is full. */
export function colourBitmap(values, height, width, low, high, offset = 0, canvas = document.createElement("canvas")) {
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  const size = height * width;
  const factor = 255 / (high - low);
  for (let i = 0; i < size; i += 1) {
    for (let c = 0; c < 3; c += 1) image.data[i * 4 + c] = (values[offset + c * size + i] - low) * factor;
    image.data[i * 4 + 3] = 255;
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

/** An image of height × width pixels, and over it an array of rows × columns: what is near zero lets the image through,
 * what is far from it covers it with its colour. */
export function overlaid(image, values, rows, columns, scale, height, width) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  if (image) context.drawImage(image, 0, 0, width, height);
  for (let i = 0; i < values.length; i += 1) {
    const [row, column] = [Math.floor(i / columns), i % columns];
    const [top, left] = [Math.round((row * height) / rows), Math.round((column * width) / columns)];
    context.globalAlpha = 0.65 * Math.min(1, Math.abs(values[i]) / scale.high);
    context.fillStyle = css(colourOf(scale, values[i] < 0 ? scale.low * 0.6 : scale.high * 0.6));
    context.fillRect(left, top, Math.round(((column + 1) * width) / columns) - left, Math.round(((row + 1) * height) / rows) - top);
  }
  return canvas;
}

/** A picture from an address, when it has been loaded. */
export function loaded(source) {
  return new Promise((resolve, reject) => {
    const image = new Image();
    image.onload = () => resolve(image);
    image.onerror = () => reject(new Error("The picture could not be loaded."));
    image.src = source;
  });
}

/** Height for boards that stand above the numbers: a good part of the window, and not all of it. */
export function partOfWindow() {
  return Math.max(220, Math.min(460, innerHeight * 0.36));
}

/**
 * A picture of rows × columns that can be pointed at.
 *
 * `show` takes what there is to see:
 *   rows, columns     its size, without the border
 *   picture           a canvas or image of that size (any size is stretched over it), or null
 *   values, scale     numbers to write into the cells where they fit, and their colours
 *   write             how a number is written
 *   pad               [[top, bottom], [left, right]] cells of padding around it
 *   marks             [{rows: [..], columns: [..]}]: cells that belong together, outlined; with `frame`, their border only
 *   cursor            [row, column] or null
 *   from              where arrow keys start from if there is no cursor
 *   upTo              cells from this index on are veiled
 */
export class Board {
  constructor({ label, choose = null, hover = choose, tallest = 420, largestCell = 56, key = null }) {
    this.choose = choose;
    this.hover = hover;
    this.tallest = tallest; // CSS pixels, or a function that says how many
    this.largestCell = largestCell;
    this.key = key;
    this.state = null;
    this.canvas = el("canvas", { class: choose ? "board live" : "board", role: choose ? "application" : "img" });
    if (choose) {
      this.canvas.tabIndex = 0;
      this.canvas.setAttribute("aria-roledescription", "map: arrow keys choose a pixel");
    }
    this.element = el("div", { class: "board-frame" }, this.canvas);
    this.describe(label);
    this.observer = new ResizeObserver(() => this.draw());
    this.observer.observe(this.element);
    this.release = onTheme(() => this.draw());
    if (choose) this.listen();
  }

  /** The picture in words, with its numbers. */
  describe(words) {
    if (this.canvas.getAttribute("aria-label") !== words) this.canvas.setAttribute("aria-label", words);
  }

  close() {
    this.observer.disconnect();
    this.release();
  }

  listen() {
    let pressed = false;
    const at = (event, tell) => {
      const cell = this.cellAt(event);
      if (cell && tell) tell(cell[0], cell[1], event);
    };
    this.canvas.addEventListener("pointermove", (event) => {
      if (event.pointerType === "mouse" || pressed) at(event, pressed ? this.choose : this.hover);
    });
    this.canvas.addEventListener("pointerdown", (event) => {
      pressed = true;
      at(event, this.choose);
    });
    for (const name of ["pointerup", "pointercancel", "pointerleave"]) {
      this.canvas.addEventListener(name, () => {
        pressed = false;
      });
    }
    this.canvas.addEventListener("keydown", (event) => {
      if (!this.state) return;
      if (this.key && this.key(event)) {
        event.preventDefault();
        return;
      }
      const target = moved(event, this.state.cursor || this.state.from || [0, 0], [this.state.rows, this.state.columns]);
      if (!target) return;
      event.preventDefault();
      this.choose(target[0], target[1], event);
    });
  }

  cellAt(event) {
    if (!this.state || !this.cell) return null;
    const box = this.canvas.getBoundingClientRect();
    const [[top], [left]] = this.pad;
    const row = Math.floor((event.clientY - box.top) / this.cell) - top;
    const column = Math.floor((event.clientX - box.left) / this.cell) - left;
    const { rows, columns } = this.state;
    return row >= 0 && column >= 0 && row < rows && column < columns ? [row, column] : null;
  }

  show(state) {
    this.state = state;
    this.draw();
  }

  draw() {
    const state = this.state;
    const room = this.element.clientWidth;
    if (!state || !room) return;
    this.pad = state.pad || [[0, 0], [0, 0]];
    const [[top, bottom], [left, right]] = this.pad;
    const [tall, wide] = [state.rows + top + bottom, state.columns + left + right];
    const tallest = typeof this.tallest === "function" ? this.tallest() : this.tallest;
    let cell = Math.min(room / wide, tallest / tall, this.largestCell);
    if (cell > 4) cell = Math.floor(cell);
    this.cell = cell;
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [Math.max(1, Math.round(wide * cell)), Math.max(1, Math.round(tall * cell))];
    const canvas = this.canvas;
    const [pixelsWide, pixelsHigh] = [Math.round(width * ratio), Math.round(height * ratio)];
    if (canvas.width !== pixelsWide || canvas.height !== pixelsHigh) {
      canvas.width = pixelsWide;
      canvas.height = pixelsHigh;
      canvas.style.width = `${width}px`;
      canvas.style.height = `${height}px`;
    }
    const context = canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    const [x0, y0] = [left * cell, top * cell];
    const [w, h] = [state.columns * cell, state.rows * cell];
    if (top + bottom + left + right > 0) this.drawPadding(context, width, height, x0, y0, w, h);
    if (state.picture) {
      context.imageSmoothingEnabled = cell * ratio < 1;
      context.drawImage(state.picture, x0, y0, w, h);
    }
    if (cell >= LINES_FROM) this.drawLines(context, width, height, cell);
    if (cell >= NUMBERS_FROM && state.values) this.drawNumbers(context, cell, x0, y0);
    if (state.upTo !== undefined && state.upTo !== null) this.veil(context, x0, y0, cell);
    for (const mark of state.marks || []) this.drawMark(context, mark, x0, y0, cell);
    if (state.cursor) {
      const [row, column] = state.cursor;
      this.outline(context, x0 + column * cell, y0 + row * cell, cell, cell);
      if (cell < LINES_FROM) this.crosshair(context, x0 + (column + 0.5) * cell, y0 + (row + 0.5) * cell, width, height);
    }
  }

  drawPadding(context, width, height, x0, y0, w, h) {
    context.save();
    context.beginPath();
    context.rect(0, 0, width, height);
    context.rect(x0, y0, w, h);
    context.clip("evenodd");
    context.fillStyle = colour("--padding");
    context.fillRect(0, 0, width, height);
    context.strokeStyle = colour("--hatch");
    context.lineWidth = 1;
    context.beginPath();
    for (let x = -height; x < width; x += 6) {
      context.moveTo(x, height);
      context.lineTo(x + height, 0);
    }
    context.stroke();
    context.restore();
    context.strokeStyle = colour("--quiet");
    context.lineWidth = 1;
    context.strokeRect(x0 - 0.5, y0 - 0.5, w + 1, h + 1);
  }

  drawLines(context, width, height, cell) {
    context.strokeStyle = colour("--grid");
    context.lineWidth = 1;
    context.beginPath();
    for (let x = cell; x < width - 1; x += cell) {
      context.moveTo(Math.round(x) - 0.5, 0);
      context.lineTo(Math.round(x) - 0.5, height);
    }
    for (let y = cell; y < height - 1; y += cell) {
      context.moveTo(0, Math.round(y) - 0.5);
      context.lineTo(width, Math.round(y) - 0.5);
    }
    context.stroke();
  }

  drawNumbers(context, cell, x0, y0) {
    const { rows, columns, values, scale, write } = this.state;
    const [[top, bottom], [left, right]] = this.pad;
    const texts = Array.from(values, write);
    const family = getComputedStyle(document.body).fontFamily;
    context.font = `15px ${family}`;
    // All as large as the widest allows, with air between neighbours; too small to be read is not written.
    const widest = Math.max(1, ...texts.map((text) => context.measureText(text).width));
    const size = Math.min(15, (15 * (cell - BETWEEN)) / widest);
    if (size < SMALLEST) return;
    context.font = `${size}px ${family}`;
    context.textAlign = "center";
    context.textBaseline = "middle";
    const quiet = colour("--quiet");
    for (let row = -top; row < rows + bottom; row += 1) {
      for (let column = -left; column < columns + right; column += 1) {
        const inside = row >= 0 && column >= 0 && row < rows && column < columns;
        const value = inside ? values[row * columns + column] : 0;
        context.fillStyle = inside ? inkOn(colourOf(scale, value)) : quiet;
        context.fillText(inside ? texts[row * columns + column] : write(0), x0 + (column + 0.5) * cell, y0 + (row + 0.53) * cell);
      }
    }
  }

  veil(context, x0, y0, cell) {
    const { rows, columns, upTo } = this.state;
    const row = Math.floor(upTo / columns);
    const column = upTo % columns;
    context.fillStyle = colour("--veil");
    if (column > 0) context.fillRect(x0 + column * cell, y0 + row * cell, (columns - column) * cell, cell);
    const rest = column > 0 ? row + 1 : row;
    context.fillRect(x0, y0 + rest * cell, columns * cell, (rows - rest) * cell);
  }

  drawMark(context, mark, x0, y0, cell) {
    const { rows, columns } = mark;
    const [first, last] = [rows[0], rows[rows.length - 1]];
    const [start, end] = [columns[0], columns[columns.length - 1]];
    const gaps = !mark.frame && (last - first + 1 > rows.length || end - start + 1 > columns.length);
    if (gaps && cell >= 3) {
      for (const row of rows) {
        for (const column of columns) {
          const inset = Math.min(3, cell / 6);
          context.lineWidth = Math.min(2, cell / 4);
          context.strokeStyle = colour("--mark");
          context.strokeRect(x0 + column * cell + inset, y0 + row * cell + inset, cell - 2 * inset, cell - 2 * inset);
        }
      }
    }
    const [w, h] = [(end - start + 1) * cell, (last - first + 1) * cell];
    this.outline(context, x0 + start * cell, y0 + first * cell, w, h);
    if (!mark.frame && Math.max(w, h) < 24) {
      const box = [this.canvas.clientWidth, this.canvas.clientHeight];
      this.crosshair(context, x0 + start * cell + w / 2, y0 + first * cell + h / 2, box[0], box[1], Math.max(w, h) / 2 + 4);
    }
  }

  outline(context, x, y, w, h) {
    context.lineWidth = 4;
    context.strokeStyle = "rgb(0 0 0 / 0.55)";
    context.strokeRect(x, y, w, h);
    context.lineWidth = 2;
    context.strokeStyle = colour("--mark");
    context.strokeRect(x, y, w, h);
  }

  /** Four fine lines that lead the eye to something small. */
  crosshair(context, x, y, width, height, gap = 7) {
    context.lineWidth = 1;
    context.strokeStyle = colour("--mark");
    context.globalAlpha = 0.75;
    context.beginPath();
    for (const [fx, fy, tx, ty] of [[0, y, x - gap, y], [x + gap, y, width, y], [x, 0, x, y - gap], [x, y + gap, x, height]]) {
      if (tx < fx || ty < fy) continue;
      context.moveTo(fx, fy);
      context.lineTo(tx, ty);
    }
    context.stroke();
    context.globalAlpha = 1;
  }
}

/** A colour's legend: the scale with the numbers at its ends, and zero in the middle of a signed one. */
export function legend(node, scale, write) {
  const bar = el("i", { style: { background: gradient(scale) } });
  const middle = scale.signed ? el("span", { class: "zero", text: "0" }) : null;
  node.replaceChildren(
    el("span", { text: write(scale.low) }),
    el("span", { class: "bar" }, bar, middle),
    el("span", { text: write(scale.high) }),
  );
}

