"""Is the model's choice of algorithms right on this machine? Measured for layers, in every way in which they are used.

The engine chooses anew for each pass and memory format, and for weights that stay (inference) and weights that change
before every call (training), so each of these is a case of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from ..engine import tuned
from ..engine.geometry import Problem
from ..engine.plan import Job, Pass
from ..engine.select import considered
from . import machine
from .contenders import prepare
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
    times = tuned.quickest(prepared, case.job.problem, case.kept, seconds)
    model, best = case.names[0], min(times, key=lambda name: times[name])
    if times[model] > (1 + WORTH) * times[best]:
        # The least of several noisy times is too small more often than not: only what wins twice has won.
        times |= tuned.quickest({name: prepared[name] for name in (model, best)}, case.job.problem, case.kept, seconds)
    chosen = best if times[model] > (1 + WORTH) * times[best] else model
    return Finding(case, times, chosen, before)
