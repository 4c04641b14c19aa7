"""Which algorithm computes which convolution: each is asked for a plan, and of the plans the cheapest is taken."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import UserError
from . import tuned
from .algorithms import ALGORITHMS
from .plan import ONLY_FLOAT32, REARRANGES, Algorithm, Job, Plan, Refusal

_CYCLES_A_CALL = 15_000.0
"""Whatever the algorithm: a call from Python, waking the threads and waiting for the last of them (4 µs)."""


@dataclass(frozen=True, slots=True)
class Choice:
    """An algorithm for one pass, and its plan."""

    algorithm: Algorithm
    plan: Plan

    @property
    def cycles(self) -> float:
        """What a call takes by the model."""
        return _CYCLES_A_CALL + self.plan.cycles


@dataclass(frozen=True, slots=True)
class Choices:
    """What all algorithms answered: the `choices`, the cheapest first, and why the others were `refused`, by name."""

    choices: tuple[Choice, ...]
    refused: dict[str, Refusal]


def considered(job: Job, exact: bool = False) -> Choices:
    """Every algorithm that may be taken.

    Those that rearrange the products are for float32 only: who computes in float64 wants its digits.
    """
    return _asked(job, REARRANGES if exact else None, ONLY_FLOAT32 if job.dtype != "float32" else None)


def choose(job: Job, exact: bool = False, algorithm: str = "") -> Choice:
    """The best of them: the one that was measured to be, if that was done (`tuned.py`), else by the model; or
    `algorithm`, the one that is asked for by name.

    Raises:
        UserError: where that one does not apply.
    """
    if not algorithm:
        choices = considered(job, exact).choices
        measured = tuned.chosen(job) if len(choices) > 1 else None
        return next((choice for choice in choices if choice.algorithm.name == measured), choices[0])
    answers = _asked(job, REARRANGES if exact else None)
    for choice in answers.choices:
        if choice.algorithm.name == algorithm:
            return choice
    names = ", ".join(choice.algorithm.name for choice in answers.choices)
    why = f": it {answers.refused[algorithm]}" if algorithm in answers.refused else ""
    raise UserError(f"{algorithm!r} does not apply to the {job.which} of this convolution{why}; these do: {names}.")


def _asked(job: Job, *against_rearranging: Refusal | None) -> Choices:
    """What the algorithms answer, where those that rearrange products are refused for any of these reasons."""
    choices, refused = [], {}
    reason = next(filter(None, against_rearranging), None)
    for algorithm in ALGORITHMS:
        answer = reason if reason and not algorithm.exact else algorithm.plan(job)
        if isinstance(answer, Refusal):
            refused[algorithm.name] = answer
        else:
            choices.append(Choice(algorithm, answer))
    return Choices(tuple(sorted(choices, key=lambda choice: choice.cycles)), refused)
