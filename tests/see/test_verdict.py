"""What the network answers: classes and probabilities, from what the model returns, and the layer behind it."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient
from torch import nn

from convforge.see.network import Network
from convforge.see.pictures import InMemory, Pictures
from convforge.see.server import create_app
from convforge.see.verdict import NoClasses, Verdicts

from .networks import Kinds, opened

SHAPE = (3, 16, 16)
CLASSES = ("calm", "lively", "still", "loud", "wet")


def shown(label: str | None = None) -> Pictures:
    pixels = np.random.default_rng(0).integers(0, 256, SHAPE, np.uint8)
    return Pictures([], SHAPE, (0.5,) * 3, (0.25,) * 3, in_memory=[InMemory("one", pixels, label)])


def asked(network: Network, pictures: Pictures, address: str) -> Any:
    client = TestClient(create_app(network, pictures, 80, None), base_url="http://127.0.0.1")
    return client.get(address).json()


def test_the_answer_is_the_softmax_of_what_the_model_returns() -> None:
    network, pictures = opened(Kinds, SHAPE, classes=CLASSES), shown("loud")
    found = Verdicts(network, pictures).of(0)
    with torch.no_grad():
        logits = network.model(pictures.input(0)[None])[0]
    shares = logits.double().softmax(0)
    assert np.allclose(found.logits, logits)
    assert np.allclose(found.shares, shares, atol=1e-6)
    assert found.best(5) == shares.argsort(descending=True).tolist()
    assert network.layers[found.layer or 0].name == "head"
    assert found.truth == 3


def test_the_page_is_told_names_probabilities_and_the_truth() -> None:
    network, pictures = opened(Kinds, SHAPE, classes=CLASSES), shown("loud")
    answer = asked(network, pictures, "/api/answer?image=0&top=2")
    found = Verdicts(network, pictures).of(0)
    assert [entry["name"] for entry in answer["ranking"]] == [CLASSES[number] for number in found.best(2)]
    assert answer["ranking"][0]["probability"] == pytest.approx(found.shares.max())
    assert (answer["truth"]["name"], answer["right"]) == ("loud", found.best(1) == [3])
    assert answer["label"] == "loud"


def test_classes_without_names_are_called_by_their_numbers() -> None:
    answer = asked(opened(Kinds, SHAPE), shown("a folder"), "/api/answer?image=0")
    assert {entry["name"] for entry in answer["ranking"]} == set("01234")
    assert answer["label"] == "a folder"
    assert "truth" not in answer


def test_probabilities_are_taken_as_they_are() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Softmax(1))
    network, pictures = Network(model, SHAPE), shown()
    found = Verdicts(network, pictures).of(0)
    assert not found.are_logits
    with torch.no_grad():
        assert np.allclose(found.shares, model(pictures.input(0)[None])[0], atol=1e-7)


def test_maps_are_no_answer_in_classes() -> None:
    network = Network(nn.Conv2d(3, 4, 3), SHAPE)
    with pytest.raises(NoClasses, match="answers with 4×14×14, which is not one number a class"):
        Verdicts(network, shown()).of(0)
    answer = asked(network, shown(), "/api/answer?image=0")
    assert answer["ranking"] is None
    assert "4×14×14" in answer["why"]


def test_an_image_that_is_not_there_is_no_answer_without_classes() -> None:
    client = TestClient(create_app(opened(Kinds, SHAPE), shown(), 80, None), base_url="http://127.0.0.1")
    assert client.get("/api/answer?image=1").status_code == 404


def test_what_comes_after_the_last_layer_is_not_taken_for_it() -> None:
    class Doubled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.conv(x).mean((2, 3))) * 2

    torch.manual_seed(0)
    assert Verdicts(Network(Doubled(), SHAPE), shown()).of(0).layer is None


def test_images_in_memory_are_seen_as_they_are_and_drawn_in_grey_where_the_network_sees_grey() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (1, 8, 8), np.uint8)
    pictures = Pictures([], (1, 8, 8), (0.5,), (0.25,), in_memory=[InMemory("seven", pixels, "7")])
    assert (pictures.name(0), pictures.label(0), pictures[0].height) == ("seven", "7", 8)
    assert np.array_equal(pictures.pixels(0), pixels)
    for content in (pictures.original(0), pictures.thumbnail(0, 16)):
        with Image.open(BytesIO(content)) as image:
            assert image.mode == "L"
            assert np.array_equal(np.asarray(image), pixels[0])
    other = Pictures([], (1, 8, 8), (0.5,), (0.25,), in_memory=[InMemory("seven", 255 - pixels, "7")])
    assert other.fingerprint() != pictures.fingerprint()
    smaller = Pictures([], (3, 4, 4), (0.5,) * 3, (0.25,) * 3, in_memory=[InMemory("seven", pixels)])
    assert smaller.pixels(0).shape == (3, 4, 4)
