"""What multiplies with weights: convolution, its transpose, linear layers, products of matrices."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ... import reference
from ...spec import Conv2dSpec, Pair, SpecError, kernel_extent
from .base import Array, GraphError, Operation, Shape, agree, at_least, four_axes
from .elementwise import Unary


@dataclass(frozen=True)
class Convolution(Operation):
    """activation(x ⋆ w + bias + residual). Inputs: x, w `(K, C/g, k, k)`, then the bias `(K,)` and the residual, of
    the result's shape, where the fields say that there are any. `spec.bias` is what `bias` says."""

    spec: Conv2dSpec
    bias: bool = False
    residual: bool = False
    activation: Unary | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "spec", replace(self.spec, bias=self.bias))

    @property
    def operands(self) -> tuple[str, ...]:
        return "x", "w", *(("bias",) if self.bias else ()), *(("residual",) if self.residual else ())

    def _shape(self, *inputs: Shape) -> Shape:
        n, c, h, w = four_axes(inputs[0], self.name)
        if c != self.spec.in_channels:
            raise GraphError(f"{self.name} takes {self.spec.in_channels} channels, not the {c} of {inputs[0]}.")
        try:
            result = (n, self.spec.out_channels, *self.spec.output_size((h, w)))
        except SpecError as error:
            raise GraphError(str(error)) from None
        needed = {"w": self.spec.weight_shape, "bias": (self.spec.out_channels,), "residual": result}
        for what, found in zip(self.operands[1:], inputs[1:], strict=True):
            agree(self.name, what, found, needed[what])
        return result

    def compute(self, *inputs: Array) -> Array:
        given = dict(zip(self.operands, inputs, strict=True))
        result = reference.conv2d(given["x"], given["w"], given.get("bias"), self.spec)
        if self.residual:
            result = result + given["residual"]
        return result if self.activation is None else self.activation.compute(result)


@dataclass(frozen=True)
class TransposedConvolution(Operation):
    """activation(x ⋆ᵀ w + bias): torch's `conv_transpose2d`. Inputs: x, w, and the bias where there is one.

    It is the input gradient of the convolution `spec`, whose *output* channels are therefore x's and whose *input*
    channels the result's; w has the spec's `weight_shape`, which is torch's `(in, out/groups, k, k)`. Sizes:
    (H − 1)·s − p₀ − p₁ + k' + output_padding.
    """

    spec: Conv2dSpec
    output_padding: Pair = (0, 0)
    bias: bool = False
    activation: Unary | None = None

    def __post_init__(self) -> None:
        if isinstance(self.spec.padding, str) or self.spec.padding_mode != "zeros":
            raise GraphError(f"{self.name} takes padding in numbers and zeros beyond the border.")
        at_least(self.name, "an output padding", 0, *self.output_padding)
        object.__setattr__(self, "spec", replace(self.spec, bias=False))

    @property
    def operands(self) -> tuple[str, ...]:
        return "x", "w", *(("bias",) if self.bias else ())

    def output_size(self, size: Pair) -> Pair:
        """`(H_out, W_out)` for an input of `(H, W)`."""
        spec, sides = self.spec, self.spec.sides(size)  # numbers already, whatever the size
        vertical, horizontal = (
            (size[a] - 1) * spec.stride[a]
            - sum(sides[a])
            + kernel_extent(spec.kernel_size[a], spec.dilation[a])
            + self.output_padding[a]
            for a in (0, 1)
        )
        return vertical, horizontal

    def _shape(self, *inputs: Shape) -> Shape:
        n, c, h, w = four_axes(inputs[0], self.name)
        if c != self.spec.out_channels:
            raise GraphError(f"{self.name} takes {self.spec.out_channels} channels, not the {c} of {inputs[0]}.")
        agree(self.name, "w", inputs[1], self.spec.weight_shape)
        if self.bias:
            agree(self.name, "bias", inputs[2], (self.spec.in_channels,))
        size = self.output_size((h, w))
        if min(size) < 1:
            raise GraphError(f"{self.name} makes nothing of a {h}×{w} input: its output would be {size[0]}×{size[1]}.")
        return n, self.spec.in_channels, *size

    def compute(self, *inputs: Array) -> Array:
        x = inputs[0]
        result = reference.input_gradient(x, inputs[1], self.output_size((x.shape[2], x.shape[3])), self.spec)
        if self.bias:
            result = result + inputs[2][:, None, None]
        return result if self.activation is None else self.activation.compute(result)


@dataclass(frozen=True)
class Linear(Operation):
    """activation(x · wᵀ + bias) along the last axis. Inputs: x `(…, in)`, w `(out, in)`, the bias `(out,)`."""

    bias: bool = False
    activation: Unary | None = None

    @property
    def operands(self) -> tuple[str, ...]:
        return "x", "w", *(("bias",) if self.bias else ())

    def _shape(self, *inputs: Shape) -> Shape:
        x, w = inputs[:2]
        if len(w) != 2 or not x or x[-1] != w[1]:
            raise GraphError(f"Linear cannot multiply x {x} with weights {w}: they must be (out, {x[-1] if x else 0}).")
        if self.bias:
            agree(self.name, "bias", inputs[2], w[:1])
        return *x[:-1], w[0]

    def compute(self, *inputs: Array) -> Array:
        result: Array = inputs[0] @ inputs[1].T
        if self.bias:
            result = result + inputs[2]
        return result if self.activation is None else self.activation.compute(result)


@dataclass(frozen=True)
class MatMul(Operation):
    """Products of matrices, the last two axes of each, with NumPy's broadcasting of the rest."""

    @property
    def operands(self) -> tuple[str, ...]:
        return "x", "other"

    def _shape(self, *inputs: Shape) -> Shape:
        x, other = inputs
        if len(x) < 2 or len(other) < 2 or x[-1] != other[-2]:
            raise GraphError(f"MatMul cannot multiply {x} with {other}.")
        try:
            return *np.broadcast_shapes(x[:-2], other[:-2]), x[-2], other[-1]
        except ValueError:
            raise GraphError(f"MatMul cannot broadcast {x} with {other}.") from None

    def compute(self, *inputs: Array) -> Array:
        result: Array = inputs[0] @ inputs[1]
        return result
