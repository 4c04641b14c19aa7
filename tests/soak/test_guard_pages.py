"""No pass touches anything outside of the memory that it is given and lent, nor writes what is given to be read."""

from __future__ import annotations

import random
import sys

import pytest

from convforge.engine.algorithms import ALGORITHMS
from convforge.engine.plan import Pass
from convforge.native import target

from .apart import tried_apart
from .conftest import Soak
from .draws import CORNERS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="mprotect, and a signal that says what was touched")

PASSES = {f"{row.name}, {which}" for row in ALGORITHMS for which in Pass} - {"planar, weight gradient"}


@pytest.mark.parametrize(
    ("name", "openmp"), [*((name, "numpy") for name in target.available()), (target.available()[0], "torch")]
)
def test_nothing_beside_the_memory_is_touched(name: str, openmp: str, soak: Soak) -> None:
    """With torch the threads are its OpenMP's; without, a pool's."""
    count = soak.length(len(CORNERS) if openmp == "numpy" else 2, 150)
    seed = random.randrange(10**9)  # the first cases are the same with every seed
    soak.figure(f"seed of {name} with {openmp}", seed)
    said = tried_apart(soak, "-m", "soak.guarded", str(count), str(seed), openmp, CONVFORGE_TARGET=name)
    if count >= len(CORNERS):
        assert set(said[0]) == PASSES, "every algorithm in every pass that it has"
