"""One pass to be done, and how: a `Job`, and the `Plan` or the `Refusal` that an algorithm answers with.

An algorithm decides once, in its function `plan(job)`. What it decided is one value, off which everything else is read:
what it costs by the model of the machine, the loops that `explain` shows, and the steps that run. So the three cannot
disagree. Planning a job compiles nothing; `Plan.prepared` does.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from ..native import target as targets
from ..native.program import Place
from ..native.target import DTYPE_BYTES, Target
from ..spec import ceil_div
from .geometry import Problem, Sliding
from .kernels.epilogue import NOTHING, Epilogue
from .nest import Nest
from .prepared import Prepared, worth


class Pass(StrEnum):
    """The three passes of a convolution."""

    FORWARD = "forward"
    INPUT_GRADIENT = "input gradient"
    WEIGHT_GRADIENT = "weight gradient"

    def slidings(self, problem: Problem, finish: Epilogue = NOTHING) -> list[Sliding]:
        """The pass as kernels that slide over images; the weight gradient has the forward pass's geometry, without
        what sees nothing but padding and adds nothing to it. A bias is a number of each channel of the result, so
        phases that touch are joined only where there is none."""
        backward = self is Pass.INPUT_GRADIENT
        every = list(problem.input_gradient(not finish.bias) if backward else problem.forward().pieces())
        if self is Pass.WEIGHT_GRADIENT:
            every = [s for s in every if not s.blank] or every[:1]
        return [s.simplified() for s in every]

    @property
    def roles(self) -> tuple[str, str, str]:
        """The buffers that a sliding reads, multiplies by, and writes."""
        return ("y", "w", "x") if self is Pass.INPUT_GRADIENT else ("x", "w", "y")


@dataclass(frozen=True)
class Job:
    """A pass to be done: on which tensors, on which CPU, by how many threads.

    `kept` says that the caller keeps the weights' packed form between calls, so that a larger one costs less; `finish`,
    what is done to the sums before they are stored; `cold`, that the weights come from memory, as they do in a network,
    where other layers were computed since; `spare`, which activation the code may have that is not applied here, so
    that layers without one run the same code as their neighbours.
    """

    problem: Problem
    which: Pass
    target: Target
    threads: int
    kept: bool = False
    finish: Epilogue = NOTHING
    cold: bool = False
    spare: str = ""

    @classmethod
    def of(
        cls,
        problem: Problem,
        which: Pass,
        threads: int,
        kept: bool = False,
        finish: Epilogue = NOTHING,
        target: Target | None = None,
        cold: bool = False,
        spare: str = "",
    ) -> Job:
        """With no more threads than there is work for; on this CPU, or for another `target`."""
        macs = sum(s.macs for s in which.slidings(problem))
        return cls(problem, which, target or targets.current(), worth(threads, macs), kept, finish, cold, spare)

    @cached_property
    def slidings(self) -> tuple[Sliding, ...]:
        """The pass as kernels that slide over images."""
        return tuple(self.which.slidings(self.problem, self.finish))

    @property
    def backward(self) -> bool:
        """Whether it is the input gradient."""
        return self.which is Pass.INPUT_GRADIENT

    @property
    def for_weights(self) -> bool:
        """Whether it is the weight gradient."""
        return self.which is Pass.WEIGHT_GRADIENT

    def numbers(self, s: Sliding) -> dict[str, int]:
        """What kernels are told of one of its slidings."""
        return s.numbers | {"bias_step": int(self.finish.bias), "residual": 0}

    def places(self, s: Sliding, exchanged: bool = False) -> dict[str, Place]:
        """Where the tensors of one of its slidings begin, by the names of the kernels' arguments; of an `exchanged`
        one (`Sliding.exchanged`), whose x is the result and whose y is the source."""
        source, weights, result = self.which.roles
        if exchanged:
            source, result = result, source
        places = {
            "x": (source, s.x_start * self.size),
            "w": (weights, s.w_start * self.size),
            "y": (result, s.y_start * self.size),
            "bias": ("bias" if self.finish.bias else "zeros", 0),
            "zeros": ("zeros", 0),
        }
        return places | ({"residual": ("residual", s.y_start * self.size)} if self.finish.residual else {})

    @property
    def dtype(self) -> str:
        return self.problem.dtype

    @property
    def size(self) -> int:
        """Bytes of a number."""
        return DTYPE_BYTES[self.dtype]

    @property
    def lanes(self) -> int:
        """Numbers in a vector."""
        return self.target.lanes(self.dtype)

    @property
    def panel(self) -> int:
        """Output channels of a register tile."""
        return self.target.panel(self.dtype)

    def tile_vectors(self, outputs: int) -> int:
        """Vectors of the largest register tile for so many output channels."""
        return min(ceil_div(outputs, self.lanes), self.target.tile_vectors)


PRODUCTS_A_SUM = 512
"""The longest chain of float32 additions. Each rounding is relative to the sum so far, so a chain of n has an error of
about √(n/2)·2.4e-8: 3.8e-7 here (see `direct.py`)."""


class Refusal(str):
    """Why an algorithm does not do a job: the end of a sentence that begins with its name."""


@dataclass(frozen=True)
class Plan(ABC):
    """How an algorithm does a job."""

    job: Job
    cycles: float
    """What it takes by the model: of one core, while the job's other threads work, too."""

    @property
    @abstractmethod
    def nest(self) -> Nest:
        """Its loops and tiles."""

    @abstractmethod
    def prepared(self, name: str) -> Prepared:
        """Its steps, with the kernels compiled; `name` is the algorithm's."""


@dataclass(frozen=True, slots=True)
class Algorithm:
    """A way to do jobs."""

    name: str
    plan: Callable[[Job], Plan | Refusal]
    reason: str
    """Why it is the one to take, where it is."""
    exact: bool = True
    """Whether it multiplies each input by each weight that it meets."""
    bits: str = ""
    """Under this name are the algorithms whose forward passes give the same bits, for any batch and number of threads;
    one of them is for every memory format. "" where there is none in some formats."""
