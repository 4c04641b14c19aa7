"""The convolution as the lesson defines it, in float64 and without haste: the oracle of every test.

    Output[r, c] = Σᵢ Σⱼ K[i, j] · X[r·s + i·d, c·s + j·d]        X padded, summed over the input channels of the group

The two sums stand here as two loops; what is left to NumPy is doing it for all positions and channels at once.
Shapes are torch's: x `(N, C, H, W)`, w `(K, C/g, k, k)`, y `(N, K, H_out, W_out)`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .spec import Conv2dSpec, Pair

Array = NDArray[np.float64]

_NUMPY_MODE = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def conv2d(x: ArrayLike, w: ArrayLike, bias: ArrayLike | None, spec: Conv2dSpec) -> Array:
    """The forward pass: `(N, K, H_out, W_out)`.

    >>> image = np.arange(49.0).reshape(1, 1, 7, 7)
    >>> conv2d(image, np.ones((1, 1, 3, 3)), None, Conv2dSpec(1, 1, 3)).shape
    (1, 1, 5, 5)
    """
    x, w = np.asarray(x, np.float64), np.asarray(w, np.float64)
    n, size = x.shape[0], (x.shape[2], x.shape[3])
    padded, out = pad(x, spec), spec.output_size(size)
    y: Array = np.zeros((n, spec.groups, spec.out_channels // spec.groups, *out))
    for i, j, seen in _taps(padded, out, spec):
        y += np.einsum("ngchw,gkc->ngkhw", seen, _by_group(w, spec)[..., i, j], optimize=True)
    y = y.reshape(n, spec.out_channels, *out)
    return y if bias is None else y + np.asarray(bias, np.float64)[:, None, None]


def conv2d_at(x: ArrayLike, w: ArrayLike, spec: Conv2dSpec, n: int, k: int, r: int, c: int) -> float:
    """One number of the output, with nothing vectorised: the definition that `conv2d` itself is tested against."""
    x, w = np.asarray(x, np.float64), np.asarray(w, np.float64)
    padded = pad(x, spec)
    per_group = spec.in_channels // spec.groups
    first = (k // (spec.out_channels // spec.groups)) * per_group
    (sv, sh), (dv, dh) = spec.stride, spec.dilation
    total = 0.0
    for channel in range(per_group):
        for i in range(spec.kernel_size[0]):
            for j in range(spec.kernel_size[1]):
                total += w[k, channel, i, j] * padded[n, first + channel, r * sv + i * dv, c * sh + j * dh]
    return float(total)


def input_gradient(dy: ArrayLike, w: ArrayLike, input_size: Pair, spec: Conv2dSpec) -> Array:
    """∂loss/∂x, `(N, C, H, W)`: each output's gradient goes back to every input that it was made of."""
    dy, w = np.asarray(dy, np.float64), np.asarray(w, np.float64)
    n, out = dy.shape[0], (dy.shape[2], dy.shape[3])
    padded = np.zeros(pad(np.zeros((n, spec.in_channels, *input_size)), spec).shape)
    for i, j, seen in _taps(padded, out, spec):  # `seen` is a view: adding to it adds to `padded`
        seen += np.einsum("ngkhw,gkc->ngchw", _by_group(dy, spec, axis=1), _by_group(w, spec)[..., i, j], optimize=True)
    return _unpad(padded, input_size, spec)


def weight_gradient(x: ArrayLike, dy: ArrayLike, spec: Conv2dSpec) -> Array:
    """∂loss/∂w, `(K, C/g, k, k)`: each weight collects, over all positions, its input times the output's gradient."""
    x, dy = np.asarray(x, np.float64), np.asarray(dy, np.float64)
    dw = np.zeros((spec.groups, spec.out_channels // spec.groups, *spec.weight_shape[1:]))
    for i, j, seen in _taps(pad(x, spec), (dy.shape[2], dy.shape[3]), spec):
        dw[..., i, j] = np.einsum("ngchw,ngkhw->gkc", seen, _by_group(dy, spec, axis=1), optimize=True)
    gradient: Array = dw.reshape(spec.weight_shape)
    return gradient


def bias_gradient(dy: ArrayLike) -> Array:
    """∂loss/∂b, `(K,)`: the bias is in every output of its channel."""
    gradient: Array = np.asarray(dy, np.float64).sum(axis=(0, 2, 3))
    return gradient


# ---------------------------------------------------------------------------------------------------------------------
# Padding, and its adjoint
# ---------------------------------------------------------------------------------------------------------------------


def pad(x: Array, spec: Conv2dSpec) -> Array:
    """The image with its border: zeros, a reflection, the edge repeated, or the opposite side."""
    vertical, horizontal = spec.sides((x.shape[2], x.shape[3]))
    mode: Any = _NUMPY_MODE[spec.padding_mode]
    padded: Array = np.pad(x, ((0, 0), (0, 0), vertical, horizontal), mode=mode)
    return padded


def padded_index(size: int, sides: Pair, mode: str) -> NDArray[np.int64]:
    """Along one axis: which of the image's rows stands at each row of the padded image; -1 where it is a zero.

    >>> padded_index(3, (1, 2), "zeros").tolist(), padded_index(3, (1, 2), "reflect").tolist()
    ([-1, 0, 1, 2, -1, -1], [1, 0, 1, 2, 1, 0])
    """
    rows = np.arange(size)
    if mode == "zeros":
        return np.pad(rows, sides, constant_values=-1)
    numpy_mode: Any = _NUMPY_MODE[mode]
    index: NDArray[np.int64] = np.pad(rows, sides, mode=numpy_mode)
    return index


def _unpad(padded: Array, input_size: Pair, spec: Conv2dSpec) -> Array:
    """The adjoint of `pad`: what reached a border pixel goes back to the pixel it was copied from, or is dropped."""
    number = np.arange(1.0, input_size[0] * input_size[1] + 1).reshape(1, 1, *input_size)
    source = pad(number, spec).astype(np.int64).reshape(-1)  # 0: a padded zero, else 1 + the pixel's index
    flat = padded.reshape(-1, source.size)
    collected = np.zeros((flat.shape[0], number.size + 1))
    np.add.at(collected.T, source, flat.T)
    unpadded: Array = collected[:, 1:].reshape(*padded.shape[:2], *input_size)
    return unpadded


# ---------------------------------------------------------------------------------------------------------------------
# The two sums
# ---------------------------------------------------------------------------------------------------------------------


def _taps(padded: Array, out: Pair, spec: Conv2dSpec) -> Iterator[tuple[int, int, Array]]:
    """For each (i, j) of the kernel: the input it meets at every output position, `(N, g, C/g, H_out, W_out)`."""
    grouped = _by_group(padded, spec, axis=1)
    (sv, sh), (dv, dh) = spec.stride, spec.dilation
    for i in range(spec.kernel_size[0]):
        for j in range(spec.kernel_size[1]):
            rows = slice(i * dv, i * dv + (out[0] - 1) * sv + 1, sv)
            columns = slice(j * dh, j * dh + (out[1] - 1) * sh + 1, sh)
            yield i, j, grouped[:, :, :, rows, columns]


def _by_group(array: Array, spec: Conv2dSpec, axis: int = 0) -> Array:
    """The channel axis as (group, channel in the group)."""
    shape = array.shape
    return array.reshape(*shape[:axis], spec.groups, shape[axis] // spec.groups, *shape[axis + 1 :])
