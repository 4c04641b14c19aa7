"""Networks written as lines."""

from __future__ import annotations

import pytest
import torch

from convforge.errors import UserError
from convforge.models.lines import parse
from convforge.planning import plan
from convforge.spec import SpecError


def test_every_word_of_the_grammar() -> None:
    model = parse(
        "conv 8 3x5 same, bn, relu, pool 2, conv 16 3 stride 2 pad 1 groups 2 nobias, relu6, conv 16 3 depthwise "
        "dilation 2 same, gelu, avgpool 3 stride 1 pad 1, silu, conv 4 4 same_half stride 2, hardswish, conv 4 1, "
        "sigmoid, gap, tanh, dropout 0.5, flatten, linear 7, bn, relu, linear 3",
        (3, 32, 32),
    ).eval()
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 3)
    assert list(dict(model.named_children()))[:5] == ["conv1", "bn1", "relu1", "pool1", "conv2"]
    assert model.conv2.bias is None
    assert (model.conv2.groups, model.conv3.groups, model.conv3.dilation) == (2, 16, (2, 2))
    assert model.conv1.kernel_size == (3, 5)


def test_linear_flattens_what_it_is_given() -> None:
    model = parse("conv 2 3x3 same, linear 4", (1, 5, 6))
    assert model.linear1.in_features == 2 * 5 * 6
    assert model(torch.zeros(1, 1, 5, 6)).shape == (1, 4)


@pytest.mark.parametrize(("padding", "size"), [("same_ceil", 112), ("same_half", 112), ("valid", 111)])
def test_paddings_with_stride(padding: str, size: int) -> None:
    (row,) = plan(parse(f"conv 4 3x3 {padding} stride 2", (3, 224, 224)), (3, 224, 224)).rows
    assert row.output_shape == (1, 4, size, size)
    assert row.padding is not None
    assert row.padding[0] == {"same_ceil": (0, 1), "same_half": (1, 1), "valid": (0, 0)}[padding]


def test_the_lessons_chain() -> None:
    assert parse("conv 1 3x3, conv 1 3x3, conv 1 3x3", (1, 7, 7))(torch.zeros(1, 1, 7, 7)).shape == (1, 1, 1, 1)
    with pytest.raises(
        SpecError, match=r"'conv4' \(conv 1 3x3\).*1×1 input: H_out = ⌊\(1 \+ 0 \+ 0 − 3\) / 1⌋ \+ 1 = -1"
    ):
        parse("conv 1 3x3, conv 1 3x3, conv 1 3x3, conv 1 3x3", (1, 7, 7))


@pytest.mark.parametrize(
    ("line", "other"),
    [
        ("conv 8 3x3 stride 2", "conv 8 3x3 stride=2"),
        ("conv 8 3x3 stride 2x1", "conv 8 3x3 stride = 2x1"),
        ("conv 8 3x3 same", "conv 8 3x3 padding='same'"),
        ("conv 8 3x3 same", 'conv 8 3x3 padding="same"'),
        ("conv 8 3x3 same", "conv 8 3x3 padding same"),
        ("conv 8 3x3 pad 1", "conv 8 3x3 padding=1"),
        ("conv 8 3x3 pad 1x0 dilation 2", "conv 8 3x3 pad=1x0 dilation=2"),
        ("conv 8 3x3 nobias", "conv 8 3x3 bias=False"),
        ("conv 8 3x3", "conv 8 3x3 bias=True"),
        ("conv 8 3x3, conv 8 3 groups 4", "conv 8 3x3, conv 8 3 groups=4"),
        ("pool 3 stride 2 pad 1", "pool 3 stride=2 padding=1"),
    ],
)
def test_pytorchs_way_of_writing_options_says_the_same(line: str, other: str) -> None:
    assert repr(parse(line, (4, 9, 9))) == repr(parse(other, (4, 9, 9)))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("cnov 8 3", r"'cnov' is not a layer \(did you mean 'conv'\?\); known: conv, pool"),
        ("conv 8 3 same, dense 10", "'dense' is called 'linear' here: write for example 'linear 10'"),
        ("maxpool 2", "'maxpool' is called 'pool' here: write for example 'pool 2'"),
        ("Conv2d 8 3", "'conv2d' is called 'conv' here"),
        ("conv 8 3 bias=no", "bias must be True or False, not 'no'"),
        ("conv 8 3 padding=smae", "padding must be a number such as 3, or rows x columns such as 3x3, not 'smae'"),
        ("pool 2 padding=same", "padding must be a number"),
        ("conv 8 3x3 smae", "'smae' in 'conv 8 3x3 smae' is not an option of 'conv'; known after it: same, valid"),
        ("conv 8", "no kernel: write for example 'conv 64 3x3 same'"),
        ("conv", "no number of output channels"),
        ("conv x 3", "whole number of at least 1, not 'x'"),
        ("conv 0 3", "at least 1, not '0'"),
        ("conv 8 3x", "rows x columns such as 3x3, not '3x'"),
        ("conv 8 3 groups 2", "in_channels=3 cannot be split into groups=2"),
        ("conv 8 3 stride", "no stride"),
        ("conv 8 3 same stride 2", "'conv1'.*choose 'same_ceil'"),
        ("pool 2 same", "'same' in 'pool 2 same' is not an option of 'pool'; known after it: stride S, pad P"),
        ("pool 2 pad 2", "more than half of the window: use 1"),
        ("pool 9", "cannot be applied to a 8×8 input"),
        ("linear 4 5", "nothing follows it"),
        ("linear 4, conv 8 3", "needs feature maps"),
        ("relu 3", "'3' in 'relu 3'"),
        ("dropout 2", "between 0 and 1"),
        ("conv 8 3,, relu", "layer 2 of .* is empty"),
        (" ", "is empty"),
    ],
)
def test_mistakes_name_the_word(line: str, words: str) -> None:
    with pytest.raises((UserError, SpecError), match=words) as caught:
        parse(line, (3, 8, 8))
    assert "\n" not in str(caught.value)
