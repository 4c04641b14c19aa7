"""An explanation as data: choice, loops, limits, predicted and measured time of each pass."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch

from ..bench import machine
from ..bench.contenders import Work, prepare
from ..bench.layers import Layer
from ..bench.machine import Machine
from ..bench.run import check_algorithm, check_fits
from ..bench.timing import burst, interleaved
from ..engine import target as targets
from ..engine.describe import Description
from ..engine.prepared import Prepared
from ..engine.select import ALGORITHMS, Pass, choose, considered
from ..engine.target import Target
from ..errors import UserError
from .assembly import InnerLoop, inner_loop


@dataclass(frozen=True, slots=True)
class Considered:
    """An algorithm that could have been taken: seconds by the model (None where it has none) and by the clock."""

    name: str
    predicted: float | None
    measured: float


@dataclass(frozen=True, slots=True)
class PassExplained:
    """One pass of a layer. `prepacked` are seconds with the weights in the kernels' form already, where there is such a
    form; `refused` names the algorithms that do not apply here."""

    which: Pass
    algorithm: str
    reason: str
    considered: tuple[Considered, ...]
    refused: tuple[str, ...]
    description: Description | None
    bytes: int
    intensity: float
    attainable: float
    predicted: float | None
    measured: float
    prepacked: float | None
    workspace_bytes: int
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
            "passes": [self._pass(p) for p in self.passes],
        }  # fmt: skip

    def _pass(self, p: PassExplained) -> dict[str, Any]:
        speed = self.layer.flops / p.measured
        own = {name: getattr(p, name) for name in PassExplained.__dataclass_fields__}
        own |= {
            "pass": own.pop("which").value, "considered": [asdict(c) for c in p.considered],
            "description": _described(p.description) if p.description else None,
            "inner_loop": asdict(p.inner_loop) if p.inner_loop else None,
            "flops_per_second": speed, "of_peak": speed / self.limits.peak, "of_roofline": speed / p.attainable,
        }  # fmt: skip
        return own


def _described(d: Description) -> dict[str, Any]:
    tile = asdict(d.tile) | {"registers_used": d.tile.registers_used, "loads": d.tile.loads, "cycles": d.tile.cycles}
    return {
        "note": d.note, "loops": [asdict(loop) for loop in d.loops], "after": d.after, "tile": tile,
        "held": [asdict(held) for held in d.held], "microkernel": d.inner.function,
    }  # fmt: skip


def explain(
    layer: Layer, threads: int, passes: tuple[Pass, ...] = tuple(Pass), exact: bool = False, algorithm: str = "",
    seconds: float = 0.3, assembly: bool = False,
) -> Explanation:  # fmt: skip
    """Explain a layer on this machine; all algorithms that apply are run, for about `seconds` a pass.

    Raises:
        UserError: for an algorithm that does not exist or does not apply, and a layer that does not fit into memory.
    """
    if algorithm == "all":
        raise UserError("explain shows one algorithm, and the times of all others; 'all' is for `convforge bench`.")
    check_algorithm(algorithm)
    check_fits([layer])
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        first, limits = machine.measure(threads), machine.measure(threads)
        limits = limits.at_its_best(first.peak, first.memory, first.cache)
        work = Work(layer, evenly=False)  # nobody but the engine computes it
        explained = tuple(_explain(work, layer, which, limits, exact, algorithm, seconds, assembly) for which in passes)
    finally:
        torch.set_num_threads(before)
    return Explanation(layer, targets.current(), limits, explained)


def _explain(
    work: Work, layer: Layer, which: Pass, limits: Machine, exact: bool, algorithm: str, seconds: float, assembly: bool
) -> PassExplained:
    problem, threads = work.problem, limits.threads
    choice = choose(problem, which, threads, exact, algorithm)
    chosen = choice.algorithm
    choices = considered(problem, which, threads, exact)
    names = [other.algorithm.name for other in choices]
    prepared = {name: prepare(problem, which, threads, exact, name) for name in names}
    runs = {name: partial(p.run, **work.last.addresses) for name, p in prepared.items()}
    packed, alive = _packed(prepared[chosen.name], work.last.addresses["w"])
    if packed:
        runs["prepacked"] = partial(prepared[chosen.name].run, packed=packed, **work.last.addresses)
    times = dict(zip(runs, interleaved([partial(burst, run) for run in runs.values()], seconds), strict=True))
    del alive  # the packed weights are read until here
    description = chosen.describe(problem, which, threads) if chosen.describe else None
    predicted = {c.algorithm.name: limits.seconds(c.cycles) if c.cycles else None for c in choices}
    intensity = layer.intensity(which)
    return PassExplained(
        which,
        chosen.name,
        chosen.reason,
        tuple(Considered(name, predicted[name], times[name]) for name in names),
        tuple(a.name for a in ALGORITHMS if a.name not in names),
        description,
        layer.bytes(which),
        intensity,
        limits.attainable(intensity),
        predicted[chosen.name],
        times[chosen.name],
        times.get("prepacked"),
        prepared[chosen.name].workspace_bytes,
        inner_loop(description.inner, "float32", targets.current()) if assembly and description else None,
    )


def _packed(prepared: Prepared, weights: int) -> tuple[int, object]:
    """The address of the weights in the kernels' form, and what keeps them alive; 0 where there is no such form."""
    if prepared.weights is None or not prepared.packed_bytes:
        return 0, None
    memory = torch.empty(prepared.packed_bytes + 64, dtype=torch.uint8)
    address = memory.data_ptr() + -memory.data_ptr() % 64
    prepared.pack(weights, address)
    return address, memory
