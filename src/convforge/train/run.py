"""A whole run: read the data, print the plan, learn, compare, report; and the same again from where it stopped."""

from __future__ import annotations

import os
import platform
import re
import shlex
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import strftime
from typing import Any

import torch
from rich.console import Console
from torch import nn

from ..errors import UserError
from ..files import write_atomically
from ..models import families
from ..models.checkpoint import WEIGHTS, Architecture, read_json, to_json
from ..planning import plan
from ..planning.table import as_short_table, short_sums
from ..shown import shown
from ..spec import ceil_div
from . import data as labelled
from . import exemplar, twin
from .data import Data
from .display import Display
from .loop import Settings, Stop, fit, normalise, steps_per_epoch
from .options import Options
from .state import STATE, Progress
from .twin import Measured

CONFIG, REPORT, SKIPPED = "config.json", "report.html", "skipped.txt"
_SHOWN_SKIPPED = 5
_IMAGES_WHEN_STOPPED = 500  # that the report of a stopped run looks at: nobody waits long for it


@dataclass(frozen=True)
class Result:
    """What came of a run.

    Args:
        folder: where everything was written.
        finished: False if it was stopped before its last epoch; `convforge train --resume FOLDER` continues it.
        epochs: the metrics of each epoch, as in metrics.jsonl.
        network: what the trained network costs and gives; None if the run was stopped before that was measured.
        dense_twin: the same of the fully connected one, where that was asked for.
        skipped: how many files could not be used.
    """

    folder: Path
    finished: bool
    epochs: tuple[dict[str, float], ...]
    network: Measured | None
    dense_twin: Measured | None
    skipped: int

    @property
    def test_accuracy(self) -> float | None:
        """From 0 to 1, on the held-out images, after the last whole epoch; None before the first."""
        return self.epochs[-1]["test_accuracy"] if self.epochs else None

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self) | {
            "folder": str(self.folder),
            "report": str(self.folder / REPORT),
            "test_accuracy": self.test_accuracy,
        }


def train(options: Options | None = None, console: Console | None = None, stop: Stop | None = None) -> Result:
    """Learn to classify images, and write a run folder with checkpoint, metrics and report.

    Args:
        options: what to learn from, and how; by default MNIST-5k with a small VGG.
        console: where to print; by default nowhere.
        stop: ask it to stop the run at the next batch; Ctrl-C does. A second Ctrl-C raises `KeyboardInterrupt`.

    Raises:
        UserError: for anything in the options, the data or the machine that it cannot work with.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     result = train(Options(size=8, epochs=1, batch=500, out=folder, name="quick"))
    ...     sorted(path.name for path in result.folder.iterdir())
    ['architecture.json', 'config.json', 'film.safetensors', 'metrics.jsonl', 'model.safetensors', 'report.html']
    """
    options = options or Options()
    display = Display(console or Console(quiet=True))
    config: dict[str, Any] | None = None
    if options.resume is not None:
        options, config = _stored(Path(options.resume), options.threads)
    else:
        options = replace(options, data=_place(options.data))
        if options.name is not None:
            _must_be_free(Path(options.out).expanduser() / options.name)
    with _threads(options.threads), torch.random.fork_rng(devices=[]):
        data = _load(options, display)
        _describe(display, data, options)
        fingerprint = data.fingerprint()
        if config is not None and config["data"]["fingerprint"] != fingerprint:
            raise UserError(
                f"the images of {data.name} are not those that {options.resume} has learned from; start a new run."
            )
        architecture = _architecture(options.model, data, options.task)
        torch.manual_seed(options.seed)
        model = architecture.build()
        if options.task == "exemplar":
            exemplar.quieten(model)
        counted = plan(model, architecture.input_shape)
        display.console.print(as_short_table(counted))
        display.say("\n".join(["", *short_sums(counted), ""]))
        if config is None:
            config = _config(options, data, fingerprint)
        folder = _new_folder(options, data, config) if options.resume is None else Path(options.resume)
        if data.skipped:
            write_atomically(folder / SKIPPED, ("\n".join(data.skipped) + "\n").encode())
        try:
            return _learn(options, data, architecture, model, counted, folder, config, display, stop or Stop())
        except KeyboardInterrupt:
            display.say(f"\nLeft at once; what was written before is in {shown(folder)}. {how_to_continue(folder)}")
            raise


def how_to_continue(folder: Path) -> str:
    """A sentence for who has stopped the run in `folder`."""
    return f"Continue with: convforge train --resume {shlex.quote(shown(folder))}"


def _load(options: Options, display: Display) -> Data:
    if options.task == "exemplar":
        return exemplar.load(
            options.data, seed=options.seed, size=options.size, flips=options.flips, track=display.track
        )
    return labelled.load(
        options.data, seed=options.seed, size=options.size, flips=options.flips, track=display.track, say=display.say
    )


def _learn(
    options: Options,
    data: Data,
    architecture: Architecture,
    model: nn.Module,
    counted: Any,
    folder: Path,
    config: dict[str, Any],
    display: Display,
    stop: Stop,
) -> Result:
    from .pictures import first_kernels

    kernels_before = first_kernels(model)
    settings = Settings(options.epochs, options.batch, options.learning_rate, options.seed, options.augment)
    dense: Measured | None = None
    with stop.listening(display.say):
        progress = _fit(model, data, architecture, settings, folder, display, stop)
        network = twin.measure(options.model, model, data, options.batch, progress.epochs, stop)
        if options.dense_twin and not stop.asked:
            display.say("\nNow its fully connected twin, on the same images:")
            dense = _dense_twin(data, settings, folder, display, stop)
    if network is not None and dense is not None:
        display.console.print(twin.as_table([network, dense]))
    finished = network is not None and (dense is not None or not options.dense_twin)
    result = Result(folder, finished, tuple(progress.epochs), network, dense, len(data.skipped))
    _write_report(result, options, config, data, model, counted, kernels_before)
    if finished:
        _remove_states(folder)
    return result


def _remove_states(folder: Path) -> None:
    # The run's own state first: it decides whether there is anything to resume, the twin's included.
    for state in (folder / STATE, folder / twin.FOLDER / STATE):
        state.unlink(missing_ok=True)


def _fit(
    model: nn.Module,
    data: Data,
    architecture: Architecture,
    settings: Settings,
    folder: Path,
    display: Display,
    stop: Stop,
) -> Progress:
    with display.learning(steps_per_epoch(len(data.train), settings.batch) * settings.epochs):
        return fit(model, data, architecture, settings, folder, display, stop)


def _dense_twin(data: Data, settings: Settings, folder: Path, display: Display, stop: Stop) -> Measured | None:
    architecture = _architecture("dense", data)
    torch.manual_seed(settings.seed)
    model = architecture.build()
    progress = _fit(model, data, architecture, settings, folder / twin.FOLDER, display, stop)
    return twin.measure("dense", model, data, settings.batch, progress.epochs, stop)


def _architecture(family: str, data: Data, task: str = "classes") -> Architecture:
    arguments = families.default_arguments(family, data.input_shape)
    if task == "exemplar":
        arguments |= {name: value for name, value in exemplar.NETWORK.items() if name in arguments}
    return Architecture(
        family=family,
        arguments=arguments,
        classes=data.classes,
        input_shape=data.input_shape,
        mean=data.mean,
        std=data.std,
    )


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    try:
        if count is not None:
            torch.set_num_threads(count)
        yield
    finally:
        torch.set_num_threads(before)


# ---------------------------------------------------------------------------------------------------------------------
# The folder of a run
# ---------------------------------------------------------------------------------------------------------------------


def _new_folder(options: Options, data: Data, config: dict[str, Any]) -> Path:
    """A folder that was not there before, for runs are never overwritten. It comes with its configuration, in one step:
    whatever stops the run, the name is either free or that of a run that can be resumed."""
    out = Path(options.out).expanduser()
    if options.name is not None:
        wanted = [options.name]
    else:
        # File systems take names of 255 bytes, and a character has up to four.
        stem = re.sub(r"[^\w.-]+", "-", f"{data.name[:48]}-{options.model}-{strftime('%Y%m%d-%H%M%S')}")
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
        raise UserError(
            f"cannot make the folder {folder}: {reason.strerror or reason}; choose another with --out or --name."
        ) from reason
    raise _taken(out / wanted[0])


def _must_be_free(folder: Path) -> None:
    if os.path.lexists(folder):
        raise _taken(folder)


def _taken(folder: Path) -> UserError:
    return UserError(
        f"{folder} is there already and is not overwritten; choose another --name, or continue it with "
        f"--resume {folder}."
    )


def _place(source: str | None) -> str | None:
    """The data's place spelled out, so that a run resumes alike from any folder, and lists the same skipped files."""
    if source is None or source == labelled.DEFAULT or not Path(source).expanduser().exists():
        return source
    return str(Path(source).expanduser().resolve())


def _config(options: Options, data: Data, fingerprint: str) -> dict[str, Any]:
    return {
        "options": replace(options, threads=torch.get_num_threads()).to_dict(),
        "data": {"name": data.name, "fingerprint": fingerprint, **_facts(data)},
        "versions": {"python": platform.python_version(), "torch": str(torch.__version__)},
    }


def _stored(folder: Path, threads: int | None) -> tuple[Options, dict[str, Any]]:
    """The options that a run was started with, and its whole configuration."""
    config = read_json(folder / CONFIG)
    options, data = config.get("options"), config.get("data")
    if not isinstance(options, dict) or not isinstance(data, dict) or not isinstance(data.get("fingerprint"), str):
        raise UserError(f"{folder / CONFIG} was not written by convforge train; give --resume the folder of a run.")
    if not (folder / STATE).exists() and (folder / WEIGHTS).exists():
        _remove_states(folder)  # it may have been killed between the two
        raise UserError(f"{folder} is finished; there is nothing to resume. Start a new run for more epochs.")
    found = Options.from_dict(options, str(folder / CONFIG))
    return replace(found, resume=str(folder), threads=threads or found.threads), config


# ---------------------------------------------------------------------------------------------------------------------
# What is said
# ---------------------------------------------------------------------------------------------------------------------


def _facts(data: Data) -> dict[str, object]:
    return {
        "classes": len(data.classes),
        "training images": len(data.train),
        "held-out images": len(data.test),
        "image shape": "×".join(map(str, data.input_shape)),
    }


def _describe(display: Display, data: Data, options: Options) -> None:
    shape = "×".join(map(str, data.input_shape))
    shown = ", ".join(data.classes[:10]) + (", …" if len(data.classes) > 10 else "")
    display.say(
        f"{data.name}: {len(data.train):,} images to learn from, {len(data.test):,} held out, each {shape}; "
        f"{len(data.classes)} classes: {shown}."
    )
    for note in data.notes:
        display.say(note)
    if options.augment:
        mirrored = "mirrored" if data.flips else "not mirrored"
        display.say(f"Training images are turned, scaled and shifted a little, {mirrored} (--no-augment leaves them).")
    if data.skipped:
        display.say(f"Skipped {len(data.skipped):,} files that cannot be used:")
        for sentence in data.skipped[:_SHOWN_SKIPPED]:
            display.say(f"  {sentence}")
        if len(data.skipped) > _SHOWN_SKIPPED:
            display.say(f"  … and {len(data.skipped) - _SHOWN_SKIPPED:,} more, all in {SKIPPED} of the run.")


def _write_report(
    result: Result,
    options: Options,
    config: dict[str, Any],
    data: Data,
    model: nn.Module,
    counted: Any,
    kernels_before: Any,
) -> None:
    from .pictures import collect
    from .report import Report, write_report

    # Evenly spaced, for they may be sorted by class.
    every = 1 if result.finished else ceil_div(len(data.test), _IMAGES_WHEN_STOPPED)
    images = data.test.images[::every]
    pictures = collect(
        model,
        images,
        data.test.labels[::every],
        lambda images: normalise(images, data),
        len(data.classes),
        kernels_before,
    )
    stopped_early: bool | str = not result.finished
    if every > 1:
        stopped_early = (
            "The run was stopped before its last epoch; this is the network as it was then, looked at with "
            f"{len(images):,} of the {len(data.test):,} held-out images."
        )
    settings = {name: value for name, value in config["options"].items() if value is not None}
    settings |= {"lr": options.learning_rate, "threads": torch.get_num_threads()}
    report = Report(
        title=shown(result.folder.name),
        classes=data.classes,
        epochs=result.epochs,
        pictures=pictures,
        data={"data set": data.name, **_facts(data), "skipped files": len(data.skipped)},
        skipped=data.skipped,
        plan=str(counted),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        comparison=twin.as_rows([result.network, result.dense_twin]) if result.network and result.dense_twin else (),
        # As stored, so that the report of a resumed run is that of an undisturbed one.
        settings={name: shown(value) if isinstance(value, str) else value for name, value in settings.items()},
        stopped_early=stopped_early,
    )
    write_report(result.folder / REPORT, report)
