"""All of it together: names of networks in, rows of data out."""

from __future__ import annotations

import copy
import platform
import statistics
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...errors import UserError
from ...graph.profile import StepTime
from .. import machine
from ..contenders import OURS
from ..machine import Machine
from ..process import Child, PeerError
from ..timing import Burst, rounds
from . import training
from .busy import busy
from .contender import Loaded, Memory, Results, Settings
from .contenders import contenders, serve
from .files import path_of, writer
from .inference import INFERENCE
from .named import Case, Shape, image_of, is_file

Truth = list[NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to measure: networks, images, contenders; calls, or where `training` steps of learning. `image` and `size`
    (height, width) are the networks' own where they are None."""

    names: tuple[str, ...]
    peers: tuple[str, ...]
    threads: int
    batches: tuple[int, ...] = (1,)
    image: Shape | None = None
    size: tuple[int, int] | None = None
    seconds: float = 5.0
    exact: bool = False
    busy: bool = False
    steps: bool = False
    training: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """One contender on one network."""

    seconds: float
    """The median call or step."""
    shortest: float
    error: float
    """Relative L2 error against float64, of its outputs, or of the gradients of its first step."""
    first: float
    """Seconds from the module or file to the first result."""
    memory: Memory
    busy: float | None = None
    """The median call beside a busy process, where that was asked for."""

    @property
    def slowdown(self) -> float | None:
        """How many times as long a call takes beside a busy process."""
        return None if self.busy is None else self.busy / self.seconds

    def to_dict(self, batch: int) -> dict[str, float | None]:
        """Ready for JSON."""
        found: dict[str, float | None] = {
            "seconds": self.seconds, "shortest_seconds": self.shortest, "error": self.error,
            "images_per_second": batch / self.seconds, "first_result_seconds": self.first,
            "peak_memory_bytes": self.memory.peak, "held_memory_bytes": self.memory.held,
        }  # fmt: skip
        return found | ({} if self.busy is None else {"busy_seconds": self.busy, "busy_ratio": self.slowdown})


@dataclass(frozen=True, slots=True)
class First:
    """Seconds to our first result in a new process, and how many of them were the capture: with an empty cache, and
    with the code on disk."""

    cold: float
    cold_capture: float
    warm: float
    warm_capture: float


@dataclass(frozen=True, slots=True)
class Measured:
    """One network. `rows` are by title, ours first."""

    title: str
    image: Shape
    batch: int
    rows: dict[str, Row]
    first: First | None = None
    steps: tuple[StepTime, ...] = ()
    training: bool = False

    @property
    def ours(self) -> Row | None:
        return self.rows.get(OURS)

    @property
    def fastest(self) -> str | None:
        """The fastest of the others that compute in float32."""
        others = [title for title in self.rows if not title.startswith(OURS) and not title.endswith(", default")]
        return min(others, key=lambda title: self.rows[title].seconds, default=None)

    @property
    def ratio(self) -> float | None:
        """The time of the fastest of the others over ours: above 1 we are faster."""
        if self.ours is None or self.fastest is None:
            return None
        return self.rows[self.fastest].seconds / self.ours.seconds

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        first = self.first
        return {
            "network": self.title, "image": self.image, "batch": self.batch, "training": self.training,
            "fastest_other": self.fastest, "ratio": self.ratio,
            "contenders": {title: row.to_dict(self.batch) for title, row in self.rows.items()},
        } | ({} if first is None else {"first_result": {
            "empty_cache_seconds": first.cold, "of_it_capture_seconds": first.cold_capture,
            "code_on_disk_seconds": first.warm, "of_that_capture_seconds": first.warm_capture,
        }}) | ({} if not self.steps else {"steps": [
            asdict(step) for step in self.steps
        ]})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that was measured in one run."""

    limits: Machine
    versions: dict[str, str]
    networks: tuple[Measured, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def geometric_mean(self) -> float | None:
        """Of the ratios; None where there is none."""
        ratios = [network.ratio for network in self.networks if network.ratio is not None]
        return statistics.geometric_mean(ratios) if ratios else None

    def to_dict(self) -> dict[str, Any]:
        return {
            "machine": self.limits.to_dict(),
            "versions": self.versions, "networks": [network.to_dict() for network in self.networks],
            "geometric_mean": self.geometric_mean, "notes": self.notes,
        }  # fmt: skip


def measure(wanted: Wanted, watch: Callable[[Iterable[Case]], Iterable[Case]] = iter) -> Report:
    """Measure every network; `watch` may show how far it is. Ctrl-C ends it early, with what there is by then.

    Raises:
        UserError: for a network that does not exist or cannot be captured.
    """
    limits = machine.measure(wanted.threads)
    networks: list[Measured] = []
    notes: dict[str, None] = {}
    with tempfile.TemporaryDirectory(prefix="convforge-bench-") as folder:
        cases: list[Case] = []
        for name in wanted.names:
            if wanted.training and is_file(name):
                raise UserError(f"{name} is a file for inference: leave --training out, or name a torch model.")
            image = image_of(name, wanted.image, wanted.size)
            for batch in wanted.batches:
                cases.append(Case(name, image, batch, Path(folder) / str(len(cases))))
            if not is_file(name):
                cases[-1].module()  # whether there is such a network, before anything takes long
        try:
            for case in watch(cases):
                case.folder.mkdir()
                networks.append(_network(case, wanted, notes))
        except KeyboardInterrupt:
            if not networks:
                raise
            notes["Stopped before the last network."] = None
    return Report(limits, _versions(wanted.peers, wanted.training), tuple(networks), tuple(notes))


def _network(case: Case, wanted: Wanted, notes: dict[str, None]) -> Measured:
    settings, known = Settings(wanted.threads, wanted.exact, wanted.training), contenders(wanted.training)
    truth = _truth(case, wanted.training)
    keys = [OURS, *(wanted.peers if wanted.training else _with_files(case, wanted.peers, notes))]
    with ExitStack() as stack:
        running: dict[str, Child] = {}
        loaded: dict[str, Loaded] = {}
        for key in keys:
            title = known[key].title
            child = stack.enter_context(Child(title, serve, key, case, settings, log=case.folder / "log"))
            try:
                loaded[key] = child.ask("load")
                running[key] = child
            except PeerError as error:
                notes[f"{case.title}: {error}."] = None
        quiet = _rounds(case, running, wanted.seconds, notes)
        beside: dict[str, list[float]] = {}
        if wanted.busy:
            with busy():
                beside = _rounds(case, running, wanted.seconds, notes)
        rows = {}
        for key, times in quiet.items():
            rows[known[key].title] = Row(
                statistics.median(times),
                min(times),
                relative_error(loaded[key].results, truth),
                loaded[key].first,
                running[key].ask("memory"),
                statistics.median(beside[key]) if key in beside else None,
            )
        steps = tuple(running[OURS].ask("steps")) if wanted.steps and OURS in quiet else ()
    first = _first(case, settings, notes) if OURS in quiet and not wanted.training else None
    return Measured(case.title, case.image, case.batch, rows, first, steps, wanted.training)


def _with_files(case: Case, peers: Sequence[str], notes: dict[str, None]) -> list[str]:
    """Those of the peers whose file can be had, after it has been written."""
    able = []
    with Child("the conversion", writer, log=case.folder / "log") as conversion:
        for key in peers:
            form = INFERENCE[key].form
            if case.is_file and form not in ("onnx", "mnn"):
                notes[f"{case.title}: {INFERENCE[key].title} does not read ONNX files."] = None
                continue
            try:
                if form == "mnn" and not case.is_file:
                    conversion.ask((case, "onnx"))
                if form and path_of(case, form) != Path(case.name):
                    conversion.ask((case, form))
                able.append(key)
            except PeerError as error:
                notes[f"{case.title}, for {INFERENCE[key].title}: {error}."] = None
    return able


def _rounds(case: Case, running: dict[str, Child], seconds: float, notes: dict[str, None]) -> dict[str, list[float]]:
    """The seconds of each one's calls, by turns. One that fails is taken out, and the others begin again."""
    failed: list[str] = []

    def one(key: str) -> list[float]:
        try:
            times: list[float] = running[key].ask("burst")
        except PeerError as error:
            notes[f"{case.title}: {error}."] = None
            failed.append(key)
            raise
        return times

    while running:
        bursts: list[Burst] = [partial(one, key) for key in running]
        try:
            return dict(zip(running, rounds(bursts, seconds), strict=True))
        except PeerError:
            del running[failed[-1]]
    return {}


def _first(case: Case, settings: Settings, notes: dict[str, None]) -> First | None:
    """Two new processes, the second of which finds on disk what the first has compiled."""
    cache = {"CONVFORGE_CACHE": str(case.folder / "cache")}
    found: list[Loaded] = []
    try:
        for _ in range(2):
            with Child(OURS, serve, OURS, case, settings, False, environment=cache, log=case.folder / "log") as child:
                found.append(child.ask("load"))
    except PeerError as error:
        notes[f"{case.title}, from nothing: {error}."] = None
        return None
    cold, warm = found
    return First(cold.first, cold.capture, warm.first, warm.capture)


def _truth(case: Case, of_training: bool = False) -> Truth:
    """The outputs in float64, torch's own or what a file's graph means; or the gradients."""
    images = case.images()
    if of_training:
        return training.truth(case)
    if case.is_file:
        from ...graph.onnx import read

        graph = read(case.name).with_input(case.shape)
        return list(graph.compute(**dict.fromkeys(graph.inputs, images)))
    from torch.utils._pytree import tree_leaves

    module = copy.deepcopy(case.module()).double()
    try:
        with torch.inference_mode():
            outputs = tree_leaves(module(torch.from_numpy(images).double()))
    except Exception as error:  # whatever a module raises for images that it cannot take
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        size = "×".join(map(str, case.image))
        raise UserError(f"{case.title} cannot be computed for images of {size}: {reason}") from error
    return [y.numpy() for y in outputs]


def relative_error(results: Results, truth: Truth) -> float:
    """‖result − truth‖ / ‖truth‖ over all outputs; infinite where they have not the same number of values.

    >>> relative_error([np.array([3.0, 4.5], np.float32)], [np.array([3.0, 4.0])])
    0.1
    >>> relative_error([np.array([3.0], np.float32)], [np.array([3.0, 4.0])])
    inf
    """
    if [y.size for y in results] != [y.size for y in truth]:
        return float("inf")
    ours, right = (np.concatenate([np.ravel(y) for y in ys]).astype(np.float64) for ys in (results, truth))
    return float(np.linalg.norm(ours - right) / np.linalg.norm(right))


def _versions(peers: Sequence[str], training: bool) -> dict[str, str]:
    used = [contenders(training)[key].packages[-1:] for key in peers]
    packages = dict.fromkeys(["torch", "llvmlite", *(package for packages in used for package in packages)])
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package.replace("_", "-"))
        except PackageNotFoundError:
            found[package] = "?"
    return found
