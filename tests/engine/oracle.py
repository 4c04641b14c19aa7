"""The oracle of the engine's tests: every pass against `convforge.reference`, in poisoned memory.

Inputs lie in the middle of NaN, so that a stray read which reaches a result is seen. Outputs begin as NaN in the middle
of a sentinel, so that a number never written, and one written beside the output, are seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from convforge import Conv2dSpec, engine, reference
from convforge.engine.geometry import Problem
from convforge.engine.plan import Algorithm, Job, Pass, Plan
from convforge.engine.select import Choice, considered
from convforge.errors import UserError
from convforge.native.target import Target

Array = np.ndarray[Any, Any]


def choices(problem: Problem, which: Pass, threads: int = 2, exact: bool = False) -> tuple[Choice, ...]:
    """Every algorithm that applies, with its plan; the engine's own choice first."""
    return considered(Job.of(problem, which, threads), exact).choices


def applies(algorithm: Algorithm, problem: Problem, which: Pass, target: Target | None = None) -> bool:
    """Whether the algorithm has a plan for the pass, here or on another target."""
    return isinstance(algorithm.plan(Job.of(problem, which, 2, target=target)), Plan)


SENTINEL = 12345.678
LAYOUTS = ("NCHW", "NHWC", "NHWC slice", "sliced", "strided", "HWNC", "flipped")

BOUND = {"float32": 1e-6, "float64": 1e-13}
"""Relative L2 error of algorithms that multiply each input by each weight; or twice torch's own, where that is more."""
FAST_BOUND = {"float32": 3e-6, "float64": 1e-13}
"""The same of those that rearrange the products; or four times torch's own."""
FEW = 64
"""Results with fewer numbers may be all cancellation: the error is then compared with the products, not the sum."""


def embed(values: Array, layout: str, around: float) -> tuple[Array, Array]:
    """`values` as a view, of the given layout, into a larger buffer filled with `around`: (buffer, view)."""
    n, c, h, w = values.shape
    margin = 67

    def dense(order: str, shape: Sequence[int]) -> tuple[Array, Array]:
        sizes = dict(zip("NCHW", shape, strict=True))
        buffer = np.full(int(np.prod(shape)) + 2 * margin, around, values.dtype)
        inside = buffer[margin : buffer.size - margin].reshape([sizes[axis] for axis in order])
        return buffer, inside.transpose([order.index(axis) for axis in "NCHW"])

    if layout in ("NCHW", "NHWC", "HWNC"):
        buffer, view = dense(layout, (n, c, h, w))
    elif layout == "NHWC slice":
        buffer, view = dense("NHWC", (n, c + 5, h, w))
        view = view[:, 3 : 3 + c]
    elif layout == "sliced":
        buffer, view = dense("NCHW", (n + 1, c + 2, h + 2, w + 3))
        view = view[1:, 1 : 1 + c, 1 : 1 + h, 2 : 2 + w]
    elif layout == "strided":
        buffer, view = dense("NCHW", (n, 2 * c, h, 3 * w))
        view = view[:, ::2, :, ::3]
    else:
        buffer, view = dense("NHWC", (n, c, h, w))
        view = view[:, :, ::-1, ::-1]
    view[...] = values
    return buffer, view


@dataclass(frozen=True)
class Case:
    """One convolution to check: `layouts` are those of x, of w and of y, and of their gradients."""

    spec: Conv2dSpec
    size: tuple[int, int]
    batch: int = 2
    dtype: str = "float32"
    layouts: tuple[str, str, str] = ("NCHW", "NCHW", "NCHW")
    threads: int = 2
    exact: bool = True
    algorithm: str = ""
    """One that is asked for by name, or whichever the engine takes."""
    passes: tuple[str, ...] = ("y", "dx", "dw", "db")
    """The results to check: an algorithm need not have all passes."""


@dataclass(frozen=True)
class Data:
    """Random numbers for a case, what the reference makes of them, and what torch does."""

    spec: Conv2dSpec
    x: Array
    w: Array
    bias: Array
    dy: Array

    @classmethod
    def of(cls, case: Case) -> Data:
        spec, random = case.spec, np.random.default_rng(7)
        shapes = (
            (case.batch, spec.in_channels, *case.size),
            spec.weight_shape,
            (spec.out_channels,),
            (case.batch, spec.out_channels, *spec.output_size(case.size)),
        )
        return cls(spec, *(random.standard_normal(shape).astype(case.dtype) for shape in shapes))

    @cached_property
    def wanted(self) -> dict[str, Array]:
        return _reference(self.spec, self.x, self.w, self.bias if self.spec.bias else None, self.dy)

    @cached_property
    def products(self) -> dict[str, Array]:
        """The same sums with nothing cancelled: of what size the summed products are."""
        return _reference(self.spec, abs(self.x), abs(self.w), abs(self.bias) if self.spec.bias else None, abs(self.dy))

    @cached_property
    def torch_errors(self) -> dict[str, float]:
        """The relative L2 errors of torch's own convolution and its gradients."""
        import torch
        import torch.nn.functional as F

        x, w, b, dy = (torch.from_numpy(array.copy()) for array in (self.x, self.w, self.bias, self.dy))
        for t in (x, w, b):
            t.requires_grad_()
        spec, ((top, bottom), (left, right)) = self.spec, self.spec.sides((x.shape[2], x.shape[3]))
        padded = F.pad(x, (left, right, top, bottom))
        y = F.conv2d(padded, w, b if spec.bias else None, spec.stride, 0, spec.dilation, spec.groups)
        y.backward(dy)
        bias_gradient = dy.sum((0, 2, 3)) if b.grad is None else b.grad
        got = {"y": y, "dx": x.grad, "dw": w.grad, "db": bias_gradient}
        return {name: error(t.detach().numpy(), self.wanted[name]) for name, t in got.items() if t is not None}


def _reference(spec: Conv2dSpec, x: Array, w: Array, bias: Array | None, dy: Array) -> dict[str, Array]:
    return {
        "y": reference.conv2d(x, w, bias, spec),
        "dx": reference.input_gradient(dy, w, (x.shape[2], x.shape[3]), spec),
        "dw": reference.weight_gradient(x, dy, spec),
        "db": reference.bias_gradient(dy),
    }


def error(got: Array, wanted: Array) -> float:
    """Relative L2 error; where nothing but zeros is wanted, the absolute one."""
    difference = float(np.linalg.norm((got.astype(np.float64) - wanted).ravel()))
    return difference / (float(np.linalg.norm(wanted.ravel())) or 1.0)


def check(case: Case, data: Data | None = None) -> None:
    """All passes of the case in poisoned memory: right, complete, and nothing else touched."""
    data = data or Data.of(case)
    spec = case.spec
    how: dict[str, Any] = {"threads": case.threads, "exact": case.exact, "algorithm": case.algorithm}
    x_layout, w_layout, y_layout = case.layouts
    x, w, dy = (
        embed(array, layout, np.nan)[1] for array, layout in zip((data.x, data.w, data.dy), case.layouts, strict=True)
    )
    bias = embed(data.bias.reshape(1, -1, 1, 1), "NCHW", np.nan)[1].reshape(-1) if spec.bias else None

    def into(shape: Sequence[int], layout: str, run: Callable[[Array], Array]) -> Array:
        return written(np.full(shape, np.nan, case.dtype), layout, run)

    runs: dict[str, Callable[[], Array]] = {
        "y": lambda: into(data.dy.shape, y_layout, lambda out: engine.conv2d(x, w, bias, spec, out=out, **how)),
        "dx": lambda: into(
            data.x.shape,
            x_layout,
            lambda out: engine.input_gradient(dy, w, case.size, spec, out=out, **how),
        ),
        "dw": lambda: into(
            spec.weight_shape, w_layout, lambda out: engine.weight_gradient(x, dy, spec, out=out, **how)
        ),
        "db": lambda: engine.bias_gradient(dy, threads=case.threads),
    }
    for name in case.passes:
        agree(case, data, name, runs[name]())


def written(values: Array, layout: str, run: Callable[[Array], Array]) -> Array:
    """What `run` writes into an array of that layout, which holds `values` before; nothing beside it may change."""
    buffer, out = embed(values, layout, SENTINEL)
    result = run(out)
    assert result is out
    after = embed(out.copy(), layout, SENTINEL)[0]
    assert buffer.dtype == after.dtype
    assert buffer.tobytes() == after.tobytes(), "something was written beside the output"
    return out


def check_each(case: Case, *names: str) -> set[str]:
    """The case by each of the algorithms, whichever the engine would take, in the passes that it applies to; which of
    them apply to any."""
    data, applying = Data.of(case), set()
    for name in names:
        for result in case.passes:
            if result != "db":  # which has no algorithm of its own
                try:
                    check(replace(case, algorithm=name, passes=(result,)), data)
                except UserError as problem:
                    if "does not apply" not in str(problem):
                        raise
                else:
                    applying.add(name)
    return applying


def agree(case: Case, data: Data, name: str, result: Array) -> None:
    """`result` is the reference's, within the bound or so many times torch's own error."""
    wanted = data.wanted[name]
    assert result.shape == wanted.shape, (name, result.shape, wanted.shape)
    assert result.dtype == case.dtype, (name, result.dtype)
    assert np.isfinite(result).all(), f"{name} of {case}: {np.count_nonzero(~np.isfinite(result))} numbers not finite"
    found, bound = error(result, wanted), (BOUND if case.exact else FAST_BOUND)[case.dtype]
    if found > bound:
        bound = max(bound, (2 if case.exact else 4) * data.torch_errors[name])
    if found > bound and wanted.size < FEW:
        scale = np.linalg.norm(data.products[name].ravel()) / (np.linalg.norm(wanted.ravel()) or 1.0)
        bound = max(bound, float(2 * np.finfo(case.dtype).eps * scale))
    assert found <= bound, f"{name} of {case}: relative error {found:.2e}, allowed {bound:.2e}"


# ---------------------------------------------------------------------------------------------------------------------
# Cases at random
# ---------------------------------------------------------------------------------------------------------------------

KINDS = ("any", "dense", "grouped", "depthwise", "pointwise")

Pick = Callable[[Sequence[Any]], Any]
"""Takes one of several: Hypothesis's draw, or a random generator's choice."""


def some_case(pick: Pick, kind: str = "any") -> Case:
    """A convolution of any shape, small enough for the reference; the simplest choices come first."""
    if kind == "any":
        kind = pick(KINDS[1:])
    few, many = (1, 2, 3, 4, 5, 7, 8), (1, 2, 3, 4, 8, 12, 15, 16, 17, 31, 32, 33, 40, 48, 64, 65)
    groups = {"dense": (1,), "pointwise": (1, 1, 2, 3), "grouped": (2, 3, 4, 5), "depthwise": many}[kind]
    g = pick(groups)
    inputs = g * (1 if kind == "depthwise" else pick(few if g > 1 else many))
    outputs = g * (pick((1, 1, 2, 3)) if kind == "depthwise" else pick(few if g > 1 else many))

    def axis() -> tuple[int, int, int, int, int, int]:
        kernel = 1 if kind == "pointwise" else pick((1, 2, 3, 4, 5, 7, 9))
        stride, dilation = pick((1, 2, 3, 4, 5)), 1 if kernel == 1 else pick((1, 1, 2, 3, 4, 6))
        before, after = pick((0, 0, 1, 2, 3, 5)), pick((0, 0, 1, 2, 3, 5))
        out = pick((1, 2, 3, 4, 5, 7, 9, 13, 15, 17))
        size = (out - 1) * stride + dilation * (kernel - 1) + 1 - before - after
        if size < 1:  # the kernel is larger than the image: the padding makes room
            before, size = before + 1 - size, 1
        return kernel, stride, dilation, before, after, size + pick(range(stride))

    kh, sh, dh, top, bottom, height = axis()
    kw, sw, dw, left, right, width = axis()
    spec = Conv2dSpec(
        inputs, outputs, (kh, kw), (sh, sw), ((top, bottom), (left, right)), (dh, dw), g, bias=pick((True, False))
    )
    return Case(
        spec,
        (height, width),
        batch=pick((1, 2, 3, 0)),
        dtype=pick(("float32", "float32", "float64")),
        layouts=(pick(LAYOUTS), pick(LAYOUTS), pick(LAYOUTS)),
        threads=pick((1, 2, 3)),
        exact=pick((True, False)),
    )
