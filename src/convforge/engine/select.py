"""Which algorithm computes which convolution, and why.

Each row of the table says when an algorithm applies, what it costs by a model of the machine, and the reason in words.
Of those that apply, the cheapest is taken.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from ..errors import UserError
from . import target as targets
from . import tuned
from .algorithms import (
    depthwise,
    direct,
    direct_weight_gradient,
    grouped,
    planar,
    winograd,
    winograd_weight_gradient,
)
from .describe import Description
from .geometry import Problem, Sliding
from .kernels.epilogue import Epilogue
from .prepared import Prepared, worth


class Pass(StrEnum):
    """The three passes of a convolution."""

    FORWARD = "forward"
    INPUT_GRADIENT = "input gradient"
    WEIGHT_GRADIENT = "weight gradient"

    def slidings(self, problem: Problem) -> list[Sliding]:
        """The pass as kernels that slide over images; the weight gradient has the forward pass's geometry, without
        what sees nothing but padding and adds nothing to it."""
        every = list(problem.input_gradient() if self is Pass.INPUT_GRADIENT else problem.forward().pieces())
        if self is Pass.WEIGHT_GRADIENT:
            every = [s for s in every if not s.blank] or every[:1]
        return [s.simplified() for s in every]

    @property
    def roles(self) -> tuple[str, str, str]:
        """The buffers that a sliding reads, multiplies by, and writes."""
        return ("y", "w", "x") if self is Pass.INPUT_GRADIENT else ("x", "w", "y")


@dataclass(frozen=True, slots=True)
class Algorithm:
    """One row: `slide` prepares the forward pass and the input gradient, `correlate` the weight gradient."""

    name: str
    exact: bool
    """Whether it multiplies each input by each weight that it meets."""
    applies: Callable[[Problem, Pass], bool]
    cycles: Callable[[Problem, Pass, int, bool], float]
    """What it takes on so many threads, by the model; the last argument says whether packed weights are kept."""
    slide: Callable[[str, Problem, Pass, int, Epilogue], Prepared]
    correlate: Callable[[str, Problem, int], Prepared]
    reason: str
    fuses: bool = False
    """Whether `slide` applies an activation and adds a residual."""
    describe: Callable[[Problem, Pass, int], Description] | None = None
    """Its loops and tiles for a pass on so many threads, for `convforge explain`."""


@dataclass(frozen=True, slots=True)
class Choice:
    """An algorithm for one pass, with what the model expects of it."""

    algorithm: Algorithm
    cycles: float

    @property
    def reason(self) -> str:
        return self.algorithm.reason


def _slide_direct(name: str, problem: Problem, which: Pass, threads: int, epilogue: Epilogue) -> Prepared:
    return direct.prepare(name, which.slidings(problem), problem.dtype, threads, which.roles, epilogue)


def _correlate_direct(name: str, problem: Problem, threads: int) -> Prepared:
    return direct_weight_gradient.prepare(name, Pass.WEIGHT_GRADIENT.slidings(problem), problem.dtype, threads)


def _cycles_direct(problem: Problem, which: Pass, threads: int, kept: bool) -> float:
    slidings = which.slidings(problem)
    if which is Pass.WEIGHT_GRADIENT:
        return sum(direct_weight_gradient.cycles(s, problem.dtype, threads) for s in slidings)
    return direct.cycles(slidings, problem.dtype, threads, kept)


def _slide_depthwise(name: str, problem: Problem, which: Pass, threads: int, epilogue: Epilogue) -> Prepared:
    slidings = [depthwise.by_panels(s, _panel(problem)) for s in which.slidings(problem)]
    return direct.prepare(name, slidings, problem.dtype, threads, which.roles, epilogue)


def _correlate_depthwise(name: str, problem: Problem, threads: int) -> Prepared:
    slidings = [depthwise.by_panels(s, _panel(problem)) for s in Pass.WEIGHT_GRADIENT.slidings(problem)]
    return direct_weight_gradient.prepare(name, slidings, problem.dtype, threads)


def _describe_direct(problem: Problem, which: Pass, threads: int) -> Description:
    return _describe(which.slidings(problem), problem, which, threads)


def _describe_depthwise(problem: Problem, which: Pass, threads: int) -> Description:
    slidings = [depthwise.by_panels(s, _panel(problem)) for s in which.slidings(problem)]
    return _describe(slidings, problem, which, threads)


def _describe(slidings: list[Sliding], problem: Problem, which: Pass, threads: int) -> Description:
    if which is Pass.WEIGHT_GRADIENT:
        return direct_weight_gradient.describe(slidings, problem.dtype, threads)
    return direct.describe(slidings, problem.dtype, threads)


def _phased(problem: Problem, which: Pass) -> planar.Phased | None:
    return {Pass.FORWARD: planar.forward, Pass.INPUT_GRADIENT: planar.input_gradient}[which](problem)


def _applies_planar(problem: Problem, which: Pass) -> bool:
    return which is not Pass.WEIGHT_GRADIENT and _phased(problem, which) is not None


def _cycles_planar(problem: Problem, which: Pass, threads: int, kept: bool) -> float:
    phased = _phased(problem, which)
    assert phased is not None
    return planar.cycles(phased, problem.dtype, threads, kept)


def _slide_planar(name: str, problem: Problem, which: Pass, threads: int, epilogue: Epilogue) -> Prepared:
    phased = _phased(problem, which)
    assert phased is not None
    return planar.prepare(name, phased, problem.dtype, threads, which.roles, epilogue.bias)


def _describe_planar(problem: Problem, which: Pass, threads: int) -> Description:
    if which is Pass.WEIGHT_GRADIENT:
        return _describe_direct(problem, which, threads)
    phased = _phased(problem, which)
    assert phased is not None
    return planar.describe(phased, problem.dtype, threads)


def _describe_grouped(problem: Problem, which: Pass, threads: int) -> Description:
    if which is Pass.WEIGHT_GRADIENT:
        return grouped.describe_weight_gradient(problem, threads)
    return grouped.describe(problem, which is Pass.INPUT_GRADIENT, threads)


def _slide_grouped(name: str, problem: Problem, which: Pass, threads: int, epilogue: Epilogue) -> Prepared:
    return grouped.prepare(name, problem, which is Pass.INPUT_GRADIENT, threads, epilogue.bias)


def _cycles_grouped(problem: Problem, which: Pass, threads: int, kept: bool) -> float:
    if which is Pass.WEIGHT_GRADIENT:
        return grouped.cycles_of_weight_gradient(problem, threads)
    return grouped.cycles(problem, which is Pass.INPUT_GRADIENT, threads, kept)


def _cycles_depthwise(problem: Problem, which: Pass, threads: int, kept: bool) -> float:
    slidings = which.slidings(problem)
    if which is Pass.WEIGHT_GRADIENT:
        return sum(depthwise.cycles_of_weight_gradient(s, problem, threads) for s in slidings)
    return depthwise.cycles(slidings, problem, threads, kept)


def _panel(problem: Problem) -> int:
    target = targets.current()
    return target.lanes(problem.dtype) * target.tile_vectors


def _winograd(outputs: int, taps: int) -> Algorithm:
    shape = winograd.Shape(outputs, taps)

    def slide(name: str, problem: Problem, which: Pass, threads: int, epilogue: Epilogue) -> Prepared:
        (s,) = which.slidings(problem)
        return winograd.prepare(name, s, shape, problem.dtype, threads, which.roles, epilogue)

    def correlate(name: str, problem: Problem, threads: int) -> Prepared:
        (s,) = Pass.WEIGHT_GRADIENT.slidings(problem)
        return winograd_weight_gradient.prepare(name, s, shape, problem.dtype, threads)

    def cycles(problem: Problem, which: Pass, threads: int, kept: bool) -> float:
        (s,) = which.slidings(problem)
        if which is Pass.WEIGHT_GRADIENT:
            return winograd_weight_gradient.cycles(s, shape, problem.dtype, threads)
        return winograd.cycles(s, shape, problem.dtype, threads, kept)

    def applies(problem: Problem, which: Pass) -> bool:
        if problem.groups > 1 and problem.w_shape[1] == 1:
            return False
        slidings = which.slidings(problem)
        return len(slidings) == 1 and winograd.applies(slidings[0], shape)

    def describe(problem: Problem, which: Pass, threads: int) -> Description:
        (s,) = which.slidings(problem)
        if which is Pass.WEIGHT_GRADIENT:
            return winograd_weight_gradient.describe(s, shape, problem.dtype, threads)
        return winograd.describe(s, shape, problem.dtype, threads, which is Pass.FORWARD)

    return Algorithm(
        shape.name,
        False,
        applies,
        cycles,
        slide,
        correlate,
        f"tiles of {outputs}×{outputs} outputs need {shape.products} products instead of {(outputs * taps) ** 2}",
        fuses=True,
        describe=describe,
    )


def _is_depthwise(problem: Problem, which: Pass) -> bool:
    return depthwise.applies(problem.groups, problem.w_shape[1], problem.w_shape[0] // problem.groups)


ALGORITHMS = (
    _winograd(4, 3),
    _winograd(2, 3),
    _winograd(2, 5),
    Algorithm(
        "depthwise",
        True,
        lambda problem, which: _is_depthwise(problem, which) and grouped.fits(problem),
        _cycles_grouped,
        _slide_grouped,
        grouped.prepare_weight_gradient,
        "every channel has a kernel of its own, so vectors run along channels, which are read where they lie",
        describe=_describe_grouped,
    ),
    Algorithm(
        "depthwise packed",
        True,
        _is_depthwise,
        _cycles_depthwise,
        _slide_depthwise,
        _correlate_depthwise,
        "every channel has a kernel of its own, so vectors run along channels, which are brought side by side first",
        fuses=True,
        describe=_describe_depthwise,
    ),
    Algorithm(
        "grouped",
        True,
        lambda problem, which: grouped.applies(problem, which is Pass.INPUT_GRADIENT, which is Pass.WEIGHT_GRADIENT),
        _cycles_grouped,
        _slide_grouped,
        grouped.prepare_weight_gradient,
        "a group has so few channels that a vector takes in several groups",
        describe=_describe_grouped,
    ),
    Algorithm(
        "planar",
        True,
        _applies_planar,
        _cycles_planar,
        _slide_planar,
        _correlate_direct,
        "few output channels: vectors run along the pixels of a row instead, so that every lane has work",
        describe=_describe_planar,
    ),
    Algorithm(
        "direct",
        True,
        lambda problem, which: True,
        _cycles_direct,
        _slide_direct,
        _correlate_direct,
        "it multiplies each input by each weight that it meets",
        fuses=True,
        describe=_describe_direct,
    ),
)


def considered(
    problem: Problem, which: Pass, threads: int, exact: bool = False, kept: bool = False, fused: bool = False
) -> list[Choice]:
    """Every algorithm that may be taken, the best first.

    Those that rearrange the products are for float32 only: who computes in float64 wants its digits. `kept` says that
    the weights' packed form is kept between calls, so that a larger one costs less; `fused`, that there is an
    activation or a residual.
    """
    rows = [a for a in _applying(problem, which, fused) if a.exact or (problem.dtype == "float32" and not exact)]
    return _sorted(rows, problem, which, threads, kept)


def choose(
    problem: Problem,
    which: Pass,
    threads: int,
    exact: bool = False,
    algorithm: str = "",
    kept: bool = False,
    fused: bool = False,
) -> Choice:
    """The best of them: the one that was measured to be, if that was done (`tuned.py`), else by the model; or
    `algorithm`, the one that is asked for by name.

    Raises `UserError` where that one does not apply.
    """
    if not algorithm:
        choices = considered(problem, which, threads, exact, kept, fused)
        measured = tuned.chosen(problem, which.value, threads, kept) if len(choices) > 1 else None
        return next((choice for choice in choices if choice.algorithm.name == measured), choices[0])
    rows = [a for a in _applying(problem, which, fused) if a.exact or not exact]
    for choice in _sorted(rows, problem, which, threads, kept):
        if choice.algorithm.name == algorithm:
            return choice
    names = ", ".join(a.name for a in rows)
    raise UserError(f"{algorithm!r} does not apply to the {which} of this convolution; these do: {names}.")


_CYCLES_A_CALL = 15_000.0
"""Whatever the algorithm: a call from Python, waking the threads and waiting for the last of them (4 µs)."""


def _applying(problem: Problem, which: Pass, fused: bool) -> list[Algorithm]:
    return [a for a in ALGORITHMS if (a.fuses or not fused) and a.applies(problem, which)]


def _sorted(rows: list[Algorithm], problem: Problem, which: Pass, threads: int, kept: bool) -> list[Choice]:
    threads = worth(threads, sum(s.macs for s in which.slidings(problem)))
    choices = [Choice(a, _CYCLES_A_CALL + a.cycles(problem, which, threads, kept)) for a in rows]
    return sorted(choices, key=lambda choice: choice.cycles)
