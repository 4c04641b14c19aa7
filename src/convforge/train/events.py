"""TensorBoard's event files, for who watches runs there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError

if TYPE_CHECKING:
    from .loop import Watcher
    from .state import Progress

FOLDER = "tensorboard"
_CURVES = {
    "loss/train": "train_loss", "loss/held out": "test_loss", "accuracy/train": "train_accuracy",
    "accuracy/held out": "test_accuracy", "learning rate": "lr", "images a second": "images_per_second",
}  # fmt: skip


def check(wanted: bool) -> None:
    """Raise `UserError` if event files are wanted and cannot be written."""
    if wanted:
        _writer_class()


def _writer_class() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError(
            "--tensorboard needs the package tensorboard: pip install 'convforge[tensorboard]', or leave it out; "
            "metrics.jsonl and the report have the same numbers."
        ) from None
    return SummaryWriter


class _Both:
    """A watcher that writes events and passes everything on.

    A run may have been killed before or after it wrote the events of its last epoch. So one that is continued writes
    these again, and TensorBoard is told to forget what earlier files have from that epoch on: no point is missing, and
    none is there twice.
    """

    def __init__(self, watcher: Watcher, folder: Path) -> None:
        self._watcher, self._folder = watcher, folder
        self._writer: Any = None

    def step(self, progress: Progress, steps: int) -> None:
        self._begin(progress.epochs)
        self._watcher.step(progress, steps)

    def epoch(self, metrics: dict[str, float], epochs: int, best: bool) -> None:
        self._begin([], int(metrics["epoch"]))
        self._write(metrics)
        self._watcher.epoch(metrics, epochs, best)

    def _begin(self, done: list[dict[str, float]], purge: int | None = None) -> None:
        """Open a file of events, once it is known how far the run is."""
        if self._writer is not None:
            return
        purge = len(done) or purge
        self._writer = _writer_class()(str(self._folder), purge_step=purge)
        for metrics in done[-1:]:
            self._write(metrics)

    def _write(self, metrics: dict[str, float]) -> None:
        for curve, name in _CURVES.items():
            self._writer.add_scalar(curve, metrics[name], int(metrics["epoch"]))
        self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


@contextmanager
def watching(folder: Path, watcher: Watcher, wanted: bool) -> Iterator[Watcher]:
    """The watcher, and if they are `wanted`, event files in the folder `tensorboard` of the run beside it."""
    if not wanted:
        yield watcher
        return
    both = _Both(watcher, folder / FOLDER)
    try:
        yield both
    finally:
        both.close()
