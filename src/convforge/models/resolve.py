"""MODEL, as commands take it, to a module: a checkpoint folder, a callable, timm, torchvision, or a line of layers."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import UserError
from ..spec import SpecError
from . import lines
from .sizes import IMAGENET, Shape

FORMS = (
    "a folder with model.safetensors and architecture.json, package.module:callable, timm:NAME, torchvision:NAME, "
    "or a line of layers such as 'conv 64 3x3 same, relu, pool 2, linear 10'"
)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""What torchvision's pretrained models were fed with."""

_DRAWN = "its weights are random, for nothing has trained it"
_MOST_DRAWN_BYTES = 2**31
_PICKLES = (".pt", ".pth", ".ckpt", ".bin", ".pkl")


@dataclass(frozen=True)
class ResolvedModel:
    """A module, and the images it is for.

    Args:
        module: ready to be planned; of a line, on torch's meta device, which has shapes but no memory.
        input_shape: (C, H, W).
        assumed: whether `input_shape` is only this package's guess.
        title: what to call it in a heading.
        mean, std: one number a channel; it is fed (pixel / 255 − mean) / std. None where nobody knows.
        classes: names in the order of the outputs; None where nobody knows.
        notes: sentences on what its weights are, where they are not what one might expect.
        unfit: of a line of which only the first layers fit, the sentence on the next one.
    """

    module: nn.Module
    input_shape: Shape
    assumed: bool
    title: str
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    classes: tuple[str, ...] | None = None
    notes: tuple[str, ...] = field(default=())
    unfit: str | None = None


def resolve(model: str, input_shape: Shape | None = None, ready: bool = False, partly: bool = False) -> ResolvedModel:
    """The module that `model` names, for images of `input_shape` if that is given.

    Code is run only for `package.module:callable`, which asks for it; a checkpoint is data. To count, no weights are
    needed: a `ready` model has some, pretrained ones where there are any. Of a line, the layers that fit are taken if
    `partly`, and the first that does not is told as `unfit`.

    Raises:
        UserError: if there is no such thing, with the forms that there are.
        SpecError: if a layer of a line does not fit.

    >>> resolve("conv 8 3x3, gap, linear 2", (1, 7, 7)).title
    'conv 8 3x3, gap, linear 2'
    """
    text = model.strip()
    if not text:
        raise UserError(f"MODEL is empty; it can be {FORMS}.")
    path = Path(text)
    if _exists(path) or text.endswith(_PICKLES):
        return _checkpoint(path, input_shape)
    prefix, _, name = text.partition(":")
    if prefix == "timm" and name:
        return _timm(name, input_shape, ready)
    if prefix == "torchvision" and name:
        return _torchvision(name, input_shape, ready)
    if re.fullmatch(r"[^\W\d][\w.]*:[^\W\d][\w.]*", text):
        return _callable(prefix, name, input_shape)
    if os.sep in text and "," not in text and " " not in text:
        raise UserError(f"there is no folder {text!r}; MODEL can be {FORMS}.")
    return _line(text, input_shape, ready, partly)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a long line is not a path
        return False


def _line(text: str, input_shape: Shape | None, ready: bool, partly: bool) -> ResolvedModel:
    shape = input_shape or IMAGENET
    if short := re.fullmatch(r"\s*(\d+)\s*,\s*([\dx×]+)\s*,\s*(\d+)\s*,\s*([\dx×]+)\s*((?:,[^,]*)*)", text):
        channels, size, outputs, kernel, options = short.groups()
        sides = size if re.search("[x×]", size) else f"{size}x{size}"
        others = [word.strip() for word in options.split(",") if not word.strip().startswith("batch")]
        layer = " ".join(["conv", outputs, kernel, *filter(None, others)])
        raise UserError(
            f"{text!r} is how explain and bench take a layer: here write {layer!r} --input {channels}x{sides}."
        )
    unfit: str | None = None
    try:
        with torch.device("meta"):  # shapes without memory: a line can describe more than this machine holds
            module = lines.parse(text, shape)
    except UserError as error:
        if "," in text or " " in text:
            raise
        raise UserError(f"{text!r} is not a model: it can be {FORMS}.") from error
    except SpecError as error:
        taken = f" The input was taken to be {_written(IMAGENET)}; --input says otherwise."
        unfit = str(error) + (taken if input_shape is None else "")
        if not partly or not isinstance(error, lines.DoesNotFit):
            raise SpecError(unfit) from None
        module = error.fitting
    except RuntimeError as error:
        raise UserError(f"a layer of {text!r} has more weights than any computer can count in 64 bits.") from error
    if not ready:
        return ResolvedModel(module, shape, input_shape is None, text, unfit=unfit)
    size = sum(p.numel() * p.element_size() for p in module.parameters())
    if size > _MOST_DRAWN_BYTES:
        raise UserError(f"the weights of {text!r} would take {size / 2**30:,.1f} GiB: use fewer or smaller layers.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            module = lines.parse(text, shape)
        except lines.DoesNotFit as error:
            module = error.fitting
    return ResolvedModel(module, shape, input_shape is None, text, notes=(f"{_DRAWN}.",), unfit=unfit)


def _checkpoint(path: Path, input_shape: Shape | None) -> ResolvedModel:
    if path.suffix in _PICKLES:
        raise UserError(
            f"{str(path)!r} is a pickle, which can run any code when it is loaded, so it is not: write a function that "
            "builds the model and name it as package.module:callable, or give a folder with model.safetensors."
        )
    if not path.is_dir():
        raise UserError(f"{str(path)!r} is a file; a checkpoint is a folder with model.safetensors in it.")
    from . import checkpoint

    module, architecture = checkpoint.load(path)
    return ResolvedModel(
        module,
        input_shape or architecture.input_shape,
        False,
        str(path),
        architecture.mean,
        architecture.std,
        architecture.classes,
    )


def _callable(module_name: str, name: str, input_shape: Shape | None) -> ResolvedModel:
    text = f"{module_name}:{name}"
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = import_module(module_name)
    except Exception as error:
        raise UserError(f"{module_name!r} cannot be imported: {_reason(error)}") from error
    for part in name.split("."):
        if not hasattr(found, part):
            raise UserError(f"{module_name!r} has no {name!r}: check the part after the colon.")
        found = getattr(found, part)
    if not isinstance(found, nn.Module) and not callable(found):
        raise UserError(f"{text!r} is {type(found).__name__}: name a model, or a function or class that makes one.")
    if input_shape is None:
        raise UserError(f"the size of the images for {text!r} is not known: say it, for example --input 3x224x224.")
    if not isinstance(found, nn.Module):
        try:
            found = found()
        except Exception as error:
            raise UserError(
                f"{text!r} could not be called without arguments ({_reason(error)}): "
                "name a function that takes none and returns the model."
            ) from error
    if not isinstance(found, nn.Module):
        raise UserError(f"{text!r} made {type(found).__name__}, not a torch.nn.Module.")
    mean, std = _timm_normalisation(found, input_shape[0])
    return ResolvedModel(found, input_shape, False, text, mean, std)


def _timm(name: str, input_shape: Shape | None, ready: bool) -> ResolvedModel:
    timm = _optional("timm", f"timm:{name}")
    module, notes = _made("timm", name, ready, lambda trained: timm.create_model(name, pretrained=trained))
    own = tuple((getattr(module, "default_cfg", None) or {}).get("input_size", ()))
    shape = input_shape or (own if len(own) == 3 else IMAGENET)
    assumed = input_shape is None and len(own) != 3
    mean, std = _timm_normalisation(module, shape[0])
    classes = _timm_classes(module) if ready and not notes else None
    return ResolvedModel(module, shape, assumed, f"timm:{name}", mean, std, classes, notes)


def _timm_classes(module: nn.Module) -> tuple[str, ...] | None:
    """The names that timm has for the classes of the data set that a model was trained on, where it has them."""
    data = import_module("timm.data")
    subset = data.infer_imagenet_subset(module)
    if subset is None:
        return None
    info = data.ImageNetInfo(subset)
    return tuple(info.index_to_description(number) for number in range(info.num_classes()))


def _timm_normalisation(module: nn.Module, channels: int) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """What timm writes beside its models, and what others who follow it do: mean and std, (None, None) if there are
    none for so many channels."""
    found = getattr(module, "pretrained_cfg", None) or getattr(module, "default_cfg", None)
    if not isinstance(found, dict):
        return None, None
    mean, std = (tuple(found.get(name) or ()) for name in ("mean", "std"))
    return (mean, std) if len(mean) == len(std) == channels else (None, None)


def _torchvision(name: str, input_shape: Shape | None, ready: bool) -> ResolvedModel:
    models = _optional("torchvision", f"torchvision:{name}").models
    module, notes = _made(
        "torchvision", name, ready, lambda trained: models.get_model(name, weights="DEFAULT" if trained else None)
    )
    classes = None
    if ready and not notes:
        classes = tuple(models.get_model_weights(name).DEFAULT.meta.get("categories", ())) or None
    shape = input_shape or IMAGENET
    mean, std = (IMAGENET_MEAN, IMAGENET_STD) if shape[0] == len(IMAGENET_MEAN) else (None, None)
    return ResolvedModel(module, shape, input_shape is None, f"torchvision:{name}", mean, std, classes, notes)


def _made(
    package: str, name: str, trained: bool, make: Callable[[bool], nn.Module]
) -> tuple[nn.Module, tuple[str, ...]]:
    """The model with its trained weights, if these are wanted and to be had; a note if they are not to be had."""
    notes: tuple[str, ...] = ()
    if trained:
        try:
            return make(True), notes
        except Exception as error:  # no such weights, no network, no space: the bare model may still do
            notes = (f"{_DRAWN}: {package} has no trained ones to give ({why_not_fetched(error)}).",)
    try:
        return make(False), notes
    except Exception as error:
        raise UserError(f"{package} cannot make {name!r}: {_reason(error)}") from error


def _optional(package: str, asked: str) -> Any:
    try:
        return import_module(package)
    except ImportError as error:
        raise UserError(f"{asked!r} needs {package}, which is not installed: pip install {package}.") from error


def _reason(error: Exception) -> str:
    first = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def why_not_fetched(error: Exception) -> str:
    """Why weights could not be fetched, in a few words: some twenty types of errors, one meaning.

    >>> from urllib.error import URLError
    >>> why_not_fetched(URLError(ConnectionRefusedError(111, "Connection refused")))
    'Connection refused'
    """
    if type(error).__name__ == "LocalEntryNotFoundError":  # huggingface_hub's, whose own words fill five lines
        return "they are not in its cache, and the Hugging Face hub does not answer"
    cause = getattr(error, "reason", None)  # urllib's
    if isinstance(cause, OSError):
        error = cause
    words = getattr(error, "strerror", None) or str(error).strip().partition("\n")[0] or type(error).__name__
    return str(words).rstrip(".")[:200]


def _written(shape: Shape) -> str:
    return "x".join(str(n) for n in shape)
