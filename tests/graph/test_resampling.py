"""Kernels that take pixels from where tables and points say, or put them to places: they compute what the nodes mean in
float64, write every number of their result and nothing beside it, and whatever the points and places are, they read and
write nowhere else."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from convforge.graph.network import Network
from convforge.graph.nodes import Concat, Graph, GridSample, Node, Operation, Pooling, PoolingPlaces, Resize, Unpooling
from convforge.graph.operations.sampling import BEYOND, MODES

CHANNELS = (1, 3, 21, 40)
"""With and without vectors, whole ones and tails."""
CLOSE = {"float32": 3e-6, "float64": 1e-13}
AROUND = 64

Array = np.ndarray[Any, Any]


def images(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape)


def laid(x: Array, last: bool) -> Array:
    """With the channels of a pixel side by side, or with the pixels of a channel."""
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2) if last else np.ascontiguousarray(x)


def written(graph: Graph, arrays: list[Array], dtype: str, last: bool) -> Array:
    """The first output, which was not a number before, as nothing around it is still."""
    network = Network(graph, threads=2, dtype=dtype)
    given = [laid(a.astype(dtype), last) for a in arrays]
    planned = network.planned(*given, channels_last=(last,))
    n, c, h, w = planned.outputs[0].shape
    room = np.full(n * c * h * w + 2 * AROUND, np.nan, dtype)
    network.run(planned, [a.ctypes.data for a in given], [room[AROUND:].ctypes.data])
    assert np.isnan(room[:AROUND]).all()
    assert np.isnan(room[-AROUND:]).all()
    inside = room[AROUND:-AROUND]
    return inside.reshape(n, h, w, c).transpose(0, 3, 1, 2) if last else inside.reshape(n, c, h, w)


def alone(operation: Operation, *arrays: Array) -> Graph:
    names = tuple(f"x{n}" for n in range(len(arrays)))
    shapes = {name: array.shape for name, array in zip(names, arrays, strict=True)}
    return Graph(shapes, ("y",), (Node(operation, names, "y"),), {})


def check(operation: Operation, *arrays: Array) -> None:
    """In both number formats and both layouts."""
    graph = alone(operation, *arrays)
    for dtype, last in itertools.product(CLOSE, (True, False)):
        given = {name: array.astype(dtype) for name, array in zip(graph.inputs, arrays, strict=True)}
        (wanted,) = graph.compute(**given)
        made = written(graph, list(arrays), dtype, last)
        assert np.linalg.norm(made - wanted) <= CLOSE[dtype] * np.linalg.norm(wanted), (operation, dtype, last)


# ---------------------------------------------------------------------------------------------------------------------
# Smaller, so that every row counts
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", CHANNELS)
def test_smoothed_images_of_another_size(channels: int) -> None:
    x = images(2, channels, 13, 7)
    for mode, inside in (("bilinear", True), ("bicubic", False)):
        how: dict[str, Any] = {"mode": mode, "coordinates": "half_pixel", "antialias": True, "inside": inside}
        for size in ((3, 5), (1, 1), (20, 2), (13, 3), (13, 7)):
            check(Resize(size, **how), x)
        check(Resize(scales=(0.4, 1.3), **how), x)


def test_an_infinity_stays_out_of_rows_without_a_share_of_it() -> None:
    x = images(1, 8, 12, 12)
    x[0, :, 0, 11] = np.inf
    operation = Resize((4, 4), mode="bilinear", coordinates="half_pixel", antialias=True, inside=True)
    (wanted,) = alone(operation, x).compute(x0=x)
    assert 0 < np.isinf(wanted).sum() < wanted.size / 4
    made = written(alone(operation, x), [x], "float32", True)
    np.testing.assert_array_equal(np.isfinite(made), np.isfinite(wanted))


# ---------------------------------------------------------------------------------------------------------------------
# At the points of a grid
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("beyond", BEYOND)
def test_pixels_at_the_points_of_a_grid(mode: str, beyond: str) -> None:
    for channels, align in zip(CHANNELS, (False, True, False, True), strict=True):
        for align_corners, (height, width) in ((align, (7, 9)), (not align, (1, 4))):
            # So that float32 has each pixel's place exactly, those half-way between two and far outside among them.
            points = np.random.default_rng(1).integers(-160, 160, (2, 5, 6, 2)) / 64
            points[1, 4] *= 30
            check(GridSample(mode, beyond, align_corners), images(2, channels, height, width), points)


@pytest.mark.filterwarnings("ignore:invalid value encountered")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("beyond", BEYOND)
def test_points_that_are_no_points_read_nothing_else(mode: str, beyond: str) -> None:
    x, points = images(1, 5, 6, 8), np.random.default_rng(1).uniform(-1, 1, (1, 4, 6, 2))
    points[0, 1, :, 0] = np.nan, np.inf, -np.inf, 1e38, -1e38, 2.0**63
    graph = alone(GridSample(mode, beyond), x, points)
    (wanted,) = graph.compute(x0=x, x1=points)
    made = written(graph, [x, points], "float32", False)
    assert np.isnan(made[:, :, 1, 0]).all()
    np.testing.assert_allclose(np.delete(made, 1, 2), np.delete(wanted, 1, 2), rtol=1e-4, atol=1e-5)


def test_an_infinity_stays_out_of_points_beyond_the_image() -> None:
    """A pixel that is not taken is not multiplied by zero."""
    x = np.full((1, 4, 3, 3), np.inf)
    made = written(alone(GridSample(), x, np.full((1, 2, 2, 2), 3.0)), [x, np.full((1, 2, 2, 2), 3.0)], "float32", True)
    np.testing.assert_array_equal(made, 0)


# ---------------------------------------------------------------------------------------------------------------------
# Places
# ---------------------------------------------------------------------------------------------------------------------

WINDOWS = (
    Pooling("max", (3, 2), (2, 1), ((1, 1), (1, 1)), (1, 2)),
    Pooling("max", (2, 2), (2, 2), ceil=True),
    Pooling("max", (3, 3), (2, 2), ((1, 1), (1, 0)), ceil=True),
)


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("pooling", WINDOWS)
def test_places_of_the_largest_numbers_and_back(pooling: Pooling, channels: int) -> None:
    x = images(2, channels, 9, 7).round(1)  # so that there are equal ones
    for whole, columns_first in itertools.product((False, True), repeat=2):
        operation = PoolingPlaces(pooling, whole, columns_first)
        for dtype, last in itertools.product(CLOSE, (True, False)):
            made = written(alone(operation, x), [x], dtype, last)
            np.testing.assert_array_equal(made, operation.compute(x.astype(dtype)))
    places = PoolingPlaces(pooling).compute(x)
    check(Unpooling((9, 7)), images(*places.shape), places)
    check(Unpooling(like=True), images(*places.shape), places, x)


def test_places_of_what_is_no_number() -> None:
    """Of several the last, as in torch, whose place is the first one where there is nothing but −∞."""
    x = images(1, 9, 8, 6)
    x[0, 1, 3, 2] = x[0, 1, 3, 3] = x[0, 4, 7, 5] = np.nan
    x[0, 2] = -np.inf
    operation = PoolingPlaces(Pooling("max", (3, 3), (1, 1), ((1, 1), (1, 1))))
    np.testing.assert_array_equal(written(alone(operation, x), [x], "float32", True), operation.compute(x))


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_numbers_put_back_into_a_part_of_an_image(axis: int) -> None:
    """Where rows do not lie one behind the other."""
    x = images(2, 6, 8, 4)
    places = PoolingPlaces(WINDOWS[1]).compute(x)
    values = images(*places.shape)
    nodes = (Node(Unpooling((8, 4)), ("values", "places"), "u"), Node(Concat(axis), ("x", "u", "x"), "y"))
    graph = Graph({"values": values.shape, "places": places.shape, "x": x.shape}, ("y",), nodes, {})
    made = written(graph, [values, places, x], "float64", True)
    np.testing.assert_array_equal(made, graph.compute(values=values, places=places, x=x)[0])


def test_places_that_are_no_places_write_nothing_else() -> None:
    values = images(1, 3, 2, 4)
    for place in (-1.0, np.nan, np.inf, -np.inf, 1e30, 2.0**63, 2.0**53, 35.0, 1e6):
        places = np.full(values.shape, place)
        made = written(alone(Unpooling((5, 7)), values, places), [values, places], "float32", True)
        assert (made != 0).sum() == 3, place  # one place a channel, that has the last number
        np.testing.assert_array_equal(made.sum((2, 3)), values.astype(np.float32)[:, :, -1, -1])
