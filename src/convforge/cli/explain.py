"""`convforge explain`: why a layer is as fast as it is."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from .measuring import Exact, Passes
from .numbers import within

_HELP = """
Show why a layer is as fast as it is on this machine.

For each pass: which algorithm the engine chose, and why; what the others would have taken; the register tile and what \
lies in which cache; the loops in words; how many operations each byte is good for, and the roofline that follows: the \
FMA peak and the memory's bandwidth, measured here and now; then the predicted and the measured time.

[bold]SPEC[/] is a layer in one of three notations

• [cyan]CHANNELS,SIZE,OUTPUTS,KERNEL[/] and options by name: stride, padding, dilation, groups, batch. One number \
stands for two equal ones; padding can also be same, valid or top/bottom/left/right. stride=2 and stride 2 say the \
same, so do padding=same and same.

• a line as for convforge plan, with the image's size: [cyan]"conv 128 3x3 stride 2 same_half" --input 64x56x56[/]

• benchdnn's: mb batch, g groups, ic oc channels, ih iw oh ow sizes, kh kw kernel, sh sw stride, dh dw dilation minus \
one, ph pw padding

[bold]Examples[/]

[cyan]convforge explain 64,56x56,128,3x3,stride=2,padding=1,groups=1,batch=1[/]

[cyan]convforge explain mb1ic64ih56oc128oh28kh3sh2ph1[/]

The innermost loop as the CPU gets it:
[cyan]convforge explain 64,56,64,3,padding=same --passes forward --asm[/]
"""


def register(app: typer.Typer) -> None:
    """Add the verb."""

    @app.command("explain", help=_HELP)
    def explain(
        spec: Annotated[str, typer.Argument(metavar="SPEC", help="The layer, in one of the forms above.")],
        batch: Annotated[
            int | None, typer.Option("--batch", callback=within(1), help="Images at once, over what SPEC says.")
        ] = None,
        input: Annotated[
            str | None, typer.Option("--input", metavar="CxHxW", help="Size of the image, where SPEC is a line.")
        ] = None,
        passes: Passes = "forward,input,weight",
        threads: Annotated[
            int | None, typer.Option("--threads", callback=within(1), help="By default as many as PyTorch uses.")
        ] = None,
        exact: Exact = False,
        algorithm: Annotated[
            str, typer.Option("--algorithm", metavar="NAME", help="Explain this one instead of the chosen one.")
        ] = "",
        training: Annotated[
            bool, typer.Option("--training", help="Weights change before every forward pass, as they do in training.")
        ] = False,
        asm: Annotated[bool, typer.Option("--asm", help="Show the innermost loop as assembly.")] = False,
        as_json: Annotated[bool, typer.Option("--json", help="Everything as JSON.")] = False,
    ) -> None:
        # torch takes a second to import, and `--help` should not.
        import torch
        from rich.console import Console

        from ..bench.layers import only
        from ..bench.table import WIDTH
        from ..explain.gather import explain as gather
        from ..explain.text import as_text
        from ..models.sizes import parse_shape
        from .bench import parse_passes

        shape = parse_shape(input) if input is not None else None
        wanted, layer = parse_passes(passes), only(spec, shape, batch)
        explanation = gather(
            layer, threads or torch.get_num_threads(), wanted, exact, algorithm, training, assembly=asm
        )
        if as_json:
            typer.echo(json.dumps(explanation.to_dict(), indent=1))
            return
        console = Console(highlight=False, emoji=False, markup=False)
        if not console.is_terminal:
            console = Console(highlight=False, emoji=False, markup=False, width=WIDTH)
        console.print(as_text(explanation))
