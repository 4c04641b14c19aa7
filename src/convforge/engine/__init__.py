"""The engine: a spec in, machine code out. It knows sizes and addresses, and works on NumPy arrays alone.

>>> import numpy as np
>>> from convforge import Conv2dSpec, engine
>>> image, kernels = np.ones((1, 1, 7, 7), np.float32), np.ones((1, 1, 3, 3), np.float32)
>>> engine.conv2d(image, kernels, None, Conv2dSpec(1, 1, 3)).shape
(1, 1, 5, 5)

Arrays are float32 or float64, of torch's shapes (`(N, C, H, W)`, `(K, C/g, k, k)`), in any memory layout. Padding modes
other than zeros are a matter of the caller: pad first. Arrays that do not fit the spec or each other raise `ValueError`
before anything is read or written. So does an `out` that is read-only, whose numbers lie over each other, or that
shares memory with an input.

`threads` is a whole number; 0 takes all cores. More than four a core are not started: they would only wait.

NaN and infinities go where the definition takes them: with `exact` to the results that they are part of and no others,
but for products with padded zeros, which may be NaN or left out; without it perhaps to results of the same tile as
well. `docs/promises.md` says it in full.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..native.runtime import usable_threads
from ..spec import Conv2dSpec, Pair
from .arrays import address, check_output, check_steps, readable
from .geometry import Problem
from .kernels.epilogue import Epilogue
from .passes import prepare
from .plan import Pass
from .prepared import most_threads

__all__ = ["Problem", "bias_gradient", "conv2d", "input_gradient", "weight_gradient"]

Array = NDArray[Any]


def conv2d(
    x: Array,
    w: Array,
    bias: Array | None,
    spec: Conv2dSpec,
    out: Array | None = None,
    threads: int = 0,
    exact: bool = False,
    algorithm: str = "",
    activation: str = "",
    residual: Array | None = None,
) -> Array:
    """The forward pass; into `out`, of any layout, where it is given.

    `exact` leaves out algorithms that rearrange the products (Winograd); `algorithm` asks for one by its name.

    With an `activation` (`functions.FUNCTIONS`) or a `residual`, of out's shape and strides and perhaps out itself,
    the result is activation(convolution + bias + residual), in the same pass over memory.
    """
    team, shape = _team(threads), _output_shape(x, spec)
    _fits(w, "w", spec.weight_shape)
    _fits(bias, "bias", (spec.out_channels,))
    _fits(residual, "residual", shape)
    if out is None and residual is not None:
        y = np.empty_like(residual)
    else:
        beside = None if out is None or residual is None or address(residual) == address(out) else residual
        y = _result(out, shape, x.dtype, x=x, w=w, bias=bias, residual=beside)
    if residual is not None:
        if (residual.dtype, residual.strides) != (y.dtype, y.strides):
            how = f"{residual.dtype} with {residual.strides}"
            raise ValueError(f"residual must be {y.dtype} with out's strides {y.strides}, not {how}.")
        check_steps(residual, "residual")
    if y.size:
        _run(Pass.FORWARD, x, w, y, spec, team, exact, algorithm, bias, activation, residual)
    return y


def input_gradient(
    dy: Array,
    w: Array,
    input_size: Pair,
    spec: Conv2dSpec,
    out: Array | None = None,
    threads: int = 0,
    exact: bool = False,
    algorithm: str = "",
    bias: Array | None = None,
    activation: str = "",
) -> Array:
    """∂loss/∂x, `(N, C, H, W)`, from ∂loss/∂y.

    It is also the forward pass of the transposed convolution, which makes C channels of K. That one may have a `bias`,
    `(C,)`, and an `activation`: the result is activation(gradient + bias), in the same pass over memory.
    """
    team, shape = _team(threads), (*dy.shape[:1], spec.in_channels, *input_size)
    _fits(dy, "dy", (*dy.shape[:1], spec.out_channels, *spec.output_size(input_size)))
    _fits(w, "w", spec.weight_shape)
    _fits(bias, "bias", (spec.in_channels,))
    dx = _result(out, shape, dy.dtype, dy=dy, w=w, bias=bias)
    if dx.size:
        _run(Pass.INPUT_GRADIENT, dx, w, dy, spec, team, exact, algorithm, bias, activation)
    return dx


def weight_gradient(
    x: Array,
    dy: Array,
    spec: Conv2dSpec,
    out: Array | None = None,
    threads: int = 0,
    exact: bool = False,
    algorithm: str = "",
) -> Array:
    """∂loss/∂w, `(K, C/g, k, k)`, from x and ∂loss/∂y."""
    team = _team(threads)
    _fits(dy, "dy", _output_shape(x, spec))
    dw = _result(out, spec.weight_shape, x.dtype, x=x, dy=dy)
    if dy.size:
        _run(Pass.WEIGHT_GRADIENT, x, dw, dy, spec, team, exact, algorithm)
    else:
        dw[...] = 0
    return dw


def bias_gradient(dy: Array, threads: int = 0) -> Array:
    """∂loss/∂b, `(K,)`: the weight gradient of a 1×1 kernel over an image of ones."""
    if dy.ndim != 4:
        raise ValueError(f"dy must have the shape (N, K, H, W), not {dy.shape}.")
    ones = np.broadcast_to(np.ones((), dy.dtype), (dy.shape[0], 1, *dy.shape[2:]))
    return weight_gradient(ones, dy, Conv2dSpec(1, dy.shape[1], 1), threads=threads).reshape(dy.shape[1])


def _team(threads: int) -> int:
    """How many threads to take."""
    if isinstance(threads, bool) or not hasattr(threads, "__index__") or threads < 0:
        raise ValueError(f"threads must be a whole number, or 0 for all cores, not {threads!r}.")
    return min(int(threads), most_threads()) or usable_threads()


def _output_shape(x: Array, spec: Conv2dSpec) -> tuple[int, ...]:
    """The shape of a convolution of x."""
    if x.ndim != 4 or x.shape[1] != spec.in_channels:
        raise ValueError(f"x must have the shape (N, {spec.in_channels}, H, W), not {x.shape}.")
    return (x.shape[0], spec.out_channels, *spec.output_size((x.shape[2], x.shape[3])))


def _fits(array: Array | None, name: str, shape: tuple[int, ...]) -> None:
    if array is not None and array.shape != shape:
        raise ValueError(f"{name} must have the shape {shape}, not {array.shape}.")


def _result(out: Array | None, shape: tuple[int, ...], dtype: np.dtype[Any], **inputs: Array | None) -> Array:
    """`out`, if it may be written while the inputs are read, or a new array."""
    if out is None:
        return np.empty(shape, dtype)
    _fits(out, "out", shape)
    check_output(out, "out", dtype, {name: array for name, array in inputs.items() if array is not None})
    return out


def _run(
    which: Pass, x: Array, w: Array, y: Array, spec: Conv2dSpec, threads: int, exact: bool, algorithm: str,
    bias: Array | None = None, activation: str = "", residual: Array | None = None,
) -> None:  # fmt: skip
    """A pass on these arrays. What is written has steps that suit the kernels; what is only read is copied if not."""
    x, w, y = readable(x), readable(w), readable(y)
    bias = None if bias is None else np.require(bias, x.dtype, ["C", "A"])
    finish = Epilogue(bias is not None, activation, residual is not None)
    prepared = prepare(_problem(x, w, y, spec), which, threads, exact, algorithm, finish=finish)
    arrays = {"x": x, "w": w, "y": y, "bias": bias, "residual": residual}
    prepared.run(**{name: address(array) for name, array in arrays.items() if array is not None})


def _problem(x: Array, w: Array, y: Array, spec: Conv2dSpec) -> Problem:
    if not (x.dtype == w.dtype == y.dtype) or x.dtype not in (np.float32, np.float64):
        raise TypeError(f"the engine takes float32 or float64, alike for all, not {x.dtype}, {w.dtype} and {y.dtype}.")
    if spec.padding_mode != "zeros":
        raise ValueError(f"the engine pads with zeros only; pad the input first for {spec.padding_mode!r}.")
    (top, _), (left, _) = spec.sides((x.shape[2], x.shape[3]))
    arrays = (x, w, y)
    x_shape, w_shape, y_shape = (_four(array.shape) for array in arrays)
    x_strides, w_strides, y_strides = (_four(tuple(n // array.itemsize for n in array.strides)) for array in arrays)
    return Problem(
        x.dtype.name, x_shape, w_shape, y_shape, spec.stride, (top, left), spec.dilation, spec.groups, x_strides,
        w_strides, y_strides,
    )  # fmt: skip


def _four(values: tuple[int, ...]) -> tuple[int, int, int, int]:
    a, b, c, d = values
    return a, b, c, d
