"""Small integers, whose sums are exact in whatever order they are added: a result is right to the last bit or wrong.

A product that is lost, taken twice or taken from a neighbour changes such a sum by at least 1, however many there are;
against a bound on the relative error of a long sum it could hide. (The idea is benchdnn's.)
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from oracle import LAYOUTS, Case, Data, agree, applies, embed, written

from convforge import Conv2dSpec, engine
from convforge.engine.algorithms import ALGORITHMS
from convforge.engine.plan import Algorithm, Pass

from .conftest import Soak
from .draws import CORNERS, cases

Array = np.ndarray[Any, Any]

EXACT = 1 << 24
"""Up to here float32 has every integer."""


def integers(case: Case, seed: int) -> Data:
    """Numbers from -4 to 4, as many of them as there are sums to keep below 2²⁴."""
    random_data, drawn = Data.of(replace(case, batch=max(1, case.batch))), np.random.default_rng(seed)
    data = Data(
        case.spec,
        *(
            drawn.integers(-4, 5, array.shape).astype(case.dtype)
            for array in (random_data.x, random_data.w, random_data.bias, random_data.dy)
        ),
    )
    assert max(float(products.max()) for products in data.products.values()) < EXACT
    return data


def results(case: Case, data: Data, row: Algorithm) -> Iterator[tuple[str, Array]]:
    """What the algorithm makes of the integers, in each pass that it applies to, in poisoned memory."""
    spec, (x_layout, w_layout, y_layout) = case.spec, case.layouts
    x, w, dy = (
        embed(array, layout, np.nan)[1] for array, layout in zip((data.x, data.w, data.dy), case.layouts, strict=True)
    )
    problem = engine._problem(x, w, dy, spec)
    how: dict[str, Any] = {"threads": case.threads, "exact": row.exact, "algorithm": row.name}
    bias = data.bias if spec.bias else None

    def empty(like: Array) -> Array:
        return np.full(like.shape, np.nan, like.dtype)

    if applies(row, problem, Pass.FORWARD):
        yield "y", written(empty(dy), y_layout, lambda out: engine.conv2d(x, w, bias, spec, out=out, **how))
        more: dict[str, Any] = {"activation": "relu", **how}
        yield (
            "relu(y + residual)",
            written(data.dy, y_layout, lambda out: engine.conv2d(x, w, bias, spec, out, residual=out, **more)),
        )
    if applies(row, problem, Pass.INPUT_GRADIENT):
        yield (
            "dx",
            written(empty(x), x_layout, lambda out: engine.input_gradient(dy, w, case.size, spec, out=out, **how)),
        )
    if applies(row, problem, Pass.WEIGHT_GRADIENT):
        yield "dw", written(empty(w), w_layout, lambda out: engine.weight_gradient(x, dy, spec, out=out, **how))


def wanted(data: Data, name: str) -> Array:
    if name.startswith("relu"):
        return np.maximum(data.wanted["y"] + data.dy, 0)
    return data.wanted[name]


def compare(case: Case, seed: int, row: Algorithm) -> list[str]:
    """All passes of one algorithm; which there are."""
    data, names = integers(case, seed), []
    for name, got in results(case, data, row):
        names.append(name)
        if row.exact:
            wrong = got != wanted(data, name)
            assert not wrong.any(), f"{name}: {np.count_nonzero(wrong)} of {got.size} numbers, {np.argwhere(wrong)[0]}"
        elif name in data.wanted:
            agree(replace(case, exact=False, algorithm=row.name), data, name, got)
    return names


LONG_SUMS = (
    Case(Conv2dSpec(130, 20, 3, padding=1), (9, 11), threads=3),
    Case(Conv2dSpec(1200, 33, 1), (6, 7), batch=3),
    Case(Conv2dSpec(33, 33, 3, 2, padding=1, groups=33), (20, 21), layouts=("NHWC",) * 3),
    Case(Conv2dSpec(64, 64, 3, padding=1, groups=16), (20, 21), layouts=("NHWC",) * 3),
    Case(Conv2dSpec(3, 17, 7, 2, padding=3), (40, 44)),
)
LARGE = (
    Case(Conv2dSpec(256, 256, 3, padding=1), (14, 14)),
    Case(Conv2dSpec(64, 64, 3, padding=1), (56, 56), layouts=("NHWC",) * 3),
    Case(Conv2dSpec(3, 64, 7, 2, padding=3), (224, 224), batch=1),
    Case(Conv2dSpec(512, 2048, 1), (7, 7), batch=3, layouts=("NHWC",) * 3),
    Case(Conv2dSpec(2048, 512, 1), (7, 7), batch=3),
    Case(Conv2dSpec(96, 96, 7, padding=3, groups=96), (56, 56), layouts=("NHWC",) * 3),
    Case(Conv2dSpec(512, 512, 3, padding=1, groups=512), (28, 28), batch=4),
    Case(Conv2dSpec(256, 256, 3, 2, padding=1, groups=32), (28, 28), layouts=("NHWC",) * 3),
    Case(Conv2dSpec(64, 3, 9, padding=4), (100, 100), batch=1),
    Case(Conv2dSpec(48, 48, 5, padding=2), (35, 31), batch=3),
    Case(Conv2dSpec(128, 130, (1, 7), padding=(0, 3)), (17, 17), batch=5, layouts=("NHWC",) * 3),
)


@pytest.mark.parametrize("name", dict.fromkeys(row.name for row in ALGORITHMS))
def test_sums_of_integers_are_exact(name: str, soak: Soak) -> None:
    reached = set[str]()

    def attempt(what: str, case: Case, seed: int) -> None:
        for row in ALGORITHMS:
            if row.name == name:
                with soak.case(f"{name}, {what}"):
                    reached.update(compare(case, seed, row))

    for n, case in enumerate(CORNERS + soak.length(LONG_SUMS, LONG_SUMS + LARGE)):
        for threads in soak.length((case.threads,), (1, 2, 3)):
            attempt(f"{replace(case, threads=threads)}", replace(case, threads=threads), n)
    count, seed = soak.length(0, 120), random.randrange(10**9)
    soak.figure("seed", seed)
    for n, case in enumerate(cases(count, seed)):
        attempt(f"seed {seed}, number {n}", case, n)
    assert {"y", "relu(y + residual)", "dx"} <= reached, "the algorithm applies to some of the cases"


def test_integers_reach_every_layout(soak: Soak) -> None:
    """The direct algorithm, which takes all there is."""
    direct = ALGORITHMS[-1]
    for layout in LAYOUTS:
        for other in soak.length(("NCHW",), LAYOUTS):
            case = Case(Conv2dSpec(19, 37, 3, 2, padding=1), (9, 12), layouts=(layout, other, layout))
            with soak.case(case):
                assert compare(case, 1, direct) == ["y", "relu(y + residual)", "dx", "dw"]
