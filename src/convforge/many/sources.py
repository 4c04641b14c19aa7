"""Where pictures come from, where there are very many: folders, lists, shards and tables, here or in a cloud's storage.

An input is cut into pieces, each a part that one process can read alone: some files, one shard, one table. A piece's
pictures have names that are each once in the input, and come in the same order at every reading.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..images.folders import SUFFIXES, image_files
from ..inference.pictures import Encoded
from ..shown import shown

LISTS, SHARDS, TABLES = (".txt",), (".tar",), (".parquet",)
_FILES = 64
"""Images in files that make a piece."""
_COLUMNS = ("image", "img", "bytes", "path", "file", "file_name")
"""What a table's column of images may be called."""


@dataclass(frozen=True)
class Piece:
    """Some files of images, or one shard or table."""

    places: tuple[str, ...]

    def pictures(self) -> Iterator[Encoded]:
        """Its pictures. A shard or a table that cannot be read, or not to its end, is one more, of its name, for which
        there is a reason instead of bytes."""
        for place in self.places:
            try:
                if place.lower().endswith(SHARDS):
                    yield from _in_shard(place)
                elif place.lower().endswith(TABLES):
                    yield from _in_table(place)
                else:
                    yield Encoded(place, partial(read_bytes, place))
            except UserError as reason:
                yield Encoded(place, partial(_refused, str(reason)))


def pieces(inputs: Sequence[str]) -> list[Piece]:
    """The pieces of an input.

    Args:
        inputs: image files; folders, with images in them and below, or with shards or tables; `.txt` files with the
            name of an image a line; WebDataset shards (`.tar`); Parquet files with a column of images. Each may be a
            place as `s3://bucket/folder` where pyarrow knows how to read it.

    Raises:
        UserError: for what is not there.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("b.png", "a.jpg", "notes.md"):
    ...         Path(folder, name).touch()
    ...     found = pieces([folder])
    >>> [os.path.basename(place) for place in found[0].places]
    ['a.jpg', 'b.png']
    """
    whole: list[Piece] = []
    files: list[str] = []
    for place in _listed(inputs):
        if place.lower().endswith((*SHARDS, *TABLES)):
            whole.append(Piece((place,)))
        else:
            files.append(place)
    # A name twice is one picture.
    files = list(dict.fromkeys(files))
    if any(place.lower().endswith(SHARDS) for piece in whole for place in piece.places):
        package()
    parts = (tuple(files[begin : begin + _FILES]) for begin in range(0, len(files), _FILES))
    return [*dict.fromkeys(whole), *map(Piece, parts)]


def _refused(reason: str) -> bytes:
    raise UserError(reason)


def read_bytes(place: str) -> bytes:
    """What a file holds, wherever it is. Raises `OSError`, or `UserError` for what is no regular file."""
    if "://" in place:
        system, path = _remote(place)
        with system.open_input_stream(path) as stream:
            content: bytes = stream.read()
            return content
    if os.path.exists(place) and not os.path.isfile(place):
        raise UserError(f"{shown(place)} is not a regular file: name an image file.")
    return Path(place).read_bytes()


def _listed(inputs: Iterable[str]) -> Iterator[str]:
    for place in inputs:
        if "://" in place:
            yield from _listed_remotely(place)
        elif os.path.isdir(place):
            shards = sorted(str(file) for file in Path(place).iterdir() if file.suffix.lower() in (*SHARDS, *TABLES))
            yield from shards or map(str, image_files(place))
        elif place.lower().endswith(LISTS):
            try:
                lines = Path(place).read_text(encoding="utf-8", errors="surrogateescape").splitlines()
            except OSError as reason:
                raise UserError(f"{shown(place)} cannot be read ({reason.strerror}): check the name.") from reason
            yield from _listed(line for line in lines if line.strip())
        else:
            yield place


def _listed_remotely(place: str) -> list[str]:
    from pyarrow.fs import FileSelector, FileType

    system, path = _remote(place)
    scheme = place.partition("://")[0]
    try:
        info = system.get_file_info(path)
        if info.type != FileType.Directory:
            return [place]
        inside = [each.path for each in system.get_file_info(FileSelector(path, recursive=True)) if each.is_file]
    except OSError as reason:
        raise UserError(f"{shown(place)} cannot be listed ({shown(str(reason))[:200]}).") from reason
    for suffixes in ((*SHARDS, *TABLES), SUFFIXES):
        if found := sorted(each for each in inside if each.lower().endswith(suffixes)):
            return [f"{scheme}://{each}" for each in found]
    raise UserError(f"there are no images in {shown(place)}.")


def _remote(place: str) -> tuple[Any, str]:
    from pyarrow import ArrowInvalid
    from pyarrow.fs import FileSystem

    try:
        system, path = FileSystem.from_uri(place)
    except (OSError, ArrowInvalid) as reason:
        raise UserError(f"{shown(place)} is no place that pyarrow can read ({shown(str(reason))[:200]}).") from reason
    return system, path


def package() -> Any:
    """`webdataset`. Raises `UserError` where it is not installed."""
    try:
        import webdataset
    except ImportError:
        raise UserError("shards are read with the package webdataset: pip install 'convforge[scale]'.") from None
    return webdataset


def samples(place: str) -> Iterator[dict[str, Any]]:
    """The samples of a shard, in order: bytes by the endings of their names, and `__key__`.

    Raises `UserError` that names the shard where it cannot be read to its end."""
    webdataset = package()
    try:
        with webdataset.gopen(place) as stream:
            entries = webdataset.tariterators.tar_file_expander([{"url": place, "stream": stream}])
            yield from webdataset.tariterators.group_by_keys(entries)
    # What the package raises depends on where the shard is and what is wrong with it.
    except Exception as reason:
        raise UserError(f"the shard {shown(place)} cannot be read ({shown(str(reason))[:200]}).") from reason


def image_in(sample: dict[str, Any]) -> tuple[str, bytes] | None:
    """The ending and the bytes of the image of a sample; None where it has none."""
    endings = tuple(suffix[1:] for suffix in SUFFIXES)
    for ending, content in sample.items():
        if ending.lower().rpartition(".")[2] in endings and isinstance(content, bytes):
            return ending, content
    return None


def _in_shard(place: str) -> Iterator[Encoded]:
    for sample in samples(place):
        if (found := image_in(sample)) is not None:
            yield Encoded(f"{place}/{sample['__key__']}.{found[0]}", partial(bytes, found[1]))


def _in_table(place: str) -> Iterator[Encoded]:
    from pyarrow import ArrowInvalid, parquet

    try:
        source, system = (place, None) if "://" not in place else (_remote(place)[1], _remote(place)[0])
        with parquet.ParquetFile(source, filesystem=system) as table:
            names = table.schema_arrow.names
            column = next((name for name in _COLUMNS if name in names), None)
            if column is None:
                raise UserError(f"{shown(place)} has no column {' or '.join(_COLUMNS)}, but {', '.join(names)}.")
            row = 0
            for batch in table.iter_batches(batch_size=_FILES, columns=[column]):
                for value in batch.column(0).to_pylist():
                    yield _of_table(place, row, value)
                    row += 1
    except (OSError, ArrowInvalid) as reason:
        raise UserError(f"the table {shown(place)} cannot be read ({shown(str(reason))[:200]}).") from reason


def _of_table(place: str, row: int, value: Any) -> Encoded:
    """A picture in a table: its bytes, its path, or both in a struct, as Hugging Face's `datasets` writes them."""
    data, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
    if isinstance(data, str):
        data, path = None, data
    if data is None and path:
        return Encoded(path, partial(read_bytes, path))
    # A name that a table gives may be there twice; the row is not.
    return Encoded(f"{place}/{row}" + (f"/{path}" if path else ""), partial(bytes, data or b""))
