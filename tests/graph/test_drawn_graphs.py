"""Random graphs mean the same after all passes, and the network that runs them computes what they mean."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from written import Drawn, same_meaning

from convforge import Conv2dSpec
from convforge.graph.network import Network
from convforge.graph.nodes import END, Binary, Pooling, Reduce, Slice, Unary
from convforge.graph.passes import optimized


@pytest.mark.parametrize("seed", range(80))
def test_passes_leave_the_meaning_of_random_graphs(seed: int) -> None:
    same_meaning(Drawn(seed, nodes=20).drawn(), optimized)


@pytest.mark.parametrize("seed", range(60))
def test_networks_compute_what_random_graphs_mean(seed: int) -> None:
    graph = Drawn(seed).drawn()
    network = Network(graph, threads=2)
    for batch in (2, 1):
        x = np.random.default_rng(seed).standard_normal((batch, *graph.inputs["x"][1:])).astype(np.float32)
        expected = graph.with_input(x.shape).compute(x=x)
        for made, wanted in zip(network(x), expected, strict=True):
            assert np.linalg.norm(made - wanted) <= 1e-4 * max(float(np.linalg.norm(wanted)), 1e-3)


def _own_input_added() -> tuple[Drawn, str]:
    """A convolution whose residual is its input: the result must not go where it is still read."""
    g = Drawn(0, nodes=0)
    x = g(Unary("tanh"), "x")
    return g, g(Binary("add"), g.convolution(x, Conv2dSpec(4, 4, 3, padding=1, groups=2)), x)


def _turned_over() -> tuple[Drawn, str]:
    """A sum with the same numbers in another order."""
    g = Drawn(0, nodes=0)
    x = g(Pooling("max", (1, 2), (1, 1)), "x")
    return g, g(Binary("sub"), x, g(Slice(2, -1, -END, -1), x))


@pytest.mark.parametrize("written", [_own_input_added, _turned_over])
def test_results_go_over_what_is_not_read_any_more_only(written: Callable[[], tuple[Drawn, str]]) -> None:
    g, made = written()
    graph = g.graph(g(Reduce("mean", (1,)), made))  # so that it is no output, which has memory of its own
    for batch in (1, 2):
        x = np.random.default_rng(0).standard_normal((batch, 4, 8, 6)).astype(np.float32)
        (expected,) = graph.with_input(x.shape).compute(x=x)
        np.testing.assert_allclose(Network(graph, threads=2)(x)[0], expected, rtol=1e-4, atol=1e-5)
