"""All of it together: layers in, rows of data out."""

from __future__ import annotations

import platform
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from math import prod
from typing import Any

import torch

from ..engine.algorithms import ALGORITHMS
from ..engine.nest import many
from ..engine.plan import Job, Pass
from ..engine.select import choose, considered
from ..errors import UserError
from ..native import target
from ..precision import set_precision
from . import machine, memory
from .contenders import CHANNELS_LAST, OURS, PLAIN, Work, relative_error
from .layers import Layer
from .machine import Machine
from .peers import Peer, PeerError, onnx_model
from .timing import Burst, burst, in_turn, interleaved

STEADY = 1.4
"""Memory that is at times so much faster than at others: the threads were moved between cores that share a cache and
cores that do not, as virtual machines are."""

QUIET = 0.9
"""Below this part of its best FMA peak, the machine is doing other work as well."""

ALL = "all"
"""The name that stands for every algorithm that applies."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How to measure. `algorithm` '' leaves the choice to the engine, `ALL` times every one beside the chosen one.
    `training` means that weights change before every call, also in the forward pass."""

    threads: int
    seconds: float = 0.5
    passes: tuple[Pass, ...] = tuple(Pass)
    exact: bool = False
    algorithm: str = ""
    peers: tuple[str, ...] = ()
    training: bool = False
    cold: bool = False
    """Whether to measure with weights and input that come from memory as well."""

    def kept(self, which: Pass) -> bool:
        """Whether the weights may be kept in the kernels' form: in inference, which is the forward pass alone."""
        return which is Pass.FORWARD and not self.training


@dataclass(frozen=True, slots=True)
class Timing:
    """One contender on one pass of one layer."""

    seconds: float
    error: float
    """Relative L2 error of its result against float64."""


@dataclass(frozen=True, slots=True)
class Row:
    """One pass of one layer. `others` are those it is compared with, `algorithms` the engine's own, where all were
    asked for."""

    layer: Layer
    which: Pass
    algorithm: str
    ours: Timing
    others: dict[str, Timing]
    algorithms: dict[str, Timing] = field(default_factory=dict)
    cold: dict[str, float] = field(default_factory=dict)
    """Seconds of each contender with weights and input from memory, where that was asked for."""
    memory: float = 0.0
    """The memory's bandwidth just after, in bytes a second: it tells which cores the threads had."""

    @property
    def operations_per_second(self) -> float:
        return self.layer.flops / self.ours.seconds

    @property
    def fastest(self) -> str:
        """The name of the fastest of the others."""
        return min(self.others, key=lambda name: self.others[name].seconds)

    @property
    def ratio(self) -> float:
        """The time of the fastest of the others over ours: above 1 we are faster."""
        return self.others[self.fastest].seconds / self.ours.seconds

    @property
    def cold_ratio(self) -> float:
        """The same with weights and input from memory."""
        return min(self.cold[name] for name in self.others if name in self.cold) / self.cold[self.ours_is]

    @property
    def ours_is(self) -> str:
        """By what name the engine was timed: its own, or the algorithm's that was asked for."""
        return OURS if OURS in self.cold else self.algorithm

    @property
    def loss(self) -> float:
        """How much longer the chosen algorithm takes than the best one that applies: 0.1 is a tenth."""
        best = min((timing.seconds for timing in self.algorithms.values()), default=self.ours.seconds)
        return max(0.0, self.ours.seconds / best - 1)

    def to_dict(self, limits: Machine) -> dict[str, Any]:
        """Ready for JSON; operations and bytes are counted, seconds measured."""
        layer, which = self.layer, self.which
        attainable = limits.attainable(layer.intensity(which))

        def timed(timing: Timing) -> dict[str, float]:
            return {"seconds": timing.seconds, "gflops": layer.flops / timing.seconds / 1e9, "error": timing.error}

        return {
            "layer": layer.text(), "name": layer.name, "count": layer.count, "pass": which.value,
            "algorithm": self.algorithm, "flops": layer.flops, "bytes": layer.bytes(which),
            "intensity": layer.intensity(which), "roofline_gflops": attainable / 1e9,
            "of_peak": self.operations_per_second / limits.peak,
            "of_roofline": self.operations_per_second / attainable,
            OURS: timed(self.ours), "others": {name: timed(timing) for name, timing in self.others.items()},
            "algorithms": {name: timed(timing) for name, timing in self.algorithms.items()},
            "fastest_other": self.fastest, "ratio": self.ratio, "memory_gb_per_s": self.memory / 1e9,
        } | ({"cold_seconds": self.cold, "cold_ratio": self.cold_ratio} if self.cold else {})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that was measured in one run."""

    limits: Machine
    memory_kept: bool | None
    training: bool
    versions: dict[str, str]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    def geometric_mean(self, which: Pass | None = None) -> float | None:
        """Of the ratios, over all passes or one; None where there is none."""
        ratios = [row.ratio for row in self.rows if which in (None, row.which)]
        return statistics.geometric_mean(ratios) if ratios else None

    def cold_mean(self, which: Pass | None = None) -> float | None:
        """The same with weights and input from memory."""
        ratios = [row.cold_ratio for row in self.rows if row.cold and which in (None, row.which)]
        return statistics.geometric_mean(ratios) if ratios else None

    def to_dict(self) -> dict[str, Any]:
        limits = self.limits
        return {
            "machine": self.limits.to_dict(),
            "memory_kept": self.memory_kept,
            "training": self.training,
            "versions": self.versions,
            "rows": [row.to_dict(limits) for row in self.rows],
            "geometric_mean": {
                "all": self.geometric_mean(), **{which.value: self.geometric_mean(which) for which in Pass}
            },
            "cold_geometric_mean": {
                "all": self.cold_mean(), **{which.value: self.cold_mean(which) for which in Pass}
            },
            "notes": self.notes,
        }  # fmt: skip


def check_algorithm(name: str) -> None:
    """Raise `UserError` unless the engine has an algorithm of this name, or it is '' or 'all'."""
    names = [algorithm.name for algorithm in ALGORITHMS]
    if name not in ("", ALL, *names):
        raise UserError(f"there is no algorithm {name!r}; there are {', '.join(names)}, and {ALL!r} for each of them.")


_BYTES_A_NUMBER = 64
"""Of a layer's tensors: they are there in two memory formats, as results of each contender and in float64, and freed
memory is kept. 62 were measured for 64 channels at 224×224, 4 and 8 images, in all passes."""


def check_fits(layers: Iterable[Layer]) -> None:
    """Raise `UserError` where a layer is larger than this machine's memory, before anything is measured."""
    for layer in layers:
        numbers = prod(layer.x_shape) + prod(layer.y_shape) + layer.spec.weights
        problem = memory.check_fits(numbers * _BYTES_A_NUMBER)
        if problem:
            raise UserError(f"{layer} cannot be measured here: {problem}; try a smaller batch or image.")


def measure(
    layers: Sequence[Layer], settings: Settings, watch: Callable[[Iterable[Layer]], Iterable[Layer]] = iter
) -> Report:
    """Measure every layer; `watch` may show how far it is. Ctrl-C ends it early, with what there is by then.

    Raises:
        UserError: for an algorithm that does not exist, and layers that do not fit into memory.
    """
    check_algorithm(settings.algorithm)
    check_fits(layers)
    rows: list[Row] = []
    notes: dict[str, None] = {}
    before = torch.get_num_threads()
    torch.set_num_threads(settings.threads)
    limits = machine.measure(settings.threads)
    peaks: list[float] = []
    try:
        with ExitStack() as stack, torch.no_grad(), set_precision("exact" if settings.exact else "fast"):
            peers = [stack.enter_context(Peer(name, settings.threads)) for name in settings.peers]
            for layer in watch(layers):
                new = list(_layer(Work(layer), layer, settings, peers, notes))
                memory_now = machine.memory_bandwidth(settings.threads)
                rows += [replace(row, memory=memory_now) for row in new]
                # The machine's clock changes with its temperature and its neighbours: the best moment is the limit.
                peaks.append(machine.fma_peak(settings.threads))
                limits = limits.at_its_best(peaks[-1])
            after = machine.measure(settings.threads)
            limits = limits.at_its_best(after.peak, after.memory, after.cache)
    except KeyboardInterrupt:
        if not rows:
            raise
        notes["Stopped before the last layer."] = None
    finally:
        torch.set_num_threads(before)
    if busy := sum(peak < QUIET * limits.peak for peak in peaks):
        notes[
            f"The machine did other work as well: after {busy} of {many(len(peaks), 'layer')} the FMA peak was below "
            f"{QUIET:.0%} of the best one."
        ] = None
    slowest, fastest = (extreme((row.memory for row in rows), default=0.0) for extreme in (min, max))
    if fastest > STEADY * slowest:
        notes[
            f"The memory's bandwidth was between {slowest / 1e9:.0f} and {fastest / 1e9:.0f} GB/s: the threads ran by "
            "turns on cores that share a cache and on cores that do not, and layers compare only within either; "
            "--json says how much it was after each layer."
        ] = None
    return Report(limits, memory.is_kept(), settings.training, _versions(settings.peers), tuple(rows), tuple(notes))


def _layer(work: Work, layer: Layer, settings: Settings, peers: list[Peer], notes: dict[str, None]) -> Iterator[Row]:
    """One row a pass."""
    for which in settings.passes:
        threads, exact, kept = settings.threads, settings.exact, settings.kept(which)
        job = Job.of(work.problem, which, threads, kept)
        names = [choice.algorithm.name for choice in considered(job, exact).choices]
        if settings.algorithm not in ("", ALL, *names):
            notes[f"{settings.algorithm!r} does not apply to the {which} of some of the layers; left out."] = None
            continue
        wanted = "" if settings.algorithm == ALL else settings.algorithm
        chosen = choose(job, exact, wanted).algorithm.name
        asked = names if settings.algorithm == ALL else [wanted] if wanted else []
        here = _contenders(work, which, settings, asked)
        own = {name: here[name] for name in asked}
        bursts: dict[str, Burst] = {name: partial(burst, run) for name, run in here.items()}
        results: dict[str, torch.Tensor] = {}
        if which is Pass.FORWARD:
            for peer in peers:
                try:
                    results[peer.title] = _load(peer, work)
                    bursts[peer.title] = peer.burst
                except PeerError as error:
                    notes[f"{error}."] = None
        try:
            times = interleaved(list(bursts.values()), settings.seconds)
        except PeerError as error:  # it computed the layer once; without it, then
            notes[f"{error}."] = None
            bursts = {name: run for name, run in bursts.items() if name in here}
            times = interleaved(list(bursts.values()), settings.seconds)
        # Once more, for what is checked should have come the way that was timed, with weights that were kept.
        truth = work.truth(which)
        errors = {name: relative_error(here[name]() if name in here else results[name], truth) for name in bursts}
        del truth
        cold = _cold(work, layer, which, settings, asked, [peer for peer in peers if peer.title in bursts], notes)
        timings = {name: Timing(time, errors[name]) for name, time in zip(bursts, times, strict=True)}
        ours = timings[chosen if own else OURS]
        algorithms = {name: timings[name] for name in own} if settings.algorithm == ALL else {}
        others = {name: timing for name, timing in timings.items() if name != OURS and name not in own}
        yield Row(layer, which, chosen, ours, others, algorithms, cold)


def _contenders(
    work: Work, which: Pass, settings: Settings, algorithms: Sequence[str]
) -> dict[str, Callable[[], torch.Tensor]]:
    """Those that run in this process: the engine, as it chooses or with these algorithms, and torch."""
    threads, exact, kept = settings.threads, settings.exact, settings.kept(which)
    own = {name: work.with_algorithm(which, threads, exact, kept, name) for name in algorithms}
    return (own or {OURS: work.ours(which, kept)}) | {
        CHANNELS_LAST: work.torch(which, channels_last=True),
        PLAIN: work.torch(which, channels_last=False),
    }


_CACHES_FULL = 4
"""Times the L3 cache of a core that all copies together take: cores may have several."""
_MOST_COPIES = 512


def _cold(
    work: Work, layer: Layer, which: Pass, settings: Settings, algorithms: Sequence[str], peers: Sequence[Peer],
    notes: dict[str, None],
) -> dict[str, float]:  # fmt: skip
    """Seconds of each contender where weights and input are in no cache, as in a network: copies of the layer take
    turns, each with weights and input of its own."""
    if not settings.cold:
        return {}
    size = 4 * (prod(layer.x_shape) + prod(layer.y_shape) + layer.spec.weights)
    copies = min(_MOST_COPIES, 2 + _CACHES_FULL * target.cache_bytes()[2] // size)
    if problem := memory.check_fits(4 * copies * size):  # in two memory formats, and packed
        notes[f"{layer} was not measured cold: {problem}."] = None
        return {}
    works = [work, *(Work(layer, seed=seed) for seed in range(1, copies))]
    several = [_contenders(one, which, settings, algorithms) for one in works]
    for contenders in several:
        for run in contenders.values():
            run()  # weights are packed where they are kept
            run()
    bursts: dict[str, Burst] = {
        name: partial(burst, in_turn([contenders[name] for contenders in several])) for name in several[0]
    }
    if which is Pass.FORWARD:
        for peer in peers:
            try:
                _load(peer, work, copies)
                bursts[peer.title] = peer.burst
            except PeerError as error:
                notes[f"{error}, in {copies} copies."] = None
    try:
        times = interleaved(list(bursts.values()), settings.seconds)
    except PeerError as error:
        notes[f"{error}, in {copies} copies."] = None
        bursts = {name: run for name, run in bursts.items() if name in several[0]}
        times = interleaved(list(bursts.values()), settings.seconds)
    return dict(zip(bursts, times, strict=True))


def _load(peer: Peer, work: Work, copies: int = 1) -> torch.Tensor:
    s, layer = work.layer.spec, work.layer
    weights, x = work.plain.w.numpy(), work.plain.x.numpy()
    model = onnx_model(weights, layer.x_shape, layer.y_shape, s.stride, work.pads, s.dilation, s.groups)
    return torch.from_numpy(peer.load(model, x, copies))


def _versions(peers: Sequence[str]) -> dict[str, str]:
    known = {name: version(name) for name in ("torch", "llvmlite", *peers)}
    return {"python": platform.python_version(), **known}
