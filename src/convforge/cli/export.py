"""`convforge export`: a trained network as a file that others can run."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..shown import shown
from .text import help_of

if TYPE_CHECKING:
    from ..models.checkpoint import Architecture

_FORMATS = ("bundle", "onnx", "torch", "safetensors")


def register(app: typer.Typer) -> None:
    app.command("export", help=help_of(export), no_args_is_help=True)(export)


def export(
    run: Annotated[Path, typer.Argument(help="The folder that training wrote, such as runs/mnist.", metavar="RUN")],
    to: Annotated[str, typer.Option(help="What kind of file; see above.", metavar="|".join(_FORMATS))],
    output: Annotated[
        Path | None, typer.Option(help="The file to write. By default in RUN, under its name.", metavar="FILE")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it is already there.")] = False,
    with_preprocessing: Annotated[
        bool,
        typer.Option(
            "--with-preprocessing", help="To onnx: scale, crop and normalise inside of the file; it takes pixels then."
        ),
    ] = False,
) -> None:
    """Write a trained network as a file that others can run, and prove that it answers the same.

    [bold]bundle[/]: what convforge run and convforge.load run as a whole, without PyTorch (.bundle)

    [bold]onnx[/]: plain ONNX operators, for ONNX Runtime and whatever else reads ONNX (.onnx)

    [bold]torch[/]: a torch.export program that plain PyTorch loads, without convforge and without its code (.pt2)

    [bold]safetensors[/]: the weights, for who has the model's code (.safetensors)

    Every file takes any number of images at once, in the size that was learned from. It expects them normalised,
    (pixel / 255 − mean) / std, as float32 (N, C, H, W), and answers with logits; how that is done with Pillow and NumPy
    is printed. Classes, input shape, mean and std travel in the file, as JSON under the key "convforge" or, in a
    bundle, in places of their own.

    With --with-preprocessing an ONNX file does that itself, in ordinary operators: it takes uint8 pixels (N, H, W, C)
    of any size, RGB or grey as the network's images are, scales them to cover what was learned from, crops them at the
    centre and normalises them, as convforge predict does.

    The file is loaded again and run on random input before it gets its name; the largest difference is printed.

    [bold]Examples[/]

      convforge export runs/mnist --to onnx

      convforge export runs/pets --to onnx --with-preprocessing

      convforge export runs/mnist --to torch --output digits.pt2

      convforge export runs/mnist --to bundle
    """
    from ..models.export import export as write

    made = write(run, to, output, force, with_preprocessing)
    typer.echo(f"wrote {shown(made.path)}, {made.size:,} bytes")
    typer.echo(
        f"ran it again: largest difference {made.difference:.2g}, where the largest output is {made.largest:.3g}"
    )
    path = repr(shown(made.path))
    if to == "bundle":
        command = f"convforge run {shlex.quote(shown(made.path))} image.png"
        typer.echo(f"to use it: convforge.load({path}).predict(['image.png']), or {command}")
    elif to == "safetensors":
        typer.echo(f"to use it: safetensors.torch.load_file({path}) gives the state_dict")
    else:
        typer.echo("\n  ".join(["to use it:", *_lines(made.architecture, to, path, with_preprocessing)]))


def _lines(architecture: Architecture, to: str, path: str, with_preprocessing: bool) -> list[str]:
    """A picture's file answered by the exported one, in lines of Python: prepared as `convforge predict` does it."""
    channels, height, width = architecture.input_shape
    mean, std = (", ".join(f"{n:.6g}" for n in numbers) for numbers in (architecture.mean, architecture.std))
    given = "pixels" if with_preprocessing else "images"
    network = f"onnxruntime.InferenceSession({path}).run(None, {{'{given}': {given}}})[0]"
    if to == "torch":
        network = f"torch.export.load({path}).module()(torch.from_numpy(images))"
    lines = [
        "import numpy as np",
        f"import {network.partition('.')[0]}",
        "from PIL import Image, ImageOps",
        f"picture = ImageOps.exif_transpose(Image.open('image.png')).convert('{'L' if channels == 1 else 'RGB'}')",
    ]
    if with_preprocessing:
        lines += [f"pixels = np.asarray(picture).reshape(1, picture.height, picture.width, {channels})"]
    else:
        lines += [
            f"picture = ImageOps.fit(picture, ({width}, {height}), Image.Resampling.BILINEAR)",
            f"pixels = np.asarray(picture).reshape(1, {height}, {width}, {channels}) / 255",
            f"images = ((pixels - [{mean}]) / [{std}]).astype(np.float32).transpose(0, 3, 1, 2)",
        ]
    return [*lines, f"logits = {network}"]
