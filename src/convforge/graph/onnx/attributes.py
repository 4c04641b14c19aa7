"""What an ONNX node says besides its inputs."""

from __future__ import annotations

from typing import Any

import numpy as np


class Cannot(Exception):
    """Why an ONNX node has none in our graphs: the end of a sentence that begins with the node."""


_MOST = 4096
"""Sizes, axes or rows that one node names."""


class Attributes:
    """A node's attributes, each asked for by name and type. Those that nobody asked for are `left`: they would have
    said something that is not understood.

    `opset` is the version of the operators that the file was written with.
    """

    def __init__(self, node: Any, opset: int) -> None:
        self.operator: str = node.op_type
        self.opset = opset
        self._given = {attribute.name: attribute for attribute in node.attribute}
        self._asked: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._given

    @property
    def left(self) -> list[str]:
        return [name for name in self._given if name not in self._asked]

    def _of(self, name: str, kind: str) -> Any:
        """The protobuf field `kind` of an attribute, or None where it is not given."""
        self._asked.add(name)
        attribute = self._given.get(name)
        if attribute is None:
            return None
        # AttributeProto.AttributeType, by the names of its fields
        numbers = {"f": 1, "i": 2, "s": 3, "t": 4, "g": 5, "floats": 6, "ints": 7, "strings": 8}
        if attribute.type not in (0, numbers[kind]):  # 0: files older than the field
            raise Cannot(f"has another kind of attribute {name!r} than the operator takes")
        return getattr(attribute, kind)

    def integer(self, name: str, usual: int) -> int:
        value = self._of(name, "i")
        return usual if value is None else int(value)

    def flag(self, name: str, usual: bool) -> bool:
        return bool(self.integer(name, int(usual)))

    def number(self, name: str, usual: float) -> float:
        value = self._of(name, "f")
        return usual if value is None else float(value)

    def text(self, name: str, usual: str) -> str:
        value = self._of(name, "s")
        return usual if value is None else bytes(value).decode("utf-8", "replace")

    def ints(self, name: str, count: int | None = None) -> tuple[int, ...] | None:
        """None where it is not given; of another length than `count` it raises `Cannot`."""
        value = self._of(name, "ints")
        if value is None:
            return None
        numbers = tuple(int(number) for number in value)
        if count not in (None, len(numbers)):
            raise Cannot(f"needs {count} numbers in its attribute {name!r}, not {numbers}")
        return numbers

    def floats(self, name: str) -> tuple[float, ...] | None:
        value = self._of(name, "floats")
        return None if value is None else tuple(float(number) for number in value)

    def tensor(self, name: str) -> Any:
        """The protobuf message, or None."""
        return self._of(name, "t")

    def graph(self, name: str) -> Any:
        """The protobuf message, or None."""
        return self._of(name, "g")

    def ignore(self, *names: str) -> None:
        """These say nothing that changes the result."""
        self._asked.update(names)


def numbers(array: np.ndarray[Any, Any], what: str) -> tuple[float, ...]:
    """An array that holds scales or the like, as numbers."""
    if array.dtype.kind not in "fiub" or array.ndim > 1 or array.size > _MOST:
        raise Cannot(f"needs numbers for {what}, not an array of shape {array.shape} and {array.dtype}")
    return tuple(float(number) for number in array.reshape(-1))


def integers(array: np.ndarray[Any, Any], what: str) -> tuple[int, ...]:
    """An array that holds sizes or axes, as integers."""
    if array.dtype.kind not in "iub" or array.ndim > 1 or array.size > _MOST:
        raise Cannot(f"needs whole numbers for {what}, not an array of shape {array.shape} and {array.dtype}")
    return tuple(int(number) for number in array.reshape(-1))
