"""`convforge train`: learn from images."""

from __future__ import annotations

import json
import os
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

What you leave open is chosen from the data: size, batch, epochs, and how much images are changed at random. A fifth of
the images is held out where the data has no split of its own. The run ends when their loss has stopped falling; kept is
the network with the lowest, and the last one in RUN/last. Ctrl-C stops after the current batch and keeps everything;
--resume continues to the very same result, and with more --epochs goes on with a run that is finished.

[bold]Examples[/]

  convforge train                           98 % and more in under a minute
  convforge train --dense-twin              what do convolutions save?
  convforge train photos/ --epochs 30 --size 96
  convforge train photos/ --from runs/exemplars   start from what photographs have taught
  convforge train photos/ --model torchvision:resnet18 --pretrained --freeze
  convforge train photos/ --model "conv 32 3x3 same, relu, pool 2, conv 64 3x3 same, relu, gap"
  convforge train --task exemplar           what do photographs teach the first layer?
  convforge train fashion-mnist --model resnet --name clothes
  convforge train --resume runs/clothes
  convforge train --resume runs/clothes --epochs 40
  torchrun --nproc-per-node 2 -m convforge train photos/     by two processes, as docs/scale.md says
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
    model: Annotated[
        str | None,
        typer.Option(
            help="vgg, resnet, timm:NAME, torchvision:NAME, a line of layers, or package.module:callable.",
            show_default="vgg",
        ),
    ] = None,
    start: Annotated[
        str | None, typer.Option("--from", metavar="RUN", help="Start from what another run has learned.")
    ] = None,
    pretrained: Annotated[
        bool, typer.Option("--pretrained", help="Start from timm's or torchvision's weights.")
    ] = False,
    freeze: Annotated[
        bool, typer.Option("--freeze", help="Let the new last layer learn first, alone, for a fifth of the epochs.")
    ] = False,
    epochs: Annotated[
        int | None, typer.Option(help="Passes over the training images, at most.", show_default="from the data")
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            help="Epochs without a lower held-out loss, after which it ends; 0 for never.",
            show_default="a fifth of --epochs; 0 where few images are held out",
        ),
    ] = None,
    batch: Annotated[int | None, typer.Option(help="Images a step.", show_default="8 to 64, from the data")] = None,
    lr: Annotated[
        float | None,
        typer.Option(help="Highest learning rate.", show_default="0.004; 0.001 for other models and with weights"),
    ] = None,
    weight_decay: Annotated[
        float | None, typer.Option(help="How strongly weights are pulled to zero.", show_default="0.05")
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(help="Pixels a side.", show_default="as the images are, 64 to 128 at most, from the data"),
    ] = None,
    val: Annotated[float | None, typer.Option(help="Part of each class that is held out.", show_default="0.2")] = None,
    balance: Annotated[
        bool, typer.Option("--balance", help="Let each class count alike, however few images it has.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of split, weights, order and augmentation: same seed, same result.")] = 0,
    name: Annotated[
        str | None, typer.Option(help="The run's folder.", show_default="from data, model and time")
    ] = None,
    out: Annotated[str, typer.Option(help="Where run folders are put.")] = "runs",
    resume: Annotated[
        str | None,
        typer.Option(
            metavar="RUN",
            help="Continue a run, such as runs/clothes, with its own options; finished ones with --epochs.",
        ),
    ] = None,
    dense_twin: Annotated[
        bool, typer.Option("--dense-twin", help="Also train a fully connected network, and compare.")
    ] = False,
    threads: Annotated[int | None, typer.Option(help="CPU threads.", show_default="as many as torch takes")] = None,
    augment: Annotated[
        str | None,
        typer.Option(
            help="How much training images are changed at random: none, light, strong.", show_default="strong"
        ),
    ] = None,
    no_augment: Annotated[bool, typer.Option("--no-augment", help="Leave them as they are.")] = False,
    flip: Annotated[
        bool | None,
        typer.Option("--flip/--no-flip", help="Also mirror them.", show_default="yes, but not characters"),
    ] = None,
    precision: Annotated[
        str, typer.Option(help="float32, or bf16 where the CPU multiplies in it; what is kept is float32.")
    ] = "float32",
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write TensorBoard's event files, too.")] = False,
    stream: Annotated[
        bool | None,
        typer.Option(
            "--stream/--no-stream",
            help="Read images when they are needed; do not keep them in memory.",
            show_default="where they do not fit",
        ),
    ] = None,
    cache: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="With --stream: keep decoded images there, in files mapped into memory."),
    ] = None,
    sync_batch_norm: Annotated[
        bool,
        typer.Option("--sync-batch-norm", help="With torchrun: let batch norms see the whole batch, of all processes."),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON; everything else goes to stderr.")
    ] = False,
) -> None:
    from ..train.options import Options
    from ..train.run import how_to_continue, train
    from ..train.stop import Stop

    if resume is not None:
        _must_stand_alone(context)
        options = Options(resume=resume, threads=threads, epochs=epochs)
    else:
        options = Options(
            data=data,
            task=task,
            model=model,
            start=start,
            pretrained=pretrained,
            freeze=freeze,
            epochs=epochs,
            patience=patience,
            batch=batch,
            lr=lr,
            weight_decay=weight_decay,
            size=size,
            val=val,
            balance=balance,
            seed=seed,
            name=name,
            out=out,
            dense_twin=dense_twin,
            threads=threads,
            augment=False if no_augment else True if augment is None else augment,
            flips=flip,
            precision=precision,
            tensorboard=tensorboard,
            sync_batch_norm=sync_batch_norm,
            stream=stream,
            cache=cache,
        )
    # Of the processes that torchrun starts, one speaks.
    silent = os.environ.get("RANK", "0") != "0"
    console = Console(stderr=as_json, quiet=silent)
    result = train(options, console, Stop(exits=True))

    def say(sentence: str) -> None:
        console.print(sentence, markup=False, highlight=False, soft_wrap=True)

    if result.finished:
        seconds = sum(epoch["seconds"] for epoch in result.epochs)
        say(
            "\n"
            + "\n".join(
                [
                    f"{result.test_accuracy:.2%} of the held-out images are recognised, "
                    f"after {seconds:.0f} s of training.",
                    *result.sentences,
                    f"The report, with pictures: {shown(result.folder / 'report.html')}",
                ]
            )
        )
    else:
        say(f"\nStopped; everything so far is in {shown(result.folder)}. {how_to_continue(result.folder)}")
    if as_json and not silent:
        print(json.dumps(result.to_dict(), indent=2))
    if not result.finished:
        raise typer.Exit(130)  # what shells expect after Ctrl-C


def _must_stand_alone(context: typer.Context) -> None:
    """Refuse options beside --resume that would not be followed."""
    allowed = {"resume", "threads", "epochs", "as_json"}
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if parameter.name not in allowed and source is not None and source.name != "DEFAULT":
            given = parameter.opts[0] if parameter.opts[0].startswith("-") else f"{parameter.name.upper()}"
            raise UserError(f"--resume continues a run with its own options; leave out {given}.")
