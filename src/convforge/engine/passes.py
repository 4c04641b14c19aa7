"""The three passes of a convolution: which algorithm, prepared and kept, so that a call only fills in addresses."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from .algorithms import direct
from .geometry import Problem
from .kernels.epilogue import Epilogue
from .prepared import Prepared
from .select import Pass, choose


@lru_cache(maxsize=4096)
def prepare_forward(
    problem: Problem,
    threads: int,
    bias: bool,
    exact: bool = False,
    algorithm: str = "",
    kept: bool = False,
    activation: str = "",
    residual: bool = False,
) -> Prepared:
    """y = activation(x ⋆ w + bias + residual): `bias`, where there is one, is a number an output channel; `residual`
    has y's shape and lies in memory as y does; it may be y itself.

    `exact` leaves out algorithms that rearrange the products; `algorithm` asks for one by its name; `kept` says that
    the caller keeps the packed weights.
    """
    epilogue = Epilogue(bias, activation, residual)
    row = choose(problem, Pass.FORWARD, threads, exact, algorithm, kept, epilogue.fused).algorithm
    return _steady(row.slide(row.name, problem, Pass.FORWARD, threads, epilogue), kept)


@lru_cache(maxsize=4096)
def prepare_input_gradient(
    problem: Problem, threads: int, exact: bool = False, algorithm: str = "", kept: bool = False
) -> Prepared:
    """x's gradient, into `x`, from y's gradient, in `y`, and w."""
    row = choose(problem, Pass.INPUT_GRADIENT, threads, exact, algorithm, kept).algorithm
    return _steady(row.slide(row.name, problem, Pass.INPUT_GRADIENT, threads, Epilogue()), kept)


@lru_cache(maxsize=4096)
def prepare_weight_gradient(problem: Problem, threads: int, exact: bool = False, algorithm: str = "") -> Prepared:
    """w's gradient, into `w`, from x and y's gradient, in `y`."""
    row = choose(problem, Pass.WEIGHT_GRADIENT, threads, exact, algorithm).algorithm
    prepared = row.correlate(row.name, problem, threads)
    slidings = Pass.WEIGHT_GRADIENT.slidings(problem)
    met = sum(s.vertical.kernel * s.horizontal.kernel for s in slidings if not s.blank)
    if met < problem.w_shape[2] * problem.w_shape[3]:  # taps that are nowhere inside the image: no one writes there
        prepared = replace(prepared, compute=prepared.compute.after((direct.clear_weights_step(problem),)))
    return prepared


def _steady(prepared: Prepared, kept: bool) -> Prepared:
    """For callers that keep the packed weights, the same steps whether they are at hand already or not: `alone` may add
    up in another order, and the first call has to give the bits that the later ones give."""
    return replace(prepared, alone=None) if kept else prepared
