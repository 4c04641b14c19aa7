"""The learning rate, and when a run ends.

The rate rises linearly over the first steps. Then there are two ways on:

- With patience it stays at its highest, until the held-out loss has not been lower for so many epochs, or until the
  last quarter of all epochs begins; from there it falls to zero along a straight line, and the run ends. When to fall
  is thus seen and not guessed before, and a run that is continued has lost nothing (Hägele et al., "Scaling laws and
  compute-optimal training beyond fixed training durations", 2024).
- Without, it falls along a cosine over all epochs (Loshchilov & Hutter, "SGDR", 2016).

All is a function of the numbers of epochs and steps and of the losses so far: there is nothing to store.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, cos, pi

_WARM_UP = 0.1
_MOST_WARM_UP = 200  # steps
COOLING = 0.25
"""Part of a run over which the rate falls."""
_LOWER = 0.995  # a loss counts as lower only if it is by more than chance makes it


@dataclass(frozen=True)
class Schedule:
    """One leg of a run: from epoch `begin` (0, or where a finished run was continued) to epoch `end` at the latest.

    Args:
        begin, end: epochs; those up to `begin` are done.
        per_epoch: steps an epoch.
        patience: epochs without a lower loss before the rate falls; 0 for a cosine over all epochs.
    """

    begin: int
    end: int
    per_epoch: int
    patience: int

    def cooling(self, losses: Sequence[float]) -> tuple[int, int]:
        """After which epoch the rate begins to fall, and with which it ends, as far as the held-out `losses` of the
        epochs done so far say.

        >>> Schedule(0, 40, per_epoch=10, patience=3).cooling([3, 2, 1, 1, 1])
        (30, 40)
        >>> Schedule(0, 40, per_epoch=10, patience=3).cooling([3, 2, 1, 1, 1, 1, 1])
        (6, 8)
        """
        latest = self.end - ceil(COOLING * (self.end - self.begin))
        if self.patience:
            lowest, since = float("inf"), self.begin
            for epoch, loss in enumerate(losses[self.begin : latest], self.begin + 1):
                if loss < lowest * _LOWER:
                    lowest, since = loss, epoch
                elif epoch - since >= self.patience:
                    length = ceil(COOLING / (1 - COOLING) * (epoch - self.begin))
                    return epoch, min(self.end, epoch + length)
        return latest, self.end

    def rate(self, step: int, losses: Sequence[float], highest: float) -> float:
        """Of step `step`, counted from 0 over the whole run.

        >>> leg = Schedule(0, 40, per_epoch=10, patience=3)
        >>> [round(leg.rate(step, [3, 2, 1], 1.0), 2) for step in (0, 39, 40, 299, 300, 350, 399)]
        [0.03, 1.0, 1.0, 1.0, 1.0, 0.5, 0.01]
        >>> [round(Schedule(0, 10, 10, patience=0).rate(step, [], 1.0), 3) for step in (0, 4, 9, 10, 55, 99)]
        [0.1, 0.5, 1.0, 1.0, 0.5, 0.0]
        """
        first, steps = self.begin * self.per_epoch, (self.end - self.begin) * self.per_epoch
        step -= first
        warm = max(1, ceil(_WARM_UP * steps))
        if not self.patience:
            if step < warm:
                return highest * (step + 1) / warm
            return highest * 0.5 * (1 + cos(pi * (step - warm) / max(1, steps - warm)))
        begin, end = ((epoch - self.begin) * self.per_epoch for epoch in self.cooling(losses))
        warm = min(warm, _MOST_WARM_UP)
        rising = (step + 1) / warm
        falling = 1.0 if step < begin else (end - step) / (end - begin)
        return highest * min(rising, falling, 1.0)

    def done(self, losses: Sequence[float]) -> bool:
        """Whether the run is at its end."""
        return len(losses) >= self.cooling(losses)[1]

    def stopped_early(self, losses: Sequence[float]) -> int | None:
        """The epoch after which the loss had not fallen long enough for the run to end before its last epoch; None
        where that did not come."""
        begin, end = self.cooling(losses)
        return begin if end < self.end else None
