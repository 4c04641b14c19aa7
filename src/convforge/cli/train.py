"""`convforge train`: learn from images."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console

from ..errors import UserError
from ..shown import shown

_HELP = """Learn to classify images; leaves a checkpoint, metrics and a report with pictures in runs/NAME.

[bold]DATA[/] is one of

  [cyan](nothing)[/]       MNIST-5k, 5,000 real digits that are embedded: try this
  [cyan]photos/[/]         a folder with a sub-folder a class, or train/ and test/ above
  [cyan]fashion-mnist[/]   70,000 pictures of clothes
  [cyan]NAME[/]            any image data set of the Hugging Face hub

[cyan]--task exemplar[/] needs no labels: DATA is a folder of photographs, or nothing for those inside scikit-image.
Patches of them are the classes, their random crops and colour changes the examples; the first layer learns edges and
colours, which [cyan]convforge see[/] shows.

It prints the network's plan, then trains. A fifth of the images is held out for testing where the data has no split.
Ctrl-C stops after the current batch and keeps everything; --resume continues to the very same result.

[bold]Examples[/]

  convforge train                           98 % and more in under a minute
  convforge train --dense-twin              what do convolutions save?
  convforge train photos/ --epochs 30 --size 96
  convforge train --task exemplar           what do photographs teach the first layer?
  convforge train fashion-mnist --model resnet --name clothes
  convforge train --resume runs/clothes
"""


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command("train", help=_HELP)(_train)


def _train(
    context: typer.Context,
    data: Annotated[
        str | None,
        typer.Argument(
            metavar="DATA", help="A folder, a data set's name, or nothing for MNIST-5k.", show_default=False
        ),
    ] = None,
    task: Annotated[str, typer.Option(help="classes, or exemplar: unlabelled photographs.")] = "classes",
    model: Annotated[str, typer.Option(help="vgg, resnet, or timm:NAME where timm is installed.")] = "vgg",
    epochs: Annotated[int, typer.Option(help="Passes over the training images.")] = 12,
    batch: Annotated[int, typer.Option(help="Images a step.")] = 64,
    lr: Annotated[
        float | None, typer.Option(help="Highest learning rate.", show_default="0.004; 0.001 for timm models")
    ] = None,
    size: Annotated[
        int | None, typer.Option(help="Pixels a side.", show_default="as the images are, 128 at most")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of split, weights, order and augmentation: same seed, same result.")] = 0,
    name: Annotated[
        str | None, typer.Option(help="The run's folder.", show_default="from data, model and time")
    ] = None,
    out: Annotated[str, typer.Option(help="Where run folders are put.")] = "runs",
    resume: Annotated[
        str | None,
        typer.Option(metavar="RUN", help="Continue a stopped run, such as runs/clothes, with its own options."),
    ] = None,
    dense_twin: Annotated[
        bool, typer.Option("--dense-twin", help="Also train a fully connected network, and compare.")
    ] = False,
    threads: Annotated[int | None, typer.Option(help="CPU threads.", show_default="as many as torch takes")] = None,
    augment: Annotated[
        bool, typer.Option("--augment/--no-augment", help="Turn, scale and shift training images a little.")
    ] = True,
    flip: Annotated[
        bool | None,
        typer.Option("--flip/--no-flip", help="Also mirror them.", show_default="yes, but not characters"),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON; everything else goes to stderr.")
    ] = False,
) -> None:
    from ..train.options import Options
    from ..train.run import how_to_continue, train

    if resume is not None:
        _must_stand_alone(context)
        options = Options(resume=resume, threads=threads)
    else:
        options = Options(
            data=data,
            task=task,
            model=model,
            epochs=epochs,
            batch=batch,
            lr=lr,
            size=size,
            seed=seed,
            name=name,
            out=out,
            dense_twin=dense_twin,
            threads=threads,
            augment=augment,
            flips=flip,
        )
    console = Console(stderr=as_json)
    result = train(options, console)

    def say(sentence: str) -> None:
        console.print(sentence, markup=False, highlight=False, soft_wrap=True)

    if result.finished:
        last = result.epochs[-1]
        seconds = sum(epoch["seconds"] for epoch in result.epochs)
        say(
            f"\n{last['test_accuracy']:.2%} of the held-out images are recognised, after {seconds:.0f} s of training."
            f"\nThe report, with pictures: {shown(result.folder / 'report.html')}"
        )
    else:
        say(f"\nStopped; everything so far is in {shown(result.folder)}. {how_to_continue(result.folder)}")
    if as_json:
        print(json.dumps(result.to_dict(), indent=2))
    if not result.finished:
        raise typer.Exit(130)  # what shells expect after Ctrl-C


def _must_stand_alone(context: typer.Context) -> None:
    """Refuse options beside --resume that would not be followed."""
    allowed = {"resume", "threads", "as_json"}
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if parameter.name not in allowed and source is not None and source.name != "DEFAULT":
            given = parameter.opts[0] if parameter.opts[0].startswith("-") else f"{parameter.name.upper()}"
            raise UserError(f"--resume continues a run with its own options; leave out {given}.")
