"""Graphs: their shapes, their meaning, and what is said of those that cannot be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from convforge import Conv2dSpec
from convforge.graph.nodes import Binary, Convolution, Graph, GraphError, Linear, Node, Reduce, Reshape, Unary


@pytest.fixture
def graph() -> Graph:
    rng = np.random.default_rng(0)
    return Graph(
        inputs={"x": (1, 3, 5, 6)},
        outputs=("scores", "features"),
        nodes=(
            Node(Convolution(Conv2dSpec(3, 4, 3), bias=True), ("x", "w", "b"), "maps"),
            Node(Unary("relu"), ("maps",), "features"),
            Node(Reduce("mean", (2, 3)), ("features",), "pooled"),
            Node(Reshape((0, -1)), ("pooled",), "flat"),
            Node(Linear(), ("flat", "dense"), "scores"),
        ),
        constants={
            "w": rng.standard_normal((4, 3, 3, 3)).astype(np.float32),
            "b": rng.standard_normal(4).astype(np.float32),
            "dense": rng.standard_normal((2, 4)).astype(np.float32),
        },
    )


def test_every_value_has_a_shape(graph: Graph) -> None:
    graph.check()
    shapes = graph.shapes()
    assert shapes["maps"] == (1, 4, 3, 4)
    assert shapes["flat"] == (1, 4)
    assert shapes["dense"] == (2, 4)


def test_outputs_come_in_their_order_in_float64(graph: Graph) -> None:
    x = np.random.default_rng(1).standard_normal((1, 3, 5, 6))
    scores, features = graph.compute(x=x)
    np.testing.assert_allclose(scores, features.mean((2, 3)) @ graph.constants["dense"].T.astype(float))
    assert features.shape == (1, 4, 3, 4)
    assert scores.dtype == features.dtype == np.float64


def test_another_batch_and_image_size(graph: Graph) -> None:
    larger = graph.with_input((7, 3, 9, 4))
    assert larger.shapes()["features"] == (7, 4, 7, 2)
    assert graph.shapes()["features"] == (1, 4, 3, 4)
    assert larger.nodes is graph.nodes
    assert graph.with_input({"x": (2, 3, 5, 6)}).inputs == {"x": (2, 3, 5, 6)}


def test_sizes_that_do_not_fit_name_the_node(graph: Graph) -> None:
    with pytest.raises(GraphError, match=r"node 'maps': a 3×3 kernel cannot be applied to a 2×6 input"):
        graph.with_input((1, 3, 2, 6))


def test_fixed_axes_stay(graph: Graph) -> None:
    fixed = replace(graph, fixed={"x": (1, 2, 3)})
    assert fixed.with_input((8, 3, 5, 6)).inputs["x"][0] == 8
    with pytest.raises(GraphError, match="made for size 5 along axis 2 of 'x', and cannot take 9"):
        fixed.with_input((1, 3, 9, 6))


def test_a_graph_with_several_inputs_is_asked_which_one_changes() -> None:
    node = Node(Binary("add"), ("x", "y"), "sum")
    graph = Graph({"x": (1, 2), "y": (1, 2)}, ("sum",), (node,), {})
    with pytest.raises(GraphError, match="say which one has shape"):
        graph.with_input((2, 2))
    with pytest.raises(GraphError, match="no input 'z'"):
        graph.with_input({"z": (2, 2)})
    with pytest.raises(GraphError, match="'x' has 2 axes"):
        graph.with_input({"x": (2, 2, 2)})
    assert graph.with_input({"x": (4, 2), "y": (1, 2)}).shapes()["sum"] == (4, 2)


def test_what_is_computed_must_be_given(graph: Graph) -> None:
    with pytest.raises(GraphError, match="takes x, not nothing"):
        graph.compute()
    with pytest.raises(GraphError, match="takes x, not y"):
        graph.compute(y=np.zeros((1, 3, 5, 6)))
    with pytest.raises(GraphError, match=r"'x' of shape \(1, 3, 5, 6\), not \(1, 3, 5, 5\)"):
        graph.compute(x=np.zeros((1, 3, 5, 5)))


def test_names_are_made_once_and_before_they_are_read(graph: Graph) -> None:
    with pytest.raises(GraphError, match="'maps' reads 'x', which nothing before it makes"):
        replace(graph, inputs={}).check()
    with pytest.raises(GraphError, match="'b' is given to 2 values"):
        replace(graph, nodes=(*graph.nodes, Node(Unary("relu"), ("x",), "b"))).check()
    with pytest.raises(GraphError, match="output 'probabilities' is made by no node"):
        replace(graph, outputs=("probabilities",)).check()


def test_readers_are_listed_once_each() -> None:
    node = Node(Binary("add"), ("x", "x"), "sum")
    assert Graph({"x": (1,)}, ("sum",), (node,), {}).readers() == {"x": [node], "sum": []}


def test_printed_it_has_a_line_a_node(graph: Graph) -> None:
    assert (
        str(graph)
        == """\
x         1×3×5×6  input
maps      1×4×3×4  Convolution(x, w, b)
features  1×4×3×4  relu(maps)
pooled    1×4×1×1  reduce mean(features)
flat          1×4  Reshape(pooled)
scores        1×2  Linear(flat, dense)
outputs: scores, features"""
    )
    assert repr(graph) == "<Graph of 5 nodes: x → scores, features>"
