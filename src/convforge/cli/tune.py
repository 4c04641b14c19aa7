"""`convforge tune`: measure once which algorithms are the quickest on this machine, and keep that on disk."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .measuring import Batch, Input, Passes
from .numbers import within

if TYPE_CHECKING:
    from rich.table import Table

    from ..bench.tune import Case, Finding

_HELP = """
Measure once which algorithms are the quickest on this machine, and keep that on disk.

The engine chooses among its algorithms by a model of the machine, which is right to a few per cent for most layers. \
First this measures what the model takes for granted otherwise: how fast a core reads from its caches and from memory. \
The rest is for layers that the model gets wrong, and optional. Every algorithm that applies is timed, in float32, in \
both memory formats, with weights that stay as in inference and weights that change as in training. Where the model's \
choice takes more than 3 % longer than the quickest, twice in a row, the quickest is kept: programs that start from \
then on take it. Last digits may change with the algorithm; those that \
[cyan]convforge.set_precision("exact")[/] rules out stay ruled out.

A choice holds for exactly the sizes, batch and threads that it was measured with, so tune your own model:

[cyan]convforge tune torchvision:resnet50 --batch 16[/]

[bold]LAYERS[/] are any number of layers and models, in the forms that [cyan]convforge bench[/] takes. Without LAYERS \
and [cyan]--list[/], the layers of all common kinds that bench measures.

[bold]Examples[/]

For inference on one thread:
[cyan]convforge tune runs/pets --passes forward --threads 1[/]

A single layer:
[cyan]convforge tune 64,56x56,128,3x3,padding=1,batch=8[/]

As if nothing had ever been measured:
[cyan]convforge tune --forget[/]

Run it while nothing else does: what a busy machine measures is left aside where that is noticed, which is not always. \
Ctrl-C keeps what was measured until then.
"""


def register(app: typer.Typer) -> None:
    """Add the verb."""

    @app.command("tune", help=_HELP)
    def tune(
        layers: Annotated[
            list[str] | None, typer.Argument(metavar="LAYERS", help="Layers and models, as for bench.")
        ] = None,
        list_: Annotated[
            list[Path] | None,
            typer.Option("--list", metavar="FILE", help="A file with a layer a line, as for bench; # comments."),
        ] = None,
        batch: Batch = None,
        input: Input = None,
        passes: Passes = "forward,input,weight",
        threads: Annotated[
            int | None, typer.Option("--threads", callback=within(1), help="By default as many as PyTorch uses.")
        ] = None,
        seconds: Annotated[
            float,
            typer.Option(
                "--seconds", callback=within(0), help="Time for each pass, memory format and kind of weights."
            ),
        ] = 0.3,
        forget: Annotated[
            bool, typer.Option("--forget", help="Remove everything that was kept, and measure nothing.")
        ] = False,
        as_json: Annotated[bool, typer.Option("--json", help="Everything that was measured, as JSON.")] = False,
    ) -> None:
        from ..errors import UserError

        if forget:
            if layers or list_:
                raise UserError("--forget removes the choices for all layers, so it takes none.")
            _forget(as_json)
            return
        # torch takes a second to import, and `--help` should not.
        import torch
        from rich.console import Console

        from ..bench import costs
        from ..bench import layers as notation
        from ..bench import tune as tuning
        from ..bench.table import WIDTH
        from ..models.sizes import parse_shape
        from ..native import target
        from .bench import parse_passes
        from .console import progress

        path, wanted, threads = _file(), parse_passes(passes), threads or torch.get_num_threads()
        costs.keep()
        image = parse_shape(input) if input is not None else None
        found, said = notation.gather(layers or [], list_ or [], image, batch)
        cases = tuning.cases(notation.merged(found), wanted, threads)
        findings = tuning.measure(cases, threads, seconds, progress)
        if as_json:
            machine = {"target": target.current().name, "threads": threads}
            rows = [finding.to_dict() for finding in findings]
            typer.echo(json.dumps({"file": str(path), **machine, "cases": rows}, indent=1))
            return
        console = Console(highlight=False, emoji=False, markup=False)
        if not console.is_terminal:
            console = Console(highlight=False, emoji=False, markup=False, width=WIDTH)
        changed = [finding for finding in findings if finding.is_kept]
        if changed:
            console.print(_table(changed))
        console.print(*_sentences(cases, findings, path), *said, sep="\n", soft_wrap=True)


def _forget(as_json: bool) -> None:
    from ..engine import tuned

    path = _file()
    existed = tuned.forget()
    if as_json:
        typer.echo(json.dumps({"file": str(path), "forgotten": existed}))
    else:
        typer.echo(f"Removed {path}." if existed else f"Nothing was kept: there is no {path}.")


def _file() -> Path:
    """Where choices are kept; raises `UserError` where they cannot be, before anything is measured."""
    from ..engine import tuned
    from ..errors import UserError

    path = tuned.where()
    if path is None or not os.access(path.parent, os.W_OK):
        raise UserError(
            "nothing can be kept: there is no cache folder that you, and nobody else, can write to; "
            "let CONVFORGE_CACHE name one."
        )
    return path


def _table(findings: Sequence[Finding]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in ("Layer, pass", "Weights", "Format", "The model's choice", "Now"):
        table.add_column(heading)
    table.add_column("Gain", justify="right")
    for layer, group in groupby(findings, key=lambda finding: finding.case.layer):
        table.add_row(Text(f"{layer} {layer.name}".rstrip()), style="bold")
        for f in group:
            memory_format = "channels_last" if f.case.channels_last else "plain"
            gain = f"{f.gain:.0%}" if f.overrules else "–"
            table.add_row(f"  {f.case.which}", _weights(f.case), memory_format, f.model, f.chosen, gain)
    return table


def _weights(case: Case) -> str:
    from ..engine.plan import Pass

    if case.which is Pass.WEIGHT_GRADIENT:
        return ""
    return "stay" if case.kept else "change"


def _sentences(cases: Sequence[Case], findings: Sequence[Finding], path: Path) -> Iterator[str]:
    if not cases:
        yield "Only one algorithm applies to these layers; there was nothing to choose, and nothing was measured."
        return
    if len(findings) < len(cases):
        yield f"Stopped after {len(findings)} of {len(cases)} cases."
    disturbed = sum(finding.disturbed for finding in findings)
    findings = [finding for finding in findings if not finding.disturbed]
    overruled = sum(finding.overrules for finding in findings)
    back = sum(finding.is_kept and not finding.overrules for finding in findings)
    if overruled:
        yield "Gain: how much longer the model's choice takes."
    if findings:
        yield f"The model's choice is right, or within 3 %, in {len(findings) - overruled} of {len(findings)} cases."
    if disturbed:
        yield f"During {disturbed} more the machine did other work: they are left as they were; tune again later."
    if back:
        yield f"An earlier measurement had said otherwise in {back} of them; the model's choice is taken again."
    if overruled or back:
        yield f"What changed is kept in {path}; programs that start from now on follow it."
    else:
        yield f"There was nothing to keep in {path}."
