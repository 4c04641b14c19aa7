"""Winograd's convolution, by name, where tiles, blocks and chunks go wrong; and its matrices, exactly."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from itertools import cycle, product

import numpy as np
import pytest
from oracle import LAYOUTS, Case, Data, agree, check, choices

from convforge import Conv2dSpec, engine, reference
from convforge.bench.layers import parse
from convforge.engine import passes
from convforge.engine.algorithms import winograd, winograd_weight_gradient
from convforge.engine.algorithms.winograd_weight_gradient import Division, divided
from convforge.engine.geometry import Problem
from convforge.engine.kernels.cook_toom import POINTS, Matrix, short_convolution
from convforge.engine.kernels.winograd_tiles import Shape, Tiled
from convforge.engine.plan import Job, Pass
from convforge.errors import UserError
from convforge.native import runtime
from convforge.native import target as targets

TILES = ("winograd 4×4", "winograd 2×2")
NHWC = ("NHWC", "NHWC", "NHWC")


@pytest.mark.parametrize("points", sorted(POINTS))
def test_the_matrices_are_exact_for_every_number_of_outputs(points: int) -> None:
    numbers = random.Random(points)

    def some(count: int) -> list[Fraction]:
        return [Fraction(numbers.randint(-99, 99), numbers.randint(1, 9)) for _ in range(count)]

    def times(matrix: Matrix, vector: list[Fraction]) -> list[Fraction]:
        return [sum((a * b for a, b in zip(row, vector, strict=True)), Fraction(0)) for row in matrix]

    for outputs in range(1, points + 1):
        taps = points + 1 - outputs
        f, x, w = short_convolution(outputs, taps), some(points), some(taps)
        products = [a * b for a, b in zip(times(f.kernel, w), times(f.into, x), strict=True)]
        assert times(f.out, products) == [sum(x[i + k] * w[k] for k in range(taps)) for i in range(outputs)]


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("channels", [1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 47, 48, 49, 64, 65, 130])
def test_every_tail_of_channels(channels: int, tile: str) -> None:
    other = 1 + channels * 11 % 70
    for layouts in (NHWC, ("NCHW", "NCHW", "NCHW")):
        spec = Conv2dSpec(channels, other, 3, padding=1)
        check(Case(spec, (5, 6), layouts=layouts, exact=False, algorithm=tile))


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (3, 2), (4, 4), (5, 4), (6, 7), (8, 9), (13, 1), (1, 15), (17, 19)])
def test_every_rest_of_a_tile(size: tuple[int, int], tile: str) -> None:
    for padding in (1, 2, ((0, 2), (1, 3)), ((5, 0), (0, 6)), ((2, 2), (9, 9))):
        spec = Conv2dSpec(5, 34, 3, padding=padding)  # type: ignore[arg-type]
        check(Case(spec, size, layouts=NHWC, exact=False, algorithm=tile))
    if min(size) >= 3:
        check(Case(Conv2dSpec(20, 6, 3), size, layouts=NHWC, exact=False, algorithm=tile))


@pytest.mark.parametrize("y_layout", LAYOUTS)
@pytest.mark.parametrize("x_layout", LAYOUTS)
def test_layouts(x_layout: str, y_layout: str) -> None:
    for tile, w_layout, channels in zip(TILES, ("NCHW", "flipped"), (19, 6), strict=True):
        spec = Conv2dSpec(2 * channels, 36, 3, padding=1, groups=2)
        check(Case(spec, (6, 7), layouts=(x_layout, w_layout, y_layout), exact=False, algorithm=tile))


@pytest.mark.parametrize("size", [(4, 4), (7, 9), (12, 23)])
def test_kernels_of_five_taps_and_gaps(size: tuple[int, int]) -> None:
    for tile, kernel, dilation in (
        ("winograd 2×2 of 5×5", 5, 1),
        ("winograd 2×2 of 5×5", 5, (2, 1)),
        ("winograd 4×4", 3, 2),
        ("winograd 4×4", 3, (1, 5)),
        ("winograd 2×2", 3, (3, 2)),
    ):
        spec = Conv2dSpec(19, 35, kernel, padding=((4, 5), (7, 6)), dilation=dilation)
        check(Case(spec, size, layouts=NHWC, exact=False, algorithm=tile))


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("groups", [2, 3, 5])
def test_groups(groups: int, tile: str) -> None:
    for inputs, outputs in ((2, 3), (17, 4), (16, 40)):
        spec = Conv2dSpec(groups * inputs, groups * outputs, 3, padding=1, groups=groups)
        check(Case(spec, (7, 6), layouts=NHWC, exact=False, algorithm=tile))


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_blocks_and_chunks_on_any_number_of_threads(threads: int, tile: str) -> None:
    for spec, size, batch in (
        (Conv2dSpec(16, 40, 3, padding=1), (30, 33), 2),  # blocks
        (Conv2dSpec(520, 33, 3, padding=1), (13, 9), 2),  # sums in two parts
        (Conv2dSpec(24, 24, 3, padding=1, bias=False), (47, 50), 3),  # a weight gradient of several chunks
        (Conv2dSpec(300, 300, 3, padding=1), (4, 4), 1),  # few tiles, many weights
    ):
        check(Case(spec, size, batch=batch, layouts=NHWC, threads=threads, exact=False, algorithm=tile))


DIVISIONS = ((1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 1, 2), (3, 2, 2), (1, 3, 5), (40, 1, 1))


@pytest.mark.parametrize("few", [False, True], ids=["one chunk", "chunks"])
@pytest.mark.parametrize("name", targets.available())
@pytest.mark.parametrize(
    ("spec", "size", "tile"),
    [
        (Conv2dSpec(40, 70, 3, padding=1), (13, 11), "winograd 4×4"),
        (Conv2dSpec(21, 70, 3, padding=((0, 3), (2, 1)), groups=1, dilation=(1, 2)), (7, 13), "winograd 4×4"),
        (Conv2dSpec(18, 78, 3, padding=1, groups=2), (5, 6), "winograd 2×2"),
        (Conv2dSpec(33, 17, 5, padding=2), (6, 9), "winograd 2×2 of 5×5"),
    ],
    ids=["3x3", "gaps", "groups", "5x5"],
)
def test_weight_gradients_however_the_work_is_divided(
    spec: Conv2dSpec, size: tuple[int, int], tile: str, name: str, few: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Splits, parts and chunks, more and fewer than there are threads, tiles and channels, in memory full of NaN."""
    monkeypatch.setenv("CONVFORGE_TARGET", name)
    cases = [Case(spec, size, layouts=(x, w, x), exact=False, algorithm=tile, passes=("dw",)) for x, w in (
        ("NHWC", "NHWC"), ("NHWC", "NCHW"), ("NCHW", "flipped"),
    )]  # fmt: skip
    data = Data.of(cases[0])

    def division(parts: tuple[int, int, int]) -> Callable[[Job, Tiled], Division]:
        def of(job: Job, tiled: Tiled) -> Division:
            target = replace(job.target, l2_bytes=20_000 if few else job.target.l2_bytes)
            return Division.of(replace(job, target=target), tiled, *parts)

        return of

    monkeypatch.setattr(passes, "_prepared", passes._prepared.__wrapped__)  # what is kept was divided otherwise
    for threads, (case, parts) in zip(cycle((1, 2, 3, 5, 16)), product(cases, DIVISIONS), strict=False):
        monkeypatch.setattr(winograd_weight_gradient, "divided", division(parts))
        runtime.workspace(4 << 20)
        runtime._workspace.buffer.fill(255)
        check(replace(case, threads=threads), data)


@pytest.mark.parametrize("threads", [1, 2, 3, 5, 16])
def test_work_is_divided_by_what_there_is_much_of(threads: int) -> None:
    def of(text: str, batch: int = 1) -> Division:
        layer = parse(text, batch)
        job = Job(Problem.of(layer.spec, layer.batch, layer.size), Pass.WEIGHT_GRADIENT, target, threads)
        (s,) = job.slidings
        tiled = Tiled(s, Shape(4, 3))
        found = divided(job, tiled)
        assert found == Division.of(job, tiled, found.splits, found.k_parts, found.c_parts)
        assert found.memory(threads) <= runtime.KEPT_BYTES
        return found

    target = replace(targets.current(), vector_bytes=64, tile_rows=14, l2_bytes=1 << 20, l3_bytes=32 << 20)
    images, weights, both = (
        of("16,56x56,16,3x3,padding=1", 16),
        of("512,8x8,512,3x3,padding=1"),
        of("1,2,1,3,padding=1"),
    )
    assert (images.splits, images.k_parts, images.c_parts) == (threads, 1, 1)
    assert weights.splits == 1
    assert weights.k_parts * weights.c_parts == threads
    assert (both.splits, both.k_parts, both.c_parts) == (1, 1, 1), "one tile of one channel is not to be divided"
    huge = of("1024,32x32,1024,3x3,padding=1", 16)
    assert huge.splits * huge.k_parts * huge.c_parts > threads, "S would have 151 MB"


def test_splits_in_several_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches so large that the transformed tiles are cut into chunks, here with a cache of nearly nothing."""
    tiny = replace(targets.current(), l1_bytes=4096, l2_bytes=16384, l3_bytes=65536)
    monkeypatch.setattr(passes, "current", lambda: tiny)
    for tile in TILES:
        spec = Conv2dSpec(70, 66, 3, padding=1, groups=2)
        check(Case(spec, (21, 22), batch=3, layouts=NHWC, exact=False, algorithm=tile))


@pytest.mark.parametrize("tile", TILES)
def test_in_float64_nothing_but_rounding_is_left(tile: str) -> None:
    spec = Conv2dSpec(33, 40, 3, padding=1)
    check(Case(spec, (11, 10), dtype="float64", layouts=NHWC, exact=False, algorithm=tile))


def test_weights_that_were_packed_before_give_the_same_numbers() -> None:
    spec, random_numbers = Conv2dSpec(40, 50, 3, padding=1, bias=False), np.random.default_rng(1)
    problem = Problem.of(spec, 2, (9, 9), channels_last=False)
    x, w = (random_numbers.standard_normal(s).astype(np.float32) for s in (problem.x_shape, problem.w_shape))
    for tile in TILES:
        prepared = passes.prepare(problem, Pass.FORWARD, 2, algorithm=tile)
        y, again = np.empty(problem.y_shape, np.float32), np.empty(problem.y_shape, np.float32)
        prepared.run(x=x.ctypes.data, w=w.ctypes.data, y=y.ctypes.data)
        kept = np.empty(prepared.packed_bytes + 64, np.uint8)
        address = kept.ctypes.data + -kept.ctypes.data % 64
        prepared.pack(w.ctypes.data, address)
        runtime.workspace(prepared.work_bytes(packed=True))
        prepared.run(packed=address, x=x.ctypes.data, w=0, y=again.ctypes.data)
        assert y.tobytes() == again.tobytes()
        wanted = reference.conv2d(x, w, None, spec)
        assert np.linalg.norm(y - wanted) < 3e-6 * np.linalg.norm(wanted)


@pytest.mark.parametrize("cpu", targets.available())
@pytest.mark.parametrize("which", [Pass.FORWARD, Pass.INPUT_GRADIENT])
@pytest.mark.parametrize(
    ("spec", "shape"),
    [
        (Conv2dSpec(40, 50, 3, padding=1), Shape(4, 3)),
        (Conv2dSpec(133, 37, 3, padding=2), Shape(2, 3)),  # pieces and parts that are not full, a panel of one vector
        (Conv2dSpec(68, 6, 3, dilation=2, padding=2, groups=2), Shape(4, 3)),
        (Conv2dSpec(33, 70, 5, padding=2), Shape(2, 5)),
    ],
)
def test_weights_that_are_kept_as_taps_give_the_numbers_of_weights_as_they_are(
    spec: Conv2dSpec, shape: Shape, which: Pass, cpu: str
) -> None:
    """In every bit: both become U piece by piece."""
    problem, draw = Problem.of(spec, 2, (9, 10)), np.random.default_rng(3)
    shapes = {"x": problem.x_shape, "w": problem.w_shape, "y": problem.y_shape}
    arrays = {name: draw.standard_normal(numbers).astype(np.float32) for name, numbers in shapes.items()}
    for name in arrays:  # channels last
        arrays[name] = np.ascontiguousarray(arrays[name].transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    result = which.roles[2]
    for threads in (1, 2, 3):
        job = Job.of(problem, which, threads, kept=True, target=targets.named(cpu), cold=True)
        plan = winograd.plan(job, shape)
        assert isinstance(plan, winograd.Winograd)
        weights = winograd.Weights.KEPT_TAPS
        plan = replace(plan, taps=True, division=winograd.divided(job, plan.tiled, weights))
        assert winograd.in_pieces(job, plan.tiled)
        prepared = plan.prepared("winograd")
        address, memory = runtime.memory(prepared.packed_bytes)
        memory.fill(255)  # NaN
        prepared.pack(arrays["w"].ctypes.data, address)
        found = []
        for packed in (0, address):
            arrays[result] = np.full_like(arrays[result], np.nan)
            at = {name: array.ctypes.data for name, array in arrays.items()} | ({"w": 0} if packed else {})
            prepared.run(packed, **at)
            found.append(arrays[result])
        assert found[0].tobytes() == found[1].tobytes()
    x, w, y = arrays["x"], arrays["w"], arrays["y"]
    backward = which is Pass.INPUT_GRADIENT
    wanted = reference.input_gradient(y, w, (9, 10), spec) if backward else reference.conv2d(x, w, None, spec)
    assert np.linalg.norm(arrays[result] - wanted) < 3e-6 * np.linalg.norm(wanted)


def test_the_error_stays_within_the_bound_where_sums_are_long() -> None:
    for channels in (256, 512, 1200):
        case = Case(Conv2dSpec(channels, 16, 3, padding=1), (12, 12), batch=1, layouts=NHWC, exact=False)
        data = Data.of(case)
        for tile in TILES:
            got = engine.conv2d(data.x, data.w, data.bias, case.spec, algorithm=tile)
            agree(case, data, "y", got)


def test_who_asks_for_exactness_or_float64_gets_no_rearranged_products() -> None:
    spec = Conv2dSpec(64, 64, 3, padding=1)
    for which in Pass:
        single, double = (Problem.of(spec, 1, (56, 56), dtype) for dtype in ("float32", "float64"))
        assert choices(single, which)[0].algorithm.name == "winograd 4×4"
        assert all(choice.algorithm.exact for choice in choices(single, which, exact=True))
        assert all(choice.algorithm.exact for choice in choices(double, which))


@pytest.mark.parametrize(
    "spec",
    [Conv2dSpec(8, 8, 7), Conv2dSpec(8, 8, (3, 5)), Conv2dSpec(8, 8, 3, 2), Conv2dSpec(8, 8, 3, groups=8)],
)
def test_where_it_does_not_apply_the_error_names_what_does(spec: Conv2dSpec) -> None:
    x, w = np.ones((1, 8, 9, 9), np.float32), np.ones(spec.weight_shape, np.float32)
    with pytest.raises(
        UserError, match=r"'winograd 4×4' does not apply to the forward of this convolution: it .+; these do: "
    ):
        engine.conv2d(x, w, None, spec, algorithm="winograd 4×4")
