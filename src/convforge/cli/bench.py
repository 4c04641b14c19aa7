"""`convforge bench`: layers side by side with the libraries that could compute them instead."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import progress, wide_console
from .measuring import Exact, Input, Passes
from .numbers import several, within

if TYPE_CHECKING:
    from ..engine.plan import Pass

_PASSES = "forward,input,weight"
_NETWORKS = "Whole networks"

_HELP = """
Time convolution layers side by side with PyTorch, ONNX Runtime and OpenVINO.

Each layer runs in all three passes of training: forward, input gradient, weight gradient. PyTorch runs in both of its \
memory formats; ONNX Runtime and OpenVINO, where they are installed together with onnx, in processes of their own and \
forward only. Contenders take turns, and medians are compared. Every result is checked against float64. The FMA peak \
and the memory's bandwidth are measured in the same run, so every figure stands beside what the machine can do.

The forward pass is that of inference: weights stay, so the engine, ONNX Runtime and OpenVINO keep them in forms of \
their own; PyTorch brings them into its form on every call. [cyan]--training[/] is the other case.

[bold]LAYERS[/] are any number of

• a layer: [cyan]64,56x56,128,3x3,stride=2,padding=1,groups=1,batch=1[/] (channels, size, outputs, kernel, options)

• a layer as benchdnn writes it: [cyan]mb1ic64ih56oc128oh28kh3sh2ph1[/]

• a model, in any form that [cyan]convforge plan[/] takes; equal layers are measured once

Without LAYERS and [cyan]--list[/], a dozen layers of all common kinds.

[bold]Examples[/]

The list of a published network, sixteen images at once:
[cyan]convforge bench --list tests/shapes/vgg_19.txt --batch 16[/]

A model's layers, as in inference, with a picture:
[cyan]convforge bench torchvision:resnet50 --passes forward --plot roofline.png[/]

Layers as a network meets them, with weights and input from memory:
[cyan]convforge bench --list tests/shapes/resnet_50_v1_5.txt --cold[/]

Was the right algorithm chosen?
[cyan]convforge bench 64,56,64,3,padding=1 --algorithm all[/]

Whole networks beside PyTorch, ONNX Runtime and OpenVINO, with one core taken by another process as well:
[cyan]convforge bench --network resnet18 mobilenetv2 model.onnx --busy[/]

A training step of them: forward, loss, backward and SGD:
[cyan]convforge bench --network resnet18 --training --batch 8[/]

With [cyan]--network[/] the names are those of whole networks: resnet18, resnet50, mobilenetv2 and \
vgg16 are built in; others are names in torchvision, timm or pytorchcv, where they are installed, ONNX files, \
package.module:callable, or lines as for [cyan]convforge plan[/]. Each contender runs in a process of its own.

Times of a shared machine wander; run it while nothing else does. Freed memory is kept for the next call, which \
[cyan]--plain-malloc[/] turns off: PyTorch's own setting, in which page faults can cost more than the convolution.
"""


def register(app: typer.Typer) -> None:
    """Add the verb."""

    @app.command("bench", help=_HELP)
    def bench(
        layers: Annotated[
            list[str] | None,
            typer.Argument(metavar="LAYERS", help="Layers and models, or networks, in the forms above."),
        ] = None,
        list_: Annotated[
            list[Path] | None,
            typer.Option("--list", metavar="FILE", help="A file with a layer a line, in either notation; # comments."),
        ] = None,
        batch: Annotated[
            str | None,
            typer.Option(
                "--batch",
                metavar="N",
                help="Images at once; without it 1, or what a layer itself says. For networks also several: 1,8.",
            ),
        ] = None,
        input: Input = None,
        passes: Passes = _PASSES,
        threads: Annotated[
            int | None,
            typer.Option(
                "--threads", callback=within(1), help="For all contenders; by default as many as PyTorch uses."
            ),
        ] = None,
        seconds: Annotated[
            float | None,
            typer.Option(
                "--seconds",
                callback=within(0),
                help="Time for each pass of each layer (by default 0.5), or for each network (5).",
            ),
        ] = None,
        exact: Exact = False,
        algorithm: Annotated[
            str,
            typer.Option(
                "--algorithm", metavar="NAME", help="The engine uses this one; 'all' times each beside the chosen one."
            ),
        ] = "",
        training: Annotated[
            bool,
            typer.Option(
                "--training",
                help="Weights change before every forward pass, as they do in training; of networks, a training step.",
            ),
        ] = False,
        cold: Annotated[
            bool, typer.Option("--cold", help="Also with weights and input from memory, as they are in a network.")
        ] = False,
        alone: Annotated[bool, typer.Option("--torch-only", help="Leave ONNX Runtime and OpenVINO out.")] = False,
        plot: Annotated[
            Path | None, typer.Option("--plot", metavar="FILE", help="Draw the roofline: .png, .svg or .pdf.")
        ] = None,
        as_json: Annotated[bool, typer.Option("--json", help="Everything that was measured, as JSON.")] = False,
        plain_malloc: Annotated[
            bool, typer.Option("--plain-malloc", help="Do not ask glibc to keep freed memory.")
        ] = False,
        network: Annotated[
            bool, typer.Option("--network", help="The names are whole networks.", rich_help_panel=_NETWORKS)
        ] = False,
        size: Annotated[
            str | None,
            typer.Option("--size", metavar="N|HxW", help="Images of this height and width.", rich_help_panel=_NETWORKS),
        ] = None,
        others: Annotated[
            str | None,
            typer.Option(
                "--peers",
                metavar="LIST",
                help="Beside which others: torch, torch-last, torch-folded, onnxruntime, openvino, openvino-default, "
                "litert, ncnn, mnn, inductor (which compiles for minutes). By default the first five, as far as they "
                "are installed. With --training: torch, torch-last, optimize (our layers in torch's loop), inductor.",
                rich_help_panel=_NETWORKS,
            ),
        ] = None,
        busy: Annotated[
            bool,
            typer.Option("--busy", help="Also with another process on one of the cores.", rich_help_panel=_NETWORKS),
        ] = False,
        steps: Annotated[
            bool, typer.Option("--steps", help="Where our time goes, step by step.", rich_help_panel=_NETWORKS)
        ] = False,
    ) -> None:
        from ..bench import memory

        check_options(
            network,
            layers={
                "--list": list_, "--passes": passes != _PASSES, "--algorithm": algorithm,
                "--cold": cold, "--torch-only": alone, "--plot": plot,
            },
            networks={"--size": size, "--peers": others, "--busy": busy, "--steps": steps},
        )  # fmt: skip
        if not plain_malloc:
            memory.restart_keeping()
        if network:
            from .networks import measure

            measure(
                layers or [], batches=several(batch, "--batch"), input=input, size=size,
                threads=threads, seconds=seconds, exact=exact,
                peers=others, busy=busy, steps=steps, training=training, as_json=as_json,
            )  # fmt: skip
            return
        # torch takes a second to import, and `--help` should not.
        import torch

        from ..bench import layers as notation
        from ..bench import peers, run
        from ..bench import plot as picture
        from ..bench.networks.published import PUBLISHED
        from ..bench.table import WIDTH, as_table
        from ..errors import UserError
        from ..models.sizes import parse_shape

        wanted = parse_passes(passes)
        if plot is not None:
            picture.check(plot)
        image = parse_shape(input) if input is not None else None
        batches = several(batch, "--batch")
        if len(batches) > 1:
            raise UserError(f"--batch is one number for layers, not {batch!r}; --network takes several.")
        if whole := [name for name in layers or [] if name in PUBLISHED]:
            raise UserError(f"{whole[0]} is a whole network: add --network, or name layers or a model as for plan.")
        found, said = notation.gather(layers or [], list_ or [], image, *batches or (None,))
        settings = run.Settings(
            threads or torch.get_num_threads(),
            0.5 if seconds is None else seconds,
            wanted,
            exact,
            algorithm,
            () if alone or "forward" not in wanted else tuple(peers.available()),
            training,
            cold,
        )
        report = run.measure(found, settings, progress)
        if as_json:
            typer.echo(json.dumps(report.to_dict(), indent=1))
        else:
            wide_console(WIDTH).print(as_table(report), *said, sep="\n")
        if plot is not None and report.rows:
            picture.write(report, plot)
            typer.echo(f"The roofline is in {plot}.", err=True)


def parse_passes(text: str) -> tuple[Pass, ...]:
    """Passes by the first word of their names, in the order in which they are run.

    Raises:
        UserError: where one is not known, or none is given.
    """
    from ..engine.plan import Pass
    from ..errors import UserError

    by_word = {which.value.split()[0]: which for which in Pass}
    words = [word.strip() for word in text.split(",")]
    for word in words:
        if word not in by_word:
            raise UserError(f"--passes is a list of {', '.join(by_word)}, not {text!r}.")
    return tuple(which for word, which in by_word.items() if word in words)


def check_options(network: bool, layers: dict[str, object], networks: dict[str, object]) -> None:
    """Raise `UserError` for an option of layers where networks are measured, and the other way round."""
    from ..errors import UserError

    for name, value in (layers if network else networks).items():
        if value:
            raise UserError(
                f"{name} is for layers: leave it out, or --network." if network else f"{name} needs --network."
            )
