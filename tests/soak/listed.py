"""The networks of networks.toml, for the tests that take each of them."""

from __future__ import annotations

import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from convforge.bench.networks.named import Case

from . import architectures

NETWORKS: dict[str, Any] = tomllib.loads(Path(__file__).with_name("networks.toml").read_text(encoding="utf-8"))
_SIZES: list[list[int]] = NETWORKS.pop("sizes")


def sizes(entry: dict[str, Any]) -> list[list[int]]:
    """Heights and widths of the images."""
    found: list[list[int]] = entry.get("sizes", _SIZES)
    return found


def made(entry: dict[str, Any], folder: Path) -> nn.Module:
    """The network with drawn weights and statistics, for images of any size."""
    name, image = entry["make"], (entry.get("channels", 3), *sizes(entry)[0])
    with patch.object(np, "int", int, create=True):  # which pytorchcv's RegNets ask for, and NumPy has no more
        module = Case(name.replace("architectures:", f"{architectures.__name__}:"), image, 1, folder).module()
    for part in module.modules():
        if isinstance(getattr(part, "final_pool", None), nn.AvgPool2d):  # pytorchcv's, which is for images of 224×224
            part.final_pool = nn.AdaptiveAvgPool2d(1).eval()
    return module


def trained(entry: dict[str, Any], folder: Path) -> nn.Module:
    """The same in training mode, without what draws numbers, and without heads that need larger images."""
    model = made(entry, folder).train().requires_grad_(True)
    for part in model.modules():
        if isinstance(part, nn.Dropout) or type(part).__name__ == "StochasticDepth":
            part.p = 0.0
        if getattr(part, "aux_logits", False):
            part.aux_logits, part.AuxLogits = False, None
    return model


def images(entry: dict[str, Any], batch: int, size: list[int]) -> Tensor:
    draw = torch.Generator().manual_seed(batch)
    return torch.randn(batch, entry.get("channels", 3), *size, generator=draw)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """All networks in the long run, the short ones in the other."""
    long = metafunc.config.getoption("--soak")
    names = [name for name, entry in NETWORKS.items() if long or entry.get("short")]
    metafunc.parametrize("name", [pytest.param(name, marks=_skipped(NETWORKS[name]["make"])) for name in names])


def _skipped(maker: str) -> list[pytest.MarkDecorator]:
    package, _, rest = maker.partition(":")
    missing = rest and package != "architectures" and not find_spec(package)
    return [pytest.mark.skip(reason=f"{package} is not installed")] if missing else []
