"""The loop: from the first step to the last, or to the first Ctrl-C, or to the first loss that is not a number.

AdamW with decoupled weight decay on the weights of convolutions and linear layers only (Loshchilov & Hutter, 2017);
`schedule` has the learning rate and says when a run ends.

Several processes may share a run (`ranks`): each batch is cut into as many stretches, and what a step does is what one
process would have done with the whole batch, but for the order in which numbers are added.
"""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from time import perf_counter
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import UserError
from ..files import remove_parts, write_atomically
from ..learned.film import Recorder
from ..models.checkpoint import ARCHITECTURE, WEIGHTS, Architecture
from ..pytorch.synchronised import synchronised
from . import freezing
from .augment import Places, changed
from .balance import class_weights
from .data import Data
from .evaluation import evaluate, standardised
from .keeping import Checkpoints
from .ranks import ALONE, Ranks
from .schedule import Schedule
from .split import Split
from .state import (
    STATE,
    Progress,
    begin,
    load_state,
    named_tensors,
    random_numbers,
    read_metrics,
    save_state,
)
from .stop import Stop
from .streamed import Streamed

METRICS = "metrics.jsonl"

_SAVED_EVERY = 600.0
"""Seconds after which a run is written down within an epoch, too: so much is lost at most where a machine is."""


@dataclass(frozen=True)
class Settings:
    """How to learn, all as in `Options`, with nothing left open; `lr` is the highest rate."""

    epochs: int
    batch: int
    lr: float
    seed: int
    augment: str = "light"
    passes: int = 1
    patience: int = 0
    weight_decay: float = 0.05
    label_smoothing: float = 0.05
    balance: bool = False
    frozen: int = 0
    bf16: bool = False
    sync_batch_norm: bool = False


class Watcher(Protocol):
    """Is told how a run goes."""

    def step(self, progress: Progress, steps: int) -> None: ...

    def epoch(self, metrics: dict[str, float], epochs: int, best: bool) -> None: ...


@dataclass(frozen=True)
class Learned:
    """What `fit` has done: how far it went, and by which schedule."""

    progress: Progress
    schedule: Schedule


def steps_per_epoch(images: int, batch: int) -> int:
    """Full batches only: an odd last one would have other statistics, and a batch norm cannot use a single image."""
    return max(1, images // batch)


def fit(
    model: nn.Module,
    data: Data,
    architecture: Architecture,
    settings: Settings,
    folder: Path,
    watcher: Watcher,
    stop: Stop,
    ranks: Ranks = ALONE,
) -> Learned:
    """Train `model` in place, writing film, state, checkpoints and metrics into `folder` after every epoch; in the end
    it has the weights of its best epoch.

    A folder that holds a state is continued, bit for bit as if it had never stopped, with the same number of threads
    and of ranks. One that holds a finished run goes on from its last weights, with a schedule of its own for the epochs
    that are new.

    With several `ranks` all call this alike; the first one writes, and it alone needs the folder.

    Returns:
        How far it went: less than its schedule says if `stop` was asked. An epoch counts when it was evaluated; where
        `stop` came before that, it is done when the run is continued.

    Raises:
        UserError: if the loss is not a number any more (the best checkpoint stays), or a file cannot be written.
    """
    shared = settings.sync_batch_norm and ranks.count > 1
    with synchronised(model) if shared else nullcontext():
        return _Run(model, data, architecture, settings, folder, watcher, stop, ranks).learn()


class _Run:
    """What `fit` does, and what it has meanwhile. The arguments are those of `fit`."""

    def __init__(
        self,
        model: nn.Module,
        data: Data,
        architecture: Architecture,
        settings: Settings,
        folder: Path,
        watcher: Watcher,
        stop: Stop,
        ranks: Ranks,
    ) -> None:
        self._data, self._architecture, self._settings = data, architecture, settings
        self._folder, self._watcher, self._stop, self._ranks = folder, watcher, stop, ranks
        self._model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._optimizer = torch.optim.AdamW(_groups(model, settings.weight_decay), lr=settings.lr)
        begin(self._optimizer)
        self._per_epoch = steps_per_epoch(len(data.train) * settings.passes, settings.batch)
        self._steps = self._per_epoch * settings.epochs
        self._checkpoints = Checkpoints(folder, architecture, by_loss=settings.patience > 0)
        self._progress = progress = ranks.by_first(self._begun)
        ranks.give(list(named_tensors(model, self._optimizer).values()))
        self._schedule = Schedule(progress.begin, settings.epochs, self._per_epoch, settings.patience)
        ranks.by_first(self._describe)
        self._weights = class_weights(data.train.labels, len(data.classes)) if settings.balance else None
        self._film = Recorder(folder, model, progress.step, self._steps, self._per_epoch) if ranks.first else None
        self._learner, self._frozen = ranks.learner(model), False
        self._saved = perf_counter()

    def _begun(self) -> Progress:
        """The first rank's model, optimiser and checkpoints as the folder has them, and how far they are."""
        folder, model, optimizer, checkpoints = self._folder, self._model, self._optimizer, self._checkpoints
        remove_parts(folder)
        if (folder / STATE).exists():
            progress, checkpoints.best = load_state(folder, model, optimizer, folder / ARCHITECTURE)
            _must_fit(
                progress, folder / STATE, self._settings, self._per_epoch, len(self._data.train), self._data.streams
            )
            return progress
        progress = Progress()
        if (folder / WEIGHTS).exists():
            epochs = read_metrics(folder / METRICS)
            progress = Progress(step=len(epochs) * self._per_epoch, begin=len(epochs), epochs=epochs)
            checkpoints.continue_from(model, progress)
        # Written before anything is learned: a folder that cannot be written shows now and not after an hour.
        save_state(folder, model, optimizer, progress, checkpoints.best)
        return progress

    def _describe(self) -> None:
        self._checkpoints.describe()
        self._publish()

    def learn(self) -> Learned:
        progress, model = self._progress, self._model
        stopping = False
        while not stopping and not self._schedule.done(progress.losses):
            stopping = self._epoch()
        freezing.freeze(model, False)
        if self._checkpoints.best is not None:
            model.load_state_dict(self._checkpoints.best)
        self._ranks.give(list(model.state_dict().values()))
        model.eval()
        return Learned(progress, self._schedule)

    def _epoch(self) -> bool:
        """From where it was left to its end, or to a stop; whether that was asked for."""
        progress, settings, ranks, model = self._progress, self._settings, self._ranks, self._model
        epoch = len(progress.epochs)
        done = progress.step - epoch * self._per_epoch
        self._freeze(epoch < settings.frozen)
        batches = torch.split(_order(epoch, self._data.train, settings), settings.batch)[done : self._per_epoch]
        places = [ranks.places(len(rows)) for rows in batches]
        parts = self._data.train.read([rows[mine] for rows, mine in zip(batches, places, strict=True)])
        for rows, mine in zip(batches, places, strict=True):
            self._stop.doing = f"this batch of {len(rows)} images"
            started = perf_counter()
            asked, due = self._step(next(parts), mine, len(rows))
            progress.seconds += perf_counter() - started
            if self._film is not None:
                self._film.look(progress.step)
            self._watcher.step(progress, self._steps)
            if asked or (ranks.count == 1 and self._stop.asked):
                break
            if due and progress.step < (epoch + 1) * self._per_epoch:
                self._gather()
                ranks.by_first(self._write)
        self._gather()
        whole = progress.step == (epoch + 1) * self._per_epoch
        how = self._architecture
        tested = evaluate(model, self._data.test, how, self._stop, self._weights, ranks) if whole else None
        best = False
        if tested is not None:
            best = self._count(*tested)
        for tensor in model.state_dict().values():
            # A sum is finite only if every term is, and costs no mask of the tensor's size.
            _must_be_finite(float(tensor.double().sum()), progress, settings)
        ranks.by_first(self._write)
        if tested is not None:
            self._watcher.epoch(progress.epochs[-1], settings.epochs, best and settings.patience > 0)
        return ranks.any(self._stop.asked)

    def _gather(self) -> None:
        """Each rank has statistics of its own images, which are sums: their mean is that of all images."""
        self._ranks.average([values for values in self._model.buffers() if values.is_floating_point()])

    def _freeze(self, frozen: bool) -> None:
        freezing.freeze(self._model, frozen)
        if frozen is not self._frozen:
            self._frozen, self._learner = frozen, self._ranks.learner(self._model)

    def _count(self, test_loss: float, test_accuracy: float) -> bool:
        """An epoch that is done; whether it is the best so far."""
        progress, settings = self._progress, self._settings
        _must_be_finite(test_loss, progress, settings)
        progress.epochs.append(
            {
                "epoch": len(progress.epochs) + 1,
                "train_loss": progress.loss / progress.seen,
                "train_accuracy": progress.right / progress.seen,
                "test_loss": test_loss,
                "test_accuracy": test_accuracy,
                "lr": self._schedule.rate(progress.step - 1, progress.losses, settings.lr),
                "seconds": progress.seconds,
                "images_per_second": progress.seen / progress.seconds,
            }
        )
        progress.seen, progress.right, progress.loss, progress.seconds = 0, 0, 0.0, 0.0
        return self._checkpoints.look(self._model, progress)

    def _write(self) -> None:
        """Everything, in the order in which a process may die between."""
        progress = self._progress
        if self._film is not None:
            if self._schedule.done(progress.losses):
                self._film.end(progress.step)
            self._film.write()  # frames beyond the state are recorded again, frames missing before it never could be
        save_state(self._folder, self._model, self._optimizer, progress, self._checkpoints.best)
        self._publish()
        self._saved = perf_counter()

    def _publish(self) -> None:
        """Write what others read of the state: the checkpoints, and the metrics."""
        self._checkpoints.write(self._model, self._progress)
        lines = "".join(json.dumps(epoch) + "\n" for epoch in self._progress.epochs)
        write_atomically(self._folder / METRICS, lines.encode())

    def _step(self, part: Split, places: Tensor, of: int) -> tuple[bool, bool]:
        """Learn from a part of a batch `of` so many images, at these places of it, together with the other ranks;
        whether one of them was asked to stop, and whether it is time to write."""
        progress, settings, ranks = self._progress, self._settings, self._ranks
        for group in self._optimizer.param_groups:
            group["lr"] = self._schedule.rate(progress.step, progress.losses, settings.lr)
        draw = random_numbers(settings.seed, "step", progress.step)
        # What the model itself draws, such as dropout: another mask on each rank.
        torch.manual_seed((draw.initial_seed() + ranks.rank) % 2**63)
        freezing.train(self._model, self._frozen)
        places = places if part.places is None else places[part.places]
        labels, weights = part.labels, self._weights
        images = part.images.float().div_(255)
        images = changed(images, settings.augment, draw, self._data.flips, Places(places, of))
        with torch.autocast("cpu", torch.bfloat16, enabled=settings.bf16):
            logits = self._learner(standardised(images, self._architecture))
        logits = logits.float()
        smoothing = settings.label_smoothing
        summed = functional.cross_entropy(logits, labels, weights, label_smoothing=smoothing, reduction="sum")
        # Without the smoothing, so that it compares with the loss of the test images.
        plain = functional.cross_entropy(logits.detach(), labels, reduction="sum")
        right = (logits.detach().argmax(1) == labels).sum()
        weight = float(len(labels) if weights is None else weights[labels].sum())
        late = ranks.first and perf_counter() - self._saved > _SAVED_EVERY
        loss, plain_loss, recognised, seen, total, asked, due = ranks.sums(
            float(summed.detach()), float(plain), float(right), len(labels), weight, self._stop.asked, late
        )
        _must_be_finite(loss, progress, settings)
        self._optimizer.zero_grad()
        # Gradients are averaged over the ranks, and it is their sum that the whole batch has.
        (summed * (ranks.count / total)).backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        progress.loss += plain_loss
        progress.right += int(recognised)
        progress.seen += int(seen)
        progress.step += 1
        return asked > 0, due > 0


def _order(epoch: int, images: Split | Streamed, settings: Settings) -> Tensor:
    """Which images an epoch shows: all of them in a random order, as many times as it passes over them."""
    passes = range(epoch * settings.passes, (epoch + 1) * settings.passes)
    return torch.cat([images.order(random_numbers(settings.seed, "order", number)) for number in passes])


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    # Norms and biases set scale and offset, which decay would only pull to where the data is not.
    weights = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    return [{"params": weights, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def _must_fit(progress: Progress, path: Path, settings: Settings, per_epoch: int, images: int, streams: bool) -> None:
    steps = progress.step - per_epoch * len(progress.epochs)  # as many as an epoch has if it was not evaluated yet
    seen = steps * min(settings.batch, images * settings.passes)
    # Images that turned out to be damaged were left out of their batches.
    least = 0 if streams else seen
    if not 0 <= steps <= per_epoch or progress.step > per_epoch * settings.epochs or not least <= progress.seen <= seen:
        raise UserError(
            f"{path} does not say how far the run was (step {progress.step} of {per_epoch * settings.epochs}, "
            f"{len(progress.epochs)} epochs, {progress.seen} images); it is damaged."
        )


def _must_be_finite(value: float, progress: Progress, settings: Settings) -> None:
    if isfinite(value):
        return
    kept = "the model as it was before learning"
    if progress.epochs:
        kept = f"the checkpoint of epoch {progress.best or len(progress.epochs)}"
    raise UserError(
        f"learning broke down at step {progress.step + 1}, with --lr {settings.lr:g}: the loss is not a number any "
        f"more; {kept} is kept, and a lower rate such as --lr {settings.lr / 10:g} should work."
    )
