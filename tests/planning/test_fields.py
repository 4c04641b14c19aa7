"""Receptive fields against the truth: with positive weights, the gradient of an output unit with respect to the image
is nonzero exactly where the unit looks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_networks import Dense, Inception, Mobile, Residual, UNet
from torch import Tensor, nn

from convforge.planning import plan

IMAGE = 64


def looked_at(model: Callable[[Tensor], Tensor], image: int = IMAGE, neighbours: int = 4) -> tuple[int, int]:
    """The largest (rows, columns) that units around the middle of the output depend on."""
    x = torch.rand(1, 3, image, image, dtype=torch.float64, requires_grad=True)
    maps = model(x).sum((0, 1))
    middle = (maps.shape[0] // 2, maps.shape[1] // 2)
    largest = [0, 0]
    for down in range(neighbours):  # behind enlarged maps, neighbouring units see different numbers of pixels
        for right in range(neighbours):
            (gradient,) = torch.autograd.grad(maps[middle[0] + down, middle[1] + right], x, retain_graph=True)
            seen = gradient.abs().sum((0, 1)) > 0
            for axis in (0, 1):
                where = torch.nonzero(seen.any(1 - axis)).flatten()
                assert where[0] > 0, "the image is too small for this test"
                assert where[-1] < image - 1, "the image is too small for this test"
                largest[axis] = max(largest[axis], int(where[-1] - where[0]) + 1)
    return largest[0], largest[1]


def positive(model: nn.Module) -> nn.Module:
    """Weights such that nothing cancels and no ReLU closes."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(0.1, 1)
    return model.double().eval()


def claimed(model: nn.Module, image: int = IMAGE) -> Any:
    """What the plan says of the model's output, of which the last row is a copy."""
    return plan(nn.Sequential(model, nn.Identity()), (3, image, image)).rows[-1].receptive_field


class Branches(nn.Module):
    """Runs modules side by side and joins what they make."""

    def __init__(self, join: str, *branches: nn.Module) -> None:
        super().__init__()
        self.join = join
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        outs = [branch(x) for branch in self.branches]
        if self.join == "add":
            total = outs[0].clone()
            for out in outs[1:]:
                total += out
            return total
        return torch.cat(outs, 1) if self.join == "cat" else torch.stack(outs, 2).sum(2)


class Lambda(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def conv(kernel: Any, stride: int = 1, padding: Any = "same", dilation: int = 1) -> nn.Conv2d:
    return nn.Conv2d(3, 3, kernel, stride, padding, dilation)


def focus(x: Tensor) -> Tensor:
    parts = [x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]]
    return torch.cat(parts, 1)


def last_and_back(x: Tensor) -> Tensor:
    batch, height, width, channels = x.permute(0, 2, 3, 1).shape
    return x.flatten(2).transpose(1, 2).transpose(1, 2).reshape(batch, channels, height, width)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "residuals": lambda: nn.Sequential(Residual(3, 4), Residual(4, 8, 2), Residual(8, 8)),
    "unet": UNet,
    "dense": Dense,
    "inception": Inception,
    "dilated": lambda: nn.Sequential(conv(3, dilation=2), conv((1, 5)), conv(3, dilation=3)),
    "strided": lambda: nn.Sequential(conv(5, 2, 2), nn.AvgPool2d(3, 2, 1), conv(3)),
    "even": lambda: nn.Sequential(conv(4), conv(2), conv(4)),
    "circular": lambda: nn.Sequential(nn.Conv2d(3, 3, 3, padding=1, padding_mode="circular"), conv(3)),
    "offset skip": lambda: Branches("add", conv(3), nn.Sequential(nn.ZeroPad2d((4, 0, 4, 0)), conv(5, 1, 0))),
    "three ways": lambda: Branches("cat", conv(1), conv((7, 1)), nn.Sequential(conv(3), conv(3))),
    "stacked": lambda: Branches("stack", conv(1), conv((1, 9))),
    "transposed": lambda: nn.Sequential(conv(3, 2, 1), nn.ConvTranspose2d(3, 3, 4, 2, 1), conv(3)),
    "transposed odd": lambda: nn.Sequential(conv(3, 2, 1), nn.ConvTranspose2d(3, 3, 3, 2, 1, 1), conv(2), conv(3)),
    "nearest": lambda: nn.Sequential(conv(3, 2, 1), nn.Upsample(scale_factor=2), conv(3), conv(3)),
    "bilinear": lambda: nn.Sequential(conv(3, 2, 1), nn.Upsample(scale_factor=2, mode="bilinear"), conv(3)),
    "bilinear by 3": lambda: nn.Sequential(conv(3, 3, 1), nn.Upsample(scale_factor=3, mode="bilinear"), conv(2)),
    "bicubic": lambda: nn.Sequential(conv(3, 2, 1), nn.Upsample(scale_factor=2, mode="bicubic"), conv(3)),
    "resized": lambda: nn.Sequential(conv(3), nn.Upsample(size=(40, 81), mode="bilinear"), conv(3), conv(2)),
    "enlarged and reduced": lambda: nn.Sequential(conv(3, 2, 1), nn.ConvTranspose2d(3, 3, 3, 2, 1, 1), conv(3, 4, 1)),
    "enlarged at once": lambda: nn.Sequential(nn.Upsample(scale_factor=2), conv(3)),
    "shuffled": lambda: nn.Sequential(nn.Conv2d(3, 12, 3, 2, 1), nn.PixelShuffle(2), conv(3)),
    "unshuffled": lambda: nn.Sequential(conv(3), nn.PixelUnshuffle(2), nn.Conv2d(12, 2, 3, padding=1)),
    "focus": lambda: nn.Sequential(Lambda(focus), nn.Conv2d(12, 3, 3, padding=1)),
    "reshaped": lambda: nn.Sequential(conv(3), Lambda(last_and_back), conv(3)),
    "channels halved": lambda: nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.GLU(1), conv(3)),
    "adaptive": lambda: nn.Sequential(conv(3), nn.AdaptiveAvgPool2d(16), conv(3)),
    "uneven": lambda: nn.Sequential(conv(3), nn.AdaptiveAvgPool2d((24, 40)), conv(3)),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@pytest.mark.parametrize("name", MODELS)
def test_fields_are_what_gradients_show(name: str) -> None:
    torch.manual_seed(0)
    model = positive(MODELS[name]())
    assert claimed(model) == looked_at(model)


layers = st.one_of(
    st.builds(conv, st.tuples(st.integers(1, 4), st.integers(1, 4)), st.just(1), st.just("same"), st.integers(1, 2)),
    st.builds(lambda k: conv(k, 2, k // 2), st.integers(2, 5)),
    st.builds(lambda k: nn.AvgPool2d(k, 1, k // 2) if k % 2 else nn.AvgPool2d(k), st.integers(2, 3)),
    st.builds(lambda a, b: Branches("add", conv(a), conv(b)), st.integers(1, 5), st.integers(1, 5)),
    st.builds(lambda a: Branches("add", nn.Identity(), nn.Sequential(conv(a), conv(3))), st.integers(1, 4)),
)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.lists(layers, min_size=1, max_size=4).filter(lambda found: sum(_halves(m) for m in found) < 3))
def test_any_stack_of_layers(found: list[nn.Module]) -> None:
    model = positive(nn.Sequential(*found))
    assert claimed(model, 160) == looked_at(model, 160, neighbours=1)


def _halves(module: nn.Module) -> bool:
    return getattr(module, "stride", 1) in (2, (2, 2))


def test_max_pooling_sees_what_mean_pooling_sees() -> None:
    fields = [claimed(nn.Sequential(conv(3), pool(3, 2, 1), conv(3))) for pool in (nn.MaxPool2d, nn.AvgPool2d)]
    assert fields[0] == fields[1] == (9, 9)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.mean((2, 3)),
        lambda x: F.adaptive_avg_pool2d(x, 1),
        lambda x: F.adaptive_max_pool2d(x, 1),
        lambda x: F.linear(x.flatten(1), torch.ones(2, 3 * 64 * 64)),
        lambda x: F.softmax(x, 2),
        lambda x: F.avg_pool2d(x, 3) * x.amax((2, 3), keepdim=True),
        lambda x: F.scaled_dot_product_attention(*[x.flatten(2).transpose(1, 2)] * 3),
    ],
)
def test_what_mixes_all_positions_sees_all(function: Callable[[Tensor], Tensor]) -> None:
    assert claimed(nn.Sequential(conv(3), Lambda(function), nn.Identity())) == "all"


def test_a_gate_that_looks_everywhere_makes_everything_look_everywhere() -> None:
    fields = {row.name: row.receptive_field for row in plan(Mobile(), (3, 64, 64)).rows}
    assert (fields["stem.0"], fields["depthwise"]) == ((3, 3), (11, 11))
    assert (fields["squeeze"], fields["mul"], fields["pointwise"]) == ("all", "all", "all")


def test_linear_layers_over_channels_look_no_further() -> None:
    from plan_networks import ConvNeXt, Transformer

    fields = {row.name: row.receptive_field for row in plan(ConvNeXt(), (3, 64, 64)).rows}
    assert (fields["patch"], fields["expand"], fields["reduce"], fields["add"]) == (
        (4, 4),
        (28, 28),
        (28, 28),
        (28, 28),
    )
    fields = {row.name: row.receptive_field for row in plan(Transformer(), (3, 64, 64)).rows}
    assert (fields["patch"], fields["head"]) == ((8, 8), "all")


def test_what_is_not_known_is_said_to_be_unknown() -> None:
    assert claimed(nn.Sequential(conv(3), Lambda(lambda x: x.roll(1, 2)), nn.ReLU())) is None
    assert claimed(nn.Sequential(conv(3), Lambda(lambda x: torch.fft.fft2(x).real), nn.ReLU())) is None
