"""Which algorithm computes which convolution: each is asked for a plan, and of the plans the cheapest is taken."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..errors import UserError
from . import tuned
from .algorithms import ALGORITHMS
from .plan import ONE_FORMAT, ONLY_FLOAT32, REARRANGES, Algorithm, Job, Pass, Plan, Refusal

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
    """Every algorithm that may be taken, the model's choice first.

    Those that rearrange the products are for float32 only: who computes in float64 wants its digits. In the `exact`
    forward pass the choice depends on neither batch, threads, memory format nor what is kept: it is that of one dense
    image on one thread. So an image's result has the same bits however it comes.
    """
    against = ONLY_FLOAT32 if job.dtype != "float32" else None
    answers = _asked(job, REARRANGES if exact else against, exact)
    if not exact or job.which is not Pass.FORWARD or len(answers.choices) < 2:
        return answers
    alone = replace(job, problem=job.problem.of_one_image(), threads=1, kept=False)
    bits = _asked(alone, REARRANGES, exact).choices[0].algorithm.bits
    first = sorted(answers.choices, key=lambda choice: choice.algorithm.bits != bits)  # else in their order
    return Choices(tuple(first), answers.refused)


def choose(job: Job, exact: bool = False, algorithm: str = "") -> Choice:
    """The best of them: the one that was measured to be, if that was done (`tuned.py`), else by the model; or
    `algorithm`, the one that is asked for by name.

    Raises:
        UserError: where that one does not apply.
    """
    if not algorithm:
        choices = considered(job, exact).choices
        of_bits = [c for c in choices if not exact or c.algorithm.bits == choices[0].algorithm.bits]
        measured = tuned.chosen(job) if len(of_bits) > 1 else None
        return next((choice for choice in of_bits if choice.algorithm.name == measured), choices[0])
    answers = _asked(job, REARRANGES if exact else None)
    for choice in answers.choices:
        if choice.algorithm.name == algorithm:
            return choice
    names = ", ".join(choice.algorithm.name for choice in answers.choices)
    why = f": it {answers.refused[algorithm]}" if algorithm in answers.refused else ""
    raise UserError(f"{algorithm!r} does not apply to the {job.which} of this convolution{why}; these do: {names}.")


def _asked(job: Job, against_rearranging: Refusal | None, same_bits: bool = False) -> Choices:
    """What the algorithms answer, the cheapest first. Those that rearrange products may be refused; and where the bits
    are to be the same in all memory formats, those that cannot have them in the forward pass."""
    choices, refused = [], {}
    for algorithm in ALGORITHMS:
        answer = algorithm.plan(job) if algorithm.exact or not against_rearranging else against_rearranging
        if same_bits and job.which is Pass.FORWARD and not algorithm.bits and not isinstance(answer, Refusal):
            answer = ONE_FORMAT
        if isinstance(answer, Refusal):
            refused[algorithm.name] = answer
        else:
            choices.append(Choice(algorithm, answer))
    return Choices(tuple(sorted(choices, key=lambda choice: choice.cycles)), refused)
