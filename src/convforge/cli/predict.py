"""`convforge predict`: which class is in an image, for one or for thousands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from ..errors import UserError
from ..shown import shown
from .answering import CLASSES, INPUT, JSON, MEAN, MODEL, STD, TOP, files_of, opened
from .many import many
from .numbers import within
from .predictions import say, write
from .text import help_of


class _Command(TyperCommand):
    """`--ray` by itself is `--ray local`."""

    def parse_args(self, context: Any, args: list[str]) -> list[str]:
        for at, word in enumerate(args):
            if word == "--ray" and (at + 1 == len(args) or args[at + 1].startswith("-")):
                args[at] = "--ray=local"
        return super().parse_args(context, args)


def register(app: typer.Typer) -> None:
    app.command("predict", help=help_of(predict), no_args_is_help=True, cls=_Command)(predict)


def predict(
    model: MODEL,
    images: Annotated[
        list[str],
        typer.Argument(
            help="Image files (PNG, JPEG, WebP, GIF, BMP, TIFF), and folders with such in them.", metavar="IMAGE"
        ),
    ],
    top: TOP = 1,
    csv: Annotated[
        Path | None,
        typer.Option("--csv", metavar="FILE", help="Write the answers as CSV, a row an image; - is the output."),
    ] = None,
    jsonl: Annotated[
        Path | None,
        typer.Option("--jsonl", metavar="FILE", help="Write them as JSON, a line an image; - is the output."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FOLDER", help="For very many images: write a folder of Parquet files."),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            "--ray", metavar="[ADDRESS]", help="With --out: answer by the Ray cluster there, or by one that is begun."
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(help="Threads of the network, in each process.", show_default="all cores", callback=within(1)),
    ] = None,
    as_json: JSON = False,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it is already there.")] = False,
    input: INPUT = None,
    mean: MEAN = None,
    std: STD = None,
    classes: CLASSES = None,
) -> None:
    """Name the class of each image, and how probable it is.

    The images are made the network's size and normalised exactly as in training: turned upright, transparency laid on
    white, scaled to cover the square that the network expects and cropped at the centre.

    Of a folder, all files in it and below are taken whose names end as those of images do. Any number may be asked for:
    some are read ahead while the network computes, and --csv and --jsonl write each answer when it is there. CSV has
    the columns image, class, probability, with --top 2 also class 2 and probability 2, and so on.

    Images that cannot be read are left out and named at the end, on the error output. The exit status is 2 then, and 0
    if all were answered.

    Of images without number, --out writes a folder of Parquet files, which pandas and others read as one table: image,
    class, probability, and error for what cannot be read. A file of it is there when it is whole, so the same command
    goes on after whatever has ended it, and each image is there once. Images may then also be WebDataset shards (.tar),
    Parquet files with images, .txt lists of names, and places such as s3://bucket/photos. Started by torchrun, several
    processes share the images; with --ray the machines of a cluster do (docs/scale.md).

    A network knows only what it was shown, so an image should look like the training images. One that learned from
    MNIST, white digits on black, misreads a photo of black ink on white paper; and every image gets one of the
    classes, even if it shows none of them.

    Runs, bundles and ONNX files of convforge export know their classes and how their images are normalised; of other
    ONNX files, --mean, --std, --classes and --input say it. To see what a network consists of, or what comes out of
    one that does not name classes, there is convforge run.

    [bold]Examples[/]

      convforge predict runs/mnist seven.png

      convforge predict runs/pets holiday/*.jpg --top 3

      convforge predict runs/pets holiday/ --csv holiday.csv

      convforge predict pets.onnx cat.jpg --json

      convforge predict pets.bundle shards/ --out answers.parquet --ray
    """
    if sum((csv is not None, jsonl is not None, out is not None, as_json)) > 1:
        raise UserError("--csv, --jsonl, --out and --json are forms of the same answers: give one of them.")
    if out is not None:
        many(model, images, out, ray, threads, top, force, (input, mean, std, classes))
        return
    if ray is not None:
        raise UserError("--ray writes a folder of files: say which, such as --out answers.parquet.")
    network = opened(model, input, mean, std, classes)
    if not network.classifies:
        raise UserError(
            f"{shown(model)} answers with something else than a number a class; convforge run says with what."
        )
    files = files_of([Path(image) for image in images])
    if csv is not None:
        write(network, files, top, csv, "csv", force)
    elif jsonl is not None:
        write(network, files, top, jsonl, "jsonl", force)
    else:
        say(network, files, top, as_json)
