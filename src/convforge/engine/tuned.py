"""Choices that were measured on this machine, kept on disk: what `convforge tune` writes and `select` asks first.

The model of `select` is right to a few per cent for most layers; where it is not, a measurement is. The file is JSON,
beside the compiled code in the cache folder: a table from the problem (sizes, layouts, threads, target) to the name of
the algorithm. Nothing in it is executed; a name that does not apply, or a file that cannot be read, is left aside.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

import numpy as np

from . import runtime
from .geometry import Problem
from .plan import Job
from .program import LINE, Prepared

_NAME = "choices.json"
_MOST_BYTES = 16 << 20


def chosen(job: Job) -> str | None:
    """The algorithm that was measured to be the quickest, if this problem was measured."""
    table = _table()
    return table.get(_key(job)) if table else None


def keep(choices: Iterable[tuple[Job, str]]) -> Path | None:
    """Add choices, a job and the name of an algorithm, to those on disk; where they are now, if anywhere."""
    table = _table()
    table |= {_key(job): name for job, name in choices}
    path = where()
    if path is None:
        return None
    runtime.write_ours(path, json.dumps(table, indent=0, sort_keys=True).encode())
    return path


def where() -> Path | None:
    """The file of the choices, whether it exists or not; None where nothing can be kept."""
    folder = runtime.cache_folder()
    return None if folder is None else folder / _NAME


def forget() -> bool:
    """Remove all choices from disk; whether there was a file."""
    path = where()
    existed = path is not None and path.exists()
    if path is not None:
        path.unlink(missing_ok=True)
    _table.cache_clear()
    return existed


def quickest(prepared: dict[str, Prepared], problem: Problem, kept: bool, seconds: float) -> dict[str, float]:
    """Median seconds of each, taken in rounds so that a slow moment of the machine meets all of them."""
    numbers = np.random.default_rng(0)
    x, w, y = (_filled(numbers, shape, strides, problem.dtype) for shape, strides in _tensors(problem))
    bias = np.zeros(problem.y_shape[1], problem.dtype)

    def contender(one: Prepared) -> Callable[[], None]:
        address, memory = runtime.memory(one.packed_bytes) if kept and one.packed_bytes else (0, None)
        if address:
            one.pack(w.ctypes.data, address)

        def run(_alive: object = memory) -> None:
            one.run(address, x.ctypes.data, w.ctypes.data, y.ctypes.data, bias.ctypes.data)

        return run

    runs = {name: contender(one) for name, one in prepared.items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(next(iter(times.values()))) < 5:
        for name, run in runs.items():
            begin = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - begin)
    return {name: statistics.median(taken) for name, taken in times.items()}


def _tensors(p: Problem) -> Iterable[tuple[tuple[int, ...], tuple[int, ...]]]:
    return (p.x_shape, p.x_strides), (p.w_shape, p.w_strides), (p.y_shape, p.y_strides)


def _filled(
    numbers: np.random.Generator, shape: tuple[int, ...], strides: tuple[int, ...], dtype: str
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Random numbers in an array of the given layout (strides ≥ 0), which begins at a cache line, as tensors do: what
    begins elsewhere takes up to twice the time of the algorithms that read it where it lies."""
    size = 1 + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    room = np.empty(size + LINE, dtype)
    flat = room[-room.ctypes.data % LINE // room.itemsize :][:size]
    flat[:] = numbers.standard_normal(size, np.float32)
    view: np.ndarray[tuple[int, ...], np.dtype[np.float64]] = np.lib.stride_tricks.as_strided(
        flat, shape, [step * flat.itemsize for step in strides]
    )
    return view


def _key(job: Job) -> str:
    p = job.problem
    layouts = (_layout(shape, strides) for shape, strides in _tensors(p))
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
    path = where()
    if path is None:
        return {}
    content = runtime.read_ours(path, _MOST_BYTES)
    try:
        found = json.loads(content or b"{}")
    except (ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {key: name for key, name in found.items() if isinstance(name, str)}
