"""The folder of a run: made with its configuration in one step, never overwritten, found again to be continued."""

from __future__ import annotations

import os
import platform
import re
import shlex
import tempfile
from dataclasses import replace
from pathlib import Path
from time import strftime
from typing import Any

import torch

from ..errors import UserError
from ..files import write_atomically
from ..models.checkpoint import WEIGHTS, read_json, to_json
from ..shown import shown
from . import data as labelled
from . import twin
from .data import Data
from .loop import METRICS
from .options import Options
from .ranks import ALONE, Ranks
from .state import STATE, read_metrics

CONFIG, REPORT, SKIPPED = "config.json", "report.html", "skipped.txt"


def how_to_continue(folder: Path) -> str:
    """A sentence for who has stopped the run in `folder`."""
    return f"Continue with: convforge train --resume {shlex.quote(shown(folder))}"


def new_folder(options: Options, data: Data, config: dict[str, Any]) -> Path:
    """A folder that was not there before, for runs are never overwritten. It comes with its configuration, in one step:
    whatever stops the run, the name is either free or that of a run that can be resumed."""
    out = Path(options.out).expanduser()
    if options.name is not None:
        wanted = [options.name]
    else:
        # File systems take names of 255 bytes, and a character has up to four.
        stem = f"{data.name[:48]}-{(options.model or '')[:24]}-{strftime('%Y%m%d-%H%M%S')}"
        stem = re.sub(r"[^\w.-]+", "-", stem)
        wanted = [stem] + [f"{stem}-{number}" for number in range(2, 100)]
    folder = out / wanted[0]
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out, prefix=".new-run-") as place:
            begun = Path(place) / "run"
            begun.mkdir()
            write_atomically(begun / CONFIG, to_json(config))
            for name in wanted:
                folder = out / name
                if not os.path.lexists(folder):
                    return begun.rename(folder)
    except OSError as reason:
        raise _cannot_be_made(folder, reason) from reason
    raise _taken(out / wanted[0])


def must_be_makeable(folder: Path) -> None:
    """Raise `UserError` if there can be no such folder: it is tried, and nothing of it stays."""
    there = next((place for place in (folder, *folder.absolute().parents) if os.path.lexists(place)), folder)
    try:
        with tempfile.TemporaryDirectory(dir=there, prefix=".new-run-"):
            pass
    except OSError as reason:
        raise _cannot_be_made(folder, reason) from reason


def _cannot_be_made(folder: Path, reason: OSError) -> UserError:
    return UserError(
        f"cannot make the folder {folder}: {reason.strerror or reason}; choose another with --out or --name."
    )


def must_be_free(folder: Path) -> None:
    """Raise `UserError` if there is such a folder."""
    if os.path.lexists(folder):
        raise _taken(folder)


def _taken(folder: Path) -> UserError:
    return UserError(
        f"{folder} is there already and is not overwritten; choose another --name, or continue it with "
        f"--resume {folder}."
    )


def place(source: str | None) -> str | None:
    """A place spelled out, so that a run resumes alike from any folder, and lists the same skipped files."""
    if source is None or source == labelled.DEFAULT or not Path(source).expanduser().exists():
        return source
    return str(Path(source).expanduser().resolve())


def configuration(options: Options, data: Data, fingerprint: str, ranks: Ranks = ALONE) -> dict[str, Any]:
    """What is stored beside a run: its options, with nothing left open, and what it learned from, with what."""
    return {
        "options": replace(options, threads=torch.get_num_threads() * ranks.here).to_dict(),
        "data": {"name": data.name, "fingerprint": fingerprint, **facts(data)},
        "versions": {"python": platform.python_version(), "torch": str(torch.__version__)},
    }


def facts(data: Data) -> dict[str, object]:
    """Of the data, for people."""
    return {
        "classes": len(data.classes),
        "training images": len(data.train),
        "held-out images": len(data.test),
        "image shape": "×".join(map(str, data.input_shape)),
    }


def stored(folder: Path, threads: int | None, epochs: int | None) -> tuple[Options, dict[str, Any]]:
    """The options that a run was started with, and its whole configuration; both with `epochs` where that is said.

    Raises:
        UserError: if it is no run, or has nothing left to do.
    """
    config = read_json(folder / CONFIG)
    options, data = config.get("options"), config.get("data")
    if not isinstance(options, dict) or not isinstance(data, dict) or not isinstance(data.get("fingerprint"), str):
        raise UserError(f"{folder / CONFIG} was not written by convforge train; give --resume the folder of a run.")
    found = Options.from_dict(options, str(folder / CONFIG))
    finished = not (folder / STATE).exists() and (folder / WEIGHTS).exists()
    if finished:
        remove_states(folder)  # it may have been killed between the two
    asked = (finished or epochs is not None) and (folder / METRICS).exists()
    done = len(read_metrics(folder / METRICS)) if asked else 0
    if finished and epochs is None:
        raise UserError(
            f"{folder} is finished after {done:,} epochs; there is nothing to resume. To go on, say more, such as "
            f"--epochs {2 * done:,}."
        )
    if epochs is not None and epochs < done + finished:
        raise UserError(f"{folder} has {done:,} epochs already; --epochs must be more than that, not {epochs:,}.")
    if epochs is not None:
        found = replace(found, epochs=epochs)
        config = config | {"options": options | {"epochs": epochs}}
    return replace(found, resume=str(folder), threads=threads or found.threads), config


def remove_states(folder: Path) -> None:
    """A run without them is finished."""
    # The run's own state first: it decides whether there is anything to resume, the twin's included.
    for state in (folder / STATE, folder / twin.FOLDER / STATE):
        state.unlink(missing_ok=True)
