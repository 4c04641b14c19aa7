"""The loop: from the first step to the last, or to the first Ctrl-C, or to the first loss that is not a number.

AdamW with decoupled weight decay on the weights of convolutions and linear layers only (Loshchilov & Hutter, 2017);
the learning rate rises linearly over the first tenth of the steps and falls along a cosine to zero.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil, cos, isfinite, pi
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from time import perf_counter
from types import FrameType
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import UserError
from ..files import remove_parts, write_atomically
from ..learned.film import Recorder
from ..models import checkpoint
from ..models.checkpoint import Architecture
from .augment import augment
from .data import Data, Split
from .state import STATE, Progress, begin, load_state, random_numbers, save_state

METRICS = "metrics.jsonl"
_WARM_UP = 0.1
_EVALUATION_BATCH = 250
_STOPPING = "Stopping after this batch; Ctrl-C again leaves at once."


@dataclass(frozen=True)
class Settings:
    """How to learn; `batch` in images, `lr` the highest rate, the rest as in `Options`."""

    epochs: int
    batch: int
    lr: float
    seed: int
    augment: bool = True
    weight_decay: float = 0.05
    label_smoothing: float = 0.05


class Watcher(Protocol):
    """Is told how a run goes."""

    def step(self, progress: Progress, steps: int) -> None: ...

    def epoch(self, metrics: dict[str, float], epochs: int) -> None: ...


class Stop:
    """Whether the user asked to stop. The first Ctrl-C asks; a second one interrupts at once, as usual."""

    def __init__(self) -> None:
        self.asked = False

    def ask(self, _signal: int = 0, _frame: FrameType | None = None) -> None:
        self.asked = True

    @contextmanager
    def listening(self, say: Callable[[str], None] = lambda _: None) -> Iterator[Stop]:
        """Within the block the first SIGINT (Ctrl-C) or SIGTERM asks to stop, and `say` is told so at once."""
        before: dict[signal.Signals, Any] = {}
        # A handler may come between while somebody prints, and a lock that is held then would never be free again. So
        # a thread of its own prints; to put something into this queue is safe in a handler.
        heard = SimpleQueue[bool]()

        def tell() -> None:
            if heard.get():
                say(_STOPPING)

        def once(number: int, frame: FrameType | None) -> None:
            self.ask()
            heard.put(True)
            for each, handler in before.items():
                signal.signal(each, handler)

        teller = Thread(target=tell, daemon=True)
        teller.start()
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                before[number] = signal.signal(number, once)
        except ValueError:  # signals belong to the main thread; elsewhere nobody presses Ctrl-C
            pass
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            heard.put(False)
            teller.join()


def normalise(images: Tensor, data: Data | Architecture) -> Tensor:
    """(pixel / 255 − mean) / std of uint8 images (N, C, H, W), in torch's channels_last memory format."""
    return _standardised(images.float().div_(255), data)


def _standardised(images: Tensor, data: Data | Architecture) -> Tensor:
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (data.mean, data.std))
    return ((images - mean) / std).contiguous(memory_format=torch.channels_last)


def evaluate(model: nn.Module, split: Split, data: Data, stop: Stop) -> tuple[float, float] | None:
    """Mean cross-entropy and accuracy (0 to 1) on a split, in eval mode; None as soon as `stop` was asked."""
    model.eval()
    loss, right = 0.0, 0
    with torch.inference_mode():
        batches = zip(*(torch.split(part, _EVALUATION_BATCH) for part in (split.images, split.labels)), strict=True)
        for images, labels in batches:
            if stop.asked:
                return None
            logits = model(normalise(images, data))
            loss += float(functional.cross_entropy(logits, labels, reduction="sum"))
            right += int((logits.argmax(1) == labels).sum())
    return loss / len(split), right / len(split)


def learning_rate(step: int, steps: int, highest: float) -> float:
    """Of step `step` of `steps`, counted from 0.

    >>> [round(learning_rate(step, 100, 1.0), 3) for step in (0, 4, 9, 10, 55, 99)]
    [0.1, 0.5, 1.0, 1.0, 0.5, 0.0]
    """
    warm = max(1, ceil(_WARM_UP * steps))
    if step < warm:
        return highest * (step + 1) / warm
    return highest * 0.5 * (1 + cos(pi * (step - warm) / max(1, steps - warm)))


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
) -> Progress:
    """Train `model` in place, writing film, state, checkpoint and metrics into `folder` after every epoch.

    A folder that holds a state is continued, bit for bit as if it had never stopped, with the same number of threads.

    Returns:
        How far it went: fewer epochs than `settings.epochs` if `stop` was asked. An epoch counts when it was evaluated;
        where `stop` came before that, it is done when the run is continued.

    Raises:
        UserError: if the loss is not a number any more (the last good checkpoint stays), or a file cannot be written.
    """
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(_groups(model, settings.weight_decay), lr=settings.lr)
    begin(optimizer)
    per_epoch = steps_per_epoch(len(data.train), settings.batch)
    steps = per_epoch * settings.epochs
    progress = Progress()
    remove_parts(folder)
    if (folder / STATE).exists():
        progress = load_state(folder, model, optimizer, folder / checkpoint.ARCHITECTURE)
        _must_fit(progress, folder / STATE, settings, per_epoch, len(data.train))
    else:
        # Written before anything is learned: a folder that cannot be written shows now and not after an hour.
        save_state(folder, model, optimizer, progress)
    _publish(folder, model, architecture, progress)
    film = Recorder(folder, model, progress.step, steps, per_epoch)
    while len(progress.epochs) < settings.epochs:
        epoch = len(progress.epochs)
        done = progress.step - epoch * per_epoch
        order = torch.randperm(len(data.train), generator=random_numbers(settings.seed, "order", epoch))
        for rows in torch.split(order, settings.batch)[done:per_epoch]:
            started = perf_counter()
            _step(model, optimizer, data, rows, settings, progress, steps)
            progress.seconds += perf_counter() - started
            film.look(progress.step)
            watcher.step(progress, steps)
            if stop.asked:
                break
        whole = progress.step == (epoch + 1) * per_epoch
        tested = evaluate(model, data.test, data, stop) if whole else None
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
                    "lr": learning_rate(progress.step - 1, steps, settings.lr),
                    "seconds": progress.seconds,
                    "images_per_second": progress.seen / progress.seconds,
                }
            )
            progress.seen, progress.right, progress.loss, progress.seconds = 0, 0, 0.0, 0.0
        for tensor in model.state_dict().values():
            # A sum is finite only if every term is, and costs no mask of the tensor's size.
            _must_be_finite(float(tensor.double().sum()), progress, settings)
        film.write()  # before the state: frames beyond it are recorded again, frames missing before it never could be
        save_state(folder, model, optimizer, progress)
        _publish(folder, model, architecture, progress)
        if tested is not None:
            watcher.epoch(progress.epochs[-1], settings.epochs)
        if stop.asked:
            break
    model.eval()
    return progress


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    # Norms and biases set scale and offset, which decay would only pull to where the data is not.
    weights = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    return [{"params": weights, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def _step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: Data,
    rows: Tensor,
    settings: Settings,
    progress: Progress,
    steps: int,
) -> None:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(progress.step, steps, settings.lr)
    draw = random_numbers(settings.seed, "step", progress.step)
    torch.manual_seed(draw.initial_seed())  # what the model itself draws, such as dropout
    model.train()
    images, labels = data.train.images[rows].float().div_(255), data.train.labels[rows]
    if settings.augment:
        images = augment(images, draw, data.flips)
    logits = model(_standardised(images, data))
    loss = functional.cross_entropy(logits, labels, label_smoothing=settings.label_smoothing)
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
    seen = steps * min(settings.batch, images)
    if not 0 <= steps <= per_epoch or progress.step > per_epoch * settings.epochs or progress.seen != seen:
        raise UserError(
            f"{path} does not say how far the run was (step {progress.step} of {per_epoch * settings.epochs}, "
            f"{len(progress.epochs)} epochs, {progress.seen} images); it is damaged."
        )


def _publish(folder: Path, model: nn.Module, architecture: Architecture, progress: Progress) -> None:
    """Write what others read of the state: the checkpoint, and the metrics."""
    checkpoint.save(folder, model, architecture)
    lines = "".join(json.dumps(epoch) + "\n" for epoch in progress.epochs)
    write_atomically(folder / METRICS, lines.encode())


def _must_be_finite(value: float, progress: Progress, settings: Settings) -> None:
    if isfinite(value):
        return
    kept = "the model as it was before learning"
    if progress.epochs:
        kept = f"the checkpoint of epoch {len(progress.epochs)}"
    raise UserError(
        f"learning broke down at step {progress.step + 1}, with --lr {settings.lr:g}: the loss is not a number any "
        f"more; {kept} is kept, and a lower rate such as --lr {settings.lr / 10:g} should work."
    )
