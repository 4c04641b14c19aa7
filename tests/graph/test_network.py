"""A network whose constants change, and where its outputs are written."""

from __future__ import annotations

import math

import numpy as np
import pytest

from convforge import Conv2dSpec
from convforge.graph.network import Network
from convforge.graph.nodes import BatchNorm, Compare, Convolution, Graph, Node, Reduce, Unary, Where
from convforge.graph.operations.elementwise import COMPARISONS
from convforge.native import target as targets


def graph(seed: int) -> Graph:
    """A convolution, batch norm, an activation; the images and their means."""
    rng = np.random.default_rng(seed)
    weights = {"w": (24, 5, 3, 3), "scale": (24,), "shift": (24,), "mean": (24,), "variance": (24,)}
    constants = {name: rng.uniform(0.5, 1.5, shape).astype(np.float32) for name, shape in weights.items()}
    nodes = (
        Node(Convolution(Conv2dSpec(5, 24, (3, 3), padding=1)), ("x", "w"), "c"),
        Node(BatchNorm(1e-5), ("c", "scale", "shift", "mean", "variance"), "n"),
        Node(Unary("relu"), ("n",), "y"),
        Node(Reduce("mean", (2, 3), keep=False), ("y",), "m"),
    )
    return Graph({"x": (2, 5, 9, 7)}, ("y", "m"), nodes, constants)


def images(batch: int) -> np.ndarray:
    return np.random.default_rng(7).standard_normal((batch, 5, 9, 7)).astype(np.float32)


def test_other_constants_need_no_other_plan() -> None:
    network = Network(graph(0))
    before = [network(images(batch)) for batch in (2, 3)]
    other = network.renewed(graph(1))
    assert {id(plan.program) for plan in other._plans.values()} == {id(p.program) for p in network._plans.values()}
    for batch in (2, 3, 1):
        expected = graph(1).with_input((batch, 5, 9, 7)).compute(x=images(batch))
        for got, wanted in zip(other(images(batch)), expected, strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)
    after = [network(images(batch)) for batch in (2, 3)]  # and the old one has kept its own
    assert all(
        np.array_equal(a, b) for one, two in zip(before, after, strict=True) for a, b in zip(one, two, strict=True)
    )


def test_constants_of_another_kind_make_another_network() -> None:
    network = Network(graph(0))
    network(images(2))
    assert network.renewed(graph(0).with_input((1, 5, 9, 7)))(images(1))[0].shape == (1, 24, 9, 7)


@pytest.mark.parametrize("last", [(True, False), (False, False), (True,), ()])
def test_outputs_are_written_in_the_format_that_is_asked_for(last: tuple[bool, ...]) -> None:
    network, x = Network(graph(0)), images(2)
    planned = network.planned(x, channels_last=last)
    wide = last and last[0]
    y = np.full((2, 9, 7, 24) if wide else (2, 24, 9, 7), np.nan, np.float32)
    means = np.full((2, 24), np.nan, np.float32)
    network.run(planned, [x.ctypes.data], [y.ctypes.data, means.ctypes.data])
    expected = graph(0).compute(x=x)
    np.testing.assert_allclose(y.transpose(0, 3, 1, 2) if wide else y, expected[0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(means, expected[1], rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(not targets.current().x86, reason="arm64 has no time stamps that a program may read")
def test_the_profile_has_a_row_for_each_node_that_takes_steps() -> None:
    network = Network(graph(0), threads=2)
    profile = network.profile(images(2), peak=1e11)
    assert [step.output for step in profile.steps] == [line.output for line in network.lines if line.steps]
    assert sum(step.share for step in profile.steps) == pytest.approx(1)
    assert sum(step.seconds for step in profile.steps) == pytest.approx(profile.seconds)
    product = next(step for step in profile.steps if "3×3" in step.what)
    y = network.graph.with_input({"x": (2, *network.graph.inputs["x"][1:])}).shapes()[product.output]
    x = (2, *network.graph.inputs["x"][1:])
    weights = y[1] * x[1] * 9
    assert product.macs == math.prod(y) * x[1] * 9
    assert product.bytes == 4 * (math.prod(x) + math.prod(y) + weights)
    assert product.of_peak == pytest.approx(2 * product.macs / product.seconds / 1e11)
    assert product.predicted > 0
    assert str(profile).count("\n") == len(profile.steps) + 1
    assert "–" in str(network.profile(images(2)))  # nothing to compare with where no peak is given


def test_weights_lie_in_the_kernels_form_and_in_no_other() -> None:
    network = Network(graph(0))
    network(images(2))
    (convolution,) = (node for node in network.graph.nodes if isinstance(node.operation, Convolution))
    weights = network.graph.constants[convolution.inputs[1]]
    slots = [size for _, name, size, _ in network._store._made if name == convolution.inputs[1]]
    assert len(slots) == 1
    assert slots[0] >= weights.nbytes


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", COMPARISONS)
def test_what_is_no_number_compares_as_in_numpy(kind: str, dtype: str) -> None:
    """NaN is not equal to itself, and chosen by `Where` only where it is asked for; in every pair."""
    values = np.array([-np.inf, -1.0, -0.0, 0.0, 1e-30, 1.0, np.inf, np.nan])
    nodes = (Node(Compare(kind), ("x", "y"), "truth"), Node(Where(), ("truth", "x", "y"), "chosen"))
    shape = (1, 1, 8, 8)
    graph = Graph({"x": shape, "y": shape}, ("truth", "chosen", "z"), (*nodes, Node(Where(), ("x", "y", "x"), "z")), {})
    given = [np.broadcast_to(v, shape).astype(dtype) for v in (values[:, None], values)]
    for got, wanted in zip(Network(graph, dtype=dtype)(*given), graph.compute(x=given[0], y=given[1]), strict=True):
        np.testing.assert_array_equal(got, wanted)
