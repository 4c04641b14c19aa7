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

from ..spec import Conv2dSpec, Pair
from .arrays import address, check_output, check_steps, readable
from .geometry import Problem
from .kernels.epilogue import Epilogue
from .passes import prepare
from .plan import Pass
from .program import most_threads
from .runtime import usable_threads

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
    team = _team(threads)
    images, height, width = _image_shape(x, "x", spec.in_channels)
    shape = (images, spec.out_channels, *spec.output_size((height, width)))
    if residual is not None:
        _fits(residual, "residual", shape)
    y = out if out is not None else np.empty(shape, x.dtype) if residual is None else np.empty_like(residual)
    _fits(w, "w", spec.weight_shape)
    _fits(y, "out", shape)
    if bias is not None:
        _fits(bias, "bias", (spec.out_channels,))
    if residual is not None:
        if (residual.dtype, residual.strides) != (y.dtype, y.strides):
            how = f"{residual.dtype} with {residual.strides}"
            raise ValueError(f"residual must be {y.dtype} with out's strides {y.strides}, not {how}.")
        check_steps(residual, "residual")
    if out is not None:
        beside = None if residual is not None and address(residual) == address(out) else residual  # else it is out
        inputs = {"x": x, "w": w, "bias": bias, "residual": beside}
        check_output(out, "out", x.dtype, {name: array for name, array in inputs.items() if array is not None})
    if y.size:
        x, w = readable(x), readable(w)
        bias = None if bias is None else np.require(bias, x.dtype, ["C", "A"])
        finish = Epilogue(bias is not None, activation, residual is not None)
        prepared = prepare(_problem(x, w, y, spec), Pass.FORWARD, team, exact, algorithm, finish=finish)
        extra = {"bias": bias, "residual": residual}
        addresses = {name: address(array) for name, array in extra.items() if array is not None}
        prepared.run(x=address(x), w=address(w), y=address(y), **addresses)
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
    team = _team(threads)
    images, _, _ = _image_shape(dy, "dy", spec.out_channels)
    _fits(dy, "dy", (images, spec.out_channels, *spec.output_size(input_size)))
    _fits(w, "w", spec.weight_shape)
    shape = (images, spec.in_channels, *input_size)
    dx = np.empty(shape, dy.dtype) if out is None else out
    _fits(dx, "out", shape)
    if bias is not None:
        _fits(bias, "bias", (spec.in_channels,))
    if out is not None:
        check_output(out, "out", dy.dtype, {"dy": dy, "w": w} | ({} if bias is None else {"bias": bias}))
    if dx.size:
        dy, w = readable(dy), readable(w)
        bias = None if bias is None else np.require(bias, dy.dtype, ["C", "A"])
        finish = Epilogue(bias is not None, activation)
        prepared = prepare(_problem(dx, w, dy, spec), Pass.INPUT_GRADIENT, team, exact, algorithm, finish=finish)
        prepared.run(x=address(dx), w=address(w), y=address(dy), bias=0 if bias is None else address(bias))
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
    images, height, width = _image_shape(x, "x", spec.in_channels)
    _fits(dy, "dy", (images, spec.out_channels, *spec.output_size((height, width))))
    dw = np.empty(spec.weight_shape, x.dtype) if out is None else out
    _fits(dw, "out", spec.weight_shape)
    if out is not None:
        check_output(out, "out", x.dtype, {"x": x, "dy": dy})
    if not dy.size:
        dw[...] = 0
    else:
        x, dy = readable(x), readable(dy)
        prepared = prepare(_problem(x, dw, dy, spec), Pass.WEIGHT_GRADIENT, team, exact, algorithm)
        prepared.run(x=address(x), w=address(dw), y=address(dy))
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


def _image_shape(array: Array, name: str, channels: int) -> tuple[int, int, int]:
    """Images, height and width of `(N, channels, H, W)`."""
    if array.ndim != 4 or array.shape[1] != channels:
        raise ValueError(f"{name} must have the shape (N, {channels}, H, W), not {array.shape}.")
    return array.shape[0], array.shape[2], array.shape[3]


def _fits(array: Array, name: str, shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise ValueError(f"{name} must have the shape {shape}, not {array.shape}.")


def _problem(x: Array, w: Array, y: Array, spec: Conv2dSpec) -> Problem:
    if not (x.dtype == w.dtype == y.dtype) or x.dtype not in (np.float32, np.float64):
        raise TypeError(f"the engine takes float32 or float64, alike for all, not {x.dtype}, {w.dtype} and {y.dtype}.")
    if spec.padding_mode != "zeros":
        raise ValueError(f"the engine pads with zeros only; pad the input first for {spec.padding_mode!r}.")
    (top, _), (left, _) = spec.sides((x.shape[2], x.shape[3]))
    return Problem(
        dtype=x.dtype.name,
        x_shape=_four(x.shape),
        w_shape=_four(w.shape),
        y_shape=_four(y.shape),
        stride=spec.stride,
        pads=(top, left),
        dilation=spec.dilation,
        groups=spec.groups,
        x_strides=_strides(x),
        w_strides=_strides(w),
        y_strides=_strides(y),
    )


def _strides(array: Array) -> tuple[int, int, int, int]:
    return _four(tuple(step // array.itemsize for step in array.strides))


def _four(values: tuple[int, ...]) -> tuple[int, int, int, int]:
    a, b, c, d = values
    return a, b, c, d
