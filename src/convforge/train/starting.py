"""What a network knows before it learns: nothing, what another run has learned, or what timm's and torchvision's
weights know. Taken over is every tensor that fits, but for the last layer's, whose classes are others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..models import checkpoint, families
from ..models.checkpoint import Architecture
from ..models.resolve import IMAGENET_MEAN, IMAGENET_STD, why_not_fetched
from ..shown import shown
from .freezing import last_layer
from .options import Options


@dataclass(frozen=True)
class Start:
    """Weights to begin with.

    Args:
        name: what to call them in a sentence.
        tensors: a state dict.
        mean, std: what images are normalised with for them.
        of: what they were part of, where that is a checkpoint.
    """

    name: str
    tensors: Mapping[str, Tensor]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    of: Architecture | None = None

    def architecture(self, new: Architecture) -> Architecture:
        """The `new` network's: of the family that the weights are of, fed as they were."""
        if self.of is None:
            return replace(new, mean=self.mean, std=self.std)
        return replace(new, family=self.of.family, arguments=self.of.arguments, mean=self.mean, std=self.std)

    def give(self, model: nn.Module, classes: tuple[str, ...]) -> str:
        """Put the weights into a model, as far as they fit, and say how many did.

        Raises:
            UserError: if none does.
        """
        own = model.state_dict()
        layer = last_layer(model)
        last = next((name for name, module in model.named_modules() if module is layer), "")
        same_classes = self.of is not None and self.of.classes == classes
        fitting = {
            name: tensor
            for name, tensor in self.tensors.items()
            if name in own
            and own[name].shape == tensor.shape
            and (same_classes or not last or not name.startswith(f"{last}."))
        }
        if not any(tensor.ndim > 1 for tensor in fitting.values()):
            raise UserError(f"none of the weights of {self.name} fits this network; start without them.")
        model.load_state_dict(fitting, strict=False)
        rest = sorted(own.keys() - fitting.keys())
        return f"{len(fitting)} of {len(own)} tensors are those of {self.name}" + (
            f"; {rest[0]} and {len(rest) - 1} more begin at random." if len(rest) > 1 else "."
        )


def start_of(options: Options) -> Start | None:
    """What the options say to begin with; None for random weights. Looked at before any image is read.

    Raises:
        UserError: if there is no such run, if the package has no such weights, or if they cannot be fetched.
    """
    if options.start is not None:
        folder = Path(options.start).expanduser()
        if options.model is not None:
            raise UserError("--from brings the run's own model; leave out --model.")
        if options.pretrained:
            raise UserError("a network starts from one set of weights: leave out --from or --pretrained.")
        model, architecture = checkpoint.load(folder)
        return Start(shown(folder), model.state_dict(), architecture.mean, architecture.std, architecture)
    if not options.pretrained:
        return None
    wanted = options.model or "vgg"
    if wanted.startswith("timm:"):
        return _of_timm(wanted)
    if wanted.startswith("torchvision:"):
        return _of_torchvision(wanted)
    raise UserError(
        f"there are no pretrained weights for {wanted}: --pretrained needs --model timm:NAME or torchvision:NAME; "
        "--from starts from a run of yours."
    )


def _of_timm(model: str) -> Start:
    timm = families.known_to_timm(model.removeprefix("timm:"))
    found = _fetched(model, lambda: timm.create_model(model.removeprefix("timm:"), pretrained=True), _hub_folder)
    config = getattr(found, "pretrained_cfg", None) or {}
    mean, std = (tuple(map(float, config.get(name) or ())) for name in ("mean", "std"))
    if len(mean) != 3 or len(std) != 3:
        mean, std = IMAGENET_MEAN, IMAGENET_STD
    return Start(f"the pretrained {model}", found.state_dict(), mean, std)


def _of_torchvision(model: str) -> Start:
    name = model.removeprefix("torchvision:")
    models = families.known_to_torchvision(name)
    found = _fetched(model, lambda: models.get_model(name, weights="DEFAULT"), torch.hub.get_dir)
    preset = models.get_model_weights(name).DEFAULT.transforms()
    mean, std = (tuple(map(float, getattr(preset, name, usual))) for name, usual in _PRESET)
    return Start(f"the pretrained {model}", found.state_dict(), mean, std)


_PRESET = (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD))


def _hub_folder() -> str:
    """Where the Hugging Face hub's files are kept, which timm's weights are."""
    from huggingface_hub import constants

    return str(constants.HF_HUB_CACHE)


def _fetched(model: str, make: Callable[[], Any], place: Callable[[], str]) -> nn.Module:
    try:
        found: nn.Module = make()
    # No network, no such weights, no space, a changed file: some twenty types, one meaning.
    except Exception as reason:
        raise UserError(
            f"the weights of {model} could not be loaded ({why_not_fetched(reason)}); they are fetched once and then "
            f"kept in {shown(place())}, so try again with a connection, or leave out --pretrained."
        ) from reason
    return found
