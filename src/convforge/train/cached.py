"""Decoded, resized images in an Arrow file that is mapped into memory: for images that are streamed and whose decoding
takes longer than reading their pixels, such as large photographs of which the network sees 128×128.

The file is `datasets`' own form, so that it can be opened with `datasets.Dataset.from_file`. It is made once, in one
step, and found again by what it was made of: the images' lengths, labels and shape.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import UserError
from ..shown import shown
from .streamed import ByRow, Streamed

_PART = 64  # images that are decoded and written together


def cached(
    split: Streamed, folder: Path, track: Callable[[Iterable[Any], str, int], Iterable[Any]] = lambda items, *_: items
) -> Streamed:
    """The split, read from an Arrow file in the folder, which is made if it is not there. Images that cannot be decoded
    are left out, and told of, at once.

    Raises:
        UserError: if the file cannot be written.
    """
    from datasets import Dataset
    from filelock import FileLock

    name = hashlib.sha256(split.digest() + str(split.shape).encode() + _names(split)).hexdigest()[:32]
    path = folder.expanduser() / f"{name}.arrow"
    try:
        folder.expanduser().mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):  # processes of one run that share the folder
            if not path.exists():
                _write(split, path, track)
    except OSError as reason:
        raise UserError(
            f"cannot write {shown(path)}: {reason.strerror or reason}; make room, or choose another --cache."
        ) from reason
    table = Dataset.from_file(str(path)).data
    places = torch.tensor(table.column("place").to_pylist(), dtype=torch.int64)
    pixels, names = table.column("pixels"), split.names

    def read(row: int) -> NDArray[np.uint8]:
        return np.frombuffer(pixels[row].as_buffer(), np.uint8).reshape(split.shape).copy()

    kept = split.select(places)
    reader = ByRow(read, lambda row: names[int(places[row])])
    return replace(kept, reader=reader, rows=torch.arange(len(places)))


def _names(split: Streamed) -> bytes:
    return "\0".join(split.names).encode(errors="surrogateescape")


def _write(split: Streamed, path: Path, track: Callable[[Iterable[Any], str, int], Iterable[Any]]) -> None:
    from datasets import Features, Value
    from datasets.arrow_writer import ArrowWriter

    part = path.with_suffix(f".{os.getpid()}.part")
    parts = torch.split(torch.arange(len(split)), _PART)
    try:
        features = Features({"place": Value("int64"), "pixels": Value("binary")})
        with ArrowWriter(path=str(part), features=features) as writer:
            reading = zip(parts, split.read(parts), strict=True)
            for rows, found in track(reading, "caching images", len(parts)):
                places = rows if found.places is None else rows[found.places]
                writer.write_batch(
                    {"place": places.tolist(), "pixels": [image.numpy().tobytes() for image in found.images]}
                )
            writer.finalize()
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
