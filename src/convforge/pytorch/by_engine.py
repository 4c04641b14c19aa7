"""The engine as PyTorch's side knows it: all that the other files here ask of it, so that one file follows its changes.

Sizes that do not fit each other are refused here: the kernels would read or write beside the tensors.
"""

from __future__ import annotations

import torch

from ..engine.geometry import Problem
from ..engine.kernels.epilogue import Epilogue
from ..engine.passes import prepare
from ..engine.plan import Job, Pass
from ..engine.prepared import Prepared
from ..engine.select import choose
from ..graph.kernels import batch_norm
from ..native import target
from ..native.runtime import CannotLoad, memory
from ..native.target import host_features as cpu_features
from ..native.team import ready
from ..spec import Conv2dSpec
from .arguments import Geometry, Sizes, out_size

__all__ = [
    "CannotLoad",
    "NormPlan",
    "Prepared",
    "Problem",
    "cpu_features",
    "forward",
    "input_gradient",
    "memory",
    "norm",
    "problem",
    "weight_gradient",
    "why",
]  # fmt: skip


def problem(
    dtype: torch.dtype,
    x: Sizes,
    w: Sizes,
    y: Sizes,
    geometry: Geometry,
    x_strides: Sizes,
    w_strides: Sizes,
    y_strides: Sizes,
) -> Problem:
    """What the engine is asked to do: input, weights and output by shape and strides.

    Raises:
        RuntimeError: if they are not those of a convolution.
    """
    stride, pads, dilation, groups = geometry
    fits = len(x) == len(w) == len(y) == 4 and (x[0], x[1], w[0]) == (y[0], w[1] * groups, y[1])
    fits = fits and 0 not in (*x[1:], *w) and w[0] % groups == 0 and y[2:] == out_size(x, w, stride, pads, dilation)
    if not fits:
        raise RuntimeError(
            f"a convolution of input {tuple(x)} with weight {tuple(w)} at stride {stride}, padding {pads}, "
            f"dilation {dilation}, groups {groups} does not give output {tuple(y)}."
        )
    return Problem(
        dtype="float32" if dtype == torch.float32 else "float64",
        x_shape=tuple(x),  # type: ignore[arg-type]
        w_shape=tuple(w),  # type: ignore[arg-type]
        y_shape=tuple(y),  # type: ignore[arg-type]
        stride=stride,  # type: ignore[arg-type]
        pads=(pads[0], pads[2]),
        dilation=dilation,  # type: ignore[arg-type]
        groups=groups,
        x_strides=x_strides,  # type: ignore[arg-type]
        w_strides=w_strides,  # type: ignore[arg-type]
        y_strides=y_strides,  # type: ignore[arg-type]
    )


# The passes, ready to run, so that `CannotLoad` is raised here or not at all. `keep`: the packed weights are kept.


def forward(of: Problem, threads: int, bias: bool, exact: bool, keep: bool) -> Prepared:
    """y = x ⋆ w, with a bias or without."""
    return ready(prepare(of, Pass.FORWARD, threads, exact, kept=keep, finish=Epilogue(bias)))


def input_gradient(of: Problem, threads: int, bias: bool, exact: bool, keep: bool) -> Prepared:
    """x's gradient, from y's and w; with a bias, or without."""
    return ready(prepare(of, Pass.INPUT_GRADIENT, threads, exact, kept=keep, finish=Epilogue(bias)))


def weight_gradient(of: Problem, threads: int, exact: bool) -> Prepared:
    """w's gradient, from x and y's."""
    return ready(prepare(of, Pass.WEIGHT_GRADIENT, threads, exact))


# Batch norm, and what a network does to it next.


class NormPlan:
    """Of images of one size: its two programs."""

    def __init__(self, of: batch_norm.Normalisation, threads: int) -> None:
        here = target.current()
        self._forward = ready(batch_norm.forward(of, here, threads))
        self._backward = batch_norm.backward(of, here, threads)
        self.saved = len(batch_norm.SAVED), of.channels
        """The shape of what the forward program keeps for the backward one."""
        self.eps, self.fixed, self.residual, self.activation = of.eps, of.fixed, of.residual, of.activation
        self.masked_by_output = of.residual and bool(of.activation)
        """Whether the backward program reads the output, and writes the residual's gradient."""

    def forward(
        self, x: int, residual: int, y: int, weight: int, bias: int, saved: int, mean: int, var: int, momentum: float
    ) -> None:
        """On these addresses."""
        self._forward.run(x, residual, y, weight, bias, saved, mean, var, 0, batch_norm.bits(momentum))

    def backward(self, g: int, x: int, y: int, dx: int, dh: int, saved: int, dweight: int, dbias: int) -> None:
        """On these addresses."""
        self._backward.run(g, x, y, dx, dh, saved, dweight, dbias, 0)


def norm(
    rows: int, channels: int, dtype: str, eps: float, activation: str, residual: bool, affine: bool, running: bool,
    fixed: bool, threads: int,
) -> NormPlan:  # fmt: skip
    """Its plan, so that `CannotLoad` is raised here or not at all."""
    of = batch_norm.Normalisation(rows, channels, dtype, eps, activation, residual, affine, running, fixed)
    return NormPlan(of, threads)


def why(spec: Conv2dSpec, size: tuple[int, int], threads: int, exact: bool, transposed: bool = False) -> str:
    """Which algorithm computes one image of this height and width, and the reason; where `transposed`, one of the
    convolution's input, from its output."""
    which = Pass.INPUT_GRADIENT if transposed else Pass.FORWARD
    algorithm = choose(Job.of(Problem.of(spec, 1, size), which, threads), exact).algorithm
    return f"{algorithm.name}: {algorithm.reason}"
