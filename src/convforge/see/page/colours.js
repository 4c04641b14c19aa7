// Numbers to colours. Signed numbers: blue below zero, orange above, the page's own neutral at zero. Other maps: dark to
// light, rising evenly in lightness, so that order survives greyscale printing and colour blindness.

import { isDark } from "./theme.js";

const GLOW = [[14, 12, 34], [58, 28, 104], [138, 44, 124], [212, 82, 100], [248, 158, 96], [253, 244, 200]];
const SIGNED_LIGHT = [[14, 58, 122], [46, 120, 210], [148, 188, 236], [247, 245, 240], [246, 186, 142], [226, 104, 36], [132, 48, 8]];
const SIGNED_DARK = [[150, 200, 255], [66, 140, 230], [40, 78, 128], [38, 40, 46], [128, 70, 38], [236, 116, 48], [255, 196, 150]];

function table(anchors) {
  const colours = new Uint8ClampedArray(256 * 3);
  for (let i = 0; i < 256; i += 1) {
    const at = (i / 255) * (anchors.length - 1);
    const low = Math.min(anchors.length - 2, Math.floor(at));
    for (let c = 0; c < 3; c += 1) colours[i * 3 + c] = anchors[low][c] + (at - low) * (anchors[low + 1][c] - anchors[low][c]);
  }
  return colours;
}

const TABLES = { glow: table(GLOW), light: table(SIGNED_LIGHT), dark: table(SIGNED_DARK) };
const NOT_A_NUMBER = [190, 40, 160];

/** A scale from `low` to `high`; one that spans zero becomes signed, with zero in its middle. */
export function scaleFor(low, high) {
  if (low < 0) {
    const reach = Math.max(-low, high, 1e-30);
    return { signed: true, low: -reach, high: reach };
  }
  return { signed: false, low: Math.min(low, high), high: high > low ? high : low + 1 };
}

/** The scale for an array's own range. */
export function scaleOf(values) {
  let low = Infinity;
  let high = -Infinity;
  for (let i = 0; i < values.length; i += 1) {
    const value = values[i];
    if (value < low) low = value;
    if (value > high) high = value;
  }
  if (low > high) return scaleFor(0, 1);
  // Activations after a ReLU begin at zero: dark is then zero rather than the least that happens to occur.
  return scaleFor(Math.min(0, low), high);
}

function tableOf(scale) {
  return scale.signed ? TABLES[isDark() ? "dark" : "light"] : TABLES.glow;
}

/** [red, green, blue] of one number. */
export function colourOf(scale, value) {
  if (Number.isNaN(value)) return NOT_A_NUMBER;
  const colours = tableOf(scale);
  const at = Math.round(Math.min(1, Math.max(0, (value - scale.low) / (scale.high - scale.low))) * 255) * 3;
  return [colours[at], colours[at + 1], colours[at + 2]];
}

/** Paints `values` from `offset` into RGBA `pixels`. */
export function paint(pixels, values, scale, offset = 0) {
  const colours = tableOf(scale);
  const factor = 255 / (scale.high - scale.low);
  for (let i = 0, p = 0; p < pixels.length; i += 1, p += 4) {
    const value = values[offset + i];
    const level = (value - scale.low) * factor;
    if (Number.isNaN(level)) [pixels[p], pixels[p + 1], pixels[p + 2]] = NOT_A_NUMBER;
    else {
      const at = (level <= 0 ? 0 : level >= 255 ? 255 : Math.round(level)) * 3;
      pixels[p] = colours[at];
      pixels[p + 1] = colours[at + 1];
      pixels[p + 2] = colours[at + 2];
    }
    pixels[p + 3] = 255;
  }
}

/** Ink that can be read on a colour. */
export function inkOn([red, green, blue]) {
  return red * 0.299 + green * 0.587 + blue * 0.114 > 140 ? "#17150f" : "#ffffff";
}

/** "rgb(1, 2, 3)". */
export function css([red, green, blue]) {
  return `rgb(${Math.round(red)}, ${Math.round(green)}, ${Math.round(blue)})`;
}

/** The scale's colours from left to right, for a legend. */
export function gradient(scale) {
  const stops = Array.from({ length: 9 }, (_, i) => css(colourOf(scale, scale.low + ((scale.high - scale.low) * i) / 8)));
  return `linear-gradient(90deg, ${stops.join(", ")})`;
}
