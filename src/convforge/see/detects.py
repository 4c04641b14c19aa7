"""What the channels of a network detect: the patches of the user's images that excite each of them the most.

One pass over the images fills a table for every layer at once (`topmost`); after that the patches of any channel are
read from it. The table is kept on disk, under the hash of everything that it depends on.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import UserError
from ..pytorch.optimize import optimize
from ..spec import Pair
from .hooks import Look, check, dtype_of, has_channels, structure_of, watched
from .identity import identity, key_of
from .jobs import UNWATCHED, Progress
from .network import Box, Layer, Network
from .pictures import Pictures
from .shelf import Shelf
from .topmost import NOTHING, Table

_VERSION = 1
_SECONDS_A_BATCH = 0.08  # a click waits for one batch at most
_LARGEST_BATCH = 64
_ACTIVATION_BYTES_A_BATCH = 256 << 20
_TABLE_BYTES = 256 << 20
# Below this many images one a channel is few to choose from, and compiling takes longer than it saves.
_FEW_IMAGES = 36


@dataclass(frozen=True)
class Patch:
    """What excited a channel: the picture's number, the activation, the unit, and the input pixels that it sees
    ("all" for the whole input, None where that is not known)."""

    image: int
    value: float
    row: int
    column: int
    box: Box | Literal["all"] | None


@dataclass(frozen=True)
class Preference:
    """The mean, over `count` images of a class, of a channel's highest activation."""

    name: str
    mean: float
    count: int


class Detects:
    """The tables of one network over one set of images.

    Args:
        network: what is looked into.
        pictures: what it is shown.
        shelf: where tables are kept between processes.
    """

    def __init__(self, network: Network, pictures: Pictures, shelf: Shelf | None = None) -> None:
        self._network, self._pictures = network, pictures
        self._shelf = shelf if shelf is not None else Shelf.of_the_user()
        self._labels = [pictures.label(n) for n in range(len(pictures))]
        self.classes = sorted({label for label in self._labels if label is not None})
        self._parts: dict[int, Table] = {}
        self._counts = np.zeros(len(self.classes), np.int64)  # images of each class that could be read

    # --- answers --------------------------------------------------------------------------------------------------

    def is_ready(self, layer: int) -> bool:
        """Whether the answers for a layer are in memory."""
        return layer in self._parts

    def patches(self, layer: int, channel: int, count: int = 9) -> list[Patch]:
        """What excites a channel the most, the most exciting first. Raises `UserError` if there is no such channel."""
        part = self._part(layer, channel)
        found = []
        for place in range(min(count, len(part.values))):
            image = int(part.images[place, channel])
            if image != NOTHING:
                row, column = int(part.rows[place, channel]), int(part.columns[place, channel])
                box = self._network.box(layer, row, column)
                found.append(Patch(image, float(part.values[place, channel]), row, column, box))
        return found

    def preferences(self, layer: int, channel: int) -> list[Preference]:
        """Which classes excite a channel, the most exciting first; nothing where the images have no classes."""
        sums = self._part(layer, channel).sums[:, channel]
        found = [
            Preference(name, float(total) / int(count), int(count))
            for name, total, count in zip(self.classes, sums, self._counts, strict=True)
            if count
        ]
        return sorted(found, key=lambda preference: -preference.mean)

    def _part(self, layer: int, channel: int) -> Table:
        check(self._network.layer(layer), channel)
        return self._parts[layer]

    # --- the pass -------------------------------------------------------------------------------------------------

    def fill(self, layer: int, progress: Progress = UNWATCHED) -> None:
        """Make a layer ready: from disk, or by showing all images to the network, which makes ready all layers that
        memory allows.

        Raises:
            UserError: if the layer has no channels that could be looked at, or no image can be read.
        """
        if self.is_ready(layer):
            return
        wanted = self._together_with(self._network.layer(layer))
        progress(0, len(self._pictures), "looking for results of an earlier time")
        key = self._key(wanted)
        ends = [0]
        for one in wanted:
            ends.append(ends[-1] + one.output_shape[0])
        table = Table.empty(ends[-1], len(self.classes))
        counts = np.zeros_like(self._counts)
        outline = {name: getattr(table, name) for name in table.__dataclass_fields__} | {"counts": counts}
        parts = {one.index: table.part(*ends[n : n + 2]) for n, one in enumerate(wanted)}
        stored = self._shelf.read(key, outline)
        if stored is not None and self._is_sound(stored):
            for name, array in outline.items():
                array[:] = stored[name]
        else:
            self._show_all_images(wanted, parts, counts, progress)
            self._shelf.write(key, outline)
        self._counts = counts
        self._parts |= parts

    def _is_sound(self, stored: dict[str, Any]) -> bool:
        """Whether numbers that come from a file can be used to look up images and units."""
        images = stored["images"]
        return bool(
            images.min() >= NOTHING
            and images.max() < len(self._pictures)
            and min(stored["rows"].min(), stored["columns"].min()) >= NOTHING
        )

    def _together_with(self, asked: Layer) -> list[Layer]:
        """The layers that are looked at in the pass for one: all, or the convolutional and linear ones, or it alone,
        whatever memory allows; there may be a thousand classes."""
        check(asked)
        able = [layer for layer in self._network.layers if has_channels(layer)]
        learned = [layer for layer in able if layer is asked or layer.kind in ("conv", "transposed", "linear")]
        for chosen in (able, learned):
            if sum(layer.output_shape[0] for layer in chosen) * (9 * 16 + 8 * len(self.classes)) <= _TABLE_BYTES:
                return chosen
        return [asked]

    def _show_all_images(
        self, layers: Sequence[Layer], parts: dict[int, Table], counts: NDArray[np.int64], progress: Progress
    ) -> None:
        pictures, network = self._pictures, self._network
        few = len(pictures) < _FEW_IMAGES
        apart = {layer.index: _apart(layer) if few else None for layer in layers}
        numbers = {name: number for number, name in enumerate(self.classes)}
        batches = _Batches(network, engine=not few)
        begin, mistake = 0, None
        while begin < len(pictures):
            batch: dict[int, Tensor] = {}
            for number in range(begin, min(begin + batches.size, len(pictures))):
                progress(number, len(pictures), f"showing the network image {number + 1} of {len(pictures)}")
                network.turns.pause()
                try:
                    batch[number] = pictures.input(number)
                except UserError as reason:  # damaged since it was opened; the others can still be seen
                    mistake = mistake or reason
            begin += batches.size
            if batch:
                of = list(batch)
                classes = [numbers.get(self._labels[number] or "") for number in of]
                np.add.at(counts, [label for label in classes if label is not None], 1)

                def look(index: int, maps: Tensor, of: list[int] = of, classes: list[int | None] = classes) -> None:
                    if maps.shape[:2] == (len(of), parts[index].channels):  # else the batch is not what it seems
                        parts[index].consider(maps, of, classes, apart[index])

                batches.show(torch.stack(list(batch.values())), layers, look)
        progress(len(pictures), len(pictures))
        if mistake is not None and all((part.images == NOTHING).all() for part in parts.values()):
            raise mistake

    def _key(self, layers: Sequence[Layer]) -> str:
        """The hash of all that the table depends on."""
        shapes = [(layer.index, layer.path, layer.occurrence, layer.output_shape) for layer in layers]
        return key_of(_VERSION, identity(self._network), shapes, self._pictures.fingerprint(), self._labels)


def _apart(layer: Layer) -> Pair | None:
    """How many units further on a second patch of the same image may be: it shows at least half of something else.
    None where a unit sees everything."""
    field, jump = layer.row.receptive_field, layer.jump
    if not isinstance(field, tuple) or jump is None:
        return None
    return max(1, int(field[0] / (2 * jump[0]))), max(1, int(field[1] / (2 * jump[1])))


# ---------------------------------------------------------------------------------------------------------------------
# Running the network
# ---------------------------------------------------------------------------------------------------------------------


class _Batches:
    """Runs the network in batches that take about as long as a click may wait, in PyTorch or on the engine, whichever
    turns out to be the quicker on the first batches."""

    def __init__(self, network: Network, engine: bool) -> None:
        self._turns = network.turns
        self._dtype = dtype_of(network.model)
        self._models = {"torch": structure_of(network.model)}
        if engine:
            self._models["engine"] = optimize(network.model, whole=False)  # hooks watch the layers
            with torch.inference_mode():  # compiles, which nobody should wait for
                self._models["engine"](torch.zeros(1, *network.input_shape, dtype=self._dtype))
        self._seconds: dict[str, list[float]] = {name: [] for name in self._models}
        numbers = sum(prod(layer.output_shape) for layer in network.layers)
        self._most = max(1, min(_LARGEST_BATCH, _ACTIVATION_BYTES_A_BATCH // (4 * max(1, numbers))))
        self.size = 1

    def show(self, images: Tensor, layers: Sequence[Layer], look: Look) -> None:
        """One batch. The first two of each contender are measured, the second of them counts: the first compiles."""
        name = min(self._models, key=lambda model: len(self._seconds[model]))
        with self._turns.background(), torch.inference_mode(), watched(self._models[name], layers, look):
            begin = time.perf_counter()
            self._models[name](images.to(self._dtype, memory_format=torch.channels_last))
            self._seconds[name].append((time.perf_counter() - begin) / len(images))
        if len(self._models) > 1 and all(len(times) == 3 for times in self._seconds.values()):
            quickest = min(self._models, key=lambda model: min(self._seconds[model][1:]))
            self._models = {quickest: self._models[quickest]}
        seconds = self._seconds[name][1:] or self._seconds[name]
        self.size = max(1, min(self._most, 2 * self.size, int(_SECONDS_A_BATCH / max(1e-9, seconds[-1]))))
