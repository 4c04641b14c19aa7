"""ONNX files as graphs: ONNX's own tests of its operators, files that PyTorch writes, and files that mean harm."""

from __future__ import annotations

import io
import os
import re
import time
import tracemalloc
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convforge import UserError
from convforge.graph.mapped import in_file
from convforge.graph.network import Network
from convforge.graph.nodes import END, Axes, Graph, GraphError, Pooling, Reshape, Resize, Slice
from convforge.spec import same_ceil_pad

onnx = pytest.importorskip("onnx")
helper, numpy_helper, TensorProto = onnx.helper, onnx.numpy_helper, onnx.TensorProto

from onnxs_own import DATA, LIGHT, WRITTEN_BY_PYTORCH, Trial, folders, node_tests, trials_in, trials_of  # noqa: E402

from convforge.graph.onnx import read  # noqa: E402  (it needs the package only when it reads)


def model(
    nodes: Sequence[Any],
    inputs: dict[str, Sequence[Any]] | None = None,
    outputs: Sequence[str] = ("y",),
    weights: dict[str, Any] | None = None,
    opset: int = 18,
    **more: Any,
) -> bytes:
    """A file; `inputs` by name with their sizes, or names of sizes."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (inputs or {"x": [2, 3, 8, 8]}).items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in (weights or {}).items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], **more)
    content: bytes = made.SerializeToString()
    return content


def node(operator: str, *inputs: str, output: str = "y", **attributes: Any) -> Any:
    return helper.make_node(operator, list(inputs), [output], name=f"the {operator}", **attributes)


def randn(*shape: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


# ---------------------------------------------------------------------------------------------------------------------
# ONNX's own tests
# ---------------------------------------------------------------------------------------------------------------------


REFUSED = {
    # ONNX's tests → what is said instead of an answer.
    r"(Conv|ConvTranspose|MaxPool|AveragePool)_.*3d|.*pool_3d_.*|convtranspose_3d": "is over 3 axes",
    r"gridsample_volumetric_.*": "takes images",
    r"affine_grid_3d.*": "is over 3 axes",
    r"resize_.*tf_crop_and_resize.*": "has coordinates",
    r"resize_.*nearest_not_(larger|smaller)": "aspect ratio",
    r"batchnorm_.*_training_mode|training_dropout.*": "training mode",
    r".*(empty_set|zero_size|allowzero_reordered|tri[lu]_zero|shape_zero|out_of_bounds|start_greater|size_one).*": (
        "empty|size 0|no identity|shape .*0"
    ),
    r"not_[234]d": "operators of version 1",
    r"gathernd_.*batch_dim.*": "batch_dims",
    r".*bfloat16.*|.*bf16.*": "bfloat16",  # handed over as a type that NumPy does not have
    r"dequantizelinear_.*": "cannot be computed|constants only|by block|not known",
    r"cast(like)?_.*": "cannot be computed|makes|do not compute with|computes with|are .*, and only numbers",
    # Functions of operators that are written out, with others that are not known.
    r".*_expanded.*": "constants only|not known|empty|size|computes with",
    r"mod_.*|mod": "constants only",
}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of NumPy, where infinities are divided
def test_onnx_node_tests() -> None:
    """Every one of an operator that is known gives ONNX's answer, or says why not; none is left out in silence."""
    passed, unexpected = 0, []
    for name, case in node_tests().items():
        try:
            for trial in trials_of(case):
                trial.check(_meant(trial))
            passed += 1
        except GraphError as error:
            said = [words for pattern, words in REFUSED.items() if re.fullmatch(f"test_({pattern})", name)]
            if not any(re.search(words, str(error)) for words in said):
                unexpected.append(f"{name}: {error}")
    assert not unexpected
    assert passed > 850


def _meant(trial: Trial) -> tuple[Any, ...]:
    """By the meaning of the nodes; by the engine they are run in tests/soak."""
    return tuple(trial.graph.compute(**dict(zip(trial.graph.inputs, trial.inputs, strict=True))))


@pytest.mark.filterwarnings("ignore:invalid value encountered")  # roots of negative numbers, say
@pytest.mark.parametrize("kind", WRITTEN_BY_PYTORCH)
def test_files_that_pytorch_wrote_long_ago(kind: str) -> None:
    passed, refused = 0, {}
    for folder in folders():
        if folder.parent.name != kind:
            continue
        try:
            for trial in trials_in(folder):
                trial.check(_meant(trial))
            passed += 1
        except GraphError as error:
            refused[folder.name] = str(error)
    assert passed >= 30
    assert all("3d" in name and "is over 3 axes" in words for name, words in refused.items())


@pytest.mark.parametrize("file", sorted((DATA / "light").glob("*.onnx")), ids=lambda path: path.stem)
def test_light_models_are_read_without_the_memory_of_their_weights(file: Path) -> None:
    tracemalloc.start()
    graph = read(file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert graph.shapes()[graph.outputs[0]][:2] == (1, 1000)
    assert peak < 20e6


@pytest.mark.parametrize("name", LIGHT)
def test_light_models_have_onnxs_answer(name: str) -> None:
    """Run by the engine; by the meaning of their nodes, too, where that does not take long.

    All weights of a layer are one number, so that some answer the same for every class; tests/soak draws weights.
    """
    from onnx.backend.test.runner import Runner

    file = DATA / "light" / f"light_{name}.onnx"
    graph = read(file)
    (value,) = (value for value in onnx.load(file).graph.input if value.name in graph.inputs)
    image = Runner.generate_dummy_data(value, seed=0, name=name, random=False)
    wanted = numpy_helper.to_array(onnx.load_tensor(file.with_name(f"light_{name}_output_0.pb")))
    np.testing.assert_allclose(Network(graph)(image)[0], wanted, rtol=1e-4)
    if name in ("squeezenet", "shufflenet"):
        np.testing.assert_allclose(graph.compute(**{value.name: image})[0], wanted, rtol=1e-4)


# ---------------------------------------------------------------------------------------------------------------------
# What PyTorch writes
# ---------------------------------------------------------------------------------------------------------------------


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.middle = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)
        self.up, self.last = nn.ConvTranspose2d(16, 8, 2, 2), nn.Conv2d(16, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        skip = F.relu(self.down(x))
        up = self.up(F.silu(self.middle(F.max_pool2d(skip, 2))))
        result: Tensor = self.last(torch.cat([skip, up], 1))
        return result


class Enlarged(nn.Module):
    """To the size of its input, as a segmentation's head is."""

    def __init__(self, mode: str, **how: Any) -> None:
        super().__init__()
        self.conv, self.mode, self.how = nn.Conv2d(3, 4, 3, 2, 1), mode, how

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(self.conv(x), size=x.shape[-2:], mode=self.mode, **self.how)


class Shuffled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        x = x.view(n, 3, c // 3, h, w).transpose(1, 2).reshape(n, c, h, w)
        return F.pixel_shuffle(torch.cat([x, x, x, x], 1), 2)


class Squeezed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.BatchNorm2d(6)
        self.less, self.more = nn.Conv2d(6, 2, 1), nn.Conv2d(2, 6, 1)
        self.norm.running_mean.uniform_(-1, 1)  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> Tensor:
        y = F.hardswish(self.norm(self.conv(x)))
        gate: Tensor = self.more(F.relu(self.less(F.adaptive_avg_pool2d(y, 1))))
        return y * F.hardsigmoid(gate)


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.group, self.layer, self.linear = nn.GroupNorm(2, 6), nn.LayerNorm(6), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return F.log_softmax(self.linear(self.layer(self.group(F.gelu(x)).mean((2, 3)))), -1)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        tokens = x.flatten(2).transpose(1, 2)
        y, _ = self.attention(tokens, tokens, tokens, need_weights=False)
        result: Tensor = y.transpose(1, 2).reshape(b, c, h, w)
        return result


NETWORKS: dict[str, tuple[Any, tuple[int, ...], set[int]]] = {
    # module, an input's shape, and which axes the file must leave open when all were declared to be
    "U-Net": (UNet, (1, 3, 16, 24), {0}),
    "nearest": (lambda: Enlarged("nearest"), (1, 3, 16, 24), {0, 2, 3}),
    "bilinear": (lambda: Enlarged("bilinear", align_corners=False), (1, 3, 16, 24), {0, 2, 3}),
    "corners": (lambda: Enlarged("bilinear", align_corners=True), (1, 3, 16, 24), {0, 2, 3}),
    "shuffled": (Shuffled, (2, 6, 8, 8), {0, 2, 3}),
    "squeezed": (Squeezed, (1, 6, 9, 8), {0, 2, 3}),
    "head": (Head, (2, 6, 8, 8), {0}),
    "attention": (Attention, (2, 6, 4, 4), {0}),
}


def exported(module: nn.Module, shape: tuple[int, ...], open_axes: Sequence[int], dynamo: bool) -> bytes:
    names = {axis: f"size {axis}" if not dynamo else "nchw"[axis] for axis in open_axes}
    x = torch.randn(shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            program = torch.onnx.export(
                module, (x,), dynamo=True, input_names=["x"], dynamic_shapes=(names,), verbose=False
            )
            assert program is not None
            content: bytes = program.model_proto.SerializeToString()
            return content
        file = io.BytesIO()
        torch.onnx.export(module, (x,), file, dynamo=False, input_names=["x"], dynamic_axes={"x": names})
        return file.getvalue()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NETWORKS)
def test_files_that_pytorch_writes(name: str) -> None:
    """The older exporter, all axes open: the answer is the module's, at other sizes too where the graph allows them."""
    torch.manual_seed(0)
    make, shape, open_axes = NETWORKS[name]
    module = make().eval()
    graph = read(exported(module, shape, (0, 2, 3), dynamo=False), shapes={"x": shape})
    left_open = set(range(4)) - set(graph.fixed["x"])
    assert left_open >= open_axes
    for axis, size in [(-1, 0), *((axis, shape[axis] + 2 * axis + 4) for axis in left_open)]:
        changed = tuple(size if a == axis else n for a, n in enumerate(shape))
        x = torch.randn(changed)
        with torch.no_grad():
            wanted = module(x).numpy()
        np.testing.assert_allclose(graph.with_input(changed).compute(x=x.numpy())[0], wanted, rtol=1e-4, atol=1e-5)
    for axis in graph.fixed["x"]:
        with pytest.raises(GraphError, match=f"along axis {axis}"):
            graph.with_input(tuple(n + (a == axis) for a, n in enumerate(shape)))


class Masked(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        loud = (x > 0.3) & ~(x > 1.5) | (x < -1)
        return torch.where(loud, x, F.hardshrink(x.masked_fill(x < -0.5, -0.5)))


class MeansNormed(nn.Module):
    """Means whose axes are moved, which the exporter takes from memory by numbers: ConvNeXt's head."""

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(F.adaptive_avg_pool2d(x, 1).permute(0, 2, 3, 1), (6,)).flatten(1)


NEWER: dict[str, Any] = {
    **{name: NETWORKS[name] for name in ("bilinear", "squeezed")},
    "windows of different sizes": (lambda: nn.AdaptiveAvgPool2d(7), (2, 6, 4, 6), {0}),
    "neighbouring channels": (lambda: nn.LocalResponseNorm(5, k=2.0), (2, 6, 4, 6), {0}),
    "means normed": (MeansNormed, (2, 6, 4, 6), {0}),
    "masked": (Masked, (2, 6, 4, 6), {0, 2, 3}),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NEWER)
def test_files_of_the_newer_exporter(name: str) -> None:
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    make, shape, open_axes = NEWER[name]
    module = make().eval()
    graph = read(exported(module, shape, sorted(open_axes), dynamo=True), shapes={"x": shape})
    assert set(range(4)) - set(graph.fixed["x"]) >= open_axes
    x = torch.randn(5, *shape[1:])
    with torch.no_grad():
        wanted = module(x).numpy()
    got = graph.with_input(tuple(x.shape)).compute(x=x.numpy())[0]
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(Network(graph)(x.numpy())[0], wanted, rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------------------------------------------------------------
# Sizes
# ---------------------------------------------------------------------------------------------------------------------


def test_a_batch_that_is_picked_out_of_a_shape_stays_open() -> None:
    nodes = [
        node("Shape", "x", output="s"),
        node("Gather", "s", "zero", output="n", axis=0),
        node("Unsqueeze", "n", "zeros", output="n1"),
        node("Concat", "n1", "rest", output="sizes", axis=0),
        node("Reshape", "x", "sizes"),
    ]
    weights = {"zero": np.int64(0), "zeros": np.array([0]), "rest": np.array([-1])}
    graph = read(model(nodes, {"x": ["n", 3, 4, 4]}, weights=weights))
    assert [n.operation for n in graph.nodes] == [Reshape((0, 48))]
    assert graph.inputs == {"x": (1, 3, 4, 4)}
    assert graph.fixed == {"x": (1, 2, 3)}
    assert graph.with_input((7, 3, 4, 4)).shapes()["y"] == (7, 48)


def test_a_batch_that_is_written_into_the_file_is_fixed() -> None:
    graph = read(model([node("Reshape", "x", "sizes")], {"x": [1, 3, 4, 4]}, weights={"sizes": np.array([1, 48])}))
    assert graph.fixed == {"x": (0, 1, 2, 3)}
    with pytest.raises(GraphError, match="made for size 1 along axis 0"):
        graph.with_input((2, 3, 4, 4))


def test_a_batch_that_the_file_says_is_one_may_be_another_where_nothing_depends_on_it() -> None:
    graph = read(model([node("Flatten", "x")], {"x": [1, 3, 4, 4]}))
    assert graph.with_input((5, 3, 4, 4)).shapes()["y"] == (5, 48)


def test_a_batch_whose_numbers_are_picked_by_places_is_fixed() -> None:
    """As torch writes a flattened channels_last tensor: another number of images would leave some out, or lack some."""
    nodes = [
        node("Reshape", "x", "all", output="flat"),
        node("Gather", "flat", "places", output="some", axis=0),
        node("Reshape", "some", "sizes"),
    ]
    weights = {"all": np.array([-1]), "places": np.arange(2 * 48), "sizes": np.array([2, 48])}
    graph = read(model(nodes, {"x": [2, 3, 4, 4]}, weights=weights))
    assert graph.fixed == {"x": (0, 1, 2, 3)}
    declared = read(model(nodes, {"x": ["n", 3, 4, 4]}, weights=weights), shapes={"x": (2, 3, 4, 4)})
    assert 0 not in declared.fixed["x"]  # the file says so itself


def test_halves_that_are_rounded_are_not_taken_for_halves() -> None:
    """⌊H/2⌋ and ⌈H/2⌉ agree for even heights; only an odd one tells that a graph cannot say either."""
    nodes = [
        node("Shape", "x", output="s", start=2, end=3),
        node("Add", "s", "one", output="more"),
        node("Div", "more", "two", output="half"),
        node("Slice", "x", "zeros", "half", "axis", output="y"),
    ]
    weights = {"one": np.array([1]), "two": np.array([2]), "zeros": np.array([0]), "axis": np.array([2])}
    graph = read(model(nodes, {"x": ["n", 3, "h", 4]}, weights=weights), shapes={"x": (1, 3, 8, 4)})
    assert graph.fixed == {"x": (1, 2, 3)}
    assert graph.shapes()["y"] == (1, 3, 4, 4)


def test_sizes_are_asked_for_where_the_file_leaves_them_open() -> None:
    file = model([node("Relu", "x")], {"x": ["n", 3, "height", None]})
    with pytest.raises(GraphError, match=r"leaves the size of 'x' along axis 2 \(height\) open: .* shapes={'x'"):
        read(file)
    graph = read(file, shapes={"x": (2, 3, 5, 7)})
    assert graph.inputs == {"x": (2, 3, 5, 7)}
    assert graph.fixed == {"x": (1,)}
    with pytest.raises(GraphError, match="axis 1 of 'x' has size 3, not 4"):
        read(file, shapes={"x": (2, 4, 5, 7)})
    with pytest.raises(GraphError, match="has 4 axes"):
        read(file, shapes={"x": (2, 3)})
    with pytest.raises(GraphError, match="no input 'z': it has x"):
        read(file, shapes={"z": (1,)})
    with pytest.raises(GraphError, match="size 0 along axis 2"):
        read(file, shapes={"x": (2, 3, 0, 7)})


def test_inputs_that_are_always_the_same_may_be_given() -> None:
    file = model([node("Clip", "x", "low", "high")], {"x": [2, 3], "low": [], "high": []})
    free = read(file)
    assert set(free.inputs) == {"x", "low", "high"}
    bound = read(file, known={"low": np.float32(0), "high": np.float32(6)})
    assert set(bound.inputs) == {"x"}
    assert [n.operation.name for n in bound.nodes] == ["relu6"]
    x = randn(2, 3) * 9
    for graph, more in ((free, {"low": 0.0, "high": 6.0}), (bound, {})):
        np.testing.assert_array_equal(graph.compute(x=x, **more)[0], np.clip(x.astype(np.float64), 0, 6))


def test_padding_by_rule_holds_at_other_sizes_only_where_it_can_be_said() -> None:
    weights = {"w": randn(4, 3, 3, 3)}
    inputs: dict[str, Sequence[Any]] = {"x": ["n", 3, "h", "w_"]}
    upper = node("Conv", "x", "w", auto_pad="SAME_UPPER", strides=[2, 2])
    lower = node("Conv", "x", "w", auto_pad="SAME_LOWER", strides=[2, 2])
    same = node("Conv", "x", "w", auto_pad="SAME_LOWER")
    for operation, open_ in ((upper, True), (lower, False), (same, True)):
        graph = read(model([operation], inputs, weights=weights), shapes={"x": (1, 3, 8, 6)})
        assert graph.fixed == {"x": (1,) if open_ else (1, 2, 3)}
    graph = read(model([upper], inputs, weights=weights), shapes={"x": (1, 3, 8, 6)}).with_input((1, 3, 7, 9))
    image = randn(1, 3, 7, 9)
    wanted = onnx.reference.ReferenceEvaluator(model([upper], inputs, weights=weights)).run(None, {"x": image})[0]
    np.testing.assert_allclose(graph.compute(x=image)[0], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("operator", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize(("kernel", "stride"), [(2, 2), (2, 3), (1, 2), (2, 1), (3, 1)])
def test_small_windows_that_pad_by_rule_fit_any_size(operator: str, kernel: int, stride: int) -> None:
    operation = node(operator, "x", auto_pad="SAME_UPPER", kernel_shape=[kernel, kernel], strides=[stride, stride])
    graph = read(model([operation], {"x": ["n", 3, "h", "w"]}), shapes={"x": (1, 3, 8, 8)})
    assert graph.fixed == {"x": (1,)}
    for height in range(3, 13):
        image = randn(1, 3, height, height + 1)
        down, across = (same_ceil_pad(size, kernel, stride) for size in image.shape[2:])
        kind = "max" if operator == "MaxPool" else "average"
        padded = Pooling(kind, (kernel, kernel), (stride, stride), (down, across), count_padding=False)
        got = graph.with_input(image.shape).compute(x=image)[0]
        np.testing.assert_allclose(got, padded.compute(image.astype(np.float64)))


def test_an_image_takes_anothers_size() -> None:
    nodes = [
        node("MaxPool", "x", output="half", kernel_shape=[2, 2], strides=[2, 2]),
        node("Shape", "x", output="s"),
        node("Resize", "half", "", "", "s", mode="nearest"),
    ]
    inputs: dict[str, Sequence[Any]] = {"x": ["n", 3, "h", "w"]}
    graph = read(model(nodes, inputs), shapes={"x": (1, 3, 8, 6)})
    assert graph.fixed == {"x": (1,)}
    assert isinstance(graph.nodes[-1].operation, Resize)
    assert graph.with_input((2, 3, 9, 7)).shapes()["y"] == (2, 3, 9, 7)


def _pooled_and_put_back(sizes: Sequence[Any]) -> bytes:
    """A network that squares between pooling and its reverse, and may be told which size to come back to."""
    pool = helper.make_node("MaxPool", ["x"], ["p", "places"], name="pool", kernel_shape=[2, 2], strides=[2, 2])
    shape = [node("Shape", "x", output="size")] if sizes else []
    back = node("MaxUnpool", "q", "places", *["size"] * bool(sizes), kernel_shape=[2, 2], strides=[2, 2])
    return model([pool, node("Mul", "p", "p", output="q"), *shape, back], {"x": sizes or [2, 3, 7, 9]})


def test_what_was_pooled_is_put_back_at_any_size() -> None:
    file = _pooled_and_put_back(["n", 3, "h", "w"])
    graph = read(file, shapes={"x": (2, 3, 7, 9)})
    assert graph.fixed == {"x": (1,)}
    session = pytest.importorskip("onnxruntime").InferenceSession(file, providers=["CPUExecutionProvider"])
    network = Network(graph)
    for shape in ((2, 3, 7, 9), (5, 3, 8, 5)):
        x = randn(*shape)
        (wanted,) = session.run(None, {"x": x})
        assert wanted.shape == shape
        np.testing.assert_allclose(graph.with_input(shape).compute(x=x)[0], wanted, rtol=1e-6)
        np.testing.assert_allclose(network(x)[0], wanted, rtol=1e-6)


def test_pixels_that_are_put_back_into_a_smaller_image_are_refused() -> None:
    with pytest.raises(GraphError, match="makes 6×8 pixels of those of an image of 7×9: it needs an output_shape"):
        read(_pooled_and_put_back([]))


def test_a_grid_of_points_comes_from_the_network() -> None:
    nodes = [node("Tanh", "g", output="points"), node("GridSample", "x", "points", mode="linear", align_corners=1)]
    file = model(nodes, {"x": ["n", 3, 6, 7], "g": ["n", 4, 5, 2]}, opset=20)
    graph = read(file)
    assert 0 not in graph.fixed["x"]
    x, g = randn(3, 3, 6, 7), randn(3, 4, 5, 2, seed=1)
    wanted = F.grid_sample(torch.from_numpy(x), torch.from_numpy(g).tanh(), align_corners=True).numpy()
    resized = graph.with_input({"x": x.shape, "g": g.shape})
    np.testing.assert_allclose(resized.compute(x=x, g=g)[0], wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(Network(graph)(x, g)[0], wanted, rtol=1e-4, atol=1e-5)


def test_slices_to_the_end_stay_to_the_end() -> None:
    nodes = [node("Slice", "x", "starts", "ends", "axes")]
    weights = {"starts": np.array([1, -3]), "ends": np.array([2**63 - 1, 2**31 - 1]), "axes": np.array([2, 3])}
    graph = read(model(nodes, {"x": ["n", 3, "h", "w"]}, weights=weights), shapes={"x": (1, 3, 8, 6)})
    assert [n.operation for n in graph.nodes] == [Slice(2, 1, END), Slice(3, -3, END)]
    assert graph.with_input((1, 3, 20, 30)).shapes()["y"] == (1, 3, 19, 3)
    ends = weights | {"ends": np.array([100, 2**31 - 1])}  # the hundredth row, beyond the image or not
    graph = read(model(nodes, {"x": ["n", 3, "h", "w"]}, weights=ends), shapes={"x": (1, 3, 8, 6)})
    assert graph.fixed == {"x": (1,)}
    assert graph.with_input((1, 3, 200, 6)).shapes()["y"] == (1, 3, 99, 3)


def test_rows_are_images_of_height_one() -> None:
    weights = {"w": randn(4, 3, 5)}
    file = model([node("Conv", "x", "w", pads=[2, 2], strides=[2])], {"x": ["n", 3, "l"]}, weights=weights)
    graph = read(file, shapes={"x": (1, 3, 16)})
    assert graph.fixed == {"x": (1,)}
    x = torch.from_numpy(randn(2, 3, 11))
    wanted = F.conv1d(x, torch.from_numpy(weights["w"]), stride=2, padding=2)
    got = graph.with_input((2, 3, 11)).compute(x=x.numpy())[0]
    np.testing.assert_allclose(got, wanted.numpy(), rtol=1e-4, atol=1e-5)


def test_a_shuffle_says_its_sizes_for_any_batch() -> None:
    nodes = [
        node("Reshape", "x", "split", output="a"),
        node("Transpose", "a", output="b", perm=[0, 2, 1, 3, 4]),
        node("Reshape", "b", "merged"),
    ]
    weights = {"split": np.array([0, 3, 2, 4, 4]), "merged": np.array([0, -1, 4, 4])}
    graph = read(model(nodes, {"x": ["n", 6, 4, 4]}, weights=weights))
    assert graph.nodes[-1].operation == Reshape((0, 6, 4, 4))
    both = read(model([node("Reshape", "x", "flat")], {"x": ["n", 6, 4, 4]}, weights={"flat": np.array([-1, 16])}))
    assert both.nodes[0].operation == Reshape((Axes(0, 2, 1), 16))


# ---------------------------------------------------------------------------------------------------------------------
# The same graph, however it is written
# ---------------------------------------------------------------------------------------------------------------------


def test_weights_keep_their_names_and_memory_and_products_become_linear() -> None:
    weights = {"w": randn(5, 48), "b": randn(5)}
    nodes = [node("Flatten", "x", output="f"), node("Gemm", "f", "w", "b", transB=1)]
    graph = read(model(nodes, {"x": [2, 3, 4, 4]}, weights=weights))
    assert [n.operation.name for n in graph.nodes] == ["Reshape", "Linear"]
    assert set(graph.constants) == {"w", "the Gemm.1"}
    np.testing.assert_array_equal(graph.constants["w"], weights["w"])
    doubled = [node("Flatten", "x", output="f"), node("Gemm", "f", "w", "b", transB=1, alpha=2.0, beta=3.0)]
    x = randn(2, 3, 4, 4)
    (y,) = read(model(doubled, {"x": [2, 3, 4, 4]}, weights=weights)).compute(x=x)
    wanted = 2 * x.reshape(2, -1).astype(np.float64) @ weights["w"].T + 3 * weights["b"]
    np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-5)


def test_other_names_of_inputs_and_constants_may_be_outputs() -> None:
    nodes = [node("Identity", "x", output="same"), node("Relu", "same", output="r"), node("Dropout", "r", output="out")]
    graph = read(model(nodes, {"x": [2, 3]}, ["same", "out", "c"], {"c": randn(4)}))
    assert graph.outputs == ("same", "out", "c")
    x = randn(2, 3)
    same, out, c = graph.compute(x=x)
    np.testing.assert_array_equal(same, x)
    np.testing.assert_array_equal(out, np.maximum(x, 0))
    assert c.shape == (4,)


def test_half_precision_weights_are_computed_with_in_float32() -> None:
    bfloat16 = helper.make_tensor("b", TensorProto.BFLOAT16, [3, 1], [1.5, -2.0, 0.25])
    nodes = [node("Mul", "x", "h", output="m"), node("Add", "m", "b")]
    made = onnx.load_model_from_string(model(nodes, {"x": [3, 4]}, weights={"h": randn(3, 4).astype(np.float16)}))
    made.graph.initializer.append(bfloat16)
    graph = read(made.SerializeToString())
    assert {array.dtype for array in graph.constants.values()} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(graph.constants["b"], np.array([[1.5], [-2.0], [0.25]], np.float32))


def test_a_branch_that_is_known_takes_the_place_of_the_condition() -> None:
    """As PyTorch writes a squeeze of an axis that may be of size 1."""

    def branch(operator: str) -> Any:
        made = helper.make_node(operator, ["a"], [f"of {operator}"])
        return helper.make_graph([made], operator, [], [helper.make_tensor_value_info(made.output[0], 1, None)])

    choice = helper.make_node("If", ["is"], ["c"], then_branch=branch("Neg"), else_branch=branch("Relu"))
    nodes = [
        node("Abs", "x", output="a"),
        node("Shape", "a", output="s"),
        node("Gather", "s", "one", output="n"),
        node("Equal", "n", "three", output="is"),
        choice,
        node("Exp", "c"),
    ]
    weights = {"one": np.int64(1), "three": np.int64(3)}
    for channels, name in ((3, "neg"), (4, "relu")):
        graph = read(model(nodes, {"x": ["n", channels]}, weights=weights))
        assert [n.operation.name for n in graph.nodes] == ["abs", name, "exp"]
        assert graph.fixed == {"x": (1,)}
    free = model([node("Abs", "x", output="a"), node("Greater", "a", "one", output="is"), *nodes[4:]], weights=weights)
    with pytest.raises(GraphError, match="the condition from the network's inputs"):
        read(free)


def test_pixels_of_eight_bits_are_cast_first() -> None:
    def file(first: Any) -> bytes:
        made = onnx.load_model_from_string(model([first, node("Sqrt", "f")], {"x": [2, 3]}))
        made.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
        content: bytes = made.SerializeToString()
        return content

    graph = read(file(node("Cast", "x", output="f", to=TensorProto.FLOAT)))
    assert [n.operation.name for n in graph.nodes] == ["sqrt"]
    np.testing.assert_array_equal(graph.compute(x=np.array([[0, 1, 4], [9, 16, 225]], np.uint8))[0][1], [3, 4, 15])
    with pytest.raises(GraphError, match=r"'the Identity' .* reads the whole numbers of 'x'"):
        read(file(node("Identity", "x", output="f")))
    with pytest.raises(GraphError, match="makes int32 of what"):
        read(file(node("Cast", "x", output="f", to=TensorProto.INT32)))


def test_functions_in_the_file_are_written_out() -> None:
    body = [helper.make_node("Relu", ["a"], ["b"]), helper.make_node("Neg", ["b"], ["c"])]
    function = helper.make_function("mine", "Minus", ["a"], ["c"], body, [helper.make_opsetid("", 18)])
    graph = helper.make_graph(
        [helper.make_node("Minus", ["x"], ["y"], domain="mine")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 3])],
    )
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("mine", 1)]
    made = helper.make_model(graph, opset_imports=imports, functions=[function])
    x = randn(2, 3)
    np.testing.assert_array_equal(read(made.SerializeToString()).compute(x=x)[0], -np.maximum(x, 0))


def test_older_operators_say_the_same_in_attributes() -> None:
    runtime = pytest.importorskip("onnxruntime")
    x = randn(2, 3, 8, 8)
    old: list[tuple[int, list[Any]]] = [
        (9, [node("Upsample", "x", "scales", output="u", mode="nearest"), node("Softmax", "u")]),
        (10, [node("Clip", "x", output="c", min=-0.5, max=0.5), node("Squeeze", "c1")]),
        (7, [node("Pad", "x", output="p", pads=[0, 0, 1, 2, 0, 0, 0, 1], value=2.0), node("Dropout", "p", ratio=0.4)]),
        (9, [node("Slice", "x", output="s", starts=[1], ends=[-1], axes=[2]), node("ReduceSum", "s", axes=[1])]),
        (11, [node("Unsqueeze", "x", output="u", axes=[0, 5]), node("Squeeze", "u", axes=[0, 5])]),
    ]
    old[1][1][1] = node("Identity", "c")
    for opset, nodes in old:
        file = model(nodes, opset=opset, weights={"scales": np.array([1, 1, 2, 2], np.float32)})
        session = runtime.InferenceSession(file, providers=["CPUExecutionProvider"])
        (wanted,) = session.run(None, {"x": x})
        np.testing.assert_allclose(read(file).compute(x=x)[0], wanted, rtol=1e-4, atol=1e-6)


# ---------------------------------------------------------------------------------------------------------------------
# What is not known is named
# ---------------------------------------------------------------------------------------------------------------------

UNKNOWN: dict[str, tuple[bytes, str]] = {
    "operator": (model([node("DeformConv", "x", "x")]), r"the node 'the DeformConv' \(DeformConv\) is an operator"),
    "of another domain": (
        model([helper.make_node("Gelu", ["x"], ["y"], name="fast", domain="com.microsoft")]),
        r"the node 'fast' \(Gelu\) is an operator of 'com.microsoft'",
    ),
    "attribute": (model([node("Relu", "x", slope=2.0)]), "the node 'the Relu' .* has the attribute 'slope'"),
    "an attribute of another type": (model([node("LeakyRelu", "x", alpha="a")]), "another kind of attribute 'alpha'"),
    "mode": (model([node("Pad", "x", "p", mode="spiral")], weights={"p": np.zeros(8, int)}), "the mode 'spiral'"),
    "axes": (model([node("Conv", "x", "w")], {"x": [1, 3, 4, 4, 4]}, weights={"w": randn(4, 3, 2, 2, 2)}), "over 3 ax"),
    "an input that is missing": (model([node("Conv", "x")]), "needs 2 inputs"),
    "a value that nothing makes": (model([node("Add", "x", "z")]), "reads 'z', which nothing before it makes"),
    "an output that nothing makes": (model([node("Relu", "x", output="z")]), "output 'y' is made by no node"),
    "an output that is not computed": (
        model([helper.make_node("Relu", ["x"], ["y", "where"])], outputs=["where"]),
        "output 'where' is output 1 of the node 'y' .Relu., which is not computed here",
    ),
    "a cycle": (model([node("Add", "x", "b", output="a"), node("Relu", "a", output="b")]), "reads 'b', which nothing"),
    "a name twice": (model([node("Relu", "x"), node("Neg", "x")]), "makes 'y', which there is already"),
    "no outputs": (model([node("Relu", "x")], outputs=[]), "the file has no outputs"),
    "channels that do not match": (model([node("Conv", "x", "w")], weights={"w": randn(4, 5, 3, 3)}), "takes 5 ch"),
    "a kernel that does not fit": (model([node("MaxPool", "x", kernel_shape=[9, 9])]), "does not fit a 8×8 input"),
    "a kernel that contradicts": (
        model([node("Conv", "x", "w", kernel_shape=[5, 5])], weights={"w": randn(4, 3, 3, 3)}),
        "says that its kernel is",
    ),
    "stride 0": (model([node("Conv", "x", "w", strides=[0, 1])], weights={"w": randn(4, 3, 3, 3)}), "stride must"),
    "a pooling of nothing": (model([node("MaxPool", "x", kernel_shape=[0, 1])]), "at least 1"),
    "groups that do not divide": (
        model([node("Conv", "x", "w", group=2)], weights={"w": randn(5, 3, 3, 3)}), "cannot be split|takes 6 channels"
    ),
    "integers at run time": (
        model([node("Cast", "x", to=TensorProto.INT64)]), "makes int64 of what the network computes"
    ),
    "training": (model([node("BatchNormalization", *"xwwww", training_mode=1)], weights={"w": randn(3)}), "train"),
    "sizes at run time": (model([node("Reshape", "x", "s")], {"x": [2, 3], "s": [2]}), "takes sizes from"),
    "sizes that do not fit": (model([node("Reshape", "x", "s")], weights={"s": np.array([7, -1])}), "cannot make"),
    "an axis that is not there": (model([node("Softmax", "x", axis=4)]), "has axis 4, and its input has 4 axes"),
    "version": (model([node("Relu", "x")], opset=5), "operators of version 5"),
    "a version to come": (model([node("Relu", "x")], opset=999), "operators of version 999, newer than"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_not_known_is_named(name: str) -> None:
    file, words = UNKNOWN[name]
    with pytest.raises(GraphError, match=words) as raised:
        read(file)
    assert isinstance(raised.value, UserError)
    assert str(raised.value).count("\n") == 0
    assert str(raised.value).endswith(".")


def test_inputs_that_are_no_floating_point_tensors_are_named() -> None:
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, [1, 5])
    text = helper.make_tensor_value_info("text", TensorProto.STRING, [1])
    sequence = helper.make_tensor_sequence_value_info("images", TensorProto.FLOAT, None)
    shapeless = helper.make_tensor_value_info("x", TensorProto.FLOAT, None)
    for value, words in (
        (ids, "'ids' is int64, .* known={'ids'"),
        (text, "'text' is string"),
        (sequence, "'images' is no tensor"),
        (shapeless, "does not say what shape the input 'x' has"),
    ):
        graph = helper.make_graph([helper.make_node("Identity", [value.name], ["y"])], "g", [value], [shapeless])
        with pytest.raises(GraphError, match=words):
            read(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]).SerializeToString())


# ---------------------------------------------------------------------------------------------------------------------
# Files that mean harm
# ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def cheap() -> Iterator[None]:
    """A second and 64 MB are plenty for a file of a few kilobytes."""
    tracemalloc.start()
    begin = time.perf_counter()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64e6
    assert time.perf_counter() - begin < 60  # far from minutes or hours, and no measurement


SOUND = model(
    [
        node("Conv", "x", "w", output="a", pads=[1, 1, 1, 1], strides=[2, 2]),
        node("Resize", "a", "", "scales", output="r", mode="linear"),
        node("MaxPool", "r", output="p", kernel_shape=[2, 2], strides=[2, 2]),
        node("Shape", "p", output="s"),
        node("Gather", "s", "zero", output="n"),
        node("Concat", "n", "rest", output="t", axis=0),
        node("Reshape", "p", "t", output="f"),
        node("Gemm", "f", "g", output="h", transB=1),
        node("Softmax", "h"),
    ],
    {"x": ["n", 3, 8, 8]},
    weights={
        "w": randn(4, 3, 3, 3),
        "scales": np.array([1, 1, 2, 2], np.float32),
        "zero": np.array([0]),
        "rest": np.array([-1]),
        "g": randn(5, 64),
    },
)


def _said(file: bytes) -> str:
    """The sentence with which a file is refused, or nothing where it is read."""
    try:
        read(file)
    except GraphError as error:
        return str(error)
    return ""


@pytest.mark.usefixtures("cheap")
def test_truncated_files() -> None:
    read(SOUND)
    for length in (*range(60), *range(60, len(SOUND), 7)):
        assert _said(SOUND[:length])[-1:] in ".", length


@pytest.mark.usefixtures("cheap")
def test_files_with_bits_turned() -> None:
    random = np.random.default_rng(0)
    for _ in range(800):
        content = bytearray(SOUND)
        for at in random.integers(len(content), size=random.integers(1, 4)):
            content[at] = random.integers(256)
        assert _said(bytes(content))[-1:] in "."


def _chain(operator: str, times: int) -> list[Any]:
    nodes = [node(operator, "c", "c", output="v0", **({"axis": 0} if operator == "Concat" else {}))]
    for i in range(times):
        nodes.append(
            node(operator, f"v{i}", f"v{i}", output=f"v{i + 1}", **({"axis": 0} if operator == "Concat" else {}))
        )
    return [*nodes, node("Add", "x", f"v{times}")]


HUGE = {"x": [1, 3, 2**30, 2**30]}
HARMFUL: dict[str, tuple[bytes, str]] = {
    "a huge input": (model([node("Relu", "x")], HUGE), "would make a tensor of shape"),
    "many axes": (model([node("Relu", "x")], {"x": [1] * 200}), "would make a tensor of shape"),
    "a huge axis": (model([node("Relu", "x")], {"x": [2**40]}), "size 1099511627776 along axis 0"),
    "padding below zero": (model([node("MaxPool", "x", kernel_shape=[2, 2], pads=[-1, 0, 0, 0])]), "below 0"),
    "a huge padding": (
        model([node("Pad", "x", "p")], weights={"p": np.array([0, 0, 2**40, 2**40, 0, 0, 0, 0])}),
        "would make a tensor of shape",
    ),
    "a huge resize": (
        model([node("Resize", "x", "", "s")], weights={"s": np.array([1, 1, 1e9, 1e9], np.float32)}),
        "would make a tensor of shape",
    ),
    "a scale of infinity": (
        model([node("Resize", "x", "", "s")], weights={"s": np.array([1, 1, np.inf, np.nan], np.float32)}),
        "has the scales",
    ),
    "a huge tile": (model([node("Tile", "x", "t")], weights={"t": np.full(4, 10**6)}), "cannot broadcast"),
    "a huge constant": (
        model(
            [node("ConstantOfShape", "s", output="c"), node("Mul", "c", "c", output="d"), node("Add", "x", "d")],
            weights={"s": np.full(4, 2**15)},
        ),
        "far more numbers than the file holds",
    ),
    "a huge constant that is used as it is": (
        model([node("ConstantOfShape", "s", output="c"), node("Add", "x", "c")], weights={"s": np.full(4, 2**15)}),
        "far more than the file holds",
    ),
    "a huge sum of a constant": (
        model(
            [node("ConstantOfShape", "s", output="c"), node("ReduceSum", "c", output="d"), node("Add", "x", "d")],
            weights={"s": np.full(4, 2**15)},
        ),
        "far more numbers than the file holds",
    ),
    "a huge range": (
        model(
            [node("Range", "a", "b", "d", output="c"), node("Add", "x", "c")],
            weights={"a": np.int64(0), "b": np.int64(2**60), "d": np.int64(1)},
        ),
        "far more numbers than the file holds",
    ),
    "doubled over and over": (model(_chain("Concat", 60), weights={"c": randn(64)}), "far more numbers"),
    "many huge constants": (
        model(
            [node("ConstantOfShape", "s", output="c"), *_chain("Add", 60)],
            weights={"s": np.array([2**13, 2**13])},
        ),
        "far more numbers than the file holds",
    ),
    "huge normalisation": (
        model([node("LRN", "x", size=2**62)]), "is over 4611686018427387904 channels"
    ),
    "a division by zero": (
        model([node("Div", "a", "b", output="c"), node("Add", "x", "c")], weights={"a": np.int64(1), "b": np.int64(0)}),
        "divides by zero",
    ),
    "an alpha of zero": (model([node("Celu", "x", alpha=0.0)]), "alpha=0, by which it divides"),
    "huge groups": (model([node("GroupNormalization", "x", "s", "s", num_groups=2**60)], weights={"s": randn(3)}), "."),
    "a block of zero": (model([node("DepthToSpace", "x", blocksize=0)]), "blocks of 0"),
    "a huge block": (model([node("DepthToSpace", "x", blocksize=2**31)]), "cannot split"),
    "rows out of order": (
        model([node("Gather", "x", "i")], weights={"i": np.zeros(100_000, int)}), "up to 1024 are known"
    ),
}  # fmt: skip


@pytest.mark.usefixtures("cheap")
@pytest.mark.parametrize("name", HARMFUL)
def test_absurd_numbers_are_refused_without_taking_memory(name: str) -> None:
    file, words = HARMFUL[name]
    with pytest.raises(GraphError, match=words):
        read(file)


def _with_weights(**fields: Any) -> bytes:
    made = onnx.load_model_from_string(model([node("Add", "x", "c")], {"x": [2, 3]}))
    tensor = made.graph.initializer.add()
    tensor.name = "c"
    for name, value in fields.items():
        if isinstance(value, list):
            getattr(tensor, name).extend(value)
        else:
            setattr(tensor, name, value)
    content: bytes = made.SerializeToString()
    return content


@pytest.mark.usefixtures("cheap")
@pytest.mark.parametrize(
    ("file", "words"),
    [
        (_with_weights(dims=[2**40, 2**20], data_type=1, raw_data=b"1234"), "which no tensor has"),
        (_with_weights(dims=[2**30, 2**30], data_type=1, raw_data=b"1234"), "bytes, not 4"),
        (_with_weights(dims=[-1], data_type=1, raw_data=b"1234"), "which no tensor has"),
        (_with_weights(dims=[1] * 65, data_type=1, raw_data=b"1234"), "which no tensor has"),
        (_with_weights(dims=[3], data_type=1, raw_data=b"1234"), "need 12 bytes, not 4"),
        (_with_weights(dims=[3], data_type=1, float_data=[1.0]), "need 3 numbers, not 1"),
        (_with_weights(dims=[1], data_type=2, int32_data=[300]), "too large for uint8"),
        (_with_weights(dims=[2], data_type=8, string_data=[b"a", b"b"]), "'c' are string, and only numbers"),
        (_with_weights(dims=[2], data_type=77), "unknown data type 77"),
        (_with_weights(dims=[2], data_type=14, float_data=[1.0] * 4), "complex64"),
        (_with_weights(dims=[1], data_type=1, data_location=1), "lie in another file"),
    ],
    ids=str,
)
def test_weights_that_contradict_themselves(file: bytes, words: str) -> None:
    with pytest.raises(GraphError, match=words):
        read(file)


def external(location: str, offset: int | str = 0, length: int | str | None = None) -> bytes:
    made = onnx.load_model_from_string(_with_weights(dims=[3], data_type=1, data_location=1))
    entries = {"location": location, "offset": str(offset)} | ({} if length is None else {"length": str(length)})
    for key, value in entries.items():
        entry = made.graph.initializer[0].external_data.add()
        entry.key, entry.value = key, value
    content: bytes = made.SerializeToString()
    return content


def test_weights_in_another_file_of_the_folder_are_mapped(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    numbers = randn(4)
    (tmp_path / "below" / "weights.bin").write_bytes(numbers.tobytes())
    (tmp_path / "m.onnx").write_bytes(external("below/weights.bin", 4, 12))
    graph = read(tmp_path / "m.onnx")
    np.testing.assert_array_equal(graph.constants["c"], numbers[1:])
    assert in_file(graph.constants["c"])


@pytest.mark.parametrize(
    ("location", "offset", "length", "words"),
    [
        ("../secret", 0, None, "outside the file's own folder"),
        ("below/../../secret", 0, None, "outside the file's own folder"),
        ("{outside}", 0, None, "outside the file's own folder"),
        ("link", 0, None, "outside the file's own folder"),
        ("", 0, None, "is not a file|outside"),
        (".", 0, None, "is not a file"),
        ("pipe", 0, None, "is not a file"),
        ("missing", 0, None, "cannot be found"),
        ("short", 0, None, "do not lie inside it"),
        ("long", -4, None, "do not lie inside it"),
        ("long", 2**62, None, "do not lie inside it"),
        ("long", 0, 2**62, "do not lie inside it"),
        ("long", "here", None, "a place that is no number"),
        ("lo\0ng", 0, None, "cannot be found"),
    ],
)
def test_weights_elsewhere(tmp_path: Path, location: str, offset: Any, length: Any, words: str) -> None:
    folder = tmp_path / "models"
    (folder / "below").mkdir(parents=True)
    (tmp_path / "secret").write_bytes(bytes(64))
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "short").write_bytes(bytes(4))
    (folder / "long").write_bytes(bytes(64))
    os.mkfifo(folder / "pipe")
    (folder / "m.onnx").write_bytes(external(location.replace("{outside}", str(tmp_path / "secret")), offset, length))
    with pytest.raises(GraphError, match=words):
        read(folder / "m.onnx")


def test_files_that_are_not_there_or_of_another_kind(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)))
    for name, words in (("nowhere.onnx", "cannot be read"), ("pipe", "is not a file"), ("picture.png", "ONNX file")):
        with pytest.raises(GraphError, match=words):
            read(tmp_path / name)
    with pytest.raises(GraphError, match="is not a file"):
        read(tmp_path)
    with pytest.raises(GraphError, match=r"version 0|no network"):
        read(b"")


def _functions(bodies: dict[str, list[str]], call: str) -> bytes:
    """Functions of one input that call others, one after the other."""
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("mine", 1)]
    functions = []
    for name, calls in bodies.items():
        nodes = [
            helper.make_node(c, [f"v{i}"], [f"v{i + 1}"], domain="" if c == "Relu" else "mine")
            for i, c in enumerate(calls)
        ]
        functions.append(helper.make_function("mine", name, ["v0"], [f"v{len(calls)}"], nodes, imports))
    graph = helper.make_graph(
        [helper.make_node(call, ["x"], ["y"], domain="mine")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
    )
    content: bytes = helper.make_model(graph, opset_imports=imports, functions=functions).SerializeToString()
    return content


@pytest.mark.usefixtures("cheap")
def test_functions_that_grow_without_bound() -> None:
    laughs = {f"f{i}": [f"f{i + 1}"] * 10 for i in range(30)} | {"f30": ["Relu"]}
    with pytest.raises(GraphError, match="more than the 50,000 nodes"):
        read(_functions(laughs, "f0"))
    with pytest.raises(GraphError, match="100 deep"):
        read(_functions({"f": ["f"]}, "f"))
    with pytest.raises(GraphError, match="100 deep"):
        read(_functions({f"f{i}": [f"f{i + 1}"] for i in range(3000)} | {"f3000": ["Relu"]}, "f0"))


def test_a_graph_is_a_graph() -> None:
    graph: Graph = read(SOUND)
    graph.check()
    assert graph.with_input((3, 3, 8, 8)).shapes()[graph.outputs[0]] == (3, 5)
