"""`convforge.nn.Conv2d` against `torch.nn.Conv2d`, which it must be able to take the place of anywhere."""

from __future__ import annotations

import copy
import io
import itertools
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import convforge
from convforge import SpecError
from convforge.nn import Conv2d


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pair(*arguments: Any, **keywords: Any) -> tuple[Conv2d, torch.nn.Conv2d]:
    """Ours and torch's, from the same seed."""
    torch.manual_seed(1)
    ours = Conv2d(*arguments, **keywords)
    torch.manual_seed(1)
    return ours, torch.nn.Conv2d(*arguments, **keywords)


def run(layer: torch.nn.Module, x: Tensor) -> list[Tensor]:
    """The output, the gradient of the input, and those of the parameters."""
    x = x.detach().requires_grad_()
    layer.zero_grad()
    y = layer(x)
    y.backward(torch.empty_like(y).copy_(randn(*y.shape, seed=2)))
    return [y.detach(), *(g for g in (x.grad, *(p.grad for p in layer.parameters())) if g is not None)]


def same(ours: list[Tensor], theirs: list[Tensor]) -> None:
    for mine, their in zip(ours, theirs, strict=True):
        assert mine.stride() == their.stride()
        torch.testing.assert_close(mine, their, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize(
    "keywords",
    [
        {"kernel_size": 3},
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": (3, 2), "padding": (2, 1), "stride": (1, 2)},
        {"kernel_size": 3, "padding": "same", "dilation": 2},
        {"kernel_size": (4, 3), "padding": "same", "bias": False},
        {"kernel_size": 3, "padding": "valid", "stride": 2},
        {"kernel_size": 3, "padding": 2, "dilation": (1, 2), "groups": 2, "stride": 2},
        {"kernel_size": 1, "groups": 4, "bias": False},
    ],
)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
def test_arguments_and_padding_modes(keywords: dict[str, Any], mode: str) -> None:
    ours, theirs = pair(4, 8, padding_mode=mode, **keywords)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    for x in (randn(2, 4, 9, 8), randn(2, 4, 9, 8).contiguous(memory_format=torch.channels_last)):
        same(run(ours, x), run(theirs, x))
    assert repr(ours) == repr(theirs)


def test_arguments_by_position_and_factory_arguments() -> None:
    ours, theirs = pair(4, 8, 3, 2, 1, 1, 2, False, "zeros", "cpu", torch.float64)
    same(run(ours, randn(1, 4, 6, 6).double()), run(theirs, randn(1, 4, 6, 6).double()))
    assert Conv2d(3, 4, 3, device="meta").weight.device.type == "meta"
    assert isinstance(ours, torch.nn.Conv2d)


def test_state_dicts_go_both_ways() -> None:
    for ours, theirs in (pair(4, 8, 3), pair(4, 8, (3, 1), groups=4, bias=False)):
        assert list(ours.state_dict()) == list(theirs.state_dict())
        with torch.no_grad():
            theirs.weight.mul_(2)
        ours.load_state_dict(theirs.state_dict(), strict=True)
        assert torch.equal(ours.weight, theirs.weight)
        with torch.no_grad():
            ours.weight.add_(1)
        theirs.load_state_dict(ours.state_dict(), strict=True)
        assert torch.equal(ours.weight, theirs.weight)


@pytest.mark.parametrize("padding", [1, "same", "same_half", "same_ceil", ((0, 1), (2, 0))])
def test_copies(padding: Any, tmp_path: Path) -> None:
    layer = Conv2d(3, 4, 3, padding=padding)
    x = randn(1, 3, 7, 7)
    buffer = io.BytesIO()
    torch.save(layer, buffer)
    buffer.seek(0)
    for other in (
        copy.deepcopy(layer),
        copy.copy(layer),
        pickle.loads(pickle.dumps(layer)),
        torch.load(buffer, weights_only=False),
    ):
        assert type(other) is Conv2d
        assert torch.equal(other(x), layer(x))
        assert repr(other) == repr(layer)
    assert copy.deepcopy(layer).weight is not layer.weight


def test_the_name_that_saved_models_look_for() -> None:
    """It is part of every file that holds a whole module: those that were written before have to find it, too."""
    assert pickle.loads(b"cconvforge.nn\nConv2d\n.") is Conv2d
    assert b"convforge.nn" in pickle.dumps(Conv2d)
    assert Conv2d.__module__ == convforge.nn.__name__ == "convforge.nn"


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize(
    ("padding", "stride", "kernel", "sides"),
    [
        ("same_half", 1, 3, (1, 1, 1, 1)),
        ("same_half", 2, (5, 3), (1, 1, 2, 2)),
        ("same_half", 1, 4, (2, 2, 2, 2)),
        ("same_ceil", 2, 3, (0, 1, 1, 1)),
        ("same_ceil", 3, 3, (0, 1, 0, 0)),
        ("same_ceil", 1, 4, (1, 2, 1, 2)),
        (((1, 2), (0, 3)), 2, 3, (0, 3, 1, 2)),
        ([[2, 0], [0, 0]], 1, 3, (0, 0, 2, 0)),
    ],
)
def test_padding_beyond_torchs(padding: Any, stride: int, kernel: Any, sides: tuple[int, ...], mode: str) -> None:
    """On 9×8 images, against torch's layer on an input padded by hand: `sides` is (left, right, top, bottom)."""
    ours = Conv2d(3, 5, kernel, stride, padding=padding, padding_mode=mode)
    theirs = torch.nn.Conv2d(3, 5, kernel, stride)
    theirs.load_state_dict(ours.state_dict())
    x = randn(2, 3, 9, 8)
    padded = torch.nn.Sequential(_Pad(sides, mode), theirs)
    for mine, their in zip(run(ours, x), run(padded, x), strict=True):
        torch.testing.assert_close(mine, their, rtol=1e-5, atol=1e-5)
    one = ours(x[0])
    torch.testing.assert_close(one, ours(x)[0], rtol=1e-5, atol=1e-5)
    assert "padding=" in repr(ours)


class _Pad(torch.nn.Module):
    def __init__(self, sides: tuple[int, ...], mode: str) -> None:
        super().__init__()
        self.sides, self.mode = sides, "constant" if mode == "zeros" else mode

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, self.sides, mode=self.mode)


@pytest.mark.parametrize("stride", [2, (1, 2), [2, 2]])
def test_same_with_a_stride_explains_both_rules(stride: Any) -> None:
    with pytest.raises(ValueError, match="padding='same' is not supported for strided convolutions") as raised:
        Conv2d(3, 8, 3, stride, padding="same")
    assert isinstance(raised.value, SpecError)
    assert "'same_ceil'" in str(raised.value)
    assert "'same_half'" in str(raised.value)


@pytest.mark.parametrize(
    "keywords",
    [
        {"groups": 3},
        {"groups": 0},
        {"padding": "SAME"},
        {"padding_mode": "wrap"},
        {"kernel_size": "3"},
        {"stride": None},
        {"dilation": "a"},
        {"padding": "x", "stride": 2},
        {"in_channels": -4},
        {"padding": None},
    ],
)
def test_mistakes_are_answered_as_torch_answers_them(keywords: dict[str, Any]) -> None:
    arguments = {"in_channels": 4, "out_channels": 8, "kernel_size": 3} | keywords
    answers = []
    for layer in (Conv2d, torch.nn.Conv2d):
        try:
            answers.append(repr(layer(**arguments)))
        except Exception as problem:
            answers.append(f"{type(problem).__name__}: {problem}")
    assert answers[0] == answers[1]


@pytest.mark.parametrize("padding", [((1, -1), (0, 0)), ((1, 2), (3, 4, 5)), ((1, 2), 3), "same_floor"])
def test_padding_that_cannot_be_is_refused_when_the_layer_is_made(padding: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        Conv2d(3, 8, 3, padding=padding)


def test_attributes_are_torchs() -> None:
    ours, theirs = pair(4, 8, 3, 2, 1, groups=2)
    for name in theirs.__constants__:
        assert getattr(ours, name) == getattr(theirs, name)
    assert vars(ours).keys() == vars(theirs).keys()
    assert ours._reversed_padding_repeated_twice == theirs._reversed_padding_repeated_twice
    half = Conv2d(4, 8, (3, 5), padding="same_half", padding_mode="reflect")
    assert half.padding == (1, 2)
    assert half._reversed_padding_repeated_twice == [2, 2, 1, 1]


def test_stride_or_padding_changed_later_holds() -> None:
    """Networks such as dilated ResNets rewrite their layers' attributes."""
    ours, theirs = pair(4, 8, 3, 2, 1)
    for layer in (ours, theirs):
        layer.stride, layer.dilation, layer.padding = (1, 1), (2, 2), (2, 2)
    same(run(ours, randn(1, 4, 7, 7)), run(theirs, randn(1, 4, 7, 7)))


class Small(torch.nn.Module):
    """What is exported: strides, groups, a skip, and padding that torch has no name for."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(3, 8, 3, padding=1)
        self.deep = torch.nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.down = torch.nn.Conv2d(8, 16, 3, stride=2, padding="valid")
        self.norm = torch.nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        return self.down(x + self.norm(self.deep(x))).mean((2, 3))


def optimized() -> torch.nn.Module:
    torch.manual_seed(0)
    return convforge.optimize(Small().eval())


@pytest.mark.parametrize("dynamic", [False, True])
def test_export_holds_plain_convolutions(dynamic: bool) -> None:
    model, x = optimized(), randn(2, 3, 16, 16)
    shapes = ({0: torch.export.Dim("batch", min=2, max=64)},) if dynamic else None
    program = torch.export.export(model, (x,), dynamic_shapes=shapes)
    targets = [str(node.target) for node in program.graph.nodes if "conv" in str(node.target)]
    assert len(targets) == 3
    assert {target.partition(".padding")[0] for target in targets} <= {"aten.conv2d.default", "aten.conv2d"}
    assert "convforge" not in str(program.graph)
    torch.testing.assert_close(program.module()(x), model(x), rtol=1e-5, atol=1e-5)
    if dynamic:
        many = randn(7, 3, 16, 16)
        torch.testing.assert_close(program.module()(many), model(many), rtol=1e-5, atol=1e-5)


def test_export_of_padding_beyond_torchs() -> None:
    model = torch.nn.Sequential(Conv2d(3, 4, 3, 2, padding="same_ceil"), Conv2d(4, 4, 3, padding=((0, 1), (2, 0))))
    x = randn(1, 3, 9, 8)
    program = torch.export.export(model, (x,))
    assert "convforge" not in str(program.graph)
    torch.testing.assert_close(program.module()(x), model(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dynamo", [True, False])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_onnx_export_holds_plain_conv_nodes(tmp_path: Path, dynamo: bool) -> None:
    onnx = pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    model, x, path = optimized(), randn(2, 3, 16, 16), str(tmp_path / "model.onnx")
    torch.onnx.export(model, (x,), path, dynamo=dynamo, verbose=False)
    graph = onnx.load(path).graph
    kinds = [node.op_type for node in graph.node]
    assert kinds.count("Conv") == 3
    assert all(node.domain in ("", "ai.onnx") for node in graph.node)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (theirs,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(theirs), model(x).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_jit_trace() -> None:
    model, x = optimized(), randn(2, 3, 16, 16)
    traced = torch.jit.trace(model, x)
    torch.testing.assert_close(traced(x), model(x), rtol=1e-5, atol=1e-5)
    buffer = io.BytesIO()
    torch.jit.save(traced, buffer)
    buffer.seek(0)
    torch.testing.assert_close(torch.jit.load(buffer)(x), model(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_compile_of_a_whole_model_without_a_graph_break(training: bool) -> None:
    torch._dynamo.reset()
    model = optimized().train(training)
    captured = torch.compile(copy.deepcopy(model), backend="aot_eager", fullgraph=True)
    x = randn(2, 3, 16, 16)
    same(run(captured, x), run(model, x))
    assert captured(x[:, :, :10]).shape == model(x[:, :, :10]).shape


def test_symbolic_tracing() -> None:
    model, x = optimized(), randn(2, 3, 16, 16)
    traced = torch.fx.symbolic_trace(model)
    assert sum(node.target is convforge.conv2d for node in traced.graph.nodes) == 3
    assert torch.equal(traced(x), model(x))


def test_a_saved_trace_names_the_function_as_users_do() -> None:
    model, x = convforge.optimize(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3))), randn(2, 3, 16, 16)
    buffer = io.BytesIO()
    torch.save(torch.fx.symbolic_trace(model), buffer)
    assert b"from convforge import conv2d" in buffer.getvalue()
    buffer.seek(0)
    assert torch.equal(torch.load(buffer, weights_only=False)(x), model(x))


def test_integers_of_other_libraries() -> None:
    np = pytest.importorskip("numpy")
    two = np.int64(2)
    ours, theirs = pair(4, 8, 3, stride=two, padding=two, dilation=two)
    same(run(ours, randn(1, 4, 9, 9)), run(theirs, randn(1, 4, 9, 9)))


def test_functional_call_and_ensembles() -> None:
    layers = [Conv2d(3, 4, 3, padding=1) for _ in range(3)]
    parameters, _ = torch.func.stack_module_state(layers)  # type: ignore[arg-type]
    x = randn(2, 3, 6, 6)
    base = copy.deepcopy(layers[0]).to("meta")

    def call(weights: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(base, weights, (x,))

    got = torch.func.vmap(call)(parameters)
    torch.testing.assert_close(got, torch.stack([layer(x) for layer in layers]), rtol=1e-5, atol=1e-5)


def test_parametrizations() -> None:
    for wrap, x in itertools.product(
        (torch.nn.utils.parametrizations.weight_norm, torch.nn.utils.parametrizations.spectral_norm),
        (randn(2, 4, 6, 6),),
    ):
        results = []
        for layer in pair(4, 8, 3, padding=1):
            torch.manual_seed(3)
            wrapped = wrap(layer).eval()
            results.append(run(wrapped, x))
        same(*results)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_older_weight_norm_and_pruning() -> None:
    from torch.nn.utils import prune

    x = randn(2, 4, 6, 6)
    for change in (torch.nn.utils.weight_norm, lambda layer: prune.l1_unstructured(layer, "weight", amount=0.5)):
        same(*(run(change(layer), x) for layer in pair(4, 8, 3, padding=1)))


def test_dtypes_of_the_module() -> None:
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        ours, theirs = (layer.to(dtype) for layer in pair(4, 8, 3, padding=1))
        x = randn(2, 4, 6, 6).to(dtype)
        assert ours(x).dtype == dtype
        tolerance = 1e-12 if dtype is torch.float64 else 0.02
        torch.testing.assert_close(ours(x), theirs(x), rtol=tolerance, atol=tolerance)


def test_channels_last_modules() -> None:
    ours, theirs = (layer.to(memory_format=torch.channels_last) for layer in pair(4, 8, 3, padding=1))
    same(run(ours, randn(2, 4, 6, 6)), run(theirs, randn(2, 4, 6, 6)))


def test_an_uninitialised_number_of_channels_is_named_as_torch_names_it() -> None:
    ours, theirs = pair(4, 8, 3)
    messages = []
    for layer in (ours, theirs):
        with pytest.raises(RuntimeError) as raised:
            layer(randn(1, 3, 6, 6))
        messages.append(str(raised.value))
    assert messages[0] == messages[1]
