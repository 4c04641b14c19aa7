"""All passes where convolutions go wrong: tails, borders, gaps, layouts, nothing at all."""

from __future__ import annotations

import os

import numpy as np
import pytest
from oracle import LAYOUTS, Case, Data, agree, check, choices, embed

from convforge import Conv2dSpec, SpecError, engine
from convforge.engine.geometry import Problem
from convforge.engine.plan import Pass

NHWC = ("NHWC", "NHWC", "NHWC")


@pytest.mark.parametrize("channels", range(1, 71))
def test_every_channel_count_in_and_out(channels: int) -> None:
    other = 1 + channels * 11 % 70
    layouts = NHWC if channels % 2 else ("NCHW", "NCHW", "NCHW")
    check(Case(Conv2dSpec(channels, other, 3, padding=1), (5, 6), layouts=layouts))
    check(Case(Conv2dSpec(other, channels, 1), (3, 5), layouts=layouts))


@pytest.mark.parametrize("channels", [1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 70, 129])
@pytest.mark.parametrize("multiplier", [1, 2, 3])
def test_depthwise(channels: int, multiplier: int) -> None:
    for layouts in (NHWC, ("NCHW", "NCHW", "NCHW"), ("NHWC slice", "NCHW", "NHWC")):
        for stride, size in ((1, (7, 9)), (2, (8, 7))):
            spec = Conv2dSpec(channels, channels * multiplier, 3, stride, padding=1, groups=channels)
            check(Case(spec, size, layouts=layouts))


@pytest.mark.parametrize("width", range(1, 40))
def test_every_output_width(width: int) -> None:
    check(Case(Conv2dSpec(5, 33, 3, padding=1), (3, width), layouts=NHWC))
    check(Case(Conv2dSpec(17, 8, (1, 2), stride=(1, 2)), (2, 2 * width + 1), layouts=NHWC))


@pytest.mark.parametrize("groups", [2, 3, 4, 8, 16, 32])
@pytest.mark.parametrize(("per_group", "outputs"), [(1, 3), (2, 2), (4, 5), (8, 8), (17, 33), (32, 16)])
def test_groups(groups: int, per_group: int, outputs: int) -> None:
    spec = Conv2dSpec(groups * per_group, groups * outputs, 3, 2, padding=1, groups=groups)
    check(Case(spec, (7, 6), batch=1, layouts=NHWC))
    check(Case(spec, (7, 6), batch=2))


GEOMETRIES = {
    "1x1 image": (Conv2dSpec(6, 9, 3, padding=1), (1, 1)),
    "1x1 image and kernel": (Conv2dSpec(64, 40, 1), (1, 1)),
    "1x1 image, strided": (Conv2dSpec(6, 9, 1, 3), (1, 1)),
    "kernel larger than the image": (Conv2dSpec(3, 5, 11, padding=5), (4, 2)),
    "kernel of the image's size": (Conv2dSpec(3, 5, (6, 7)), (6, 7)),
    "even kernel, same": (Conv2dSpec(4, 4, 4, padding="same"), (6, 5)),
    "same_half, even kernel": (Conv2dSpec(4, 4, 2, 2, padding="same_half"), (6, 5)),
    "same_ceil, strided": (Conv2dSpec(3, 8, 3, 2, padding="same_ceil"), (8, 7)),
    "padding on each side different": (Conv2dSpec(3, 8, 3, padding=((0, 2), (1, 3))), (5, 6)),
    "padding at the bottom only": (Conv2dSpec(3, 8, 3, 2, padding=((0, 3), (0, 0))), (5, 6)),
    "padding at the left only": (Conv2dSpec(3, 8, 3, 2, padding=((0, 0), (4, 0))), (5, 6)),
    "dilation larger than the image": (Conv2dSpec(3, 8, 3, padding=9, dilation=9), (5, 4)),
    "dilation much larger than the image": (Conv2dSpec(3, 8, 2, padding=((50, 50), (30, 31)), dilation=60), (5, 4)),
    "dilation, different per axis": (Conv2dSpec(4, 8, 3, padding=(2, 0), dilation=(2, 3)), (9, 9)),
    "stride larger than the kernel": (Conv2dSpec(4, 8, 2, 5), (13, 12)),
    "stride larger than the image": (Conv2dSpec(4, 8, 3, 50, padding=1), (7, 6)),
    "stride larger, with a padded border": (Conv2dSpec(4, 8, 2, 7, padding=((6, 6), (3, 5))), (9, 8)),
    "stride 2 of dilation 2": (Conv2dSpec(4, 8, 3, 2, padding=2, dilation=2), (9, 10)),
    "stride 2 of dilation 4": (Conv2dSpec(4, 8, 3, 2, padding=4, dilation=4), (11, 10)),
    "stride 6 of dilation 4": (Conv2dSpec(4, 8, 4, 6, padding=5, dilation=4), (19, 21)),
    "stride 4 of dilation 6": (Conv2dSpec(4, 8, 3, 4, padding=(7, 1), dilation=6), (19, 21)),
    "stride 3 of dilation 2": (Conv2dSpec(4, 8, 3, 3, padding=2, dilation=2), (11, 13)),
    "strides differ": (Conv2dSpec(4, 8, (3, 5), (1, 3), padding=(1, 2)), (6, 14)),
    "1x1 strided, rows left over": (Conv2dSpec(16, 24, 1, 2), (8, 10)),
    "1x1 with padding": (Conv2dSpec(5, 7, 1, padding=2), (3, 4)),
    "1x1 strided with odd padding": (Conv2dSpec(5, 7, 1, 2, padding=((1, 2), (3, 0))), (6, 7)),
    "1x1 dilated": (Conv2dSpec(5, 7, 1, dilation=5), (6, 7)),
    "huge padding": (Conv2dSpec(2, 3, 3, padding=40), (2, 3)),
    "padding that no kernel position leaves": (Conv2dSpec(2, 3, 2, padding=((9, 0), (0, 9))), (1, 1)),
    "row kernel": (Conv2dSpec(7, 9, (1, 7), padding=(0, 3)), (6, 11)),
    "column kernel": (Conv2dSpec(7, 9, (7, 1), padding=(3, 0)), (11, 6)),
    "large kernel": (Conv2dSpec(2, 4, 31, padding=15), (20, 18)),
    "one row": (Conv2dSpec(3, 20, (1, 3), padding=(0, 1)), (1, 200)),
    "one column": (Conv2dSpec(3, 20, (3, 1), padding=(1, 0)), (200, 1)),
    "wide image": (Conv2dSpec(1, 2, 3, padding=1), (2, 3000)),
    "tall image": (Conv2dSpec(1, 2, 3, padding=1), (3000, 2)),
    "many channels": (Conv2dSpec(1030, 70, 1), (2, 2)),
    "many outputs": (Conv2dSpec(3, 1030, 3), (3, 4)),
    "channels that are multiples of a page": (Conv2dSpec(1024, 16, 3, padding=1), (4, 4)),
    "grouped, dilated, strided, one-sided": (
        Conv2dSpec(12, 18, (3, 2), (2, 3), ((2, 0), (0, 3)), (3, 2), groups=6),
        (11, 9),
    ),
    "kernel in parts": (Conv2dSpec(130, 40, 15, padding=7), (9, 8)),
    "kernel in parts, grouped and strided": (Conv2dSpec(260, 10, 11, 3, padding=5, groups=2), (12, 10)),
    "rows in blocks of columns": (Conv2dSpec(70, 9, 3, padding=1), (3, 1500)),
    "rows in blocks of columns, dilated": (Conv2dSpec(40, 9, 3, padding=20, dilation=20), (5, 1500)),
    "rows in blocks of columns, strided": (Conv2dSpec(40, 9, (2, 5), (1, 4), padding=(0, 3)), (2, 3000)),
    "blocks that lie in the padding to the sides": (Conv2dSpec(70, 9, 3, padding=((0, 0), (2500, 2500))), (3, 5)),
    "blocks that lie in the padding above and below": (Conv2dSpec(70, 9, 3, padding=((700, 600), (1, 1))), (3, 9)),
    "pointwise, many pixels": (Conv2dSpec(33, 17, 1), (70, 71)),
    "depthwise, many channels": (Conv2dSpec(300, 300, 5, padding=2, groups=300), (9, 10)),
    "depthwise, many rows": (Conv2dSpec(40, 40, 3, 2, padding=1, groups=40), (150, 90)),
    "without bias": (Conv2dSpec(3, 8, 3, bias=False), (5, 5)),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_geometry(name: str, dtype: str) -> None:
    spec, size = GEOMETRIES[name]
    data = Data.of(Case(spec, size, dtype=dtype))
    for layouts in (NHWC, ("NCHW", "NCHW", "NCHW")):
        check(Case(spec, size, dtype=dtype, layouts=layouts), data)


@pytest.mark.parametrize("y_layout", LAYOUTS)
@pytest.mark.parametrize("x_layout", LAYOUTS)
def test_layouts(x_layout: str, y_layout: str) -> None:
    for w_layout, channels in (("NCHW", 5), ("NHWC", 19), ("flipped", 2)):
        for kernel, stride in ((3, 2), (1, 1)):
            spec = Conv2dSpec(2 * channels, 34, kernel, stride, padding=kernel // 2, groups=2)
            check(Case(spec, (5, 7), layouts=(x_layout, w_layout, y_layout)))


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("axes", [(0,), (1,), (2, 3), (0, 1, 2, 3)])
def test_inputs_whose_numbers_repeat_in_memory(kernel: int, axes: tuple[int, ...]) -> None:
    spec = Conv2dSpec(4, 6, kernel, padding=kernel // 2)
    case = Case(spec, (5, 6))
    whole = Data.of(case)
    x, dy = (
        np.broadcast_to(a[tuple(slice(0, 1) if axis in axes else slice(None) for axis in range(4))], a.shape)
        for a in (whole.x, whole.dy)
    )
    data = Data(spec, x, whole.w, whole.bias, dy)
    agree(case, data, "y", engine.conv2d(x, data.w, data.bias, spec))
    agree(case, data, "dx", engine.input_gradient(dy, data.w, case.size, spec))
    agree(case, data, "dw", engine.weight_gradient(x, dy, spec))
    agree(case, data, "db", engine.bias_gradient(dy))


def test_an_empty_batch_has_empty_results_and_gradients_of_zero() -> None:
    for spec in (Conv2dSpec(3, 8, 3, 2, padding=1), Conv2dSpec(8, 8, 3, groups=8), Conv2dSpec(3, 8, 1)):
        check(Case(spec, (7, 7), batch=0))


@pytest.mark.parametrize("threads", [1, 2, 5, 16])
def test_threads(threads: int) -> None:
    for spec, size in (
        (Conv2dSpec(16, 40, 3, padding=1), (15, 13)),
        (Conv2dSpec(16, 16, 3, 2, padding=1, groups=16), (31, 30)),
        (Conv2dSpec(64, 8, 1), (20, 21)),
        (Conv2dSpec(3, 5, 7, 2, padding=3), (33, 31)),
    ):
        check(Case(spec, size, batch=3, layouts=NHWC, threads=threads))
        check(Case(spec, size, batch=1, threads=threads))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_forward_and_input_gradient_do_not_depend_on_the_number_of_threads(dtype: str) -> None:
    """Every algorithm that applies; which of them is chosen may depend on it."""
    for spec, size in (
        (Conv2dSpec(24, 40, 3, padding=1), (28, 30)),
        (Conv2dSpec(64, 64, 1), (28, 30)),
        (Conv2dSpec(32, 32, 3, 2, padding=1, groups=32), (41, 40)),
        (Conv2dSpec(700, 40, 5, padding=2), (9, 9)),
        (Conv2dSpec(130, 100, 3, padding=1), (47, 50)),
    ):
        data = Data.of(Case(spec, size, dtype=dtype))
        problem = Problem.of(spec, data.x.shape[0], size, dtype, channels_last=False)
        for choice in choices(problem, Pass.FORWARD):
            name = choice.algorithm.name
            y = [engine.conv2d(data.x, data.w, data.bias, spec, threads=n, algorithm=name) for n in (1, 2, 3, 5)]
            assert len({array.tobytes() for array in y}) == 1, (spec, name)
        for choice in choices(problem, Pass.INPUT_GRADIENT):
            name = choice.algorithm.name
            dx = [engine.input_gradient(data.dy, data.w, size, spec, threads=n, algorithm=name) for n in (1, 2, 3, 5)]
            assert len({array.tobytes() for array in dx}) == 1, (spec, name)


def test_every_pass_repeats_itself_bit_for_bit() -> None:
    spec = Conv2dSpec(24, 40, 3, 2, padding=1)
    data = Data.of(Case(spec, (28, 30)))
    for run in (
        lambda: engine.conv2d(data.x, data.w, data.bias, spec, threads=2),
        lambda: engine.input_gradient(data.dy, data.w, (28, 30), spec, threads=2),
        lambda: engine.weight_gradient(data.x, data.dy, spec, threads=2),
        lambda: engine.bias_gradient(data.dy, threads=2),
    ):
        assert len({run().tobytes() for _ in range(4)}) == 1


def test_long_sums_stay_exact() -> None:
    """200,000 pixels into one weight, 40,000 products into one output: partial sums keep the rounding down."""
    check(Case(Conv2dSpec(2, 3, 3, padding=1), (320, 320), batch=2, layouts=NHWC))
    check(Case(Conv2dSpec(1600, 4, 5), (5, 6), batch=1, layouts=NHWC))


def test_not_finite_inputs_reach_the_outputs_that_they_are_part_of_and_no_other() -> None:
    spec = Conv2dSpec(3, 40, 3, padding=1)
    data = Data.of(Case(spec, (6, 7), batch=1))
    for bad in (np.nan, np.inf, -np.inf):
        x = data.x.copy()
        x[0, 1, 2, 3] = bad
        for layout in ("NCHW", "NHWC"):
            y = engine.conv2d(embed(x, layout, 0)[1], data.w, None, spec)
            touched = np.zeros((6, 7), bool)
            touched[1:4, 2:5] = True
            assert (np.isfinite(y) == ~touched).all(), layout


def test_numbers_of_extreme_size() -> None:
    spec = Conv2dSpec(3, 8, 3, padding=1)
    case = Case(spec, (5, 5))
    data = Data.of(case)
    for scale in (1e-30, 1e30):
        scaled = Data(spec, (data.x * np.float32(scale)), data.w, data.bias, data.dy)
        agree(case, scaled, "y", engine.conv2d(scaled.x, scaled.w, scaled.bias, spec))
        agree(case, scaled, "dw", engine.weight_gradient(scaled.x, scaled.dy, spec))


@pytest.mark.parametrize("offset", range(1, 4))
def test_addresses_that_are_aligned_to_nothing_but_the_number(offset: int) -> None:
    spec = Conv2dSpec(16, 32, 3, padding=1)
    case = Case(spec, (6, 6))
    data = Data.of(case)

    def shifted(values: np.ndarray) -> np.ndarray:
        buffer = np.empty(values.size + 16, values.dtype)
        start = (-buffer.ctypes.data % 64) // 4 + offset
        view = buffer[start : start + values.size].reshape(values.shape)
        view[...] = values
        return view

    agree(case, data, "y", engine.conv2d(shifted(data.x), shifted(data.w), shifted(data.bias), spec))
    agree(case, data, "dx", engine.input_gradient(shifted(data.dy), shifted(data.w), case.size, spec))
    agree(case, data, "dw", engine.weight_gradient(shifted(data.x), shifted(data.dy), spec))


def test_data_that_may_only_be_read() -> None:
    spec = Conv2dSpec(4, 6, 3)
    data = Data.of(Case(spec, (5, 5)))
    for array in (data.x, data.w, data.bias, data.dy):
        array.setflags(write=False)
    before = [a.tobytes() for a in (data.x, data.w, data.bias, data.dy)]
    engine.conv2d(data.x, data.w, data.bias, spec)
    engine.input_gradient(data.dy, data.w, (5, 5), spec)
    engine.weight_gradient(data.x, data.dy, spec)
    assert before == [a.tobytes() for a in (data.x, data.w, data.bias, data.dy)]


def test_mistakes_are_named() -> None:
    x, w = np.ones((1, 1, 4, 4), np.float32), np.ones((1, 1, 3, 3), np.float32)
    with pytest.raises(TypeError, match="float64"):
        engine.conv2d(x, w.astype(np.float64), None, Conv2dSpec(1, 1, 3))
    with pytest.raises(TypeError, match="int64"):
        engine.conv2d(x.astype(np.int64), w.astype(np.int64), None, Conv2dSpec(1, 1, 3))
    with pytest.raises(ValueError, match="reflect"):
        engine.conv2d(x, w, None, Conv2dSpec(1, 1, 3, padding=1, padding_mode="reflect"))
    with pytest.raises(SpecError, match="cannot be applied"):
        engine.conv2d(x, w, None, Conv2dSpec(1, 1, 5))


@pytest.mark.parametrize("what", ["x channels", "w shape", "y shape", "dy shape", "bias length"])
def test_arrays_that_do_not_fit_the_spec_are_refused_before_memory_is_touched(what: str) -> None:
    """The kernels know addresses only: a wrong shape would read or write beside the arrays."""
    spec = Conv2dSpec(4, 8, 3)
    x, w = np.ones((1, 4, 6, 6), np.float32), np.ones((8, 4, 3, 3), np.float32)
    dy, bias = np.ones((1, 8, 4, 4), np.float32), np.ones(8, np.float32)
    with pytest.raises(ValueError):
        if what == "x channels":
            engine.conv2d(x[:, :3], w, None, spec)
        elif what == "w shape":
            engine.conv2d(x, w[:, :, :2], None, spec)
        elif what == "y shape":
            engine.conv2d(x, w, None, spec, out=np.empty((1, 8, 3, 4), np.float32))
        elif what == "dy shape":
            engine.input_gradient(dy[:, :, :3], w, (6, 6), spec)
        else:
            engine.conv2d(x, w, bias[:5], spec)


def test_more_cores_asked_for_than_there_are() -> None:
    check(Case(Conv2dSpec(32, 32, 3, padding=1), (20, 20), threads=4 * (os.cpu_count() or 1)))


@pytest.mark.parametrize(
    "layouts", [NHWC, ("NCHW", "NHWC", "NHWC"), ("NHWC slice", "NHWC", "NHWC"), ("NHWC", "NCHW", "NHWC")]
)
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "width"), [(2, 2, 0, 8), (4, 2, 2, 6), (6, 3, 3, 9), (2, 2, 0, 7)]
)
def test_phases_of_the_input_gradient_that_lie_side_by_side(
    layouts: tuple[str, str, str], kernel: int, stride: int, padding: int, width: int
) -> None:
    spec = Conv2dSpec(19, 21, kernel, stride, padding)
    check(Case(spec, (9, width), layouts=layouts, algorithm="direct", passes=("dx",)))
    problem = Problem.of(spec, 1, (9, width))
    assert len(list(problem.input_gradient())) == (stride if width % stride == 0 else stride**2)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_weight_gradients_of_every_division_of_the_work(threads: int) -> None:
    """Panels that do not come out even, few and many pixels, more inputs than outputs and the other way round."""
    for spec, size in (
        (Conv2dSpec(33, 112, 3, padding=1), (6, 7)),
        (Conv2dSpec(130, 33, 1), (7, 7)),
        (Conv2dSpec(40, 70, 1, 2), (35, 33)),
        (Conv2dSpec(70, 40, 1), (33, 35)),
        (Conv2dSpec(1, 40, 1), (9, 9)),
        (Conv2dSpec(3, 12, 1, 2, groups=3), (40, 41)),
        (Conv2dSpec(40, 1, 1, padding=1), (5, 6)),
    ):
        for layouts in (NHWC, ("NCHW", "NCHW", "NCHW"), ("NHWC", "NCHW", "NHWC slice")):
            check(Case(spec, size, layouts=layouts, threads=threads, algorithm="direct", passes=("dw",)))
