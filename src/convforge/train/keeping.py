"""What a run keeps of its network: the best weights as the run's own checkpoint, the last ones in the folder `last`.

The best are those after the epoch with the lowest held-out loss; where that is not asked (a run without patience),
those after the last epoch, to which the learning rate has fallen all the way. Both are checkpoints of their own, so
that `runs/pets` and `runs/pets/last` are names that every command takes.
"""

from __future__ import annotations

from pathlib import Path

from torch import nn

from ..models import checkpoint
from ..models.checkpoint import ARCHITECTURE, WEIGHTS, Architecture
from .state import Progress, Weights

LAST = "last"


class Checkpoints:
    """The two checkpoints of a run's folder; `by_loss`, whether the held-out loss says which epoch is the best."""

    def __init__(self, folder: Path, architecture: Architecture, by_loss: bool) -> None:
        self._folder, self._architecture, self._by_loss = folder, architecture, by_loss
        self._written: int | None = None
        self.best: Weights | None = None

    def look(self, model: nn.Module, progress: Progress) -> bool:
        """After an epoch: whether it is the best so far; its weights are then kept in memory."""
        losses = progress.losses
        if self._by_loss and progress.best and losses[-1] >= losses[progress.best - 1]:
            return False
        progress.best = len(losses)
        self.best = checkpoint.portable(model.state_dict())
        return True

    def describe(self) -> None:
        """Write what the weights mean, which never changes."""
        for folder in (self._folder, self._folder / LAST):
            checkpoint.save_architecture(folder, self._architecture)

    def write(self, model: nn.Module, progress: Progress) -> None:
        """Write the weights, the best ones only where they are not there yet."""
        checkpoint.save_weights(self._folder / LAST, model.state_dict())
        if self.best is None or self._written != progress.best:
            checkpoint.save_weights(self._folder, self.best or model.state_dict())
            self._written = progress.best

    def continue_from(self, model: nn.Module, progress: Progress) -> None:
        """Put a model into the last weights of a run that is finished, and keep its best ones.

        Raises:
            UserError: naming the file that is missing, damaged, or does not belong to the model.
        """
        outline, described = model.state_dict(), self._folder / ARCHITECTURE
        best = checkpoint.read_tensors(self._folder / WEIGHTS, outline, described)
        last = self._folder / LAST / WEIGHTS
        # Before there were two, a run's checkpoint was the last.
        model.load_state_dict(checkpoint.read_tensors(last, outline, described) if last.exists() else best)
        losses = progress.losses
        by_loss = self._by_loss and last.exists()
        progress.best = losses.index(min(losses)) + 1 if by_loss else len(losses)
        self.best = best
