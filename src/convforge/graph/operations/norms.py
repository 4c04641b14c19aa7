"""What makes the numbers' mean and spread alike: batch, layer, group and local response normalisation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .base import Array, GraphError, Operation, Shape, agree, four_axes


def _normalised(x: Array, axes: tuple[int, ...], eps: float) -> Array:
    mean, variance = x.mean(axis=axes, keepdims=True), x.var(axis=axes, keepdims=True)
    result: Array = (x - mean) / np.sqrt(variance + eps)
    return result


def _by_channel(numbers: Array, rank: int) -> Array:
    """One number a channel, to meet `(N, C, …)`."""
    return numbers.reshape(-1, *(1,) * (rank - 2))


@dataclass(frozen=True)
class BatchNorm(Operation):
    """(x − mean) / √(variance + eps) · scale + shift, with one of each a channel and statistics from training.

    Inputs: x `(N, C, …)`, then scale, shift, mean and variance, each `(C,)`.
    """

    eps: float = 1e-5

    @property
    def operands(self) -> tuple[str, ...]:
        return "x", "scale", "shift", "mean", "variance"

    def _shape(self, *inputs: Shape) -> Shape:
        x = inputs[0]
        if len(x) < 2:
            raise GraphError(f"BatchNorm takes (N, C, …), not {x}.")
        for what, found in zip(self.operands[1:], inputs[1:], strict=True):
            agree(self.name, what, found, (x[1],))
        return x

    def compute(self, *inputs: Array) -> Array:
        x = inputs[0]
        scale, shift, mean, variance = (_by_channel(numbers, x.ndim) for numbers in inputs[1:])
        return (x - mean) / np.sqrt(variance + self.eps) * scale + shift


@dataclass(frozen=True)
class LayerNorm(Operation):
    """Over the last `axes` axes together: normalised, · scale + shift, which have the shape of those axes."""

    axes: int = 1
    eps: float = 1e-5

    @property
    def operands(self) -> tuple[str, ...]:
        return "x", "scale", "shift"

    def _shape(self, *inputs: Shape) -> Shape:
        x = inputs[0]
        if not 1 <= self.axes <= len(x):
            raise GraphError(f"LayerNorm over {self.axes} axes does not fit an input of shape {x}.")
        for what, found in zip(self.operands[1:], inputs[1:], strict=True):
            agree(self.name, what, found, x[-self.axes :])
        return x

    def compute(self, *inputs: Array) -> Array:
        x, scale, shift = inputs
        return _normalised(x, tuple(range(-self.axes, 0)), self.eps) * scale + shift


@dataclass(frozen=True)
class GroupNorm(Operation):
    """Over each image and group of channels: normalised, · scale + shift, one of each a channel.

    With a group a channel it is instance normalisation. Inputs: x `(N, C, …)`, scale and shift `(C,)`.
    """

    groups: int
    eps: float = 1e-5

    @property
    def operands(self) -> tuple[str, ...]:
        return "x", "scale", "shift"

    def _shape(self, *inputs: Shape) -> Shape:
        x = inputs[0]
        if len(x) < 2 or self.groups < 1 or x[1] % self.groups:
            raise GraphError(f"GroupNorm cannot split the channels of {x} into {self.groups} groups.")
        for what, found in zip(self.operands[1:], inputs[1:], strict=True):
            agree(self.name, what, found, (x[1],))
        return x

    def compute(self, *inputs: Array) -> Array:
        x, scale, shift = inputs
        grouped = x.reshape(x.shape[0], self.groups, -1)
        result = _normalised(grouped, (2,), self.eps).reshape(x.shape)
        return result * _by_channel(scale, x.ndim) + _by_channel(shift, x.ndim)


_MOST_CHANNELS = 1024
"""That one number's square may stand beside; networks have five, or so."""


@dataclass(frozen=True)
class LocalResponseNorm(Operation):
    """x / (k + alpha/size · Σ x²)^beta, the sum over `size` neighbouring channels: ⌊(size − 1)/2⌋ before, the rest
    after, as ONNX has it; torch's differs for even sizes, ⌊size/2⌋ before."""

    size: int
    alpha: float = 1e-4
    beta: float = 0.75
    k: float = 1.0
    before: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.size <= _MOST_CHANNELS:
            raise GraphError(f"{self.name} takes the squares of 1 to {_MOST_CHANNELS} channels, not of {self.size}.")
        if self.before is None:
            object.__setattr__(self, "before", (self.size - 1) // 2)
        if not 0 <= (self.before or 0) < self.size:
            raise GraphError(f"{self.name} over {self.size} channels cannot have {self.before} before.")

    def _shape(self, *inputs: Shape) -> Shape:
        four_axes(inputs[0], self.name)
        return inputs[0]

    def compute(self, *inputs: Array) -> Array:
        x = inputs[0]
        before = self.before or 0
        squares = np.pad(x**2, ((0, 0), (before, self.size - 1 - before), (0, 0), (0, 0)))
        total = sum(squares[:, i : i + x.shape[1]] for i in range(self.size))
        result: Array = x / (self.k + self.alpha / self.size * total) ** self.beta
        return result
