"""Every family, for every image size and channel count it promises."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from convforge.errors import UserError
from convforge.models.families import build, default_arguments


@pytest.mark.parametrize("family", ["vgg", "resnet", "dense"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 31), (1, 28, 28), (3, 64, 9), (3, 97, 65)])
def test_logits_and_gradients_for_any_image_size(family: str, shape: tuple[int, int, int]) -> None:
    model = build(family, classes=5, input_shape=shape)
    logits = model(torch.rand(2, *shape))
    assert logits.shape == (2, 5)
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("family", ["vgg", "resnet"])
def test_parameters_do_not_depend_on_the_image_size_where_the_stages_agree(family: str) -> None:
    def parameters(size: int) -> int:
        model = build(family, classes=10, input_shape=(3, size, size))
        return sum(parameter.numel() for parameter in model.parameters())

    assert parameters(28) == parameters(40)


def test_dense_twin_of_a_large_image_stays_within_memory() -> None:
    with torch.device("meta"):
        model = build("dense", classes=10, input_shape=(3, 1024, 1024))
    assert sum(parameter.numel() for parameter in model.parameters()) < 60_000_000


@pytest.mark.parametrize("family", ["vgg", "resnet", "dense"])
def test_defaults_are_what_build_uses(family: str) -> None:
    shape = (3, 32, 32)
    spelled_out = build(family, classes=3, input_shape=shape, **default_arguments(family, shape))
    assert str(spelled_out) == str(build(family, classes=3, input_shape=shape))


def test_the_arguments_change_the_model() -> None:
    deep = build("resnet", classes=3, input_shape=(3, 32, 32), widths=(8, 16), blocks=3)
    kernels = [tuple(layer.weight.shape) for layer in deep.modules() if isinstance(layer, nn.Conv2d)]
    assert kernels[0] == (8, 3, 3, 3)
    assert len(kernels) == 1 + 2 * 3 * 2 + 1  # stem, two convolutions a block, one 1×1 on the skip that widens


@pytest.mark.parametrize(
    ("family", "shape", "arguments", "named"),
    [
        ("vgg", (1, 7, 28), {}, "7×28"),
        ("vgg", (1, 28, 28), {"widths": [4] * 5}, "at most 4 widths"),
        ("vgg", (1, 28, 28), {"widths": []}, "widths"),
        ("vgg", (1, 28, 28), {"blocks": 2}, "blocks"),
        ("vgg", (1, 28, 28), {"convs": 0}, "convs"),
        ("vgg", (0, 28, 28), {}, "0"),
        ("alexnet", (1, 28, 28), {}, "alexnet"),
        ("timm:resnet18", (1, 28, 28), {"widths": [1]}, "widths"),
        ("timm:hf-hub:a/b", (1, 28, 28), {}, "hf-hub"),
    ],
)
def test_what_cannot_be_built_is_said(
    family: str, shape: tuple[int, int, int], arguments: dict[str, Any], named: str
) -> None:
    with pytest.raises(UserError, match=named):
        build(family, classes=2, input_shape=shape, **arguments)


def test_timm_missing_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(UserError, match="pip install timm"):
        build("timm:resnet18", classes=2, input_shape=(3, 32, 32))
