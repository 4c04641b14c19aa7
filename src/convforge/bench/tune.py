"""Is the model's choice of algorithms right on this machine? Measured for layers, in every way in which they are used.

The engine chooses anew for each pass and memory format, and for weights that stay (inference) and weights that change
before every call (training), so each of these is a case of its own.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np

from ..engine import tuned
from ..engine.geometry import Problem
from ..engine.passes import prepare
from ..engine.plan import Job, Pass
from ..engine.prepared import Prepared
from ..engine.select import considered
from ..native import runtime
from ..native.program import LINE
from . import machine
from .layers import Layer
from .run import QUIET, check_fits

WORTH = 0.03
"""What the model's choice must take longer than the quickest before it is given up: less is within the noise."""


@dataclass(frozen=True, slots=True)
class Case:
    """One pass of a layer in one memory format; `kept`: weights stay, and so does their packed form."""

    layer: Layer
    channels_last: bool
    job: Job
    names: tuple[str, ...]
    """The algorithms that apply, the model's choice first."""

    @property
    def which(self) -> Pass:
        return self.job.which

    @property
    def kept(self) -> bool:
        return self.job.kept


@dataclass(frozen=True, slots=True)
class Finding:
    """What was measured in a case. `before` is the choice of an earlier measurement, where there was one."""

    case: Case
    seconds: dict[str, float]
    chosen: str
    before: str | None
    disturbed: bool = False
    """The machine did other work meanwhile, so whatever was measured is left aside. Threads that wait for a busy core
    cost algorithms of many phases the most: that is no noise that a median would remove."""

    @property
    def model(self) -> str:
        """The model's choice."""
        return self.case.names[0]

    @property
    def gain(self) -> float:
        """How much longer the model's choice takes than the one that is kept: 0.1 is a tenth."""
        return self.seconds[self.model] / self.seconds[self.chosen] - 1

    @property
    def overrules(self) -> bool:
        return self.chosen != self.model

    @property
    def is_kept(self) -> bool:
        """Whether it goes to disk: also where the model is right after all, and an earlier measurement said no."""
        return not self.disturbed and (self.overrules or self.before not in (None, self.chosen))

    def to_dict(self) -> dict[str, Any]:
        case = self.case
        return {
            "layer": case.layer.text(), "name": case.layer.name, "count": case.layer.count, "pass": case.which.value,
            "channels_last": case.channels_last, "weights_kept": case.kept, "model": self.model, "before": self.before,
            "chosen": self.chosen, "gain": self.gain, "disturbed": self.disturbed,
            "seconds": self.seconds,
        }  # fmt: skip


def cases(layers: Iterable[Layer], passes: Sequence[Pass], threads: int) -> list[Case]:
    """Those in which there is something to choose.

    Raises:
        UserError: where a layer does not fit into memory.
    """
    layers = list(layers)
    check_fits(layers)
    found = []
    for layer, which, channels_last, kept in product(layers, passes, (True, False), (True, False)):
        if which is Pass.WEIGHT_GRADIENT and kept:
            continue  # it reads no weights
        problem = Problem.of(layer.spec, layer.batch, layer.size, channels_last=channels_last)
        job = Job.of(problem, which, threads, kept)
        names = tuple(choice.algorithm.name for choice in considered(job).choices)
        if len(names) > 1:
            found.append(Case(layer, channels_last, job, names))
    return found


def measure(
    cases: Sequence[Case], threads: int, seconds: float, watch: Callable[[Iterable[Case]], Iterable[Case]] = iter
) -> list[Finding]:
    """Time every case, about so many seconds each, and keep what was found on disk. `watch` may show how far it is.
    Ctrl-C ends it early, with what there is by then."""
    findings: list[Finding] = []
    best = machine.fma_peak(threads) if cases else 0.0
    try:
        for case in watch(cases):
            finding = _find(case, threads, seconds)
            if finding.is_kept:
                peak = machine.fma_peak(threads)
                best = max(best, peak)
                if peak < QUIET * best:
                    as_it_was = finding.before if finding.before in finding.seconds else finding.model
                    finding = replace(finding, chosen=as_it_was, disturbed=True)
            findings.append(finding)
    except KeyboardInterrupt:
        if not findings:
            raise
    kept = [f for f in findings if f.is_kept]
    if kept:
        tuned.keep((f.case.job, f.chosen) for f in kept)
    return findings


def _find(case: Case, threads: int, seconds: float) -> Finding:
    before = tuned.chosen(case.job)
    prepared = {name: prepare(case.job.problem, case.which, threads, False, name, case.kept) for name in case.names}
    times = quickest(prepared, case.job.problem, case.kept, seconds)
    model, best = case.names[0], min(times, key=lambda name: times[name])
    if times[model] > (1 + WORTH) * times[best]:
        # The least of several noisy times is too small more often than not: only what wins twice has won.
        times |= quickest({name: prepared[name] for name in (model, best)}, case.job.problem, case.kept, seconds)
    chosen = best if times[model] > (1 + WORTH) * times[best] else model
    return Finding(case, times, chosen, before)


def quickest(prepared: dict[str, Prepared], problem: Problem, kept: bool, seconds: float) -> dict[str, float]:
    """Median seconds of each, taken in rounds so that a slow moment of the machine meets all of them."""
    numbers = np.random.default_rng(0)
    x, w, y = (_filled(numbers, shape, strides, problem.dtype) for shape, strides in tuned.tensors(problem))
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
