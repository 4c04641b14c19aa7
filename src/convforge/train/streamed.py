"""Images that are more than there is memory for: read from where they lie when a step needs them, a little ahead of it.

What is in memory is bounded: the images of the batches that are being read, and for each image of the data set its
label and where it lies. The order is that of images in memory, a random one of all, wherever an image can be read by
itself; so the run is the same, too, to the last bit. Shards are read from beginning to end: there, images are shuffled
by shard and through a buffer.

Threads decode, and not processes of a `DataLoader`: Pillow lets go of Python's lock while it decodes, and threads share
the memory of what they have read.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import UserError
from ..shown import shown
from .split import Split

Pixels: TypeAlias = NDArray[np.uint8]

_READERS = 4
"""Threads that decode, at most: the network needs the cores, and decoding takes a small part of a step's time."""
_AHEAD = 2**26
"""Bytes of decoded images that are read before they are needed."""


class Reader(Protocol):
    """Where images lie."""

    def order(self, rows: Tensor, draw: torch.Generator) -> Tensor:
        """The rows in a random order, in which they can be read."""

    def jobs(self, rows: Iterable[int]) -> Iterator[Callable[[], Pixels]]:
        """What reads each of the rows, in this order, in any thread. Raises `UserError` that names an image."""

    def name(self, row: int) -> str:
        """What to call an image."""


@dataclass(frozen=True)
class Streamed:
    """A split whose images are elsewhere; used as `Split` is.

    Args:
        reader: where they are.
        rows: its own ones, among those of the reader.
        labels: int64, one each.
        shape: (C, H, W).
        digests: of each image, int64, something that changes with it: its length.
        lost: is told of each image that cannot be decoded after all; it is left out of its batch.
    """

    reader: Reader
    rows: Tensor
    labels: Tensor
    shape: tuple[int, int, int]
    digests: Tensor
    lost: Callable[[str], None] = field(default=lambda sentence: None)

    streams = True

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.reader.name(row) for row in self.rows.tolist())

    def select(self, rows: Tensor) -> Streamed:
        """A part of the split, which is elsewhere, too."""
        return replace(self, rows=self.rows[rows], labels=self.labels[rows], digests=self.digests[rows])

    def order(self, draw: torch.Generator) -> Tensor:
        """All rows, int64, in a random order in which they can be read."""
        return self.reader.order(self.rows, draw)

    def read(self, parts: Sequence[Tensor]) -> Iterator[Split]:
        """The images of each part, in memory, one part after the other; the next ones are read meanwhile."""
        wanted = [row for part in parts for row in part.tolist()]
        jobs = self.reader.jobs(int(self.rows[row]) for row in wanted)
        size = int(np.prod(self.shape))
        ahead = max(_READERS, min(_AHEAD // size, 2 * max(map(len, parts), default=1)))
        readers = ThreadPoolExecutor(min(_READERS, os.cpu_count() or 1))
        waiting: deque[Future[Pixels]] = deque()
        try:
            for part in parts:
                images: list[Tensor] = []
                places: list[int] = []
                for place in range(len(part)):
                    while len(waiting) <= ahead and (job := next(jobs, None)) is not None:
                        waiting.append(readers.submit(job))
                    try:
                        images.append(torch.from_numpy(waiting.popleft().result()))
                        places.append(place)
                    except UserError as reason:
                        self.lost(shown(str(reason)))
                if not images and len(part):
                    raise UserError("none of the images of a batch can be read any more; are they still there?")
                kept = torch.tensor(places, dtype=torch.int64)
                pixels = torch.stack(images) if images else torch.empty(0, *self.shape, dtype=torch.uint8)
                own = part[kept]
                names = tuple(self.reader.name(row) for row in self.rows[own].tolist())
                yield Split(pixels, self.labels[own], names, kept)
        finally:
            readers.shutdown(cancel_futures=True)

    def take(self, rows: Tensor) -> Split:
        """These images, in memory; those that cannot be decoded are left out."""
        return next(self.read([rows]))

    def digest(self) -> bytes:
        """Changes when images or labels do, as far as that can be told without reading them."""
        parts = (self.labels.numpy(), self.digests.numpy(), self.rows.numpy())
        return hashlib.sha256(b"".join(part.tobytes() for part in parts)).digest()


class ByRow:
    """Images each of which can be read by itself.

    Args:
        read: gives a row's pixels, uint8 `(C, H, W)`.
        name: what to call it.
    """

    def __init__(self, read: Callable[[int], Pixels], name: Callable[[int], str]) -> None:
        self._read, self.name = read, name

    def order(self, rows: Tensor, draw: torch.Generator) -> Tensor:
        return torch.randperm(len(rows), generator=draw)

    def jobs(self, rows: Iterable[int]) -> Iterator[Callable[[], Pixels]]:
        def job(row: int) -> Callable[[], Pixels]:
            return lambda: self._read(row)

        return map(job, rows)


BUFFER = 2048
"""Images that are held to be shuffled, as their files are, which is a few hundred megabytes at most."""


class ByShard:
    """Images in shards that are read from beginning to end.

    Args:
        starts: the number of the first row of each shard, and behind them the number of all rows.
        open: gives a shard's images as bytes, in order, from the beginning.
        decode: makes pixels, uint8 `(C, H, W)`, of bytes and a name.
        name: what to call a row.
        buffer: how many images are held to be shuffled.
    """

    def __init__(
        self,
        starts: Sequence[int],
        open: Callable[[int], Iterator[bytes]],
        decode: Callable[[bytes, str], Pixels],
        name: Callable[[int], str],
        buffer: int = BUFFER,
    ) -> None:
        self._starts, self._open, self._decode, self.name = np.asarray(starts), open, decode, name
        self._buffer = buffer

    def order(self, rows: Tensor, draw: torch.Generator) -> Tensor:
        """Shards in a random order, their images through a buffer: each that comes takes a random one's place, which
        is next.

        So nothing has to be held but the buffer, and what is next is known before anything is read."""
        shard_of = torch.from_numpy(np.searchsorted(self._starts, rows.numpy(), side="right") - 1)
        shards = torch.randperm(len(self._starts), generator=draw)
        by_shard = torch.argsort(shards[shard_of] * 2**40 + rows)
        held, rest = by_shard[: self._buffer].tolist(), by_shard[self._buffer :].tolist()
        places = torch.randint(len(held) or 1, (len(rest),), generator=draw).tolist()
        found = []
        for coming, place in zip(rest, places, strict=True):
            found.append(held[place])
            held[place] = coming
        last = torch.randperm(len(held), generator=draw).tolist()
        return torch.tensor(found + [held[place] for place in last], dtype=torch.int64)

    def jobs(self, rows: Iterable[int]) -> Iterator[Callable[[], Pixels]]:
        wanted = list(rows)
        left = np.zeros(int(self._starts[-1]), dtype=np.int32)
        np.add.at(left, wanted, 1)
        held: dict[int, bytes] = {}
        begun: dict[int, tuple[int, Iterator[bytes]]] = {}
        for row in wanted:
            shard = int(np.searchsorted(self._starts, row, side="right") - 1)
            while row not in held:
                at, images = begun.pop(shard, (int(self._starts[shard]), None))
                if images is None or at > row:  # it is wanted once more than the shard was read
                    at, images = int(self._starts[shard]), self._open(shard)
                content = next(images, None)
                if content is None:
                    raise UserError(f"{self.name(row)} is not in its shard any more; were shards replaced?")
                if left[at] > 0:
                    held[at] = content
                begun[shard] = (at + 1, images)
            left[row] -= 1
            yield self._job(held.pop(row), row)

    def _job(self, content: bytes, row: int) -> Callable[[], Pixels]:
        return lambda: self._decode(content, self.name(row))


def memory() -> int | None:
    """Bytes that this process has in memory; None where the system does not say it in /proc."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None
