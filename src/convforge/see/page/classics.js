// Kernels that have names, small images, and the lesson's examples: what the stand-alone slide begins with.

const rows = (text) => text.trim().split(/\s*;\s*/).map((line) => line.trim().split(/\s+/).map(Number));
const times = (factor, grid) => grid.map((line) => line.map((value) => value * factor));

/** Each with a sentence on what it answers to. Weights are applied as they stand: not turned around. */
export const KERNELS = {
  identity: { title: "Identity", weights: rows("0 0 0; 0 1 0; 0 0 0"), says: "Copies its middle pixel: the output is the input." },
  "box-blur": { title: "Box blur", weights: times(1 / 9, rows("1 1 1; 1 1 1; 1 1 1")), says: "The mean of nine pixels: edges become soft." },
  gaussian: { title: "Gaussian", weights: times(1 / 16, rows("1 2 1; 2 4 2; 1 2 1")), says: "A mean that favours the middle: a softer blur." },
  sharpen: { title: "Sharpen", weights: rows("0 -1 0; -1 5 -1; 0 -1 0"), says: "The pixel plus its difference from its neighbours." },
  emboss: { title: "Emboss", weights: rows("-2 -1 0; -1 1 1; 0 1 2"), says: "Light from one corner: slopes look raised or sunk." },
  "sobel-x": { title: "Sobel x", weights: rows("-1 0 1; -2 0 2; -1 0 1"), says: "Right minus left: large where brightness changes across, at vertical edges." },
  "sobel-y": { title: "Sobel y", weights: rows("-1 -2 -1; 0 0 0; 1 2 1"), says: "Below minus above: large at horizontal edges." },
  "prewitt-x": { title: "Prewitt x", weights: rows("-1 0 1; -1 0 1; -1 0 1"), says: "Like Sobel x, with all three rows counting alike." },
  "prewitt-y": { title: "Prewitt y", weights: rows("-1 -1 -1; 0 0 0; 1 1 1"), says: "Like Sobel y, with all three columns counting alike." },
  laplacian: { title: "Laplacian", weights: rows("0 1 0; 1 -4 1; 0 1 0"), says: "Neighbours minus the middle: zero on even ground and on even slopes." },
  "gaussian-5": { title: "Gaussian 5×5", weights: times(1 / 256, rows("1 4 6 4 1; 4 16 24 16 4; 6 24 36 24 6; 4 16 24 16 4; 1 4 6 4 1")), says: "A wider Gaussian blur." },
};

const drawn = (text) => text.trim().split(/\s+/).map((line) => [...line].map(Number));

function made(size, value) {
  return Array.from({ length: size }, (_, row) => Array.from({ length: size }, (_, column) => value(row, column)));
}

const disc = (row, column, middle, radius) => Math.hypot(row - middle, column - middle) <= radius;

/** Images of one or three channels, brightness 0 to 9. */
export const IMAGES = {
  square: { title: "Square, 7×7", channels: [drawn("1111111 1199991 1199991 1199991 1199991 1111111 1111111")] },
  cross: { title: "Cross, 7×7", channels: [drawn("0009000 0009000 0009000 9999999 0009000 0009000 0009000")] },
  diagonal: { title: "Diagonal, 7×7", channels: [drawn("9000000 5900000 0590000 0059000 0005900 0000590 0000059")] },
  ramp: { title: "Slope, 9×9", channels: [made(9, (_, column) => column + 1)] },
  ring: { title: "Ring, 13×13", channels: [made(13, (r, c) => (disc(r, c, 6, 5.3) && !disc(r, c, 6, 3) ? 8 : 1))] },
  checks: { title: "Checks, 12×12", channels: [made(12, (r, c) => ((r >> 1) + (c >> 1)) % 2 ? 8 : 1)] },
  letter: { title: "Letter, 12×12", channels: [drawn("000000000000 000099990000 000990099000 000990099000 000990099000 000999999000 000990099000 000990099000 000990099000 000990099000 000000000000 000000000000")] },
  colours: {
    title: "Three colours, 11×11",
    channels: [
      made(11, (r, c) => (disc(r - 2, c, 2.2, 3.4) || (r > 8 && c > 8) ? 9 : 1)),
      made(11, (r, c) => (disc(r, c - 4, 3.6, 3.4) ? 9 : c > 8 ? 3 : 1)),
      made(11, (r, c) => (disc(r - 4, c - 3, 3.6, 3.2) ? 9 : 2)),
    ],
  },
};

/** What a name in the address stands for: the lesson's examples, and what else is worth a look. */
export const PRESETS = {
  "lesson-stride-1": { title: "Lesson: stride 1", input: "square", kernel: "sobel-x", stride: 1, padding: 0, dilation: 1, groups: 1, says: "7×7 input, 3×3 kernel, stride 1: a 5×5 feature map." },
  "lesson-stride-2": { title: "Lesson: stride 2", input: "square", kernel: "sobel-x", stride: 2, padding: 0, dilation: 1, groups: 1, says: "The kernel jumps by two: 3×3 positions are left." },
  "lesson-same": { title: "Lesson: same padding", input: "square", kernel: "sobel-x", stride: 1, padding: 1, dilation: 1, groups: 1, says: "One zero around the border, ⌊3/2⌋ = 1: the map keeps the size of the input, 7×7." },
  "lesson-shrinks": { title: "Lesson: it shrinks", input: "square", kernel: "gaussian", stride: 1, padding: 0, dilation: 1, groups: 1, says: "Without padding 7×7 → 5×5 → 3×3 → 1×1: feed the output in again, and after three convolutions 1×1 is left, into which the kernel fits no more." },
  dilation: { title: "Gaps: dilation 2", input: "ring", kernel: "laplacian", stride: 1, padding: 2, dilation: 2, groups: 1, says: "Nine weights, spread over 5×5 pixels: a wider view at the same cost." },
  groups: { title: "Groups: each colour alone", input: "colours", kernel: "box-blur", stride: 1, padding: 1, dilation: 1, groups: 3, says: "Three groups: each output channel reads only its own input channel. With one group every output sums over all three." },
};
