"""Dilation, padding and stride are numbers: however large, they take neither time nor memory, and results stay right.

`convforge.reference` writes the padding out, so the sums of this file's own reference run over the taps and outputs
that meet inside the image; all other products are with zeros.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from oracle import Case, Data, Pick, choices, embed, error, written

from convforge import Conv2dSpec, engine
from convforge.engine.geometry import Problem
from convforge.engine.kernels.epilogue import Epilogue
from convforge.engine.passes import prepare
from convforge.engine.plan import Pass
from convforge.engine.prepared import Prepared

Array = np.ndarray[Any, Any]

MILLION, WORD = 10**6, 2**62
BOUND = 1e-6
ROOM = 4 << 20
"""Bytes of workspace, packed weights and program together."""


def meetings(spec: Conv2dSpec, size: tuple[int, int], axis: int, tap: int) -> tuple[list[int], list[int]]:
    """Along one axis: the outputs that have the tap inside the image, and where they have it."""
    out, offset = spec.output_size(size)[axis], tap * spec.dilation[axis] - spec.sides(size)[axis][0]
    met = [(p, p * spec.stride[axis] + offset) for p in range(out)]
    met = [(p, h) for p, h in met if 0 <= h < size[axis]]
    return [p for p, _ in met], [h for _, h in met]


def sums(spec: Conv2dSpec, data: Data) -> dict[str, Array]:
    """The forward pass and the gradients, in float64."""
    x, w, dy = (a.astype(np.float64) for a in (data.x, data.w, data.dy))
    size, g = (x.shape[2], x.shape[3]), spec.groups
    xg, dyg = x.reshape(x.shape[0], g, -1, *size), dy.reshape(dy.shape[0], g, -1, *dy.shape[2:])
    wg = w.reshape(g, -1, *w.shape[1:])
    y, dx, dw = np.zeros(dyg.shape), np.zeros(xg.shape), np.zeros(wg.shape)
    for i in range(w.shape[2]):
        for j in range(w.shape[3]):
            (p, h), (q, v) = meetings(spec, size, 0, i), meetings(spec, size, 1, j)
            outputs, inputs = np.ix_(p, q), np.ix_(h, v)
            seen, gradient, weights = xg[:, :, :, *inputs], dyg[:, :, :, *outputs], wg[..., i, j]
            y[:, :, :, *outputs] += np.einsum("ngchw,gkc->ngkhw", seen, weights)
            dx[:, :, :, *inputs] += np.einsum("ngkhw,gkc->ngchw", gradient, weights)
            dw[..., i, j] = np.einsum("ngchw,ngkhw->gkc", seen, gradient)
    bias = data.bias.astype(np.float64)[:, None, None] if spec.bias else 0
    return {"y": y.reshape(dy.shape) + bias, "dx": dx.reshape(x.shape), "dw": dw.reshape(w.shape)}


def line(kernel: int, stride: int, padding: tuple[int, int], dilation: int, channels: int = 5) -> Conv2dSpec:
    """A convolution along rows of the image."""
    return Conv2dSpec(channels, 6, (1, kernel), (1, stride), ((0, 0), padding), (1, dilation))


def square(
    kernel: int, stride: int = 1, padding: int | tuple[int, int] = 0, dilation: int = 1, groups: int = 1
) -> Conv2dSpec:
    """The same along both axes."""
    sides = (padding, padding) if isinstance(padding, int) else padding
    return Conv2dSpec(groups * (1 if groups > 1 else 5), groups if groups > 1 else 6, kernel, stride, (sides, sides),
                      dilation, groups)  # fmt: skip


EXTREMES: dict[str, tuple[Conv2dSpec, tuple[int, int]]] = {
    "dilation and padding of a million": (square(3, 1, MILLION, MILLION), (10, 10)),
    "dilation and padding of a word": (square(3, 1, WORD, WORD), (10, 10)),
    "dilation and padding past a word": (square(3, 1, 2**70, 2**70), (10, 10)),
    "dilation on one axis": (Conv2dSpec(5, 6, 3, 1, (MILLION, 1), (MILLION, 1)), (9, 11)),
    "dilation at stride 2": (square(3, 2, MILLION, MILLION), (10, 11)),
    "dilation, depthwise": (square(3, 1, MILLION, MILLION, groups=40), (10, 10)),
    "dilation, depthwise at stride 2": (square(3, 2, MILLION, MILLION, groups=40), (10, 10)),
    "dilation, groups of 4": (Conv2dSpec(32, 32, 3, 1, MILLION, MILLION, 8), (6, 7)),
    "stride of ten million": (square(3, 10**7), (30, 30)),
    "stride of ten million, padded": (square(3, 10**7, 1), (30, 30)),
    "stride of a word": (square(3, WORD, 1), (30, 30)),
    "stride of a word, depthwise": (square(3, WORD, 1, groups=40), (30, 30)),
    "stride of a word, 1x1": (square(1, WORD), (30, 30)),
    "stride and padding behind": (square(3, MILLION, (1, 2 * MILLION)), (30, 30)),
    "stride and padding in front": (square(3, MILLION, (2 * MILLION, 0)), (30, 30)),
    "stride and padding, depthwise": (square(3, MILLION, (2 * MILLION, 1), groups=40), (30, 30)),
    "stride and padding of a word, 1x1": (square(1, WORD, (WORD, WORD)), (9, 8)),
    "stride and dilation alike": (square(3, MILLION, 2 * MILLION, MILLION), (10, 10)),
    "stride and dilation nearly alike": (square(3, MILLION + 1, 2 * MILLION, MILLION), (10, 10)),
    "stride and dilation of words": (square(3, WORD - 1, 2 * WORD, WORD), (10, 10)),
    "taps that share a stride's phase": (square(5, 1000, 2000, 500), (40, 40)),
    "nothing but padding": (square(2, 1, (MILLION // 2, MILLION // 2 + 3), MILLION), (1, 1)),
    "an image between the outputs": (square(1, MILLION, (MILLION // 2, MILLION)), (10, 10)),
    "an image between the taps": (square(2, 1, MILLION // 2, MILLION), (10, 10)),
    "stride larger than the image, many rows": (square(3, 400, 1), (300, 2)),
    "a row under many gaps": (line(7, 40, (3 * 5000, 3 * 5000), 5000), (3, 10)),
    "a row, gaps within the image": (line(3, 1, (1200, 1200), 1200), (2, 3000)),
    "a row, gaps and padding, some outputs on zeros only": (line(3, 3, (9000, 9000), 1200), (2, 3000)),
    "a row, stride in the thousands": (line(5, 3000, (2, 8000), 1500), (2, 2999)),
    "a row, stride and gaps meet only now and then": (line(9, 1001, (8000, 8000), 1000), (2, 7)),
}  # fmt: skip


def prepared_of(problem: Problem, which: Pass, algorithm: str) -> Prepared:
    return prepare(problem, which, 2, algorithm=algorithm, finish=Epilogue(bias=which is Pass.FORWARD))


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("name", EXTREMES)
def test_every_algorithm_is_right_in_little_memory(name: str, channels_last: bool) -> None:
    check_each_in_little_memory(*EXTREMES[name], channels_last)


def check_each_in_little_memory(spec: Conv2dSpec, size: tuple[int, int], channels_last: bool) -> None:
    data = Data.of(Case(spec, size, batch=1))
    wanted, layout = sums(spec, data), "NHWC" if channels_last else "NCHW"
    problem = Problem.of(spec, 1, size, channels_last=channels_last)
    x, w, dy = (embed(array, layout, np.nan)[1] for array in (data.x, data.w, data.dy))
    for which, result in zip(Pass, ("y", "dx", "dw"), strict=True):
        for choice in choices(problem, which):
            how: dict[str, Any] = {"threads": 2, "algorithm": choice.algorithm.name}
            runs: dict[str, Callable[[Array], Array]] = {
                "y": lambda out: engine.conv2d(x, w, data.bias, spec, out=out, **how),  # noqa: B023
                "dx": lambda out: engine.input_gradient(dy, w, size, spec, out=out, **how),  # noqa: B023
                "dw": lambda out: engine.weight_gradient(x, dy, spec, out=out, **how),  # noqa: B023
            }
            got = written(np.full(wanted[result].shape, np.nan, np.float32), layout, runs[result])
            bound = BOUND if choice.algorithm.exact else 3 * BOUND
            assert error(got, wanted[result]) <= bound, (which, choice.algorithm.name)
            one = prepared_of(problem, which, choice.algorithm.name)
            taken = (
                max(one.work_bytes(packed=True), one.work_bytes(packed=False)) + one.packed_bytes + one.compute.bytes
            )
            assert taken <= ROOM, (which, choice.algorithm.name, taken)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_activation_and_a_residual_reach_the_outputs_that_see_nothing_but_padding(dtype: str) -> None:
    spec, size = EXTREMES["stride and dilation nearly alike"]
    data = Data.of(Case(spec, size, dtype=dtype))
    residual = np.ascontiguousarray(data.dy)
    got = engine.conv2d(data.x, data.w, data.bias, spec, activation="relu", residual=residual)
    assert error(got, np.maximum(sums(spec, data)["y"] + residual, 0)) <= BOUND


def test_this_files_reference_is_the_reference() -> None:
    case = Case(Conv2dSpec(6, 9, (3, 2), (2, 3), ((2, 0), (4, 3)), (3, 2), groups=3), (11, 9))
    data = Data.of(case)
    for name, result in sums(case.spec, data).items():
        assert error(result, data.wanted[name]) < 1e-13


def some_numbers(pick: Pick) -> tuple[Conv2dSpec, tuple[int, int]]:
    """Any numbers that leave few outputs, most of them extreme."""
    g = pick((1, 1, 2, 17))

    def axis() -> tuple[int, int, int, int, int, int]:
        large = pick((7, 100, 999, 1024, 5000, MILLION, 2**31, WORD))
        kernel, size = pick((1, 2, 3, 5)), pick((1, 2, 7, 10, 40))
        stride = pick((1, 2, 3, large - 1, large, large + 1, 2 * large))
        dilation = pick((1, 2, 3, large // 2, large, large + 1))
        before = pick((0, 1, large - 1, large, 2 * large, dilation * (kernel - 1)))
        reach = dilation * (kernel - 1) + 1 + pick((0, 1, 2, 5)) * stride + pick((0, 1, 3))
        after = reach - size - before
        if after < 0:
            before, after = max(0, reach - size), 0
        return kernel, stride, dilation, before, after, size

    (kh, sh, dh, top, bottom, height), (kw, sw, dw, left, right, width) = axis(), axis()
    channels = 1 if g == 17 else pick((1, 3, 4))
    spec = Conv2dSpec(g * channels, g * channels, (kh, kw), (sh, sw), ((top, bottom), (left, right)), (dh, dw), g)
    return spec, (height, width)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(st.data())
def test_drawn(data: st.DataObject) -> None:
    spec, size = some_numbers(lambda options: data.draw(st.sampled_from(list(options))))
    height, width = spec.output_size(size)
    assume(height * width <= 3000)
    check_each_in_little_memory(spec, size, data.draw(st.booleans()))


@pytest.mark.parametrize("name", EXTREMES)
def test_an_explanation_takes_no_longer(name: str) -> None:
    """What the model says and what `convforge explain` shows: a few pieces at most, whatever the numbers."""
    spec, size = EXTREMES[name]
    problem = Problem.of(spec, 1, size)
    for which in Pass:
        slidings = which.slidings(problem)
        assert len(slidings) <= max(64, (2 * max(spec.kernel_size) + 1) ** 2), len(slidings)
        for choice in choices(problem, which):
            assert choice.cycles < 1e8
            assert all(loop.count < 10**6 for loop in choice.plan.nest.loops)
