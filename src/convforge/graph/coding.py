"""Graphs as plain values and back: what a bundle says of a network besides its numbers.

A node is `{"operation": its class's name, "fields": {…}, "inputs": […], "output": …}`. Fields go by the types that
their classes declare: numbers, words, lists for tuples, objects for what has fields itself. So an operation is written
down once, as a class, and what is read is checked against that: every field there, of its type, and nothing else.

>>> from convforge.graph.nodes import Graph, Node, Unary
>>> doubled = Graph({"x": (1, 3)}, ("y",), (Node(Unary("clip", (0, float("inf"))), ("x",), "y"),), {})
>>> encoded(doubled)["nodes"]
[{'operation': 'Unary', 'fields': {'kind': 'clip', 'parameters': [0.0, 'inf']}, 'inputs': ['x'], 'output': 'y'}]
>>> decoded(encoded(doubled), {}).nodes == doubled.nodes
True
"""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from reprlib import repr as short
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..spec import SpecError
from . import operations
from .nodes import Graph, GraphError, Node, Operation, Shape, Take

MOST_NODES = 20_000
"""Large networks have some thousands."""
MOST_NUMBERS = 2**30
"""In one value. Larger ones are no network's."""
_MOST_REPEATED = 2**26
"""Numbers that nodes may make of constants alone, beyond as many as the constants have."""
_MOST_AXES = 16
_MOST_ROWS = 4096
"""That a `Take` has numbers of: each may become a node."""
_LARGEST_INTEGER = 2**63 - 1

_OPERATIONS: dict[str, type[Operation]] = {
    name: kind
    for name in operations.__all__
    if isinstance(kind := getattr(operations, name), type) and issubclass(kind, Operation) and kind is not Operation
}
"""Every operation, by the name of its class."""


# ---------------------------------------------------------------------------------------------------------------------
# A graph
# ---------------------------------------------------------------------------------------------------------------------


def encoded(graph: Graph) -> dict[str, Any]:
    """The graph without the numbers of its constants, as what JSON has: objects, lists, words, finite numbers."""
    inputs = [
        {"name": name, "shape": list(shape), "fixed": list(graph.fixed.get(name, ()))}
        for name, shape in graph.inputs.items()
    ]
    nodes = [
        {
            "operation": type(node.operation).__name__,
            "fields": _fields(node.operation),
            "inputs": list(node.inputs),
            "output": node.output,
        }
        for node in graph.nodes
    ]
    return {"inputs": inputs, "outputs": list(graph.outputs), "nodes": nodes}


def decoded(value: object, constants: Mapping[str, NDArray[Any]]) -> Graph:
    """The graph that was `encoded`, with these constants, every one of which it must read.

    What is decoded may be anybody's. Raises `GraphError`, with one sentence that says where, for what is not as
    `encoded` makes it, for names, orders and shapes that do not fit, and for values of absurd sizes.
    """
    whole = members(value, "the graph", ("inputs", "outputs", "nodes"))
    inputs: dict[str, Shape] = {}
    fixed: dict[str, tuple[int, ...]] = {}
    for number, one in enumerate(items(whole["inputs"], "the graph's inputs")):
        where = f"input {number}"
        entry = members(one, where, ("name", "shape", "fixed"))
        name = _read(entry["name"], str, f"the name of {where}")
        if name in inputs:
            raise GraphError(f"two inputs have the name {short(name)}.")
        inputs[name] = _read(entry["shape"], tuple[int, ...], f"the shape of {where}")
        fixed[name] = _read(entry["fixed"], tuple[int, ...], f"the fixed axes of {where}")
        if any(not 0 <= axis < len(inputs[name]) for axis in fixed[name]):
            raise GraphError(f"{where} has the shape {inputs[name]}, and cannot have the fixed axes {fixed[name]}.")
    outputs = _read(whole["outputs"], tuple[str, ...], "the graph's outputs")
    if not inputs or not outputs:
        raise GraphError("a network has at least one input and one output.")
    entries = items(whole["nodes"], "the graph's nodes")
    if len(entries) > MOST_NODES:
        raise GraphError(f"the graph has {len(entries):,} nodes, more than the {MOST_NODES:,} that are read.")
    nodes = tuple(_node(entry, f"node {number}") for number, entry in enumerate(entries))
    read = {name for node in nodes for name in node.inputs} | set(outputs)
    if unread := sorted(constants.keys() - read):
        raise GraphError(f"nothing reads the tensor {short(unread[0])}.")
    graph = Graph(inputs, outputs, nodes, dict(constants), fixed)
    _check_sizes(inputs)
    try:
        graph.check()
    except (OverflowError, MemoryError) as error:
        raise GraphError("the graph has values of sizes that no computer can count in 64 bits.") from error
    shapes = graph.shapes()
    _check_sizes(shapes)
    _check_repeated(graph, shapes)
    _check_rows(graph, shapes)
    return graph


def _node(value: object, where: str) -> Node:
    entry = members(value, where, ("operation", "fields", "inputs", "output"))
    name = _read(entry["operation"], str, f"the operation of {where}")
    if name not in _OPERATIONS:
        raise GraphError(f"{where} has the operation {short(name)}, which this version of convforge does not know.")
    inputs = _read(entry["inputs"], tuple[str, ...], f"the inputs of {where}")
    output = _read(entry["output"], str, f"the output of {where}")
    return Node(_object(entry["fields"], _OPERATIONS[name], f"{where} ({name})"), inputs, output)


def _check_sizes(shapes: Mapping[str, Shape]) -> None:
    for name, shape in shapes.items():
        if len(shape) > _MOST_AXES or min(shape, default=1) < 1 or math.prod(shape) > MOST_NUMBERS:
            raise GraphError(f"the value {short(name)} has the shape {short(shape)}, which no network's has.")


def _check_repeated(graph: Graph, shapes: Mapping[str, Shape]) -> None:
    """What is made of constants alone is computed before anything runs: it must not be much more than they are."""
    same = set(graph.constants)
    repeated = 0
    for node in graph.nodes:
        if same.issuperset(node.inputs):
            same.add(node.output)
            repeated += math.prod(shapes[node.output])
    if repeated > _MOST_REPEATED + sum(array.size for array in graph.constants.values()):
        raise GraphError("the graph makes far more numbers of its constants than these have.")


def _check_rows(graph: Graph, shapes: Mapping[str, Shape]) -> None:
    """The numbers of rows are numbers of rows, and no more than are taken one by one."""
    for node in graph.nodes:
        rows = graph.constants.get(node.inputs[1]) if isinstance(node.operation, Take) else None
        if rows is None:
            continue
        if rows.size > _MOST_ROWS:
            raise GraphError(
                f"node {short(node.output)} takes {rows.size:,} rows, more than the {_MOST_ROWS:,} at most."
            )
        assert isinstance(node.operation, Take)
        size = shapes[node.inputs[0]][node.operation.axis]
        if not all(row.is_integer() and -size <= row < size for row in map(float, np.asarray(rows).flat)):
            raise GraphError(f"node {short(node.output)} takes rows of {size} that there are not.")


# ---------------------------------------------------------------------------------------------------------------------
# What has fields
# ---------------------------------------------------------------------------------------------------------------------


def _fields(thing: Any) -> dict[str, Any]:
    return {field.name: _plain(getattr(thing, field.name)) for field in fields(thing)}


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return _fields(value)
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, bool | str) or value is None:
        return value
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else str(float(value))
    return int(value)


@cache
def _types(kind: type) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}


def _object(value: object, kind: Any, where: str) -> Any:
    """An instance of a class with fields; those with a usual value may be missing."""
    hints = _types(kind)
    usual = {f.name for f in fields(kind) if f.default is not MISSING or f.default_factory is not MISSING}
    entry = members(value, where, tuple(hints), usual)
    found = {name: _read(item, hints[name], f"{name} of {where}") for name, item in entry.items()}
    try:
        return kind(**found)
    except (GraphError, SpecError) as error:
        raise GraphError(f"{where}: {error}") from None


def _read(value: Any, hint: Any, where: str) -> Any:
    """The value, where it is of the type; `GraphError` elsewhere."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        hint = next((each for each in typing.get_args(hint) if _may_be(value, each)), None)
        if hint is None:
            raise GraphError(f"{where} cannot be {short(value)}.")
    if typing.get_origin(hint) is tuple:
        return _tuple(value, typing.get_args(hint), where)
    if not _may_be(value, hint):
        raise GraphError(f"{where} cannot be {short(value)}.")
    if hint is float:
        return float(value)
    return _object(value, hint, where) if is_dataclass(hint) else value


def _tuple(value: Any, parts: tuple[Any, ...], where: str) -> tuple[Any, ...]:
    found = items(value, where)
    if parts[-1] is Ellipsis:
        return tuple(_read(item, parts[0], f"item {n} of {where}") for n, item in enumerate(found))
    if len(found) != len(parts):
        raise GraphError(f"{where} must have {len(parts)} items, not {len(found)}.")
    pairs = enumerate(zip(found, parts, strict=True))
    return tuple(_read(item, part, f"item {n} of {where}") for n, (item, part) in pairs)


_NOT_FINITE = ("inf", "-inf", "nan")


def _may_be(value: Any, hint: Any) -> bool:
    """Whether a value has the form of a type."""
    if hint in (None, type(None)):
        return value is None
    if hint is int:
        return type(value) is int and abs(value) <= _LARGEST_INTEGER
    if hint is float:
        if type(value) is int:
            return abs(value) <= _LARGEST_INTEGER
        return math.isfinite(value) if type(value) is float else type(value) is str and value in _NOT_FINITE
    if hint in (bool, str):
        return type(value) is hint
    return isinstance(value, list if typing.get_origin(hint) is tuple else dict)


def members(value: object, where: str, names: tuple[str, ...], optional: typing.Collection[str] = ()) -> dict[str, Any]:
    """An object that has these members and no other."""
    if not isinstance(value, dict):
        raise GraphError(f"{where} must be an object, not {short(value)}.")
    for name in names:
        if name not in value and name not in optional:
            raise GraphError(f"{where} lacks {name!r}.")
    for name in value:
        if name not in names:
            raise GraphError(f"{where} has {short(name)}, which this version of convforge does not know.")
    return value


def items(value: object, where: str) -> list[Any]:
    """A list."""
    if not isinstance(value, list):
        raise GraphError(f"{where} must be a list, not {short(value)}.")
    return value
