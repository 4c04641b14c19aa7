"""Every formula, against the lesson's own numbers, against torch, against TensorFlow's words, against brute force."""

from __future__ import annotations

import itertools
import random

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from convforge import Conv2dSpec, SpecError, UserError
from convforge.spec import (
    ReceptiveField,
    as_pair,
    dense_weights,
    kernel_extent,
    output_size,
    same_ceil_pad,
    same_half_pad,
    same_pad,
    transposed_output_size,
)

axes = st.tuples(
    st.integers(1, 60), st.integers(1, 9), st.integers(1, 7), st.integers(0, 9), st.integers(0, 9), st.integers(1, 5)
)
"""size, kernel, stride, padding before and after, dilation"""


# ---------------------------------------------------------------------------------------------------------------------
# The lesson's own numbers
# ---------------------------------------------------------------------------------------------------------------------


def test_the_lessons_sizes() -> None:
    assert Conv2dSpec(1, 1, 3).output_size((7, 7)) == (5, 5)
    assert Conv2dSpec(1, 1, 3, stride=2).output_size((7, 7)) == (3, 3)


def test_the_lessons_parameters() -> None:
    assert dense_weights((3, 224, 224), 1000) == 224 * 224 * 3 * 1000 == 150_528_000
    layer = Conv2dSpec(3, 64, 3, padding="same", bias=False)
    assert layer.parameters == layer.weights == 3 * 3 * 3 * 64 == 1_728
    assert Conv2dSpec(3, 64, 3).parameters == 1_728 + 64
    assert dense_weights((3, 224, 224), 1000) // layer.weights == 87_111
    assert round(dense_weights((3, 224, 224), 1000) / layer.weights, -3) == 87_000
    assert layer.dense_weights((224, 224)) == (3 * 224 * 224) * (64 * 224 * 224) == 483_385_147_392


def test_the_lessons_chain_without_padding_ends_after_three() -> None:
    spec, size, seen = Conv2dSpec(1, 1, 3), (7, 7), []
    for _ in range(3):
        size = spec.output_size(size)
        seen.append(size)
    assert seen == [(5, 5), (3, 3), (1, 1)]
    with pytest.raises(SpecError, match=r"H_out = ⌊\(1 \+ 0 \+ 0 − 3\) / 1⌋ \+ 1 = -1"):
        spec.output_size(size)


@pytest.mark.parametrize("padding", [1, "same", "same_half", "same_ceil", ((1, 1), (1, 1))])
def test_the_lessons_chain_with_padding_goes_on(padding: object) -> None:
    spec, size = Conv2dSpec(1, 1, 3, padding=padding), (7, 7)  # type: ignore[arg-type]
    for _ in range(100):
        size = spec.output_size(size)
    assert size == (7, 7)


# ---------------------------------------------------------------------------------------------------------------------
# Size
# ---------------------------------------------------------------------------------------------------------------------


@given(axes)
def test_output_size_is_the_number_of_positions_at_which_the_kernel_fits(axis: tuple[int, ...]) -> None:
    size, kernel, stride, before, after, dilation = axis
    padded = size + before + after
    positions = [p for p in range(0, padded, stride) if p + dilation * (kernel - 1) < padded]
    assert max(0, output_size(size, kernel, stride, (before, after), dilation)) == len(positions)


@settings(max_examples=300)
@given(axes, axes)
def test_output_size_is_torchs(vertical: tuple[int, ...], horizontal: tuple[int, ...]) -> None:
    (h, kh, sh, top, bottom, dh), (w, kw, sw, left, right, dw) = vertical, horizontal
    spec = Conv2dSpec(1, 1, (kh, kw), (sh, sw), ((top, bottom), (left, right)), (dh, dw))
    x = F.pad(torch.empty(1, 1, h, w, device="meta"), (left, right, top, bottom))
    try:
        shape = F.conv2d(x, torch.empty(1, 1, kh, kw, device="meta"), stride=(sh, sw), dilation=(dh, dw)).shape
    except RuntimeError:
        with pytest.raises(SpecError, match="cannot be applied"):
            spec.output_size((h, w))
    else:
        assert spec.output_size((h, w)) == tuple(shape[2:])


@given(axes, st.integers(0, 6))
def test_transposed_output_size_is_torchs(axis: tuple[int, ...], output_padding: int) -> None:
    size, kernel, stride, pad, _, dilation = axis
    output_padding %= max(stride, dilation)
    out = transposed_output_size(size, kernel, stride, (pad, pad), dilation, output_padding)
    if out < 1:
        return
    y = F.conv_transpose1d(
        torch.empty(1, 1, size, device="meta"),
        torch.empty(1, 1, kernel, device="meta"),
        stride=stride,
        padding=pad,
        output_padding=output_padding,
        dilation=dilation,
    )
    assert y.shape[2] == out


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@given(st.integers(1, 60), st.integers(1, 12), st.integers(1, 6))
def test_same_is_torchs(size: int, kernel: int, dilation: int) -> None:
    y = F.conv1d(
        torch.arange(1.0, size + 1).reshape(1, 1, -1),
        torch.arange(1.0, kernel + 1).reshape(1, 1, -1),
        padding="same",
        dilation=dilation,
    )
    assert output_size(size, kernel, 1, same_pad(kernel, dilation), dilation) == size == y.shape[2]
    by_hand = F.conv1d(
        F.pad(torch.arange(1.0, size + 1).reshape(1, 1, -1), same_pad(kernel, dilation)),
        torch.arange(1.0, kernel + 1).reshape(1, 1, -1),
        dilation=dilation,
    )
    assert torch.equal(y, by_hand)


@given(st.integers(1, 300), st.integers(1, 12), st.integers(1, 9), st.integers(1, 4))
def test_same_ceil_is_tensorflows(size: int, kernel: int, stride: int, dilation: int) -> None:
    """TensorFlow's documentation of `padding="SAME"`: if size % stride == 0, pad = max(k − stride, 0), else
    max(k − size % stride, 0); the smaller half before; and the output is ceil(size / stride)."""
    extent = kernel_extent(kernel, dilation)
    total = max(extent - stride, 0) if size % stride == 0 else max(extent - size % stride, 0)
    pad = same_ceil_pad(size, kernel, stride, dilation)
    assert pad == (total // 2, total - total // 2)
    assert output_size(size, kernel, stride, pad, dilation) == -(-size // stride)


@given(st.integers(1, 300), st.integers(0, 6), st.integers(1, 9))
def test_same_half_keeps_the_size_of_odd_kernels(size: int, half: int, stride: int) -> None:
    kernel = 2 * half + 1
    assert same_half_pad(kernel) == (half, half)
    assert output_size(size, kernel, 1, same_half_pad(kernel)) == size
    assert output_size(size, kernel, stride, same_half_pad(kernel)) == -(-size // stride)


def test_the_two_rules_differ_where_it_matters() -> None:
    """At stride 2 on an even image both halve the size, but TensorFlow's zeros stand at the bottom and right only."""
    ceil, half = (Conv2dSpec(1, 1, 3, 2, padding=rule) for rule in ("same_ceil", "same_half"))
    assert ceil.output_size((224, 224)) == half.output_size((224, 224)) == (112, 112)
    assert ceil.sides((224, 224)) == ((0, 1), (0, 1))
    assert half.sides((224, 224)) == ((1, 1), (1, 1))
    assert ceil.sides((7, 224)) == ((1, 1), (0, 1))
    even = Conv2dSpec(1, 1, 4, padding="same_half")
    assert even.output_size((7, 7)) == (8, 8)


@pytest.mark.parametrize("stride", [2, (1, 2), (3, 1)])
def test_plain_same_with_a_stride_explains_both_rules(stride: object) -> None:
    with pytest.raises(SpecError) as raised:
        Conv2dSpec(3, 8, 3, stride, padding="same")  # type: ignore[arg-type]
    message = str(raised.value)
    for part in ("'same_ceil'", "'same_half'", "TensorFlow", "⌈H/s⌉", "⌊k/2⌋", str(as_pair(stride, "stride"))):
        assert part in message
    assert "\n" not in message


def test_numbers_beyond_any_memory_are_exact() -> None:
    spec = Conv2dSpec(10**6, 10**6, 3, padding=1)
    assert spec.output_size((10**9, 10**9)) == (10**9, 10**9)
    assert spec.macs((10**9, 10**9), batch=7) == 7 * 9 * 10**30
    assert spec.dense_weights((10**9, 10**9)) == 10**48


@pytest.mark.parametrize(
    ("mode", "pad", "size", "fits"),
    [
        ("reflect", 3, (4, 4), True),
        ("reflect", 4, (4, 4), False),
        ("circular", 4, (4, 4), True),
        ("circular", 5, (4, 4), False),
        ("replicate", 50, (4, 4), True),
        ("zeros", 50, (4, 4), True),
    ],
)
def test_how_much_each_mode_can_pad_is_as_much_as_torch_can(
    mode: str, pad: int, size: tuple[int, int], fits: bool
) -> None:
    spec = Conv2dSpec(1, 1, 3, padding=pad, padding_mode=mode)
    x = torch.zeros(1, 1, *size)
    torchs = torch.nn.Conv2d(1, 1, 3, padding=pad, padding_mode=mode)
    if fits:
        assert spec.output_size(size) == tuple(torchs(x).shape[2:])
    else:
        with pytest.raises(RuntimeError):
            torchs(x)
        with pytest.raises(SpecError, match=mode):
            spec.output_size(size)


# ---------------------------------------------------------------------------------------------------------------------
# Cost
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(40))
def test_macs_are_half_of_torchs_flops(seed: int) -> None:
    choose = random.Random(seed)
    groups = choose.choice([1, 1, 2, 3, 6])
    spec = Conv2dSpec(
        groups * choose.randint(1, 5),
        groups * choose.randint(1, 5),
        (choose.randint(1, 5), choose.randint(1, 5)),
        (choose.randint(1, 3), choose.randint(1, 3)),
        (choose.randint(0, 3), choose.randint(0, 3)),
        (choose.randint(1, 3), choose.randint(1, 3)),
        groups,
        bias=choose.choice([True, False]),
    )
    size, batch = (choose.randint(14, 20), choose.randint(14, 20)), choose.randint(1, 3)
    (top, _), (left, _) = spec.sides(size)
    layer = torch.nn.Conv2d(
        spec.in_channels,
        spec.out_channels,
        spec.kernel_size,
        spec.stride,
        (top, left),
        spec.dilation,
        groups,
        spec.bias,
    )
    x = torch.zeros(batch, spec.in_channels, *size)
    with FlopCounterMode(display=False) as counted:
        y = layer(x)
    assert 2 * spec.macs(size, batch) == counted.get_total_flops()
    assert spec.parameters == sum(p.numel() for p in layer.parameters())
    assert spec.weight_shape == tuple(layer.weight.shape)
    assert spec.activation_bytes(size, batch) == y.numel() * y.element_size()
    assert spec.activation_bytes(size, batch, itemsize=2) == 2 * y.numel()


@pytest.mark.parametrize("seed", range(20))
def test_transposed_macs_are_half_of_torchs_flops(seed: int) -> None:
    choose = random.Random(seed)
    groups = choose.choice([1, 2, 3])
    inputs, outputs = groups * choose.randint(1, 4), groups * choose.randint(1, 4)
    kernel, stride = (choose.randint(1, 4), choose.randint(1, 4)), (choose.randint(1, 3), choose.randint(1, 3))
    size = (choose.randint(1, 6), choose.randint(1, 6))
    layer = torch.nn.ConvTranspose2d(inputs, outputs, kernel, stride, groups=groups)
    with FlopCounterMode(display=False) as counted:
        layer(torch.zeros(2, inputs, *size))
    assert 2 * Conv2dSpec(inputs, outputs, kernel, stride, groups=groups).transposed_macs(size, 2) == (
        counted.get_total_flops()
    )


# ---------------------------------------------------------------------------------------------------------------------
# Receptive field
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(30))
def test_receptive_field_against_the_set_of_inputs_that_a_unit_reads(seed: int) -> None:
    choose = random.Random(seed)
    layers = [
        (choose.randint(1, 4), choose.randint(1, 3), choose.randint(0, 2), choose.randint(1, 3)) for _ in range(4)
    ]
    seen, unit = ReceptiveField(), choose.randint(0, 3)
    positions = {unit}
    for kernel, stride, pad, dilation in layers:
        seen = seen.through(kernel, stride, pad, dilation)
    for kernel, stride, pad, dilation in reversed(layers):
        positions = {p * stride - pad + i * dilation for p in positions for i in range(kernel)}
    assert min(positions) == seen.start + unit * seen.jump
    assert max(positions) - min(positions) + 1 == seen.size


def test_receptive_field_of_paths_that_meet() -> None:
    long = ReceptiveField().through(3, 1, 1).through(3, 1, 1)
    assert long.merged(ReceptiveField()) == long
    shifted = ReceptiveField().through(3)  # unpadded: its units begin where the others' end
    assert shifted.merged(ReceptiveField(start=5)) == ReceptiveField(size=6, jump=1, start=0)


def test_receptive_field_of_a_spec_is_per_axis() -> None:
    spec = Conv2dSpec(1, 1, (3, 5), (1, 2), padding=((1, 1), (2, 0)), dilation=(2, 1))
    vertical, horizontal = spec.receptive_field((ReceptiveField(), ReceptiveField()), (9, 9))
    assert vertical == ReceptiveField(5, 1, -1)
    assert horizontal == ReceptiveField(5, 2, -2)


# ---------------------------------------------------------------------------------------------------------------------
# What users write
# ---------------------------------------------------------------------------------------------------------------------


def test_a_spec_is_a_value() -> None:
    loose, exact = Conv2dSpec(3, 8, 3, 2, 1), Conv2dSpec(3, 8, (3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1))
    assert loose == exact
    assert hash(loose) == hash(exact)
    assert {loose: 1}[exact] == 1
    with pytest.raises(AttributeError):
        loose.stride = (1, 1)  # type: ignore[misc]


@pytest.mark.parametrize("padding", [2, (2, 2), [2], [2, 2], ((2, 2), (2, 2)), [[2, 2], [2, 2]], torch.Size([2, 2])])
def test_padding_however_it_is_written(padding: object) -> None:
    assert Conv2dSpec(1, 1, 5, padding=padding).padding == ((2, 2), (2, 2))  # type: ignore[arg-type]


def test_integers_of_other_libraries() -> None:
    import numpy as np

    spec = Conv2dSpec(np.int64(3), np.int32(8), np.int64(3), stride=(np.int8(2), 1))  # type: ignore[arg-type]
    assert spec == Conv2dSpec(3, 8, 3, (2, 1))
    assert all(type(value) is int for value in (spec.in_channels, *spec.kernel_size, *spec.stride))


MISTAKES = {
    "in_channels=0": ({"in_channels": 0}, "in_channels must be a positive integer, not 0"),
    "out_channels=-3": ({"out_channels": -3}, "out_channels must be a positive integer, not -3"),
    "groups=0": ({"groups": 0}, "groups must be a positive integer, not 0"),
    "groups=2.5": ({"groups": 2.5}, "groups must be a positive integer, not 2.5"),
    "groups that do not divide the input": ({"groups": 3}, "in_channels=4 cannot be split into groups=3"),
    "groups that do not divide the output": ({"groups": 4}, "out_channels=6 cannot be split into groups=4"),
    "kernel_size=0": ({"kernel_size": 0}, "kernel_size must be at least 1, not 0"),
    "kernel_size of three": ({"kernel_size": (3, 3, 3)}, r"kernel_size must be an integer or a pair .* \(3, 3, 3\)"),
    "stride=0": ({"stride": 0}, "stride must be at least 1, not 0"),
    "stride=1.5": ({"stride": 1.5}, "stride must be an integer or a pair of integers, not 1.5"),
    "stride=True": ({"stride": True}, "stride must be an integer"),
    "stride='2'": ({"stride": "2"}, "stride must be an integer or a pair of integers, not '2'"),
    "dilation=(1, 0)": ({"dilation": (1, 0)}, r"dilation must be at least 1, not \(1, 0\)"),
    "padding=-1": ({"padding": -1}, "padding must be at least 0, not -1"),
    "padding='SAME'": ({"padding": "SAME"}, "'same_ceil' and 'same_half', not 'SAME'"),
    "padding of three": ({"padding": (1, 2, 3)}, "padding must be"),
    "padding=((1, 2),)": ({"padding": ((1, 2),)}, "padding must be"),
    "padding per side, negative": ({"padding": ((1, -2), (0, 0))}, "padding must be at least 0"),
    "padding_mode='wrap'": ({"padding_mode": "wrap"}, "zeros, reflect, replicate, circular, not 'wrap'"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_named(name: str) -> None:
    changed, sentence = MISTAKES[name]
    with pytest.raises(SpecError, match=sentence) as raised:
        Conv2dSpec(**({"in_channels": 4, "out_channels": 6, "kernel_size": 3} | changed))  # type: ignore[arg-type]
    assert "\n" not in str(raised.value)
    assert str(raised.value).endswith(".")


def test_errors_are_what_callers_of_torch_catch() -> None:
    assert issubclass(SpecError, ValueError)
    assert issubclass(SpecError, RuntimeError)
    assert issubclass(UserError, ValueError)


def test_the_sentence_of_a_kernel_that_does_not_fit_has_the_formula_with_its_numbers() -> None:
    for spec, size, parts in (
        (Conv2dSpec(1, 1, 3), (1, 1), ["3×3 kernel", "1×1 input", "H_out = ⌊(1 + 0 + 0 − 3) / 1⌋ + 1 = -1"]),
        (Conv2dSpec(1, 1, (1, 5), 2, (0, 1)), (9, 2), ["1×5", "9×2", "W_out = ⌊(2 + 1 + 1 − 5) / 2⌋ + 1 = 0"]),
        (Conv2dSpec(1, 1, 3, dilation=4), (8, 9), ["dilated to 9×9", "− 9) / 1⌋"]),
    ):
        with pytest.raises(SpecError) as raised:
            spec.output_size(size)
        for part in parts:
            assert part in str(raised.value)


def test_every_small_convolution_has_the_size_that_brute_force_counts() -> None:
    for size, kernel, stride, pad, dilation in itertools.product(range(1, 9), (1, 2, 3), (1, 2, 3), (0, 1, 2), (1, 2)):
        positions = len(range(0, size + 2 * pad - dilation * (kernel - 1), stride))
        assert max(0, output_size(size, kernel, stride, (pad, pad), dilation)) == positions
