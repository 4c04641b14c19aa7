"""Arrays kept on disk between processes, in a folder that only its owner can write.

An entry is an `.npz` file without pickles, under the hash of everything that its numbers depend on. Whatever is wrong
with one (cut short, other arrays, written by somebody else), it counts as not there, and is computed again. The oldest
are deleted when all of them together grow beyond a limit.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ..disk import cache_folder, only_ours

MOST_BYTES = 512 << 20
"""All entries together."""

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Shelf:
    """The entries of one folder; without a folder it keeps nothing.

    Args:
        folder: where, as `Shelf.of_the_user` finds it.
        most_bytes: of all entries together.
    """

    folder: Path | None
    most_bytes: int = MOST_BYTES

    @staticmethod
    def of_the_user() -> Shelf:
        """In the user's cache folder, or below the one that `CONVFORGE_CACHE` names."""
        return Shelf(cache_folder("see"))

    def read(self, key: str, outline: Arrays) -> dict[str, NDArray[Any]] | None:
        """The arrays under a key, a hexadecimal hash, if they have exactly the names, shapes and types of `outline`."""
        if self.folder is None:
            return None
        path = self._path(key)
        try:
            with open(path, "rb") as file:
                status = os.fstat(file.fileno())
                if not only_ours(status) or status.st_size > self.most_bytes:
                    return None
                # Headers are looked at before memory is taken: an entry may claim any size.
                with zipfile.ZipFile(file) as archive:
                    if {entry.filename: entry.file_size for entry in archive.infolist()} != _sizes(outline):
                        return None
                file.seek(0)
                with np.load(file, allow_pickle=False) as stored:
                    arrays = {name: stored[name] for name in outline}
            os.utime(path)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, NotImplementedError, RuntimeError):
            return None
        fits = all(
            arrays[name].shape == wanted.shape and arrays[name].dtype == wanted.dtype
            for name, wanted in outline.items()
        )
        return arrays if fits else None

    def write(self, key: str, arrays: Arrays) -> None:
        """Keep arrays under a key: wholly or, where the disk is full or read-only, not at all."""
        if self.folder is None:
            return
        temporary: str | None = None
        try:
            handle, temporary = tempfile.mkstemp(dir=self.folder)  # created readable by its owner only
            with open(handle, "wb") as file:
                np.savez(file, **cast(Any, arrays))
            os.replace(temporary, self._path(key))
            self._make_room()
        except OSError:
            if temporary is not None:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)

    def _path(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{key}.npz"

    def _make_room(self) -> None:
        """Delete the entries that were not used for longest; the newest stays however large it is."""
        assert self.folder is not None
        entries = []
        for path in self.folder.glob("*.npz"):
            with contextlib.suppress(OSError):  # another process was quicker
                status = path.stat()
                entries.append((status.st_mtime_ns, status.st_size, path))
        used = 0
        for number, (_, size, path) in enumerate(sorted(entries, reverse=True)):
            used += size
            if number > 0 and used > self.most_bytes:
                with contextlib.suppress(OSError):
                    path.unlink()


def _sizes(outline: Arrays) -> dict[str, int]:
    """How long each file of the archive is: the array's header, and its numbers."""
    sizes = {}
    for name, array in outline.items():
        header = BytesIO()
        np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
        sizes[f"{name}.npy"] = len(header.getvalue()) + array.nbytes
    return sizes
