"""What networks answer for pictures, as it comes: lines, JSON, CSV. For `predict` and `run` the same.

Whatever the form, images that cannot be read stop nothing: they are named at the end, on the error output, and the exit
status is 2 then.
"""

from __future__ import annotations

import csv
import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import typer

from ..errors import UserError
from ..shown import shown

if TYPE_CHECKING:
    from ..inference.model import Model
    from ..inference.prediction import Prediction

STDOUT = Path("-")
_WORTH_A_BAR = 50
_WIDEST_CLASS = 32
_NAMED = 12
"""Classes that the summary of a file counts one by one."""


def say(network: Model, images: Sequence[Path], top: int, as_json: bool) -> None:
    """Answers on the output: lines as they come, or one JSON document."""
    errors: list[Prediction] = []
    # A bar and lines on the same terminal would write over each other, and lines show by themselves how far it is.
    found = network.predict_each(images, top)
    answers = _answered(found, len(images), bar=as_json or not sys.stdout.isatty(), errors=errors)
    if as_json:
        records = [_as_record(answer) for answer in answers]
        unread = [{"image": answer.image, "error": answer.error} for answer in errors]
        typer.echo(json.dumps({"predictions": records, "errors": unread}, indent=2))
    else:
        wide = max((len(shown(image)) for image in images), default=0)
        names = network.classes or ("0000",)
        for answer in answers:
            typer.echo(_as_lines(answer, wide, min(_WIDEST_CLASS, max(len(shown(name)) for name in names))))
    leave_out([answer.error or "" for answer in errors], len(images))


def write(network: Model, images: Sequence[Path], top: int, path: Path, form: str, force: bool) -> None:
    """Answers in a file as they come, so that whoever stops it has those until then; `form` is 'csv' or 'jsonl'.

    Raises:
        UserError: if the file is there and not to be replaced, or cannot be written.
    """
    errors: list[Prediction] = []
    counts: Counter[str] = Counter()
    found = network.predict_each(images, top)  # before there is a file: it may refuse
    with _opened(path, force) as file:
        answers = _answered(found, len(images), bar=path != STDOUT or not sys.stdout.isatty(), errors=errors)
        top = min(top, len(network.classes)) if network.classes else top
        table = csv.writer(file, lineterminator="\n")
        if form == "csv":
            more = [name for rank in range(2, top + 1) for name in (f"class {rank}", f"probability {rank}")]
            table.writerow(["image", "class", "probability", *more])
        for answer in answers:
            if form == "csv":
                pairs = [cell for name, share in answer.ranking for cell in (name, f"{share:.6g}")]
                table.writerow([answer.image, *pairs])
            else:
                file.write(json.dumps(_as_record(answer)) + "\n")
            counts[answer.ranking[0][0]] += 1
    where = "the output" if path == STDOUT else shown(path)
    typer.echo(f"wrote {sum(counts.values()):,} answers to {where}{often(counts)}", err=path == STDOUT)
    leave_out([answer.error or "" for answer in errors], len(images))


def often(counts: Counter[str]) -> str:
    """How often each class was the answer, for the end of a sentence: the most frequent ones by their names."""
    named = [f"{shown(name)} {count:,}" for name, count in counts.most_common(_NAMED)]
    more = [f"{len(counts) - _NAMED:,} more classes"] if len(counts) > _NAMED else []
    return f": {', '.join(named + more)}" if named else ""


def leave_out(reasons: Sequence[str], images: int, count: int | None = None) -> None:
    """Name the images that were left out, and exit with status 2; nothing where there are none. Where the reasons are
    not all, `count` is how many there are."""
    if not reasons:
        return
    typer.echo(
        f"warning: {len(reasons) if count is None else count:,} of {images:,} images cannot be read and were left out:",
        err=True,
    )
    for reason in reasons:
        typer.echo(f"  {shown(reason)}", err=True)
    raise typer.Exit(2)


def _answered(found: Iterable[Prediction], images: int, bar: bool, errors: list[Prediction]) -> Iterator[Prediction]:
    """The answers one by one, with a bar where that is wanted and on a terminal; `errors` collects the others."""
    from rich.console import Console
    from rich.progress import track

    console = Console(file=sys.stderr)
    if bar and console.is_terminal and images >= _WORTH_A_BAR:
        found = track(found, "Answering", total=images, console=console, transient=True)
    for answer in found:
        if answer.error is None:
            yield answer
        else:
            errors.append(answer)


@contextmanager
def _opened(path: Path, force: bool) -> Iterator[IO[str]]:
    # Names of files need not be UTF-8; their own bytes are what another program finds them by.
    settings: dict[str, Any] = {"encoding": "utf-8", "errors": "surrogateescape", "newline": ""}
    if path == STDOUT:
        sys.stdout.flush()
        output = TextIOWrapper(sys.stdout.buffer, **settings)
        try:
            yield output
        finally:
            output.detach()  # flushes; the output itself stays open
        return
    if path.is_dir():
        raise UserError(f"{shown(path)} is a folder: name a file in it, such as {shown(path / 'answers.csv')}.")
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if force else os.O_EXCL), 0o644)
    except FileExistsError:
        raise UserError(f"{shown(path)} is already there: choose another name, or replace it with --force.") from None
    except OSError as reason:
        raise UserError(f"{shown(path)} cannot be written ({reason.strerror}): choose another place.") from reason
    with open(handle, "w", buffering=1, **settings) as file:
        yield file


def _as_record(answer: Prediction) -> dict[str, Any]:
    return {
        "image": answer.image,
        "class": answer.ranking[0][0],
        "probability": answer.ranking[0][1],
        "top": [{"class": name, "probability": probability} for name, probability in answer.ranking],
    }


def _as_lines(answer: Prediction, wide: int, widest: int) -> str:
    return "\n".join(
        f"{shown(answer.image) if rank == 0 else '':<{wide}}  {shown(name):<{widest}}  {probability:6.1%}"
        for rank, (name, probability) in enumerate(answer.ranking)
    )
