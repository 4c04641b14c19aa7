"""The same bits: from run to run in everything, and within an algorithm whatever is computed beside.

An image's result does not depend on the images beside it, the number of threads, the memory format, or whether packed
weights were kept: each output's sum is added up in an order that the algorithm and the kernel's shape alone decide.
This holds for the forward pass and the input gradient of the algorithms that multiply each input by each weight.
Winograd's divide long sums by the number of tiles; the sum of the weight gradient runs over all images and is divided
among the threads.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracle import LAYOUTS, Case, Data, embed
from processes import answer

import convforge
from convforge import Conv2dSpec, UserError, engine
from convforge.engine import passes
from convforge.engine.algorithms import ALGORITHMS
from convforge.engine.arrays import address
from convforge.engine.kernels.epilogue import Epilogue
from convforge.engine.plan import Algorithm, Pass
from convforge.native import runtime

from .conftest import Soak
from .draws import CORNERS, cases

Array = np.ndarray[Any, Any]

EXACT = [row for row in ALGORITHMS if row.exact]
MORE = (
    Case(Conv2dSpec(130, 20, 3, padding=1), (9, 11)),
    Case(Conv2dSpec(1200, 33, 1), (6, 7)),
    Case(Conv2dSpec(64, 64, 3, padding=1, groups=16), (20, 21)),
    Case(Conv2dSpec(3, 17, 7, 2, padding=3), (40, 44)),
    Case(Conv2dSpec(48, 66, 5, padding=2), (20, 23)),
    # A row of taps has more products than a part of the sum, and touches in some layouts.
    Case(Conv2dSpec(200, 20, 3), (9, 11)),
    Case(Conv2dSpec(20, 200, 3, padding=2), (9, 11)),
    Case(Conv2dSpec(768, 20, 3), (6, 7)),
)


def bits(array: Array) -> bytes:
    return np.ascontiguousarray(array).tobytes()


def result(which: str, case: Case, data: Data, layout: str, images: int, threads: int, row: Algorithm) -> Array:
    """A pass on the first images."""
    x, dy = (embed(array[:images], layout, np.nan)[1] for array in (data.x, data.dy))
    spec, bias = case.spec, data.bias if case.spec.bias else None
    how: dict[str, Any] = {"threads": threads, "exact": row.exact, "algorithm": row.name}
    if which == "forward":
        return engine.conv2d(x, data.w, bias, spec, out=np.empty_like(dy), **how)
    return engine.input_gradient(dy, data.w, case.size, spec, out=np.empty_like(x), **how)


def from_kept_weights(which: str, case: Case, data: Data, row: Algorithm) -> Array:
    x, dy, bias = data.x, data.dy, data.bias if case.spec.bias else None
    if which == "forward":
        y = np.empty_like(dy)
        problem = engine._problem(x, data.w, y, case.spec)
        prepared = passes.prepare(problem, Pass.FORWARD, 2, row.exact, row.name, True, Epilogue(bias is not None))
        at = {"x": x, "y": y} | ({} if bias is None else {"bias": bias})
    else:
        y = np.empty_like(x)
        problem = engine._problem(y, data.w, dy, case.spec)
        prepared = passes.prepare(problem, Pass.INPUT_GRADIENT, 2, row.exact, row.name, True)
        at = {"x": y, "y": dy}
    packed, alive = runtime.memory(prepared.packed_bytes)
    prepared.pack(address(data.w), packed)
    given = {"packed": packed} if prepared.packed_bytes else {}
    prepared.run(**given, w=address(data.w), **{name: address(a) for name, a in at.items()})
    del alive
    return y


@pytest.mark.parametrize("which", ["forward", "input gradient"])
def test_an_images_result_does_not_depend_on_what_is_beside_it(which: str, soak: Soak) -> None:
    count, seed = soak.length(len(CORNERS), 80), random.randrange(10**9)
    soak.figure("seed", seed)
    applied = set[str]()
    for drawn in [*MORE, *cases(count, seed)]:
        case = replace(drawn, batch=4)
        data = Data.of(case)
        for row in EXACT:
            with soak.case(f"seed {seed}, {row.name}, {case}"):
                wanted = None
                for layout in soak.length(("NCHW", "NHWC", "NHWC slice"), LAYOUTS):
                    for images, threads in ((4, 1), (4, 1), (4, 3), (1, 1), (2, 2), (3, 3)):
                        try:
                            got = result(which, case, data, layout, images, threads, row)
                        except UserError:  # it does not apply, to this layout at least
                            break
                        applied.add(row.name)
                        wanted = got.copy() if wanted is None else wanted
                        assert bits(got) == bits(wanted[:images]), f"{layout}, {images} images, {threads} threads"
                try:
                    kept = from_kept_weights(which, case, data, row)
                except UserError:
                    continue
                assert wanted is not None
                assert bits(kept) == bits(wanted), "packed weights that were kept"
    assert applied == {row.name for row in EXACT}


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("exact", [True, False], ids=["exact", "fast"])
def test_every_pass_is_the_same_from_call_to_call(exact: bool, threads: int, soak: Soak) -> None:
    """In other memory, too, and with other work between."""
    seed = random.randrange(10**9)
    soak.figure("seed", seed)
    for n, case in enumerate([*MORE, *cases(soak.length(len(CORNERS), 60), seed)]):
        data, spec, how = Data.of(case), case.spec, {"threads": threads, "exact": exact}
        runs: list[Callable[[Array, Array], Array]] = [
            lambda x, dy: engine.conv2d(x, data.w, None, spec, **how),  # noqa: B023
            lambda x, dy: engine.input_gradient(dy, data.w, case.size, spec, **how),  # noqa: B023
            lambda x, dy: engine.weight_gradient(x, dy, spec, **how),  # noqa: B023
            lambda x, dy: engine.bias_gradient(dy, threads),
        ]
        for run in runs:
            with soak.case(f"seed {seed}, number {n}, {case}"):
                first = run(data.x, data.dy)
                for _ in range(soak.length(2, 5)):
                    x, dy = data.x.copy(), data.dy.copy()
                    assert bits(run(x, dy)) == bits(first)


def test_the_operators_are_the_same_from_call_to_call(soak: Soak) -> None:
    """The first call packs the weights for itself, a later one finds them packed."""
    for n, spec in enumerate([case.spec for case in (*MORE, *CORNERS)]):
        for size in soak.length(((16, 15),), ((16, 15), (33, 40), (7, 9))):
            made = torch.Generator().manual_seed(n)
            x = torch.randn(2, spec.in_channels, *size, generator=made)
            w = torch.randn(spec.weight_shape, generator=made)
            for grad in (False, True):
                with soak.case(f"{spec}, {size}, {'trained' if grad else 'kept'}"):
                    x.requires_grad_(grad)
                    w.requires_grad_(grad)
                    first = None
                    for _ in range(5):
                        y = convforge.conv2d(x, w, None, spec.stride, 1, spec.dilation, spec.groups)
                        found = [y.detach(), *(torch.autograd.grad(y, (x, w), y.detach()) if grad else ())]
                        now = [bits(t.numpy()) for t in found]
                        first = first or now
                        assert now == first


HASHES = """
import hashlib, json, random, sys
import numpy as np
from oracle import Data
from soak.draws import cases
from convforge import engine
seen = hashlib.sha256()
for case in cases(int(sys.argv[1]), 5):
    data, how = Data.of(case), {"threads": 2}
    for result in (engine.conv2d(data.x, data.w, None, case.spec, **how),
                   engine.input_gradient(data.dy, data.w, case.size, case.spec, **how),
                   engine.weight_gradient(data.x, data.dy, case.spec, **how)):
        seen.update(np.ascontiguousarray(result).tobytes())
print(json.dumps(seen.hexdigest()))
"""


def test_every_pass_is_the_same_from_process_to_process(soak: Soak) -> None:
    engine_tests, tests = Path(__file__).parents[1] / "engine", Path(__file__).parents[1]
    paths = os.pathsep.join([str(engine_tests), str(tests), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    count = soak.length(6, 80)
    with soak.case("two processes, threads of a pool"):
        first, second = (answer("-c", HASHES, str(count), PYTHONPATH=paths) for _ in range(2))
        assert first == second
