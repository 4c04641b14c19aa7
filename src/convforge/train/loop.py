"""The loop: from the first step to the last, or to the first Ctrl-C, or to the first loss that is not a number.

AdamW with decoupled weight decay on the weights of convolutions and linear layers only (Loshchilov & Hutter, 2017);
`schedule` has the learning rate and says when a run ends.
"""

from __future__ import annotations

import json
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
from . import freezing
from .augment import changed
from .balance import class_weights
from .data import Data
from .evaluation import evaluate, standardised
from .keeping import Checkpoints
from .schedule import Schedule
from .state import STATE, Progress, begin, load_state, random_numbers, read_metrics, save_state
from .stop import Stop

METRICS = "metrics.jsonl"


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
) -> Learned:
    """Train `model` in place, writing film, state, checkpoints and metrics into `folder` after every epoch; in the end
    it has the weights of its best epoch.

    A folder that holds a state is continued, bit for bit as if it had never stopped, with the same number of threads.
    One that holds a finished run goes on from its last weights, with a schedule of its own for the epochs that are new.

    Returns:
        How far it went: less than its schedule says if `stop` was asked. An epoch counts when it was evaluated; where
        `stop` came before that, it is done when the run is continued.

    Raises:
        UserError: if the loss is not a number any more (the best checkpoint stays), or a file cannot be written.
    """
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(_groups(model, settings.weight_decay), lr=settings.lr)
    begin(optimizer)
    per_epoch = steps_per_epoch(len(data.train) * settings.passes, settings.batch)
    progress = Progress()
    checkpoints = Checkpoints(folder, architecture, by_loss=settings.patience > 0)
    remove_parts(folder)
    if (folder / STATE).exists():
        progress, checkpoints.best = load_state(folder, model, optimizer, folder / ARCHITECTURE)
        _must_fit(progress, folder / STATE, settings, per_epoch, len(data.train))
    else:
        if (folder / WEIGHTS).exists():
            epochs = read_metrics(folder / METRICS)
            progress = Progress(step=len(epochs) * per_epoch, begin=len(epochs), epochs=epochs)
            checkpoints.continue_from(model, progress)
        # Written before anything is learned: a folder that cannot be written shows now and not after an hour.
        save_state(folder, model, optimizer, progress, checkpoints.best)
    schedule = Schedule(progress.begin, settings.epochs, per_epoch, settings.patience)
    steps = per_epoch * settings.epochs
    checkpoints.describe()
    _publish(folder, model, checkpoints, progress)
    weights = class_weights(data.train.labels, len(data.classes)) if settings.balance else None
    film = Recorder(folder, model, progress.step, steps, per_epoch)
    while not schedule.done(progress.losses):
        epoch = len(progress.epochs)
        done = progress.step - epoch * per_epoch
        freezing.freeze(model, epoch < settings.frozen)
        for rows in torch.split(_order(epoch, len(data.train), settings), settings.batch)[done:per_epoch]:
            stop.doing = f"this batch of {len(rows)} images"
            started = perf_counter()
            _step(model, optimizer, data, architecture, rows, settings, progress, schedule, weights)
            progress.seconds += perf_counter() - started
            film.look(progress.step)
            watcher.step(progress, steps)
            if stop.asked:
                break
        whole = progress.step == (epoch + 1) * per_epoch
        tested = evaluate(model, data.test, architecture, stop, weights) if whole else None
        best = False
        if tested is not None:
            test_loss, test_accuracy = tested
            _must_be_finite(test_loss, progress, settings)
            progress.epochs.append(
                {
                    "epoch": epoch + 1,
                    "train_loss": progress.loss / progress.seen,
                    "train_accuracy": progress.right / progress.seen,
                    "test_loss": test_loss,
                    "test_accuracy": test_accuracy,
                    "lr": schedule.rate(progress.step - 1, progress.losses, settings.lr),
                    "seconds": progress.seconds,
                    "images_per_second": progress.seen / progress.seconds,
                }
            )
            progress.seen, progress.right, progress.loss, progress.seconds = 0, 0, 0.0, 0.0
            best = checkpoints.look(model, progress)
        for tensor in model.state_dict().values():
            # A sum is finite only if every term is, and costs no mask of the tensor's size.
            _must_be_finite(float(tensor.double().sum()), progress, settings)
        if schedule.done(progress.losses):
            film.end(progress.step)
        film.write()  # before the state: frames beyond it are recorded again, frames missing before it never could be
        save_state(folder, model, optimizer, progress, checkpoints.best)
        _publish(folder, model, checkpoints, progress)
        if tested is not None:
            watcher.epoch(progress.epochs[-1], settings.epochs, best and settings.patience > 0)
        if stop.asked:
            break
    freezing.freeze(model, False)
    if checkpoints.best is not None:
        model.load_state_dict(checkpoints.best)
    model.eval()
    return Learned(progress, schedule)


def _order(epoch: int, images: int, settings: Settings) -> Tensor:
    """Which images an epoch shows: all of them in a random order, as many times as it passes over them."""
    passes = range(epoch * settings.passes, (epoch + 1) * settings.passes)
    return torch.cat(
        [torch.randperm(images, generator=random_numbers(settings.seed, "order", number)) for number in passes]
    )


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    # Norms and biases set scale and offset, which decay would only pull to where the data is not.
    weights = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    return [{"params": weights, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def _step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: Data,
    architecture: Architecture,
    rows: Tensor,
    settings: Settings,
    progress: Progress,
    schedule: Schedule,
    weights: Tensor | None,
) -> None:
    for group in optimizer.param_groups:
        group["lr"] = schedule.rate(progress.step, progress.losses, settings.lr)
    draw = random_numbers(settings.seed, "step", progress.step)
    torch.manual_seed(draw.initial_seed())  # what the model itself draws, such as dropout
    freezing.train(model, len(progress.epochs) < settings.frozen)
    images, labels = data.train.images[rows].float().div_(255), data.train.labels[rows]
    images = changed(images, settings.augment, draw, data.flips)
    with torch.autocast("cpu", torch.bfloat16, enabled=settings.bf16):
        logits = model(standardised(images, architecture))
    logits = logits.float()
    loss = functional.cross_entropy(logits, labels, weight=weights, label_smoothing=settings.label_smoothing)
    _must_be_finite(float(loss.detach()), progress, settings)
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    # Without the smoothing, so that it compares with the loss of the test images.
    progress.loss += float(functional.cross_entropy(logits.detach(), labels, reduction="sum"))
    progress.right += int((logits.detach().argmax(1) == labels).sum())
    progress.seen += len(rows)
    progress.step += 1


def _must_fit(progress: Progress, path: Path, settings: Settings, per_epoch: int, images: int) -> None:
    steps = progress.step - per_epoch * len(progress.epochs)  # as many as an epoch has if it was not evaluated yet
    seen = steps * min(settings.batch, images * settings.passes)
    if not 0 <= steps <= per_epoch or progress.step > per_epoch * settings.epochs or progress.seen != seen:
        raise UserError(
            f"{path} does not say how far the run was (step {progress.step} of {per_epoch * settings.epochs}, "
            f"{len(progress.epochs)} epochs, {progress.seen} images); it is damaged."
        )


def _publish(folder: Path, model: nn.Module, checkpoints: Checkpoints, progress: Progress) -> None:
    """Write what others read of the state: the checkpoints, and the metrics."""
    checkpoints.write(model, progress)
    lines = "".join(json.dumps(epoch) + "\n" for epoch in progress.epochs)
    write_atomically(folder / METRICS, lines.encode())


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
