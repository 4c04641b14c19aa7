"""`convforge relabel`: look at the images that a run gets wrong, and say what they are."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UserError
from ..shown import shown
from .numbers import within
from .serving import serve
from .text import help_of

if TYPE_CHECKING:
    from ..inference.prediction import Prediction

_PORT = 8643


def register(app: typer.Typer) -> None:
    app.command("relabel", help=help_of(relabel), no_args_is_help=True)(relabel)


def relabel(
    run: Annotated[Path, typer.Argument(help="The folder that training wrote, such as runs/pets.", metavar="RUN")],
    data: Annotated[
        Path | None,
        typer.Argument(
            metavar="DATA", help="The folder of images.", show_default="the one that the run has learned from"
        ),
    ] = None,
    images: Annotated[
        int, typer.Option(callback=within(1), help="How many images of each kind: wrong ones, and unsure ones.")
    ] = 100,
    port: Annotated[
        int, typer.Option(callback=within(0, 65535), help="Of the page's address; 0 takes any that is free.")
    ] = _PORT,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in the browser.")] = True,
) -> None:
    """Look at the images that a run gets most wrong or is most unsure about, and say what they are.

    The page shows them one after the other, with their file names and what the network answers. One key decides: Enter
    keeps the label, a digit gives the image another class, X leaves it out; U takes a decision back.

    Each decision is written at once into the file relabelled.json in the folder of images, which convforge train reads:
    the next run learns from what was decided, and says so. No image is moved, renamed or deleted, and without that file
    all is as before.

    The page is served to you on this machine only, as that of convforge see.

    [bold]Examples[/]

      convforge relabel runs/pets

      convforge relabel runs/pets photos/ --images 30
    """
    for package in ("fastapi", "uvicorn"):
        if find_spec(package) is None:
            raise UserError(f"the page needs {package}, which is not installed: pip install 'convforge[see]'.")
    from ..images import decisions
    from ..models.load import load
    from ..relabel.server import Desk, create_app
    from ..relabel.suspects import labelled, parts_of, suspects
    from ..see.pictures import Pictures

    folder = (data if data is not None else _learned_from(run)).resolve()
    if not folder.is_dir():
        raise UserError(f"there is no folder {shown(folder)}: name the one that {shown(run)} has learned from.")
    own = data is None or _is_its_own(run, folder)
    classes, found = labelled(folder)
    known = decisions.read(folder)
    if not os.access(folder, os.W_OK):
        raise UserError(f"{shown(folder)} cannot be written to, and decisions are kept there: change its permissions.")
    network = load(run)
    if network.classes != classes:
        raise UserError(
            f"{shown(run)} tells {_listed(network.classes or ())} apart, and {shown(folder)} has "
            f"{_listed(classes)}: name the folder that it has learned from."
        )
    # Of another folder's images the run cannot know anything, whatever they are called.
    parts = parts_of(run) if own else lambda _: None
    shown_ones = suspects(network, found, known, images, lambda answers: _tracked(answers, len(found)), parts)
    if not shown_ones:
        raise UserError(f"none of the {len(found):,} files in {shown(folder)} is an image that can be read.")
    paths = [suspect.image.path for suspect in shown_ones]
    pictures = Pictures(paths, _shape(network.input_shape), network.mean or (), network.std or (), False)
    desk = Desk(folder, run.name or str(run), classes, shown_ones, pictures)
    what = f"{len(shown_ones):,} images to look at are at"
    try:
        serve(lambda port, key: create_app(desk, port, key), what, port, browser)
    except KeyboardInterrupt:
        typer.echo(_summary(folder))
        raise
    typer.echo(_summary(folder))  # where a signal ended it that is ignored otherwise, as by a script's programs


def _summary(folder: Path) -> str:
    from ..images import decisions
    from ..relabel.server import counted

    counts = counted(folder)
    return (
        f"{shown(decisions.file_of(folder))}: {counts['relabelled']:,} relabelled, "
        f"{counts['left out']:,} left out, {counts['kept']:,} kept; "
        f"the next convforge train {shown(folder)} follows it."
    )


def _learned_from(run: Path) -> Path:
    """The folder of images that a run's configuration names."""
    from ..models.checkpoint import read_json
    from ..train.folder import CONFIG

    options = read_json(run / CONFIG).get("options")
    source = options.get("data") if isinstance(options, dict) else None
    task = options.get("task") if isinstance(options, dict) else None
    if task != "classes":
        raise UserError(f"{shown(run)} has learned without labels, so there are none to correct.")
    if not isinstance(source, str):
        raise UserError(f"{shown(run)} has learned from an embedded data set, and decisions are kept beside files.")
    if not Path(source).is_dir():
        raise UserError(
            f"{shown(run)} has learned from {shown(source)}, which is no folder here: name it after the run."
        )
    return Path(source)


def _is_its_own(run: Path, folder: Path) -> bool:
    """Whether it is the folder that the run has learned from."""
    try:
        return _learned_from(run).resolve() == folder
    except UserError:
        return False


def _listed(names: Iterable[str]) -> str:
    words = list(map(shown, names))
    return ", ".join(words[:8]) + (", …" if len(words) > 8 else "")


def _shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    channels, height, width = shape
    return channels, height, width


def _tracked(answers: Iterable[Prediction], count: int) -> Iterable[Prediction]:
    from rich.console import Console
    from rich.progress import track

    console = Console(file=sys.stderr)
    if not console.is_terminal:
        return answers
    return track(answers, "Asking the network", total=count, console=console, transient=True)
