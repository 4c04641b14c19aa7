"""What a name in an ONNX file stands for while it is read, for several sizes of the inputs at once, the `Probe`s."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from numpy.typing import NDArray

from ..nodes import Shape

Array: TypeAlias = NDArray[Any]


class Varies(Exception):
    """With the sizes of this probe something is different that has to be the same; or they do not fit the network."""

    def __init__(self, probe: int, cannot_say: bool = True) -> None:
        super().__init__()
        self.probe, self.cannot_say = probe, cannot_say


@dataclass(frozen=True, eq=False)
class Known:
    """Numbers that are known while the file is read, for each probe."""

    arrays: tuple[Array, ...]

    @property
    def shapes(self) -> tuple[Shape, ...]:
        return tuple(array.shape for array in self.arrays)


@dataclass(frozen=True, eq=False)
class Made:
    """What is computed when the network runs: its name in the graph, and its shape for each probe."""

    name: str
    shapes: tuple[Shape, ...]


Value: TypeAlias = Known | Made
T = TypeVar("T")
