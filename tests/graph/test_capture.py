"""What a torch module computes, its graph computes, for other batches, too; and what cannot be captured is said."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import convforge
from convforge.graph.capture import CannotCapture, _traced, capture, captured
from convforge.graph.network import Network
from convforge.graph.nodes import Graph, GraphError
from convforge.graph.passes import optimized


class Says(nn.Module):
    """A module by what it does to its input, with the layers that it does it with."""

    def __init__(self, forward: Callable[..., Any], *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.says = forward

    def forward(self, *x: Tensor) -> Any:
        return self.says(*x, *self.layers)


def randomised(module: nn.Module) -> nn.Module:
    """In eval mode, with batch norms that have seen something."""
    torch.manual_seed(0)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d) and layer.running_mean is not None:
            nn.init.normal_(layer.running_mean)
            nn.init.uniform_(layer.running_var, 0.5, 2)
            if layer.affine:
                nn.init.uniform_(layer.weight, 0.5, 2)
                nn.init.normal_(layer.bias)
    return module.eval()


def same(module: nn.Module, *shapes: tuple[int, ...], batches: tuple[int, ...] = (1, 3)) -> Graph:
    """Captures a module and compares with it, in float64, its graph, before and after the passes, and the network; and
    so with the graph that it is followed to without torch.export, where it can be."""
    randomised(module)
    examples = [torch.randn(shape) for shape in shapes]
    graph = capture(module, *examples)
    compared(module, graph, shapes, batches)
    followed = _traced(module, examples)
    if followed is not None:
        compared(module, followed.graph, shapes, batches)
    return graph


def compared(module: nn.Module, graph: Graph, shapes: Sequence[tuple[int, ...]], batches: tuple[int, ...]) -> None:
    twice, network = copy.deepcopy(module).double(), Network(graph, threads=2)
    for batch in batches:
        inputs = [torch.randn(batch, *shape[1:], dtype=torch.float64) for shape in shapes]
        with torch.no_grad():
            expected = twice(*(x.clone() for x in inputs))
        expected = [expected] if isinstance(expected, Tensor) else expected
        resized = graph.with_input({name: tuple(x.shape) for name, x in zip(graph.inputs, inputs, strict=True)})
        arrays = {name: x.numpy() for name, x in zip(graph.inputs, inputs, strict=True)}
        for other, tolerance in ((resized, 1e-9), (optimized(resized), 1e-5)):
            for made, wanted in zip(other.compute(**arrays), expected, strict=True):
                assert made.shape == wanted.shape
                np.testing.assert_allclose(made, wanted.numpy(), rtol=tolerance, atol=tolerance * 10)
        for made, wanted in zip(network(*(x.float().numpy() for x in inputs)), expected, strict=True):
            assert made.shape == wanted.shape
            assert np.linalg.norm(made - wanted.numpy()) <= 1e-5 * max(float(np.linalg.norm(wanted.numpy())), 1e-3)


def names(graph: Graph) -> list[str]:
    return [node.operation.name for node in graph.nodes]


# ---------------------------------------------------------------------------------------------------------------------
# Networks
# ---------------------------------------------------------------------------------------------------------------------


def _block(channels: int, out: int, **settings: Any) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, out, 3, padding=1, bias=False, **settings), nn.BatchNorm2d(out), nn.ReLU())


class Residual(nn.Module):
    """As in ResNet, with everything in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = _block(3, 6, stride=2), nn.Conv2d(6, 6, 3, padding=1)
        self.norm, self.relu, self.down = nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.Conv2d(3, 6, 1, stride=2)
        self.pool, self.dense = nn.AdaptiveAvgPool2d(1), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        made = self.norm(self.second(self.first(x)))
        made += self.down(x)
        made = self.relu(made)
        return self.dense(F.dropout(torch.flatten(self.pool(made), 1), training=self.training))


def test_a_residual_network() -> None:
    graph = same(Residual(), (1, 3, 9, 8))
    assert names(optimized(graph)) == ["Convolution", "Convolution", "Convolution", "reduce mean", "Reshape", "Linear"]


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.deep = _block(3, 4), _block(4, 8)
        self.up = nn.ConvTranspose2d(8, 4, 3, stride=2, padding=1, output_padding=1)
        self.out = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.down(x)
        deep = self.deep(F.max_pool2d(first, 2))
        made = torch.cat([first, self.up(deep)], 1)
        return F.interpolate(self.out(made), scale_factor=2, mode="bilinear") + F.interpolate(
            deep[:, :2], size=(16, 24)
        )


def test_a_network_with_skips_and_two_ways_up() -> None:
    same(UNet(), (1, 3, 8, 12))


class Shuffled(nn.Module):
    """As in ShuffleNetV2: split, channels shuffled with sizes of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = _block(4, 4, groups=4)

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, dim=1)
        x = torch.cat([left, self.branch(right)], 1)
        n, c, h, w = x.size()
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, -1, h, w)
        return x.mean([2, 3]).view(n, -1)


def test_a_network_that_shuffles_channels() -> None:
    same(Shuffled(), (2, 8, 5, 6))


class Gated(nn.Module):
    """As in MobileNetV3: squeeze-and-excite and hard functions, one of them spelled."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.small, self.large = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.hardswish(self.conv(x))
        gate = F.hardsigmoid(self.large(F.relu(self.small(F.adaptive_avg_pool2d(x, 1)))))
        x = x * gate
        return x * F.relu6(x + 3) / 6


def test_a_network_with_gates() -> None:
    assert names(optimized(same(Gated(), (1, 3, 9, 9))))[-2:] == ["mul", "hardswish"]


class ChannelsLast(nn.Module):
    """As in ConvNeXt."""

    def __init__(self) -> None:
        super().__init__()
        self.depthwise, self.norm = nn.Conv2d(6, 6, 7, padding=3, groups=6), nn.LayerNorm(6)
        self.wide, self.narrow = nn.Linear(6, 12), nn.Linear(12, 6)
        self.gamma = nn.Parameter(torch.randn(6))

    def forward(self, x: Tensor) -> Tensor:
        made = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        made = self.gamma * self.narrow(F.gelu(self.wide(made)))
        return x + made.permute(0, 3, 1, 2)


def test_a_network_with_channels_last() -> None:
    graph = optimized(same(ChannelsLast(), (1, 6, 8, 7)))
    assert names(graph).count("Convolution") == 3
    assert "Linear" not in names(graph)
    assert names(graph)[-1] == "Convolution"  # with the residual in it


class Standardised(nn.Conv2d):
    """Weights that are computed from parameters."""

    def forward(self, x: Tensor) -> Tensor:
        flat = self.weight.reshape(1, self.out_channels, -1)
        w = F.batch_norm(flat, None, None, training=True).reshape_as(self.weight)
        return F.conv2d(x, w, self.bias, padding=1)


def test_weights_that_are_computed_become_constants_by_the_passes() -> None:
    graph = same(Standardised(3, 4, 3), (1, 3, 6, 6))
    assert names(optimized(graph)) == ["Convolution"]
    assert set(graph.sources.values()) == {"weight", "bias"}


def test_our_own_convolution() -> None:
    module = nn.Sequential(convforge.nn.Conv2d(3, 4, 3, stride=2, padding="same_ceil"), nn.ReLU())
    assert names(optimized(same(module, (1, 3, 9, 8)))) == ["Convolution"]


# ---------------------------------------------------------------------------------------------------------------------
# Operators
# ---------------------------------------------------------------------------------------------------------------------

IMAGE = (2, 4, 6, 7)


def _attention(x: Tensor) -> Tensor:
    q = x.flatten(2).transpose(1, 2)
    return F.scaled_dot_product_attention(q, q * 2, q + 1)


OPERATORS: dict[str, Callable[[Tensor], Any]] = {
    "functions": lambda x: F.mish(F.softplus(F.leaky_relu(F.elu(F.selu(F.celu(x, 0.5)), 0.7), 0.2))),
    "more functions": lambda x: torch.erf(F.gelu(x)) + F.gelu(x, approximate="tanh") + F.silu(F.softsign(x)),
    "limits": lambda x: x.clamp(-1, 1) + x.clamp_min(0.1) + F.hardtanh(x) + F.relu6(x) + x.clamp(max=x.mean()),
    "numbers": lambda x: (2 - x) * 3 / (x.abs() + 1) + torch.add(x, x, alpha=2) - x**2 + (x.abs() + 0.1) ** 0.3,
    "two tensors": lambda x: torch.maximum(x, -x) + torch.minimum(x, x.exp()) + torch.max(x, x * 2),
    "softmax": lambda x: F.softmax(x, 1) + F.log_softmax(x, -1) + F.glu(torch.cat([x, x], 1), 1),
    "pooling": lambda x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True) + F.avg_pool2d(x, 3, 2, 1, ceil_mode=True),
    "pooling with a divisor": lambda x: F.avg_pool2d(x, (2, 3), divisor_override=5),
    "neighbouring channels": lambda x: F.local_response_norm(x, 3, k=2.0) + F.local_response_norm(x, 2, alpha=0.1),
    "adaptive pooling": lambda x: F.adaptive_avg_pool2d(x, (3, 4)) + F.adaptive_max_pool2d(x, (3, 4)),
    "adaptive pooling of one axis": lambda x: F.adaptive_avg_pool2d(x, (None, 1)),
    "reductions": lambda x: (
        x.sum(1, keepdim=True) + x.amax((1, 2), keepdim=True) + x.max(1, keepdim=True)[0] + x.mean()
    ),
    "spread": lambda x: x.var(1, keepdim=True) + x.std((2, 3), keepdim=True, correction=0),
    "lengths": lambda x: x / x.norm(dim=1, keepdim=True) + F.normalize(x, dim=1),
    "norms without numbers": lambda x: F.layer_norm(x, x.shape[2:]) + F.group_norm(x, 2) + F.instance_norm(x),
    "parts": lambda x: torch.cat([*x.split([1, 3], 1), x[:, 1:3], x.narrow(1, 0, 2), x[:, -1:]], 1)[..., ::2],
    "rows": lambda x: torch.stack([x[:, 0], *x.unbind(1)], 1) + x.select(2, -1)[:, :1, None],
    "turned": lambda x: x.movedim(1, 3).transpose(1, 2).permute(0, 3, 1, 2).flip(2).roll((1, -2), (2, 3)),
    "borders": lambda x: (
        F.pad(x, (1, 2, 0, 1)) + F.pad(x, (1, 2, 0, 1), "reflect") + F.pad(x, (1, 2, 0, 1), "replicate")
    ),
    "border cut off": lambda x: F.pad(x, (-1, 2, 1, -2), value=3.0) + F.pad(x, (1, 0, 0, -1), "circular"),
    "pixels shuffled": lambda x: F.pixel_unshuffle(F.pixel_shuffle(x, 2), 2) + F.channel_shuffle(x, 2),
    "resized": lambda x: F.interpolate(x, (9, 5)) + F.interpolate(x, (9, 5), mode="nearest-exact"),
    "resized smoothly": lambda x: F.interpolate(x, (9, 5), mode="bilinear", align_corners=True),
    "resized more smoothly": lambda x: (
        F.interpolate(x, (9, 5), mode="bicubic")
        + F.interpolate(x, scale_factor=1.5, mode="bicubic")[..., :5]
        + F.interpolate(x, (9, 5), mode="bicubic", align_corners=True)
    ),
    "resized so that every pixel counts": lambda x: (
        F.interpolate(x, (3, 5), mode="bilinear", antialias=True)
        + F.interpolate(x, (3, 5), mode="bicubic", antialias=True)
        + F.interpolate(x, scale_factor=0.5, mode="bilinear", antialias=True)[..., :1]
    ),
    "largest numbers put back": lambda x: (
        F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2, output_size=(6, 7))
        + F.max_unpool2d(*F.max_pool2d(x, 3, 2, 1, return_indices=True), 3, 2, 1, output_size=(6, 7))
    ),
    "resized like": lambda x: F.interpolate(F.max_pool2d(x, 2), x.shape[-2:], mode="bilinear"),
    "repeated": lambda x: x.mean((2, 3), keepdim=True).expand_as(x) + x[:, :1].repeat(1, 4, 1, 1),
    "reshaped": lambda x: x.reshape(x.shape[0] * 2, -1).unflatten(1, (2, -1)).reshape(x.shape[0], 4, 6, 7).squeeze(1),
    "attention": _attention,
    "matrices": lambda x: torch.matmul(x, x.transpose(-1, -2)) @ torch.ones(6, 3, dtype=x.dtype),
    "sums of products": lambda x: torch.einsum("nchw,nchv->nwvh", x, x) + torch.einsum("nchw->nw", x)[..., None, None],
    "in simpler words": lambda x: F.cosine_similarity(
        x.tile(1, 2, 1, 1), torch.negative(x[:, :1]), 1
    ).repeat_interleave(2, 1),
    "factors of products": lambda x: torch.addmm(x[0, 0], x[0, 1, :, :6], x[0, 2, :6], beta=0.5, alpha=3),
    "made inside": lambda x: x + torch.arange(7.0).to(x.dtype) * torch.linspace(0, 3, 7, dtype=x.dtype)[:6, None],
    "products added": lambda x: torch.addcmul(x, x, x, value=2) + torch.addcdiv(x, x, x.exp()) + torch.lerp(x, -x, 0.3),
    "rows by number": lambda x: (
        x[:, torch.tensor([[0, 2], [1, -1]])] + x.index_select(2, torch.arange(2))[:, :2, None, :1]
    ),
    "rows of several axes": lambda x: (
        x[:, torch.tensor([[0], [2]]), torch.tensor([[1, 5, 0]])]
        + x[:, torch.tensor([0, 3, 1]), torch.tensor([1, -1, 4])][:, None]
    ),
    "windows laid out": lambda x: F.unfold(x, (3, 2), padding=1, stride=2),
    "rows along one axis": lambda x: F.interpolate(x[:, :, 0], scale_factor=2.0, mode="linear"),
    "root mean squares": lambda x: (
        F.rms_norm(x, (7,), x[0, 0, 0], 1e-3) + F.rms_norm(x, (6, 7), eps=0.1) + x.prod(1, keepdim=True)
    ),
    "matrices turned": lambda x: x.mT @ x,
    "numbers compared": lambda x: (
        torch.where(x > 0.3, x * 2, x - 1) + torch.where(x[:, :1] <= x, 3.0, x) + (x != x.abs()) * x.exp()
    ),
    "both, either and not": lambda x: torch.where(
        ((x > 0) & ~(x > 1)) | torch.logical_xor(x < -1, x.abs() >= 1.5), x, torch.logical_not(x.floor()).to(x.dtype)
    ),
    "masked": lambda x: x.masked_fill(x < 0, -2.0) + x.masked_fill(torch.arange(7) > 3, 1.0),
    "thresholds": lambda x: F.threshold(x, 0.2, 5.0) + F.hardshrink(x, 0.4) + F.softshrink(x, 0.3),
    "logarithms": lambda x: torch.log2(x.abs() + 1) + torch.log10(x.abs() + 1) + torch.exp2(x) + torch.tan(x / 3),
    "cut to whole numbers": lambda x: torch.trunc(x * 2) + torch.frac(x * 3),
    "is anything there": lambda x: x * (x > 1.5).any(1, keepdim=True) + torch.where(torch.isnan(x), 0.0, x),
    "slopes that training draws": lambda x: F.rrelu(x, 0.1, 0.4),
    "along one axis": lambda x: (
        F.max_pool1d(x[:, :, 0], 3, 2, 1, ceil_mode=True)
        + F.max_pool1d(x[:, :, 1], 2)[..., :1]
        + F.pad(x[:, :, 2], (1, 2), "reflect")[..., :4]
        + F.pad(x[:, :, 2], (1, 0), "replicate")[..., :4]
    ),
    "several": lambda x: (x + 1, x * 2, x),
    "nothing": lambda x: F.dropout(x.contiguous().clone().detach(), training=False).to(x.dtype),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_mean_what_torch_means(name: str) -> None:
    same(Says(OPERATORS[name]), IMAGE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_an_eps_a_norm_has_the_number_formats(dtype: torch.dtype) -> None:
    x = torch.full((2, 3, 4), 1e-7, dtype=dtype)
    graph = capture(Says(lambda x: F.rms_norm(x, (4,))), x)
    torch.testing.assert_close(torch.from_numpy(graph.compute(x_0=x.numpy())[0]).to(dtype), F.rms_norm(x, (4,)))


def test_masks_take_rows_and_are_numbers() -> None:
    mask = torch.tensor([True, False, True, True])
    same(Says(lambda x: x[:, mask] + x[:, :1, torch.tensor([True] * 6)] * (torch.arange(7) > 3)), IMAGE, batches=(2,))


GRIDS: list[tuple[Any, ...]] = [
    ("bilinear", "zeros", False),
    ("nearest", "border", True),
    ("bicubic", "reflection", False),
]


@pytest.mark.parametrize("how", GRIDS)
def test_pixels_at_the_points_of_a_grid(how: tuple[Any, ...]) -> None:
    same(Says(lambda x, grid: F.grid_sample(x, grid, *how)), IMAGE, (IMAGE[0], 5, 3, 2))


class Transformer(nn.Module):
    """An image turned and moved as is learned from itself (M. Jaderberg et al., 2015)."""

    def __init__(self) -> None:
        super().__init__()
        self.learned, self.conv = nn.Linear(4 * 6 * 7, 6), nn.Conv2d(4, 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        how = self.learned(x.flatten(1)).view(-1, 2, 3)
        return self.conv(F.grid_sample(x, F.affine_grid(how, x.shape, align_corners=False), align_corners=False))


def test_a_spatial_transformer() -> None:
    assert "GridSample" in names(same(Transformer(), IMAGE))


@pytest.mark.parametrize("align_corners", [True, False])
def test_grids_of_given_sizes(align_corners: bool) -> None:
    for size in ((4, 5), *[(1, 3)] * (not align_corners)):  # torch warns of a single row whose corners are aligned
        how = {"align_corners": align_corners}
        same(Says(lambda t, s=size, how=how: F.affine_grid(t, (t.shape[0], 3, *s), **how)), (2, 2, 3))


class Segmenting(nn.Module):
    """As SegNet: pooled and put back to where it was (V. Badrinarayanan et al., 2015)."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.deep, self.up = _block(3, 6), _block(6, 6), nn.Conv2d(6, 4, 3, padding=1)
        self.pool, self.unpool = nn.MaxPool2d(2, 2, return_indices=True), nn.MaxUnpool2d(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        first, places = self.pool(self.down(x))
        second, deeper = self.pool(self.deep(first))
        return self.up(self.unpool(self.unpool(second, deeper, output_size=first.shape), places, output_size=x.shape))


def test_a_network_that_puts_back_what_it_has_pooled() -> None:
    graph = same(Segmenting(), (2, 3, 14, 9))
    assert names(graph).count("Unpooling") == names(graph).count("pooling places") == 2


def test_places_that_nothing_reads_are_not_computed() -> None:
    assert names(same(Says(lambda x: F.max_pool2d(x, 2, return_indices=True)[0]), IMAGE)) == ["max pooling"]


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "prelu": lambda: nn.PReLU(4),
    "prelu with one slope": lambda: nn.PReLU(),
    "batch norm without numbers": lambda: nn.BatchNorm2d(4, affine=False),
    "instance norm with statistics": lambda: nn.InstanceNorm2d(4, track_running_stats=True),
    "group norm": lambda: nn.GroupNorm(2, 4),
    "transposed": lambda: nn.ConvTranspose2d(4, 6, (3, 2), (2, 3), 1, (1, 0), 2, dilation=(1, 2)),
    "grouped": lambda: nn.Conv2d(4, 8, (3, 2), (1, 2), (2, 1), dilation=(2, 1), groups=2),
    "same": lambda: nn.Conv2d(4, 8, 4, padding="same"),
    "reflected": lambda: nn.Conv2d(4, 8, 3, padding=1, padding_mode="reflect"),
    "linear along rows": lambda: nn.Linear(7, 3),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_mean_what_torch_means(name: str) -> None:
    same(nn.Sequential(LAYERS[name]()), IMAGE)


def test_a_convolution_along_one_axis() -> None:
    same(nn.Sequential(nn.Conv1d(4, 6, 3, stride=2, padding=1)), (2, 4, 9))


def test_a_transposed_convolution_along_one_axis() -> None:
    same(nn.ConvTranspose1d(4, 6, 3, 2, 1, 1, 2, dilation=2), (2, 4, 9))


def test_batch_norm_with_statistics_of_the_batch() -> None:
    same(nn.Sequential(nn.BatchNorm2d(4, track_running_stats=False)), IMAGE)


# ---------------------------------------------------------------------------------------------------------------------
# In place
# ---------------------------------------------------------------------------------------------------------------------


def _seen_afterwards(x: Tensor) -> Tensor:
    made = x * 2
    made.relu_()
    return made.add_(1) + made


def _part_changed(x: Tensor) -> Tensor:
    made = x * 2
    part = made[:, :2]
    made.add_(1)
    return part * 3


def _through_a_view(x: Tensor) -> Tensor:
    made = x * 2
    flat = made.view(made.shape[0], -1)
    flat.mul_(3)
    return made + 1


def _constant_changed(x: Tensor) -> Tensor:
    mask = torch.zeros(6, 7, dtype=x.dtype)
    mask[1:3].fill_(1)
    return x * mask


@pytest.mark.parametrize("changes", [_seen_afterwards, _part_changed, _through_a_view, _constant_changed])
def test_what_is_changed_in_place_is_seen_by_everyone(changes: Callable[[Tensor], Tensor]) -> None:
    same(Says(changes), IMAGE)


# ---------------------------------------------------------------------------------------------------------------------
# Parameters, sizes, outputs
# ---------------------------------------------------------------------------------------------------------------------


def test_constants_are_the_parameters_themselves() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    graph = capture(module, torch.randn(1, 3, 5, 5))
    assert graph.sources == {name: name for name in graph.constants}
    assert set(graph.sources) == {name for name in module.state_dict() if not name.endswith("num_batches_tracked")}
    with torch.no_grad():
        module[0].weight.fill_(7)
    assert (graph.constants["0.weight"] == 7).all()


def test_half_precision_weights_are_copied() -> None:
    graph = capture(nn.Linear(3, 2).bfloat16(), torch.randn(2, 3, dtype=torch.bfloat16))
    assert {array.dtype for array in graph.constants.values()} == {np.dtype(np.float32)}


def test_the_batch_is_open_and_image_sizes_are_not() -> None:
    graph = capture(nn.Conv2d(3, 4, 3), torch.randn(1, 3, 5, 5))
    assert graph.inputs == {"input": (1, 3, 5, 5)}
    assert graph.fixed == {"input": (1, 2, 3)}
    with pytest.raises(GraphError, match="made for size 5 along axis 2"):
        graph.with_input((1, 3, 6, 5))


BATCH_MATTERS: list[Callable[[Tensor], Tensor]] = [
    lambda x: x.mean((1, 2, 3)).squeeze(),  # an axis less for a single image
    lambda x: x.reshape(2, 2, 6 * 7 * 2),
    lambda x: x * 2 if x.shape[0] < 5 else x,
    lambda x: x * 2 if x.shape[0] % 2 == 0 else x,
    lambda x: x * 2 if x.shape[0] != 5 else x,
]


@pytest.mark.parametrize("says", BATCH_MATTERS)
def test_where_the_batch_matters_it_is_fixed(says: Callable[[Tensor], Tensor]) -> None:
    graph = same(Says(says), IMAGE, batches=(2,))
    assert graph.fixed == {next(iter(graph.inputs)): (0, 1, 2, 3)}


def test_one_image_loses_its_axis_as_in_torch() -> None:
    graph = same(Says(lambda x: x.mean((2, 3)).squeeze()), (1, 4, 3, 3), batches=(1,))
    assert graph.shapes()[graph.outputs[0]] == (4,)


def test_several_inputs() -> None:
    module = Says(lambda x, y, conv: conv(x) + y, nn.Conv2d(3, 4, 1))
    same(module, (1, 3, 5, 5), (1, 4, 5, 5))


def test_outputs_come_back_as_the_module_returns_them() -> None:
    module = Says(lambda x: {"out": x + 1, "aux": (None, [x * 2])})
    found = captured(module, torch.ones(1, 2))
    assert found.rebuilt(found.graph.compute(x_0=np.ones((1, 2)))).keys() == {"out", "aux"}
    made = found.rebuilt(["a", "b"])
    assert made == {"out": "a", "aux": (None, ["b"])}


# ---------------------------------------------------------------------------------------------------------------------
# What cannot be captured
# ---------------------------------------------------------------------------------------------------------------------


def _decided(x: Tensor) -> Tensor:
    return x if x.sum() > 0 else -x


REFUSED: list[tuple[Callable[[], nn.Module], str]] = [
    (lambda: Says(lambda x: torch.cumsum(x, 1)), "^Says cannot be captured: the operator cumsum has no node"),
    (lambda: Says(lambda x, pool: pool(x[:, None]), nn.MaxPool3d(2)), "operator max_pool3d in 'layers.0' has no node"),
    (lambda: nn.Sequential(nn.BatchNorm2d(4)).train(), "'0' changes '0.num_batches_tracked', as layers do in training"),
    (lambda: nn.Sequential(nn.Dropout()).train(), "dropout in '0' in training mode draws random numbers"),
    (lambda: Says(lambda x: x + torch.rand(7)), "operator rand draws random numbers"),
    (lambda: Says(lambda x, norm: x + norm.running_mean[1:2].add_(1), nn.BatchNorm2d(4)), "'layers.0.running_mean'"),
    (lambda: Says(lambda x: x.max(1)), "reads 'getitem_1', a result that has no node"),
    (lambda: Says(lambda x: x.argmax(1)), "operator argmax has no node"),
    (lambda: Says(lambda x, conv: conv(x[None]), nn.Conv3d(1, 2, 1)), "operator conv3d in 'layers.0'"),
    (lambda: Says(_decided), "torch.export says"),
    (lambda: Says(lambda x: x.bfloat16() + 1), "operator to makes torch.bfloat16 of another number format"),
    (lambda: Says(lambda x: x[:, [0, 1], :, [1, 1]]), "operator index along axes that do not lie side by side"),
    (lambda: Says(lambda x: x[:, torch.ones(4, 6) > 0]), "operator index by a mask of several axes"),
    (lambda: Says(lambda x: x[x[:, 0, 0, 0].long()]), "operator to has no node"),
    (lambda: Says(lambda x: F.avg_pool3d(x[:, :, None], (1, 2, 2))), "operator avg_pool3d is over three axes"),
    (lambda: Says(lambda x: F.tanhshrink(x).cumprod(1)), "operator cumprod has no node"),
    (lambda: Says(lambda x: (x > 0).sum(1)), "operator sum has no node"),
    (lambda: Says(lambda x: (x > 0) + (x < 1)), "operator add has no node"),
    (lambda: Says(lambda x: x > 0), "returns truth values"),
    (
        lambda: Says(lambda x: F.interpolate(x, (9, 9), mode="bicubic", antialias=True, align_corners=True)),
        "operator _upsample_bicubic2d_aa with align_corners is not known",
    ),
    (lambda: Says(lambda x: F.max_pool2d(x, 2, return_indices=True)), "it returns torch.int64 of its own"),
    (lambda: Says(lambda x: F.max_pool2d(x, 2, return_indices=True)[1] + 1), "operator add has no node"),
    (lambda: Says(lambda x: F.max_pool2d(x, 2, return_indices=True)[1].float()), "torch.float32 of another number"),
]  # fmt: skip


@pytest.mark.parametrize(("module", "sentence"), REFUSED)
def test_what_cannot_be_captured_is_named(module: Callable[[], nn.Module], sentence: str) -> None:
    with pytest.raises(CannotCapture, match=sentence):
        capture(module(), torch.ones(IMAGE) if "conv3d" not in sentence else torch.ones(1, 6, 7, 7))


def _without_autocast(x: Tensor) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        x = x * 2
    with torch.enable_grad():
        return x + 1


def test_contexts_inside_a_module_are_no_obstacle() -> None:
    assert names(same(Says(_without_autocast), IMAGE)) == ["mul", "add"]


def test_whole_numbers_are_refused() -> None:
    with pytest.raises(CannotCapture, match=r"its input 'x_0' has torch.int64"):
        capture(Says(lambda x: x * 1.0), torch.ones(2, 3, dtype=torch.int64))


def test_a_refusal_leaves_nothing_behind(capsys: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder) -> None:
    with pytest.raises(CannotCapture):
        capture(nn.Sequential(nn.AvgPool2d(20)), torch.ones(IMAGE))
    assert capsys.readouterr() == ("", "")
    assert not recwarn.list
