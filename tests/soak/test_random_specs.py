"""Convolutions of any shape, layout and type against float64: as the engine computes them, and by every algorithm."""

from __future__ import annotations

import random
from dataclasses import replace

from oracle import check, check_each, some_case

from convforge.engine.algorithms import ALGORITHMS

from .conftest import Soak
from .draws import CORNERS, cases


def test_random_specs(soak: Soak) -> None:
    count, seed = soak.length(50, 3000), soak.length(1, random.randrange(10**9))
    soak.figure("seed", seed)
    for n in range(count):
        choose = random.Random(f"{seed} {n}")
        case = some_case(lambda options: choose.choice(list(options)))  # noqa: B023
        with soak.case(f"seed {seed}, number {n}"):
            check(case)


def test_random_specs_by_every_algorithm(soak: Soak) -> None:
    count, seed = soak.length(len(CORNERS), 500), random.randrange(10**9)
    soak.figure("seed", seed)
    applied = set[str]()
    for n, case in enumerate(cases(count, seed)):
        for row in ALGORITHMS:
            with soak.case(f"seed {seed}, number {n}, {row.name}"):
                applied |= check_each(replace(case, exact=row.exact), row.name)
    assert applied == {row.name for row in ALGORITHMS}
