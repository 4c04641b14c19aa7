"""The page as one file: what is in it is what the server says, and nothing else is needed."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convforge.errors import UserError
from convforge.see.export import chosen, export, opened_with, sent_back
from convforge.see.network import Network
from convforge.see.pictures import Pictures
from convforge.see.shelf import Shelf

from .networks import NETWORKS, SHAPE, opened, photographs

NOWHERE = Shelf(None)


@pytest.fixture(scope="module")
def network() -> Network:
    return opened(NETWORKS["kinds"])


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    first, second = (photographs(tmp_path_factory.mktemp("photographs") / name) for name in ("one", "two"))
    return Pictures([first, second], SHAPE, (0.5,) * 3, (0.25,) * 3)


@pytest.fixture(scope="module")
def page(network: Network, pictures: Pictures) -> str:
    return export(network, pictures, NOWHERE)


def stored(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="stored">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    result: dict[str, Any] = json.loads(found[1])
    return result


def numbers(answer: dict[str, Any]) -> Any:
    return np.frombuffer(b64decode(answer["base64"]), "<f4").reshape(answer["shape"])


def test_it_has_the_first_images_and_the_numbers_that_sums_are_made_of(
    page: str, network: Network, pictures: Pictures
) -> None:
    found = stored(page)
    assert [image["id"] for image in found["/api/network"]["json"]["images"]] == [0, 1, 2, 3]
    assert found["/api/images/3?view=input"]["type"] == "image/png"
    for layer in network.layers:
        if layer.convolution is None:
            assert f"/api/layers/{layer.index}/maps?image=0" not in found
            continue
        place = f"/api/layers/{layer.index}"
        moment = network.look(2, lambda: pictures.input(2), layer.index)
        for kind, tensor in (("maps", moment.output), ("input", moment.input)):
            assert tensor is not None
            assert found[f"{place}/{kind}?image=2"]["json"]["shape"] == list(tensor.shape[1:])
            values = numbers(found[f"{place}/{kind}/values?count=16&first=0&image=2"])
            assert np.array_equal(values, tensor[0, :16].numpy())
        assert np.array_equal(numbers(found[f"{place}/kernels/values"]), layer.convolution.weight.numpy())
        assert numbers(found[f"{place}/bias/values"]).shape == (layer.convolution.spec.out_channels,)
    assert found["/api/layers/0/kernels"]["json"]["names"]


def test_it_has_what_excites_the_channels_of_the_layers_that_it_opens_with(page: str, network: Network) -> None:
    found = stored(page)
    layers = opened_with(network)
    assert [layer.name for layer in layers] == ["stem", "dilated", "twice"]
    for layer in layers:
        result = found[f'job {{"channel":1,"count":9,"kind":"patches","layer":{layer.index}}}']["json"]
        for patch in result["patches"]:
            path, _, query = patch["src"].partition("?")
            assert found[f"{path}?{'&'.join(sorted(query.split('&')))}"]["type"] == "image/png"


def test_it_says_in_how_many_images_it_looked_and_has_a_picture_made_for_each_of_these_layers(
    page: str, network: Network
) -> None:
    found = stored(page)
    assert found["/api/network"]["json"]["searched"] == 8
    for layer in opened_with(network):
        active = found[f"/api/layers/{layer.index}/maps?image=0"]["json"]["order"][0]
        made = found[f'job {{"channel":{active},"kind":"ascent","layer":{layer.index}}}']["json"]
        assert made["src"].startswith("data:image/png;base64,")


def test_what_a_job_cannot_do_is_left_out_and_said(tmp_path: Path) -> None:
    network = opened(NETWORKS["borders"])
    said: list[str] = []
    pictures = Pictures([photographs(tmp_path / "a")], SHAPE, network.mean, network.std)
    found = stored(export(network, pictures, NOWHERE, say=said.append))
    assert "/api/layers/5/kernels" in found  # the convolution that is in no layer
    assert any(words.startswith("left out: ") for words in said)


def test_preferences_are_there_where_images_have_classes(tmp_path: Path) -> None:
    for name in ("calm", "lively"):
        photographs(tmp_path / name)
    network = opened(NETWORKS["kinds"])
    found = stored(export(network, Pictures([tmp_path], SHAPE, network.mean, network.std), NOWHERE))
    preferred = found['job {"channel":0,"kind":"classes","layer":0}']["json"]["classes"]
    assert {one["name"] for one in preferred} == {"calm", "lively"}


def test_it_refers_to_nothing_outside(page: str) -> None:
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", page)
    assert "default-src 'none'" in page
    assert not re.search(r"^\s*import\b", page, re.MULTILINE)


def test_a_small_file_has_the_layers_that_the_page_opens_with(network: Network) -> None:
    everything = chosen(network, 4, 10**9)
    assert [layer.index for layer in everything] == [layer.index for layer in network.layers if layer.convolution]
    some = chosen(network, 4, 600_000)
    assert {layer.index for layer in some} < {layer.index for layer in everything}
    assert network.layers[0] in some
    with pytest.raises(UserError, match="smaller --input"):
        chosen(network, 4, 10)


def test_what_losses_send_back_takes_nothing_from_the_layers_that_the_page_opens_with(network: Network) -> None:
    first = [layer.index for layer in opened_with(network)]
    assert [layer.index for layer in sent_back(network, 4, 10**9)] == first
    assert [layer.index for layer in chosen(network, 4, 600_000)][:1] == first[:1]
    assert sent_back(network, 4, 10) == []
    for most_bytes in (200_000, 400_000, 600_000, 800_000, 10**6):
        sent = sent_back(network, 4, most_bytes)
        size = sum(16 * (prod(one.map_shape) + one.convolution.weight.numel()) for one in sent if one.convolution)
        assert size <= most_bytes // 2
        there = chosen(network, 4, most_bytes - size)
        assert {layer.index for layer in sent} <= {layer.index for layer in there}


def test_names_cannot_end_the_data(tmp_path: Path) -> None:
    folder = photographs(tmp_path / "photographs")
    (folder / "wide.png").rename(folder / "<script>alert(1)<!--.png")
    network = opened(NETWORKS["ours"], name="</script><img src=x>")
    page = export(network, Pictures([folder], SHAPE, network.mean, network.std), NOWHERE, most_bytes=10**6)
    assert "<img src=x>" not in page
    assert stored(page)["/api/network"]["json"]["name"] == "</script><img src=x>"
