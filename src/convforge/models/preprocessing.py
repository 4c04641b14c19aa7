"""What is done to a picture before a network sees it, as nodes of an ONNX file: pixels of any size in, logits out.

The nodes are plain arithmetic and say what `convforge.images` does, which is what Pillow's bilinear `resize` does of
the part of the picture that has the network's shape: each of the n target pixels of an axis is a weighted mean of
source pixels, by the triangle around the target's centre whose half-width is one target pixel or one source pixel,
whichever is larger. As a matrix for each axis,

    scale     = min(H / h, W / w)                    source pixels a target pixel; the smaller one covers the target
    centre(o) = (L − scale · n) / 2 + (o + ½) · scale  in an axis of L pixels, of which the middle is taken
    weight    ∝ max(0, 1 − |x + ½ − centre(o)| / max(scale, 1))

first along rows and then along columns, rounded to whole numbers after each, as eight bits are. The operator `Resize`
could do this in one node, but neither takes the middle of an axis between pixels nor is it alike in all runtimes.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..graph.onnx import File
    from .checkpoint import Architecture

KEY = "convforge.preprocessing"
"""In a file's metadata: JSON with the name and the shape of what its preprocessing makes."""
INPUT = "pixels"
_PREFIX = "preprocessing/"
_OPSET = 18
"""From which on `ReduceSum` and `Range` are as they are written here."""

_AXIS = """
  {axis}_number = Constant <value_int = {number}> ()
  {axis}_size = Gather (shape, {axis}_number)
  {axis}_length = Cast <to = 1> ({axis}_size)
"""
_WEIGHTS = """
  {axis}_whole = Range (zero, {axis}_size, step)
  {axis}_left = Cast <to = 1> ({axis}_whole)
  {axis}_positions = Add ({axis}_left, half)
  {axis}_taken = Mul (scale, {axis}_target)
  {axis}_beyond = Sub ({axis}_length, {axis}_taken)
  {axis}_start = Mul ({axis}_beyond, half)
  {axis}_numbers = Constant <value = float[{target}, 1] {{{centres}}}> ()
  {axis}_steps = Mul ({axis}_numbers, scale)
  {axis}_centres = Add ({axis}_steps, {axis}_start)
  {axis}_signed = Sub ({axis}_positions, {axis}_centres)
  {axis}_distances = Abs ({axis}_signed)
  {axis}_shares = Div ({axis}_distances, reach)
  {axis}_slopes = Sub (one, {axis}_shares)
  {axis}_triangles = Relu ({axis}_slopes)
  {axis}_sums = ReduceSum <keepdims = 1> ({axis}_triangles, last)
  {axis}_weights = Div ({axis}_triangles, {axis}_sums)
"""
_GRAPH = """
<ir_version: {ir_version}, opset_import: ["" : {opset}]>
preprocessing (uint8[batch, height, width, {channels}] pixels)
=> (float[batch, {channels}, {rows}, {columns}] images) {{
  half = Constant <value_float = 0.5> ()
  one = Constant <value_float = 1.0> ()
  white = Constant <value_float = 255.0> ()
  zero = Constant <value_int = 0> ()
  step = Constant <value_int = 1> ()
  last = Constant <value_ints = [-1]> ()
  rows_target = Constant <value_float = {rows}.0> ()
  columns_target = Constant <value_float = {columns}.0> ()
  mean = Constant <value = float[{channels}, 1, 1] {{{mean}}}> ()
  std = Constant <value = float[{channels}, 1, 1] {{{std}}}> ()
  shape = Shape (pixels)
  {sizes}
  rows_scale = Div (rows_length, rows_target)
  columns_scale = Div (columns_length, columns_target)
  scale = Min (rows_scale, columns_scale)
  reach = Max (scale, one)
  {weights}
  planes = Transpose <perm = [0, 3, 1, 2]> (pixels)
  numbers = Cast <to = 1> (planes)
  columns_matrix = Transpose <perm = [1, 0]> (columns_weights)
  narrow = MatMul (numbers, columns_matrix)
  narrow_above = Add (narrow, half)
  narrow_whole = Floor (narrow_above)
  small = MatMul (rows_weights, narrow_whole)
  small_above = Add (small, half)
  small_whole = Floor (small_above)
  light = Div (small_whole, white)
  centred = Sub (light, mean)
  images = Div (centred, std)
}}
"""


def with_preprocessing(network: Any, architecture: Architecture, images: str) -> Any:
    """The network behind its preprocessing, one ONNX file that takes uint8 pixels `(N, H, W, C)`, of any size.

    Args:
        network: an `onnx.ModelProto` whose input `images` is float32 `(N, C, H, W)`, normalised.
        architecture: what it says of size and normalisation is what is done.
        images: the name of that input.
    """
    import onnx
    from onnx import compose, parser

    opset = next(entry.version for entry in network.opset_import if entry.domain in ("", "ai.onnx"))
    if opset < _OPSET:
        network = onnx.version_converter.convert_version(network, _OPSET)
        opset = _OPSET
    channels, rows, columns = architecture.input_shape
    sides = (("rows", 1, rows), ("columns", 2, columns))
    text = _GRAPH.format(
        ir_version=network.ir_version,
        opset=opset,
        channels=channels,
        rows=rows,
        columns=columns,
        mean=_numbers(architecture.mean),
        std=_numbers(architecture.std),
        sizes="".join(_AXIS.format(axis=axis, number=number) for axis, number, _ in sides),
        weights="".join(
            _WEIGHTS.format(axis=axis, target=target, centres=_numbers([o + 0.5 for o in range(target)]))
            for axis, _, target in sides
        ),
    )
    before = parser.parse_model(text)
    made = _PREFIX + "images"
    before = compose.add_prefix(before, _PREFIX, rename_inputs=False, rename_edges=True)
    result = compose.merge_models(before, network, io_map=[(made, images)])
    result.metadata_props.add(key=KEY, value=json.dumps({"makes": made, "shape": architecture.input_shape}))
    return result


def without_preprocessing(file: File) -> File:
    """The network alone, from a file of `with_preprocessing`; any other file as it is.

    Here pictures are prepared as in training, and a network runs faster that needs not know of any size.
    """
    from onnx import TensorProto, helper

    made, shape = _said(file.metadata.get(KEY))
    if not any(made in node.output for node in file.nodes):
        return file
    images = helper.make_tensor_value_info(made, TensorProto.FLOAT, ["batch", *shape])
    nodes = [node for node in file.nodes if not any(name.startswith(_PREFIX) for name in node.output)]
    return replace(file, nodes=nodes, inputs=[images])


def _said(metadata: str | None) -> tuple[str | None, tuple[int, ...]]:
    """The name and the shape in the metadata; None where it says nothing, or is somebody else's of that name."""
    try:
        found = json.loads(metadata or "")
        made, (channels, height, width) = found["makes"], found["shape"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None, ()
    sound = isinstance(made, str) and all(type(n) is int and 0 < n < 2**31 for n in (channels, height, width))
    return (made, (channels, height, width)) if sound else (None, ())


def _numbers(values: Any) -> str:
    return ", ".join(repr(float(value)) for value in values)
