"""Constants that are computed when they are read: what they are taken for, and that a network keeps none of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convforge import Conv2dSpec
from convforge.graph.deferred import Deferred
from convforge.graph.mapped import in_file, let_go, mapped, still
from convforge.graph.network import Network
from convforge.graph.nodes import BatchNorm, Binary, Convolution, Graph, GraphError, Node
from convforge.inference.compiled import Compiled
from convforge.inference.model import Model

CHANNELS = 24


def draw(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(sum(shape)).uniform(0.5, 1.5, shape).astype(np.float32)


def graph(**changed: np.ndarray[Any, Any]) -> Graph:
    """x · factor, convolved, and a batch norm: both go into the weights."""
    nodes = (
        Node(Binary("mul"), ("x", "factor"), "scaled"),
        Node(Convolution(Conv2dSpec(CHANNELS, CHANNELS, 3, padding=1)), ("scaled", "w"), "sums"),
        Node(BatchNorm(1e-5), ("sums", "weight", "bias", "mean", "var"), "y"),
    )
    constants = {"factor": draw(CHANNELS, 1, 1), "w": draw(CHANNELS, CHANNELS, 3, 3)}
    constants |= {name: draw(CHANNELS) for name in ("weight", "bias", "mean", "var")}
    return Graph({"x": (1, CHANNELS, 9, 7)}, ("y",), nodes, constants | changed)


def agrees(network: Network, of: Graph, *shape: int) -> None:
    x = draw(*shape)
    (expected,) = of.with_input(shape).compute(x=x)
    np.testing.assert_allclose(network(x)[0], expected, rtol=1e-4, atol=1e-4)


def weights(network: Network) -> Deferred:
    (found,) = (constant for constant in network.graph.constants.values() if constant.size == CHANNELS**2 * 9)
    assert isinstance(found, Deferred)
    return found


def test_numpy_takes_it_for_an_array() -> None:
    base = draw(3, 4)
    twice = Deferred(lambda a: a + a, (base,), base.shape, base.dtype)
    assert (twice.shape, twice.ndim, twice.size, twice.nbytes, twice.dtype) == ((3, 4), 2, 12, 48, np.float32)
    for found in (np.asarray(twice), twice[:], twice.reshape(3, 4), twice.T.T[:]):
        assert np.array_equal(found, base + base)
    assert np.array_equal(twice.astype(np.float64), (base + base).astype(np.float64))
    assert np.array_equal(np.asarray(twice, np.float64), (base + base).astype(np.float64))
    again = Deferred(lambda a: -a, (twice,), base.shape, base.dtype)
    assert np.array_equal(again[1], -2 * base[1])
    base[:] = 1  # it is computed of what its sources are now
    assert np.array_equal(again[:], np.full((3, 4), -2, np.float32))


def test_one_that_is_not_what_was_announced_is_no_answer() -> None:
    with pytest.raises(AssertionError, match="was announced"):
        np.asarray(Deferred(lambda a: a, (draw(3),), (4,), np.dtype("float32")))


def test_a_network_keeps_no_weights_that_its_passes_made() -> None:
    network = Network(graph())
    agrees(network, graph(), 1, CHANNELS, 9, 7)
    agrees(network, graph(), 2, CHANNELS, 40, 30)  # packed for another algorithm
    assert weights(network).sources
    packed = sum(network._store.bytes.values())
    room = sum(room for _, _, room in network._free)
    assert network.kept_bytes - packed - room < weights(network).nbytes / 10
    assert f"{weights(network).nbytes:,} computed when they are packed" in network.memory()


def test_new_numbers_are_folded_anew() -> None:
    network = Network(graph())
    agrees(network, graph(), 1, CHANNELS, 9, 7)
    new = graph(w=-draw(CHANNELS, CHANNELS, 3, 3), var=draw(CHANNELS) * 3)
    agrees(network.renewed(new), new, 1, CHANNELS, 9, 7)
    agrees(network, graph(), 1, CHANNELS, 9, 7)


def test_a_bundle_holds_the_numbers(tmp_path: Path) -> None:
    Model(Compiled(graph())).save(tmp_path / "x.bundle")
    import convforge

    x = draw(1, CHANNELS, 9, 7)
    (expected,) = graph().compute(x=x)
    np.testing.assert_allclose(convforge.load(tmp_path / "x.bundle")(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(os.name != "posix", reason="files are read and not mapped on this system")
def test_what_is_computed_of_a_file_is_no_more_than_the_file(tmp_path: Path) -> None:
    path = tmp_path / "numbers"
    path.write_bytes(draw(100).tobytes())
    source = np.frombuffer(mapped(path), np.float32)
    twice = Deferred(lambda a: a * 2, (source,), source.shape, source.dtype)
    assert np.array_equal(still(twice), draw(100) * 2)
    assert not in_file(still(twice))
    let_go(twice)
    assert np.array_equal(still(twice), draw(100) * 2)
    path.write_bytes(bytes(400))
    with pytest.raises(GraphError, match="has been written to since it was loaded"):
        still(twice)
