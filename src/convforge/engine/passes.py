"""The three passes of a convolution, prepared and kept, so that a call only fills in addresses."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache

from .algorithms.direct import clear_weights
from .geometry import Problem
from .kernels.epilogue import Epilogue
from .plan import Job, Pass
from .program import Prepared
from .select import choose
from .target import Target, current


def prepare_forward(
    problem: Problem,
    threads: int,
    bias: bool,
    exact: bool = False,
    algorithm: str = "",
    kept: bool = False,
    activation: str = "",
    residual: bool = False,
    target: Target | None = None,
) -> Prepared:
    """y = activation(x ⋆ w + bias + residual): `bias`, where there is one, is a number an output channel; `residual`
    has y's shape and lies in memory as y does; it may be y itself.

    `exact` leaves out algorithms that rearrange the products; `algorithm` asks for one by its name; `kept` says that
    the caller keeps the packed weights; `target` is this CPU where none is given.
    """
    finish = Epilogue(bias, activation, residual)
    return _prepared(problem, Pass.FORWARD, threads, kept, finish, target or current(), exact, algorithm)


def prepare_input_gradient(
    problem: Problem,
    threads: int,
    exact: bool = False,
    algorithm: str = "",
    kept: bool = False,
    target: Target | None = None,
) -> Prepared:
    """x's gradient, into `x`, from y's gradient, in `y`, and w."""
    return _prepared(problem, Pass.INPUT_GRADIENT, threads, kept, Epilogue(), target or current(), exact, algorithm)


def prepare_weight_gradient(
    problem: Problem, threads: int, exact: bool = False, algorithm: str = "", target: Target | None = None
) -> Prepared:
    """w's gradient, into `w`, from x and y's gradient, in `y`."""
    return _prepared(problem, Pass.WEIGHT_GRADIENT, threads, False, Epilogue(), target or current(), exact, algorithm)


@lru_cache(maxsize=3 * 4096)
def _prepared(
    problem: Problem,
    which: Pass,
    threads: int,
    kept: bool,
    finish: Epilogue,
    target: Target,
    exact: bool,
    algorithm: str,
) -> Prepared:
    job = Job.of(problem, which, threads, kept, finish, target)
    choice = choose(job, exact, algorithm)
    prepared = choice.plan.prepared(choice.algorithm.name)
    if kept:
        # The same steps whether packed weights are at hand already or not: the first call has to give the bits that the
        # later ones give, and threads that pack for themselves may add up in another order.
        return replace(prepared, unpacked=None)
    if which is Pass.WEIGHT_GRADIENT:
        met = sum(s.vertical.kernel * s.horizontal.kernel for s in job.slidings if not s.blank)
        if met < math.prod(problem.w_shape[2:]):  # taps that are nowhere inside the image: no one writes there
            return replace(prepared, compute=prepared.compute.preceded_by((clear_weights(job),)))
    return prepared
