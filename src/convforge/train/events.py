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
    """A watcher that writes events and passes everything on."""

    def __init__(self, watcher: Watcher, writer: Any) -> None:
        self._watcher, self._writer = watcher, writer

    def step(self, progress: Progress, steps: int) -> None:
        self._watcher.step(progress, steps)

    def epoch(self, metrics: dict[str, float], epochs: int, best: bool) -> None:
        for curve, name in _CURVES.items():
            self._writer.add_scalar(curve, metrics[name], int(metrics["epoch"]))
        self._writer.flush()
        self._watcher.epoch(metrics, epochs, best)


@contextmanager
def watching(folder: Path, watcher: Watcher, wanted: bool) -> Iterator[Watcher]:
    """The watcher, and if they are `wanted`, event files in the folder `tensorboard` of the run beside it."""
    if not wanted:
        yield watcher
        return
    writer = _writer_class()(str(folder / FOLDER))
    try:
        yield _Both(watcher, writer)
    finally:
        writer.close()
