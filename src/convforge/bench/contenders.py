"""Who computes a layer in this process: the engine, and torch in both of its memory formats.

Data are random, never zeros. Ours and torch's channels_last get the same tensors in channels_last; torch's plain format
gets them in NCHW. All allocate their result on every call, as they do in a network.

Where weights are `kept`, as in inference, ours are in the kernels' own form before the clock starts, as those of ONNX
Runtime and OpenVINO always are; torch brings them into its form on every call. In training weights change at every
step; then ours are not kept either.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..engine import Problem
from ..engine.passes import prepare
from ..engine.plan import Pass
from ..engine.prepared import Prepared
from ..native import runtime
from ..pytorch import by_torch, functional
from ..pytorch.kept import freeze
from .layers import Layer

OURS = "convforge"
CHANNELS_LAST = "torch channels_last"
PLAIN = "torch"


def packed(prepared: Prepared, weights: int) -> tuple[int, object]:
    """The address of the weights in the kernels' form, and what keeps them alive; 0 where there is no such form."""
    if not prepared.packed_bytes:
        return 0, None
    address, memory = runtime.memory(prepared.packed_bytes)
    prepared.pack(weights, address)
    return address, memory


@dataclass(frozen=True)
class Tensors:
    """A layer's input, weights and output gradient, in one memory format."""

    x: Tensor
    w: Tensor
    dy: Tensor

    def to(self, **how: Any) -> Tensors:
        return Tensors(*(t.to(**how) for t in (self.x, self.w, self.dy)))

    @property
    def addresses(self) -> dict[str, int]:
        return {"x": self.x.data_ptr(), "w": self.w.data_ptr(), "y": self.dy.data_ptr()}


class Work:
    """One layer with its data: what each contender runs, and what must come out."""

    def __init__(self, layer: Layer, evenly: bool = True, seed: int = 0) -> None:
        """`evenly`: with padding that every library can have (`Layer.evenly_padded`)."""
        self.layer = layer.evenly_padded() if evenly else layer
        s = self.layer.spec
        (top, _), (left, _) = s.sides(self.layer.size)
        self.pads = (top, left)
        g = torch.Generator().manual_seed(seed)
        x = torch.randn(self.layer.x_shape, generator=g)
        w = torch.randn(s.weight_shape, generator=g) * (s.weights / s.out_channels) ** -0.5  # outputs of unit variance
        dy = torch.randn(self.layer.y_shape, generator=g)
        self.plain = Tensors(x, w, dy)

    @cached_property
    def last(self) -> Tensors:
        return self.plain.to(memory_format=torch.channels_last)

    @cached_property
    def problem(self) -> Problem:
        """The layer as the engine knows it, in channels_last."""
        return Problem.of(self.layer.spec, self.layer.batch, self.layer.size)

    def truth(self, which: Pass) -> Tensor:
        """The result in float64, by torch."""
        return self._torch(which, self.plain.to(dtype=torch.float64))

    def torch(self, which: Pass, channels_last: bool) -> Callable[[], Tensor]:
        """torch's own convolution."""
        data = self.last if channels_last else self.plain
        return lambda: self._torch(which, data)

    def ours(self, which: Pass, kept: bool) -> Callable[[], Tensor]:
        """The engine, as users and autograd call it. Weights that are `kept` are frozen, as in a model that was given
        to `convforge.freeze`, and as they are in ONNX Runtime and OpenVINO."""
        operators: Any = torch.ops.convforge
        s, t = self.layer.spec, self.last
        w = t.w.detach()
        w = freeze(w) if kept else w.requires_grad_()  # what is being trained is not kept
        (top, left), size, kernel = self.pads, self.layer.size, s.kernel_size
        geometry = (s.stride, (top, top, left, left), s.dilation, s.groups)
        if which is Pass.FORWARD:
            return lambda: functional.conv2d(t.x, w, None, s.stride, self.pads, s.dilation, s.groups)

        @torch.no_grad()  # as in a backward pass: no graph is made of it, nor for the libraries
        def gradient() -> Tensor:
            if which is Pass.INPUT_GRADIENT:
                dx: Tensor = operators.conv2d_input_gradient(t.dy, w, size, *geometry, True)
                return dx
            dw: Tensor = operators.conv2d_weight_gradient(t.x, t.dy, kernel, *geometry, True)
            return dw

        return gradient

    def with_algorithm(
        self, which: Pass, threads: int, exact: bool, kept: bool, algorithm: str
    ) -> Callable[[], Tensor]:
        """The engine with an algorithm of the caller's choice.

        Raises `UserError` where that one does not apply.
        """
        prepared = prepare(self.problem, which, threads, exact, algorithm, kept)
        address, alive = packed(prepared, self.last.w.data_ptr()) if kept else (0, None)
        buffer, like = {
            Pass.FORWARD: ("y", self.last.dy), Pass.INPUT_GRADIENT: ("x", self.last.x),
            Pass.WEIGHT_GRADIENT: ("w", self.last.w),
        }[which]  # fmt: skip
        addresses = self.last.addresses

        def run(_alive: object = alive) -> Tensor:
            result = torch.empty(like.shape, memory_format=torch.channels_last)
            prepared.run(address, **addresses | {buffer: result.data_ptr()})
            return result

        return run

    def _torch(self, which: Pass, t: Tensors) -> Tensor:
        s = self.layer.spec
        if which is Pass.FORWARD:
            return by_torch.conv2d(t.x, t.w, None, s.stride, self.pads, s.dilation, s.groups)
        wanted = [which is Pass.INPUT_GRADIENT, which is Pass.WEIGHT_GRADIENT, False]
        results: tuple[Tensor, ...] = torch.ops.aten.convolution_backward(
            t.dy, t.x, t.w, None, s.stride, self.pads, s.dilation, False, (0, 0), s.groups, wanted
        )
        return results[wanted.index(True)]


def relative_error(result: Tensor, truth: Tensor) -> float:
    """‖result − truth‖ / ‖truth‖."""
    return float((result.detach().double() - truth).norm() / truth.norm())
