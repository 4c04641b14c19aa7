"""The answer taken apart: the parts make the model's own number, and lead to the channels and products behind them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from starlette.testclient import TestClient
from torch import Tensor, nn

from convforge.see.network import Network, NotThere
from convforge.see.pictures import InMemory, Pictures
from convforge.see.server import create_app
from convforge.see.verdict import Verdicts
from convforge.see.why import AddsUpNowhere, Why, cover

from .networks import SHAPE, Kinds, opened

GREY = (1, 12, 10)


def shown(shape: tuple[int, int, int]) -> Pictures:
    random = np.random.default_rng(0)
    images = [InMemory(f"image {n}", random.integers(0, 256, shape, np.uint8)) for n in range(2)]
    return Pictures([], shape, (0.5,) * shape[0], (0.25,) * shape[0], in_memory=images)


def asker(make: Any, shape: tuple[int, int, int] = GREY) -> tuple[Why, Network, Pictures]:
    network, pictures = opened(make, shape), shown(shape)
    return Why(network, pictures, Verdicts(network, pictures)), network, pictures


def vgg() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(6, 4),
    )  # fmt: skip


def flattened() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 5, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 5 * 4, 3, bias=False))


def squeezed() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )


def of_maps() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Conv2d(6, 4, 1), nn.Flatten())


class Functions(nn.Module):
    """The mean and the activation before it are no modules."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 6, 3), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.conv(x)).mean((2, 3)))


@pytest.mark.parametrize("make", [vgg, flattened, squeezed, of_maps, Functions])
def test_places_and_bias_are_the_logit(make: Any) -> None:
    why, network, pictures = asker(make)
    for image in range(2):
        with torch.no_grad():
            logits = network.model(pictures.input(image)[None])[0].double()
        for of in range(len(logits)):
            found = why.of(image, of)
            assert found.by_place.sum() + found.bias == pytest.approx(float(logits[of]), abs=1e-5, rel=1e-5)
            assert found.by_place.size > 1
            for against in range(len(logits)):
                compared = why.of(image, of, against)
                wanted = float(logits[of] - logits[against])
                assert compared.by_place.sum() + compared.bias == pytest.approx(wanted, abs=1e-5, rel=1e-5)


def test_the_network_of_every_kind_adds_up_too() -> None:
    why, _, _ = asker(Kinds, SHAPE)
    found = why.of(0, 2)
    assert found.by_place.sum() + found.bias == pytest.approx(found.logit, abs=1e-5)


def test_a_place_is_the_linear_layers_products_there() -> None:
    why, network, pictures = asker(vgg)
    model: Any = network.model
    with torch.no_grad():
        maps = model[:4](pictures.input(0)[None])[0].double()
    found = why.of(0, 1)
    expected = (maps * model[7].weight[1].double()[:, None, None]).sum(0) / maps[0].numel()
    assert np.allclose(found.by_place, expected.detach())
    carried, total = why.carried(found, 3, 2, 6)
    assert total == pytest.approx(float(expected[3, 2]))
    for one in carried:
        assert one.value == pytest.approx(one.activation * one.weight)
        assert one.activation == pytest.approx(float(maps[one.channel, 3, 2]))
    assert [abs(one.value) for one in carried] == sorted((abs(one.value) for one in carried), reverse=True)
    carried, total = why.carried(found, None, None, 6)
    assert total == pytest.approx(found.by_place.sum())
    assert carried[0].value == pytest.approx(carried[0].activation * carried[0].weight)
    with pytest.raises(NotThere, match="no place 9, 0: the maps are 6×5"):
        why.carried(found, 9, 0, 1)


def test_a_channel_leads_to_the_convolution_whose_number_it_is() -> None:
    why, network, pictures = asker(vgg)
    found = why.of(0, 0)
    model: Any = network.model
    with torch.no_grad():
        convolved = model[0](pictures.input(0)[None])[0]
    for channel in range(6):
        place = why.origin(0, found.layer, channel, 2, 1)
        assert place is not None
        assert (place.layer, place.channel) == (0, channel)
        assert (place.row // 2, place.column // 2) == (2, 1)
        window = convolved[channel, 4:6, 2:4]
        assert float(convolved[channel, place.row, place.column]) == float(window.max()) or float(window.max()) < 0.5


class Joined(nn.Module):
    """A sum that is written over its first summand, and maps that are put together."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.other = nn.Conv2d(1, 3, 3), nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 2, 1)
        self.relu, self.head = nn.ReLU(inplace=True), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.body(x)
        y += x
        y = self.relu(y)
        return self.head(torch.cat([y, self.other(y)], 1).mean((2, 3)))


def test_a_channel_leads_through_sums_and_not_astray_through_maps_that_were_put_together() -> None:
    why, network, _ = asker(Joined)
    found = why.of(0, 1)
    assert found.by_place.sum() + found.bias == pytest.approx(found.logit, abs=1e-5)
    places = [why.origin(0, found.layer, channel, 2, 3) for channel in range(5)]
    names = [place and network.layers[place.layer].name for place in places]
    assert names == ["body", "body", "body", None, None]


def test_what_does_not_end_so_is_said_not_to_add_up() -> None:
    def two() -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(320, 8), nn.ReLU(), nn.Linear(8, 3))

    why, network, pictures = asker(two)
    with pytest.raises(AddsUpNowhere, match="does not end in a mean over maps and a linear layer"):
        why.of(0, 0)
    client = TestClient(create_app(network, pictures, 80, None), base_url="http://127.0.0.1")
    answer = client.get("/api/why?image=0&of=0").json()
    assert answer["values"] is None
    assert answer["layers"] == [0]
    with pytest.raises(NotThere, match="there is no class 3: there are 3"):
        why.of(0, 3)


def test_layercam_is_activation_times_its_positive_gradient() -> None:
    why, network, pictures = asker(vgg)
    model: Any = network.model
    for layer in (0, 2, 3):
        found = why.of(0, 1, 2, method="layercam", layer=layer)
        with torch.enable_grad():
            maps = model[: layer + 1](pictures.input(0)[None].requires_grad_())
            logits = model[layer + 1 :](maps.clone())[0]
            (gradient,) = torch.autograd.grad(logits[1] - logits[2], maps)
        expected = (maps * gradient.clamp_min(0))[0].detach()
        assert np.allclose(found.values, expected, atol=1e-6), layer
    assert not any(parameter.requires_grad for parameter in network.model.parameters())


def test_occlusion_covers_each_place_once_and_says_what_is_lost() -> None:
    _, network, pictures = asker(vgg)
    image = pictures.input(1)
    found = cover(network, image, lambda *_: None).lost(2, 0)
    with torch.no_grad():
        whole = network.model(image[None])[0]
        covered = image.clone()
        covered[:, found.step * 3 : found.step * 3 + found.side, found.step * 2 : found.step * 2 + found.side] = 0
        other = network.model(covered[None])[0]
    wanted = float((whole[2] - whole[0]) - (other[2] - other[0]))
    assert found.drops[3, 2] == pytest.approx(wanted, abs=1e-5)
    assert found.drops.shape == ((12 - found.side) // found.step + 1, (10 - found.side) // found.step + 1)
