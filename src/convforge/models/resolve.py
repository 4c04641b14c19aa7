"""MODEL, as commands take it, to a module: a checkpoint folder, a callable, timm, torchvision, or a line of layers."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import nn

from ..errors import UserError
from ..spec import SpecError
from . import lines

Shape: TypeAlias = tuple[int, int, int]

IMAGENET: Shape = (3, 224, 224)
"""What the lesson and torchvision's models look at: assumed where nothing else is said."""

FORMS = (
    "a folder with model.safetensors and architecture.json, package.module:callable, timm:NAME, torchvision:NAME, "
    "or a line of layers such as 'conv 64 3x3 same, relu, pool 2, linear 10'"
)
_PICKLES = (".pt", ".pth", ".ckpt", ".bin", ".pkl")


@dataclass(frozen=True)
class ResolvedModel:
    """A module, and the images it is for.

    Args:
        module: ready to be planned; of a line, on torch's meta device, which has shapes but no memory.
        input_shape: (C, H, W).
        assumed: whether `input_shape` is only this package's guess.
        title: what to call it in a heading.
    """

    module: nn.Module
    input_shape: Shape
    assumed: bool
    title: str


def parse_shape(text: str) -> Shape:
    """(C, H, W) as written on the command line.

    >>> parse_shape("3x224x224")
    (3, 224, 224)

    Raises:
        UserError: if it is something else.
    """
    numbers = re.split(r"[x×,*]", text.strip().lower())
    if len(numbers) != 3 or not all(re.fullmatch(r"\s*0*[1-9][0-9]{0,8}\s*", n) for n in numbers):
        raise UserError(f"the input size must be channels x height x width such as 3x224x224, not {text!r}.")
    channels, height, width = (int(n) for n in numbers)
    return channels, height, width


def resolve(model: str, input_shape: Shape | None = None) -> ResolvedModel:
    """The module that `model` names, for images of `input_shape` if that is given.

    Code is run only for `package.module:callable`, which asks for it; a checkpoint is data.

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
        return _timm(name, input_shape)
    if prefix == "torchvision" and name:
        return _torchvision(name, input_shape)
    if re.fullmatch(r"[^\W\d][\w.]*:[^\W\d][\w.]*", text):
        return _callable(prefix, name, input_shape)
    if os.sep in text and "," not in text and " " not in text:
        raise UserError(f"there is no folder {text!r}; MODEL can be {FORMS}.")
    return _line(text, input_shape)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a long line is not a path
        return False


def _line(text: str, input_shape: Shape | None) -> ResolvedModel:
    shape = input_shape or IMAGENET
    try:
        with torch.device("meta"):  # shapes without memory: a line can describe more than this machine holds
            module = lines.parse(text, shape)
    except UserError as error:
        if "," in text or " " in text:
            raise
        raise UserError(f"{text!r} is not a model: it can be {FORMS}.") from error
    except SpecError as error:
        if input_shape is not None:
            raise
        raise SpecError(f"{error} The input was taken to be {_written(IMAGENET)}; --input says otherwise.") from None
    except RuntimeError as error:
        raise UserError(f"a layer of {text!r} has more weights than any computer can count in 64 bits.") from error
    return ResolvedModel(module, shape, input_shape is None, text)


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
    return ResolvedModel(module, input_shape or architecture.input_shape, False, str(path))


def _callable(module_name: str, name: str, input_shape: Shape | None) -> ResolvedModel:
    text = f"{module_name}:{name}"
    if input_shape is None:
        raise UserError(f"the size of the images for {text!r} is not known: say it, for example --input 3x224x224.")
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
    if not isinstance(found, nn.Module):
        if not callable(found):
            raise UserError(f"{text!r} is {type(found).__name__}: name a model, or a function or class that makes one.")
        try:
            found = found()
        except Exception as error:
            raise UserError(
                f"{text!r} could not be called without arguments ({_reason(error)}): "
                "name a function that takes none and returns the model."
            ) from error
    if not isinstance(found, nn.Module):
        raise UserError(f"{text!r} made {type(found).__name__}, not a torch.nn.Module.")
    return ResolvedModel(found, input_shape, False, text)


def _timm(name: str, input_shape: Shape | None) -> ResolvedModel:
    timm = _optional("timm", f"timm:{name}")
    try:
        module = timm.create_model(name, pretrained=False)
    except Exception as error:
        raise UserError(f"timm cannot make {name!r}: {_reason(error)}") from error
    own = tuple((getattr(module, "default_cfg", None) or {}).get("input_size", ()))
    shape = input_shape or (own if len(own) == 3 else IMAGENET)
    return ResolvedModel(module, shape, input_shape is None and len(own) != 3, f"timm:{name}")


def _torchvision(name: str, input_shape: Shape | None) -> ResolvedModel:
    torchvision = _optional("torchvision", f"torchvision:{name}")
    try:
        module = torchvision.models.get_model(name, weights=None)
    except Exception as error:
        raise UserError(f"torchvision cannot make {name!r}: {_reason(error)}") from error
    return ResolvedModel(module, input_shape or IMAGENET, input_shape is None, f"torchvision:{name}")


def _optional(package: str, asked: str) -> Any:
    try:
        return import_module(package)
    except ImportError as error:
        raise UserError(f"{asked!r} needs {package}, which is not installed: pip install {package}.") from error


def _reason(error: Exception) -> str:
    first = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def _written(shape: Shape) -> str:
    return "x".join(str(n) for n in shape)
