"""An explanation as data: choice, loops, limits, predicted and measured time of each pass."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch

from ..bench import machine
from ..bench.contenders import Work, packed
from ..bench.layers import Layer
from ..bench.machine import Machine
from ..bench.run import ALL, Settings, check_algorithm, check_fits
from ..bench.timing import burst, interleaved
from ..engine.nest import Nest
from ..engine.passes import prepare
from ..engine.plan import Job, Pass
from ..engine.select import choose, considered
from ..errors import UserError
from ..native import target as targets
from ..native.target import Target
from .assembly import InnerLoop, inner_loop


@dataclass(frozen=True, slots=True)
class Considered:
    """An algorithm that could have been taken: seconds by the model (None where it has none) and by the clock."""

    name: str
    predicted: float | None
    measured: float


@dataclass(frozen=True, slots=True)
class PassExplained:
    """One pass of a layer, with weights that are `kept` in the kernels' form, or packed at every call; `otherwise` are
    the seconds of the other of the two, where there is such a form. `refused` are the other algorithms, and why.
    """

    which: Pass
    algorithm: str
    reason: str
    considered: tuple[Considered, ...]
    refused: dict[str, str]
    description: Nest
    bytes: int
    intensity: float
    attainable: float
    predicted: float | None
    measured: float
    kept: bool
    otherwise: float | None
    work_bytes: int
    inner_loop: InnerLoop | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """A layer, the machine, and each of the passes that were asked for."""

    layer: Layer
    target: Target
    limits: Machine
    passes: tuple[PassExplained, ...]

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        layer = self.layer
        return {
            "layer": layer.text(), "input": layer.x_shape, "output": layer.y_shape, "weights": layer.spec.weights,
            "flops": layer.flops,
            "machine": asdict(self.limits) | {"l1_bytes": self.target.l1_bytes, "l2_bytes": self.target.l2_bytes},
            "costs": asdict(self.target.costs),
            "passes": [self._pass(p) for p in self.passes],
        }  # fmt: skip

    def _pass(self, p: PassExplained) -> dict[str, Any]:
        speed = self.layer.flops / p.measured
        own = {name: getattr(p, name) for name in PassExplained.__dataclass_fields__}
        own |= {
            "pass": own.pop("which").value, "considered": [asdict(c) for c in p.considered],
            "description": _described(p.description),
            "inner_loop": asdict(p.inner_loop) if p.inner_loop else None,
            "flops_per_second": speed, "of_peak": speed / self.limits.peak, "of_roofline": speed / p.attainable,
        }  # fmt: skip
        return own


def _described(d: Nest) -> dict[str, Any]:
    tile = asdict(d.tile) | {"registers_used": d.tile.registers_used, "loads": d.tile.loads, "cycles": d.tile.cycles}
    return {
        "note": d.note, "loops": [asdict(loop) for loop in d.loops], "after": d.after, "tile": tile,
        "held": [asdict(held) for held in d.held], "microkernel": d.inner.function,
    }  # fmt: skip


def explain(
    layer: Layer, threads: int, passes: tuple[Pass, ...] = tuple(Pass), exact: bool = False, algorithm: str = "",
    training: bool = False, seconds: float = 0.3, assembly: bool = False,
) -> Explanation:  # fmt: skip
    """Explain a layer on this machine; all algorithms that apply are run, for about `seconds` a pass. The forward pass
    is that of inference, with weights that are kept in the kernels' form, unless it is for `training`.

    Raises:
        UserError: for an algorithm that does not exist or does not apply, and a layer that does not fit into memory.
    """
    if algorithm == ALL:
        raise UserError("explain shows one algorithm, and the times of all others; 'all' is for `convforge bench`.")
    check_algorithm(algorithm)
    check_fits([layer])
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    settings = Settings(threads, seconds, passes, exact, algorithm, training=training)
    try:
        first, limits = machine.measure(threads), machine.measure(threads)
        limits = limits.at_its_best(first.peak, first.memory, first.cache)
        work = Work(layer, evenly=False)  # nobody but the engine computes it
        explained = tuple(_explain(work, which, limits, settings, assembly) for which in passes)
    finally:
        torch.set_num_threads(before)
    return Explanation(layer, targets.current(), limits, explained)


def _explain(work: Work, which: Pass, limits: Machine, settings: Settings, assembly: bool) -> PassExplained:
    problem, layer, threads, exact = work.problem, work.layer, settings.threads, settings.exact
    kept = settings.kept(which)
    job = Job.of(problem, which, threads, kept)
    choice, answers = choose(job, exact, settings.algorithm), considered(job, exact)
    chosen, choices = choice.algorithm, answers.choices
    if chosen.name in answers.refused:  # it was asked for by name
        choices = (*choices, choice)
    names = [choice.algorithm.name for choice in choices]
    reason = chosen.reason
    if not settings.algorithm and chosen.name != names[0]:
        reason += "; it was measured to be the fastest on this machine"
    prepared = {name: prepare(problem, which, threads, exact, name, kept) for name in names}
    forms = {name: packed(p, work.last.w.data_ptr()) for name, p in prepared.items()}
    runs = {name: partial(p.run, forms[name][0] if kept else 0, **work.last.addresses) for name, p in prepared.items()}
    if forms[chosen.name][0]:
        address = 0 if kept else forms[chosen.name][0]
        runs["otherwise"] = partial(prepared[chosen.name].run, address, **work.last.addresses)
    times = dict(zip(runs, interleaved([partial(burst, run) for run in runs.values()], settings.seconds), strict=True))
    del forms  # they are read until here
    nest = choice.plan.nest
    predicted = {c.algorithm.name: limits.seconds(c.cycles) if c.cycles else None for c in choices}
    intensity = layer.intensity(which)
    return PassExplained(
        which=which,
        algorithm=chosen.name,
        reason=reason,
        considered=tuple(Considered(name, predicted[name], times[name]) for name in names),
        refused={name: str(why) for name, why in answers.refused.items() if name not in names},
        description=nest,
        bytes=layer.bytes(which),
        intensity=intensity,
        attainable=limits.attainable(intensity),
        predicted=predicted[chosen.name],
        measured=times[chosen.name],
        kept=kept,
        otherwise=times.get("otherwise"),
        work_bytes=prepared[chosen.name].work_bytes(packed=kept),
        inner_loop=inner_loop(nest.inner, "float32", job.target) if assembly else None,
    )
