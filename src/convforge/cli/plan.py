"""`convforge plan`: count a model before anything runs."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from ..spec import SpecError
from .numbers import within

_HELP = """
Count a model before anything runs.

For each layer: kernel, stride, padding, output shape, receptive field (across skips), parameters, \
multiply-accumulates and memory; and beside each convolution the fully connected layer it stands for. Nothing is \
computed: a layer that does not fit is named, with the formula of its output size filled in.

[bold]MODEL[/] is one of

• a line of layers: [cyan]"conv 64 3x3 same, relu, pool 2, conv 128 3x3 same, gap, linear 10"[/]

• a folder that [cyan]convforge train[/] wrote: [cyan]runs/flowers[/]

• your own code, importable from the current directory: [cyan]package.module:callable[/], a model or what makes one

• [cyan]timm:NAME[/] or [cyan]torchvision:NAME[/], where those are installed

[bold]Layers of a line[/]

• conv OUT KxK \\[same|valid|same_ceil|same_half|pad P] \\[stride S] \\[dilation D] \\[groups G|depthwise] \\[nobias]

• as in PyTorch, too: stride=2, padding='same', padding=1, bias=False

• pool K, avgpool K, each \\[stride S] \\[pad P] · gap (global average) · flatten · linear N

• bn · dropout P · relu, relu6, gelu, silu, hardswish, sigmoid, tanh

[bold]Examples[/]

The lesson's layer, 1,728 weights where a dense layer has 150,528,000:
[cyan]convforge plan "conv 64 3x3 same nobias"[/]

7×7 → 5×5 → 3×3 → 1×1, and the fourth cannot be applied:
[cyan]convforge plan "conv 1 3x3, conv 1 3x3, conv 1 3x3, conv 1 3x3" --input 1x7x7[/]

For a program: [cyan]convforge plan torchvision:resnet50 --json[/]
"""


def register(app: typer.Typer) -> None:
    """Add the verb."""

    @app.command("plan", help=_HELP)
    def plan(
        model: Annotated[str, typer.Argument(metavar="MODEL", help="The model, in one of the forms above.")],
        input: Annotated[
            str | None,
            typer.Option(
                "--input",
                metavar="CxHxW",
                help="Channels, height and width of an image. A checkpoint brings its own; lines and torchvision's "
                "models are counted at 3x224x224 if nothing is said.",
            ),
        ] = None,
        batch: Annotated[int, typer.Option("--batch", callback=within(1), help="Images at once.")] = 1,
        as_json: Annotated[bool, typer.Option("--json", help="Exact numbers as JSON.")] = False,
    ) -> None:
        # torch takes a second to import, and `--help` should not.
        from rich.console import Console

        from ..models.resolve import resolve
        from ..models.sizes import parse_shape
        from ..planning import plan as count
        from ..planning.table import WIDTH

        # A program gets all rows or none; a reader sees how far the layers fit, and then what does not.
        resolved = resolve(model, parse_shape(input) if input is not None else None, partly=not as_json)
        counted = replace(count(resolved.module, resolved.input_shape, batch), model=resolved.title)
        if as_json:
            typer.echo(counted.to_json())
            return
        console = Console(highlight=False, emoji=False)
        if not console.is_terminal:
            console = Console(highlight=False, emoji=False, width=WIDTH)
        console.print(counted)
        if resolved.assumed:
            size = "x".join(str(n) for n in resolved.input_shape)
            if resolved.unfit is None:
                console.print(f"\nThe input was taken to be {size}; --input says otherwise.", markup=False)
        if resolved.unfit is not None:
            raise SpecError(resolved.unfit)
