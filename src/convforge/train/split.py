"""Which images are held out: of each class the same part, chosen by the seed, so that the same folder and seed give the
same split. `split.csv` in a run's folder says which they were."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import torch
from torch import Tensor

from ..errors import UserError
from ..files import write_atomically
from ..shown import shown

SPLIT = "split.csv"
COLUMNS = ("file", "part")
LEARNED, HELD = "learned from", "held out"

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


def write(folder: Path, learned: Iterable[str], held_out: Iterable[str]) -> None:
    """Write which images a run learns from and which it holds out, by their names; `UserError` if that cannot be."""
    page = StringIO()
    rows = csv.writer(page, lineterminator="\n")
    rows.writerow(COLUMNS)
    rows.writerows((name, LEARNED) for name in learned)
    rows.writerows((name, HELD) for name in held_out)
    write_atomically(folder / SPLIT, page.getvalue().encode(errors="replace"))


def read(folder: Path) -> dict[str, str]:
    """What a run did with each image, `LEARNED` or `HELD`, by its name; nothing for runs that have not written it.

    Raises:
        UserError: that names the file, where it cannot be read or says something else.
    """
    path = folder / SPLIT
    try:
        if not path.exists():
            return {}
        with path.open(newline="", encoding="utf-8", errors="replace") as file:
            columns, *rows = csv.reader(file)
            if tuple(columns) != COLUMNS or any(len(row) != 2 or row[1] not in (LEARNED, HELD) for row in rows):
                raise ValueError
            return dict(rows)
    except OSError as reason:
        raise UserError(f"cannot read {shown(path)}: {reason.strerror or reason}.") from reason
    except (ValueError, csv.Error) as reason:
        raise UserError(
            f"{shown(path)} does not say which images were held out: it is damaged; without it "
            "they are not told apart, so delete it."
        ) from reason
