"""`convforge predict`: which class is in an image."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .numbers import within
from .predictions import say
from .text import help_of


def register(app: typer.Typer) -> None:
    app.command("predict", help=help_of(predict), no_args_is_help=True)(predict)


def predict(
    run: Annotated[Path, typer.Argument(help="The folder that training wrote, such as runs/mnist.", metavar="RUN")],
    images: Annotated[
        list[Path], typer.Argument(help="Image files: PNG, JPEG, WebP, GIF, BMP, TIFF.", metavar="IMAGE…")
    ],
    top: Annotated[
        int, typer.Option(callback=within(1), help="How many of the most probable classes to name for each image.")
    ] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Answer in JSON, for another program to read.")] = False,
) -> None:
    """Name the class of each image, and how probable it is.

    The images are made the network's size and normalised exactly as in training: turned upright, transparency laid on
    white, scaled to cover the square that the network expects and cropped at the centre.

    A network knows only what it was shown, so an image should look like the training images. One that learned from
    MNIST, white digits on black, misreads a photo of black ink on white paper; and every image gets one of the
    classes, even if it shows none of them.

    An image that cannot be read is named on the error output, the others are still answered, and the exit status is 2.

    [bold]Examples[/]

      convforge predict runs/mnist seven.png

      convforge predict runs/pets holiday/*.jpg --top 3

      convforge predict runs/pets cat.jpg --json
    """
    from ..models.checkpoint import load
    from ..train.predict import predict as answers_for

    model, architecture = load(run)
    answers = list(answers_for(model, architecture, images, top))
    say(answers, as_json)
