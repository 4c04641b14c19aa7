// The convolution itself, for the stand-alone slide and for exported files, which have no server. Sums are float64, as
// on the server. Notation: k kernel, s stride, p padding, d dilation.
//
// A spec here is {kernel: [kh, kw], stride: [v, h], padding: [[top, bottom], [left, right]], dilation: [v, h], groups,
// mode}, where mode is what stands beyond the border.

/** Positions at which the kernel fits along one axis: ⌊(size + p₀ + p₁ − d·(k − 1) − 1) / s⌋ + 1; below 1 if none. */
export function outputSize(size, kernel, stride, [before, after], dilation) {
  return Math.floor((size + before + after - dilation * (kernel - 1) - 1) / stride) + 1;
}

/** The same formula with its numbers filled in. */
export function formula(size, kernel, stride, [before, after], dilation) {
  const out = outputSize(size, kernel, stride, [before, after], dilation);
  return `⌊(${size} + ${before} + ${after} − ${dilation}·(${kernel} − 1) − 1)/${stride}⌋ + 1 = ${String(out).replace("-", "−")}`;
}

/** [H_out, W_out]. */
export function outputShape(spec, [height, width]) {
  return [height, width].map((size, axis) =>
    outputSize(size, spec.kernel[axis], spec.stride[axis], spec.padding[axis], spec.dilation[axis]),
  );
}

/** Input rows (axis 0) or columns (axis 1) that output position `at` multiplies; outside the input they are padding. */
export function positions(spec, axis, at) {
  const first = at * spec.stride[axis] - spec.padding[axis][0];
  return Array.from({ length: spec.kernel[axis] }, (_, i) => first + i * spec.dilation[axis]);
}

/** Where the number for position `at` comes from: an index of the input, or −1 for a zero. */
export function sourceOf(at, size, mode = "zeros") {
  if (at >= 0 && at < size) return at;
  if (mode === "replicate") return at < 0 ? 0 : size - 1;
  if (mode === "reflect") return at < 0 ? -at : 2 * (size - 1) - at;
  if (mode === "circular") return ((at % size) + size) % size;
  return -1;
}

/**
 * The products and sums behind one output number.
 *
 * `channel(c)` is the input's channel c, an array of height · width; `weights` are the kernel of this output channel,
 * (C/g) · kh · kw numbers; `channels` lists the input channels it reads. The result is the server's: patch, kernel and
 * products of the `shown` channels [first, count], and the sums of all.
 */
export function unit({ channel, size, channels, weights, bias, spec, row, column, shown }) {
  const [height, width] = size;
  const [kh, kw] = spec.kernel;
  const rows = positions(spec, 0, row);
  const columns = positions(spec, 1, column);
  const [first, count] = shown || [0, channels.length];
  const found = { patch: [], kernel: [], products: [], sums: [] };
  channels.forEach((index, c) => {
    const values = channel(index);
    const seen = c >= first && c < first + count;
    const grids = [[], [], []];
    let sum = 0;
    for (let i = 0; i < kh; i += 1) {
      const lines = [[], [], []];
      const y = sourceOf(rows[i], height, spec.mode);
      for (let j = 0; j < kw; j += 1) {
        const x = sourceOf(columns[j], width, spec.mode);
        const number = y < 0 || x < 0 ? 0 : values[y * width + x];
        const weight = weights[(c * kh + i) * kw + j];
        sum += number * weight;
        if (seen) [number, weight, number * weight].forEach((value, n) => lines[n].push(value));
      }
      if (seen) lines.forEach((line, n) => grids[n].push(line));
    }
    found.sums.push(sum);
    if (seen) [found.patch, found.kernel, found.products].forEach((list, n) => list.push(grids[n]));
  });
  const total = found.sums.reduce((sum, part) => sum + part, 0) + bias;
  return { ...found, inputs: { channels, rows, columns }, bias, total, row, column };
}

/** One output channel, computed whole. */
export function slide({ channel, size, channels, weights, bias, spec }) {
  const [height, width] = size;
  const [kh, kw] = spec.kernel;
  const [outHeight, outWidth] = outputShape(spec, size);
  const sums = new Float64Array(outHeight * outWidth).fill(bias);
  const allRows = Array.from({ length: outHeight }, (_, r) => positions(spec, 0, r).map((y) => sourceOf(y, height, spec.mode)));
  const allColumns = Array.from({ length: outWidth }, (_, c) => positions(spec, 1, c).map((x) => sourceOf(x, width, spec.mode)));
  channels.forEach((index, c) => {
    const values = channel(index);
    for (let i = 0; i < kh; i += 1) {
      for (let j = 0; j < kw; j += 1) {
        const weight = weights[(c * kh + i) * kw + j];
        if (weight === 0) continue;
        for (let r = 0; r < outHeight; r += 1) {
          const y = allRows[r][i];
          if (y < 0) continue;
          for (let q = 0; q < outWidth; q += 1) {
            const x = allColumns[q][j];
            if (x >= 0) sums[r * outWidth + q] += weight * values[y * width + x];
          }
        }
      }
    }
  });
  return Float32Array.from(sums);
}
