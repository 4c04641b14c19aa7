"""What every operation is: a rule for shapes and a meaning in float64."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ...errors import UserError

Shape: TypeAlias = tuple[int, ...]
Array: TypeAlias = NDArray[np.float64]


class GraphError(UserError):
    """A graph or a node that cannot be: the message is one sentence with the offending value."""


@dataclass(frozen=True)
class Operation(ABC):
    """What a node does. Settings are fields; what changes from call to call, weights too, are inputs.

    Arrays have torch's logical shapes: images are `(N, C, H, W)`. How they lie in memory is not said here.
    """

    any_number: ClassVar[bool] = False
    """Whether it takes as many inputs as it is given."""

    @property
    def operands(self) -> tuple[str, ...]:
        """What its inputs are, by position: `operands.index("residual")` is where a residual stands."""
        return ("x",)

    def shape(self, *inputs: Shape) -> Shape:
        """The shape of the result, from those of the inputs.

        Raises `GraphError` where there is none, with one sentence.
        """
        if self.any_number:
            if not inputs:
                raise GraphError(f"{self.name} needs at least one input.")
        elif len(inputs) != len(self.operands):
            raise GraphError(f"{self.name} takes {', '.join(self.operands)}, not {len(inputs)} inputs.")
        return self._shape(*inputs)

    @abstractmethod
    def _shape(self, *inputs: Shape) -> Shape:
        """`shape`, where the number of inputs is right."""

    @abstractmethod
    def compute(self, *inputs: Array) -> Array:
        """The meaning, in float64 and without haste: the oracle of whatever computes the same faster."""

    @property
    def name(self) -> str:
        """What messages call it."""
        return type(self).__name__


def at_least(name: str, what: str, least: int, *values: int) -> None:
    """Raises `GraphError` where one of these numbers is too small."""
    if min(values, default=least) < least:
        raise GraphError(f"{name} takes {what} of at least {least}, not {min(values)}.")


def an_axis(axis: int, rank: int, name: str) -> int:
    """The axis counted from the front; raises `GraphError` where there is none."""
    if not -rank <= axis < rank:
        raise GraphError(f"{name} has axis {axis}, but its input has only {rank} axes.")
    return axis % rank


def four_axes(shape: Shape, name: str) -> tuple[int, int, int, int]:
    """The shape of a batch of images; raises `GraphError` where it is not one."""
    if len(shape) != 4:
        raise GraphError(f"{name} takes images of shape (N, C, H, W), not {shape}.")
    n, c, h, w = shape
    return n, c, h, w


def agree(name: str, what: str, found: Shape, needed: Shape) -> None:
    """Raises `GraphError` where an operand has another shape than the rest of the operation needs."""
    if found != needed:
        raise GraphError(f"{name} needs {what} of shape {needed}, not {found}.")
