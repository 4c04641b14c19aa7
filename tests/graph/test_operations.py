"""Every operation means what torch means by it, in float64, and its shape is that of what it computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from convforge import Conv2dSpec
from convforge.graph.nodes import (
    AdaptivePooling,
    Axes,
    BatchNorm,
    Binary,
    Compare,
    Concat,
    Convolution,
    Expand,
    GraphError,
    GridSample,
    GroupNorm,
    LayerNorm,
    Linear,
    LocalResponseNorm,
    MatMul,
    Operation,
    Pad,
    Pooling,
    PoolingPlaces,
    PRelu,
    Reduce,
    Reshape,
    Resize,
    Slice,
    Softmax,
    Take,
    Transpose,
    TransposedConvolution,
    Unary,
    Unpooling,
    Where,
)
from convforge.graph.operations.sampling import BEYOND, MODES

IMAGE = (2, 6, 7, 9)
_SPEC = Conv2dSpec(6, 4, (3, 2), stride=(2, 1), padding=((1, 1), (2, 2)), dilation=(1, 2), groups=2)
_UP = Conv2dSpec(4, 6, (3, 4), stride=(2, 3), padding=1, dilation=(2, 1), groups=2)
_RELU6 = Unary("relu6")


def _finished(x: Tensor, w: Tensor, b: Tensor, r: Tensor) -> Tensor:
    return F.relu6(F.conv2d(x, w, b, (2, 1), (1, 2), (1, 2), 2) + r)


def _transposed(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return F.silu(F.conv_transpose2d(x, w, b, (2, 3), 1, (1, 2), 2, (2, 1)))


def _ceil(x: Tensor, **settings: Any) -> Tensor:
    return F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, **settings)


def _pool(kind: str, kernel: Any, stride: Any, pad: int = 0, **settings: Any) -> Pooling:
    return Pooling(kind, kernel, stride, ((pad, pad), (pad, pad)), **settings)


def _places(x: Tensor, *windows: Any, **settings: Any) -> Tensor:
    return F.max_pool2d(x, *windows, **settings, return_indices=True)[1]


def _up(**settings: Any) -> Callable[[Tensor], Tensor]:
    return lambda x: F.interpolate(x, **settings)


CASES: list[tuple[Operation, Callable[..., Tensor], list[tuple[int, ...]]]] = [
    (Convolution(_SPEC), lambda x, w: F.conv2d(x, w, None, (2, 1), (1, 2), (1, 2), 2), [IMAGE, (4, 3, 3, 2)]),
    (Convolution(_SPEC, True, True, _RELU6), _finished, [IMAGE, (4, 3, 3, 2), (4,), (2, 4, 4, 11)]),
    (TransposedConvolution(_UP, (1, 2), True, Unary("silu")), _transposed, [IMAGE, (6, 2, 3, 4), (4,)]),
    (Linear(True, Unary("tanh")), lambda x, w, b: torch.tanh(F.linear(x, w, b)), [(2, 3, 5), (4, 5), (4,)]),
    (Linear(), F.linear, [(5,), (4, 5)]),
    (MatMul(), torch.matmul, [(2, 1, 3, 5), (4, 5, 6)]),
    (_pool("max", (3, 2), (2, 1), 1), lambda x: F.max_pool2d(x, (3, 2), (2, 1), 1), [IMAGE]),
    (_pool("max", (2, 2), (2, 2), dilation=(2, 1)), lambda x: F.max_pool2d(x, 2, 2, dilation=(2, 1)), [IMAGE]),
    (_pool("max", (3, 3), (2, 2), ceil=True), lambda x: F.max_pool2d(x, 3, 2, ceil_mode=True), [(1, 2, 8, 7)]),
    (_pool("max", (2, 2), (4, 4), 1, ceil=True), lambda x: F.max_pool2d(x, 2, 4, 1, ceil_mode=True), [IMAGE]),
    (_pool("average", (3, 3), (2, 2), 1), lambda x: F.avg_pool2d(x, 3, 2, 1), [IMAGE]),
    (_pool("average", (3, 3), (2, 2), 1, ceil=True), _ceil, [(1, 2, 8, 6)]),
    (
        _pool("average", (3, 3), (2, 2), 1, ceil=True, count_padding=False),
        lambda x: _ceil(x, count_include_pad=False),
        [(1, 2, 8, 6)],
    ),
    (PoolingPlaces(_pool("max", (3, 2), (2, 1), 1)), lambda x: _places(x, (3, 2), (2, 1), 1), [IMAGE]),
    (
        PoolingPlaces(_pool("max", (3, 3), (2, 2), ceil=True)),
        lambda x: _places(x, 3, 2, ceil_mode=True),
        [(1, 2, 8, 7)],
    ),
    (
        PoolingPlaces(_pool("max", (2, 2), (2, 2), dilation=(2, 1))),
        lambda x: _places(x, 2, 2, dilation=(2, 1)),
        [IMAGE],
    ),
    (Unpooling((5, 7)), lambda x, p: torch.ops.aten.max_unpool2d(x, p.long(), (5, 7)), [IMAGE, IMAGE]),
    (
        Unpooling(like=True),
        lambda x, p, like: torch.ops.aten.max_unpool2d(x, p.long(), like.shape[2:]),
        [IMAGE, IMAGE, (1, 3, 8, 5)],
    ),
    (AdaptivePooling("average", (3, 4)), lambda x: F.adaptive_avg_pool2d(x, (3, 4)), [IMAGE]),
    (AdaptivePooling("max", (3, 12)), lambda x: F.adaptive_max_pool2d(x, (3, 12)), [IMAGE]),
    (Reduce("mean", (2, -1)), lambda x: x.mean((2, 3), keepdim=True), [IMAGE]),
    (Reduce("sum", (1,), keep=False), lambda x: x.sum(1), [IMAGE]),
    (Reduce("max", (0, 3), keep=False), lambda x: x.amax((0, 3)), [IMAGE]),
    (Reduce("min", (2,)), lambda x: x.amin(2, keepdim=True), [IMAGE]),
    (Reduce("prod", (2,)), lambda x: x.prod(2, keepdim=True), [IMAGE]),
    (Binary("add"), torch.add, [IMAGE, (6, 1, 1)]),
    (Binary("sub"), torch.sub, [(6, 1, 1), IMAGE]),
    (Binary("mul"), torch.mul, [IMAGE, (2, 6, 1, 1)]),
    (Binary("div"), torch.div, [IMAGE, ()]),
    (Binary("max"), torch.maximum, [IMAGE, IMAGE]),
    (Binary("min"), torch.minimum, [IMAGE, IMAGE]),
    (Compare("equal"), lambda x, y: (x == y).double(), [IMAGE, (6, 1, 1)]),
    (Compare("not_equal"), lambda x, y: (x != y).double(), [IMAGE, (6, 1, 1)]),
    (Compare("less"), lambda x, y: (x < y).double(), [IMAGE, (6, 1, 1)]),
    (Compare("less_equal"), lambda x, y: (x <= y).double(), [IMAGE, (6, 1, 1)]),
    (Compare("greater"), lambda x, y: (x > y).double(), [IMAGE, (6, 1, 1)]),
    (Compare("greater_equal"), lambda x, y: (x >= y).double(), [IMAGE, (6, 1, 1)]),
    (Where(), lambda c, x, y: torch.where(c != 0, x, y), [(6, 1, 9), IMAGE, (2, 1, 7, 1)]),
    (PRelu(), lambda x, slope: F.prelu(x, slope.reshape(-1)), [IMAGE, (6, 1, 1)]),
    (Softmax(1), lambda x: F.softmax(x, 1), [IMAGE]),
    (Softmax(-1, log=True), lambda x: F.log_softmax(x, -1), [IMAGE]),
    (
        BatchNorm(1e-3),
        lambda x, s, t, m, v: F.batch_norm(x, m, v.abs(), s, t, eps=1e-3),
        [IMAGE, (6,), (6,), (6,), (6,)],
    ),
    (LayerNorm(2, 1e-3), lambda x, s, t: F.layer_norm(x, (7, 9), s, t, 1e-3), [IMAGE, (7, 9), (7, 9)]),
    (GroupNorm(3), lambda x, s, t: F.group_norm(x, 3, s, t), [IMAGE, (6,), (6,)]),
    (GroupNorm(6), lambda x, s, t: F.instance_norm(x, weight=s, bias=t), [IMAGE, (6,), (6,)]),
    (LocalResponseNorm(3, 0.1, 0.6, 2.0), lambda x: F.local_response_norm(x, 3, 0.1, 0.6, 2.0), [IMAGE]),
    (Concat(-3), lambda *x: torch.cat(x, 1), [IMAGE, (2, 1, 7, 9), IMAGE]),
    (Slice(1, 1, -1, 2), lambda x: x[:, 1:-1:2], [IMAGE]),
    (Slice(-1, 4), lambda x: x[..., 4:], [IMAGE]),
    (Slice(2, -1, -100, -2), lambda x: x.flip(2)[:, :, ::2], [IMAGE]),
    (Pad(((0, 0), (0, 0), (1, 2), (3, 0)), value=2.5), lambda x: F.pad(x, (3, 0, 1, 2), value=2.5), [IMAGE]),
    (Pad(((0, 0), (0, 0), (1, 2), (3, 0)), "reflect"), lambda x: F.pad(x, (3, 0, 1, 2), "reflect"), [IMAGE]),
    (Pad(((0, 0), (0, 0), (1, 2), (3, 0)), "edge"), lambda x: F.pad(x, (3, 0, 1, 2), "replicate"), [IMAGE]),
    (Pad(((0, 0), (0, 0), (1, 2), (3, 0)), "wrap"), lambda x: F.pad(x, (3, 0, 1, 2), "circular"), [IMAGE]),
    (Take(1), lambda x, rows: x[:, rows.long()], [IMAGE, (2, 3)]),
    (Reshape((0, 3, -1, Axes(2, 4))), lambda x: x.reshape(2, 3, 2, 63), [IMAGE]),
    (Reshape((Axes(0, 2, over=4), 4, -1)), lambda x: x.reshape(3, 4, 63), [IMAGE]),
    (Transpose((0, 2, 3, 1)), lambda x: x.permute(0, 2, 3, 1), [IMAGE]),
    (Expand((3, 2, 1, 4, 1)), lambda x: x.expand(3, 2, 6, 4, 9), [(2, 6, 1, 9)]),
    (Resize((5, 20)), _up(size=(5, 20)), [IMAGE]),
    (Resize(scales=(2.0, 1.5)), _up(scale_factor=(2.0, 1.5)), [IMAGE]),
    (
        Resize((5, 20), None, "nearest", "half_pixel", "round_prefer_ceil"),
        _up(size=(5, 20), mode="nearest-exact"),
        [IMAGE],
    ),
    (Resize((5, 20), None, "bilinear", "half_pixel"), _up(size=(5, 20), mode="bilinear"), [IMAGE]),
    (Resize((5, 20), None, "bicubic", "half_pixel"), _up(size=(5, 20), mode="bicubic"), [IMAGE]),
    (
        Resize((5, 20), None, "bicubic", "align_corners"),
        _up(size=(5, 20), mode="bicubic", align_corners=True),
        [IMAGE],
    ),
    (
        Resize(None, (2.0, 1.3), "bilinear", "half_pixel"),
        _up(scale_factor=(2.0, 1.3), mode="bilinear"),
        [IMAGE],
    ),
    (
        Resize((1, 20), None, "bilinear", "align_corners"),
        _up(size=(1, 20), mode="bilinear", align_corners=True),
        [IMAGE],
    ),
    (
        Resize(mode="bilinear", coordinates="half_pixel", like=True),
        lambda x, like: F.interpolate(x, like.shape[2:], mode="bilinear"),
        [IMAGE, (1, 3, 11, 12)],
    ),
    *(
        (
            Resize(size, **how, antialias=True, inside=True, cubic=-0.5),
            _up(size=size, mode=how["mode"], antialias=True),
            [IMAGE],
        )
        for size in ((3, 4), (10, 2), (7, 9))
        for how in ({"mode": "bilinear", "coordinates": "half_pixel"}, {"mode": "bicubic", "coordinates": "half_pixel"})
    ),
    (
        Resize(scales=(0.4, 0.6), mode="bilinear", coordinates="half_pixel", antialias=True, inside=True),
        _up(scale_factor=(0.4, 0.6), mode="bilinear", antialias=True),
        [IMAGE],
    ),
    *(
        (
            GridSample(mode, beyond, align_corners),
            lambda x, grid, how=(mode, beyond, align_corners): F.grid_sample(x, grid, *how),
            [IMAGE, (2, 5, 6, 2)],
        )
        for mode in MODES
        for beyond in BEYOND
        for align_corners in (False, True)
    ),
]


@pytest.mark.parametrize(("operation", "torchs", "shapes"), CASES, ids=lambda case: getattr(case, "name", ""))
def test_means_what_torch_means(
    operation: Operation, torchs: Callable[..., Tensor], shapes: list[tuple[int, ...]]
) -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shape) * 2 for shape in shapes]
    if isinstance(operation, BatchNorm):
        arrays[4] = np.abs(arrays[4])
    if isinstance(operation, Take):
        arrays[1] = np.array([[0, 5, -1], [2, 2, -6]])
    if isinstance(operation, Unpooling):  # several at a place among them
        arrays[1] = rng.integers(0, 35, shapes[1])
    made = operation.compute(*arrays)
    expected = torchs(*(torch.from_numpy(np.array(array)) for array in arrays)).numpy()
    np.testing.assert_allclose(made, expected, rtol=1e-12, atol=1e-13)
    assert operation.shape(*shapes) == made.shape
    assert made.dtype == np.float64


FUNCTIONS: list[tuple[Unary, Callable[[Tensor], Tensor]]] = [
    (Unary("identity"), lambda x: x),
    (Unary("relu"), F.relu),
    (Unary("relu6"), F.relu6),
    (Unary("clip", (-1, 2)), lambda x: x.clamp(-1, 2)),
    (Unary("sigmoid"), torch.sigmoid),
    (Unary("log_sigmoid"), F.logsigmoid),
    (Unary("hardsigmoid"), F.hardsigmoid),
    (Unary("hardsigmoid", (0.2, 0.4)), lambda x: (0.2 * x + 0.4).clamp(0, 1)),
    (Unary("hardswish"), F.hardswish),
    (Unary("silu"), F.silu),
    (Unary("gelu"), F.gelu),
    (Unary("gelu_tanh"), lambda x: F.gelu(x, approximate="tanh")),
    (Unary("leaky_relu", (0.2,)), lambda x: F.leaky_relu(x, 0.2)),
    (Unary("elu", (1.5,)), lambda x: F.elu(x, 1.5)),
    (Unary("mish"), F.mish),
    (Unary("softplus", (2.0,)), lambda x: F.softplus(x, 2.0, 400.0)),
    (Unary("softsign"), F.softsign),
    (Unary("tanh"), torch.tanh),
    (Unary("exp"), torch.exp),
    (Unary("square"), torch.square),
    (Unary("neg"), torch.neg),
    (Unary("abs"), torch.abs),
    (Unary("reciprocal"), torch.reciprocal),
    (Unary("erf"), torch.erf),
    (Unary("sin"), torch.sin),
    (Unary("cos"), torch.cos),
    (Unary("sign"), torch.sign),
    (Unary("floor"), torch.floor),
    (Unary("ceil"), torch.ceil),
    (Unary("round"), torch.round),
]


@pytest.mark.parametrize(("function", "torchs"), FUNCTIONS, ids=lambda case: getattr(case, "name", ""))
def test_functions_are_torchs(function: Unary, torchs: Callable[[Tensor], Tensor]) -> None:
    x = np.concatenate([np.linspace(-9, 9, 144), [-200.0, 200.0, 0.5, 1.5, -0.5]])
    np.testing.assert_allclose(function.compute(x), torchs(torch.from_numpy(x)).numpy(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kind", ["log", "sqrt", "rsqrt"])
def test_functions_of_positive_numbers_are_torchs(kind: str) -> None:
    x = np.linspace(0.1, 9, 50)
    np.testing.assert_allclose(Unary(kind).compute(x), getattr(torch, kind)(torch.from_numpy(x)).numpy(), rtol=1e-13)


def test_powers_are_torchs() -> None:
    x, exponent = np.linspace(0.1, 3, 20), np.linspace(-2, 2, 20)
    expected = torch.pow(torch.from_numpy(x), torch.from_numpy(exponent)).numpy()
    np.testing.assert_allclose(Binary("pow").compute(x, exponent), expected, rtol=1e-13)


def test_a_last_window_that_begins_beyond_the_image_is_left_out_when_sizes_are_rounded_up() -> None:
    pool = _pool("max", (2, 2), (3, 3), 1, ceil=True)  # windows at −1, 2, 5: the last one begins in the padding behind
    assert pool.shape((1, 1, 5, 5)) == (1, 1, 2, 2)


def test_onnx_rounds_half_a_pixel_down_or_up_as_it_is_told() -> None:
    x = np.arange(4.0).reshape(1, 1, 1, 4)
    rows = {
        rounding: Resize((1, 2), None, "nearest", "half_pixel", rounding).compute(x).ravel().tolist()
        for rounding in ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")
    }  # the two pixels lie at 0.5 and 2.5
    assert rows == {
        "floor": [0, 2],
        "ceil": [1, 3],
        "round_prefer_floor": [0, 2],
        "round_prefer_ceil": [1, 3],
    }


REFUSED: list[tuple[Callable[[], object], str]] = [
    (lambda: Convolution(_SPEC).shape((1, 5, 7, 9), (4, 3, 3, 2)), "takes 6 channels, not the 5"),
    (lambda: Convolution(_SPEC).shape((6, 7, 9), (4, 3, 3, 2)), r"images of shape \(N, C, H, W\)"),
    (lambda: Convolution(_SPEC).shape(IMAGE, (4, 3, 3, 3)), r"needs w of shape \(4, 3, 3, 2\)"),
    (lambda: Convolution(_SPEC).shape(IMAGE), "takes x, w, not 1 inputs"),
    (lambda: Convolution(Conv2dSpec(6, 4, 9)).shape(IMAGE, (4, 6, 9, 9)), "cannot be applied to a 7×9 input"),
    (lambda: TransposedConvolution(_UP).shape((1, 4, 2, 2), (6, 2, 3, 4)), "takes 6 channels, not the 4"),
    (lambda: TransposedConvolution(Conv2dSpec(4, 6, 3, padding="same_ceil")), "padding in numbers"),
    (lambda: TransposedConvolution(Conv2dSpec(1, 1, 1, padding=3)).shape((1, 1, 2, 2), (1, 1, 1, 1)), "-4×-4"),
    (lambda: Linear().shape((2, 3), (4, 5)), r"\(out, 3\)"),
    (lambda: MatMul().shape((2, 3), (4, 5)), r"cannot multiply \(2, 3\) with \(4, 5\)"),
    (lambda: MatMul().shape((2, 2, 3), (4, 3, 5)), "cannot broadcast"),
    (lambda: Pooling("mode", (2, 2), (2, 2)), "'max' or 'average', not 'mode'"),
    (lambda: Pooling("max", (9, 2), (2, 2)).shape(IMAGE), "over 9×2 does not fit a 7×9 input"),
    (lambda: AdaptivePooling("mode", (2, 2)), "'max' or 'average', not 'mode'"),
    (lambda: Reduce("median", (1,)), "no reduction 'median'"),
    (lambda: Reduce("mean", (4,)).shape(IMAGE), "axis 4, but its input has only 4 axes"),
    (lambda: Reduce("max", (0,)).shape((0, 3)), "nothing to take"),
    (lambda: Unary("swish"), "no function 'swish'"),
    (lambda: Unary("clip", (1,)), "clip takes 2 parameters"),
    (lambda: Binary("mod"), "no arithmetic 'mod'"),
    (lambda: Binary("add").shape((2, 3), (4,)), r"cannot broadcast \(2, 3\) with \(4,\)"),
    (lambda: Compare("near"), "no comparison 'near'"),
    (lambda: Where().shape((2, 3), (3,), (4,)), r"cannot broadcast \(2, 3\) with \(3,\) with \(4,\)"),
    (lambda: PRelu().shape((2, 3), (5, 1, 1)), "slopes of shape"),
    (lambda: BatchNorm().shape((2, 3), (3,), (3,), (4,), (3,)), r"needs mean of shape \(3,\), not \(4,\)"),
    (lambda: BatchNorm().shape((2,), (3,), (3,), (3,), (3,)), r"takes \(N, C, …\)"),
    (lambda: LayerNorm(3).shape((2, 3), (3,), (3,)), "over 3 axes"),
    (lambda: GroupNorm(4).shape(IMAGE, (6,), (6,)), "into 4 groups"),
    (lambda: Concat(1).shape(), "at least one input"),
    (lambda: Concat(1).shape((2, 3), (3, 3)), "equal sizes elsewhere"),
    (lambda: Slice(0, step=0), "step 0"),
    (lambda: Pad(((-1, 0),)), "use Slice to cut off"),
    (lambda: Pad(((1, 0),), "mirror"), "not 'mirror'"),
    (lambda: Pad(((1, 0),)).shape((2, 3)), "sides for 1 axes"),
    (lambda: Pad(((0, 3),), "reflect").shape((3,)), "too much for an axis of 3"),
    (lambda: Reshape((-1, -1)), "one size open"),
    (lambda: Reshape((-2, 3)), r"cannot make the sizes"),
    (lambda: Reshape((4, -1)).shape((2, 3)), r"cannot make \(4, -1\) of \(2, 3\)"),
    (lambda: Reshape((Axes(0, 1, over=4), -1)).shape((2, 3)), r"cannot make \(x\[0:1\]/4, -1\)"),
    (lambda: Reshape((6, 1, 0)).shape((2, 3)), "keeps axis 2"),
    (lambda: Transpose((0, 0)).shape((2, 3)), r"Transpose to \(0, 0\)"),
    (lambda: Expand((4, 1)).shape((2, 3)), "cannot broadcast"),
    (lambda: Take(2).shape((2, 3), (1,)), "axis 2, but its input has only 2 axes"),
    (lambda: Take().compute(np.zeros((2, 3)), np.array([0, 2])), "no rows 0 to 2 of 2"),
    (lambda: Resize((4, 4), scales=(2.0, 2.0)), "one of a size, scales"),
    (lambda: Resize((4, 4), mode="cubic"), "no mode 'cubic'"),
    (lambda: Resize((4, 4), antialias=True), "nearest neighbours have none"),
    (lambda: PoolingPlaces(_pool("average", (2, 2), (2, 2))), "takes no average pooling"),
    (lambda: PoolingPlaces(_pool("max", (2, 2), (2, 2))).shape((1, 1, 4096, 4097)), "would count to 16,781,312"),
    (lambda: PoolingPlaces(_pool("max", (2, 2), (2, 2)), True).shape((9, 9, 512, 512)), "would count to 21,233,664"),
    (lambda: Unpooling(), "one of a size and another image's size"),
    (lambda: Unpooling((0, 4)), "a size of at least 1, not 0"),
    (lambda: Unpooling((4, 4)).shape(IMAGE, (2, 6, 7, 8)), r"needs places of shape \(2, 6, 7, 9\), not \(2, 6, 7, 8\)"),
    (lambda: Unpooling((4, 4)).compute(np.ones((1, 1, 1, 1)), -np.ones((1, 1, 1, 1))), "has no place -1"),
    (lambda: GridSample("linear"), "no mode 'linear'"),
    (lambda: GridSample(beyond="wrap"), "no padding 'wrap'"),
    (lambda: GridSample().shape(IMAGE, (1, 5, 6, 2)), r"a grid of shape \(2, H_out, W_out, 2\), not \(1, 5, 6, 2\)"),
    (lambda: Resize(scales=(0.1, 1.0)).shape(IMAGE), "would be 0×9"),
]


@pytest.mark.parametrize(("asked", "sentence"), REFUSED)
def test_what_cannot_be_is_said_in_a_sentence(asked: Callable[[], object], sentence: str) -> None:
    with pytest.raises(GraphError, match=sentence):
        asked()
