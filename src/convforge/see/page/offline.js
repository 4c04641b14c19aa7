// In an exported file there is no server to ask, but the numbers that go into its answers are stored: the layer's input,
// its kernels and biases, and what the model made of them. Here the sums are done in the browser.

import { formula, outputShape, slide, sourceOf, unit } from "./arithmetic.js";

const BLOCK = 16;
const LARGEST = 6; // products that are written out

/** The layer's spec with what the reader set instead. */
export function overridden(layer, { stride, padding, dilation, groups }) {
  const both = (value, own) => (value === undefined ? own : [Number(value), Number(value)]);
  return {
    kernel: layer.kernel,
    stride: both(stride, layer.stride),
    padding: padding === undefined ? layer.padding : [[Number(padding), Number(padding)], [Number(padding), Number(padding)]],
    dilation: both(dilation, layer.dilation),
    groups: groups === undefined ? layer.groups : Number(groups),
    mode: layer.padding_mode || "zeros",
  };
}

/**
 * The weights with which output channel `at` reads the input channels given: its own where they lie in its group of the
 * model, zeros elsewhere. A grouped layer is a dense one with the weights between groups struck out.
 */
function weightsOf(layer, kernels, at, channels) {
  const area = layer.kernel[0] * layer.kernel[1];
  const perGroup = layer.input_shape[0] / layer.groups;
  const first = Math.floor(at / (layer.output_shape[0] / layer.groups)) * perGroup;
  const weights = new Float32Array(channels.length * area);
  channels.forEach((channel, i) => {
    const own = channel - first;
    if (own < 0 || own >= perGroup) return;
    const from = (at * perGroup + own) * area;
    weights.set(kernels.subarray(from, from + area), i * area);
  });
  return weights;
}

async function material(index, parameters, ask) {
  const network = await ask.json("/api/network");
  const layer = network.layers[index];
  const [inputs, height, width] = layer.input_shape;
  const outputs = layer.output_shape[0];
  const spec = overridden(layer, parameters);
  const at = Number(parameters.channel);
  const perGroup = inputs / spec.groups;
  const first = Math.floor(at / (outputs / spec.groups)) * perGroup;
  const channels = Array.from({ length: perGroup }, (_, i) => first + i);
  const planes = new Map();
  for (let block = Math.floor(first / BLOCK) * BLOCK; block < first + perGroup; block += BLOCK) {
    const found = await ask.numbers(`/api/layers/${index}/input/values`, { image: parameters.image, first: block, count: BLOCK });
    for (let i = 0; i < found.shape[0]; i += 1) {
      planes.set(block + i, found.values.subarray(i * height * width, (i + 1) * height * width));
    }
  }
  const kernels = await ask.numbers(`/api/layers/${index}/kernels/values`);
  const bias = await ask.numbers(`/api/layers/${index}/bias/values`);
  return {
    layer,
    material: {
      channel: (c) => planes.get(c),
      size: [height, width],
      channels,
      weights: weightsOf(layer, kernels.values, at, channels),
      bias: bias.values[at] || 0,
      spec,
    },
  };
}

/** What a unit sees of the image, where all units see alike: windows of one size at equal distances. */
async function field(index, { row, column }, ask) {
  const { layers } = await ask.json("/api/network");
  const { field } = layers[index];
  if (field === "all") return { box: "all" };
  if (!field || !field.start) return null;
  const place = [row, column].map((at, axis) => field.start[axis] + Number(at) * field.jump[axis]);
  return { box: [...place, ...field.size] };
}

/**
 * The products behind the gradient of a weight, made of what the loss sent back to the layer and of the layer's input.
 * Where no weight is named, it is the one with the largest gradient.
 */
async function backward(index, parameters, values, ask) {
  const place = `/api/layers/${index}/backward`;
  const asked = { image: parameters.image, of: parameters.of };
  const [network, { of, loss, probability }, incoming, gradients, kernels] = await Promise.all([
    ask.json("/api/network"),
    ask.json(`${place}/loss`, asked),
    ask.numbers(`${place}/incoming`, asked),
    ask.numbers(`${place}/gradient`, asked),
    ask.numbers(`/api/layers/${index}/kernels/values`),
  ]);
  const layer = network.layers[index];
  const [outputs, inputs, height, width] = gradients.shape;
  const at = Number(parameters.channel);
  const own = { read: parameters.read, row: parameters.row, column: parameters.column };
  const named = Object.fromEntries(Object.entries(own).map(([name, value]) => [name, value === undefined || value === null ? null : Number(value)]));
  const placed = (read, row, column) => ((at * inputs + read) * height + row) * width + column;
  let largest = [0, 0, 0];
  let most = -1;
  for (let read = named.read ?? 0; read < (named.read === null ? inputs : named.read + 1); read += 1) {
    for (let row = 0; row < height; row += 1) {
      for (let column = 0; column < width; column += 1) {
        const size = Math.abs(gradients.values[placed(read, row, column)]);
        if (size > most) [most, largest] = [size, [read, row, column]];
      }
    }
  }
  const [read, row, column] = [named.read ?? largest[0], named.row ?? largest[1], named.column ?? largest[2]];
  if (at >= outputs || read >= inputs || row >= height || column >= width) throw new Error(`There is no weight ${at}, ${read}, ${row}, ${column}: there are ${gradients.shape.join("×")}, and counting starts at 0.`);
  const spec = overridden(layer, {});
  const [inputHeight, inputWidth] = layer.input_shape.slice(1);
  const channel = Math.floor(at / (outputs / layer.groups)) * inputs + read;
  const first = Math.floor(channel / BLOCK) * BLOCK;
  const block = await ask.numbers(`/api/layers/${index}/input/values`, { image: parameters.image, first, count: BLOCK });
  const plane = block.values.subarray((channel - first) * inputHeight * inputWidth);
  const [rows, columns] = incoming.shape.slice(1);
  const area = rows * columns;
  const came = incoming.values.subarray(at * area, (at + 1) * area);
  const met = new Float64Array(area);
  const products = new Float64Array(area);
  let total = 0;
  let magnitude = 0;
  for (let r = 0; r < rows; r += 1) {
    const y = sourceOf(r * spec.stride[0] - spec.padding[0][0] + row * spec.dilation[0], inputHeight, spec.mode);
    for (let c = 0; c < columns; c += 1) {
      const x = sourceOf(c * spec.stride[1] - spec.padding[1][0] + column * spec.dilation[1], inputWidth, spec.mode);
      const i = r * columns + c;
      met[i] = y < 0 || x < 0 ? 0 : plane[y * inputWidth + x];
      products[i] = met[i] * came[i];
      total += products[i];
      magnitude += Math.abs(products[i]);
    }
  }
  if (values) return { shape: [3, rows, columns], values: Float32Array.from([...met, ...came, ...products]) };
  const grid = (numbers) => Array.from({ length: height }, (_, i) => Array.from({ length: width }, (_, j) => numbers[placed(read, i, j)]));
  const order = Array.from(products.keys()).sort((a, b) => Math.abs(products[b]) - Math.abs(products[a]) || a - b);
  const autograd = gradients.values[placed(read, row, column)];
  return {
    of, loss, probability, read, row, column, total, magnitude, autograd,
    input: channel,
    inputs,
    kernel: grid(kernels.values),
    gradient: grid(gradients.values),
    shape: [rows, columns],
    difference: total - autograd,
    largest: order.slice(0, LARGEST).map((i) => ({ row: Math.floor(i / columns), column: i % columns, met: met[i], incoming: came[i], product: products[i] })),
  };
}

/** The answer to a question about sums or receptive fields, or null if it is another question. */
export async function computedHere(path, parameters, ask) {
  const place = path.match(/^\/api\/layers\/(\d+)\/field$/);
  if (place) return field(Number(place[1]), parameters, ask);
  const back = path.match(/^\/api\/layers\/(\d+)\/backward(\/values)?$/);
  if (back) return backward(Number(back[1]), parameters, back[2] !== undefined, ask);
  const found = path.match(/^\/api\/layers\/(\d+)\/(unit|slide|slide\/values)$/);
  if (!found) return null;
  const index = Number(found[1]);
  const { layer, material: given } = await material(index, parameters, ask);
  const size = outputShape(given.spec, given.size);
  if (Math.min(...size) < 1) throw new Error(`A ${layer.kernel.join("×")} kernel does not fit into ${given.size.join("×")} with this padding.`);
  if (found[2] === "slide/values") return { shape: size, values: slide(given) };
  const text = [0, 1].map((axis) =>
    formula(given.size[axis], given.spec.kernel[axis], given.spec.stride[axis], given.spec.padding[axis], given.spec.dilation[axis]),
  );
  const frame = { spec: given.spec, output_shape: [layer.output_shape[0], ...size], formula: { height: text[0], width: text[1] } };
  if (found[2] === "slide") return frame;
  const [row, column] = [Number(parameters.row), Number(parameters.column)];
  const shown = parameters.channels ? parameters.channels.split(",").map(Number) : undefined;
  const answer = unit({ ...given, row, column, shown });
  const changed = ["stride", "padding", "dilation", "groups"].some((name) => parameters[name] !== undefined);
  let model = null;
  if (!changed) {
    const at = Number(parameters.channel);
    const first = Math.floor(at / BLOCK) * BLOCK;
    const maps = await ask.numbers(`/api/layers/${index}/maps/values`, { image: parameters.image, first, count: BLOCK });
    model = maps.values[((at - first) * size[0] + row) * size[1] + column];
  }
  return { ...frame, ...answer, channel: Number(parameters.channel), model, difference: model === null ? null : answer.total - model };
}
