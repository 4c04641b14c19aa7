"""A whole run: read the data, print the plan, learn, compare, report; and the same again from where it stopped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from ..errors import UserError
from ..files import write_atomically
from ..models import families, own
from ..models.checkpoint import ARCHITECTURE, Architecture, read_architecture, read_json, to_json
from ..planning import plan
from ..planning.table import as_short_table, short_sums
from ..shown import shown
from . import data as labelled
from . import defaults, events, exemplar, folder, precision, split, telling, twin
from .data import Data
from .display import Display
from .evaluation import normalise
from .folder import CONFIG, REPORT, SKIPPED, how_to_continue
from .loop import Learned, Settings, Watcher, fit, steps_per_epoch
from .options import Options
from .ranks import Ranks, joined
from .scores import ClassScore
from .split import Split
from .starting import Start, start_of
from .stop import Stop
from .streamed import Streamed
from .twin import Measured

__all__ = ["Result", "how_to_continue", "train"]

_PIXELS_IN_MEMORY = 2**25  # that a report looks at where images are streamed: some hundred photographs
_PIXELS_WHEN_STOPPED = 2**22  # that the report of a stopped run looks at: nobody waits long for it


@dataclass(frozen=True)
class Result:
    """What came of a run.

    Args:
        folder: where everything was written.
        finished: False if it was stopped before its last epoch; `convforge train --resume FOLDER` continues it.
        epochs: the metrics of each epoch, as in metrics.jsonl.
        best_epoch: the one whose weights are kept: that with the lowest held-out loss; 0 before the first.
        network: what the trained network costs and gives; None if the run was stopped before that was measured.
        dense_twin: the same of the fully connected one, where that was asked for.
        skipped: how many files could not be used.
        classes: precision, recall and F1 of each class, on the held-out images.
        sentences: why it ended, what is kept, and whether more epochs would help.
    """

    folder: Path
    finished: bool
    epochs: tuple[dict[str, float], ...]
    best_epoch: int
    network: Measured | None
    dense_twin: Measured | None
    skipped: int
    classes: tuple[ClassScore, ...] = ()
    sentences: tuple[str, ...] = ()

    @property
    def test_accuracy(self) -> float | None:
        """From 0 to 1, on the held-out images, of the weights that are kept; None before the first whole epoch."""
        return self.epochs[(self.best_epoch or len(self.epochs)) - 1]["test_accuracy"] if self.epochs else None

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self) | {
            "folder": str(self.folder),
            "report": str(self.folder / REPORT),
            "test_accuracy": self.test_accuracy,
        }


def train(options: Options | None = None, console: Console | None = None, stop: Stop | None = None) -> Result:
    """Learn to classify images, and write a run folder with checkpoints, metrics, predictions and a report.

    Args:
        options: what to learn from, and how; by default MNIST-5k with a small VGG. What they leave open is chosen from
            the data.
        console: where to print; by default nowhere.
        stop: ask it to stop the run at the next batch; Ctrl-C does. A second Ctrl-C raises `KeyboardInterrupt`, or ends
            the process at once where `stop` is one that `exits`.

    Raises:
        UserError: for anything in the options, the data or the machine that it cannot work with.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     result = train(Options(size=8, epochs=1, batch=500, out=folder, name="quick"))
    ...     print(*sorted(path.name for path in result.folder.iterdir()))
    architecture.json config.json film.safetensors last metrics.jsonl model.safetensors predictions.csv report.html
    split.csv
    """
    with joined() as ranks:
        display = Display(console if console is not None and ranks.first else Console(quiet=True))
        return _train(options or Options(), display, stop or Stop(), ranks)


def _train(options: Options, display: Display, stop: Stop, ranks: Ranks) -> Result:
    config: dict[str, Any] | None = None
    start: Start | None = None
    begun = ranks.begun()
    if begun is not None:
        options = Options(resume=begun, threads=options.threads, epochs=options.epochs)
        display.say(f"A process was lost, so all begin again from the last checkpoint of {shown(begun)}.")
    if options.resume is not None:
        resumed, threads, epochs = Path(options.resume), options.threads, options.epochs
        options, config = ranks.by_first(lambda: folder.stored(resumed, threads, epochs))
    else:
        options = replace(options, data=folder.place(options.data), start=folder.place(options.start))
        if options.cache is not None:
            options = replace(options, cache=str(Path(options.cache).expanduser().resolve()))
        start = _known_beforehand(options, ranks)
    with _threads(ranks.threads(options.threads)), torch.random.fork_rng(devices=[]):
        data, options = _load(options, start, display)
        display.says_memory = data.streams
        telling.describe(display, data)
        fingerprint = data.fingerprint()
        ranks.must_agree(fingerprint, f"not all processes of this run have the same images of {data.name}.")
        if config is not None and config["data"]["fingerprint"] != fingerprint:
            raise UserError(
                f"the images of {data.name} are not those that {options.resume} has learned from; start a new run."
            )
        options = defaults.chosen(options, data)
        telling.describe_choices(display, data, options)
        telling.describe_ranks(display, options, ranks)
        architecture, model = _network(options, data, start, display)
        counted = plan(model, architecture.input_shape)
        display.console.print(as_short_table(counted))
        display.say("\n".join(["", *short_sums(counted), ""]))
        if config is None:
            config = folder.configuration(options, data, fingerprint, ranks)
        place = ranks.by_first(lambda: _place(options, data, config))
        ranks.remember(str(place.absolute()))
        try:
            return _learn(options, data, architecture, model, counted, place, config, display, stop, ranks)
        except KeyboardInterrupt:
            display.say(_left_at_once(place))
            raise


def _left_at_once(place: Path) -> str:
    return f"\nLeft at once; what was written before is in {shown(place)}. {how_to_continue(place)}"


def _place(options: Options, data: Data, config: dict[str, Any]) -> Path:
    """The run's folder, new or the one that is continued, with what is known so far."""
    place = folder.new_folder(options, data, config) if options.resume is None else Path(options.resume)
    if options.resume is not None and read_json(place / CONFIG) != config:
        write_atomically(place / CONFIG, to_json(config))  # it has more epochs now
    if options.task == "classes" and not (place / split.SPLIT).exists():  # it may have been killed before this
        split.write(place, data.train.names, data.test.names)
    if data.skipped:
        write_atomically(place / SKIPPED, ("\n".join(data.skipped) + "\n").encode())
    return place


def _known_beforehand(options: Options, ranks: Ranks) -> Start | None:
    """Whatever can go wrong before there is an image does so here: nobody waits for 10,000 of them to hear of it."""
    folder.must_be_makeable(Path(options.out).expanduser())
    if options.name is not None:
        wanted = Path(options.out).expanduser() / options.name
        ranks.by_first(lambda: folder.must_be_free(wanted))
    if options.model is not None:
        if own.is_callable(options.model):
            own.trust(options.model)
        families.check(options.model)
    precision.check(options.precision)
    events.check(options.tensorboard)
    return start_of(options)


def _load(options: Options, start: Start | None, display: Display) -> tuple[Data, Options]:
    """The data, and the options with the size that was chosen for it."""
    if options.task == "exemplar":
        found = exemplar.load(
            options.data, seed=options.seed, size=options.size, flips=options.flips, track=display.track
        )
        return found, options
    sides: list[int] = []

    def largest(images: int) -> int:
        sides.append(options.largest or defaults.largest_side(images))
        return sides[-1]

    found = labelled.load(
        options.data,
        seed=options.seed,
        size=options.size,
        flips=options.flips,
        val=options.val,
        largest=largest,
        channels=options.channels or _channels(options, start),
        stream=options.stream,
        cache=options.cache,
        track=display.track,
        say=display.say,
    )
    return found, replace(
        options,
        largest=sides[0] if sides else options.largest,
        channels=options.channels or _channels(options, start),
        # As it was decided: a run that is continued elsewhere must find the same images, by the same fingerprint.
        stream=found.streams if options.stream is None and found.streams else options.stream,
    )


def _channels(options: Options, start: Start | None) -> int | None:
    """How many channels the images must have for the network; None where it takes them as they are."""
    if start is not None and start.of is not None:
        return start.of.input_shape[0]
    return 3 if start is not None or (options.model or "").startswith("torchvision:") else None


def _network(options: Options, data: Data, start: Start | None, display: Display) -> tuple[Architecture, nn.Module]:
    """What learns: freshly initialised, with the weights that it starts from. A run that is continued gets its own
    weights later, and is what its architecture.json says."""
    described = Path(options.resume or "") / ARCHITECTURE
    if options.resume is not None and described.exists():
        architecture = read_architecture(described)
    else:
        if options.resume is not None:
            start = start_of(replace(options, model=None if options.start else options.model))
        architecture = _architecture(str(options.model), data, options.task)
        if start is not None:
            architecture = start.architecture(architecture)
    torch.manual_seed(options.seed)
    model = architecture.build()
    if start is not None:
        display.say(start.give(model, data.classes))
    elif options.task == "exemplar":
        exemplar.quieten(model)
    return architecture, model


def _learn(
    options: Options,
    data: Data,
    architecture: Architecture,
    model: nn.Module,
    counted: Any,
    place: Path,
    config: dict[str, Any],
    display: Display,
    stop: Stop,
    ranks: Ranks,
) -> Result:
    from .pictures import first_kernels

    kernels_before = first_kernels(model)
    settings = _settings(options)
    dense: Measured | None = None
    with stop.listening(display.say, lambda: display.leave(_left_at_once(place))):
        with events.watching(place, display, options.tensorboard and ranks.first) as watcher:
            learned = _fit(model, data, architecture, settings, place, display, watcher, stop, ranks)
        progress = learned.progress
        network = twin.measure(model, architecture, data, settings.batch, progress.epochs, stop, ranks)
        if options.dense_twin and not ranks.any(stop.asked):
            display.say("\nNow its fully connected twin, on the same images:")
            dense = _dense_twin(data, settings, place, display, stop, ranks)
    if network is not None and dense is not None:
        display.console.print(twin.as_table([network, dense]))
    finished = network is not None and (dense is not None or not options.dense_twin)
    result = Result(
        place,
        finished,
        tuple(progress.epochs),
        progress.best,
        network,
        dense,
        len(data.skipped),
        sentences=tuple(telling.outcome(learned, place)) if finished else (),
    )
    result = ranks.by_first(
        lambda: _write_report(result, options, architecture, config, data, model, counted, kernels_before)
    )
    if finished and ranks.first:
        folder.remove_states(place)
    return result


def _settings(options: Options) -> Settings:
    """Of options that `defaults.chosen` has completed."""
    epochs, augment = options.epochs, options.augment
    assert epochs is not None
    assert isinstance(augment, str)
    assert options.batch is not None
    assert options.passes is not None
    assert options.lr is not None
    assert options.patience is not None
    assert options.weight_decay is not None
    assert options.label_smoothing is not None
    return Settings(
        epochs=epochs,
        batch=options.batch,
        lr=options.lr,
        seed=options.seed,
        augment=augment,
        passes=options.passes,
        patience=options.patience,
        weight_decay=options.weight_decay,
        label_smoothing=options.label_smoothing,
        balance=options.balance,
        frozen=max(1, epochs // 5) if options.freeze else 0,
        bf16=options.precision == "bf16",
        sync_batch_norm=options.sync_batch_norm,
    )


def _fit(
    model: nn.Module,
    data: Data,
    architecture: Architecture,
    settings: Settings,
    place: Path,
    display: Display,
    watcher: Watcher,
    stop: Stop,
    ranks: Ranks,
) -> Learned:
    with display.learning(steps_per_epoch(len(data.train) * settings.passes, settings.batch) * settings.epochs):
        return fit(model, data, architecture, settings, place, watcher, stop, ranks)


def _dense_twin(
    data: Data, settings: Settings, place: Path, display: Display, stop: Stop, ranks: Ranks
) -> Measured | None:
    architecture = _architecture("dense", data)
    torch.manual_seed(settings.seed)
    model = architecture.build()
    settings = replace(settings, frozen=0)
    learned = _fit(model, data, architecture, settings, place / twin.FOLDER, display, display, stop, ranks)
    return twin.measure(model, architecture, data, settings.batch, learned.progress.epochs, stop, ranks)


def _architecture(model: str, data: Data, task: str = "classes") -> Architecture:
    family, arguments = families.named(model)
    if family in ("vgg", "resnet", "dense"):
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


def _write_report(
    result: Result,
    options: Options,
    architecture: Architecture,
    config: dict[str, Any],
    data: Data,
    model: nn.Module,
    counted: Any,
    kernels_before: Any,
) -> Result:
    """Write report and predictions; the result comes back with what they say of each class."""
    from . import predictions
    from .pictures import collect
    from .report import Report, write_report
    from .scores import class_scores

    test = _looked_at(data.test, None if result.finished else _PIXELS_WHEN_STOPPED)
    pictures = collect(
        model,
        test.images,
        test.labels,
        lambda images: normalise(images, architecture),
        len(data.classes),
        kernels_before,
        test.names,
    )
    predictions.write(
        result.folder,
        test.names or [f"held-out image {number}" for number in range(len(test))],
        test.labels.numpy(),
        pictures.probabilities,
        data.classes,
    )
    stopped_early: bool | str = not result.finished
    if len(test) < len(data.test) and not result.finished:
        stopped_early = (
            "The run was stopped before its last epoch; this is the network as it was then, looked at with "
            f"{len(test):,} of the {len(data.test):,} held-out images."
        )
    settings = {name: value for name, value in config["options"].items() if value is not None}
    settings |= {"lr": options.lr, "threads": torch.get_num_threads()}
    report = Report(
        title=shown(result.folder.name),
        classes=data.classes,
        epochs=result.epochs,
        pictures=pictures,
        data={"data set": data.name, **folder.facts(data), "skipped files": len(data.skipped)},
        skipped=data.skipped,
        plan=str(counted),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        comparison=twin.as_rows([result.network, result.dense_twin]) if result.network and result.dense_twin else (),
        # As stored, so that the report of a resumed run is that of an undisturbed one.
        settings={name: shown(value) if isinstance(value, str) else value for name, value in settings.items()},
        best_epoch=result.best_epoch or None,
        stopped_early=stopped_early,
    )
    write_report(result.folder / REPORT, report)
    return replace(result, classes=class_scores(pictures.confusion, data.classes))


def _looked_at(split: Split | Streamed, pixels: int | None) -> Split:
    """Few enough images to look at while somebody waits, or to have in memory; evenly spaced, for they may be sorted by
    class."""
    if pixels is None:
        if isinstance(split, Split):
            return split
        pixels = _PIXELS_IN_MEMORY
    every = max(1, -(-len(split) * split.shape[1] * split.shape[2] // pixels))
    return split.take(torch.arange(0, len(split), every))
