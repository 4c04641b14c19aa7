"""Models of the user's own making, to learn with: lines of layers, and what a function of theirs returns.

A line is data. A function is code, and a checkpoint must not run any: one that names a function is only built where the
process was told to trust just that one, by the command line that names it or by the environment variable
CONVFORGE_TRUST.
"""

from __future__ import annotations

import os
import re
from typing import Any

import torch
from torch import nn

from ..errors import UserError
from ..spec import SpecError
from . import lines

TRUST = "CONVFORGE_TRUST"
_trusted: set[str] = set()


def is_callable(model: str) -> bool:
    """Whether a name has the form package.module:callable."""
    return re.fullmatch(r"[^\W\d][\w.]*:[^\W\d][\w.]*", model) is not None


def trust(name: str) -> None:
    """Let this process run the code that `name` stands for, for the user has named it."""
    _trusted.add(name)


def check(family: str, arguments: dict[str, Any]) -> None:
    """Raise `UserError` for what can be known to be wrong before there is an image."""
    if family == "callable":
        _made(arguments["name"], (3, 64, 64))
    elif family == "line":
        try:
            with torch.device("meta"):
                lines.parse(arguments["layers"], (3, 128, 128))
        except SpecError:
            pass  # whether its layers fit depends on the images


def build(family: str, arguments: dict[str, Any], classes: int, input_shape: tuple[int, int, int]) -> nn.Module:
    """The model, which answers with one number a class. Raises `UserError` or `SpecError` where it does not."""
    wanted = "layers" if family == "line" else "name"
    if arguments.keys() != {wanted} or not isinstance(arguments[wanted], str):
        raise UserError(f"the family {family!r} needs the argument {wanted!r} and no other.")
    if family == "line":
        return _line(arguments["layers"], classes, input_shape)
    model = _made(arguments["name"], input_shape)
    answers = _answers(model, input_shape)
    if answers != (1, classes):
        raise UserError(
            f"{arguments['name']} makes a model that answers with {'×'.join(map(str, answers))} for one image, but "
            f"there are {classes} classes: let it answer with {classes} numbers."
        )
    return model


def _line(layers: str, classes: int, input_shape: tuple[int, int, int]) -> nn.Module:
    model = lines.parse(layers, input_shape)
    last = list(model)[-1]
    if not isinstance(last, nn.Linear):
        return lines.parse(f"{layers.rstrip().rstrip(',')}, linear {classes}", input_shape)
    if last.out_features != classes:
        raise UserError(
            f"the line of layers ends in 'linear {last.out_features}', but there are {classes} classes: write "
            f"'linear {classes}', or leave it out."
        )
    return model


def _made(name: str, input_shape: tuple[int, int, int]) -> nn.Module:
    if name not in _trusted and os.environ.get(TRUST) != name:
        raise UserError(
            f"this network is made by {name}, code that loading a checkpoint does not run by itself: set the "
            f"environment variable {TRUST}={name} if it is yours."
        )
    from .resolve import resolve

    return resolve(name, input_shape).module


def _answers(model: nn.Module, input_shape: tuple[int, int, int]) -> tuple[int, ...]:
    training = model.training
    try:
        with torch.no_grad():
            found = model.eval()(torch.zeros(1, *input_shape, device=next(model.parameters()).device))
    except (RuntimeError, ValueError, TypeError, StopIteration) as reason:
        sentence = str(reason).strip().partition("\n")[0]
        raise UserError(f"the model cannot take images of {'×'.join(map(str, input_shape))}: {sentence}.") from reason
    finally:
        model.train(training)
    return tuple(found.shape)
