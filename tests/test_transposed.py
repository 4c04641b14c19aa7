"""`convforge.conv_transpose2d` and `convforge.nn.ConvTranspose2d` against torch's: values, gradients of any order,
memory formats, dtypes, errors, and the ways in which torch takes functions apart."""

from __future__ import annotations

import copy
import io
import itertools
import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torchs_lists import torchs_own

import convforge
from convforge.nn import ConvTranspose2d
from convforge.pytorch import by_torch, compute, kept, sixteen
from convforge.pytorch.by_engine import CannotLoad

LAST = torch.channels_last
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": LAST}
OPERATOR = torch.ops.convforge.conv_transpose2d.default


def randn(*shape: int, dtype: torch.dtype = torch.float32, grad: bool = False, seed: int = 0) -> Tensor:
    made = torch.Generator().manual_seed(seed + 7 * len(shape) + sum(shape))
    return torch.randn(*shape, generator=made, dtype=torch.float64).to(dtype).requires_grad_(grad)


def close(ours: Tensor, theirs: Tensor, bound: float = 2e-6) -> None:
    assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
    if theirs.numel():
        ours, theirs = ours.detach(), theirs.detach()
        assert float((ours - theirs).abs().max()) <= bound * (float(theirs.abs().max()) or 1.0)


def both(x: Tensor, w: Tensor, b: Tensor | None = None, bound: float = 2e-6, **arguments: Any) -> None:
    """Output and gradients, ours beside torch's; the output's strides, too."""
    results = []
    for function in (convforge.conv_transpose2d, F.conv_transpose2d):
        inputs = [t for t in (x, w, b) if t is not None and t.requires_grad]
        y = function(x, w, b, **arguments)
        g = torch.empty_like(y).copy_(randn(*y.shape, dtype=y.dtype, seed=3))
        results.append([y.detach(), *(torch.autograd.grad(y, inputs, g) if inputs else ())])
        assert y.requires_grad == bool(inputs)
    assert results[0][0].stride() == results[1][0].stride()
    for ours, theirs in zip(*results, strict=True):
        close(ours, theirs, bound)


ARGUMENTS: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "plain": ((2, 3, 8, 9), (3, 6, 3, 3), {}),
    "padded": ((2, 16, 8, 9), (16, 24, 3, 3), {"padding": 1}),
    "twice the size": ((2, 3, 5, 6), (3, 6, 2, 2), {"stride": 2}),
    "twice the size, 4x4": ((2, 3, 5, 6), (3, 6, 4, 4), {"stride": 2, "padding": 1}),
    "twice the size, 3x3": ((2, 3, 5, 6), (3, 6, 3, 3), {"stride": 2, "padding": 1, "output_padding": 1}),
    "per axis": (
        (2, 4, 5, 6),
        (4, 6, 3, 2),
        {"stride": (3, 1), "padding": (0, 2), "output_padding": (2, 1), "dilation": (1, 2)},
    ),
    "pixels that no tap meets": ((2, 4, 5, 6), (4, 6, 1, 2), {"stride": (3, 2), "dilation": (1, 2)}),
    "more added than the stride": ((2, 4, 5, 6), (4, 6, 3, 2), {"dilation": (3, 4), "output_padding": (2, 3)}),
    "grouped": ((2, 6, 7, 8), (6, 4, 3, 3), {"groups": 3, "stride": [2], "padding": [1, 1]}),
    "depthwise": ((2, 5, 7, 8), (5, 1, 3, 3), {"groups": 5, "stride": 2, "padding": 1, "output_padding": 1}),
    "more than depthwise": ((2, 5, 7, 8), (5, 2, 3, 3), {"groups": 5}),
    "pointwise": ((2, 5, 7, 8), (5, 6, 1, 1), {}),
    "one channel": ((2, 1, 7, 8), (1, 6, 3, 3), {"padding": 1}),
    "one output channel": ((2, 4, 7, 8), (4, 1, 3, 3), {"padding": 1}),
    "1x1 image": ((2, 4, 1, 1), (4, 6, 4, 4), {}),
    "to 1x1": ((2, 4, 1, 1), (4, 6, 3, 3), {"padding": 1}),
    "cropped beyond the kernel": ((2, 4, 9, 9), (4, 6, 2, 2), {"padding": 3}),
    "empty batch": ((0, 4, 5, 5), (4, 6, 3, 3), {}),
}


@pytest.mark.parametrize("w_format", FORMATS)
@pytest.mark.parametrize("x_format", FORMATS)
@pytest.mark.parametrize("name", ARGUMENTS)
def test_values_gradients_and_memory_formats(name: str, x_format: str, w_format: str) -> None:
    x_shape, w_shape, arguments = ARGUMENTS[name]
    x = randn(*x_shape).contiguous(memory_format=FORMATS[x_format]).requires_grad_()
    w = randn(*w_shape).contiguous(memory_format=FORMATS[w_format]).requires_grad_()
    outputs = w_shape[1] * arguments.get("groups", 1)
    both(x, w, randn(outputs, grad=True), **arguments)
    both(x.detach(), w.detach(), **arguments)


@pytest.mark.parametrize("wanted", list(itertools.product([True, False], repeat=3)))
def test_only_the_gradients_that_are_wanted(wanted: tuple[bool, bool, bool]) -> None:
    x, w, b = (randn(*s, grad=g) for s, g in zip(((2, 3, 6, 6), (3, 4, 3, 3), (4,)), wanted, strict=True))
    both(x, w, b, padding=1)
    both(x, w, stride=2)


def test_views_and_biases_of_any_layout() -> None:
    x, w = randn(4, 3, 8, 9), randn(3, 8, 3, 4)
    for view in (x[::2, :, 1:, ::3], x.transpose(2, 3), x[:1].expand(3, -1, -1, -1), x.flip(2, 3)):
        both(view.detach().requires_grad_(), w[:, ::2].detach().requires_grad_(), randn(8)[::2], stride=2)
    both(x, w, randn(1).expand(8).detach().requires_grad_())


@pytest.mark.parametrize("x_format", FORMATS)
def test_one_image_without_a_batch(x_format: str) -> None:
    x = randn(1, 3, 6, 7).contiguous(memory_format=FORMATS[x_format])[0].detach().requires_grad_()
    w, b = randn(3, 4, 3, 3, grad=True), randn(4, grad=True)
    ours, theirs = (
        [y.detach(), *torch.autograd.grad(y.square().sum(), (x, w, b))]
        for y in (f(x, w, b, stride=2, padding=1) for f in (convforge.conv_transpose2d, F.conv_transpose2d))
    )
    for mine, its in zip(ours, theirs, strict=True):
        close(mine, its, 2e-5)


def test_no_gradient_where_none_is_recorded() -> None:
    x, w = randn(2, 3, 6, 6, grad=True), randn(3, 4, 3, 3, grad=True)
    with torch.no_grad():
        assert not convforge.conv_transpose2d(x, w).requires_grad
    with torch.inference_mode():
        assert convforge.conv_transpose2d(x, w).is_inference()


# ---------------------------------------------------------------------------------------------------------------------
# Derivatives of any order
# ---------------------------------------------------------------------------------------------------------------------

DERIVED: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "plain": ((2, 2, 4, 4), (2, 3, 3, 3), {}),
    "strided": ((1, 2, 3, 4), (2, 3, 3, 2), {"stride": (2, 3), "padding": 1, "output_padding": (1, 2)}),
    "dilated": ((1, 2, 3, 3), (2, 2, 2, 3), {"dilation": (3, 2), "padding": 1, "output_padding": (2, 1)}),
    "depthwise": ((1, 3, 4, 4), (3, 2, 3, 3), {"groups": 3, "stride": 2, "padding": 1}),
    "stride beyond the kernel": ((1, 2, 3, 3), (2, 2, 2, 2), {"stride": 3}),
    "without a batch": ((2, 3, 3), (2, 3, 3, 3), {"padding": 1}),
}


@pytest.mark.parametrize("x_format", FORMATS)
@pytest.mark.parametrize("name", DERIVED)
def test_gradcheck_and_gradgradcheck(name: str, x_format: str) -> None:
    x_shape, w_shape, arguments = DERIVED[name]
    x, w = randn(*x_shape, dtype=torch.float64), randn(*w_shape, dtype=torch.float64)
    b = randn(w_shape[1] * arguments.get("groups", 1), dtype=torch.float64, grad=True)
    if x.dim() == 4:
        x = x.contiguous(memory_format=FORMATS[x_format])
    inputs = (x.requires_grad_(), w.requires_grad_(), b)

    def function(*tensors: Tensor) -> Tensor:
        return convforge.conv_transpose2d(*tensors, **arguments)

    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


def test_a_gradient_penalty_in_float32() -> None:
    inputs = (randn(2, 3, 5, 6, grad=True), randn(3, 4, 3, 3, grad=True))

    def penalty(function: Any) -> tuple[Tensor, ...]:
        y = function(*inputs, stride=2, padding=1).tanh().sum()
        norm = sum(g.square().sum() for g in torch.autograd.grad(y, inputs, create_graph=True))
        return torch.autograd.grad(norm, inputs)

    for ours, theirs in zip(penalty(convforge.conv_transpose2d), penalty(F.conv_transpose2d), strict=True):
        close(ours, theirs, 1e-5)


# ---------------------------------------------------------------------------------------------------------------------
# Numbers of other kinds
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("by_cpu", [True, False])
def test_half_precision(dtype: torch.dtype, by_cpu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sixteen, "multiplied_here", lambda _: by_cpu)
    x, w, b = (randn(*s, dtype=dtype) for s in ((2, 8, 5, 6), (8, 6, 3, 3), (6,)))
    how: dict[str, Any] = {"stride": 2, "padding": 1, "output_padding": 1}
    y = convforge.conv_transpose2d(x.to(memory_format=LAST), w, b, **how)
    assert y.is_contiguous(memory_format=LAST)
    close(y.double(), F.conv_transpose2d(x.double(), w.double(), b.double(), **how), 1e-2)


def test_autocast() -> None:
    x, w, b = randn(2, 4, 5, 6, grad=True), randn(4, 6, 3, 3, grad=True), randn(6, grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, wide = convforge.conv_transpose2d(x, w, b, 2), convforge.conv_transpose2d(x.double(), w.double(), b.double())
    assert (y.dtype, wide.dtype) == (torch.bfloat16, torch.float64)
    y.float().square().sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.float32
    theirs = F.conv_transpose2d(x, w, b, 2)
    close(y.float(), theirs.detach(), 2e-2)
    close(x.grad, torch.autograd.grad(theirs.square().sum(), x)[0], 4e-2)


def test_what_torch_computes() -> None:
    f = convforge.conv_transpose2d
    whole = torch.randint(-5, 5, (1, 4, 5, 5)), torch.randint(-5, 5, (4, 3, 3, 3))
    assert torch.equal(f(*whole, stride=2), F.conv_transpose2d(*whole, stride=2))
    x, w = randn(2, 4, 5, 5), randn(4, 3, 3, 3)
    close(f(x.cfloat(), w.cfloat()).real, F.conv_transpose2d(x, w))
    assert f(x.to("meta"), w.to("meta"), output_padding=1, stride=2).shape == (2, 3, 12, 12)
    mapped = torch.vmap(lambda w: f(x, w))(torch.stack([w, w + 1]))
    close(mapped[1], F.conv_transpose2d(x, w + 1), 1e-5)
    _, tangent = torch.func.jvp(lambda x: f(x, w, stride=2), (x,), (x,))
    close(tangent, F.conv_transpose2d(x, w, stride=2), 1e-5)


def test_where_machine_code_cannot_be_loaded_torch_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise CannotLoad("this machine refuses to run generated code.")

    for name in ("input_gradient_plan", "forward_plan", "weight_gradient_plan"):
        monkeypatch.setattr(compute, name, refuse)
    by_torch._warn.cache_clear()
    x_shape, w_shape, arguments = ARGUMENTS["more added than the stride"]
    x, w, b = randn(*x_shape, grad=True), randn(*w_shape, grad=True), randn(w_shape[1], grad=True)
    monkeypatch.setattr("convforge.pytorch.functional.plain_transposed_call", lambda *_: None)
    with pytest.warns(RuntimeWarning, match="generated code"):
        both(x, w, b, **arguments)
    # Nor need the operator be called with what torch can say.
    pads = [1, 3, 0, 2]
    y = OPERATOR(x, w, b, [7, 5], [1, 1], pads, [3, 1], 1)
    monkeypatch.undo()
    close(y, OPERATOR(x, w, b, [7, 5], [1, 1], pads, [3, 1], 1))


# ---------------------------------------------------------------------------------------------------------------------
# Mistakes, and torch's own tests
# ---------------------------------------------------------------------------------------------------------------------

X, W, B = randn(2, 4, 6, 6), randn(4, 6, 3, 3), randn(6)
MISTAKES: dict[str, Callable[[Any], Tensor]] = {
    "channels that do not match": lambda f: f(X[:, :3], W),
    "inputs that groups do not divide": lambda f: f(X, W, groups=3),
    "groups=0": lambda f: f(X, W, groups=0),
    "groups=1.0": lambda f: f(X, W, groups=1.0),
    "bias of another length": lambda f: f(X, W, B[:5]),
    "bias of two axes": lambda f: f(X, W, B[None]),
    "nothing left": lambda f: f(X, W, padding=9),
    "stride=0": lambda f: f(X, W, stride=0),
    "stride of three": lambda f: f(X, W, stride=(1, 1, 1)),
    "stride='a'": lambda f: f(X, W, stride="a"),
    "stride=1.5": lambda f: f(X, W, stride=1.5),
    "stride=None": lambda f: f(X, W, stride=None),
    "dilation=0": lambda f: f(X, W, dilation=0),
    "padding=-1": lambda f: f(X, W, padding=-1),
    "padding='same'": lambda f: f(X, W, padding="same"),
    "output_padding=-1": lambda f: f(X, W, output_padding=-1),
    "output_padding=1": lambda f: f(X, W, output_padding=1),
    "output_padding beyond one axis": lambda f: f(X, W, stride=(3, 2), output_padding=(2, 2)),
    "input of two axes": lambda f: f(X[0, 0], W),
    "input of five axes": lambda f: f(X[None], W),
    "weight of three axes": lambda f: f(X, W[0]),
    "no channels": lambda f: f(X[:, :0], W[:0]),
    "no rows": lambda f: f(X[:, :, :0], W),
    "no outputs": lambda f: f(X, W[:, :0]),
    "an empty kernel": lambda f: f(X, W[:, :, :0]),
    "dtypes that differ": lambda f: f(X, W.double()),
    "a bias of another dtype": lambda f: f(X, W, B.double()),
    "a list for the input": lambda f: f([[1.0]], W),
    "None for the weight": lambda f: f(X, None),
    "a number for the bias": lambda f: f(X, W, 1.0),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_answered_as_torch_answers_them(name: str) -> None:
    results: list[Any] = []
    for function in (convforge.conv_transpose2d, F.conv_transpose2d):
        try:
            results.append(MISTAKES[name](function).shape)
        except Exception as problem:
            words = str(problem).partition(" - got (")[0]
            words = re.sub(r" \(position \d\)", "", words)  # ours hands them on by position, whichever way they came
            results.append((type(problem), words))
    assert results[0] == results[1]


def test_the_operator_refuses_what_would_not_fit() -> None:
    geometry: tuple[Any, ...] = ([2, 2], [1, 1, 1, 1], [1, 1], 1)
    assert OPERATOR(X, W, B, [12, 11], *geometry).shape == (2, 6, 12, 11)
    for call in (
        lambda: OPERATOR(X, W, B, [20, 11], *geometry),
        lambda: OPERATOR(X, W, B[:2], [11, 11], *geometry),
        lambda: OPERATOR(X[:, :2], W, None, [11, 11], *geometry),
        lambda: OPERATOR(X, W.double(), None, [11, 11], *geometry),
        lambda: OPERATOR(X[0], W, None, [11, 11], *geometry),
    ):
        with pytest.raises((RuntimeError, ValueError, IndexError)):
            call()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64])
def test_torchs_samples(dtype: torch.dtype) -> None:
    count = 0
    for sample in torchs_own("conv_transpose2d")[0].sample_inputs("cpu", dtype, requires_grad=True):
        arguments = (sample.input, *sample.args)
        ours, theirs = (f(*arguments, **sample.kwargs) for f in (convforge.conv_transpose2d, F.conv_transpose2d))
        torch.testing.assert_close(ours, theirs)
        assert ours.stride() == theirs.stride()
        leaves = [t for t in (*arguments, *sample.kwargs.values()) if isinstance(t, Tensor) and t.requires_grad]
        direction = torch.randn_like(theirs)
        for mine, its in zip(*(torch.autograd.grad(y, leaves, direction) for y in (ours, theirs)), strict=True):
            torch.testing.assert_close(mine, its)
        count += 1
    assert count >= 5


@pytest.mark.parametrize("training", [True, False])
def test_torchs_module_inputs(training: bool) -> None:
    count, info = 0, torchs_own("conv_transpose2d")[1]
    inputs = info.module_inputs_func(info, device="cpu", dtype=torch.float64, requires_grad=True, training=training)
    for case in inputs:
        arguments, options = case.constructor_input.args, case.constructor_input.kwargs
        theirs = torch.nn.ConvTranspose2d(*arguments, **options, dtype=torch.float64)
        ours = ConvTranspose2d(*arguments, **options, dtype=torch.float64)
        ours.load_state_dict(theirs.state_dict())
        torch.testing.assert_close(ours(*case.forward_input.args), theirs(*case.forward_input.args))
        count += 1
    assert count >= 2


# ---------------------------------------------------------------------------------------------------------------------
# How torch takes functions apart
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf Tensor:UserWarning")
@pytest.mark.parametrize("x_format", FORMATS)
@pytest.mark.parametrize("pads", [[1, 1, 1, 1], [0, 2, 1, -1]])
def test_opcheck(pads: list[int], x_format: str) -> None:
    x = randn(2, 4, 5, 6).contiguous(memory_format=FORMATS[x_format]).requires_grad_()
    w, b = randn(4, 6, 3, 2, grad=True), randn(6, grad=True)
    size = [(5 - 1) * 2 + 3 - pads[0] - pads[1] + 1, (6 - 1) + 2 - pads[2] - pads[3]]
    torch.library.opcheck(OPERATOR, (x, w, b, size, [2, 1], pads, [1, 1], 1))
    torch.library.opcheck(OPERATOR, (x, w, None, size, [2, 1], pads, [1, 1], 1))


@pytest.mark.parametrize("name", ARGUMENTS)
def test_fake_tensors_have_the_real_ones_shapes_and_strides(name: str) -> None:
    x_shape, w_shape, arguments = ARGUMENTS[name]
    for x_format in FORMATS.values():
        x, w = randn(*x_shape).contiguous(memory_format=x_format), randn(*w_shape)
        real = convforge.conv_transpose2d(x, w, **arguments)
        with FakeTensorMode() as mode:
            fake = convforge.conv_transpose2d(mode.from_tensor(x), mode.from_tensor(w), **arguments)
        assert (fake.shape, fake.stride(), fake.dtype) == (real.shape, real.stride(), real.dtype)


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_without_a_graph_break(dynamic: bool) -> None:
    def loss(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return convforge.conv_transpose2d(x, w, b, 2, 1, 1).relu().square().sum()

    torch._dynamo.reset()
    captured = torch.compile(loss, backend="aot_eager", fullgraph=True, dynamic=dynamic)
    for height in (5, 7) if dynamic else (5,):
        inputs = (randn(2, 3, height, 6, grad=True), randn(3, 4, 3, 3, grad=True), randn(4, grad=True))
        eager, ours = torch.autograd.grad(loss(*inputs), inputs), torch.autograd.grad(captured(*inputs), inputs)
        for mine, its in zip(ours, eager, strict=True):
            close(mine, its)


def test_what_is_captured_is_our_operator() -> None:
    seen: list[Any] = []

    def look(graph: torch.fx.GraphModule, _: Any) -> Any:
        seen.extend(node.target for node in graph.graph.nodes if node.op == "call_function")
        return graph

    torch._dynamo.reset()
    torch.compile(lambda x, w: convforge.conv_transpose2d(x, w, padding=1), backend=look, fullgraph=True)(X, W)
    assert [str(target) for target in seen] == ["convforge.conv_transpose2d.default"]


def test_the_short_way_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convforge.pytorch.functional.transposed_op", None)
    layer = ConvTranspose2d(4, 6, 3, 2, 1, 1)
    layer(X.requires_grad_()).sum().backward()
    X.requires_grad_(False)
    assert layer.weight.grad is not None


def test_subclasses_and_modes_see_the_call() -> None:
    seen: list[Any] = []

    class Watched(Tensor):
        @classmethod
        def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(func)
            return super().__torch_function__(func, types, args, kwargs or {})

    y = convforge.conv_transpose2d(X.as_subclass(Watched), W)
    assert isinstance(y, Watched)
    assert convforge.conv_transpose2d in seen


# ---------------------------------------------------------------------------------------------------------------------
# The module
# ---------------------------------------------------------------------------------------------------------------------


class Generator(torch.nn.Module):
    """Noise to images, as in DCGAN."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.ConvTranspose2d(8, 16, 4, bias=False)
        self.norm = torch.nn.BatchNorm2d(16)
        self.second = torch.nn.ConvTranspose2d(16, 12, 4, 2, 1)
        self.third = torch.nn.ConvTranspose2d(12, 3, 3, 2, 1, groups=3)

    def forward(self, z: Tensor) -> Tensor:
        second = self.second(self.norm(self.first(z)).relu())
        image: Tensor = self.third(second.relu(), output_size=(16, 16)).tanh()
        return image


@pytest.fixture
def generator() -> Generator:
    torch.manual_seed(0)
    return Generator()


def test_optimized_models_are_the_same_model(generator: Generator) -> None:
    fast = convforge.optimize(generator)
    assert all(type(m) is ConvTranspose2d for m in (fast.first, fast.second, fast.third))
    fast.load_state_dict(generator.state_dict())
    z = randn(3, 8, 1, 1)
    for model in (generator, fast):
        model(z).square().mean().backward()
    for (name, ours), theirs in zip(fast.named_parameters(), generator.parameters(), strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-7, msg=name)
    assert "3 of 3 convolutions on the engine" in str(convforge.report(fast))
    close(fast.eval().to(memory_format=LAST)(z), generator.eval()(z), 1e-5)


def test_the_compile_backend_takes_them(generator: Generator) -> None:
    torch._dynamo.reset()
    fast, z = torch.compile(generator.eval(), backend="convforge"), randn(2, 8, 1, 1)
    calls: list[Any] = []
    original = compute.run_input_gradient

    def counted(*arguments: Any) -> Tensor:
        calls.append(arguments)
        return original(*arguments)

    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("convforge.pytorch.plain.run_input_gradient", counted)
        patch.setattr(compute, "run_input_gradient", counted)
        close(fast(z), generator(z), 1e-5)
    assert len(calls) == 3


def test_export_holds_plain_convolutions(generator: Generator) -> None:
    fast, z = convforge.optimize(generator.eval()), randn(2, 8, 1, 1)
    program = torch.export.export(fast, (z,))
    assert "convforge" not in str(program.graph)
    close(program.module()(z), generator(z), 1e-5)


def test_copies_and_scripts(generator: Generator) -> None:
    fast, z = convforge.optimize(generator.eval()), randn(2, 8, 1, 1)
    stored = io.BytesIO()
    torch.save(fast, stored)
    stored.seek(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
        traced = torch.jit.trace(fast, z)
    copies = [copy.deepcopy(fast), torch.load(stored, weights_only=False), traced, torch.jit.script(fast)]
    for other in copies:
        close(other(z), fast(z), 1e-5)
    assert "convforge::" not in str(traced.inlined_graph)
    assert ConvTranspose2d.__module__ == "convforge.nn"
    assert convforge.conv_transpose2d.__module__ == "convforge"


def test_an_output_size_is_torchs() -> None:
    ours, theirs = ConvTranspose2d(4, 6, 3, 3, 1), torch.nn.ConvTranspose2d(4, 6, 3, 3, 1)
    ours.load_state_dict(theirs.state_dict())
    for size in ([16, 17], (18, 16), [2, 6, 17, 18]):
        close(ours(X, size), theirs(X, size))  # type: ignore[arg-type]
    for size in ([15, 16], [16, 19], [1, 2, 3]):
        said = []
        for layer in (ours, theirs):
            with pytest.raises(ValueError) as raised:
                layer(X, output_size=size)
            said.append(str(raised.value))
        assert said[0] == said[1]


@pytest.mark.parametrize(
    "keywords",
    [
        {"padding_mode": "reflect"},
        {"groups": 3},
        {"groups": 0},
        {"padding": "same"},
        {"padding": "banana"},
        {"kernel_size": 0},
        {"stride": "a"},
    ],
    ids=str,
)
def test_mistakes_in_a_module_are_answered_as_torch_answers_them(keywords: dict[str, Any]) -> None:
    said = []
    for cls in (ConvTranspose2d, torch.nn.ConvTranspose2d):
        try:
            said.append(cls(**({"in_channels": 4, "out_channels": 6, "kernel_size": 3} | keywords))(X).shape)
        except Exception as problem:
            said.append((type(problem), str(problem).partition(" - got (")[0]))
    assert said[0] == said[1]


def test_packed_weights_are_kept_and_noticed() -> None:
    layer = ConvTranspose2d(64, 64, 3, 2, 1).eval().requires_grad_(False)
    x = randn(1, 64, 6, 6)
    for _ in range(3):
        layer(x)
    assert kept.bytes_kept_for(layer.weight) > 0
    layer.weight.data.mul_(2)
    close(layer(x), F.conv_transpose2d(x, layer.weight, layer.bias, 2, 1))


def test_the_function_in_the_place_of_torchs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = F.conv_transpose2d
    monkeypatch.setattr(F, "conv_transpose2d", convforge.conv_transpose2d)
    monkeypatch.setattr(torch, "conv_transpose2d", convforge.conv_transpose2d)
    for arguments in ((X, W), (X[0], W), (X[:0], W), (X.cfloat(), W.cfloat()), (X.long(), W.long())):
        torch.testing.assert_close(F.conv_transpose2d(*arguments), theirs(*arguments), rtol=1e-4, atol=1e-4)
