"""Files that are kept between processes, in a folder that nobody else can write.

What lies there is read back only where it is an ordinary file of this user's, and written whole or not at all.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import tempfile
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import platformdirs

_OURS, _PART, _LONGEST_WRITE = "convforge-", ".part", 3600.0
_MOST_TABLE_BYTES = 16 << 20


def cache_folder(other: str | None = None) -> Path | None:
    """Where compiled code is kept: `CONVFORGE_CACHE`, else the user's cache folder; or the folder for something `other`
    that is kept between processes. None where there is no folder that is ours alone to write; then every process
    compiles for itself."""
    wanted = os.environ.get("CONVFORGE_CACHE")
    if wanted:
        folder = Path(wanted) / (other or "")
    else:
        folder = Path(platformdirs.user_cache_dir("convforge")) / (other or "code")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder if only_ours(os.stat(folder)) else None
    except OSError:
        return None


def only_ours(status: os.stat_result) -> bool:
    """Whether nobody but this user can write a file or folder."""
    if os.name != "posix":
        return True  # Windows: the user's cache folder inherits an access list that admits its owner
    return status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def read_ours(path: Path, most: int) -> bytes | None:
    """What an ordinary file holds, at most so many bytes; None where it is no such file or others can write it."""
    try:
        # Without waiting: a pipe under that name would keep us for ever.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except OSError:
        return None
    try:
        status = os.fstat(handle)
        if not (stat.S_ISREG(status.st_mode) and only_ours(status) and status.st_size <= most):
            return None
        with open(handle, "rb", closefd=False) as file:
            return file.read(status.st_size)  # Python takes memory for as much as is asked for before it reads
    except OSError:
        return None
    finally:
        os.close(handle)


def read_table(path: Path | None) -> dict[str, Any]:
    """A table in a file of JSON; an empty one where there is no such file, or what is in it is no table."""
    content = None if path is None else read_ours(path, _MOST_TABLE_BYTES)
    try:
        found = json.loads(content or b"{}")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def add_to_table(path: Path, entries: Mapping[str, Any]) -> None:
    """Put entries into such a file, beside those that are there; raises OSError."""
    table = read_table(path) | dict(entries)
    write_ours(path, json.dumps(table, indent=0, sort_keys=True).encode())


def write_ours(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; raises OSError."""
    _sweep(path.parent)
    handle, temporary = tempfile.mkstemp(_PART, _OURS, path.parent)  # created readable by its owner only
    try:
        with open(handle, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


@cache
def _sweep(folder: Path) -> None:
    """Remove, once a process, what writers have left that were killed: files being written for over an hour."""
    for left in folder.glob(f"{_OURS}*{_PART}"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _LONGEST_WRITE:
                left.unlink()
