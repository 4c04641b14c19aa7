"""Networks with every kind of convolution, and a few photographs: what the tests of `see` look into."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from convforge.nn import Conv2d
from convforge.see.network import Network
from convforge.see.pictures import Pictures

SHAPE = (3, 48, 40)


class Kinds(nn.Module):
    """Depthwise, strided, dilated, grouped; a skip; layers that work in place, and one that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 7, 2, 3, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.dilated = nn.Conv2d(8, 12, 3, padding=2, dilation=2)
        self.grouped = nn.Conv2d(12, 8, (3, 5), (2, 1), padding=(0, 2), groups=4)
        self.twice = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.stem(x)))
        x = x + F.relu_(self.depthwise(x))
        x = self.relu(self.grouped(self.relu(self.dilated(x))))
        x = self.relu(self.twice(self.relu(self.twice(x))))
        return self.head(x.mean((2, 3)))


class TensorFlowsSame(nn.Conv2d):
    """A layer that pads in code of its own, more below and to the right."""

    def forward(self, input: Tensor) -> Tensor:
        return F.conv2d(F.pad(input, (0, 1, 0, 1)), self.weight, self.bias, self.stride)


class Standardised(nn.Conv2d):
    """A layer whose weights are computed in each call, and whose output is more than a convolution."""

    def forward(self, input: Tensor) -> Tensor:
        weight = (self.weight - self.weight.mean((1, 2, 3), True)) / self.weight.std((1, 2, 3), keepdim=True)
        return F.relu_(F.conv2d(input, weight, self.bias, self.stride, self.padding))


class Borders(nn.Module):
    """Everything that can be done at the border, and convolutions that are in no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.reflect = nn.Conv2d(3, 6, 5, padding=2, padding_mode="reflect")
        self.replicate = nn.Conv2d(6, 6, 3, 2, padding=(1, 0), padding_mode="replicate")
        self.circular = nn.Conv2d(6, 6, (1, 3), padding="same", dilation=(1, 3), padding_mode="circular", groups=2)
        self.outside = TensorFlowsSame(6, 8, 3, 2)
        self.standardised = Standardised(8, 8, 3, padding=1)
        self.free = nn.Parameter(torch.randn(6, 8, 2, 2) / 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.circular(F.relu(self.replicate(F.silu(self.reflect(x)))))
        x = self.standardised(self.outside(x))
        return F.conv2d(F.pad(x, (1, 0, 1, 0)), self.free).flatten(1)


def ours() -> nn.Module:
    """This package's own layers, with the padding that torch has not."""
    return nn.Sequential(
        Conv2d(3, 16, 3, padding="same", bias=False), nn.ReLU(inplace=True),
        Conv2d(16, 16, 3, 2, padding="same_ceil"), nn.ReLU(inplace=True),
        Conv2d(16, 32, 3, padding=((0, 2), (1, 0)), dilation=2, groups=4), nn.ReLU(inplace=True),
        Conv2d(32, 32, 5, padding="same_half", groups=32), nn.AvgPool2d(2), Conv2d(32, 8, 1),
    )  # fmt: skip


NETWORKS: dict[str, Any] = {"kinds": Kinds, "borders": Borders, "ours": ours}


def opened(make: Any, shape: tuple[int, int, int] = SHAPE, **settings: Any) -> Network:
    """A network with weights that are the same every time, and batch norms that have seen images."""
    torch.manual_seed(0)
    model = make()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.running_mean, std=0.1)
    return Network(model, shape, **{"mean": (0.5,) * shape[0], "std": (0.25,) * shape[0]} | settings)


def photographs(folder: Path) -> Path:
    """Four pictures of different sizes and modes, in a folder."""
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(0)
    for name, size, mode in (
        ("wide.png", (90, 60), "RGB"), ("tall.jpg", (40, 80), "RGB"), ("grey.png", (64, 64), "L"),
        ("clear.webp", (50, 50), "RGBA"),
    ):  # fmt: skip
        coarse = random.integers(0, 256, (6, 6, len(mode)), np.uint8)
        image = Image.fromarray(coarse[..., 0] if mode == "L" else coarse)
        image.resize(size, Image.Resampling.BICUBIC).save(folder / name)
    return folder


@pytest.fixture
def pictures(tmp_path: Path) -> Pictures:
    return Pictures([photographs(tmp_path / "photographs")], SHAPE, (0.5,) * 3, (0.25,) * 3)
