"""The three passes of a convolution, prepared and kept, so that a call only fills in addresses."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache

from ..native.target import Target, current
from .algorithms.direct import clear_weights
from .geometry import Problem
from .kernels.epilogue import NOTHING, Epilogue
from .plan import Job, Pass
from .prepared import Prepared
from .select import choose


def prepare(
    problem: Problem,
    which: Pass,
    threads: int,
    exact: bool = False,
    algorithm: str = "",
    kept: bool = False,
    finish: Epilogue = NOTHING,
    target: Target | None = None,
    cold: bool = False,
    spare: str = "",
) -> Prepared:
    """y = activation(x ⋆ w + bias + residual), where `finish` says which of these there are; x's gradient, into `x`,
    from y's gradient, in `y`, and w; or w's gradient, into `w`, from x and y's gradient, in `y`.

    The bias is a number a channel of what is written: x's gradient may have one, and an activation, too, for it is what
    a transposed convolution computes. The residual has y's shape and lies in memory as y does; it may be y itself.
    `exact` leaves out algorithms that rearrange the products; `algorithm` asks for one by its name; `kept` says that
    the caller keeps the packed weights; `cold`, that they come from memory; `target` is this CPU where none is given.
    Code with the activation `spare` may be taken where there is to be none.
    """
    kept = kept and which is not Pass.WEIGHT_GRADIENT
    return _prepared(problem, which, threads, exact, algorithm, kept, finish, target or current(), cold, spare)


@lru_cache(maxsize=3 * 4096)
def _prepared(
    problem: Problem,
    which: Pass,
    threads: int,
    exact: bool,
    algorithm: str,
    kept: bool,
    finish: Epilogue,
    target: Target,
    cold: bool,
    spare: str,
) -> Prepared:
    job = Job.of(problem, which, threads, kept, finish, target, cold, spare)
    choice = choose(job, exact, algorithm)
    prepared = replace(choice.plan.prepared(choice.algorithm.name), cycles=choice.plan.cycles)
    if kept:
        # The same steps whether packed weights are at hand already or not: the first call has to give the bits that the
        # later ones give, and threads that pack for themselves may add up in another order.
        return replace(prepared, unpacked=None)
    if which is Pass.WEIGHT_GRADIENT:
        met = sum(s.vertical.kernel * s.horizontal.kernel for s in job.slidings if not s.blank)
        if met < math.prod(problem.w_shape[2:]):  # taps that are nowhere inside the image: no one writes there
            return replace(prepared, compute=prepared.compute.preceded_by((clear_weights(job),)))
    return prepared
