"""Which images are held out: of each class the same part, chosen by the seed, so that the same folder and seed give the
same split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import UserError

HELD_OUT = 0.2
"""Part of each class that is held out where the data comes without a split and nobody says otherwise."""


@dataclass(frozen=True)
class Split:
    """Images of one split: `images` is uint8 of shape (N, C, H, W), `labels` int64 of shape (N,), `names` what to call
    each: the file, as seen from the data's folder, or its number in a source that has no files.

    Of images that were asked for by their rows, `places` says which of these they are, where some could not be read."""

    images: Tensor
    labels: Tensor
    names: tuple[str, ...] = ()
    places: Tensor | None = None

    streams = False
    """Whether images are read when they are needed."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        _, channels, height, width = self.images.shape
        return channels, height, width

    def take(self, rows: Tensor) -> Split:
        """These images, in memory."""
        names = tuple(self.names[row] for row in rows.tolist()) if self.names else ()
        return Split(self.images[rows], self.labels[rows], names)

    def select(self, rows: Tensor) -> Split:
        """A part of the split."""
        return self.take(rows)

    def order(self, draw: torch.Generator) -> Tensor:
        """All rows, int64, in a random order."""
        return torch.randperm(len(self), generator=draw)

    def read(self, parts: Sequence[Tensor]) -> Iterator[Split]:
        """The images of each part, one after the other."""
        return map(self.take, parts)


def check_part(part: float) -> None:
    """Raise `UserError` for a part of the images that cannot be held out."""
    if not 0 < part < 1:
        raise UserError(f"--val must be a part of the images between 0 and 1, such as 0.2, not {part:g}.")


def stratified(labels: Tensor, classes: int, part: float, seed: int) -> tuple[Tensor, Tensor]:
    """Rows to learn from and rows to hold out, each shuffled: of every class about `part`, one image at least, and one
    to learn from.

    >>> kept, held_out = stratified(torch.tensor([0] * 10 + [1] * 4), classes=2, part=0.2, seed=0)
    >>> len(kept), len(held_out), sorted(torch.tensor([0] * 10 + [1] * 4)[held_out].tolist())
    (11, 3, [0, 0, 1])
    """
    draw = torch.Generator().manual_seed(seed)
    held_out, kept = [], []
    for label in range(classes):
        rows = (labels == label).nonzero().flatten()
        rows = rows[torch.randperm(len(rows), generator=draw)]
        count = min(len(rows) - 1, max(1, round(part * len(rows))))
        held_out.append(rows[:count])
        kept.append(rows[count:])
    train, test = (torch.cat(rows) for rows in (kept, held_out))
    return train[torch.randperm(len(train), generator=draw)], test[torch.randperm(len(test), generator=draw)]
