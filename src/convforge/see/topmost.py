"""Where each channel of a layer was excited the most, kept while image after image passes by.

A table of a layer holds, for each of its K channels, the `KEPT` highest activations that were met: how high, in which
image, at which row and column. One maximum a channel is taken of every image, which reads each map once; where in the
map it stands is looked up only where it beats what is in the table already. After n images that happens to about
KEPT / n of the maps, so the whole takes hardly more than the maxima.

Order: the higher value first; of equal ones the earlier image, then the earlier position (row by row). So the table
does not depend on how the images were divided into batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..spec import Pair

KEPT = 9

NOTHING = -1
"""Stands for the image where a place in a table is still empty."""


@dataclass(frozen=True)
class Table:
    """The highest activations of some channels, each `(KEPT, K)`; and `sums`, `(classes, K)`: over the images of a
    class, the sum of each channel's highest activation."""

    values: NDArray[np.float32]
    images: NDArray[np.int32]
    rows: NDArray[np.int32]
    columns: NDArray[np.int32]
    sums: NDArray[np.float64]

    @staticmethod
    def empty(channels: int, classes: int = 0) -> Table:
        """A table before the first image.

        >>> Table.empty(64).images.shape
        (9, 64)
        """
        places = (KEPT, channels)
        return Table(
            np.full(places, -np.inf, np.float32),
            np.full(places, NOTHING, np.int32),
            np.full(places, NOTHING, np.int32),
            np.full(places, NOTHING, np.int32),
            np.zeros((classes, channels)),
        )

    @property
    def channels(self) -> int:
        return int(self.values.shape[1])

    def part(self, begin: int, end: int) -> Table:
        """The table of some of the channels: the same memory."""
        return Table(*(getattr(self, name)[:, begin:end] for name in self.__dataclass_fields__))

    def consider(
        self, maps: Tensor, images: Sequence[int], classes: Sequence[int | None] = (), apart: Pair | None = None
    ) -> None:
        """Look at the maps of a batch.

        Args:
            maps: `(N, K, H, W)`.
            images: the numbers of the N images, rising, and above those of earlier calls.
            classes: the class of each, or None; nothing where no image has one.
            apart: if given, each image may have two places: the second is the highest that is more than so many
                (rows, columns) away from the first in either direction. Otherwise each image has one.
        """
        peaks = maps.amax((2, 3))
        numbers = peaks.double().numpy() if any(c is not None for c in classes) else None
        for place, label in enumerate(classes):
            if label is not None and numbers is not None:
                self.sums[label] += numbers[place]
        found = torch.nonzero(peaks > torch.from_numpy(self.values[-1])).numpy()
        if not len(found):
            return
        which, channels = found[:, 0], found[:, 1]
        picked = maps[torch.from_numpy(which), torch.from_numpy(channels)].float().contiguous().numpy()
        numbered = np.asarray(images, np.int32)[which]
        values, rows, columns = _highest(picked)
        if apart is not None:
            others, other_rows, other_columns = _highest_elsewhere(picked, apart)
            values = np.concatenate((values, others))
            rows, columns = np.concatenate((rows, other_rows)), np.concatenate((columns, other_columns))
            channels, numbered = np.tile(channels, 2), np.tile(numbered, 2)
        self._take(channels, numbered, values, rows, columns)

    def _take(
        self,
        channels: NDArray[np.int64],
        images: NDArray[np.int32],
        values: NDArray[np.float32],
        rows: NDArray[np.int64],
        columns: NDArray[np.int64],
    ) -> None:
        """Put candidates, of one place each, where they belong."""
        wanted = values > self.values[-1, channels]
        by_channel = np.flatnonzero(wanted)[np.argsort(channels[wanted], kind="stable")]
        if not len(by_channel):
            return
        of, first, many = np.unique(channels[by_channel], return_index=True, return_counts=True)
        depth = np.arange(len(by_channel)) - np.repeat(first, many)  # the how-manieth candidate of its channel
        column = np.repeat(np.arange(len(of)), many)
        places = (KEPT + int(many.max()), len(of))
        merged = {"values": np.full(places, -np.inf, np.float32)}
        for name, candidates in (("images", images), ("rows", rows), ("columns", columns), ("values", values)):
            table = getattr(self, name)
            both = merged.setdefault(name, np.full(places, NOTHING, table.dtype))
            both[:KEPT] = table[:, of]
            both[KEPT + depth, column] = candidates[by_channel]
        order = np.lexsort((merged["columns"], merged["rows"], merged["images"], -merged["values"]), axis=0)[:KEPT]
        for name, both in merged.items():
            getattr(self, name)[:, of] = np.take_along_axis(both, order, 0)


def _highest(maps: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """The highest value of each of the maps, `(N, H, W)`, and the first row and column where it stands."""
    flat = maps.reshape(len(maps), -1)
    where = flat.argmax(1)
    rows, columns = np.divmod(where, maps.shape[2])
    return np.take_along_axis(flat, where[:, None], 1)[:, 0], rows, columns


def _highest_elsewhere(
    maps: NDArray[np.float32], apart: Pair
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """The same, at a distance from the highest."""
    _, rows, columns = _highest(maps)
    near_rows = abs(np.arange(maps.shape[1]) - rows[:, None]) <= apart[0]
    near_columns = abs(np.arange(maps.shape[2]) - columns[:, None]) <= apart[1]
    return _highest(np.where(near_rows[:, :, None] & near_columns[:, None, :], np.float32(-np.inf), maps))
