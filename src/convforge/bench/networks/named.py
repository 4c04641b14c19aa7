"""A network from its name, the same one in every process that asks.

Weights are drawn, and so are the statistics of batch norms: with those of a fresh model (mean 0, variance 1) it would
not matter whether a runtime folds them rightly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ...errors import UserError
from ...models.export import with_plain_convolutions
from ...models.resolve import resolve
from .published import PUBLISHED

Shape = tuple[int, int, int]
_IMAGENET = (3, 224, 224)


@dataclass(frozen=True, slots=True)
class Case:
    """A network, the size of its images, how many at once, and a folder for its files."""

    name: str
    image: Shape
    batch: int
    folder: Path

    @property
    def is_file(self) -> bool:
        """Whether it is an ONNX file; then there is no torch module."""
        return is_file(self.name)

    @property
    def title(self) -> str:
        return Path(self.name).name if self.is_file else self.name

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (self.batch, *self.image)

    def images(self) -> NDArray[np.float32]:
        """`(N, C, H, W)`, random."""
        return np.random.default_rng(1).standard_normal(self.shape, np.float32)

    def module(self) -> nn.Module:
        """In eval mode, without gradients, of torch's own layers.

        Raises `UserError` where there is no such network.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            module = with_plain_convolutions(_maker(self.name, self.image)()).eval().requires_grad_(False)
            for layer in module.modules():
                if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                    _draw(layer)
        return module


def is_file(name: str) -> bool:
    """Whether this names an ONNX file."""
    return name.endswith(".onnx")


def image_of(name: str, image: Shape | None, size: tuple[int, int] | None) -> Shape:
    """The size of the images for a network: `image` or height and width where they are said, else its own.

    Raises `UserError` where it has none, or there is no such network or file.
    """
    if image is not None:
        return image
    if is_file(name):
        own = _file_image(name)
    elif ":" in name and name.partition(":")[0] not in _PACKAGES and size is None:
        raise UserError(f"the size of the images for {name!r} is not known: say it with --input or --size.")
    else:
        own = _IMAGENET
    return own if size is None else (own[0], *size)


def _file_image(name: str) -> Shape:
    from ...graph.onnx import read

    if not Path(name).is_file():
        raise UserError(f"there is no file {name!r}.")
    inputs = read(name).inputs
    if len(inputs) != 1 or len(next(iter(inputs.values()))) != 4:
        told = ", ".join(f"{key} {shape}" for key, shape in inputs.items())
        raise UserError(f"{name} takes {told}; a network to be measured takes one batch of images (N, C, H, W).")
    _, channels, height, width = next(iter(inputs.values()))
    return channels, height, width


def _maker(name: str, image: Shape) -> Callable[[], nn.Module]:
    """What makes a network, with drawn weights."""
    if name in PUBLISHED:
        return PUBLISHED[name]
    package, _, rest = name.partition(":")
    if rest and package in _PACKAGES:
        return lambda: _from(package, rest)
    if ":" in name or "," in name or " " in name or Path(name).exists():
        return lambda: resolve(name, image, ready=True).module
    found = [package for package in _PACKAGES if find_spec(package)]
    for package in found:
        if _knows(package, name):
            return lambda: _from(package, name)
    searched = f"; {', '.join(found)} {'have' if len(found) > 1 else 'has'} none of that name either" if found else ""
    raise UserError(
        f"there is no network {name!r}: built in are {', '.join(PUBLISHED)}{searched}. Other names are those of "
        f"{', '.join(_PACKAGES)} where they are installed, package.module:callable, an ONNX file, or a line such as "
        "'conv 8 3x3, relu, gap, linear 2'."
    )


def _knows(package: str, name: str) -> bool:
    try:
        if package == "pytorchcv":
            return name.lower() in import_module("pytorchcv.model_provider")._models
        models: Any = import_module("timm" if package == "timm" else "torchvision.models")
    except ImportError:  # installed without what it needs itself, as torchvision beside another torch
        return False
    return name in models.list_models()


def _from(package: str, name: str) -> nn.Module:
    try:
        made: nn.Module = _PACKAGES[package](name)
    except ImportError as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{name!r} needs {package}, which cannot be imported ({reason}): install it.") from error
    except Exception as error:  # each has its own kinds for names that it does not know
        raise UserError(f"{package} cannot make {name!r}: {next(iter(str(error).splitlines()), error)}") from error
    return made


_PACKAGES: dict[str, Callable[[str], Any]] = {
    "torchvision": lambda name: import_module("torchvision.models").get_model(name, weights=None),
    "timm": lambda name: import_module("timm").create_model(name, pretrained=False),
    "pytorchcv": lambda name: import_module("pytorchcv.model_provider").get_model(name, pretrained=False),
}
"""In the order in which they are asked for a name."""


def _draw(norm: Any) -> None:
    """Statistics and affine numbers as of a trained network: of all signs and sizes near 1."""
    for numbers, low, high in (
        (norm.running_mean, -0.3, 0.3), (norm.running_var, 0.5, 1.5), (norm.weight, 0.7, 1.3), (norm.bias, -0.3, 0.3),
    ):  # fmt: skip
        if numbers is not None:
            numbers.uniform_(low, high)
