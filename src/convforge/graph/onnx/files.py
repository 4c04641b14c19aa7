"""A file, checked and within bounds: `opened` gives its nodes and its weights.

A file is anybody's. Nothing in it makes this code take memory or time beyond what the file itself takes: a tensor's
sizes are compared with the bytes that are there before an array is made, weights are mapped, not read, in other files
only from the folder that the file lies in, and functions are written out only as far as a bound.
"""

from __future__ import annotations

import math
import stat
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..mapped import mapped
from ..nodes import GraphError
from .lean import lean

Array = NDArray[Any]

OLDEST_OPSET = 6
MOST_NODES = 50_000
"""After functions are written out. Large networks have some thousands."""
_DEEPEST = 100
"""Functions that call each other."""
LARGEST_SIZE = 2**31
"""Of one axis."""
MOST_AXES = 32
"""NumPy's arrays have up to 64."""


@dataclass(frozen=True)
class File:
    """What a file holds: nodes in its order, weights by name, what goes in (the protobuf messages) and comes out, and
    what its author says of it, which is of no matter to what it computes."""

    nodes: list[Any]
    weights: dict[str, Array]
    inputs: list[Any]
    outputs: list[str]
    opset: int
    folder: Path | None
    metadata: dict[str, str]


def opened(source: str | PathLike[str] | bytes) -> File:
    """The file at a path, or its bytes; weights in other files are found beside a path only."""
    onnx = _package()
    folder: Path | None = None
    if isinstance(source, bytes):
        content, called = memoryview(source), "the bytes"
    else:
        path = Path(source)
        content, called, folder = _content(path), str(path), path.parent.resolve()
    try:
        model, raw = _parsed(content, onnx)
    except Exception as error:  # protobuf has several kinds of its own
        raise GraphError(f"{called} cannot be read as an ONNX file: it is damaged, or of another kind.") from error
    opset = _opset(model, onnx)
    if not model.HasField("graph"):
        raise GraphError(f"{called} holds no network: it is damaged, or of another kind than an ONNX file.")
    if model.functions:
        model = _written_out(model, onnx)
    graph = model.graph
    if graph.sparse_initializer:
        raise GraphError(f"the file has sparse weights ({graph.sparse_initializer[0].values.name!r}): make them dense.")
    if len(graph.node) > MOST_NODES:
        raise GraphError(f"the file has {len(graph.node):,} nodes, more than the {MOST_NODES:,} that are read.")
    weights: dict[str, Array] = {}
    for tensor, its_bytes in zip(graph.initializer, raw, strict=True):
        if not tensor.name or tensor.name in weights:
            raise GraphError(f"the file has two weights of the name {tensor.name!r}, or none for one of them.")
        weights[tensor.name] = array_of(tensor, folder, its_bytes)
    inputs = [value for value in graph.input if value.name not in weights]
    outputs, metadata = [value.name for value in graph.output], {one.key: one.value for one in model.metadata_props}
    return File(list(graph.node), weights, inputs, outputs, opset, folder, metadata)


def _package() -> Any:
    try:
        import onnx
    except ImportError as error:
        raise GraphError("ONNX files are read with the package onnx: pip install 'convforge[onnx]'.") from error
    return onnx


def _content(path: Path) -> memoryview:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise GraphError(f"{path} is not a file.")
        return mapped(path)
    except OSError as error:
        raise GraphError(f"{path} cannot be read: {error.strerror or error}.") from error


def _parsed(content: memoryview, onnx: Any) -> tuple[Any, list[memoryview | None]]:
    """The message, and the bytes of its graph's weights as far as they are not in it."""
    try:
        rest, raw = lean(content)
    except ValueError:  # parsed as a whole, or refused in the parser's words
        model = onnx.load_model_from_string(bytes(content))
        return model, [None] * len(model.graph.initializer)
    return onnx.load_model_from_string(rest), raw


def _opset(model: Any, onnx: Any) -> int:
    """The version of the usual operators."""
    versions = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    version = int(versions[0]) if versions else 0
    newest = int(onnx.defs.onnx_opset_version())
    if version < OLDEST_OPSET:
        raise GraphError(
            f"the file uses operators of version {version}, and those from {OLDEST_OPSET} on are known: convert it "
            "with onnx.version_converter."
        )
    if version > newest:
        raise GraphError(
            f"the file uses operators of version {version}, newer than the {newest} that the package onnx here knows: "
            "update it with pip install -U onnx."
        )
    return version


def _written_out(model: Any, onnx: Any) -> Any:
    """The file's own functions in the place of their calls, unless that would be more nodes than any network has."""
    bodies = {(function.domain, function.name): function for function in model.functions}
    sizes: dict[tuple[str, str], int] = {}

    def size(nodes: Any, depth: int) -> int:
        if depth > _DEEPEST:
            raise GraphError(f"the file's functions call each other more than {_DEEPEST} deep.")
        total = 0
        for node in nodes:
            key = (node.domain, node.op_type)
            if key in bodies and key not in sizes:
                sizes[key] = size(bodies[key].node, depth + 1)
            total += sizes.get(key, 1)
            total += sum(size(attribute.g.node, depth + 1) for attribute in node.attribute if attribute.HasField("g"))
            if total > MOST_NODES:
                raise GraphError(f"the file's functions come to more than the {MOST_NODES:,} nodes that are read.")
        return total

    size(model.graph.node, 0)
    try:
        from onnx import inliner

        return inliner.inline_local_functions(model)
    except Exception as error:
        raise GraphError(f"the file's own functions cannot be put in the place of their calls: {error}.") from error


# ---------------------------------------------------------------------------------------------------------------------
# Tensors
# ---------------------------------------------------------------------------------------------------------------------

# TensorProto.DataType → the NumPy type of its raw bytes, and the field that holds its numbers otherwise.
_TYPES: dict[int, tuple[str, str]] = {
    1: ("<f4", "float_data"),
    2: ("|u1", "int32_data"),
    3: ("|i1", "int32_data"),
    4: ("<u2", "int32_data"),
    5: ("<i2", "int32_data"),
    6: ("<i4", "int32_data"),
    7: ("<i8", "int64_data"),
    9: ("|b1", "int32_data"),
    10: ("<f2", "int32_data"),
    11: ("<f8", "double_data"),
    12: ("<u4", "uint64_data"),
    13: ("<u8", "uint64_data"),
    16: ("<u2", "int32_data"),  # bfloat16, by its bits
}
_BFLOAT16 = 16
FLOATING = frozenset({1, 10, 11, _BFLOAT16})
"""The data types that networks compute with."""
PIXELS = frozenset({2, 3, 4, 5})
"""Whole numbers of 8 and 16 bits, which images come in; a network makes them floating-point numbers first."""


def type_name(number: int) -> str:
    """A data type as ONNX calls it."""
    onnx = _package()
    try:
        return str(onnx.TensorProto.DataType.Name(number)).lower()
    except ValueError:
        return f"the unknown data type {number}"


def numpy_type(number: int) -> np.dtype[Any]:
    """What a `Cast` to this data type makes; 16-bit floating-point numbers are computed with in float32."""
    if number not in _TYPES:
        raise GraphError(f"the file has numbers of {type_name(number)}, which networks here do not compute with.")
    return np.dtype(np.float32) if number in (10, _BFLOAT16) else np.dtype(_TYPES[number][0])


def array_of(tensor: Any, folder: Path | None, raw: memoryview | None = None) -> Array:
    """A tensor's numbers; 16-bit floating-point ones as float32. `raw` has its bytes where they are not in it."""
    called = f"the weights {tensor.name!r}" if tensor.name else "a constant"
    sizes = tuple(int(size) for size in tensor.dims)
    if tensor.data_type not in _TYPES:
        raise GraphError(f"{called} are {type_name(tensor.data_type)}, and only numbers can be weights.")
    if len(sizes) > MOST_AXES or any(not 0 <= size < LARGEST_SIZE for size in sizes):
        raise GraphError(f"{called} have the shape {sizes}, which no tensor has.")
    code, field = _TYPES[tensor.data_type]
    dtype, count = np.dtype(code), math.prod(sizes)
    if tensor.data_location == 1:  # EXTERNAL
        flat = _elsewhere(tensor, called, dtype, count, folder)
    elif tensor.HasField("raw_data"):
        if raw is None:
            raw = memoryview(tensor.raw_data)  # a copy each time that it is asked for
        if len(raw) != count * dtype.itemsize:
            raise GraphError(f"{called} of shape {sizes} need {count * dtype.itemsize:,} bytes, not {len(raw):,}.")
        flat = np.frombuffer(raw, dtype)
    else:
        numbers = getattr(tensor, field)
        if len(numbers) != count:
            raise GraphError(f"{called} of shape {sizes} need {count:,} numbers, not {len(numbers):,}.")
        flat = _from_field(numbers, tensor.data_type, dtype, called)
    if tensor.data_type == _BFLOAT16:
        flat = (flat.astype(np.uint32) << 16).view(np.float32)
    elif dtype.kind == "f" and dtype.itemsize == 2:
        flat = flat.astype(np.float32)
    return flat.reshape(sizes)


def _from_field(numbers: Any, kind: int, dtype: np.dtype[Any], called: str) -> Array:
    """Numbers from a repeated field, where 16-bit floating-point ones stand as their bits."""
    wide: Array = np.array(numbers)
    narrow = wide.astype(np.uint16 if kind in (10, _BFLOAT16) else dtype)
    if dtype.kind != "f" and not np.array_equal(wide, narrow):
        raise GraphError(f"{called} have numbers that are too large for {dtype.name}.")
    return narrow.view(dtype)


def _elsewhere(tensor: Any, called: str, dtype: np.dtype[Any], count: int, folder: Path | None) -> Array:
    """Weights that lie in another file, mapped from there."""
    if folder is None:
        raise GraphError(f"{called} lie in another file: read this one from its path, with that one beside it.")
    entries = {entry.key: entry.value for entry in tensor.external_data}
    try:
        offset, length = int(entries.get("offset") or 0), int(entries.get("length") or count * dtype.itemsize)
    except ValueError:
        raise GraphError(f"{called} lie in another file at a place that is no number.") from None
    location = entries.get("location", "")
    path = _inside(location, folder, called)
    try:
        size = path.stat().st_size
        if length != count * dtype.itemsize or offset < 0 or offset + length > size:
            raise GraphError(
                f"{called} need {count * dtype.itemsize:,} bytes of {location!r}, and do not lie inside it."
            )
        if not count:
            return np.empty(0, dtype)
        return np.frombuffer(mapped(path), dtype, count, offset)
    except (OSError, ValueError) as error:
        if isinstance(error, GraphError):
            raise
        raise GraphError(f"{called} cannot be read from {location!r}: {error}.") from error


def _inside(location: str, folder: Path, called: str) -> Path:
    """The file of that name in the folder or below it; symbolic links must not lead out of it."""
    try:
        path = (folder / location).resolve()
        if not location or not path.is_relative_to(folder):
            raise GraphError(f"{called} lie in {location!r}, outside the file's own folder: move that file beside it.")
        if not stat.S_ISREG(path.stat().st_mode):
            raise GraphError(f"{called} lie in {location!r}, which is not a file.")
    except GraphError:
        raise
    except (OSError, ValueError, RuntimeError) as error:
        raise GraphError(f"{called} lie in {location!r}, which cannot be found beside the file.") from error
    return path
