"""Which algorithm computes which convolution: each is asked for a plan, and of the plans the cheapest is taken."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..errors import UserError
from ..native.target import USUAL
from . import tuned
from .algorithms import ALGORITHMS
from .plan import Algorithm, Job, Pass, Plan, Refusal

_ONE_FORMAT = Refusal("adds up in an order that it has in some memory formats only; exact results are the same in all")
_REARRANGES = Refusal("adds and multiplies in another order than the definition, which exact precision rules out")
_ONLY_FLOAT32 = Refusal("gives up last digits, and float64 is for those who want them")


@dataclass(frozen=True, slots=True)
class Choice:
    """An algorithm for one pass, and its plan."""

    algorithm: Algorithm
    plan: Plan

    @property
    def cycles(self) -> float:
        """What a call takes by the model."""
        return self.plan.job.target.costs.call + self.plan.cycles


@dataclass(frozen=True, slots=True)
class Choices:
    """What all algorithms answered: the `choices`, the one to take first, and by name why others were `refused`."""

    choices: tuple[Choice, ...]
    refused: dict[str, Refusal]


def considered(job: Job, exact: bool = False) -> Choices:
    """Every algorithm that may be taken, the model's choice first.

    Those that rearrange the products are for float32 only: who computes in float64 wants its digits. In the `exact`
    forward pass the choice depends on neither batch, threads, memory format, what is kept nor what was measured of the
    machine: it is that of one dense image on one thread. So an image's result has the same bits however it comes.
    """
    against = _REARRANGES if exact else _ONLY_FLOAT32 if job.dtype != "float32" else None
    answers = _asked(job, against, _promises_bits(job, exact))
    if not _promises_bits(job, exact) or len(answers.choices) < 2:
        return answers
    usual = replace(job.target, costs=USUAL)
    alone = replace(job, problem=job.problem.of_one_image(), target=usual, threads=1, kept=False)
    bits = _asked(alone, against, True).choices[0].algorithm.bits
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
        if _promises_bits(job, exact):
            choices = tuple(choice for choice in choices if choice.algorithm.bits == choices[0].algorithm.bits)
        measured = tuned.chosen(job) if len(choices) > 1 else None
        return next((choice for choice in choices if choice.algorithm.name == measured), choices[0])
    answers = _asked(job, _REARRANGES if exact else None, False)
    for choice in answers.choices:
        if choice.algorithm.name == algorithm:
            return choice
    names = ", ".join(choice.algorithm.name for choice in answers.choices)
    why = f": it {answers.refused[algorithm]}" if algorithm in answers.refused else ""
    raise UserError(f"{algorithm!r} does not apply to the {job.which} of this convolution{why}; these do: {names}.")


def _promises_bits(job: Job, exact: bool) -> bool:
    """Whether an image's result is to have the same bits however it comes."""
    return exact and job.which is Pass.FORWARD


def _asked(job: Job, against_rearranging: Refusal | None, same_bits: bool) -> Choices:
    """What the algorithms answer, the cheapest first. Those that rearrange products may be refused; and where the bits
    are to be the same in all memory formats, those that cannot have them."""
    choices, refused = [], {}
    for algorithm in ALGORITHMS:
        answer = algorithm.plan(job) if algorithm.exact or not against_rearranging else against_rearranging
        if same_bits and not algorithm.bits and not isinstance(answer, Refusal):
            answer = _ONE_FORMAT
        if isinstance(answer, Refusal):
            refused[algorithm.name] = answer
        else:
            choices.append(Choice(algorithm, answer))
    return Choices(tuple(sorted(choices, key=lambda choice: choice.cycles)), refused)
