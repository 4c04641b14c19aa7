"""`convforge export`: a trained network as a file that others can run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..shown import shown
from .text import help_of

_RUNS_IN = {
    "bundle": "convforge.load(path).predict(['image.png']), or convforge run",
    "onnx": "onnxruntime.InferenceSession(path).run(None, {'images': images})[0]",
    "torch": "torch.export.load(path).module()(images)",
    "safetensors": "safetensors.torch.load_file(path) gives the state_dict",
}


def register(app: typer.Typer) -> None:
    app.command("export", help=help_of(export), no_args_is_help=True)(export)


def export(
    run: Annotated[Path, typer.Argument(help="The folder that training wrote, such as runs/mnist.", metavar="RUN")],
    to: Annotated[str, typer.Option(help="What kind of file; see above.", metavar="|".join(_RUNS_IN))],
    output: Annotated[
        Path | None, typer.Option(help="The file to write. By default in RUN, under its name.", metavar="FILE")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it is already there.")] = False,
) -> None:
    """Write a trained network as a file that others can run, and prove that it answers the same.

    [bold]bundle[/]: what convforge run and convforge.load run as a whole, without PyTorch (.bundle)

    [bold]onnx[/]: plain ONNX operators, for ONNX Runtime and whatever else reads ONNX (.onnx)

    [bold]torch[/]: a torch.export program that plain PyTorch loads, without convforge and without its code (.pt2)

    [bold]safetensors[/]: the weights, for who has the model's code (.safetensors)

    Every file takes any number of images at once. It expects them normalised, (pixel / 255 − mean) / std, and answers
    with logits; classes, input shape, mean and std travel in the file, as JSON under the key "convforge" or, in a
    bundle, in places of their own.

    The file is loaded again and run on random input before it gets its name; the largest difference is printed.

    [bold]Examples[/]

      convforge export runs/mnist --to onnx

      convforge export runs/mnist --to torch --output digits.pt2

      convforge export runs/mnist --to bundle
    """
    from ..models.export import export as write

    made = write(run, to, output, force)
    typer.echo(f"wrote {shown(made.path)}, {made.size:,} bytes")
    typer.echo(
        f"ran it again: largest difference {made.difference:.2g}, where the largest output is {made.largest:.3g}"
    )
    typer.echo(f"to use it: {_RUNS_IN[to]}")
