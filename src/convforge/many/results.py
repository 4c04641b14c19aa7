"""Answers for very many pictures, in a folder of Parquet files: what has been answered stays, whatever happens then.

The folder is called `results.parquet`, as Spark and Ray call theirs, and is read as one table by pandas, Polars,
DuckDB, pyarrow and `datasets`. A file of it appears when it is whole. Begun again, the same command reads which names
are in whole files and goes on with the others, so that each name is there once. A picture that cannot be read has a
row, too: with the reason, and without a class.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..files import remove_parts, write_atomically
from ..inference.pictures import Encoded
from ..inference.prediction import Prediction
from ..shown import shown
from .sources import Piece

if TYPE_CHECKING:
    import pyarrow

    from ..inference.model import Model

ROWS = 1024
"""Answers that make a file: as many are lost at most where a process is killed."""

ABOUT = "_convforge.json"
"""Whose answers they are. Readers of such folders leave out files that begin so."""


@dataclass(frozen=True)
class Share:
    """Which pieces of an input are this process's: every `of`-th from `number` on."""

    number: int = 0
    of: int = 1

    @classmethod
    def of_environment(cls) -> Share:
        """As torchrun, Slurm or Kubernetes say in RANK and WORLD_SIZE; all of it where they say nothing."""
        try:
            found = cls(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))
        except ValueError as reason:
            raise UserError(f"RANK and WORLD_SIZE must be numbers in the environment: {reason}.") from None
        if not 0 <= found.number < found.of:
            raise UserError(f"RANK is {found.number} in the environment, and WORLD_SIZE {found.of}: it must be more.")
        return found


def schema(top: int) -> pyarrow.Schema:
    """The columns: those of `predict --csv`, and why there is no answer."""
    import pyarrow as pa

    ranks = ["", *(f" {rank}" for rank in range(2, top + 1))]
    kinds = {"class": pa.string(), "probability": pa.float32()}
    pairs = [(f"{what}{rank}", kind) for rank in ranks for what, kind in kinds.items()]
    return pa.schema([("image", pa.string()), *pairs, ("error", pa.string())])


def as_table(answers: Sequence[Prediction], top: int) -> pyarrow.Table:
    """Rows of the folder."""
    import pyarrow as pa

    columns = schema(top)
    rows = []
    for answer in answers:
        cells: list[Any] = [shown(answer.image)]
        for rank in range(top):
            cells += answer.ranking[rank] if rank < len(answer.ranking) else (None, None)
        rows.append(dict(zip(columns.names, [*cells, answer.error and shown(answer.error)], strict=True)))
    return pa.Table.from_pylist(rows, columns)


def begin(out: Path, model: Path, top: int, force: bool = False) -> None:
    """Make the folder, or find it begun by the same network; with `force` what was there goes.

    Raises:
        UserError: if it holds something else.
    """
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise UserError("results are written with the package pyarrow: pip install 'convforge[scale]'.") from None
    wanted = {"version": 1, "network": _fingerprint(model), "top": top}
    about = out / ABOUT
    if out.exists() and not out.is_dir():
        raise UserError(f"{shown(out)} is a file: name a folder, which is made, for files of answers.")
    if out.is_dir() and any(not file.name.startswith(".") for file in out.iterdir()):
        if force and (about.exists() or not _other_files(out)):
            for file in (*out.glob("*.parquet"), about):
                file.unlink(missing_ok=True)
        elif not about.exists():
            raise UserError(f"{shown(out)} has other files in it: choose another name for the answers.")
        else:
            try:
                found = json.loads(about.read_bytes())
            except ValueError as reason:
                raise UserError(f"{shown(about)} is damaged ({reason}): begin again with --force.") from reason
            if found != wanted:
                raise UserError(
                    f"{shown(out)} has answers of another network, or of another --top: choose another name, or "
                    "replace them with --force."
                )
            return
    write_atomically(about, (json.dumps(wanted, indent=1) + "\n").encode())


def _other_files(out: Path) -> bool:
    return any(file.suffix != ".parquet" for file in out.iterdir())


def _fingerprint(model: Path) -> str:
    """Of the file that has the network's numbers."""
    file = model / "model.safetensors" if model.is_dir() else model
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def answered(out: Path, alone: bool = True) -> set[str]:
    """The names in whole files. If nobody else writes, what is not whole is removed: its writer was killed."""
    from pyarrow import ArrowInvalid, parquet

    if alone:
        remove_parts(out)
    names: set[str] = set()
    for file in sorted(out.glob("*.parquet")):
        try:
            names.update(parquet.read_table(file, columns=["image"]).column("image").to_pylist())
        except (ArrowInvalid, OSError, KeyError):
            if alone:
                file.unlink(missing_ok=True)
    return names


def pictures(pieces: Iterable[Piece], done: set[str]) -> Iterator[Encoded]:
    """What is still to be answered, each name once."""
    for piece in pieces:
        for picture in piece.pictures():
            if shown(picture.name) not in done:
                yield picture


def write(
    network: Model, work: Sequence[Piece], out: Path, top: int, share: Share, watch: Any = None, rows: int = ROWS
) -> None:
    """Answer this process's share of the work that is not answered yet; `watch` is told of each file how many more
    answers there are.

    Raises:
        UserError: for files that cannot be written.
    """
    done = answered(out, alone=share.of == 1)
    mine = work[share.number :: share.of]
    waiting: list[Prediction] = []
    number = 0

    def put() -> None:
        nonlocal number
        # Named after what is in it: processes, and those begun again, never take each other's names.
        names = hashlib.sha256("\0".join(shown(answer.image) for answer in waiting).encode()).hexdigest()[:16]
        write_atomically(out / f"part-{share.number:04}-{number:06}-{names}.parquet", _as_bytes(waiting, top))
        number += 1
        if watch is not None:
            watch(len(waiting))
        waiting.clear()

    for answer in network.predict_stream(pictures(mine, done), top):
        waiting.append(answer)
        if len(waiting) == rows:
            put()
    if waiting:
        put()


def _as_bytes(answers: Sequence[Prediction], top: int) -> bytes:
    import pyarrow as pa
    from pyarrow import parquet

    sink = pa.BufferOutputStream()
    parquet.write_table(as_table(answers, top), sink)
    content: bytes = sink.getvalue().to_pybytes()
    return content


@dataclass(frozen=True)
class Summary:
    """What a folder holds: how many answers of each class, and the sentences of those that have none."""

    classes: Counter[str]
    errors: tuple[str, ...]

    @property
    def images(self) -> int:
        return sum(self.classes.values()) + len(self.errors)


def summary(out: Path) -> Summary:
    """Of all files of the folder, one after the other."""
    from pyarrow import parquet

    classes: Counter[str] = Counter()
    errors: list[str] = []
    for file in sorted(out.glob("*.parquet")):
        table = parquet.read_table(file, columns=["class", "error"])
        said = table.column("error").to_pylist()
        errors += [error for error in said if error is not None]
        classes.update(name for name in table.column("class").to_pylist() if name is not None)
    return Summary(classes, tuple(errors))
