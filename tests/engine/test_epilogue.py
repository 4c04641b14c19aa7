"""Activations and residuals: the functions themselves to the last place, then inside real convolutions."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from oracle import BOUND, Case, Data, applies, embed, error, written

from convforge import Conv2dSpec, UserError, engine, reference
from convforge.engine.algorithms import ALGORITHMS
from convforge.engine.kernels import functions
from convforge.engine.plan import Algorithm, Pass
from convforge.native import runtime, target
from convforge.native.ir import Arguments, kernel

Array = np.ndarray[Any, Any]

TORCH: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": F.relu,
    "relu6": F.relu6,
    "hardswish": F.hardswish,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "": lambda x: x,
}


def test_every_activation_is_tested() -> None:
    assert set(TORCH) == {*functions.ACTIVATIONS, ""}


@pytest.fixture(params=target.available())
def forced(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> target.Target:
    monkeypatch.setenv("CONVFORGE_TARGET", request.param)
    return target.current()


# ---------------------------------------------------------------------------------------------------------------------
# The functions
# ---------------------------------------------------------------------------------------------------------------------

NUMBERS = Arguments("x y count")


def applied(name: str, x: Array, to: target.Target) -> Array:
    """The activation of every number of x, by a kernel that does nothing else."""
    dtype, lanes = x.dtype.name, to.lanes(x.dtype.name)

    def build(module: Any) -> None:
        f, a = kernel(module, "apply", dtype, NUMBERS)
        with f.loop(a["count"], step=lanes) as at:
            number = f.address(a["x"]).at(at.index).vector(lanes)
            f.address(a["y"]).at(at.index).put(functions.apply(f, name, number))
        f.done()

    code = runtime.code("test_epilogue", build, ["apply"], to, name, dtype)
    padded = np.zeros(-(-x.size // lanes) * lanes, x.dtype)
    padded[: x.size] = x
    y = np.empty_like(padded)
    numbers = np.array(NUMBERS.pack({"x": padded.ctypes.data, "y": y.ctypes.data, "count": padded.size}), np.int64)
    ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)(code["apply"])(numbers.ctypes.data, 0, 1)
    return y[: x.size]


def exactly(name: str, x: float) -> mpmath.mpf:
    """The definition, with 40 digits."""
    with mpmath.workdps(40):
        v = mpmath.mpf(x)
        return {
            "relu": lambda: max(v, 0),
            "relu6": lambda: min(max(v, 0), 6),
            "hardswish": lambda: v * min(max(v + 3, 0), 6) / 6,
            "sigmoid": lambda: 1 / (1 + mpmath.exp(-v)),
            "silu": lambda: v / (1 + mpmath.exp(-v)),
            "gelu": lambda: v * mpmath.erfc(-max(min(v, 60), -60) / mpmath.sqrt(2)) / 2,  # 1 or 0 beyond
            "gelu_tanh": lambda: v / (1 + mpmath.exp(-_doubled(v))),
        }[name]()


def _doubled(v: mpmath.mpf) -> mpmath.mpf:
    return 2 * mpmath.sqrt(2 / mpmath.pi) * (v + mpmath.mpf("0.044715") * v**3)


def allowed(name: str, x: float) -> float:
    """Units in the last place. What enters an exponential is rounded in GELU's tanh form, so that counts as well."""
    if name == "gelu_tanh":
        return 3 + min(2 * abs(float(_doubled(mpmath.mpf(x)))), 1e4) * (x < 0)
    if name == "gelu":
        return 4 if x > -1 else 7 if x > -6 else 12
    return 3


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", functions.ACTIVATIONS)
def test_numbers_of_every_size_are_right_to_the_last_places(name: str, dtype: str, forced: target.Target) -> None:
    random, info = np.random.default_rng(3), np.finfo(dtype)
    sizes = 10.0 ** random.uniform(math.log10(info.smallest_subnormal) + 1, math.log10(info.max), 150)
    x = np.concatenate([random.standard_normal(300) * 3, random.uniform(-120, 20, 150), sizes, -sizes]).astype(dtype)
    for number, got in zip(x, applied(name, x, forced), strict=True):
        wanted = exactly(name, float(number))
        unit = float(np.spacing(np.abs(np.array(float(wanted), dtype))))
        distance = abs(mpmath.mpf(float(got)) - wanted) / unit
        assert distance <= allowed(name, float(number)), (number, got, wanted)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", functions.ACTIVATIONS)
def test_infinities_nan_and_zeros_are_torchs(name: str, dtype: str, forced: target.Target) -> None:
    x = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, *np.finfo(dtype).max * np.array([0.1, -0.1])], dtype)
    wanted = TORCH[name](torch.from_numpy(x.astype(np.float64))).numpy().astype(dtype)
    np.testing.assert_array_equal(applied(name, x, forced), wanted)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["log", "sin", "cos"])
def test_functions_of_the_c_library_are_its_own(name: str, dtype: str, forced: target.Target) -> None:
    """And not ours under the same name, which would call itself for ever."""
    x = np.geomspace(1e-3, 30, 37).astype(dtype)
    wanted = getattr(np, name)(x.astype(np.float64))
    np.testing.assert_allclose(applied(name, x, forced), wanted, rtol=8 * np.finfo(dtype).eps, atol=np.finfo(dtype).eps)


def test_the_coefficients_of_the_exponential_are_those_of_their_derivation() -> None:
    with mpmath.workdps(40):
        end = mpmath.log(2) / 2 * mpmath.mpf("1.001")
        for to, digits in ((functions._FORMATS["float32"], 8), (functions._FORMATS["float64"], 16)):
            powers = mpmath.chebyfit(lambda r: mpmath.exp(-r), [-end, end], len(to.minus))[::-1]
            assert to.minus == pytest.approx([float(c) for c in powers], rel=10.0**-digits, abs=0)


def test_the_coefficients_of_gelu_are_those_of_their_derivation() -> None:
    with mpmath.workdps(50):
        for to, digits in ((functions._FORMATS["float32"], 8), (functions._FORMATS["float64"], 16)):

            def g(u: mpmath.mpf) -> mpmath.mpf:
                x = 5 * (1 - u) / (1 + u)
                return mpmath.exp(x * x / 2) * mpmath.erfc(x / mpmath.sqrt(2)) / 2

            end = mpmath.sqrt(2 * to.limit)
            powers = mpmath.chebyfit(g, [(5 - end) / (5 + end), 1], len(to.tail))[::-1]
            assert to.tail == pytest.approx([float(c) for c in powers], rel=10.0**-digits, abs=0)


def test_the_parts_of_ln_2() -> None:
    for to, bits in ((functions._FORMATS["float32"], 12), (functions._FORMATS["float64"], 32)):
        high, rest = to.ln2
        assert (high * 2**bits).is_integer()
        with mpmath.workdps(40):
            assert abs(mpmath.mpf(high) + mpmath.mpf(rest) - mpmath.ln(2)) < 2.0 ** -(bits + to.mantissa)


# ---------------------------------------------------------------------------------------------------------------------
# In convolutions
# ---------------------------------------------------------------------------------------------------------------------

CASES = {
    "tails everywhere": Case(Conv2dSpec(5, 37, 3, padding=1), (5, 7)),
    "one channel out": Case(Conv2dSpec(3, 1, 2), (4, 6), threads=3),
    "a sum in parts": Case(Conv2dSpec(130, 20, 3, padding=1), (4, 5)),
    "a run in parts": Case(Conv2dSpec(1200, 33, 1), (3, 3), batch=1),
    "rows in parts": Case(Conv2dSpec(3, 8, 15, 2, padding=7), (17, 16)),
    "groups": Case(Conv2dSpec(6, 20, 3, 2, padding=1, groups=2), (7, 6)),
    "depthwise": Case(Conv2dSpec(37, 37, 3, 2, padding=1, groups=37), (9, 8)),
    "few channels a group": Case(Conv2dSpec(36, 36, 3, padding=1, groups=9), (9, 8)),
    "whole vectors": Case(Conv2dSpec(16, 64, 3, padding=1), (16, 17)),
    "5×5": Case(Conv2dSpec(6, 37, 5, padding=2, dilation=2), (9, 10)),
    "many weights": Case(Conv2dSpec(512, 80, 3, padding=1), (5, 6)),
}
LAYOUTS = ("NCHW", "NHWC", "NHWC slice", "strided", "flipped")


def convolved(case: Case, data: Data, layout: str, activation: str, algorithm: str = "", **given: Any) -> Array:
    """activation(convolution + bias + residual) in poisoned memory; `given`: bias and residual, or nothing."""
    x, w = embed(data.x, layout, np.nan)[1], embed(data.w, "NCHW", np.nan)[1]
    bias = embed(given["bias"].reshape(1, -1, 1, 1), "NCHW", np.nan)[1].reshape(-1) if "bias" in given else None
    residual = embed(given["residual"], layout, np.nan)[1] if "residual" in given else None
    return written(
        np.full(data.dy.shape, np.nan, case.dtype),
        layout,
        lambda y: engine.conv2d(
            x,
            w,
            bias,
            case.spec,
            out=y,
            threads=case.threads,
            exact=not algorithm,
            algorithm=algorithm,
            activation=activation,
            residual=residual,
        ),
    )


def agree(case: Case, data: Data, activation: str, got: Array, factor: float = 1, **given: Any) -> None:
    spec = case.spec
    double = {name: torch.from_numpy(array.astype(np.float64)) for name, array in given.items()}
    x, w = (torch.from_numpy(a.astype(np.float64)) for a in (data.x, data.w))
    (top, bottom), (left, right) = spec.sides(case.size)
    x = F.pad(x, (left, right, top, bottom))
    y = F.conv2d(x, w, double.get("bias"), spec.stride, 0, spec.dilation, spec.groups)
    wanted = TORCH[activation](y + double.get("residual", 0)).numpy()
    assert np.isfinite(got).all()
    assert error(got, wanted) <= factor * BOUND[case.dtype], (case, activation, error(got, wanted))


def small(case: Case, dtype: str) -> tuple[Case, Data]:
    """The case in `dtype`, its weights so small that sums are of the size where activations bend."""
    case = Case(case.spec, case.size, case.batch, dtype, threads=case.threads)
    data = Data.of(case)
    fan_in = math.prod(case.spec.weight_shape[1:])
    return case, Data(case.spec, data.x, (data.w * (2 / math.sqrt(fan_in))).astype(dtype), data.bias, data.dy)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", TORCH)
def test_every_activation_on_every_target(activation: str, dtype: str, forced: target.Target) -> None:
    for name in ("tails everywhere", "a sum in parts", "groups"):
        case, data = small(CASES[name], dtype)
        for layout in ("NCHW", "NHWC"):
            given = {"bias": data.bias, "residual": data.dy}
            agree(case, data, activation, convolved(case, data, layout, activation, **given), **given)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", CASES)
def test_bias_and_residual_in_every_combination_and_layout(name: str, layout: str) -> None:
    case, data = small(CASES[name], "float32")
    for given in ({}, {"bias": data.bias}, {"residual": data.dy}, {"bias": data.bias, "residual": data.dy}):
        for activation in ("", "relu6", "silu"):
            agree(case, data, activation, convolved(case, data, layout, activation, **given), **given)


@pytest.mark.parametrize("row", ALGORITHMS, ids=lambda row: row.name)
def test_every_algorithm_finishes_its_sums(row: Algorithm) -> None:
    tried = 0
    for case in CASES.values():
        case, data = small(case, "float32")
        for layout in LAYOUTS:
            problem = engine.Problem.of(case.spec, case.batch, case.size, channels_last=layout == "NHWC")
            if applies(row, problem, Pass.FORWARD):
                for given in ({"bias": data.bias}, {"bias": data.bias, "residual": data.dy}):
                    for activation in ("relu", "gelu"):
                        got = convolved(case, data, layout, activation, row.name, **given)
                        agree(case, data, activation, got, 1 if row.exact else 3, **given)
                # The residual where the result goes: whoever writes a number twice would add to it twice.
                x = embed(data.x, layout, np.nan)[1]
                how: dict[str, Any] = {"activation": "relu", "algorithm": row.name}
                got = written(
                    data.dy,
                    layout,
                    lambda y: engine.conv2d(x, data.w, data.bias, case.spec, out=y, residual=y, **how),  # noqa: B023
                )
                agree(case, data, "relu", got, 1 if row.exact else 3, bias=data.bias, residual=data.dy)
                tried += 1
    assert tried


TRANSPOSED = {
    "every pixel met": Case(Conv2dSpec(20, 37, 4, 2, padding=1), (8, 12)),
    "phases that touch": Case(Conv2dSpec(16, 33, 2, 2), (8, 12)),
    "phases that no tap meets": Case(Conv2dSpec(19, 24, 1, (3, 2)), (8, 9)),
    "gaps in both": Case(Conv2dSpec(9, 6, (3, 2), (2, 2), dilation=(2, 4), groups=3), (12, 11)),
    "many phases": Case(Conv2dSpec(5, 7, 2, 9), (25, 31)),
    "depthwise": Case(Conv2dSpec(37, 37, 3, 2, dilation=2, groups=37), (11, 14)),
    "few channels a group": Case(Conv2dSpec(36, 36, 3, 2, padding=1, groups=9), (9, 8)),
    "stride 1": Case(Conv2dSpec(24, 40, 3, padding=1), (13, 14)),
    "1×1": Case(Conv2dSpec(24, 40, 1), (7, 6)),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", TRANSPOSED)
def test_transposed_convolutions_end_alike(name: str, dtype: str) -> None:
    """The input gradient with something added, at the pixels that no tap meets, too; by every algorithm."""
    case, data = small(TRANSPOSED[name], dtype)
    bias = np.linspace(-2, 2, case.spec.in_channels).astype(dtype)
    sums = reference.input_gradient(data.dy, data.w, case.size, case.spec) + bias[:, None, None].astype(np.float64)
    tried = set()
    for layout in ("NCHW", "NHWC", "NHWC slice"):
        dy, w = embed(data.dy, layout, np.nan)[1], embed(data.w, "NCHW" if layout == "NCHW" else "NHWC", np.nan)[1]
        for row in ALGORITHMS:
            problem = engine.Problem.of(case.spec, case.batch, case.size, dtype, layout != "NCHW")
            if not applies(row, problem, Pass.INPUT_GRADIENT):
                continue
            for activation in ("", "gelu"):
                how = {"threads": case.threads, "algorithm": row.name, "bias": bias, "activation": activation}
                run = partial(engine.input_gradient, dy, w, case.size, case.spec, **how)
                got = written(np.full(data.x.shape, np.nan, dtype), layout, run)
                wanted = TORCH[activation](torch.from_numpy(sums)).numpy()
                assert error(got, wanted) <= (1 if row.exact else 3) * BOUND[dtype], (row.name, layout, activation)
            tried.add(row.name)
    assert tried


def test_the_order_is_that_of_networks() -> None:
    """The residual is added before the activation, the activation once, at the end of the whole sum."""
    x, w = np.ones((1, 600, 1, 1), np.float32), np.ones((1, 600, 1, 1), np.float32)
    w[:, 300:] = -2.0
    spec = Conv2dSpec(600, 1, 1)  # 300 − 600, in two parts: the first 512 products come to −124
    for residual, wanted in ((299.0, 0.0), (301.5, 1.5)):
        other = np.full((1, 1, 1, 1), residual, np.float32)
        y = engine.conv2d(x, w, None, spec, activation="relu", residual=other)
        assert y.item() == wanted


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_residual_may_be_where_the_result_goes(layout: str) -> None:
    for case in CASES.values():
        case, data = small(case, "float32")
        x = embed(data.x, layout, np.nan)[1]
        y = written(data.dy, layout, lambda y: engine.conv2d(x, data.w, None, case.spec, out=y, residual=y))  # noqa: B023
        agree(case, data, "", y, residual=data.dy)


def test_a_sum_that_is_not_a_number_stays_one() -> None:
    spec, w = Conv2dSpec(2, 3, 1), np.ones((3, 2, 1, 1), np.float32)
    x = np.ones((1, 2, 2, 2), np.float32)
    x[0, 0, 0, 1] = np.nan
    for activation in functions.ACTIVATIONS:
        y = engine.conv2d(x, w, None, spec, activation=activation)
        assert (np.isnan(y) == np.array([[False, True], [False, False]])).all(), activation


def test_mistakes_are_named() -> None:
    spec, x, w = Conv2dSpec(1, 2, 1), np.ones((1, 1, 2, 3), np.float32), np.ones((2, 1, 1, 1), np.float32)
    with pytest.raises(UserError, match=r"'swish' is not an activation; these are: relu, "):
        engine.conv2d(x, w, None, spec, activation="swish")
    with pytest.raises(ValueError, match="residual must have the shape"):
        engine.conv2d(x, w, None, spec, residual=np.ones((1, 2, 2, 2), np.float32))
    out, other = np.empty((1, 2, 2, 3), np.float32), np.empty((1, 2, 3, 2), np.float32).transpose(0, 1, 3, 2)
    with pytest.raises(ValueError, match="strides"):
        engine.conv2d(x, w, None, spec, out=out, residual=other)
    with pytest.raises(ValueError, match="float64"):
        engine.conv2d(x, w, None, spec, out=out, residual=np.ones((1, 2, 2, 3)))
