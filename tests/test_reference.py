"""The oracle itself: against the sum taken number by number, and against torch in float64, gradients included."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from convforge import Conv2dSpec, reference
from convforge.spec import PADDING_MODES

EXACT = {"rtol": 1e-12, "atol": 1e-12}


def _spec(seed: int, mode: str) -> tuple[Conv2dSpec, tuple[int, int]]:
    choose = random.Random(f"{seed} {mode}")
    groups = choose.choice([1, 1, 2, 3])
    size = (choose.randint(4, 8), choose.randint(4, 8))

    def axis(length: int) -> tuple[int, int, int, tuple[int, int]]:
        stride, dilation = choose.randint(1, 3), choose.randint(1, 2)
        pad = (choose.randint(0, 3), choose.randint(0, 3))
        kernel = choose.randint(1, max(1, min(3, (length + sum(pad) - 1) // dilation + 1)))
        return kernel, stride, dilation, pad

    (kh, sh, dh, rows), (kw, sw, dw, columns) = axis(size[0]), axis(size[1])
    return (
        Conv2dSpec(
            groups * choose.randint(1, 3),
            groups * choose.randint(1, 3),
            (kh, kw),
            (sh, sw),
            (rows, columns),
            (dh, dw),
            groups,
            padding_mode=mode,
        ),
        size,
    )


def _data(spec: Conv2dSpec, size: tuple[int, int]) -> tuple[Any, ...]:
    made = np.random.default_rng(3)
    out = spec.output_size(size)
    return (
        made.standard_normal((2, spec.in_channels, *size)),
        made.standard_normal(spec.weight_shape),
        made.standard_normal(spec.out_channels),
        made.standard_normal((2, spec.out_channels, *out)),
    )


@pytest.mark.parametrize("mode", PADDING_MODES)
@pytest.mark.parametrize("seed", range(12))
def test_conv2d_is_the_sum_taken_number_by_number(seed: int, mode: str) -> None:
    spec, size = _spec(seed, mode)
    x, w, _, _ = _data(spec, size)
    y = reference.conv2d(x, w, None, spec)
    for index in np.ndindex(y.shape):
        assert y[index] == pytest.approx(reference.conv2d_at(x, w, spec, *index), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("mode", PADDING_MODES)
@pytest.mark.parametrize("seed", range(25))
def test_values_and_gradients_are_torchs_in_float64(seed: int, mode: str) -> None:
    spec, size = _spec(seed, mode)
    x, w, b, dy = _data(spec, size)
    tensors = [torch.from_numpy(a).requires_grad_() for a in (x, w, b)]
    (top, bottom), (left, right) = spec.sides(size)
    padded = F.pad(tensors[0], (left, right, top, bottom), mode="constant" if mode == "zeros" else mode)
    y = F.conv2d(padded, tensors[1], tensors[2], spec.stride, 0, spec.dilation, spec.groups)
    dx, dw, db = torch.autograd.grad(y, tensors, torch.from_numpy(dy))
    np.testing.assert_allclose(reference.conv2d(x, w, b, spec), y.detach().numpy(), **EXACT)
    np.testing.assert_allclose(reference.input_gradient(dy, w, size, spec), dx.numpy(), **EXACT)
    np.testing.assert_allclose(reference.weight_gradient(x, dy, spec), dw.numpy(), **EXACT)
    np.testing.assert_allclose(reference.bias_gradient(dy), db.numpy(), **EXACT)


@pytest.mark.parametrize("mode", PADDING_MODES)
@pytest.mark.parametrize("seed", range(12))
def test_the_gradients_are_adjoint(seed: int, mode: str) -> None:
    """⟨conv(x, w), dy⟩ = ⟨x, dx⟩ = ⟨w, dw⟩: true for the right gradients only, and needs no other library."""
    spec, size = _spec(seed, mode)
    x, w, _, dy = _data(spec, size)
    product = (reference.conv2d(x, w, None, spec) * dy).sum()
    assert (x * reference.input_gradient(dy, w, size, spec)).sum() == pytest.approx(product, rel=1e-10)
    assert (w * reference.weight_gradient(x, dy, spec)).sum() == pytest.approx(product, rel=1e-10)


def test_the_lessons_sum() -> None:
    image = np.arange(49.0).reshape(7, 7)
    kernel = np.arange(9.0).reshape(3, 3)
    for stride, out in ((1, 5), (2, 3)):
        spec = Conv2dSpec(1, 1, 3, stride)
        y = reference.conv2d(image[None, None], kernel[None, None], None, spec)[0, 0]
        assert y.shape == (out, out)
        for r in range(out):
            for c in range(out):
                total = sum(kernel[i, j] * image[r * stride + i, c * stride + j] for i in range(3) for j in range(3))
                assert y[r, c] == total


def test_a_kernel_that_is_one_at_a_place_shifts_the_image() -> None:
    image = np.arange(30.0).reshape(1, 1, 5, 6)
    kernel = np.zeros((1, 1, 3, 3))
    kernel[0, 0, 0, 2] = 1
    y = reference.conv2d(image, kernel, None, Conv2dSpec(1, 1, 3, padding=1))
    wanted = np.zeros_like(image)
    wanted[0, 0, 1:, :-1] = image[0, 0, :-1, 1:]
    assert np.array_equal(y, wanted)


@pytest.mark.parametrize("mode", PADDING_MODES)
def test_pad_is_torchs(mode: str) -> None:
    spec = Conv2dSpec(2, 1, 3, padding=((1, 3), (2, 0)), padding_mode=mode)
    x = np.random.default_rng(0).standard_normal((2, 2, 4, 5))
    theirs = F.pad(torch.from_numpy(x), (2, 0, 1, 3), mode="constant" if mode == "zeros" else mode)
    assert np.array_equal(reference.pad(x, spec), theirs.numpy())


def test_the_bias_is_added_to_every_position_of_its_channel() -> None:
    spec = Conv2dSpec(1, 3, 1)
    y = reference.conv2d(np.zeros((2, 1, 4, 4)), np.zeros((3, 1, 1, 1)), [1.0, 2.0, 3.0], spec)
    assert np.array_equal(y, np.broadcast_to(np.reshape([1.0, 2.0, 3.0], (1, 3, 1, 1)), (2, 3, 4, 4)))


def test_float32_is_computed_in_float64() -> None:
    x = np.full((1, 1, 1, 2), np.float32(2**24))
    x[0, 0, 0, 1] = 1
    y = reference.conv2d(x, np.ones((1, 1, 1, 2), np.float32), None, Conv2dSpec(1, 1, (1, 2)))
    assert y.dtype == np.float64
    assert y[0, 0, 0, 0] == 2**24 + 1
