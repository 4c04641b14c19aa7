"""`predict --out`: very many images, on this machine, by processes that torchrun has started, or by Ray."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ..errors import UserError
from ..shown import shown
from .answering import opened, said_of
from .predictions import leave_out, often

if TYPE_CHECKING:
    from ..many.results import Share
    from ..many.sources import Piece

_NAMED_ERRORS = 20


def many(
    model: Path,
    inputs: list[str],
    out: Path,
    address: str | None,
    threads: int | None,
    top: int,
    force: bool,
    said: tuple[str | None, str | None, str | None, Path | None],
) -> None:
    """Answer all of the input into the folder `out`, and say what came of it; exits with status 2 where some could not
    be read. `said` is what `answering.said_of` takes; `address` is Ray's, None to do without."""
    from ..many import on_ray, results, sources

    share = results.Share.of_environment()
    if address is not None:
        on_ray.check()
        if share.of > 1:
            raise UserError("--ray shares the images out itself: start the command once, without torchrun.")
    work = sources.pieces(inputs)
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if share.of > 1 else 1
    network = opened(model, *said, threads or ((_cores() // here or 1) if here > 1 else 0))
    top = min(top, len(network.classes)) if network.classes else top
    results.begin(out, model, top, force)
    if address is None:
        _here(network, work, out, top, share)
    else:
        del network  # it was looked at before machines are asked for; the actors have their own
        on_ray.write(model.absolute(), said_of(*said), work, out, top, threads or 1, address)
    if share.of > 1:
        return  # the others may not be done
    found = results.summary(out)
    typer.echo(f"wrote {sum(found.classes.values()):,} answers to {shown(out)}{often(found.classes)}")
    some = list(found.errors[:_NAMED_ERRORS])
    if len(found.errors) > len(some):
        some.append(f"… and {len(found.errors) - len(some):,} more, all in the column error.")
    leave_out(some, found.images, len(found.errors))


def _here(network: object, work: list[Piece], out: Path, top: int, share: Share) -> None:
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn

    from ..inference.model import Model
    from ..many import results

    assert isinstance(network, Model)
    console = Console(file=sys.stderr)
    columns = (SpinnerColumn(), TextColumn("{task.completed:,.0f} images answered, {task.fields[rate]} a second"))
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal or share.number > 0
    ) as bar:
        task = bar.add_task("", total=None, rate="–")

        def watch(more: int) -> None:
            bar.advance(task, more)
            if speed := bar.tasks[0].finished_speed or bar.tasks[0].speed:
                bar.update(task, rate=f"{speed:,.0f}")

        results.write(network, work, out, top, share, watch)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
