"""Every algorithm on arm64: its code, linked into a small program and run by an emulator, against the reference."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from arm64 import emulator
from arm64.emulator import Arm64
from oracle import BOUND, SENTINEL, Case, Data, applies, embed, error
from test_epilogue import TORCH

from convforge import Conv2dSpec
from convforge.engine import Problem
from convforge.engine.algorithms import ALGORITHMS
from convforge.engine.kernels.epilogue import Epilogue
from convforge.engine.kernels.functions import ACTIVATIONS
from convforge.engine.plan import Algorithm, Job, Pass, Plan

pytestmark = pytest.mark.skipif(bool(emulator.missing()), reason=f"not installed: {emulator.missing()}")

CASES = (
    Case(Conv2dSpec(17, 37, 3, padding=1), (9, 10)),
    Case(Conv2dSpec(9, 20, 5, padding=2), (9, 10)),
    Case(Conv2dSpec(12, 40, 3, 2, padding=1, groups=2), (11, 9)),
    Case(Conv2dSpec(3, 40, 7, 2, padding=3), (17, 16)),
    Case(Conv2dSpec(600, 21, 1), (4, 5)),
    Case(Conv2dSpec(20, 3, 3, padding=1), (12, 31)),
    Case(Conv2dSpec(37, 37, 3, padding=1, groups=37), (15, 14)),
    Case(Conv2dSpec(37, 37, 3, 2, padding=1, groups=37), (23, 20)),
    Case(Conv2dSpec(36, 36, 3, padding=1, groups=9), (15, 14)),
)


@pytest.fixture(scope="module")
def arm64(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arm64]:
    machine = Arm64(tmp_path_factory.mktemp("arm64"))
    with pytest.MonkeyPatch.context() as patch:
        machine.prepares(patch)
        yield machine
    machine.stop()


def check(machine: Arm64, algorithm: Algorithm, which: Pass, case: Case, layout: str, activation: str = "") -> None:
    """One pass in poisoned memory: right, complete, nothing else touched. With an activation there is a residual."""
    data = Data.of(case)
    problem = Problem.of(case.spec, case.batch, case.size, case.dtype, layout == "NHWC")
    finish = Epilogue(which is Pass.FORWARD, activation, bool(activation))
    plan = algorithm.plan(Job.of(problem, which, case.threads, finish=finish, target=machine.target))
    assert isinstance(plan, Plan)
    prepared = plan.prepared(algorithm.name)
    assert prepared.threads == case.threads, "too little work for so many threads"

    result, buffer = {
        Pass.FORWARD: ("y", "y"),
        Pass.INPUT_GRADIENT: ("dx", "x"),
        Pass.WEIGHT_GRADIENT: ("dw", "w"),
    }[which]
    tensors = {"x": data.x, "w": data.w, "y": data.dy, "residual": data.dy}
    given = {name: embed(values, layout, np.nan) for name, values in tensors.items()}
    given["bias"] = embed(data.bias.reshape(1, -1, 1, 1), "NCHW", np.nan)
    wanted = data.wanted[result]
    if activation:
        wanted = TORCH[activation](torch.from_numpy(wanted + data.dy)).numpy()
    allowed = BOUND[case.dtype] * (1 if algorithm.exact else 3)
    for each_packs in (False, True) if prepared.unpacked else (False,):
        given[buffer] = embed(np.full_like(tensors[buffer], np.nan), layout, SENTINEL)
        machine.run(prepared, each_packs, **given)
        memory, got = given[buffer]
        assert memory.tobytes() == embed(got.copy(), layout, SENTINEL)[0].tobytes(), (
            "something was written beside the result"
        )
        assert error(got, wanted) <= allowed, f"{which} of {case}: {error(got, wanted):.1e}, allowed {allowed:.0e}"


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda row: row.name)
def test_every_algorithm(algorithm: Algorithm, arm64: Arm64) -> None:
    met = set()
    for layout, dtype, threads in (("NHWC", "float32", 1), ("NHWC", "float64", 3), ("NCHW", "float32", 3)):
        for case, which in product(CASES, Pass):
            case = replace(case, dtype=dtype, threads=threads)
            problem = Problem.of(case.spec, case.batch, case.size, dtype, layout == "NHWC")
            if applies(algorithm, problem, which, arm64.target):
                check(arm64, algorithm, which, case, layout)
                met.add(which)
    assert Pass.FORWARD in met, "none of the cases is for this algorithm"


@pytest.mark.parametrize(("activation", "dtype"), [*((name, "float32") for name in ACTIVATIONS), ("gelu", "float64")])
def test_every_activation(activation: str, dtype: str, arm64: Arm64) -> None:
    direct = ALGORITHMS[-1]
    for layout in ("NHWC", "NCHW"):
        check(arm64, direct, Pass.FORWARD, replace(CASES[0], dtype=dtype), layout, activation)
