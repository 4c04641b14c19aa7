"""Files that are written in one step, and files that are anybody's: what reading and writing share.

Nothing here needs torch.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import UserError
from .shown import shown

# A safetensors file is 8 bytes of header length (little-endian), the header in JSON, and the tensors. Real headers have
# about a hundred bytes a tensor; parsing one needs many times its own length in memory.
MOST_HEADER_BYTES = 16 * 2**20

_PART = ".part"
"""How files end that are not whole yet."""


def write_atomically(path: Path, content: bytes) -> None:
    """Replace the file in one step: readers see the old content or the new, and a failure leaves the old one.

    Raises `UserError` with the operating system's reason (no space left, no permission, …).
    """
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-", suffix=_PART)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as reason:
        raise UserError(
            f"cannot write {path}: {reason.strerror or reason}; make room or choose another folder. "
            "What was there before is unchanged."
        ) from reason
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)


def remove_parts(folder: Path) -> None:
    """Remove what `write_atomically` could not finish where the process was killed meanwhile."""
    for part in folder.glob(f".*{_PART}"):
        part.unlink(missing_ok=True)


def header_is_short(start: bytes) -> bool:
    """Whether a file that begins with these 8 bytes may be a safetensors file whose header can be parsed."""
    return len(start) == 8 and int.from_bytes(start, "little") <= MOST_HEADER_BYTES


def brief(reason: Exception) -> str:
    """What a library says of a damaged file, which it may quote at any length."""
    return shown(str(reason))[:200]


@contextmanager
def opened(path: Path, framework: str = "pt") -> Iterator[Any]:
    """`safetensors.safe_open`, which takes no path that is not UTF-8, for any path."""
    from safetensors import safe_open

    if shown(path) == str(path):
        with safe_open(path, framework=framework) as file:
            yield file
        return
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / "tensors"
        link.symlink_to(path.absolute())
        with safe_open(link, framework=framework) as file:
            yield file


def each_once(entries: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, for `json.loads`. It must not say a thing twice: which of the two counts is up to the reader."""
    found = dict(entries)
    if len(found) != len(entries):
        raise ValueError("an entry is there twice")
    return found
