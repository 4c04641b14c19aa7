"""`convforge run`: a whole network from one file, on images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UserError
from ..shown import shown
from .numbers import a_channel, within
from .predictions import say
from .text import help_of

if TYPE_CHECKING:
    from ..inference.model import Model


def register(app: typer.Typer) -> None:
    app.command("run", help=help_of(run), no_args_is_help=True)(run)


def run(
    model: Annotated[
        Path, typer.Argument(help="An ONNX file, a bundle, or the folder that training wrote.", metavar="MODEL")
    ],
    images: Annotated[
        list[Path] | None, typer.Argument(help="Image files: PNG, JPEG, WebP, GIF, BMP, TIFF.", metavar="IMAGE…")
    ] = None,
    top: Annotated[
        int, typer.Option(callback=within(1), help="How many of the most probable classes to name for each image.")
    ] = 1,
    input: Annotated[
        str | None,
        typer.Option("--input", metavar="CxHxW", help="Size of the images, where an ONNX file leaves it open."),
    ] = None,
    mean: Annotated[
        str | None, typer.Option(metavar="A,B,C", help="What is taken from each channel of pixels from 0 to 1.")
    ] = None,
    std: Annotated[str | None, typer.Option(metavar="A,B,C", help="What each channel is then divided by.")] = None,
    classes: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Names of the classes, one a line, in the order of the outputs."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Answer in JSON, for another program to read.")] = False,
) -> None:
    """Run a whole network on images, as one program of machine code.

    A network that classifies names the most probable classes of each image. Of any other it is said what comes out:
    shapes, smallest and largest number. Without images, what the network consists of is listed step by step, with the
    algorithm that does it.

    Runs and bundles know how their images are normalised and what the classes are called; so do ONNX files that
    convforge export has written. For others, --mean and --std say it: for networks that were trained on ImageNet mostly
    0.485,0.456,0.406 and 0.229,0.224,0.225, for pixels from 0 to 1 as they are 0,0,0 and 1,1,1.

    ONNX files and bundles run without PyTorch.

    [bold]Examples[/]

      convforge run pets.bundle cat.jpg --top 3

      convforge run resnet50.onnx holiday/*.jpg --mean .485,.456,.406 --std .229,.224,.225 --classes imagenet.txt

      convforge run resnet50.onnx
    """
    from ..models.load import load
    from ..models.sizes import parse_shape

    network = load(
        model,
        parse_shape(input) if input is not None else None,
        classes=_names(classes) if classes is not None else None,
        mean=a_channel(mean, "--mean"),
        std=a_channel(std, "--std"),
    )
    if not images:
        report = network.report()
        typer.echo(json.dumps(report.to_json(), indent=2) if as_json else shown_lines(str(report)))
    elif network.classifies:
        say(network.predict(images, top), as_json)
    else:
        _say_outputs([_outputs(network, image) for image in images], as_json)


def shown_lines(text: str) -> str:
    """Text of several lines in which names from a file stand."""
    return "\n".join(map(shown, text.splitlines()))


def _names(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no text in UTF-8"
        raise UserError(
            f"{shown(path)} cannot be read ({reason}): give a file with the name of a class a line."
        ) from error


def _outputs(network: Model, image: Path) -> dict[str, Any]:
    """What the network makes of an image, in numbers, or the sentence that says why there is nothing."""
    try:
        made = network.outputs_of(image)
    except UserError as mistake:
        return {"image": str(image), "error": str(mistake)}
    outputs = [
        {"shape": list(y.shape), "smallest": float(y.min()), "largest": float(y.max()), "mean": float(y.mean())}
        for y in made
    ]
    return {"image": str(image), "outputs": outputs}


def _say_outputs(answers: list[dict[str, Any]], as_json: bool) -> None:
    errors = [answer for answer in answers if "error" in answer]
    for answer in errors:
        typer.echo(shown(f"error: {answer['error']}"), err=True)
    if as_json:
        found = [answer for answer in answers if "error" not in answer]
        typer.echo(json.dumps({"outputs": found, "errors": errors}, indent=2))
    else:
        for answer in answers:
            for y in answer.get("outputs", ()):
                shape = "×".join(map(str, y["shape"]))
                numbers = f"{y['smallest']:.4g} to {y['largest']:.4g}, mean {y['mean']:.4g}"
                typer.echo(f"{shown(answer['image'])}  {shape}  {numbers}")
    if errors:
        raise typer.Exit(2)
