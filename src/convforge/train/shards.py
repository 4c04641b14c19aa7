"""Data sets in shards that are read from beginning to end: WebDataset's tar files, and Hugging Face data sets in
streaming mode. They are looked through once, for labels, sizes and what cannot be read; then each epoch reads them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ..errors import UserError
from ..images.read import decode_image
from ..many.sources import image_in, samples
from ..shown import shown
from .streamed import ByShard, Streamed

Sample: TypeAlias = "tuple[bytes, Any]"
"""An image's file, and its label: a number or a word; None where there is none."""

Open: TypeAlias = Callable[[], Iterable[Sample]]
"""Begins to read a shard."""

_LABELS = ("cls", "label", "class")


@dataclass
class Index:
    """What is known of a split's shards after they were looked through.

    `starts` has the number of each shard's first sample, and behind them that of all; `rows` the numbers of those that
    can be used, with their `labels`, their lengths in bytes and the `shapes` of their images, (C, H, W).
    """

    shards: Sequence[Open]
    starts: list[int] = field(default_factory=lambda: [0])
    rows: list[int] = field(default_factory=list)
    labels: list[Any] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    shapes: set[tuple[int, int, int]] = field(default_factory=set)


def looked_through(
    shards: Sequence[Open], skipped: list[str], track: Callable[[Iterable[Any], str, int], Iterable[Any]]
) -> Index:
    """Read the shards once, without decoding; what cannot be used goes into `skipped`."""
    found = Index(shards)
    number = 0
    for shard in track(shards, "looking through shards", len(shards)):
        for content, label in shard():
            try:
                if label is None:
                    raise UserError(f"{_name(number)} has no class: give it one.")
                found.shapes.add(_shape(content, _name(number)))
                found.rows.append(number)
                found.labels.append(label)
                found.lengths.append(len(content))
            except UserError as reason:
                skipped.append(shown(str(reason)))
            number += 1
        found.starts.append(number)
    return found


def streamed(index: Index, numbers: dict[Any, int], shape: tuple[int, int, int], skipped: list[str]) -> Streamed:
    """The split, whose images have this shape and the class of `numbers[label]`."""
    known = set(skipped)

    def decode(content: bytes, name: str) -> NDArray[np.uint8]:
        return decode_image(content, name, shape[0], shape[1:])

    def lost(sentence: str) -> None:
        if sentence not in known:
            known.add(sentence)
            skipped.append(sentence)

    def opened(number: int) -> Iterator[bytes]:
        return (content for content, _ in index.shards[number]())

    return Streamed(
        ByShard(index.starts, opened, decode, _name),
        torch.tensor(index.rows, dtype=torch.int64),
        torch.tensor([numbers[label] for label in index.labels], dtype=torch.int64),
        shape,
        torch.tensor(index.lengths, dtype=torch.int64),
        lost,
    )


def of_tars(files: Sequence[Path]) -> list[Open]:
    """WebDataset shards: an image and its class, as `cls`, or as "label" in `json`."""
    return [partial(_in_tar, str(file)) for file in files]


def _in_tar(place: str) -> Iterator[Sample]:
    for sample in samples(place):
        if (found := image_in(sample)) is not None:
            yield found[1], _label(sample)


def _label(sample: dict[str, Any]) -> Any:
    for name in _LABELS:
        if name in sample:
            return sample[name].decode(errors="replace").strip()
    try:
        said = json.loads(sample.get("json", b"{}"))
    except ValueError:
        return None
    return next((str(said[name]) for name in _LABELS if isinstance(said, dict) and name in said), None)


def of_iterable(rows: Any, image: str, label: str) -> list[Open]:
    """A Hugging Face `IterableDataset`, whose column of images is not decoded."""
    count = max(1, rows.num_shards)

    def opened(number: int) -> Iterator[Sample]:
        shard = rows.shard(num_shards=count, index=number) if count > 1 else rows
        for row in shard:
            entry = row[image] or {}
            content = entry.get("bytes")
            if content is None and entry.get("path"):
                content = Path(entry["path"]).read_bytes()
            yield content or b"", row[label]

    return [partial(opened, number) for number in range(count)]


def _name(number: int) -> str:
    return f"image {number}"


def _shape(content: bytes, name: str) -> tuple[int, int, int]:
    try:
        with Image.open(BytesIO(content)) as image:
            return (1 if image.mode in ("1", "L", "LA") else 3), image.height, image.width
    except Exception as reason:  # Pillow raises nearly every type there is on hostile bytes
        raise UserError(f"{name} is not a readable image ({reason}): replace it.") from reason
