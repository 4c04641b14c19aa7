"""Every pass leaves the meaning as it is, and takes out what it is there for."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from written import IMAGE, Written, same_meaning

from convforge import Conv2dSpec
from convforge.graph.nodes import (
    Axes,
    BatchNorm,
    Binary,
    Concat,
    Convolution,
    Expand,
    Graph,
    GroupNorm,
    LayerNorm,
    Linear,
    LocalResponseNorm,
    MatMul,
    Operation,
    Pad,
    Pooling,
    Reduce,
    Reshape,
    Resize,
    Slice,
    Take,
    Transpose,
    TransposedConvolution,
    Unary,
)
from convforge.graph.passes import (
    averages,
    batch_norm,
    constants,
    dead,
    finish,
    linear,
    norms,
    optimized,
    pads,
    parallel,
    pixels,
    rows,
    scales,
    spelled,
)

_RELU = Unary("relu")


# ---------------------------------------------------------------------------------------------------------------------
# Constants and dead ends
# ---------------------------------------------------------------------------------------------------------------------


def test_what_depends_on_constants_only_is_a_constant() -> None:
    g = Written()
    w = g(Reshape((4, 6, 1, 1)), g(Binary("mul"), g.numbers(4, 6), g.numbers(4, 1)))
    out = g(Convolution(Conv2dSpec(6, 4, 1)), "x", w)
    assert same_meaning(g.graph(out), constants.fold) == ["Convolution"]


def test_folded_constants_keep_the_number_format_of_arrays_not_of_single_numbers() -> None:
    g = Written((2, 3))
    w = g(Binary("mul"), g.constant(np.ones((4, 3), np.float32)), g.constant(np.float64(0.1)))
    folded = constants.fold(g.graph(g(Linear(), "x", w)))
    assert [array.dtype for array in folded.constants.values()] == [np.float32]


def test_repeating_numbers_many_times_is_no_saving() -> None:
    g = Written((1, 6, 300, 300))
    repeated = g(Expand((1, 6, 300, 300)), g.numbers(6, 1, 1))
    before = g.graph(g(Binary("add"), "x", repeated))
    assert constants.fold(before).nodes == before.nodes


def test_dead_ends_identities_and_repetitions_are_removed() -> None:
    g = Written()
    g(Unary("exp"), g(Unary("neg"), "x"))
    x = g(Unary("identity"), "x")
    x = g(Unary("clip", (-math.inf, math.inf)), x)
    x = g(Binary("mul"), g(Binary("add"), x, g.constant(0.0)), g.constant(np.ones((1, 1))))
    x = g(Binary("sub"), g(Binary("pow"), x, g.constant(1.0)), g.constant(0.0))
    x = g(Reshape((0, 6, Axes(2, 3), -1)), x)
    x = g(Transpose((0, 1, 2, 3)), g(Pad(((0, 0),) * 4), g(Concat(1), x)))
    x = g(Slice(1, 0, 6), g(Slice(0), x))
    x = g(Resize(scales=(1.0, 1.0)), g(Pooling("max", (1, 1), (1, 1)), x))
    x = g(Expand((1, 6, 1, 1)), x)
    left, right = g(_RELU, x), g(_RELU, x)
    assert same_meaning(g.graph(g(Binary("add"), left, right)), dead.remove) == ["relu", "add"]


def test_what_is_the_same_for_this_batch_only_stays() -> None:
    g = Written((2, 3))
    out = g(Slice(0, 0, 2), "x")
    assert same_meaning(g.graph(out), dead.remove) == ["Slice"]


def test_what_is_the_same_for_this_image_size_only_stays() -> None:
    g = Written()
    out = g(Slice(2, 0, 7), "x")
    assert same_meaning(g.graph(out), dead.remove) == ["Slice"]


def test_moves_behind_moves_are_one() -> None:
    g = Written()
    x = g(Transpose((0, 3, 1, 2)), g(Transpose((0, 2, 3, 1)), "x"))
    x = g(Reshape((-1, 24)), g(Reshape((0, -1)), x))
    assert same_meaning(g.graph(x), dead.remove) == ["Reshape"]


def test_two_moves_that_are_the_first_of_them_again_are_one() -> None:
    g = Written()
    there = g(Reshape((4, 21, 8)), "x")
    x = g(Unary("relu"), g(Reshape((4, 21, 8)), g(Reshape((4, 3, 7, 8)), there)))
    graph = g.graph(x)
    assert same_meaning(graph, dead.remove, batch=2) == ["Reshape", "relu"]


def test_a_shuffle_of_channels_stays() -> None:
    g = Written()
    x = g(Reshape((0, 2, 3, Axes(2, 3), Axes(3, 4))), "x")
    x = g(Reshape((0, -1, Axes(3, 4), Axes(4, 5))), g(Transpose((0, 2, 1, 3, 4)), x))
    assert same_meaning(g.graph(x), dead.remove) == ["Reshape", "Transpose", "Reshape"]


def test_outputs_that_are_the_input_or_each_other_stay_as_many() -> None:
    g = Written()
    graph = g.graph(g(Unary("identity"), "x"), g(_RELU, "x"), g(_RELU, "x"))
    assert same_meaning(graph, dead.remove) == ["relu"]
    assert dead.remove(graph).outputs == ("x", "v1", "v1")


# ---------------------------------------------------------------------------------------------------------------------
# Spelled functions
# ---------------------------------------------------------------------------------------------------------------------


def _hard(g: Written, x: str, clip: Unary) -> str:
    return g(clip, g(Binary("add"), x, g.constant(3.0)))


def _half_gelu(g: Written, x: str, inner: str) -> str:
    return g(Binary("mul"), g(Binary("mul"), x, g(Binary("add"), inner, g.constant(1.0))), g.constant(0.5))


def _gelu_by_tanh(g: Written, x: str) -> str:
    cube = g(Binary("mul"), g(Binary("pow"), x, g.constant(3.0)), g.constant(0.044715))
    inner = g(Binary("mul"), g(Binary("add"), x, cube), g.constant(0.7978845608))
    return _half_gelu(g, x, g(Unary("tanh"), inner))


SPELLINGS: dict[str, tuple[Callable[[Written, str], str], str]] = {
    "hardsigmoid, divided": (
        lambda g, x: g(Binary("div"), _hard(g, x, Unary("relu6")), g.constant(6.0)),
        "hardsigmoid",
    ),
    "hardswish, divided last": (
        lambda g, x: g(Binary("div"), g(Binary("mul"), x, _hard(g, x, Unary("clip", (0, 6)))), g.constant(6.0)),
        "hardswish",
    ),
    "hardswish, scaled first": (
        lambda g, x: g(Binary("mul"), g(Binary("mul"), _hard(g, x, Unary("relu6")), g.constant(1 / 6)), x),
        "hardswish",
    ),
    "hardswish of a hard sigmoid": (lambda g, x: g(Binary("mul"), x, g(Unary("hardsigmoid"), x)), "hardswish"),
    "another hard sigmoid": (
        lambda g, x: g(
            Unary("clip", (0, 1)),
            g(Binary("add"), g(Binary("mul"), x, g.constant(0.2)), g.constant(0.5)),
        ),
        "hardsigmoid",
    ),
    "silu": (lambda g, x: g(Binary("mul"), x, g(Unary("sigmoid"), x)), "silu"),
    "sigmoid": (
        lambda g, x: g(
            Binary("div"), g.constant(1.0), g(Binary("add"), g(Unary("exp"), g(Unary("neg"), x)), g.constant(1.0))
        ),
        "sigmoid",
    ),
    "gelu": (
        lambda g, x: _half_gelu(g, x, g(Unary("erf"), g(Binary("div"), x, g.constant(math.sqrt(2))))),
        "gelu",
    ),
    "gelu by tanh": (_gelu_by_tanh, "gelu_tanh"),
    "mish": (
        lambda g, x: g(
            Binary("mul"),
            x,
            g(Unary("tanh"), g(Unary("log"), g(Binary("add"), g(Unary("exp"), x), g.constant(1.0)))),
        ),
        "mish",
    ),
    "relu6": (lambda g, x: g(Binary("min"), g(Binary("max"), x, g.constant(0.0)), g.constant(6.0)), "relu6"),
    "clip": (lambda g, x: g(Binary("min"), g(Binary("max"), x, g.constant(-1.0)), g.constant(2.0)), "clip"),
    "leaky relu": (lambda g, x: g(Binary("max"), x, g(Binary("mul"), x, g.constant(0.1))), "leaky_relu"),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_spelled_function_is_one_node(name: str) -> None:
    spell, kind = SPELLINGS[name]
    g = Written()
    before = g(_RELU, g(Reduce("mean", (2,)), "x"))  # a function before it, which is none of its parts
    graph = g.graph(g(Unary("tanh"), spell(g, g(Unary("sin"), before))))
    assert same_meaning(graph, spelled.recognise) == ["reduce mean", "relu", "sin", kind, "tanh"]


def test_a_function_that_is_not_known_stays_spelled() -> None:
    g = Written()
    graph = g.graph(g(Binary("mul"), "x", g(Unary("sin"), "x")))
    assert same_meaning(graph, spelled.recognise) == ["sin", "mul"]


def test_a_part_of_a_spelling_that_something_else_reads_stays() -> None:
    g = Written()
    gate = g(Unary("sigmoid"), "x")
    graph = g.graph(g(Binary("mul"), "x", gate), gate)
    assert sorted(same_meaning(graph, spelled.recognise)) == ["sigmoid", "silu"]


def test_a_product_with_something_else_is_no_spelling() -> None:
    g = Written()
    graph = g.graph(g(Binary("mul"), g(Reduce("mean", (2, 3)), "x"), g(Unary("sigmoid"), "x")))
    assert same_meaning(graph, spelled.recognise) == ["reduce mean", "sigmoid", "mul"]


# ---------------------------------------------------------------------------------------------------------------------
# Batch norm and scales
# ---------------------------------------------------------------------------------------------------------------------

_PLAIN = Conv2dSpec(6, 4, 3, padding=1)
_GROUPED = Conv2dSpec(6, 4, 3, stride=2, groups=2)


def _folded(graph: Graph) -> Graph:
    return scales.fold(batch_norm.split(graph))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("spec", [_PLAIN, _GROUPED])
def test_batch_norm_behind_a_convolution_is_in_its_weights(spec: Conv2dSpec, bias: bool) -> None:
    g = Written()
    graph = g.graph(g.norm(g.convolution("x", spec, bias), 4))
    assert same_meaning(graph, _folded) == ["Convolution"]


def test_batch_norm_behind_a_transposed_convolution_is_in_its_weights() -> None:
    spec = Conv2dSpec(4, 6, 3, stride=2, groups=2)
    g = Written()
    up = g(TransposedConvolution(spec, (1, 0), True), "x", g.numbers(*spec.weight_shape), g.numbers(4))
    assert same_meaning(g.graph(g.norm(up, 4)), _folded) == ["TransposedConvolution"]


def test_batch_norm_behind_a_linear_layer_is_in_its_weights() -> None:
    g = Written((2, 6))
    graph = g.graph(g.norm(g(Linear(), "x", g.numbers(4, 6)), 4))
    assert same_meaning(graph, _folded) == ["Linear"]


def test_batch_norm_before_a_convolution_without_padding_is_in_its_weights() -> None:
    g = Written()
    graph = g.graph(g.convolution(g.norm("x", 6), _GROUPED, bias=True))
    assert same_meaning(graph, _folded) == ["Convolution"]


def test_batch_norm_before_zeros_beyond_the_border_stays_a_factor_and_a_summand() -> None:
    g = Written()
    graph = g.graph(g.convolution(g.norm("x", 6), _PLAIN))
    assert same_meaning(graph, _folded) == ["mul", "add", "Convolution"]


def test_batch_norm_that_something_else_reads_stays() -> None:
    g = Written()
    made = g.convolution("x", _PLAIN)
    graph = g.graph(g.norm(made, 4), made)
    assert same_meaning(graph, _folded) == ["Convolution", "mul", "add"]


def test_batch_norm_with_statistics_of_the_input_stays() -> None:
    g = Written()
    mean = g(Reshape((-1,)), g(Reduce("mean", (0, 2, 3)), "x"))
    norm = g(BatchNorm(), "x", g.numbers(6), g.numbers(6), mean, g.numbers(6, positive=True))
    assert same_meaning(g.graph(norm), batch_norm.split)[-1] == "BatchNorm"


def test_an_activation_between_stays_between() -> None:
    g = Written()
    spec = _PLAIN
    made = g(Convolution(spec, activation=_RELU), "x", g.numbers(*spec.weight_shape))
    assert same_meaning(g.graph(g.norm(made, 4)), _folded) == ["Convolution", "mul", "add"]


@pytest.mark.parametrize("kind", ["add", "sub", "mul", "div"])
def test_arithmetic_with_a_number_a_channel_is_in_the_product(kind: str) -> None:
    g = Written()
    made = g(Binary(kind), g.convolution("x", _PLAIN), g.numbers(4, 1, 1))
    made = g.convolution(g(Binary(kind), made, g.constant(2.0)), Conv2dSpec(4, 2, 1))
    assert same_meaning(g.graph(made), scales.fold) == ["Convolution", "Convolution"]


def test_a_scale_behind_a_transpose_is_in_the_product_before_it() -> None:
    g = Written((2, 7, 8, 6))
    made = g(Transpose((0, 3, 1, 2)), g(Linear(True), "x", g.numbers(4, 6), g.numbers(4)))
    graph = g.graph(g(Binary("mul"), made, g.numbers(4, 1, 1)))
    assert same_meaning(graph, scales.fold) == ["Linear", "Transpose"]


def test_numbers_that_are_not_one_a_channel_stay() -> None:
    g = Written()
    graph = g.graph(g(Binary("mul"), g.convolution("x", _PLAIN), g.numbers(7, 1)))
    assert same_meaning(graph, scales.fold) == ["Convolution", "mul"]


def test_a_constant_that_makes_the_result_larger_stays() -> None:
    g = Written((1, 6, 7, 8))
    graph = g.graph(g(Binary("add"), g.convolution("x", _PLAIN), g.numbers(5, 4, 1, 1)))
    assert same_meaning(graph, scales.fold, batch=1) == ["Convolution", "add"]


# ---------------------------------------------------------------------------------------------------------------------
# Linear layers, borders, finishes
# ---------------------------------------------------------------------------------------------------------------------


def test_a_product_with_a_constant_matrix_is_a_linear_layer() -> None:
    g = Written((2, 3, 6))
    made = g(Binary("add"), g(MatMul(), "x", g.numbers(6, 4)), g.numbers(4))
    assert same_meaning(g.graph(made), lambda graph: scales.fold(linear.recognise(graph))) == ["Linear"]


_ONE_SIDE = Pad(((0, 0), (0, 0), (0, 1), (2, 0)))


@pytest.mark.parametrize(
    ("pad", "behind"),
    [
        (_ONE_SIDE, Pooling("average", (3, 3), (2, 2))),
        (_ONE_SIDE, Pooling("average", (3, 3), (2, 2), ((1, 1), (1, 1)))),
        (Pad(_ONE_SIDE.pads, value=-math.inf), Pooling("max", (3, 3), (2, 2), ((1, 1), (0, 1)))),
    ],
)
def test_a_border_before_pooling_is_laid_by_it(pad: Pad, behind: Pooling) -> None:
    g = Written()
    assert same_meaning(g.graph(g(behind, g(pad, "x"))), pads.fold) == [behind.name]


def test_a_border_before_a_convolution_is_laid_by_it() -> None:
    g = Written()
    graph = g.graph(g.convolution(g(_ONE_SIDE, "x"), _GROUPED))
    assert same_meaning(graph, pads.fold) == ["Convolution"]


@pytest.mark.parametrize(
    ("pad", "behind"),
    [
        (Pad(_ONE_SIDE.pads, value=1.0), Pooling("average", (3, 3), (2, 2))),
        (_ONE_SIDE, Pooling("max", (3, 3), (2, 2))),
        (_ONE_SIDE, Pooling("average", (3, 3), (2, 2), ((1, 1), (1, 1)), count_padding=False)),
        (_ONE_SIDE, Pooling("average", (3, 3), (2, 2), ceil=True)),
        (Pad(_ONE_SIDE.pads, "reflect"), Pooling("average", (3, 3), (2, 2))),
        (Pad(((0, 0), (1, 0), (0, 0), (0, 0))), Pooling("average", (3, 3), (2, 2))),
    ],
)
def test_another_border_stays(pad: Pad, behind: Pooling) -> None:
    g = Written()
    assert same_meaning(g.graph(g(behind, g(pad, "x"))), pads.fold) == ["Pad", behind.name]


def test_residual_and_activation_are_finishes() -> None:
    g = Written()
    square = Conv2dSpec(6, 6, 3, padding=1)
    made = g(_RELU, g.convolution("x", square, bias=True))
    made = g(_RELU, g(Binary("add"), "x", g.convolution(made, square)))
    graph = g.graph(made)
    assert same_meaning(graph, finish.fuse) == ["Convolution", "Convolution"]
    (first, second) = (node.operation for node in finish.fuse(graph).nodes)
    assert first == Convolution(square, bias=True, activation=_RELU)
    assert second == Convolution(square, residual=True, activation=_RELU)


def test_of_two_convolutions_the_later_one_adds_the_other() -> None:
    g = Written()
    first, later = g.convolution("x", _PLAIN), g.convolution("x", _PLAIN)
    graph = g.graph(g(Binary("add"), first, later))
    assert same_meaning(graph, finish.fuse) == ["Convolution", "Convolution"]
    assert finish.fuse(graph).nodes[-1].inputs == ("x", "c1", first)


def test_a_summand_that_broadcasts_for_another_batch_is_no_finish() -> None:
    g = Written((1, *IMAGE[1:]))
    graph = g.graph(g(Binary("add"), g.convolution("x", _PLAIN), g.numbers(1, 4, 7, 8)))
    assert same_meaning(graph, finish.fuse) == ["Convolution", "add"]


@pytest.mark.parametrize("also_read", [True, False])
def test_what_something_else_reads_is_no_finish(also_read: bool) -> None:
    g = Written()
    made = g.convolution("x", _PLAIN)
    outputs = [g(_RELU, made), *([made] if also_read else [])]
    assert same_meaning(g.graph(*outputs), finish.fuse) == ["Convolution", *(["relu"] if also_read else [])]


def test_a_sum_of_one_convolution_with_itself_is_no_finish() -> None:
    g = Written()
    made = g.convolution("x", _PLAIN)
    assert same_meaning(g.graph(g(Binary("add"), made, made)), finish.fuse) == ["Convolution", "add"]


def test_a_sum_that_broadcasts_is_no_finish() -> None:
    g = Written()
    made = g.convolution("x", _PLAIN)
    pooled = g(Reduce("mean", (2, 3)), made)
    graph = g.graph(g(Binary("add"), g.convolution("x", _PLAIN), pooled))
    assert same_meaning(graph, finish.fuse) == ["Convolution", "reduce mean", "Convolution", "add"]


def test_activations_of_linear_layers_and_transposed_convolutions_are_finishes() -> None:
    spec = Conv2dSpec(4, 6, 2, stride=2)
    g = Written()
    up = g(Unary("silu"), g(TransposedConvolution(spec), "x", g.numbers(*spec.weight_shape)))
    graph = g.graph(g(_RELU, g(Linear(), g(Reshape((0, -1)), up), g.numbers(3, 4 * 14 * 16))))
    assert same_meaning(graph, finish.fuse) == ["TransposedConvolution", "Reshape", "Linear"]


@pytest.mark.parametrize("groups", [1, 3, 6])
def test_branches_of_the_same_input_are_one_convolution(groups: int) -> None:
    """As in RepVGG, with a fourth branch of even size."""
    g = Written()
    wide = g.convolution("x", Conv2dSpec(6, 6, 3, padding=1, groups=groups), bias=True)
    small = g.convolution("x", Conv2dSpec(6, 6, 1, groups=groups))
    even = g.convolution("x", Conv2dSpec(6, 6, (2, 3), padding=((0, 1), (1, 1)), groups=groups))
    made = g(Binary("add"), g(Binary("add"), small, wide), even)
    graph = g.graph(g(_RELU, g(Binary("add"), g.norm("x", 6), made)))
    assert same_meaning(graph, lambda graph: parallel.merge(_folded(graph))) == ["Convolution", "relu"]


def test_gaps_between_taps_are_no_obstacle_where_they_agree() -> None:
    g = Written()
    gaps = g.convolution("x", Conv2dSpec(6, 4, 3, padding=2, dilation=2, stride=2))
    made = g(Binary("add"), gaps, g.convolution("x", Conv2dSpec(6, 4, 1, stride=2)))
    assert same_meaning(g.graph(made), parallel.merge) == ["Convolution"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Conv2dSpec(6, 6, 3, padding=1), Conv2dSpec(6, 6, 3, padding=1, groups=2)),
        (Conv2dSpec(6, 6, 3, padding=2, dilation=2), Conv2dSpec(6, 6, 3, padding=1)),
        (Conv2dSpec(6, 6, 3, padding=2, dilation=2), Conv2dSpec(6, 6, 2, padding=((0, 1), (1, 0)))),
        (Conv2dSpec(6, 6, (3, 1), padding=((1, 1), (0, 0))), Conv2dSpec(6, 6, (1, 3), padding=((0, 0), (1, 1)))),
        (Conv2dSpec(6, 6, 3, padding=1, padding_mode="reflect"), Conv2dSpec(6, 6, 1)),
    ],
)
def test_branches_that_do_not_fit_each_other_stay(one: Conv2dSpec, other: Conv2dSpec) -> None:
    g = Written()
    graph = g.graph(g(Binary("add"), g.convolution("x", one), g.convolution("x", other)))
    assert same_meaning(graph, parallel.merge) == ["Convolution", "Convolution", "add"]


def test_branches_of_different_inputs_stay() -> None:
    g = Written()
    made = g(Binary("add"), g.convolution("x", _PLAIN), g.convolution(g(_RELU, "x"), _PLAIN))
    assert same_meaning(g.graph(made), parallel.merge) == ["Convolution", "relu", "Convolution", "add"]


@pytest.mark.parametrize(
    ("average", "bias"),
    [
        (Pooling("average", (2, 2), (2, 2)), True),
        (Pooling("average", (3, 3), (2, 2), ((1, 1), (1, 1)), count_padding=False, ceil=True), True),
        (Pooling("average", (3, 3), (2, 2), ((1, 1), (1, 1))), False),
        (Pooling("average", (3, 3), (2, 2), ceil=True), True),
        (Reduce("mean", (2, 3)), True),
        (Reduce("mean", (-1,)), False),
    ],
)
def test_pixels_are_averaged_before_they_are_convolved(average: Operation, bias: bool) -> None:
    g = Written()
    graph = g.graph(g(average, g.convolution("x", Conv2dSpec(6, 4, 1, groups=2), bias)))
    assert same_meaning(graph, averages.before) == [average.name, "Convolution"]


@pytest.mark.parametrize(
    ("spec", "average"),
    [
        (Conv2dSpec(6, 4, 1), Pooling("average", (3, 3), (2, 2), ((1, 1), (1, 1)))),  # zeros are averaged, not biases
        (Conv2dSpec(6, 4, 1), Pooling("average", (3, 3), (1, 1))),  # as many pixels as before
        (Conv2dSpec(6, 4, 1), Pooling("max", (2, 2), (2, 2))),
        (Conv2dSpec(6, 4, 1), Reduce("mean", (1, 2, 3))),
        (Conv2dSpec(6, 4, 1), Reduce("max", (2, 3))),
        (Conv2dSpec(6, 4, 1, stride=2), Reduce("mean", (2, 3))),
        (Conv2dSpec(6, 4, 3), Reduce("mean", (2, 3))),
        (Conv2dSpec(6, 4, 1, padding=1), Reduce("mean", (2, 3))),
    ],
)
def test_other_pixels_are_convolved_first(spec: Conv2dSpec, average: Operation) -> None:
    g = Written()
    graph = g.graph(g(average, g.convolution("x", spec, bias=True)))
    assert same_meaning(graph, averages.before) == ["Convolution", average.name]


def test_linear_layers_along_channels_are_convolutions_that_add_a_residual() -> None:
    g = Written()
    made = g(Transpose((0, 2, 3, 1)), "x")
    made = g(LayerNorm(1), made, g.numbers(6), g.numbers(6))
    made = g(Unary("gelu"), g(Linear(True), made, g.numbers(9, 6), g.numbers(9)))
    made = g(Transpose((0, 3, 1, 2)), g(Linear(True), made, g.numbers(6, 9), g.numbers(6)))
    graph = g.graph(g(Binary("add"), "x", made))
    names = ["Transpose", "LayerNorm", "Transpose", "Convolution", "Convolution"]
    assert same_meaning(graph, lambda graph: finish.fuse(pixels.lift(graph))) == names


def test_linear_layers_that_something_else_reads_stay() -> None:
    g = Written((2, 5, 4, 6))
    made = g(Linear(), "x", g.numbers(3, 6))
    graph = g.graph(g(Transpose((0, 3, 1, 2)), made), made)
    assert same_meaning(graph, pixels.lift) == ["Linear", "Transpose"]


@pytest.mark.parametrize(
    ("numbers", "slices"),
    [([0, 1, 2], 1), ([5], 1), ([[4, 2, 0], [-1, -1, 3]], 3), ([0, 2, 4, 1, 3, 5], 2), (3, 1)],
)
def test_rows_by_constant_numbers_are_slices(numbers: Any, slices: int) -> None:
    g = Written()
    graph = g.graph(g(Take(1), "x", g.constant(np.array(numbers))))
    assert same_meaning(graph, rows.spell) == ["Slice"] * slices + ["Concat", "Reshape"]


@pytest.mark.parametrize(
    "norm", [GroupNorm(6), GroupNorm(3, 0.1), GroupNorm(1), LocalResponseNorm(4, 0.1, 0.6, 2.0), LayerNorm(3, 0.1)]
)
def test_norms_of_the_input_are_spelled(norm: Operation) -> None:
    g = Written((2, 6, 5, 4))
    shape = {GroupNorm: [6], LayerNorm: [6, 5, 4]}.get(type(norm))
    graph = g.graph(g(norm, "x", *([g.numbers(*shape), g.numbers(*shape)] if shape else [])))
    assert norm.name not in same_meaning(graph, norms.spell)


def test_all_passes_together() -> None:
    """A block as networks have it: everything between its input and its output is in three convolutions."""
    g = Written()
    wide = Conv2dSpec(6, 12, 1)
    made = g.norm(g.convolution("x", wide), 12)
    made = g(Binary("div"), g(Binary("mul"), made, _hard(g, made, Unary("relu6"))), g.constant(6.0))
    made = g.convolution(g(Pad(((0, 0), (0, 0), (1, 1), (1, 1))), made), Conv2dSpec(12, 12, 3, groups=12))
    made = g(Unary("identity"), g(Unary("relu6"), g.norm(made, 12)))
    made = g(Binary("add"), g.norm(g.convolution(made, Conv2dSpec(12, 6, 1)), 6), "x")
    assert same_meaning(g.graph(made), optimized) == ["Convolution"] * 3
