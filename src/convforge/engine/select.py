"""Which algorithm computes which convolution, and why.

Each row of the table says when an algorithm applies, what it costs by a model of the machine, and the reason in words.
Of those that apply, the cheapest is taken.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from ..errors import UserError
from . import depthwise, direct, direct_weight_gradient, winograd, winograd_weight_gradient
from . import target as targets
from .geometry import Problem, Sliding
from .prepared import Prepared


class Pass(StrEnum):
    """The three passes of a convolution."""

    FORWARD = "forward"
    INPUT_GRADIENT = "input gradient"
    WEIGHT_GRADIENT = "weight gradient"

    def slidings(self, problem: Problem) -> list[Sliding]:
        """The pass as kernels that slide over images; the weight gradient has the forward pass's geometry."""
        every = problem.input_gradient() if self is Pass.INPUT_GRADIENT else [problem.forward()]
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
    cycles: Callable[[Problem, Pass, int], float]
    """What it takes on so many threads, by the model."""
    slide: Callable[[str, Problem, Pass, int, bool], Prepared]
    correlate: Callable[[str, Problem, int], Prepared]
    reason: str


@dataclass(frozen=True, slots=True)
class Choice:
    """An algorithm for one pass, with what the model expects of it."""

    algorithm: Algorithm
    cycles: float

    @property
    def reason(self) -> str:
        return self.algorithm.reason


def _slide_direct(name: str, problem: Problem, which: Pass, threads: int, bias: bool) -> Prepared:
    return direct.prepare(name, which.slidings(problem), problem.dtype, threads, which.roles, bias)


def _correlate_direct(name: str, problem: Problem, threads: int) -> Prepared:
    (s,) = Pass.WEIGHT_GRADIENT.slidings(problem)
    return direct_weight_gradient.prepare(name, s, problem.dtype, threads)


def _slide_depthwise(name: str, problem: Problem, which: Pass, threads: int, bias: bool) -> Prepared:
    slidings = [depthwise.by_panels(s, _panel(problem)) for s in which.slidings(problem)]
    return direct.prepare(name, slidings, problem.dtype, threads, which.roles, bias)


def _correlate_depthwise(name: str, problem: Problem, threads: int) -> Prepared:
    (s,) = Pass.WEIGHT_GRADIENT.slidings(problem)
    return direct_weight_gradient.prepare(name, depthwise.by_panels(s, _panel(problem)), problem.dtype, threads)


def _panel(problem: Problem) -> int:
    target = targets.current()
    return target.lanes(problem.dtype) * target.tile_vectors


def _winograd(outputs: int) -> Algorithm:
    shape = winograd.Shape(outputs, 3)

    def slide(name: str, problem: Problem, which: Pass, threads: int, bias: bool) -> Prepared:
        (s,) = which.slidings(problem)
        return winograd.prepare(name, s, shape, problem.dtype, threads, which.roles, bias)

    def correlate(name: str, problem: Problem, threads: int) -> Prepared:
        (s,) = Pass.WEIGHT_GRADIENT.slidings(problem)
        return winograd_weight_gradient.prepare(name, s, shape, problem.dtype, threads)

    def applies(problem: Problem, which: Pass) -> bool:
        if problem.groups > 1 and problem.w_shape[1] == 1:
            return False
        slidings = which.slidings(problem)
        return len(slidings) == 1 and winograd.applies(slidings[0], shape)

    return Algorithm(
        shape.name,
        False,
        applies,
        lambda problem, which, threads: 1e18,
        slide,
        correlate,
        f"tiles of {outputs}×{outputs} outputs need {shape.products} products instead of {9 * outputs**2}",
    )


def _is_depthwise(problem: Problem, which: Pass) -> bool:
    return depthwise.applies(problem.groups, problem.w_shape[1], problem.w_shape[0] // problem.groups)


ALGORITHMS = (
    _winograd(4),
    _winograd(2),
    Algorithm(
        "depthwise",
        True,
        _is_depthwise,
        lambda problem, which, threads: 0.0,  # nothing comes near it where it applies
        _slide_depthwise,
        _correlate_depthwise,
        "every channel has a kernel of its own, so vectors run along channels on both sides",
    ),
    Algorithm(
        "direct",
        True,
        lambda problem, which: True,
        lambda problem, which, threads: direct.cycles(which.slidings(problem), problem.dtype, threads),
        _slide_direct,
        _correlate_direct,
        "it multiplies each input by each weight that it meets",
    ),
)


def considered(problem: Problem, which: Pass, threads: int, exact: bool = False) -> list[Choice]:
    """Every algorithm that applies, the best first."""
    choices = [
        Choice(a, a.cycles(problem, which, threads))
        for a in ALGORITHMS
        if (a.exact or not exact) and a.applies(problem, which)
    ]
    return sorted(choices, key=lambda choice: choice.cycles)


def choose(problem: Problem, which: Pass, threads: int, exact: bool = False, algorithm: str = "") -> Choice:
    """The best of them, or the one that is asked for.

    Raises `UserError` where that one does not apply.
    """
    choices = considered(problem, which, threads, exact)
    if not algorithm:
        return choices[0]
    for choice in choices:
        if choice.algorithm.name == algorithm:
            return choice
    names = ", ".join(choice.algorithm.name for choice in choices)
    raise UserError(f"{algorithm!r} does not apply to the {which} of this convolution; these do: {names}.")
