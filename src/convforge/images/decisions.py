"""What somebody has decided about the images of a folder, in one file beside them; the images stay where they are.

`relabelled.json` in the folder that is learned from has an entry an image, by its path in that folder:

    {
      "version": 1,
      "images": {
        "cat/7.jpg": {"was": "cat", "is": "dog"},
        "cat/8.jpg": {"was": "cat", "is": null},
        "dog/3.jpg": {"was": "dog", "is": "dog"}
      }
    }

"was" is the class by the folder, "is" the one that counts: the same where it was looked at and kept, null where the
image is left out. `convforge relabel` writes the file, `convforge train` reads it, and anybody may edit it; without it
the folders alone count.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import each_once, write_atomically
from ..shown import shown

NAME = "relabelled.json"
_VERSION = 1
_MOST_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Decision:
    """The class by the folder, and the one that counts; None leaves the image out."""

    was: str
    now: str | None


def file_of(folder: Path) -> Path:
    """Where the decisions about a folder's images are."""
    return folder / NAME


def read(folder: Path) -> dict[str, Decision]:
    """The decisions by the image's path in the folder, with slashes; none where there is no file.

    Raises:
        UserError: that names the file, where it cannot be read or says something else.
    """
    path = file_of(folder)
    try:
        if not path.exists():
            return {}
        if path.stat().st_size > _MOST_BYTES:
            raise _unsound(path, f"it has more than {_MOST_BYTES:,} bytes")
        found = json.loads(path.read_bytes(), object_pairs_hook=each_once)
    except OSError as reason:
        raise UserError(f"cannot read {shown(path)}: {reason.strerror or reason}.") from reason
    except (ValueError, RecursionError) as reason:
        raise _unsound(path, str(reason)[:200]) from reason
    if not isinstance(found, dict) or found.get("version") != _VERSION or not isinstance(found.get("images"), dict):
        raise _unsound(path, f'it must be an object with "version": {_VERSION} and "images"')
    return {name: _decision(path, name, entry) for name, entry in found["images"].items()}


def _decision(path: Path, name: str, entry: Any) -> Decision:
    sound = isinstance(entry, dict) and entry.keys() == {"was", "is"} and isinstance(entry["was"], str)
    if not sound or not (entry["is"] is None or isinstance(entry["is"], str)):
        raise _unsound(path, f'the entry of {name[:80]!r} must be like {{"was": "cat", "is": "dog"}}')
    return Decision(entry["was"], entry["is"])


def _unsound(path: Path, why: str) -> UserError:
    return UserError(
        f"{shown(path)} does not hold decisions about images ({shown(why)}): mend it, or move it away to learn "
        "from the folders as they are."
    )


def put(folder: Path, changes: Mapping[str, Decision | None]) -> None:
    """Write decisions down, at once and in one step; None takes one back.

    What others have written meanwhile stays. Raises `UserError` if it cannot be written; nothing is changed then.
    """
    with _alone(folder):
        known = read(folder)
        for name, decision in changes.items():
            if decision is None:
                known.pop(name, None)
            else:
                known[name] = decision
        images = {name: {"was": known[name].was, "is": known[name].now} for name in sorted(known)}
        text = json.dumps({"version": _VERSION, "images": images}, indent=1, ensure_ascii=False) + "\n"
        # Names that are no UTF-8 are lone surrogates in Python, whose escapes are those of JSON.
        write_atomically(file_of(folder), text.encode(errors="backslashreplace"))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """No other process reads and writes the decisions meanwhile, where the system can see to that."""
    try:
        import fcntl
    except ImportError:  # not on Windows
        yield
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError as reason:
        raise UserError(f"cannot read the folder {shown(folder)}: {reason.strerror or reason}.") from reason
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
