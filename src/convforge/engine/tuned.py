"""Choices that were measured on this machine, kept on disk: what `convforge tune` writes and `select` asks first.

The algorithms' models are right to a few per cent for most layers; where they are not, a measurement is. The file is
JSON, beside the compiled code in the cache folder: a table from the job (pass, sizes, layouts, threads, target, whether
weights are kept) to the name of the algorithm. Nothing in it is executed; a name that does not apply, or a file that
cannot be read, is left aside.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path

from .. import disk
from ..native.target import costs_file
from .geometry import Problem
from .plan import Job

_NAME = "choices.json"


def chosen(job: Job) -> str | None:
    """The algorithm that was measured to be the quickest, if this problem was measured."""
    table = _table()
    return table.get(_key(job)) if table else None


def keep(choices: Iterable[tuple[Job, str]]) -> Path | None:
    """Add choices, a job and the name of an algorithm, to those on disk; where they are now, if anywhere."""
    path = where()
    if path is not None:
        disk.add_to_table(path, {_key(job): name for job, name in choices})
        _table.cache_clear()
    return path


def where() -> Path | None:
    """The file of the choices, whether it exists or not; None where nothing can be kept."""
    folder = disk.cache_folder()
    return None if folder is None else folder / _NAME


def forget() -> bool:
    """Remove all choices, and the machine's costs (`bench/costs.py`), from disk; whether there was anything."""
    paths = [path for path in (where(), costs_file()) if path is not None]
    existed = any(path.exists() for path in paths)
    for path in paths:
        path.unlink(missing_ok=True)
    _table.cache_clear()
    return existed


def tensors(p: Problem) -> Iterable[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Shape and strides of x, w and y."""
    return (p.x_shape, p.x_strides), (p.w_shape, p.w_strides), (p.y_shape, p.y_strides)


def _key(job: Job) -> str:
    p = job.problem
    layouts = (_layout(shape, strides) for shape, strides in tensors(p))
    parts: tuple[object, ...] = (
        job.target.name, job.threads, job.which, "kept" if job.kept else "packed", p.dtype,
        p.x_shape, p.w_shape, p.y_shape, p.stride, p.pads, p.dilation, p.groups, *layouts,
    )  # fmt: skip
    return " ".join(str(part).replace(" ", "") for part in parts)


def _layout(shape: tuple[int, ...], strides: tuple[int, ...]) -> tuple[int, ...]:
    """Strides, but for axes of size 1: torch gives one and the same 1×1 kernel different ones there."""
    return tuple(step if size > 1 else 0 for size, step in zip(shape, strides, strict=True))


@cache
def _table() -> dict[str, str]:
    return {key: name for key, name in disk.read_table(where()).items() if isinstance(name, str)}
