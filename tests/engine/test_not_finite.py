"""Where NaN and infinities go, as `docs/promises.md` says: what is bad must be, and nothing else may be.

Which results a number reaches is found out with the reference: it is put through alone, as a one among zeros.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from oracle import Case, Data, choices, embed

from convforge import Conv2dSpec, engine, reference
from convforge.engine.geometry import Problem
from convforge.engine.plan import Pass
from convforge.engine.select import Choice

Array = np.ndarray[Any, Any]

SPECS = {
    "dense": (Conv2dSpec(3, 40, 3, padding=1, bias=False), (7, 8)),
    "dense, dilated": (Conv2dSpec(3, 40, 3, padding=2, dilation=2, bias=False), (9, 8)),
    "dense, strided": (Conv2dSpec(8, 3, 3, 2, padding=1, bias=False), (7, 8)),
    "few outputs": (Conv2dSpec(8, 3, 5, padding=2, bias=False), (7, 8)),
    "pointwise": (Conv2dSpec(20, 33, 1, bias=False), (5, 6)),
    "pointwise, strided": (Conv2dSpec(20, 33, 1, 2, bias=False), (7, 6)),
    "groups": (Conv2dSpec(32, 32, 3, padding=1, groups=8, bias=False), (7, 8)),
    "groups, strided": (Conv2dSpec(32, 32, 3, 2, padding=1, groups=8, bias=False), (7, 8)),
    "depthwise": (Conv2dSpec(40, 40, 3, padding=1, groups=40, bias=False), (7, 8)),
    "depthwise, strided": (Conv2dSpec(40, 40, 3, 2, padding=1, groups=40, bias=False), (7, 8)),
}
INPUT, GRADIENT = (0, 2, 0, 4), (0, 2, 1, 0)
"""Which number of x and of dy is bad: at the border, where padding is near."""

Run = Callable[[Array, Array, Array], Array]


def runs(name: str, which: Pass, channels_last: bool) -> list[tuple[Choice, Run]]:
    """The algorithms of a pass, and each as a function of x, w and dy."""
    spec, size = SPECS[name]
    problem = Problem.of(spec, 1, size, channels_last=channels_last)

    def runner(algorithm: str) -> Run:
        def run(*arrays: Array) -> Array:
            x, w, dy = (embed(a, "NHWC" if channels_last else "NCHW", 0.0)[1] for a in arrays)
            out = {Pass.FORWARD: dy, Pass.INPUT_GRADIENT: x, Pass.WEIGHT_GRADIENT: w}[which].copy("K")
            if which is Pass.FORWARD:
                return engine.conv2d(x, w, None, spec, out=out, algorithm=algorithm)
            if which is Pass.INPUT_GRADIENT:
                return engine.input_gradient(dy, w, size, spec, out=out, algorithm=algorithm)
            return engine.weight_gradient(x, dy, spec, out=out, algorithm=algorithm)

        return run

    return [(choice, runner(choice.algorithm.name)) for choice in choices(problem, which)]


def data_of(name: str) -> Data:
    spec, size = SPECS[name]
    return Data.of(Case(spec, size, batch=1))


def alone(array: Array, index: tuple[int, ...]) -> Array:
    """A one in that place, zeros elsewhere."""
    one: Array = np.zeros_like(array)
    one[index] = 1
    return one


def with_bad(array: Array, index: tuple[int, ...], bad: float) -> Array:
    changed: Array = array.copy()
    changed[index] = bad
    return changed


def grown(mask: Array, by: int) -> Array:
    """True up to so many positions beyond, in each direction of the image."""
    padded = np.pad(mask, ((0, 0), (0, 0), (by, by), (by, by)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (2 * by + 1, 2 * by + 1), (2, 3))
    result: Array = windows.any((4, 5))
    return result


def holds(name: str, choice: Choice, got: Array, clean: Array, must: Array, may: Array) -> None:
    found = ~np.isfinite(got)
    assert must.any(), "the bad number meets nothing: nothing is tested"
    assert found[must].all(), f"{choice.algorithm.name} of {name}: a bad number is lost"
    assert not found[~may].any(), f"{choice.algorithm.name} of {name}: a bad number reaches {np.argwhere(found & ~may)}"
    if choice.algorithm.exact:
        assert np.array_equal(got[~found], clean[~found])


everywhere = [
    pytest.mark.parametrize("channels_last", [True, False]),
    pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf]),
    pytest.mark.parametrize("name", SPECS),
]


def marked(test: Callable[..., None]) -> Callable[..., None]:
    for mark in everywhere:
        test = mark(test)
    return test


def spread(choice: Choice, spec: Conv2dSpec) -> int:
    """How far beyond it may get: within a tile of Winograd's, of at most 4×4 outputs."""
    return 0 if choice.algorithm.exact else 3 * max(spec.dilation)


@marked
def test_in_the_input(name: str, bad: float, channels_last: bool) -> None:
    spec, d = SPECS[name][0], data_of(name)
    x, one = with_bad(d.x, INPUT, bad), alone(d.x, INPUT)
    signs = reference.conv2d(one, d.w, None, spec)
    must = signs != 0
    for choice, run in runs(name, Pass.FORWARD, channels_last):
        got = run(x, d.w, d.dy)
        holds(name, choice, got, run(d.x, d.w, d.dy), must, grown(must, spread(choice, spec)))
        if choice.algorithm.exact and np.isinf(bad):
            assert np.array_equal(got[must], np.sign(signs[must]) * bad)
    signs = reference.weight_gradient(one, d.dy, spec)
    must = signs != 0
    for choice, run in runs(name, Pass.WEIGHT_GRADIENT, channels_last):
        got = run(x, d.w, d.dy)
        may = must if choice.algorithm.exact else np.broadcast_to(must.any((2, 3), keepdims=True), must.shape)
        holds(name, choice, got, run(d.x, d.w, d.dy), must, may)
        if choice.algorithm.exact and np.isinf(bad):
            assert np.array_equal(got[must], np.sign(signs[must]) * bad)


@marked
def test_in_the_gradient_of_an_output(name: str, bad: float, channels_last: bool) -> None:
    spec, size = SPECS[name]
    d = data_of(name)
    dy, one = with_bad(d.dy, GRADIENT, bad), alone(d.dy, GRADIENT)
    signs = reference.input_gradient(one, d.w, size, spec)
    must = signs != 0
    for choice, run in runs(name, Pass.INPUT_GRADIENT, channels_last):
        got = run(d.x, d.w, dy)
        together = max(spec.stride) - 1 if choice.algorithm.name == "planar" else 0
        holds(name, choice, got, run(d.x, d.w, d.dy), must, grown(must, spread(choice, spec) + together))
        if choice.algorithm.exact and np.isinf(bad):
            assert np.array_equal(got[must], np.sign(signs[must]) * bad)
    must = reference.weight_gradient(np.ones_like(d.x), one, spec) != 0
    may = np.broadcast_to(must.any((1, 2, 3), keepdims=True), must.shape)
    for choice, run in runs(name, Pass.WEIGHT_GRADIENT, channels_last):
        holds(name, choice, run(d.x, d.w, dy), run(d.x, d.w, d.dy), must, may)


@marked
def test_in_a_weight(name: str, bad: float, channels_last: bool) -> None:
    """Over padding it may or may not be seen; it stays in its channel."""
    spec, size = SPECS[name]
    d = data_of(name)
    index = (2, 0, 0, 0)
    w, one = with_bad(d.w, index, bad), alone(d.w, index)
    for which, must in (
        (Pass.FORWARD, reference.conv2d(np.ones_like(d.x), one, None, spec) != 0),
        (Pass.INPUT_GRADIENT, reference.input_gradient(np.ones_like(d.dy), one, size, spec) != 0),
    ):
        may = np.broadcast_to(must.any((2, 3), keepdims=True), must.shape)
        for choice, run in runs(name, which, channels_last):
            holds(name, choice, run(d.x, w, d.dy), run(d.x, d.w, d.dy), must, may)
