"""`convforge run`: a whole network from one file, on images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UserError
from ..shown import shown
from .answering import CLASSES, INPUT, JSON, MEAN, MODEL, STD, TOP, files_of, opened
from .predictions import leave_out, say
from .text import help_of

if TYPE_CHECKING:
    from ..inference.model import Model


def register(app: typer.Typer) -> None:
    app.command("run", help=help_of(run), no_args_is_help=True)(run)


def run(
    model: MODEL,
    images: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Image files (PNG, JPEG, WebP, GIF, BMP, TIFF), and folders with such in them.", metavar="IMAGE"
        ),
    ] = None,
    top: TOP = 1,
    input: INPUT = None,
    mean: MEAN = None,
    std: STD = None,
    classes: CLASSES = None,
    as_json: JSON = False,
) -> None:
    """Run a whole network on images, as one program of machine code.

    Without images, what the network consists of is listed step by step, with the algorithm that does it. A network that
    classifies names the most probable classes of each image, as convforge predict does, which also writes thousands of
    answers into a file. Of any other network it is said what comes out: shapes, smallest and largest number.

    Runs and bundles know how their images are normalised and what the classes are called; so do ONNX files that
    convforge export has written. For others, --mean and --std say it: for networks that were trained on ImageNet mostly
    0.485,0.456,0.406 and 0.229,0.224,0.225, for pixels from 0 to 1 as they are 0,0,0 and 1,1,1.

    ONNX files and bundles run without PyTorch. Images that cannot be read are left out and named at the end; the exit
    status is 2 then.

    [bold]Examples[/]

      convforge run pets.bundle cat.jpg --top 3

      convforge run resnet50.onnx holiday/*.jpg --mean .485,.456,.406 --std .229,.224,.225 --classes imagenet.txt

      convforge run resnet50.onnx
    """
    network = opened(model, input, mean, std, classes)
    if not images:
        report = network.report()
        typer.echo(json.dumps(report.to_json(), indent=2) if as_json else shown_lines(str(report)))
        return
    files = files_of(images)
    if network.classifies:
        say(network, files, top, as_json)
    else:
        _say_outputs([_outputs(network, image) for image in files], as_json)


def shown_lines(text: str) -> str:
    """Text of several lines in which names from a file stand."""
    return "\n".join(map(shown, text.splitlines()))


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
    if as_json:
        found = [answer for answer in answers if "error" not in answer]
        typer.echo(json.dumps({"outputs": found, "errors": errors}, indent=2))
    else:
        for answer in answers:
            for y in answer.get("outputs", ()):
                shape = "×".join(map(str, y["shape"]))
                numbers = f"{y['smallest']:.4g} to {y['largest']:.4g}, mean {y['mean']:.4g}"
                typer.echo(f"{shown(answer['image'])}  {shape}  {numbers}")
    leave_out([answer["error"] for answer in errors], len(answers))
