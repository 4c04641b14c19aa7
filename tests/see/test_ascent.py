"""Pictures by gradient ascent excite their channel more than anything else does, and are the same every time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from convforge.errors import UserError
from convforge.models.families import build
from convforge.see.ascent import Ascent, Ascents
from convforge.see.hooks import watched
from convforge.see.jobs import Cancelled, Progress
from convforge.see.network import Network
from convforge.see.shelf import Shelf

from .networks import Kinds, opened


def small(channels: int) -> Callable[[], nn.Module]:
    """Layers whose units see 3, 7 and 23 pixels, and everything."""
    return lambda: nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        nn.Conv2d(8, 12, 3, padding=1, groups=2), nn.ReLU6(),
        nn.Conv2d(12, 8, 5, 2, 4, dilation=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    )  # fmt: skip


def climb(network: Network, layer: int, channel: int, **settings: Any) -> Ascent:
    return Ascents(network, Shelf(None)).ascend(layer, channel, **{"steps": 24} | settings)


def answers(network: Network, images: Tensor, layer: int, channel: int) -> Tensor:
    """The channel's maps, (N, H, W), for images of pixels from 0 to 255."""
    found: list[Tensor] = []
    mean, std = (torch.tensor(values)[:, None, None] for values in (network.mean, network.std))
    with torch.no_grad(), watched(network.model, [network.layers[layer]], lambda _, y: found.append(y[:, channel] + 0)):
        network.model((images / 255 - mean) / std)
    return found[0]


def noise(shape: tuple[int, ...], many: int = 64) -> Tensor:
    return torch.randint(0, 256, (many, *shape), generator=torch.Generator().manual_seed(1)).float()


def mean_answer(network: Network, found: Ascent, layer: int, channel: int) -> float:
    """What a texture is made for: the channel's mean over the map."""
    return float(answers(network, torch.from_numpy(found.pixels)[None].float(), layer, channel).mean())


def clear_of_noise(network: Network, layer: int, channel: int) -> float:
    """More than that no image of noise is to be expected to have as its mean."""
    means = answers(network, noise(network.input_shape), layer, channel).mean((1, 2))
    return float(means.mean() + 4 * means.std())


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("name", ["0", "4", "6", "9"])
def test_the_channel_answers_more_than_to_noise(channels: int, name: str) -> None:
    shape = (channels, 40, 32)
    network = opened(small(channels), shape)
    layer = next(layer for layer in network.layers if layer.name == name)
    field = {"0": (3, 3), "4": (8, 8)}.get(name)
    found = climb(network, layer.index, 3, steps=32 if field else 96)
    assert found.pixels.dtype == np.uint8
    assert found.pixels.shape == (channels, *(field or shape[1:]))
    assert found.is_window == (field is not None)
    answer = answers(network, noise(shape), layer.index, 3)
    if field:  # more than all but few units are excited
        assert found.value > float(answer.mean() + 2.5 * answer.std())
    else:
        assert mean_answer(network, found, layer.index, 3) > clear_of_noise(network, layer.index, 3)


def test_the_value_is_what_the_network_answers_to_the_picture() -> None:
    network = opened(small(3), (3, 40, 32), mean=(0.2, 0.5, 0.7), std=(0.1, 0.2, 0.4))
    last = len(network.layers) - 1
    for layer in (6, last):
        found = climb(network, layer, 1)
        answer = answers(network, torch.from_numpy(found.pixels)[None].float(), layer, 1)
        assert found.value == pytest.approx(float(answer.max()), rel=1e-4)
    found = climb(network, 0, 1)
    _, top, height, width = 0, 20, 40, 32
    image = 255 * torch.tensor(network.mean)[:, None, None].expand(3, height, width).clone()
    box = network.box(0, 20, 16)
    assert isinstance(box, tuple)
    image[:, box[0] : box[0] + 3, box[1] : box[1] + 3] = torch.from_numpy(found.pixels).float()
    assert found.value == pytest.approx(float(answers(network, image[None], 0, 1)[0, top, 16]), rel=1e-4)


def test_a_window_is_the_kernel_seen_as_an_image() -> None:
    """What excites a linear unit the most for its contrast is a picture of its weights."""
    network = opened(lambda: nn.Conv2d(1, 4, 5, bias=False), (1, 16, 16), mean=(0.5,), std=(0.5,))
    for channel in range(4):
        pixels = climb(network, 0, channel, steps=32).pixels[0].astype(float)
        kernel = network.model.get_parameter("weight")[channel, 0].numpy()
        assert np.corrcoef(pixels.ravel(), kernel.ravel())[0, 1] > 0.85


def test_the_same_seed_gives_the_same_picture() -> None:
    for layer in (0, 6):
        one, two, other = (climb(opened(small(3), (3, 40, 32)), layer, 2, seed=seed, steps=6) for seed in (7, 7, 8))
        np.testing.assert_array_equal(one.pixels, two.pixels)
        assert one.value == two.value
        assert (one.pixels != other.pixels).any()


@pytest.mark.parametrize("activation", [nn.ReLU, nn.ReLU6, lambda: nn.ReLU(inplace=True)])
def test_a_silent_channel_is_woken(activation: Callable[[], nn.Module]) -> None:
    """Noise leaves every unit below the zero of the ReLU, where there is no gradient; the climb begins all the same."""

    def silent() -> nn.Module:
        model = nn.Sequential(nn.Conv2d(1, 4, 3), activation(), nn.Conv2d(4, 2, 21, bias=False))
        with torch.no_grad():
            model[0].bias -= 1.5
            model[2].weight.abs_()
        return model

    network = opened(silent, (1, 32, 32))
    assert float(answers(network, torch.full((1, 1, 32, 32), 127.5), 2, 0).max()) == 0
    assert climb(network, 2, 0, steps=60).value > 0.5


def test_a_network_that_takes_one_size_only_is_shown_that() -> None:
    """Behind a flattened map there is no other size."""
    network = opened(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 18 * 22, 3)), (3, 20, 24))
    assert climb(network, 2, 0, size=64, steps=2).pixels.shape == (3, 20, 24)
    everywhere = opened(small(3), (3, 40, 32))
    assert climb(everywhere, 6, 0, size=64, steps=2).pixels.shape == (3, 64, 51)


@pytest.mark.parametrize("family", ["vgg", "resnet"])
def test_networks_of_the_demo(family: str) -> None:
    network = opened(lambda: build(family, classes=10, input_shape=(1, 28, 28)), (1, 28, 28), mean=(0.13,), std=(0.31,))
    layers = [layer for layer in network.layers if layer.kind in ("conv", "linear")]
    for layer in layers[-2:]:
        begun = [climb(network, layer.index, 1, steps=1, seed=seed) for seed in range(6)]
        start = torch.tensor([mean_answer(network, one, layer.index, 1) for one in begun])
        found = climb(network, layer.index, 1, steps=96)
        assert mean_answer(network, found, layer.index, 1) > float(start.mean() + 6 * start.std())


def test_every_layer_with_channels_can_be_climbed() -> None:
    network = opened(Kinds)
    for layer in network.layers:
        if layer.module is None:
            with pytest.raises(UserError, match="is not a module with channels"):
                climb(network, layer.index, 0)
        else:
            assert np.isfinite(climb(network, layer.index, 1, steps=2).value)


def test_progress_is_told_and_it_can_be_cancelled() -> None:
    network = opened(small(3), (3, 40, 32))
    told: list[tuple[int, int]] = []

    class Impatient(Progress):
        def __call__(self, done: int, total: int, what: str = "") -> None:
            told.append((done, total))
            if done == 3:
                raise Cancelled

    with pytest.raises(Cancelled):
        climb(network, 6, 0, progress=Impatient())
    assert told == [(0, 24), (1, 24), (2, 24), (3, 24)]


def test_pictures_are_kept(tmp_path: Path) -> None:
    network = opened(small(3), (3, 40, 32))
    for layer in (0, 6):
        steps: list[int] = []

        class Counted(Progress):
            def __call__(self, done: int, total: int, what: str = "", steps: list[int] = steps) -> None:
                steps.append(done)

        one, two = (
            Ascents(network, Shelf(tmp_path)).ascend(layer, 1, steps=4, progress=progress)
            for progress in (Progress(), Counted())
        )
        np.testing.assert_array_equal(one.pixels, two.pixels)
        assert (one.value, one.is_window) == (pytest.approx(two.value, rel=1e-6), two.is_window)
        assert steps == []
        Ascents(network, Shelf(tmp_path)).ascend(layer, 1, steps=4, seed=1, progress=Counted())
        assert steps


def test_nothing_of_the_network_is_changed() -> None:
    network = opened(small(3), (3, 40, 32))
    before = {name: tensor.clone() for name, tensor in network.model.state_dict().items()}
    climb(network, 6, 0, steps=2)
    for name, tensor in network.model.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert all(p.grad is None for p in network.model.parameters())
    assert not any(m._forward_hooks for m in network.model.modules())


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"channel": 8}, "'0' has channels 0 to 7, not 8"),
        ({"size": 7}, "size must be 8 to 512 pixels, not 7"),
        ({"steps": 0}, "steps must be 1 to 2,000, not 0"),
        ({"layer": 99}, "there is no layer 99"),
    ],
)
def test_what_cannot_be_drawn_is_said(settings: dict[str, int], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        climb(opened(small(3), (3, 40, 32)), **{"layer": 0, "channel": 0} | settings)
