"""Results that are larger than the caches and go past them: only whole, aligned vectors may; others are stored as
always."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from oracle import Case, Data, agree

from convforge import Conv2dSpec, engine
from convforge.engine import passes
from convforge.engine.algorithms.direct import Direct
from convforge.engine.geometry import Problem
from convforge.engine.kernels.epilogue import Epilogue
from convforge.engine.kernels.tile import ASKED_FOR, PAST_CACHES
from convforge.engine.plan import Job, Pass
from convforge.native import target

NHWC = ("NHWC", "NHWC", "NHWC")


def placed(values: np.ndarray, offset: int) -> np.ndarray:
    """The images with channels side by side, so many numbers behind an aligned address."""
    n, c, h, w = values.shape
    buffer = np.full(values.size + 64, np.nan, values.dtype)
    start = (-buffer.ctypes.data % 64) // values.itemsize + offset
    view = buffer[start : start + values.size].reshape(n, h, w, c).transpose(0, 3, 1, 2)
    view[...] = values
    return view


def small(here: target.Target) -> target.Target:
    """The target with caches that have room for nothing."""
    return replace(here, l2_bytes=4096, l3_bytes=0)


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("channels", [32, 33, 48, 64])
@pytest.mark.parametrize("kind", ["depthwise", "1×1", "3×3 of 3", "3×3"])
def test_outputs_that_go_past_the_caches(
    kind: str, channels: int, offset: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = target.current()
    monkeypatch.setattr(passes, "current", lambda: small(here))
    spec = {
        "depthwise": Conv2dSpec(channels, channels, 3, 2, padding=1, groups=channels),
        "1×1": Conv2dSpec(32, channels, 1),
        "3×3 of 3": Conv2dSpec(3, channels, 3, 2, padding=1),
        "3×3": Conv2dSpec(80, channels, 3, padding=1),  # a sum in two parts
    }[kind]
    algorithm = "depthwise" if kind == "depthwise" else "direct"
    case = Case(spec, (19, 23), layouts=NHWC)
    data = Data.of(case)
    empty = {name: placed(np.full_like(array, np.nan), offset) for name, array in (("y", data.dy), ("dx", data.x))}
    y = engine.conv2d(placed(data.x, 0), data.w, data.bias, spec, out=empty["y"], algorithm=algorithm)
    agree(case, data, "y", y)
    if algorithm == "depthwise" or spec.in_channels >= 32:
        dx = engine.input_gradient(placed(data.dy, 0), data.w, case.size, spec, out=empty["dx"], algorithm=algorithm)
        agree(case, data, "dx", dx)


@pytest.mark.parametrize(
    ("spec", "finish", "wanted"),
    [
        (Conv2dSpec(32, 64, 1), Epilogue(), PAST_CACHES),
        (Conv2dSpec(32, 64, 1), Epilogue(activation="relu"), PAST_CACHES),
        (Conv2dSpec(32, 64, 1), Epilogue(residual=True), ASKED_FOR),
        (Conv2dSpec(32, 64, 1), Epilogue(activation="silu"), ASKED_FOR),  # which works on what was stored
        (Conv2dSpec(32, 65, 1), Epilogue(), ASKED_FOR),
        (Conv2dSpec(80, 64, 3), Epilogue(), ASKED_FOR),
    ],
)
def test_which_outputs_of_direct_may(spec: Conv2dSpec, finish: Epilogue, wanted: int) -> None:
    job = Job.of(Problem.of(spec, 1, (19, 23)), Pass.FORWARD, 2, finish=finish, target=small(target.current()))
    roomy = replace(job, target=replace(job.target, l2_bytes=1 << 30, l3_bytes=1 << 32))
    for of, what in ((job, wanted), (roomy, 0)):
        plan = Direct(of, 0.0, of.slidings)
        assert [plan.output(each) for each in plan.blocked] == [what]
