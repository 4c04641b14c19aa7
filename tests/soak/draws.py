"""Convolutions in which every algorithm has its turn: chosen at its corners, then drawn."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from oracle import LAYOUTS, Case, applies, embed, some_case

from convforge import Conv2dSpec, engine
from convforge.engine.algorithms import ALGORITHMS
from convforge.engine.plan import Algorithm, Pass

_LAST, _FIRST = ("NHWC",) * 3, ("NCHW",) * 3
CORNERS = (
    Case(Conv2dSpec(33, 33, 3, groups=33, bias=True), (9, 9), layouts=_LAST, threads=1),
    Case(Conv2dSpec(5, 17, 3, padding=1, bias=True), (7, 9), layouts=_FIRST, threads=1),
    Case(Conv2dSpec(33, 3, 1, bias=True), (5, 7), layouts=_LAST, threads=1),
    Case(Conv2dSpec(34, 34, 3, 2, groups=17, bias=True), (9, 11), layouts=_LAST, threads=1),
    Case(Conv2dSpec(9, 18, 5, padding=1, bias=True), (8, 7), layouts=("NHWC slice", "NCHW", "sliced"), threads=2),
    Case(Conv2dSpec(3, 2, 5, 2, padding=2, bias=True), (15, 27), dtype="float64", layouts=_FIRST, threads=1),
)
"""A little more than a vector or a panel, in memory that is read where it lies as well as in memory that is not."""

KINDS = ("3×3", "depthwise", "grouped", "5×5", "few outputs", "dense", "pointwise", "few a group")
"""What is drawn, in turn: a row of `ALGORITHMS` applies to each."""


def drawn(choose: random.Random, kind: str) -> Case:
    """A convolution for which more than the direct algorithm may apply."""

    def pick(options: Any) -> Any:
        return choose.choice(list(options))

    if kind in ("3×3", "5×5"):
        groups, counts = pick((1, 1, 2)), (3, 8, 15, 17, 32, 40)
        padding = ((pick((0, 1, 2)), pick((0, 1, 2))), (pick((0, 1, 2)), pick((0, 1, 2))))
        spec = Conv2dSpec(
            groups * pick(counts), groups * pick(counts), int(kind[0]), padding=padding, groups=groups,
            bias=pick((True, False)),
        )  # fmt: skip
        case = Case(spec, (pick(range(5, 20)), pick(range(5, 20))), batch=pick((1, 2, 3)))
    elif kind == "few outputs":
        kernel = pick((1, 2, 3, 5, 7))
        spec = Conv2dSpec(pick((1, 2, 3, 4, 8)), pick((1, 2, 3, 4)), kernel, pick((1, 1, 2)), padding=kernel // 2)
        case = Case(spec, (pick(range(7, 24)), pick(range(7, 50))), batch=pick((1, 2, 3)))
    elif kind == "few a group":
        groups, few = pick((2, 3, 8, 9, 16, 33)), pick((2, 4, 8))
        spec = Conv2dSpec(groups * few, groups * few, 3, pick((1, 2)), padding=pick((0, 1)), groups=groups)
        case = Case(spec, (pick(range(5, 20)), pick(range(5, 20))), batch=pick((1, 2, 3)))
    else:
        case = some_case(pick, kind)
    if pick((True, False)):  # an image without a border may be read where it lies, up to its last number
        (top, bottom), (left, right) = case.spec.sides(case.size)
        size = case.size[0] + top + bottom, case.size[1] + left + right
        case = replace(case, spec=replace(case.spec, padding=0), size=size)
    any_layout = (pick(LAYOUTS), pick(LAYOUTS), pick(LAYOUTS))
    return replace(
        case,
        batch=max(1, case.batch),
        dtype=pick(("float32", "float32", "float64")),
        layouts=pick((_LAST, _LAST if case.spec.groups > 1 else _FIRST, any_layout)),
        threads=pick((1, 1, 2, 3)),
    )


def applying(case: Case) -> Iterator[tuple[Pass, Algorithm]]:
    """Which algorithms apply to which of its passes, in the case's layouts."""
    x, w, y = (
        embed(np.empty(shape, case.dtype), layout, 0)[1]
        for shape, layout in zip(
            (
                (case.batch, case.spec.in_channels, *case.size),
                case.spec.weight_shape,
                (case.batch, case.spec.out_channels, *case.spec.output_size(case.size)),
            ),
            case.layouts,
            strict=True,
        )
    )
    problem = engine._problem(x, w, y, case.spec)
    for row in ALGORITHMS:
        for which in Pass:
            if applies(row, problem, which):
                yield which, row


def cases(count: int, seed: int) -> Iterator[Case]:
    """The corners, whatever the seed, then others; case n is the same for every count."""
    for n in range(count):
        choose = random.Random(f"{seed} {n}")
        yield CORNERS[n] if n < len(CORNERS) else drawn(choose, KINDS[n % len(KINDS)])
