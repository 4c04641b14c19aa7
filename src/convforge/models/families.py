"""The model families that `convforge train` knows: a small VGG, a small ResNet, the dense twin, any `timm:NAME` and
`torchvision:NAME`, lines of layers, and models that code of the user's own makes (`own`).

All take images of shape (N, C, H, W), for any C and any H, W ≥ 8, and return logits of shape (N, classes). The
convolutional ones halve the feature maps stage by stage until about 3×3 positions are left, average over them, and end
in one linear layer, so their parameters do not depend on the image size, only the number of stages does.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from math import log2
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..pytorch.modules import Conv2d
from . import own

SMALLEST_IMAGE = 8
LARGEST_IMAGE = 8192
# Limits keep a hostile architecture.json from building without end; no useful model of these families comes near.
_WIDEST, _DEEPEST, _MOST_CHANNELS, _MOST_CLASSES = 16384, 64, 64, 1_000_000
_STAGE_WIDTHS = (16, 32, 64, 128, 256, 256)
_DENSE_WEIGHTS_AT_MOST = 2**24


def build(family: str, *, classes: int, input_shape: tuple[int, int, int], **arguments: Any) -> nn.Module:
    """A freshly initialised model.

    Args:
        family: 'vgg', 'resnet', 'dense', 'line', 'callable', 'timm:NAME' or 'torchvision:NAME'.
        classes: how many logits come out.
        input_shape: (C, H, W) of the images.
        arguments: the family's own; what is left out is `default_arguments(family, input_shape)`.
            vgg: `widths`, channels of each stage; `convs`, convolutions in each stage; `first`, the size of the first
            layer's kernels, odd.
            resnet: `widths`; `blocks`, residual blocks in each stage; `first`.
            dense: `widths`, neurons of each hidden layer.
            line: `layers`, as `convforge plan` takes them; where no linear layer ends them, one is put behind.
            callable: `name`, package.module:callable, which must be trusted (`own`).

    Raises:
        UserError: for an unknown family or argument, or sizes that cannot be built.

    >>> model = build("vgg", classes=10, input_shape=(1, 28, 28))
    >>> model(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """
    channels, height, width = (_integer(size, "an input size", LARGEST_IMAGE) for size in input_shape)
    if channels > _MOST_CHANNELS:
        raise UserError(f"images of {channels} channels cannot be used; give them 1 (grey) or 3 (colour).")
    if min(height, width) < SMALLEST_IMAGE:
        raise UserError(
            f"images of {height}×{width} are too small; use at least {SMALLEST_IMAGE}×{SMALLEST_IMAGE}, "
            f"for example with --size {SMALLEST_IMAGE}."
        )
    _integer(classes, "the number of classes", _MOST_CLASSES)
    if family.startswith("timm:"):
        _no_arguments(family, arguments)
        return _timm(family.removeprefix("timm:"), classes, input_shape)
    if family.startswith("torchvision:"):
        _no_arguments(family, arguments)
        return _torchvision(family.removeprefix("torchvision:"), classes, input_shape)
    if family in ("line", "callable"):
        return own.build(family, arguments, classes, input_shape)
    settings = default_arguments(family, input_shape)
    if unknown := sorted(arguments.keys() - settings.keys()):
        raise UserError(f"the family {family!r} has no argument {unknown[0]!r}; it has {', '.join(sorted(settings))}.")
    settings |= arguments
    widths = _widths(settings.pop("widths"))
    depth = {name: _integer(value, name, _DEEPEST) for name, value in settings.items()}
    if depth.get("first", 1) % 2 == 0:
        raise UserError(f"the first kernels must be odd in size, to have a middle, not {depth['first']}.")
    if family == "dense":
        return Dense(input_shape, widths, classes)
    if min(height, width) < 2 ** len(widths):
        raise UserError(
            f"{len(widths)} stages halve a {height}×{width} image to nothing; give at most "
            f"{int(log2(min(height, width)))} widths."
        )
    return (Vgg if family == "vgg" else ResNet)(channels, widths, classes, **depth)


def default_arguments(family: str, input_shape: tuple[int, int, int]) -> dict[str, Any]:
    """The arguments that `build` uses for images of `input_shape` where nothing else is said. JSON-able.

    >>> default_arguments("vgg", (3, 224, 224))["widths"]
    [16, 32, 64, 128, 256, 256]
    """
    channels, height, width = input_shape
    # Halvings until about 3 positions are left: 28 → 14 → 7 → 3.
    stages = max(1, min(len(_STAGE_WIDTHS), int(log2(max(1, min(height, width)) / 3.5))))
    if family == "vgg":
        return {"widths": list(_STAGE_WIDTHS[:stages]), "convs": 2, "first": 3}
    if family == "resnet":
        return {"widths": list(_STAGE_WIDTHS[:stages]), "blocks": 1, "first": 3}
    if family == "dense":
        first = max(16, min(512, _DENSE_WEIGHTS_AT_MOST // (channels * height * width)))
        return {"widths": [first, 256]}
    if family.startswith(("timm:", "torchvision:")):
        return {}
    raise UserError(f"there is no model family {family!r}; use vgg, resnet, timm:NAME or torchvision:NAME.")


def named(model: str) -> tuple[str, dict[str, Any]]:
    """The family and the arguments that a name on the command line stands for, beside `default_arguments`.

    >>> named("resnet"), named("timm:resnet18")[0], named("conv 8 3x3, gap")
    (('resnet', {}), 'timm:resnet18', ('line', {'layers': 'conv 8 3x3, gap'}))
    """
    if model in ("vgg", "resnet", "dense") or model.startswith(("timm:", "torchvision:")):
        return model, {}
    if own.is_callable(model):
        return "callable", {"name": model}
    return "line", {"layers": model}


def check(model: str) -> None:
    """Raise `UserError` for a name that no images could make a model of: what is not installed or not written right is
    said before they are read."""
    if model.startswith("timm:"):
        name = model.removeprefix("timm:")
        if not known_to_timm(name).is_model(name.partition(".")[0]):
            raise UserError(f"timm has no model {name!r}; timm.list_models() shows the names.")
    elif model.startswith("torchvision:"):
        known_to_torchvision(model.removeprefix("torchvision:"))
    else:
        own.check(*named(model))


def _no_arguments(family: str, arguments: dict[str, Any]) -> None:
    if arguments:
        raise UserError(f"{family} takes no arguments of ours, not {', '.join(sorted(arguments))}.")


class Vgg(nn.Sequential):
    """Stages of 3×3 convolutions with batch norm and ReLU, each stage ended by 2×2 max pooling (Simonyan & Zisserman,
    2014, with the batch norm of 2015 and global average pooling in place of the two dense layers of 4,096)."""

    def __init__(self, channels: int, widths: Sequence[int], classes: int, convs: int, first: int) -> None:
        layers: list[nn.Module] = []
        for width in widths:
            for _ in range(convs):
                conv = _conv(channels, width, kernel=3 if layers else first)
                layers += [conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
                channels = width
            layers.append(nn.MaxPool2d(2))
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


class ResNet(nn.Module):
    """A stem and stages of basic residual blocks; every stage but the first halves the maps (He et al., 2015)."""

    def __init__(self, channels: int, widths: Sequence[int], classes: int, blocks: int, first: int) -> None:
        super().__init__()
        stem = _conv(channels, widths[0], kernel=first)
        self.stem = nn.Sequential(stem, nn.BatchNorm2d(widths[0]), nn.ReLU(inplace=True))
        self.stages = nn.Sequential(*_residual_stages(widths, blocks))
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], classes))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.stages(self.stem(images)))
        return logits


class Residual(nn.Module):
    """ReLU(x + F(x)) with F = convolution, norm, ReLU, convolution, norm; x goes through a 1×1 where shapes differ."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _conv(channels, width, stride),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            _conv(width, width),
            nn.BatchNorm2d(width),
        )
        self.skip: nn.Module = nn.Identity()
        if stride != 1 or channels != width:
            self.skip = nn.Sequential(Conv2d(channels, width, 1, stride=stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, images: Tensor) -> Tensor:
        return torch.relu(self.skip(images) + self.body(images))


class Dense(nn.Sequential):
    """The fully connected twin: every pixel to every neuron, with the same norm, ReLU and training as the others."""

    def __init__(self, input_shape: tuple[int, int, int], widths: Sequence[int], classes: int) -> None:
        channels, height, width = input_shape
        inputs = channels * height * width
        layers: list[nn.Module] = [nn.Flatten()]
        for neurons in widths:
            layers += [nn.Linear(inputs, neurons, bias=False), nn.BatchNorm1d(neurons), nn.ReLU(inplace=True)]
            inputs = neurons
        super().__init__(*layers, nn.Linear(inputs, classes))


def _conv(channels: int, width: int, stride: int = 1, kernel: int = 3) -> nn.Module:
    # No bias: the batch norm that follows would subtract it again.
    return Conv2d(channels, width, kernel, stride=stride, padding=kernel // 2, bias=False)


def _residual_stages(widths: Sequence[int], blocks: int) -> Iterator[nn.Module]:
    channels = widths[0]
    for stage, width in enumerate(widths):
        for block in range(blocks):
            yield Residual(channels, width, stride=2 if stage > 0 and block == 0 else 1)
            channels = width


def known_to_timm(name: str) -> Any:
    """The package timm, if it has a model of that name."""
    # Prefixes such as hf-hub: make timm fetch code and weights from elsewhere, which a checkpoint must not be able to.
    if not re.fullmatch(r"[A-Za-z0-9_.]+", name):
        raise UserError(f"{name!r} is not the name of a timm model; timm.list_models() shows the names.")
    try:
        import timm
    except ImportError:
        raise UserError(
            f"the model timm:{name} needs the package timm: pip install timm, or use vgg or resnet."
        ) from None
    return timm


def _timm(name: str, classes: int, input_shape: tuple[int, int, int]) -> nn.Module:
    timm = known_to_timm(name)
    sizes = {"num_classes": classes, "in_chans": input_shape[0], "pretrained": False}
    try:
        try:
            model: nn.Module = timm.create_model(name, img_size=input_shape[1:], **sizes)
        except TypeError:  # convolutional models work at any size and have no such argument
            model = timm.create_model(name, **sizes)
    except (RuntimeError, ValueError, TypeError, AssertionError) as reason:
        raise UserError(f"timm cannot build {name!r} for images of {_by(input_shape)}: {reason}") from reason
    return model


def known_to_torchvision(name: str) -> Any:
    """torchvision's models, if there is one of that name."""
    if not re.fullmatch(r"[A-Za-z0-9_]+", name):
        raise UserError(
            f"{name!r} is not the name of a torchvision model; torchvision.models.list_models() shows them."
        )
    try:
        from torchvision import models
    except ImportError:
        raise UserError(
            f"the model torchvision:{name} needs the package torchvision: pip install torchvision, or use vgg or "
            "resnet."
        ) from None
    if name not in models.list_models(module=models):
        close = difflib.get_close_matches(name, models.list_models(module=models), n=1)
        hint = f"; did you mean {close[0]}?" if close else "."
        raise UserError(f"torchvision has no model {name!r} that classifies images{hint}")
    return models


def _torchvision(name: str, classes: int, input_shape: tuple[int, int, int]) -> nn.Module:
    models = known_to_torchvision(name)
    settings = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
    if name in ("googlenet", "inception_v3"):
        settings |= {"aux_logits": False}  # they would answer with three tensors while they learn
    try:
        model: nn.Module = models.get_model(name, weights=None, num_classes=classes, **settings)
    except (RuntimeError, ValueError, TypeError, AssertionError) as reason:
        raise UserError(f"torchvision cannot build {name!r} for {classes} classes: {reason}") from reason
    if input_shape[0] != 3:
        raise UserError(f"torchvision:{name} takes images of three channels, not {input_shape[0]}.")
    return model


def _by(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))


def _widths(values: Any) -> list[int]:
    if not isinstance(values, (list, tuple)) or not 0 < len(values) <= _DEEPEST:
        raise UserError(f"widths must be a list of 1 to {_DEEPEST} integers, not {str(values)[:80]}.")
    return [_integer(value, "a width", _WIDEST) for value in values]


def _integer(value: Any, name: str, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise UserError(f"{name} must be an integer from 1 to {most:,}, not {str(value)[:80]}.")
    return value
