"""What `predict` and `run` share: the network that is asked, and the options that say what its file does not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from ..errors import UserError
from ..shown import shown
from .numbers import a_channel, within

if TYPE_CHECKING:
    from ..inference.model import Model

MODEL: TypeAlias = Annotated[
    Path,
    typer.Argument(
        help="The folder that training wrote, its checkpoint, an ONNX file, or a bundle.", metavar="MODEL"
    ),
]  # fmt: skip
TOP: TypeAlias = Annotated[
    int, typer.Option(callback=within(1), help="How many of the most probable classes to name for each image.")
]
INPUT: TypeAlias = Annotated[
    str | None, typer.Option("--input", metavar="CxHxW", help="Size of the images, where an ONNX file leaves it open.")
]
MEAN: TypeAlias = Annotated[
    str | None, typer.Option(metavar="A,B,C", help="What is taken from each channel of pixels from 0 to 1.")
]
STD: TypeAlias = Annotated[str | None, typer.Option(metavar="A,B,C", help="What each channel is then divided by.")]
CLASSES: TypeAlias = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Names of the classes, one a line, in the order of the outputs.")
]
JSON: TypeAlias = Annotated[bool, typer.Option("--json", help="Answer in JSON, for another program to read.")]


def opened(
    model: Path, input: str | None, mean: str | None, std: str | None, classes: Path | None, threads: int = 0
) -> Model:
    """The network, with what the command says of it. The arguments are those of the options."""
    from ..models.load import load

    return load(model, threads=threads, **said_of(input, mean, std, classes))


def said_of(input: str | None, mean: str | None, std: str | None, classes: Path | None) -> dict[str, Any]:
    """What `load` is told, as the options say it."""
    from ..models.sizes import parse_shape

    return {
        "input_shape": parse_shape(input) if input is not None else None,
        "classes": _names(classes) if classes is not None else None,
        "mean": a_channel(mean, "--mean"),
        "std": a_channel(std, "--std"),
    }


def files_of(images: list[Path]) -> list[Path]:
    """The files that are named, and those in the folders that are."""
    from ..images.folders import image_files

    found: list[Path] = []
    for path in images:
        found += image_files(path) if path.is_dir() else [path]
    return found


def _names(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no text in UTF-8"
        raise UserError(
            f"{shown(path)} cannot be read ({reason}): give a file with the name of a class a line."
        ) from error
