"""`convforge.conv2d` against `torch.nn.functional.conv2d`: values, gradients, shapes, dtypes, strides, errors, and the
ways in which torch itself takes functions apart."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import convforge
from convforge import Conv2dSpec, SpecError
from convforge.pytorch import compute, sixteen
from convforge.pytorch.layout import is_channels_last

OPERATORS = torch.ops.convforge
LAST = torch.channels_last


def randn(*shape: int, dtype: torch.dtype = torch.float32, grad: bool = False, seed: int = 0) -> Tensor:
    made = torch.Generator().manual_seed(seed + 7 * len(shape) + sum(shape))
    return torch.randn(*shape, generator=made, dtype=torch.float64).to(dtype).requires_grad_(grad)


def close(ours: Tensor, theirs: Tensor, bound: float = 2e-6, strides: bool = True) -> None:
    """The same shape, dtype and memory layout, and values within `bound` of the largest.

    Without `strides`, those of axes of size 1 may differ: they lead nowhere.
    """
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype
    pairs = zip(ours.stride(), theirs.stride(), theirs.shape, strict=True)
    assert all(mine == their for mine, their, size in pairs if strides or size > 1)
    if theirs.numel():
        ours, theirs = ours.detach(), theirs.detach()
        scale = float(theirs.abs().max()) or 1.0
        assert float((ours - theirs).abs().max()) <= bound * scale


def both(
    x: Tensor, w: Tensor, b: Tensor | None = None, bound: float = 2e-6, **arguments: Any
) -> tuple[list[Tensor | None], list[Tensor | None]]:
    """Ours and torch's: the output and the gradients of whatever requires one, compared.

    Gradients may differ in strides that lead nowhere: torch's own do, with the number of threads.
    """
    results = []
    for function in (convforge.conv2d, F.conv2d):
        inputs = [t for t in (x, w, b) if t is not None and t.requires_grad]
        y = function(x, w, b, **arguments)
        # the gradient that comes back has torch's usual layout: that of the output
        g = torch.empty_like(y).copy_(randn(*y.shape, dtype=y.dtype, seed=3))
        gradients = torch.autograd.grad(y, inputs, g) if inputs else ()
        results.append([y.detach(), *gradients])
        assert y.requires_grad == bool(inputs)
    for n, (ours, theirs) in enumerate(zip(*results, strict=True)):
        close(ours, theirs, bound, strides=n == 0)
    return results[0], results[1]


# ---------------------------------------------------------------------------------------------------------------------
# Values and gradients, in every layout
# ---------------------------------------------------------------------------------------------------------------------

ARGUMENTS: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "plain": ((2, 3, 8, 9), (6, 3, 3, 3), {}),
    "strided": ((2, 3, 9, 8), (6, 3, 3, 3), {"stride": 2, "padding": 1}),
    "per axis": ((2, 4, 9, 8), (6, 4, 3, 2), {"stride": (2, 1), "padding": (0, 2), "dilation": (1, 2)}),
    "same": ((2, 4, 7, 8), (6, 4, 3, 5), {"padding": "same", "dilation": 2}),
    "valid": ((2, 4, 7, 8), (6, 4, 3, 5), {"padding": "valid", "stride": 2}),
    "grouped": ((2, 6, 7, 8), (9, 2, 3, 3), {"groups": 3, "padding": [1, 1]}),
    "depthwise": ((2, 5, 7, 8), (10, 1, 3, 3), {"groups": 5, "padding": [1]}),
    "pointwise": ((2, 5, 7, 8), (6, 5, 1, 1), {}),
    "one channel": ((2, 1, 7, 8), (6, 1, 3, 3), {"padding": 1}),
    "one channel each way": ((2, 1, 7, 8), (1, 1, 3, 3), {"padding": 1}),
    "one output channel": ((2, 4, 7, 8), (1, 4, 3, 3), {"padding": 1}),
    "1x1 image": ((2, 4, 1, 1), (6, 4, 1, 1), {}),
    "1x1 image, 3x3 kernel": ((2, 4, 1, 1), (6, 4, 3, 3), {"padding": 1}),
    "to 1x1": ((2, 4, 5, 5), (6, 4, 5, 5), {}),
    "one image": ((1, 4, 5, 5), (6, 4, 3, 3), {}),
    "one of everything": ((1, 1, 1, 1), (1, 1, 1, 1), {}),
    "one row": ((2, 4, 1, 9), (6, 4, 1, 3), {}),
    "one column": ((2, 4, 9, 1), (6, 4, 3, 1), {}),
    "empty batch": ((0, 4, 5, 5), (6, 4, 3, 3), {}),
}
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": LAST}


@pytest.mark.parametrize("w_format", FORMATS)
@pytest.mark.parametrize("x_format", FORMATS)
@pytest.mark.parametrize("name", ARGUMENTS)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
def test_values_gradients_and_memory_formats(name: str, x_format: str, w_format: str) -> None:
    x_shape, w_shape, arguments = ARGUMENTS[name]
    x = randn(*x_shape).contiguous(memory_format=FORMATS[x_format]).requires_grad_()
    w = randn(*w_shape).contiguous(memory_format=FORMATS[w_format]).requires_grad_()
    both(x, w, randn(w_shape[0], grad=True), **arguments)


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_memory_formats_of_ambiguous_strides(order: tuple[int, ...]) -> None:
    """Where sizes are 1, strides say little, and torch has rules of its own for what it calls channels_last."""
    for shape in itertools.product((1, 3), repeat=4):
        inner = [shape[axis] for axis in order]
        x = randn(*inner).permute([order.index(axis) for axis in range(4)]).detach().requires_grad_()
        assert x.shape == shape
        for w_shape in ((2, shape[1], 1, 1), (1, shape[1], 3, 3)):
            for memory_format in FORMATS.values():
                w = randn(*w_shape).contiguous(memory_format=memory_format).requires_grad_()
                both(x, w, padding=w_shape[2] // 2)


@pytest.mark.parametrize("wanted", list(itertools.product([True, False], repeat=3)))
def test_only_the_gradients_that_are_wanted(wanted: tuple[bool, bool, bool]) -> None:
    x, w, b = (randn(*s, grad=g) for s, g in zip(((2, 3, 6, 6), (4, 3, 3, 3), (4,)), wanted, strict=True))
    both(x, w, b, padding=1)
    both(x, w, padding=1)


def test_no_gradient_where_none_is_recorded() -> None:
    x, w = randn(2, 3, 6, 6, grad=True), randn(4, 3, 3, 3, grad=True)
    with torch.no_grad():
        assert not convforge.conv2d(x, w).requires_grad
    with torch.inference_mode():
        y = convforge.conv2d(x, w)
        assert y.is_inference()
    close(y, F.conv2d(x, w).detach())


VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": lambda t: t.transpose(2, 3),
    "sliced": lambda t: t[:, 1:, 1:-1, ::2],
    "every second channel": lambda t: t[:, ::2],
    "expanded over the batch": lambda t: t[:1].expand(3, -1, -1, -1),
    "expanded over channels": lambda t: t[:, :1].expand(-1, 4, -1, -1),
    "expanded over everything": lambda t: t[:1, :1, :1, :1].expand(2, 4, 7, 8),
    "permuted": lambda t: t.permute(3, 1, 0, 2),
    "channels first of channels_last": lambda t: t.contiguous(memory_format=LAST)[:, 1:3],
    "rows of channels_last": lambda t: t.contiguous(memory_format=LAST)[:, :, 2:],
    "flipped": lambda t: t.flip(2, 3),
    "offset": lambda t: t.reshape(-1)[5 : 5 + 2 * 3 * 8 * 9].reshape(2, 3, 8, 9),
}


@pytest.mark.parametrize("name", VIEWS)
def test_views_of_inputs(name: str) -> None:
    base = randn(3, 4, 8, 9)
    x = VIEWS[name](base).detach().requires_grad_()
    both(x, randn(5, x.shape[1], 3, 3, grad=True), randn(5, grad=True), padding=1)
    both(x, randn(x.shape[1], 1, 2, 2, grad=True), groups=x.shape[1])


@pytest.mark.parametrize("name", VIEWS)
def test_views_of_weights(name: str) -> None:
    w = VIEWS[name](randn(3, 4, 8, 9)).detach().requires_grad_()
    x = randn(2, w.shape[1], 12, 11, grad=True)
    both(x, w, padding=2)


@pytest.mark.parametrize("expand", [(0,), (1,), (2, 3), (0, 1, 2, 3)])
def test_gradients_that_come_back_expanded(expand: tuple[int, ...]) -> None:
    """`y.sum().backward()` sends one number back, repeated with stride 0."""
    for x_format in FORMATS.values():
        x = randn(2, 3, 6, 7).contiguous(memory_format=x_format).requires_grad_()
        w = randn(4, 3, 3, 3, grad=True)
        g = randn(2, 4, 6, 7)
        g = g[tuple(slice(0, 1) if d in expand else slice(None) for d in range(4))].expand(2, 4, 6, 7)
        ours = torch.autograd.grad(convforge.conv2d(x, w, padding=1), (x, w), g)
        theirs = torch.autograd.grad(F.conv2d(x, w, padding=1), (x, w), g)
        for mine, their in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine, their, rtol=1e-5, atol=1e-5)


def test_gradients_that_come_back_in_the_other_memory_format() -> None:
    for x_format, g_format in ((torch.contiguous_format, LAST), (LAST, torch.contiguous_format)):
        x, w = randn(2, 3, 6, 7).contiguous(memory_format=x_format).requires_grad_(), randn(4, 3, 3, 3, grad=True)
        g = randn(2, 4, 6, 7).contiguous(memory_format=g_format)
        ours = torch.autograd.grad(convforge.conv2d(x, w, padding=1), (x, w), g)
        theirs = torch.autograd.grad(F.conv2d(x, w, padding=1), (x, w), g)
        for mine, their in zip(ours, theirs, strict=True):
            close(mine, their)


@pytest.mark.parametrize("x_format", FORMATS)
def test_one_image_without_a_batch(x_format: str) -> None:
    x = randn(1, 3, 6, 7).contiguous(memory_format=FORMATS[x_format])[0].detach().requires_grad_()
    w, b = randn(4, 3, 3, 3, grad=True), randn(4, grad=True)
    for arguments in ({}, {"padding": "same"}, {"stride": 2, "padding": 1}):
        ours, theirs = (
            [y.detach(), *torch.autograd.grad(y.square().sum(), (x, w, b))]
            for y in (function(x, w, b, **arguments) for function in (convforge.conv2d, F.conv2d))
        )
        for mine, their in zip(ours, theirs, strict=True):
            assert mine.shape == their.shape
            torch.testing.assert_close(mine, their, rtol=1e-5, atol=1e-4)


def test_a_bias_of_any_layout() -> None:
    x, w = randn(2, 3, 5, 5), randn(4, 3, 3, 3)
    for b in (randn(8)[::2], randn(1).expand(4), randn(12)[5:9]):
        both(x, w, b.detach().requires_grad_())


@pytest.mark.parametrize(
    ("padding", "sides"),
    [
        (((1, 2), (0, 3)), (0, 3, 1, 2)),
        ([[0, 1], [1, 0]], (1, 0, 0, 1)),
        ("same_half", (1, 1, 1, 1)),
        ("same_ceil", (0, 1, 0, 1)),
        (((2, 2), (1, 1)), (1, 1, 2, 2)),
    ],
)
def test_padding_beyond_torchs(padding: Any, sides: tuple[int, ...]) -> None:
    x, w, b = randn(2, 3, 8, 8, grad=True), randn(4, 3, 3, 3, grad=True), randn(4, grad=True)
    y = convforge.conv2d(x, w, b, stride=2, padding=padding)
    theirs = F.conv2d(F.pad(x, sides), w, b, stride=2)
    close(y, theirs)
    g = randn(*y.shape)
    for mine, their in zip(
        torch.autograd.grad(y, (x, w, b), g), torch.autograd.grad(theirs, (x, w, b), g), strict=True
    ):
        torch.testing.assert_close(mine, their, rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------------------------------------------------------------
# Derivatives of any order
# ---------------------------------------------------------------------------------------------------------------------

DERIVED: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "plain": ((2, 2, 4, 4), (3, 2, 3, 3), {}),
    "strided": ((1, 2, 5, 6), (3, 2, 3, 2), {"stride": (2, 3), "padding": 1}),
    "dilated": ((1, 2, 6, 6), (2, 2, 2, 3), {"dilation": (3, 2), "padding": 1}),
    "grouped": ((1, 4, 4, 4), (6, 2, 3, 3), {"groups": 2, "padding": 1}),
    "depthwise": ((1, 3, 4, 4), (6, 1, 3, 3), {"groups": 3, "stride": 2, "padding": 1}),
    "one-sided": ((1, 2, 4, 4), (2, 2, 3, 3), {"padding": ((0, 2), (1, 0)), "stride": 2}),
    "same_ceil": ((1, 2, 4, 5), (2, 2, 3, 3), {"padding": "same_ceil", "stride": 2}),
    "stride beyond the kernel": ((1, 2, 7, 7), (2, 2, 2, 2), {"stride": 3}),
    "pointwise": ((2, 3, 2, 2), (2, 3, 1, 1), {}),
    "without a batch": ((2, 4, 4), (3, 2, 3, 3), {"padding": 1}),
}


@pytest.mark.parametrize("x_format", FORMATS)
@pytest.mark.parametrize("name", DERIVED)
def test_gradcheck_and_gradgradcheck(name: str, x_format: str) -> None:
    x_shape, w_shape, arguments = DERIVED[name]
    x, w = randn(*x_shape, dtype=torch.float64), randn(*w_shape, dtype=torch.float64)
    b = randn(w_shape[0], dtype=torch.float64, grad=True)
    if x.dim() == 4:
        x = x.contiguous(memory_format=FORMATS[x_format])
    inputs = (x.requires_grad_(), w.requires_grad_(), b)

    def function(*tensors: Tensor) -> Tensor:
        return convforge.conv2d(*tensors, **arguments)

    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


def test_third_derivatives_are_torchs() -> None:
    def third(function: Any) -> Tensor:
        x = randn(1, 2, 5, 5, dtype=torch.float64, grad=True)
        w = randn(3, 2, 3, 3, dtype=torch.float64, grad=True)
        first = torch.autograd.grad(function(x, w, padding=1, stride=2).pow(3).sum(), w, create_graph=True)[0]
        second = torch.autograd.grad(first.pow(2).sum(), x, create_graph=True)[0]
        return torch.autograd.grad(second.pow(2).sum(), w)[0]

    torch.testing.assert_close(third(convforge.conv2d), third(F.conv2d))


def test_a_gradient_penalty_in_float32() -> None:
    """What a WGAN does: the norm of the input's gradient, differentiated for the weights."""

    def penalty(function: Any) -> tuple[Tensor, ...]:
        x, w, b = randn(2, 3, 8, 8, grad=True), randn(4, 3, 3, 3, grad=True), randn(4, grad=True)
        y = function(x, w, b, padding=1).relu().sum()
        (dx,) = torch.autograd.grad(y, x, create_graph=True)
        return torch.autograd.grad((dx.flatten(1).norm(dim=1) - 1).square().sum(), (w, x), allow_unused=True)

    ours, theirs = penalty(convforge.conv2d), penalty(F.conv2d)
    for mine, their in zip(ours, theirs, strict=True):
        assert (mine is None) == (their is None)
        if their is not None:
            torch.testing.assert_close(mine, their, rtol=1e-4, atol=1e-5)


def test_saved_tensors_changed_in_place_raise_as_torchs() -> None:
    for change in (0, 1):
        messages = []
        for function in (convforge.conv2d, F.conv2d):
            x, w = randn(1, 2, 5, 5, grad=True), randn(3, 2, 3, 3, grad=True)
            tensors = [x.clone(), w.clone()]
            y = function(*tensors)
            tensors[change].mul_(2)
            with pytest.raises(RuntimeError, match="modified by an inplace operation") as raised:
                y.sum().backward()
            messages.append(type(raised.value))
        assert messages[0] is messages[1]


def test_a_second_backward_raises_as_torchs() -> None:
    for function in (convforge.conv2d, F.conv2d):
        y = function(randn(1, 2, 5, 5, grad=True), randn(3, 2, 3, 3, grad=True)).sum()
        y.backward()
        with pytest.raises(RuntimeError, match="second time"):
            y.backward()


def test_activation_checkpointing_and_saved_tensor_hooks() -> None:
    from torch.utils.checkpoint import checkpoint

    x, w = randn(2, 3, 6, 6, grad=True), randn(3, 3, 3, 3, grad=True)

    def block(t: Tensor) -> Tensor:
        return convforge.conv2d(convforge.conv2d(t, w, padding=1).relu(), w, padding=1)

    plain = torch.autograd.grad(block(x).sum(), (x, w))
    again = torch.autograd.grad(checkpoint(block, x, use_reentrant=False).sum(), (x, w))
    with torch.autograd.graph.save_on_cpu():
        saved = torch.autograd.grad(block(x).sum(), (x, w))
    for first, second, third in zip(plain, again, saved, strict=True):
        assert torch.equal(first, second)
        assert torch.equal(first, third)


def test_repeating_repeats_bit_for_bit() -> None:
    torch.use_deterministic_algorithms(True)
    try:
        runs = []
        for _ in range(3):
            x, w, b = randn(2, 16, 20, 20, grad=True), randn(24, 16, 3, 3, grad=True), randn(24, grad=True)
            y = convforge.conv2d(x, w, b, padding=1)
            runs.append((y.detach(), *torch.autograd.grad(y.square().sum(), (x, w, b))))
    finally:
        torch.use_deterministic_algorithms(False)
    for again in runs[1:]:
        assert all(torch.equal(first, second) for first, second in zip(runs[0], again, strict=True))


# ---------------------------------------------------------------------------------------------------------------------
# Dtypes, autocast, devices
# ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["the engine", "torch"])
def computed_by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Who computes 16-bit numbers: that depends on the CPU, and on the size."""
    monkeypatch.setattr(compute, "torch_is_faster", lambda dtype: request.param == "torch")
    return str(request.param)


@pytest.mark.usefixtures("computed_by")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("x_format", FORMATS)
def test_half_precision(dtype: torch.dtype, x_format: str) -> None:
    """As exact as float32 rounded once: no further from the truth than torch."""
    x = randn(2, 8, 7, 7, dtype=dtype).contiguous(memory_format=FORMATS[x_format]).requires_grad_()
    w, b = randn(6, 8, 3, 3, dtype=dtype, grad=True), randn(6, dtype=dtype, grad=True)
    ours, theirs = both(x, w, b, bound=0.02, padding=1)
    exact = F.conv2d(x.double(), w.double(), b.double(), padding=1)
    mistakes = [(t[0].double() - exact).norm() / exact.norm() for t in (ours, theirs) if t[0] is not None]
    assert mistakes[0] <= 1.01 * mistakes[1] + 1e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("padding", [1, ((0, 2), (1, 1))])
@pytest.mark.parametrize("x_format", FORMATS)
def test_half_precision_that_torch_computes_has_torchs_bits(
    dtype: torch.dtype, x_format: str, padding: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compute, "torch_is_faster", lambda dtype: True)
    x = randn(2, 8, 17, 17, dtype=dtype).contiguous(memory_format=FORMATS[x_format]).requires_grad_()
    w, b = randn(66, 8, 3, 3, dtype=dtype, grad=True), randn(66, dtype=dtype, grad=True)
    y = convforge.conv2d(x, w, b, padding=padding)
    wanted = F.conv2d(x, w, b, padding=1) if padding == 1 else F.conv2d(F.pad(x, (1, 1, 0, 2)), w, b)
    assert torch.equal(y, wanted)
    assert is_channels_last(y) == (x_format == "channels_last")
    g = randn(*y.shape, dtype=dtype)
    for ours, theirs in zip(
        torch.autograd.grad(y, (x, w, b), g), torch.autograd.grad(wanted, (x, w, b), g), strict=True
    ):
        close(ours, theirs, bound=0.01)
        assert ours.dtype == dtype


def test_layers_of_half_precision_go_where_they_are_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the CPU's instructions; the report says so."""
    model = convforge.optimize(torch.nn.Sequential(torch.nn.Conv2d(16, 32, 3, dtype=torch.bfloat16)))
    for here in (True, False):
        monkeypatch.setattr(sixteen, "cpu_features", lambda: {"avx512bf16"} if here else set())  # noqa: B023
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
        sixteen.multiplied_here.cache_clear()
        assert sixteen.torch_is_faster(torch.bfloat16) == here
        with monkeypatch.context() as without:
            without.setattr(torch._C, "_get_mkldnn_enabled", lambda: False)
            assert not sixteen.torch_is_faster(torch.bfloat16)
        assert ("this CPU multiplies bfloat16 itself" in convforge.report(model)[0].reason) == here
    monkeypatch.undo()
    sixteen.multiplied_here.cache_clear()


@pytest.mark.usefixtures("computed_by")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype: torch.dtype) -> None:
    x, w, b = randn(2, 8, 7, 7, grad=True), randn(6, 8, 3, 3, grad=True), randn(6, grad=True)
    results = []
    for function in (convforge.conv2d, F.conv2d):
        with torch.autocast("cpu", dtype=dtype):
            y = function(x, w, b, padding=1)
        results.append([y.detach(), *torch.autograd.grad(y.float().square().sum(), (x, w, b))])
    assert results[0][0].dtype == dtype
    for ours, theirs in zip(*results, strict=True):
        assert ours.dtype == theirs.dtype
        assert float((ours - theirs).float().norm() / theirs.float().norm()) < 0.01


def test_autocast_with_mixed_inputs_and_switched_off_inside() -> None:
    x, w, b = randn(2, 8, 7, 7), randn(6, 8, 3, 3, dtype=torch.bfloat16), randn(6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        close(convforge.conv2d(x, w, b), F.conv2d(x, w, b), bound=0.02)
        with torch.autocast("cpu", enabled=False):
            close(convforge.conv2d(x, w.float(), b), F.conv2d(x, w.float(), b))


def test_a_backward_pass_inside_autocast_of_a_forward_pass_outside() -> None:
    """The gradients of a float32 convolution are float32, wherever they are asked for."""
    results = []
    for function in (convforge.conv2d, F.conv2d):
        x, w = randn(2, 8, 7, 7, grad=True), randn(6, 8, 3, 3, grad=True)
        y = function(x, w, padding=1)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            results.append(torch.autograd.grad(y, (x, w), randn(*y.shape)))
    for ours, theirs in zip(*results, strict=True):
        close(ours, theirs)


def test_autocast_leaves_float64_as_torch_does() -> None:
    x, w = randn(1, 2, 5, 5, dtype=torch.float64), randn(3, 2, 3, 3, dtype=torch.float64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours, theirs = convforge.conv2d(x, w), F.conv2d(x, w)
    assert ours.dtype == theirs.dtype


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_complex_numbers_are_torchs(dtype: torch.dtype) -> None:
    made = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 5, 5, dtype=dtype, generator=made, requires_grad=True)
    w = torch.randn(4, 3, 3, 3, dtype=dtype, generator=made, requires_grad=True)
    assert torch.equal(convforge.conv2d(x, w, padding=1), F.conv2d(x, w, padding=1))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.uint8, torch.bool])
def test_integers_are_torchs_matter(dtype: torch.dtype) -> None:
    x, w = torch.ones(1, 2, 5, 5, dtype=dtype), torch.ones(3, 2, 3, 3, dtype=dtype)
    alike(lambda function: function(x, w))


@pytest.mark.parametrize(
    "arguments", [{"padding": 1}, {"padding": "same_half", "stride": 2}, {"padding": ((0, 1), (1, 0))}]
)
def test_meta_tensors(arguments: dict[str, Any]) -> None:
    x, w = torch.empty(2, 3, 8, 8, device="meta"), torch.empty(4, 3, 3, 3, device="meta")
    y = convforge.conv2d(x, w, **arguments)
    assert y.device.type == "meta"
    assert y.shape == convforge.conv2d(torch.zeros(2, 3, 8, 8), torch.zeros(4, 3, 3, 3), **arguments).shape


def test_sparse_and_quantized_layouts_are_torchs_matter() -> None:
    w = randn(3, 2, 3, 3)
    sparse = randn(1, 2, 5, 5).to_sparse()
    alike(lambda function: function(sparse, w))


# ---------------------------------------------------------------------------------------------------------------------
# Mistakes
# ---------------------------------------------------------------------------------------------------------------------


def alike(call: Callable[[Any], Tensor]) -> None:
    """`call(conv2d)` gives what it gives with torch's: the same tensor, or the same error with the same words.

    Where no overload fits, torch's words go on to repeat the call as it was written; those are left out.
    """
    results: list[Any] = []
    for function in (convforge.conv2d, F.conv2d):
        try:
            results.append(call(function))
        except Exception as problem:
            results.append((type(problem), str(problem).partition(" - got (")[0]))
    ours, theirs = results
    if isinstance(theirs, Tensor) and isinstance(ours, Tensor) and theirs.device.type != "meta":
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs)
    elif isinstance(theirs, Tensor):
        assert isinstance(ours, Tensor)
        assert (ours.shape, ours.device) == (theirs.shape, theirs.device)
    else:
        assert ours == theirs


X, W, B = randn(2, 4, 6, 6), randn(6, 4, 3, 3), randn(6)
MISTAKES: dict[str, Callable[[Any], Tensor]] = {
    "channels that do not match": lambda f: f(X[:, :3], W),
    "channels that do not match the groups": lambda f: f(X, W, groups=2),
    "outputs that groups do not divide": lambda f: f(X, randn(5, 2, 3, 3), groups=2),
    "groups=0": lambda f: f(X, W, groups=0),
    "groups=-1": lambda f: f(X, W, groups=-1),
    "groups=1.0": lambda f: f(X, W, groups=1.0),
    "bias of another length": lambda f: f(X, W, B[:5]),
    "bias of two axes": lambda f: f(X, W, B[None]),
    "kernel larger than the input": lambda f: f(X, randn(6, 4, 7, 7)),
    "dilated kernel larger than the input": lambda f: f(X, W, dilation=3),
    "stride=0": lambda f: f(X, W, stride=0),
    "stride=-1": lambda f: f(X, W, stride=-1),
    "stride of three": lambda f: f(X, W, stride=(1, 1, 1)),
    "stride='a'": lambda f: f(X, W, stride="a"),
    "stride=1.5": lambda f: f(X, W, stride=1.5),
    "stride=(1.5, 1)": lambda f: f(X, W, stride=(1.5, 1)),
    "stride=()": lambda f: f(X, W, stride=()),
    "stride=None": lambda f: f(X, W, stride=None),
    "stride=True": lambda f: f(X, W, stride=True),
    "dilation=0": lambda f: f(X, W, dilation=0),
    "dilation=(1, -1)": lambda f: f(X, W, dilation=(1, -1)),
    "padding=-1": lambda f: f(X, W, padding=-1),
    "padding=(0, -1)": lambda f: f(X, W, padding=(0, -1)),
    "padding='SAME'": lambda f: f(X, W, padding="SAME"),
    "padding of three": lambda f: f(X, W, padding=(1, 1, 1)),
    "padding=1.5": lambda f: f(X, W, padding=1.5),
    "padding=None": lambda f: f(X, W, padding=None),
    "input of two axes": lambda f: f(X[0, 0], W),
    "input of five axes": lambda f: f(X[None], W),
    "weight of three axes": lambda f: f(X, W[0]),
    "weight of five axes": lambda f: f(X, W[None]),
    "no channels": lambda f: f(X[:, :0], W[:, :0]),
    "no rows": lambda f: f(X[:, :, :0], W),
    "no rows, padded": lambda f: f(X[:, :, :0], W, padding=2),
    "no outputs": lambda f: f(X, W[:0]),
    "an empty kernel": lambda f: f(X, W[:, :, :0]),
    "dtypes that differ": lambda f: f(X, W.double()),
    "a bias of another dtype": lambda f: f(X, W, B.double()),
    "a half bias": lambda f: f(X, W, B.half()),
    "a list for the input": lambda f: f([[1.0]], W),
    "None for the weight": lambda f: f(X, None),
    "a number for the bias": lambda f: f(X, W, 1.0),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_answered_as_torch_answers_them(name: str) -> None:
    alike(MISTAKES[name])


def test_a_keyword_that_does_not_exist() -> None:
    with pytest.raises(TypeError, match="strides"):
        convforge.conv2d(X, W, strides=2)  # type: ignore[call-arg]


def test_same_with_a_stride_explains_both_rules() -> None:
    with pytest.raises(RuntimeError, match="padding='same' is not supported for strided convolutions") as raised:
        convforge.conv2d(X, W, stride=2, padding="same")
    assert isinstance(raised.value, SpecError)
    assert "'same_ceil'" in str(raised.value)
    assert "'same_half'" in str(raised.value)


@pytest.mark.parametrize("padding", [((1, -1), (0, 0)), ((1, 1), (0, 1, 2)), ((1.5, 1), (0, 0)), (("1", 1), (0, 0))])
def test_sides_that_cannot_be_are_named(padding: Any) -> None:
    with pytest.raises((RuntimeError, ValueError, TypeError), match="padding"):
        convforge.conv2d(X, W, padding=padding)


def test_the_operators_refuse_what_would_not_fit() -> None:
    """They can be called by anyone through `torch.ops`; sizes that do not fit must not reach the kernels."""
    geometry = ([1, 1], [0, 0, 0, 0], [1, 1], 1)
    g = randn(2, 6, 4, 4)
    wrong: list[Callable[[], Any]] = [
        lambda: OPERATORS.conv2d(X[:, :3], W, None, *geometry),
        lambda: OPERATORS.conv2d(X, W, B[:2], *geometry),
        lambda: OPERATORS.conv2d(X, W.double(), None, *geometry),
        lambda: OPERATORS.conv2d(X[0], W, None, *geometry),
        lambda: OPERATORS.conv2d(X, W, None, [1, 1], [0, 0, 0, 0], [1, 1], 2),
        lambda: OPERATORS.conv2d_input_gradient(g, W, [60, 60], *geometry, False),
        lambda: OPERATORS.conv2d_input_gradient(g[:, :3], W, [6, 6], *geometry, False),
        lambda: OPERATORS.conv2d_weight_gradient(X, g, [5, 5], *geometry, False),
        lambda: OPERATORS.conv2d_weight_gradient(X[:1], g, [3, 3], *geometry, False),
    ]
    for call in wrong:
        with pytest.raises((RuntimeError, ValueError, IndexError)):
            call()


# ---------------------------------------------------------------------------------------------------------------------
# How torch takes functions apart
# ---------------------------------------------------------------------------------------------------------------------

GEOMETRIES = {
    "plain": ((2, 3, 6, 7), (4, 3, 3, 3), [1, 1], [0, 0, 0, 0], [1, 1], 1),
    "one-sided, strided": ((2, 4, 7, 6), (4, 4, 3, 2), [2, 1], [1, 0, 2, 1], [1, 2], 1),
    "depthwise": ((1, 4, 6, 6), (8, 1, 3, 3), [2, 2], [1, 1, 1, 1], [1, 1], 4),
    "empty batch": ((0, 3, 6, 6), (4, 3, 3, 3), [1, 1], [1, 1, 1, 1], [1, 1], 1),
}


# From torch 2.14's own test, which looks at the gradients of tensors that are no leaves.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf Tensor:UserWarning")
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_opcheck(name: str, channels_last: bool) -> None:
    x_shape, w_shape, stride, pads, dilation, groups = GEOMETRIES[name]
    memory_format = LAST if channels_last else torch.contiguous_format
    sides = ((pads[0], pads[1]), (pads[2], pads[3]))
    spec = Conv2dSpec(x_shape[1], w_shape[0], w_shape[2:], stride, sides, dilation, groups)
    out = spec.output_size((x_shape[2], x_shape[3]))
    x = randn(*x_shape).contiguous(memory_format=memory_format).requires_grad_()
    w, b = randn(*w_shape, grad=True), randn(w_shape[0], grad=True)
    g = randn(x_shape[0], w_shape[0], *out).contiguous(memory_format=memory_format).requires_grad_()
    geometry = (stride, pads, dilation, groups)
    torch.library.opcheck(OPERATORS.conv2d.default, (x, w, b, *geometry))
    torch.library.opcheck(OPERATORS.conv2d.default, (x, w, None, *geometry))
    torch.library.opcheck(OPERATORS.conv2d_input_gradient.default, (g, w, list(x_shape[2:]), *geometry, channels_last))
    torch.library.opcheck(OPERATORS.conv2d_weight_gradient.default, (x, g, list(w_shape[2:]), *geometry, channels_last))


@pytest.mark.parametrize("name", ARGUMENTS)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
def test_fake_tensors_have_the_real_ones_shapes_and_strides(name: str) -> None:
    x_shape, w_shape, arguments = ARGUMENTS[name]
    for x_format, w_format in itertools.product(FORMATS.values(), repeat=2):
        x, w = randn(*x_shape).contiguous(memory_format=x_format), randn(*w_shape).contiguous(memory_format=w_format)
        real = convforge.conv2d(x, w, **arguments)
        with FakeTensorMode() as mode:
            fake = convforge.conv2d(mode.from_tensor(x), mode.from_tensor(w), **arguments)
        assert fake.shape == real.shape
        assert fake.stride() == real.stride()
        assert fake.dtype == real.dtype


def compiled(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    torch._dynamo.reset()
    return torch.compile(function, backend="aot_eager", fullgraph=True, **options)


@pytest.mark.parametrize("x_format", FORMATS)
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"stride": 2, "padding": 1},
        {"padding": "same"},
        {"padding": "same_ceil", "stride": 2},
        {"padding": ((0, 1), (2, 0))},
    ],
)
def test_compiled_without_a_graph_break(arguments: dict[str, Any], x_format: str) -> None:
    def loss(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return convforge.conv2d(x, w, b, **arguments).relu().square().sum()

    x = randn(2, 3, 8, 8).contiguous(memory_format=FORMATS[x_format]).requires_grad_()
    inputs = (x, randn(4, 3, 3, 3, grad=True), randn(4, grad=True))
    eager = torch.autograd.grad(loss(*inputs), inputs)
    captured = torch.autograd.grad(compiled(loss)(*inputs), inputs)
    for ours, theirs in zip(captured, eager, strict=True):
        close(ours, theirs)


@pytest.mark.parametrize("groups", [1, 2])
def test_compiled_with_dynamic_sizes(groups: int) -> None:
    def loss(x: Tensor, w: Tensor) -> Tensor:
        return convforge.conv2d(x, w, stride=2, padding=1, groups=groups).square().sum()

    w = randn(4, 4 // groups, 3, 3, grad=True)
    dynamic = compiled(loss, dynamic=True)
    for shape in ((2, 4, 8, 8), (3, 4, 9, 12), (5, 4, 8, 7)):
        x = randn(*shape, grad=True)
        for ours, theirs in zip(
            torch.autograd.grad(dynamic(x, w), (x, w)), torch.autograd.grad(loss(x, w), (x, w)), strict=True
        ):
            close(ours, theirs)


def test_compiled_with_marked_sizes() -> None:
    def loss(x: Tensor, w: Tensor) -> Tensor:
        return convforge.conv2d(x, w, padding=1).square().sum()

    w = randn(4, 4, 3, 3, grad=True)
    captured = compiled(loss)
    for shape in ((2, 4, 8, 8), (3, 4, 9, 8), (5, 4, 11, 8)):
        x = randn(*shape, grad=True)
        torch._dynamo.mark_dynamic(x, 0)
        torch._dynamo.mark_dynamic(x, 2)
        for ours, theirs in zip(
            torch.autograd.grad(captured(x, w), (x, w)), torch.autograd.grad(loss(x, w), (x, w)), strict=True
        ):
            close(ours, theirs)


def test_what_is_captured_is_our_operator() -> None:
    seen: list[Any] = []

    def look(graph: torch.fx.GraphModule, _: Any) -> Any:
        seen.extend(node.target for node in graph.graph.nodes if node.op == "call_function")
        return graph

    torch._dynamo.reset()
    torch.compile(lambda x, w: convforge.conv2d(x, w, padding=1), backend=look, fullgraph=True)(X, W)
    assert [str(target) for target in seen] == ["convforge.conv2d.default"]


def test_compiled_under_autocast() -> None:
    def run(x: Tensor, w: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return convforge.conv2d(x, w, padding=1)

    y = compiled(run)(X, W)
    assert y.dtype == torch.bfloat16
    close(y, run(X, W), bound=0.02)


def test_vmap_over_images_weights_and_both() -> None:
    xs, ws = randn(3, 2, 4, 6, 6), randn(3, 5, 4, 3, 3)

    def ours(x: Tensor, w: Tensor) -> Tensor:
        return convforge.conv2d(x, w, padding=1)

    for dims, a, b in (((0, None), xs, ws[0]), ((None, 0), xs[0], ws), ((0, 0), xs, ws)):
        got = torch.func.vmap(ours, in_dims=dims)(a, b)
        wanted = torch.stack([ours(a[i] if dims[0] == 0 else a, b[i] if dims[1] == 0 else b) for i in range(3)])
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


def test_functional_derivatives() -> None:
    x, w, v = (randn(*s, dtype=torch.float64) for s in ((2, 3, 5, 5), (4, 3, 3, 3), (4, 3, 3, 3)))

    def loss(function: Any) -> Callable[[Tensor], Tensor]:
        return lambda weights: function(x, weights, padding=1).square().sum()

    for transform in (
        torch.func.grad,
        torch.func.jacrev,
        torch.func.jacfwd,
        lambda f: torch.func.grad(lambda u: (torch.func.grad(f)(u) * v).sum()),
    ):
        torch.testing.assert_close(transform(loss(convforge.conv2d))(w), transform(loss(F.conv2d))(w))
    ours, theirs = (torch.func.jvp(loss(f), (w,), (v,)) for f in (convforge.conv2d, F.conv2d))
    torch.testing.assert_close(ours, theirs)


def test_transforms_inside_compiled_code() -> None:
    xs, w = randn(3, 2, 4, 6, 6), randn(5, 4, 3, 3)

    def mapped(a: Tensor, b: Tensor) -> Tensor:
        return torch.func.vmap(lambda x: convforge.conv2d(x, b, padding=1))(a)

    torch.testing.assert_close(compiled(mapped)(xs, w), mapped(xs, w), rtol=1e-5, atol=1e-5)

    def derived(b: Tensor) -> Tensor:
        return torch.func.grad(lambda u: convforge.conv2d(xs[0], u, padding=1).square().sum())(b)

    torch.testing.assert_close(compiled(derived)(w), derived(w), rtol=1e-4, atol=1e-4)


def test_gradients_per_sample() -> None:
    x, w = randn(4, 3, 6, 6), randn(5, 3, 3, 3)

    def per_sample(function: Any) -> Tensor:
        one = torch.func.grad(lambda weights, image: function(image[None], weights).square().sum())
        return torch.func.vmap(one, in_dims=(None, 0))(w, x)

    torch.testing.assert_close(per_sample(convforge.conv2d), per_sample(F.conv2d), rtol=1e-4, atol=1e-4)


def test_forward_mode_derivatives() -> None:
    x, w, b = randn(2, 3, 5, 5), randn(4, 3, 3, 3), randn(4)
    with torch.autograd.forward_ad.dual_level():
        make, take = torch.autograd.forward_ad.make_dual, torch.autograd.forward_ad.unpack_dual
        for tangents in ((True, False, False), (False, True, False), (False, False, True), (True, True, True)):
            duals = [make(t, randn(*t.shape, seed=5)) if on else t for t, on in zip((x, w, b), tangents, strict=True)]
            ours, theirs = (take(function(*duals, padding=1)) for function in (convforge.conv2d, F.conv2d))
            torch.testing.assert_close(ours.primal, theirs.primal, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(ours.tangent, theirs.tangent, rtol=1e-5, atol=1e-5)


def test_symbolic_tracing() -> None:
    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(W.clone())

        def forward(self, x: Tensor) -> Tensor:
            return convforge.conv2d(x, self.weight, stride=2, padding=1).relu()

    net = Net()
    traced = torch.fx.symbolic_trace(net)
    assert any(node.target is convforge.conv2d for node in traced.graph.nodes)
    assert torch.equal(traced(X), net(X))


def test_make_fx_and_functionalization() -> None:
    from torch.fx.experimental.proxy_tensor import make_fx

    def run(x: Tensor, w: Tensor) -> Tensor:
        return convforge.conv2d(x, w, padding=1).relu_()

    for mode in ("real", "fake", "symbolic"):
        graph = make_fx(run, tracing_mode=mode)(X, W)
        assert torch.equal(graph(X, W), run(X, W))
    assert torch.equal(torch.func.functionalize(run)(X, W), run(X, W))


def test_subclasses_see_the_call_and_keep_their_type() -> None:
    seen: list[str] = []

    class Logged(Tensor):
        @classmethod
        def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(function.__name__)
            return super().__torch_function__(function, types, args, kwargs or {})

    y = convforge.conv2d(X.as_subclass(Logged), W, B, stride=2)
    assert "conv2d" in seen
    assert isinstance(y, Logged)
    assert torch.equal(y.as_subclass(Tensor), convforge.conv2d(X, W, B, stride=2))

    class Own:
        """Not a tensor, but says what a convolution of it is."""

        @classmethod
        def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return (function, kwargs)

    function, kwargs = convforge.conv2d(Own(), W, stride=2)  # type: ignore[arg-type, misc]
    assert function is convforge.conv2d
    assert kwargs["stride"] == 2


def test_parameters_and_modes() -> None:
    weight = torch.nn.Parameter(W.clone())
    y = convforge.conv2d(X, weight)
    assert type(y) is Tensor
    with torch.overrides.BaseTorchFunctionMode():
        assert torch.equal(convforge.conv2d(X, weight), y)
    with torch.device("cpu"):
        assert torch.equal(convforge.conv2d(X, weight), y)


def test_anomaly_mode_and_hooks_on_tensors() -> None:
    x, w = randn(1, 2, 5, 5, grad=True), randn(3, 2, 3, 3, grad=True)
    seen: list[torch.Size] = []
    w.register_hook(lambda g: seen.append(g.shape))
    with pytest.warns(UserWarning, match="Anomaly Detection"), torch.autograd.detect_anomaly():
        convforge.conv2d(x, w).sum().backward()
    assert seen == [w.shape]
    assert x.grad is not None


def test_gradients_accumulate_and_have_the_layout_of_their_parameters() -> None:
    for memory_format in FORMATS.values():
        w = randn(4, 3, 3, 3).contiguous(memory_format=memory_format).requires_grad_()
        x = randn(2, 3, 6, 6)
        convforge.conv2d(x, w).sum().backward()
        assert w.grad is not None
        assert w.grad.stride() == w.stride()
        once = w.grad.clone()
        convforge.conv2d(x, w).sum().backward()
        torch.testing.assert_close(w.grad, 2 * once)


def test_large_strides_are_not_cut_to_32_bits() -> None:
    """A view whose images are more than 2³¹ elements apart; the memory between is never touched."""
    try:
        storage = torch.empty((1 << 31) + 5000)
    except RuntimeError:
        pytest.skip("the system does not promise 8 GB of memory")
    x = storage.as_strided((2, 3, 5, 5), ((1 << 31) + 100, 25, 5, 1))
    x.copy_(randn(2, 3, 5, 5))
    close(convforge.conv2d(x, randn(4, 3, 3, 3)), F.conv2d(x.contiguous(), randn(4, 3, 3, 3)))


def test_functions_of_the_profiler_and_the_flop_counter_do_not_break() -> None:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        convforge.conv2d(X, W)
    assert any(event.key == "convforge::conv2d" for event in profile.key_averages())


def test_the_function_says_what_it_takes() -> None:
    import inspect

    ours = inspect.signature(convforge.conv2d).parameters
    assert list(ours) == ["input", "weight", "bias", "stride", "padding", "dilation", "groups"]
    assert [p.default for p in ours.values()][2:] == [None, 1, 0, 1, 1]
    by_name = convforge.conv2d(input=X, weight=W, bias=B, stride=1, padding=0, dilation=1, groups=1)
    assert torch.equal(by_name, convforge.conv2d(X, W, B, 1, 0, 1, 1))


# ---------------------------------------------------------------------------------------------------------------------
# Calls that were seen before take the short way, and no others
# ---------------------------------------------------------------------------------------------------------------------


def test_a_call_seen_before_changes_nothing_for_unusual_ones() -> None:
    """What is equal to a Python table is not always the same to torch."""
    convforge.conv2d(X, W, B, 1, 1, 1, 1)
    convforge.conv2d(X, W, B, (1, 1), (1, 1), (1, 1), 1)
    with pytest.raises((TypeError, RuntimeError)):
        convforge.conv2d(X, W, B, 1.0, 1, 1, 1)  # type: ignore[arg-type]
    with pytest.raises((TypeError, RuntimeError)):
        convforge.conv2d(X, W, B, (1.0, 1), 1, 1, 1)  # type: ignore[arg-type]
    with pytest.raises((TypeError, RuntimeError)):
        convforge.conv2d(X, W, B, 1, 1, 1, 1.0)  # type: ignore[arg-type]
    y = convforge.conv2d(X, W, B, padding=1)
    for stride, padding in (([1, 1], [1, 1]), ((1,), (1,)), (torch.Size([1, 1]), torch.Size([1, 1]))):
        assert torch.equal(convforge.conv2d(X, W, B, stride, padding), y)
    apart = torch.stack([B, B + 1], 1)[:, 0]
    assert torch.equal(convforge.conv2d(X, W, apart, padding=1), y)
    with pytest.raises(RuntimeError):
        convforge.conv2d(X, W, B[:3], padding=1)
    with pytest.raises(RuntimeError):
        convforge.conv2d(X, W, B.double(), padding=1)
    with pytest.raises(RuntimeError):
        convforge.conv2d(X, W.double(), B, padding=1)


@pytest.mark.filterwarnings(
    "ignore::torch.jit.TracerWarning"
)  # sizes are looked at, as torch.jit warns of all such code
def test_modes_around_a_call_seen_before() -> None:
    """Autocast, tracing, transforms, tangents and subclasses still see what the short way would not show them."""
    from torch.utils.flop_counter import FlopCounterMode

    x, w = randn(2, 4, 6, 7), randn(5, 4, 3, 3)
    y = convforge.conv2d(x, w)
    assert torch.equal(convforge.conv2d(x, w), y)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert convforge.conv2d(x, w).dtype == torch.bfloat16
        with torch.autocast("cpu", enabled=False):
            assert convforge.conv2d(x, w).dtype == torch.float32
    assert torch.equal(torch.jit.trace(lambda a: convforge.conv2d(a, w), x)(x + 1), convforge.conv2d(x + 1, w))
    assert torch.equal(torch.func.vmap(lambda a: convforge.conv2d(a, w))(x[None])[0], y)
    close(convforge.conv2d(torch._neg_view(x), w), -y)
    close(convforge.conv2d(x, torch._neg_view(w)), -y)
    assert convforge.conv2d(x.to("meta"), w.to("meta")).device.type == "meta"
    with FlopCounterMode(display=False):
        assert torch.equal(convforge.conv2d(x, w), y)
    seen: list[str] = []

    class Mode(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(function.__name__)
            return function(*args, **(kwargs or {}))

    with Mode():
        assert torch.equal(convforge.conv2d(x, w), y)
    assert "conv2d" in seen


def test_settings_that_change_between_calls() -> None:
    x, w = randn(2, 32, 12, 12), randn(32, 32, 3, 3)
    y, threads = convforge.conv2d(x, w), torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            close(convforge.conv2d(x, w), y)
    finally:
        torch.set_num_threads(threads)
    with convforge.set_precision("exact"):
        close(convforge.conv2d(x, w), y)
    for dtype in (torch.float64, torch.bfloat16):
        assert convforge.conv2d(x.to(dtype), w.to(dtype)).dtype == dtype


def test_imported_under_autocast() -> None:
    """What is usual for the dispatcher is learned apart from what is set where the import happens to be."""
    import subprocess
    import sys

    program = """
import torch, convforge
x, w = torch.ones(1, 2, 4, 4), torch.ones(3, 2, 3, 3)
with torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode():
    assert convforge.conv2d(x, w).dtype == torch.bfloat16
assert convforge.conv2d(x, w).dtype == torch.float32
from convforge.pytorch import plain
assert plain._is_plain(x, w, None)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_the_short_way_is_taken() -> None:
    """By tensors and parameters, in and outside inference mode; in backward, too."""
    from convforge.pytorch import plain

    x, w, b = randn(2, 4, 6, 7), torch.nn.Parameter(randn(5, 4, 3, 3)), torch.nn.Parameter(randn(5))
    assert plain._is_plain(x, w, b)
    with torch.no_grad(), torch.inference_mode():
        assert plain._is_plain(x, w, b)
        assert plain._is_plain(x + 1, w, None)
    y = convforge.conv2d(x, w, b)
    assert "_Convolution" in type(y.grad_fn).__name__
    assert plain._is_plain(torch.ones(()).expand(y.shape), w, None)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # by compiled autograd itself
def test_compiled_autograd() -> None:
    x, w = randn(2, 3, 6, 6, grad=True), randn(4, 3, 3, 3, grad=True)
    wanted = torch.autograd.grad(F.conv2d(x, w, padding=1).square().sum(), (x, w))
    torch._dynamo.reset()
    loss = convforge.conv2d(x, w, padding=1).square().sum()
    with torch._dynamo.compiled_autograd._enable(torch.compile(backend="eager")):
        loss.backward()
    for t, their in zip((x, w), wanted, strict=True):
        assert t.grad is not None
        torch.testing.assert_close(t.grad, their, rtol=1e-4, atol=1e-4)


def test_batched_gradients() -> None:
    x, w = randn(2, 3, 6, 6, grad=True), randn(4, 3, 3, 3, grad=True)
    directions = randn(3, 2, 4, 4, 4)
    for function in (convforge.conv2d, F.conv2d):
        y = function(x, w)
        each = [torch.autograd.grad(y, (x, w), g, retain_graph=True) for g in directions]
        got = torch.autograd.grad(y, (x, w), directions, is_grads_batched=True)
        for n, batched in enumerate(got):
            torch.testing.assert_close(batched, torch.stack([one[n] for one in each]), rtol=1e-4, atol=1e-4)
