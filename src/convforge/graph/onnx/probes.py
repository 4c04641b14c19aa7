"""What goes into a network, and the sizes that it is read for: the `Probe`s."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from ..nodes import GraphError, Shape
from .files import FLOATING, LARGEST_SIZE, PIXELS, File, type_name
from .values import Array

_MOST_SYMBOLS = 8
"""Sizes that are tried to be left open; a file may name any number of them."""


BATCH = "the batch"
"""The symbol of the number of images where the file gives a number, which may not be meant."""


@dataclass(frozen=True)
class Probe:
    """Sizes of all inputs, in which the axes of one `symbol` have another size than asked for; the first has none.
    One that `may_fail` says nothing when the network does not fit it."""

    symbol: str
    shapes: dict[str, Shape]
    may_fail: bool = False


Symbols: TypeAlias = dict[str, list[tuple[str, int]]]
"""The axes that may have another size, all those together that the file gives one name: (input, axis) each."""


def probes(file: File, given: Mapping[str, Shape], known: Mapping[str, Array]) -> list[Probe]:
    """The sizes that are asked for, and others; inputs that are `known` are left out."""
    asked, symbols = _inputs(file, given, known)
    return [Probe("", asked), *_others(asked, symbols)]


def _inputs(file: File, given: Mapping[str, Shape], known: Mapping[str, Array]) -> tuple[dict[str, Shape], Symbols]:
    """The shape of each input, and what may vary."""
    names = [value.name for value in file.inputs]
    for name in (*given, *known):
        if name not in names:
            raise GraphError(f"the file has no input {name!r}: it has {', '.join(names) or 'none'}.")
    shapes: dict[str, Shape] = {}
    symbols: Symbols = {}
    for value in file.inputs:
        name = value.name
        if name in known:
            continue
        if name in shapes:
            raise GraphError(f"the file has two inputs of the name {name!r}.")
        kind = value.type.tensor_type
        if not value.type.HasField("tensor_type"):
            raise GraphError(f"the input {name!r} is no tensor, and networks here take tensors only.")
        if kind.elem_type not in FLOATING | PIXELS:
            raise GraphError(
                f"the input {name!r} is {type_name(kind.elem_type)}, and networks here take floating-point numbers: if "
                f"it is the same at every call, say so with known={{{name!r}: …}}."
            )
        shapes[name] = _shape(name, kind, given.get(name), symbols)
    _leading(shapes, symbols)
    return shapes, symbols


def _shape(name: str, kind: Any, given: Shape | None, symbols: Symbols) -> Shape:
    if not kind.HasField("shape"):
        if given is None:
            raise GraphError(
                f"the file does not say what shape the input {name!r} has: say it with shapes={{{name!r}: …}}."
            )
        return tuple(_checked(name, axis, int(size)) for axis, size in enumerate(given))
    sizes: list[int] = []
    if given is not None and len(given) != len(kind.shape.dim):
        raise GraphError(f"the input {name!r} has {len(kind.shape.dim)} axes, not the shape {tuple(given)}.")
    for axis, dim in enumerate(kind.shape.dim):
        open_ = not dim.HasField("dim_value") or dim.dim_value < 0
        if open_:
            symbols.setdefault(dim.dim_param or f"{name}, axis {axis}", []).append((name, axis))
        if given is not None:
            size = int(given[axis])
            if not open_ and size != dim.dim_value:
                raise GraphError(f"the file says that axis {axis} of {name!r} has size {dim.dim_value}, not {size}.")
        elif not open_:
            size = int(dim.dim_value)
        elif axis == 0:
            size = 1
        else:
            raise GraphError(
                f"the file leaves the size of {name!r} along axis {axis} ({dim.dim_param or 'no name'}) open: say what "
                f"it is to be with shapes={{{name!r}: …}}."
            )
        sizes.append(_checked(name, axis, size))
    return tuple(sizes)


def _checked(name: str, axis: int, size: int) -> int:
    if not 0 < size < LARGEST_SIZE:
        raise GraphError(f"the input {name!r} has size {size} along axis {axis}, which no tensor has.")
    return size


def _leading(shapes: dict[str, Shape], symbols: Symbols) -> None:
    """The first axis is the batch, and may be open even where the file gives a number: of all inputs together."""
    declared = {place for places in symbols.values() for place in places}
    images = [name for name, shape in shapes.items() if len(shape) > 1 and (name, 0) not in declared]
    if images and len({shapes[name][0] for name in images}) == 1:
        symbols[BATCH] = [(name, 0) for name in images]


def _others(asked: dict[str, Shape], symbols: Symbols) -> list[Probe]:
    """For each symbol other sizes: several times the asked one, so that it still divides evenly, and one more than
    it, which few networks take but which tells halves rounded up from halves rounded down."""
    found = []
    for symbol, places in list(symbols.items())[:_MOST_SYMBOLS]:
        times = 3 if all(axis == 0 for _, axis in places) else 2
        for factor, more in ((times, 0), (1, 1)):
            shapes = dict(asked)
            for name, axis in places:
                shape = shapes[name]
                shapes[name] = (*shape[:axis], factor * shape[axis] + more, *shape[axis + 1 :])
            found.append(Probe(symbol, shapes, may_fail=bool(more)))
    return found
