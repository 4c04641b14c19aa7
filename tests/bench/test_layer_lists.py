"""The notations of layers, and what is counted of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from convforge import UserError
from convforge.bench.layers import USUAL, Layer, is_spec, merged, of_model, only, parse, read_list
from convforge.engine.plan import Pass
from convforge.spec import Conv2dSpec, SpecError


def test_both_notations_say_the_same() -> None:
    readable = parse("64,56x56,128,3x3,stride=2,padding=1,groups=1,batch=1")
    assert readable == Layer(Conv2dSpec(64, 128, 3, 2, 1, bias=False), (56, 56))
    assert (
        readable == parse("mb1ic64ih56oc128oh28kh3sh2ph1") == parse("mb1_g1ic64oc128_ih56oh28kh3sh2dh0ph1_iw56ow28kw3")
    )


def test_a_layer_is_read_again_as_it_was_written() -> None:
    others = ("8,9x27,16,1x5,stride=1x2,padding=0x2,dilation=1x3,groups=2,batch=3", "3,10,4,3,padding=0/1/2/0")
    for text in (*USUAL, *others):
        layer = parse(text)
        assert parse(layer.text()) == layer


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("64,56,128,3,stride=2,padding=1", "64,56,128,3,stride 2,pad 1"),
        ("64,56,128,3,padding=same", "64,56,128,3,same"),
        ("64,56,128,3,padding=same", "64,56,128,3,padding='same'"),
        ("64,56,64,3,padding=1,groups=64,batch=4", "64,56,64,3,padding 1,depthwise,batch = 4"),
    ],
)
def test_options_are_written_as_in_a_line_too(text: str, other: str) -> None:
    assert parse(text) == parse(other)


def test_a_line_is_a_layer_too_where_it_has_one() -> None:
    assert only("conv 128 3x3 stride=2 padding=1, relu", (64, 56, 56), batch=2) == parse(
        "64,56x56,128,3x3,stride=2,padding=1,batch=2"
    )
    with pytest.raises(UserError, match="has 2 different convolutions: name one of them, such as 3,9x9,4,1x1; 4,9x9"):
        only("conv 4 1, conv 8 1", (3, 9, 9))


def test_numbers_stand_for_pairs_and_rules_for_padding() -> None:
    assert parse("3,32,8,3,padding=same").y_shape == (1, 8, 32, 32)
    assert parse("3,32,8,3,stride=2,padding=same_ceil").spec.sides((32, 32)) == ((0, 1), (0, 1))
    assert parse("3, 32x16, 8, 3x1 , dilation=2").y_shape == (1, 8, 28, 16)


def test_benchdnns_dilation_is_one_less_and_padding_follows_from_the_output() -> None:
    layer = parse('mb1ic512ih38iw57oc512oh38ow57kh3kw3ph3pw3dh2dw2n"dilated_rfcn*2"')
    assert (layer.spec.dilation, layer.name, layer.count) == ((3, 3), "dilated_rfcn", 2)
    assert parse("ic3ih224oc64oh112kh7sh2ph3").spec.padding == ((3, 3), (3, 3))  # as evenly as any library has it
    assert parse("ic3ih32oc8oh16kh3sh2ph0").spec.padding == ((0, 1), (0, 1))
    assert parse("ic3ih32oc8oh16kh3sh2ph0").batch == 2
    assert parse("ic3ih32oc8oh16kh3sh2ph0", batch=5).batch == 5


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("64,56,128", "CHANNELS,SIZE,OUTPUTS,KERNEL"),
        ("64,56,stride=2,128,3", "CHANNELS,SIZE,OUTPUTS,KERNEL"),
        ("64,56,128,3,stride=a", "stride in .* not 'a'"),
        ("64,56,128,3x3x3", "KERNEL in .* not '3x3x3'"),
        ("64,56,128,0", "KERNEL in .* not '0'"),
        ("64,56,128,3,steps=2", "'steps' in .* stride, padding, dilation, groups, batch"),
        ("64,56,128,3,stride", "'stride' in .* takes one value"),
        ("64,56,128,3,smae", "'smae' in .* is not an option of a layer"),
        ("64,56,128,3,", "'' in .* is not an option of a layer"),
        ("64,56,128,3,padding=1/2", "padding in .* not '1/2'"),
        ("64,56,128,3,padding=sane", "not 'sane'"),
        ("64,56,128,3,groups=7", "groups=7"),
        ("64,2,64,5", "5×5 kernel cannot be applied to a 2×2 input"),
        ("mb1ic64", "'oc' is missing"),
        ("mb1ic64ih56oc64oh56kh3ph1zz3", "'zz' in .* notation"),
        ("ic64ih56oc64oh56kh3ph1!", "'!' in .* notation"),
        ("ic64ih56oc64oh56kh3sh0ph1", "sh0 in"),
        ("ic64ih56oc64oh50kh3ph1", "would be 55x55, not 50x50"),
        ("ic64ih56oc64oh99kh3ph1", "all padding"),
        ("1" * 5000 + ",56,128,3", "CHANNELS in"),
    ],
)
def test_a_mistake_is_one_sentence_with_the_value(text: str, said: str) -> None:
    with pytest.raises((UserError, SpecError), match=said) as mistake:
        parse(text)
    assert "\n" not in str(mistake.value)


def test_a_list_says_which_line_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "layers.txt"
    path.write_text("# two\n\n64,56,64,3 # a comment\nmb1ic8ih5oc8oh5kh1\n")
    assert [layer.spec.in_channels for layer in read_list(path, batch=2)] == [64, 8]
    path.write_text("64,56,64,3\n64,56,64\n")
    with pytest.raises(UserError, match=r"line 2 of .*layers.txt"):
        read_list(path)
    path.write_text("# nothing\n")
    with pytest.raises(UserError, match="has no layers"):
        read_list(path)
    with pytest.raises(UserError, match="No such file"):
        read_list(tmp_path / "none.txt")
    with pytest.raises(UserError, match="cannot be read"):
        read_list(tmp_path)


def test_specs_are_told_from_models() -> None:
    assert is_spec("64,56x56,128,3x3")
    assert is_spec("mb1_g1ic64oc64_ih56oh56kh3ph1")
    for model in ("conv 64 3x3 same, relu", "torchvision:resnet50", "runs/mnist", "music.net:make"):
        assert not is_spec(model)


def test_a_models_layers_are_measured_once_and_counted() -> None:
    layers, said = of_model("conv 8 3x3 same, conv 8 3x3 same, relu, conv 8 3x3 same, linear 2", (3, 16, 16), batch=4)
    assert [(layer.text(), layer.count) for layer in layers] == [
        ("3,16x16,8,3x3,padding=1,batch=4", 1),
        ("8,16x16,8,3x3,padding=1,batch=4", 2),
    ]
    assert said == ""
    with pytest.raises(UserError, match="no two-dimensional convolution"):
        of_model("flatten, linear 3", (3, 4, 4))


def test_merging_keeps_the_first_name() -> None:
    one, other = parse('ic3ih9oc4oh9kh1n"a*2"'), parse('ic3ih9oc4oh9kh1n"b"')
    assert [(layer.name, layer.count) for layer in merged([one, other])] == [("a", 3)]


def test_bytes_are_those_that_cannot_be_avoided() -> None:
    # 1×1 at stride 2 reads one pixel of four, and its input gradient writes all of them.
    layer = parse("2,4x6,3,1,stride=2")
    weights, y = 6, 3 * 2 * 3
    assert layer.bytes(Pass.FORWARD) == layer.bytes(Pass.WEIGHT_GRADIENT) == 4 * (2 * 2 * 3 + weights + y)
    assert layer.bytes(Pass.INPUT_GRADIENT) == 4 * (2 * 4 * 6 + weights + y)
    # A dilated kernel of two taps, 3 apart, at stride 4: rows 0, 3, 4 and 7 of 8.
    assert parse("1,8x8,1,2x1,stride=4x1,dilation=3x1").bytes(Pass.FORWARD) == 4 * (4 * 8 + 2 + 2 * 8)
    # Padding is not read: 3×3 on 5×5 with a ring of zeros.
    assert parse("1,5,1,3,padding=1").bytes(Pass.FORWARD) == 4 * (25 + 9 + 25)
    assert parse("1,5,1,3,padding=1").flops == 2 * 25 * 9


def test_uneven_padding_is_put_around_the_image() -> None:
    layer = parse("3,32,8,3,stride=2,padding=0/1/0/1")
    even = layer.evenly_padded()
    assert (even.size, even.spec.padding, even.y_shape) == ((33, 33), ((0, 0), (0, 0)), layer.y_shape)
    assert parse("3,32,8,3,padding=1").evenly_padded() == parse("3,32,8,3,padding=1")
