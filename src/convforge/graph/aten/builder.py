"""What converters are given and what they add to: the value that stands for a tensor, and the graph as it grows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..nodes import Node, Operation


class Cannot(Exception):
    """Why an operator has no node: the end of a sentence that begins with its name."""


@dataclass(frozen=True)
class Value:
    """What stands for a tensor: the name of a value of the graph, and its sizes, which are integers or, where they
    may change from call to call, torch's symbols."""

    name: str
    sizes: tuple[Any, ...]

    @property
    def rank(self) -> int:
        return len(self.sizes)


Arguments: TypeAlias = dict[str, Any]


Converter: TypeAlias = Callable[["Builder", Arguments], Any]


@dataclass
class Builder:
    """Nodes and constants as they come. `about` is the name of what is being converted; the last value it makes gets
    that name, others get it with a number behind."""

    nodes: list[Node] = field(default_factory=list)
    constants: dict[str, NDArray[Any]] = field(default_factory=dict)
    about: str = ""
    _numbers: int = 0

    def add(self, operation: Operation, *inputs: Value | str) -> str:
        """A node, and the name of what it makes."""
        self._numbers += 1
        output = f"{self.about}.{self._numbers}"
        self.nodes.append(Node(operation, tuple(i if isinstance(i, str) else i.name for i in inputs), output))
        return output

    def constant(self, array: Any) -> str:
        """A number or an array that the network contains, without a parameter of the model behind it."""
        self._numbers += 1
        name = f"{self.about}.{self._numbers}"
        self.constants[name] = np.asarray(array)
        return name

    def operand(self, x: Value | float | str) -> str:
        """A tensor or a number as a value."""
        if isinstance(x, Value):
            return x.name
        if isinstance(x, str):
            return x
        if isinstance(x, bool | int | float):
            return self.constant(float(x))
        raise Cannot(f"takes a number that depends on the input's size, {x}")
