"""The arithmetic behind one number: against the definition, and against what models really compute."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import conv2d as torch_conv2d

from convforge import reference
from convforge.errors import UserError
from convforge.see.arithmetic import changed, kernel_of, size_formula, unit
from convforge.see.pictures import Pictures
from convforge.spec import PADDING_MODES, Conv2dSpec, SpecError

from .networks import NETWORKS, SHAPE, opened, photographs


@st.composite
def specs(draw: st.DrawFn) -> Conv2dSpec:
    groups = draw(st.integers(1, 3))
    small = st.integers(1, 3)
    sides = st.tuples(st.integers(0, 2), st.integers(0, 2))
    return Conv2dSpec(
        groups * draw(small), groups * draw(small), (draw(small), draw(small)), (draw(small), draw(small)),
        draw(st.tuples(sides, sides) | st.just("same_ceil")), (draw(small), draw(small)), groups,
        padding_mode=draw(st.sampled_from(PADDING_MODES)),
    )  # fmt: skip


@given(specs(), st.tuples(st.integers(7, 9), st.integers(7, 9)), st.integers(0, 2**16))
@settings(max_examples=60)
def test_a_unit_is_what_the_definition_says(spec: Conv2dSpec, size: tuple[int, int], seed: int) -> None:
    random = np.random.default_rng(seed)
    x, w = random.normal(size=(spec.in_channels, *size)), random.normal(size=spec.weight_shape)
    bias = random.normal(size=spec.out_channels)
    k, r, c = (int(random.integers(n)) for n in (spec.out_channels, *spec.output_size(size)))
    made = unit(spec, x, w, bias, k, r, c)
    assert made.total == pytest.approx(reference.conv2d_at(x[None], w, spec, 0, k, r, c) + bias[k], abs=1e-12)
    assert made.sums.sum() + made.bias == pytest.approx(made.total, abs=1e-12)
    # What is said of the positions is true of the patch.
    for i, (row, source) in enumerate(zip(made.rows, made.row_sources, strict=True)):
        for j, (column, other) in enumerate(zip(made.columns, made.column_sources, strict=True)):
            if 0 <= row < size[0] and 0 <= column < size[1]:
                assert (source, other) == (row, column)
            seen = x[list(made.channels), source, other] if min(source, other) >= 0 else np.zeros(len(made.channels))
            assert np.array_equal(made.patch[:, i, j], seen)


def test_200_numbers_of_three_networks_are_the_models_own(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    kinds: Counter[str] = Counter()
    opens = [opened(make) for make in NETWORKS.values()]
    pictures = Pictures([photographs(tmp_path)], SHAPE, opens[0].mean, opens[0].std)
    for turn in range(200):
        network = opens[turn % len(opens)]
        layers = [layer for layer in network.layers if layer.convolution]
        layer = layers[turn // len(opens) % len(layers)]
        image = int(random.integers(len(pictures)))
        moment = network.look(image, lambda image=image: pictures.input(image), layer.index)
        assert moment.convolution is not None
        assert moment.input is not None
        assert moment.convolved is not None
        spec, weight, bias = moment.convolution.spec, moment.convolution.weight, moment.convolution.bias
        k, r, c = (int(random.integers(n)) for n in moment.convolved.shape[1:])
        added = None if bias is None else bias.numpy()
        made = unit(spec, moment.input[0].numpy(), weight.numpy(), added, k, r, c)
        assert made.output_shape == tuple(moment.convolved.shape[1:])
        model = float(moment.convolved[0, k, r, c])
        difference = abs(made.total - model)
        assert difference <= 1e-6 * made.magnitude, (layer.name, k, r, c)
        # Where products cancel, a small sum remains of large ones, and with it the rounding of the large ones.
        if abs(model) > made.magnitude / 200:
            assert difference <= 1e-5 * abs(model), (layer.name, k, r, c)
            kinds["not cancelled"] += 1
        kinds["depthwise"] += spec.groups == spec.in_channels > 1
        kinds["grouped"] += 1 < spec.groups < spec.in_channels
        kinds["strided"] += max(spec.stride) > 1
        kinds["dilated"] += max(spec.dilation) > 1
    assert kinds.pop("not cancelled") >= 190
    assert min(kinds.values()) >= 10
    assert len(kinds) == 4


@pytest.mark.parametrize(("original", "groups"), [(1, 4), (4, 1), (2, 4), (4, 2), (2, 3), (1, 12), (12, 1)])
def test_other_groups_strike_out_the_weights_between_groups(original: int, groups: int) -> None:
    random = np.random.default_rng(original * 100 + groups)
    spec = Conv2dSpec(12, 12, 3, padding=1, groups=original)
    x, weight = random.normal(size=(12, 5, 5)), random.normal(size=spec.weight_shape)
    dense = np.zeros((12, 12, 3, 3))
    for k in range(12):
        old, new = k // (12 // original) * (12 // original), k // (12 // groups) * (12 // groups)
        dense[k, old : old + 12 // original] = weight[k]
        dense[k, [c for c in range(12) if not new <= c < new + 12 // groups]] = 0
    expected = torch_conv2d(torch.from_numpy(x)[None], torch.from_numpy(dense), padding=1)[0].numpy()
    other = changed(spec, groups=groups)
    for k in range(12):
        made = unit(other, x, weight, None, k, 2, 4, original_groups=original)
        assert made.total == pytest.approx(expected[k, 2, 4], abs=1e-12)
        assert kernel_of(other, weight, k, original).shape == (12 // groups, 3, 3)


def test_changing_one_setting_leaves_the_others() -> None:
    spec = Conv2dSpec(8, 8, 3, 2, ((0, 1), (2, 3)), 1, 2, bias=False, padding_mode="replicate")
    other = changed(spec, dilation=(2, 2))
    assert (other.stride, other.padding, other.groups, other.padding_mode) == ((2, 2), ((0, 1), (2, 3)), 2, "replicate")
    with pytest.raises(SpecError, match="groups=3"):
        changed(spec, groups=3)
    with pytest.raises(SpecError, match="same_ceil"):
        changed(spec, padding="same")


def test_the_lessons_sizes_as_formulas() -> None:
    assert size_formula(Conv2dSpec(1, 1, 3), (7, 7))[0] == "⌊(7 + 0 + 0 − 1·(3 − 1) − 1) / 1⌋ + 1 = 5"
    assert size_formula(Conv2dSpec(1, 1, 3, 2), (7, 7))[1] == "⌊(7 + 0 + 0 − 1·(3 − 1) − 1) / 2⌋ + 1 = 3"
    assert size_formula(Conv2dSpec(1, 1, 3, padding="same"), (7, 7))[0].endswith("= 7")


@pytest.mark.parametrize("place", [(2, 0, 0), (0, 5, 0), (0, 0, 5), (-1, 0, 0), (0, -1, 0)])
def test_what_is_outside_is_said_to_be(place: tuple[int, int, int]) -> None:
    with pytest.raises(UserError, match="2×5×5"):
        unit(Conv2dSpec(1, 2, 3), np.zeros((1, 7, 7)), np.zeros((2, 1, 3, 3)), None, *place)
