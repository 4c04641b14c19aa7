"""torch's own tests of a convolution, on more than torch's own inputs: samples, checks of operators and derivatives."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from oracle import Case
from torch import Tensor
from torchs_lists import torchs_own

import convforge
from convforge.pytorch.layout import is_channels_last

from .apart import tried_apart
from .conftest import Soak
from .draws import cases

OPERATORS = torch.ops.convforge
WIDE = (torch.float32, torch.float64)
NARROW = (torch.bfloat16, torch.float16, torch.complex64, torch.complex128)
even_kernel = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")


@even_kernel
def test_torchs_samples(soak: Soak) -> None:
    """Values, gradients and their memory formats; of the long list of references, too."""
    operator = torchs_own()[0]
    for dtype in soak.length(WIDE, WIDE + NARROW):
        for draw in soak.length((operator.sample_inputs,), (operator.sample_inputs, operator.reference_inputs)):
            for n, sample in enumerate(draw("cpu", dtype, requires_grad=True)):
                with soak.case(f"{draw.__name__}, {dtype}, {n}"):
                    arguments = (sample.input, *sample.args)
                    ours = computed(convforge.conv2d, arguments, sample.kwargs, dtype)
                    theirs = computed(F.conv2d, arguments, sample.kwargs, dtype)
                    for mine, its in zip(ours, theirs, strict=True):
                        assert (mine.stride(), mine.dtype) == (its.stride(), its.dtype)
                    if dtype.itemsize == 2:  # torch rounds more often than is said by its own tolerance
                        wide = ([widened(a) for a in arguments], {k: widened(a) for k, a in sample.kwargs.items()})
                        theirs = [t.to(dtype) for t in computed(F.conv2d, *wide, dtype)]
                    torch.testing.assert_close(ours, theirs)


def computed(function: Any, arguments: Any, options: dict[str, Any], dtype: torch.dtype) -> list[Tensor]:
    """The result and the gradients of all that requires one, for an incoming gradient of numbers of that dtype."""
    y = function(*arguments, **options)
    leaves = [t for t in (*arguments, *options.values()) if isinstance(t, Tensor) and t.requires_grad]
    direction = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).reshape(y.shape).to(dtype)
    return [t.detach() for t in (y, *torch.autograd.grad(y, leaves, torch.empty_like(y).copy_(direction)))]


def widened(value: Any) -> Any:
    return value.detach().float().requires_grad_(value.requires_grad) if isinstance(value, Tensor) else value


@even_kernel
def test_torchs_module_inputs(soak: Soak) -> None:
    info = torchs_own()[1]
    for dtype in soak.length((torch.float64,), (torch.float32, torch.float64, torch.complex128)):
        for training in (True, False):
            inputs = info.module_inputs_func(info, device="cpu", dtype=dtype, requires_grad=True, training=training)
            for n, case in enumerate(inputs):
                arguments, options = case.constructor_input.args, case.constructor_input.kwargs
                with soak.case(f"{dtype}, input {n}: {arguments} {options}"):
                    theirs = torch.nn.Conv2d(*arguments, **options, dtype=dtype).train(training)
                    ours = convforge.nn.Conv2d(*arguments, **options, dtype=dtype).train(training)
                    ours.load_state_dict(theirs.state_dict())
                    results = []
                    for module in (ours, theirs):
                        y = module(*case.forward_input.args)
                        gradients = torch.autograd.grad(y.abs().square().sum(), list(module.parameters()))
                        results.append([y, *gradients])
                    torch.testing.assert_close(*results)


# ---------------------------------------------------------------------------------------------------------------------
# Convolutions at random
# ---------------------------------------------------------------------------------------------------------------------


class Drawn:
    """One as torch's arguments, in float64, a few pixels large, so that every number can be differentiated."""

    def __init__(self, case: Case, seed: int) -> None:
        spec = case.spec
        made = torch.Generator().manual_seed(seed)
        (top, bottom), (left, right) = spec.sides(case.size)
        self.padding = (max(top, bottom), max(left, right))
        self.geometry = (list(spec.stride), [top, bottom, left, right], list(spec.dilation), spec.groups)
        self.options: dict[str, Any] = {
            "stride": spec.stride, "padding": self.padding, "dilation": spec.dilation, "groups": spec.groups,
        }  # fmt: skip

        def random_numbers(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=made, dtype=torch.float64)

        self.x = random_numbers(case.batch, spec.in_channels, *case.size)
        self.w = random_numbers(*spec.weight_shape)
        self.b = random_numbers(spec.out_channels)
        self.g = random_numbers(case.batch, spec.out_channels, *spec.output_size(case.size))
        if case.layouts[0] == "NHWC":
            self.x, self.g = (t.contiguous(memory_format=torch.channels_last) for t in (self.x, self.g))
        self.channels_last = is_channels_last(self.x) or is_channels_last(self.w)

    def leaves(self) -> tuple[Tensor, Tensor, Tensor]:
        x, w, b = (t.clone().requires_grad_() for t in (self.x, self.w, self.b))
        return x, w, b

    def ours(self, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        return convforge.conv2d(x, w, b, **self.options)

    def theirs(self, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        return F.conv2d(x, w, b, **self.options)


def some(soak: Soak, short: int, long: int, most: int) -> list[tuple[str, Drawn]]:
    """Of the drawn ones those with at most so many inputs and weights, named."""
    count, seed = soak.length(short, long), soak.length(1, random.randrange(10**9))
    soak.figure("seed", seed)
    found: list[tuple[str, Drawn]] = []
    for n, case in enumerate(cases(100 * count, seed)):
        drawn = Drawn(replace(case, batch=min(2, case.batch)), n)
        if drawn.x.numel() + drawn.w.numel() <= most:
            found.append((f"seed {seed}, number {n}: {case.spec}, {case.size}", drawn))
        if len(found) == count:
            break
    return found


# From torch 2.14's own test, which looks at the gradients of tensors that are no leaves.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf Tensor:UserWarning")
def test_opcheck(soak: Soak) -> None:
    """Schemas, fake tensors, the registration of derivatives, and tracing with sizes that are symbols."""
    for name, drawn in some(soak, 1, 60, 20_000):
        x, w, b = drawn.leaves()
        g, last = drawn.g.clone().requires_grad_(), drawn.channels_last
        x, g = (t.contiguous(memory_format=torch.channels_last) if last else t for t in (x.detach(), g.detach()))
        x.requires_grad_()
        g.requires_grad_()
        size, kernel, geometry = list(x.shape[2:]), list(w.shape[2:]), drawn.geometry
        with soak.case(name):
            torch.library.opcheck(OPERATORS.conv2d.default, (x, w, b, *geometry))
            if not soak.long:  # each takes seconds
                continue
            torch.library.opcheck(OPERATORS.conv2d_input_gradient.default, (g, w, size, *geometry, last))
            torch.library.opcheck(OPERATORS.conv2d_weight_gradient.default, (x, g, kernel, *geometry, last))


def test_gradcheck(soak: Soak) -> None:
    for name, drawn in some(soak, 4, 80, 900):
        with soak.case(name):
            assert torch.autograd.gradcheck(drawn.ours, drawn.leaves(), fast_mode=not soak.long)


def test_gradgradcheck(soak: Soak) -> None:
    for name, drawn in some(soak, 4, 60, 500):  # the slow mode would take gigabytes
        with soak.case(name):
            assert torch.autograd.gradgradcheck(drawn.ours, drawn.leaves(), fast_mode=True)


def test_derivatives_of_the_third_order(soak: Soak) -> None:
    for name, drawn in some(soak, 3, 200, 2000):
        with soak.case(name):
            results = []
            for function in (drawn.ours, drawn.theirs):
                x, w, _ = drawn.leaves()
                value = function(x, w).pow(3).sum()
                for _ in range(3):
                    of_x, of_w = torch.autograd.grad(value, (x, w), create_graph=True)
                    value = of_x.square().sum() + of_w.square().sum()
                results.append([value.detach(), of_x.detach(), of_w.detach()])
            torch.testing.assert_close(*results)


def test_vmap(soak: Soak) -> None:
    """Over images, weights, both; and the gradient of every image by itself."""
    for name, drawn in some(soak, 4, 200, 5000):
        x, w = drawn.x, drawn.w
        xs, ws = torch.stack([x, 2 * x, x.flip(0)]), torch.stack([w, -w, w.flip(0)], 1)
        for dims, arguments in (((0, None), (xs, w)), ((None, 1), (x, ws)), ((0, 1), (xs, ws))):
            with soak.case(f"{name}, {dims}"):
                torch.testing.assert_close(
                    *(torch.func.vmap(f, in_dims=dims)(*arguments) for f in (drawn.ours, drawn.theirs))
                )
        with soak.case(f"{name}, gradients of every image"):
            results = []
            for function in (drawn.ours, drawn.theirs):
                gradient = torch.func.grad(lambda w, x, f=function: f(x, w).square().sum())
                results.append(torch.func.vmap(gradient, in_dims=(None, 0))(w, xs))
            torch.testing.assert_close(*results)


# The first use of torch's forward derivatives compiles them with what the same release calls deprecated.
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_derivatives_forwards(soak: Soak) -> None:
    """jvp, dual tensors, and forwards over backwards."""
    for name, drawn in some(soak, 4, 200, 5000):
        x, w, b = drawn.x, drawn.w, drawn.b
        along = tuple(torch.randn_like(t) for t in (x, w, b))
        with soak.case(f"{name}, jvp"):
            torch.testing.assert_close(*(torch.func.jvp(f, (x, w, b), along) for f in (drawn.ours, drawn.theirs)))
        with soak.case(f"{name}, dual tensors"):
            tangents = []
            for function in (drawn.ours, drawn.theirs):
                with torch.autograd.forward_ad.dual_level():
                    made = torch.autograd.forward_ad.make_dual(w, along[1])
                    tangents.append(torch.autograd.forward_ad.unpack_dual(function(x, made)).tangent.clone())
            torch.testing.assert_close(*tangents)
        with soak.case(f"{name}, forwards over backwards"):
            results = []
            for function in (drawn.ours, drawn.theirs):
                gradient = torch.func.grad(lambda x, w, f=function: f(x, w).pow(3).sum(), argnums=(0, 1))
                results.append(torch.func.jvp(gradient, (x, w), along[:2]))
            torch.testing.assert_close(*results)


def test_in_the_place_of_torchs_own(soak: Soak) -> None:
    """With torch.conv2d and torch.nn.functional.conv2d ours, torch's tests of whatever convolves."""
    (names,) = tried_apart(soak, "-m", "soak.replaced", soak.length("short", "long"))
    assert {"nn.functional.conv2d", "Conv2d"} <= set(names)
