"""A pretrained network names twenty photographs of ImageNet as PyTorch does, by every way into the engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import convforge
from convforge.see.pictures import Pictures

from . import mobilenet
from .test_normalisation import imagenet

WAYS: dict[str, Callable[[Any, Tensor], Any]] = {
    "optimize": lambda model, x: convforge.optimize(model),
    "torch.compile": lambda model, x: torch.compile(model, backend="convforge", fullgraph=True),
    "compile": lambda model, x: convforge.compile(model, x),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_photograph_has_the_same_name(way: str) -> None:
    files, model = imagenet(), mobilenet.pretrained()
    pictures = Pictures(files, (3, 224, 224), mobilenet.MEAN, mobilenet.STD)
    x = torch.stack([pictures.input(number) for number in range(len(files))])
    torch._dynamo.reset()
    with torch.no_grad():
        wanted = model(x)
        run = WAYS[way](model, x[:1])
        found = [run(x), torch.cat([run(image[None]) for image in x[:2]])]
    assert len({int(k) for k in wanted.argmax(1)}) > 15
    for answer in found:
        right = wanted[: len(answer)]
        assert torch.equal(answer.argmax(1), right.argmax(1))
        assert (answer - right).norm() < 1e-5 * right.norm()
