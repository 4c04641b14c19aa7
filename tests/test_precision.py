"""The setting of how exact convolutions must be."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import pytest
import torch

import convforge
from convforge import Conv2dSpec, UserError, get_precision, set_precision


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    before = get_precision()
    yield
    set_precision(before)


def test_the_default_is_fast() -> None:
    assert get_precision() == "fast"


def test_a_setting_stays() -> None:
    set_precision("exact")
    assert get_precision() == "exact"
    assert convforge.get_precision() == "exact"
    set_precision("fast")
    assert get_precision() == "fast"


def test_a_setting_for_a_while() -> None:
    with set_precision("exact"):
        assert get_precision() == "exact"
        with set_precision("fast"):
            assert get_precision() == "fast"
        assert get_precision() == "exact"
    assert get_precision() == "fast"


def test_an_error_inside_ends_it_as_well() -> None:
    with pytest.raises(KeyError), set_precision("exact"):
        raise KeyError
    assert get_precision() == "fast"


@pytest.mark.parametrize("word", ["Fast", "", "high", None, 1])
def test_another_word_is_named_and_changes_nothing(word: object) -> None:
    with set_precision("exact"):
        with pytest.raises(UserError, match="'fast' or 'exact'") as raised:
            set_precision(word)  # type: ignore[arg-type]
        assert repr(word) in str(raised.value)
        assert get_precision() == "exact"


@pytest.mark.parametrize(
    "spec",
    [
        Conv2dSpec(16, 24, 3, padding=1), Conv2dSpec(20, 3, 3, padding=1), Conv2dSpec(3, 40, 7, 2, padding=3),
        Conv2dSpec(37, 37, 3, padding=1, groups=37), Conv2dSpec(64, 64, 3, 2, padding=1, groups=64),
        Conv2dSpec(64, 64, 3, padding=1, groups=16), Conv2dSpec(700, 33, 1), Conv2dSpec(130, 5, 3, padding=1),
        Conv2dSpec(8, 2, 5, padding=2, dilation=2), Conv2dSpec(16, 16, (80, 7), padding=(40, 3), groups=16),
        Conv2dSpec(32, 32, 3, padding=1, groups=32, dilation=2),
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_exact_result_has_the_same_bits_however_the_image_comes(spec: Conv2dSpec, dtype: torch.dtype) -> None:
    """Whatever the batch, the threads, the memory formats, and whether weights were packed before or are learned."""
    torch.manual_seed(1)
    x, w = torch.randn(16, spec.in_channels, 23, 21, dtype=dtype), torch.randn(*spec.weight_shape, dtype=dtype)
    bias = torch.randn(spec.out_channels, dtype=dtype)
    formats = (torch.contiguous_format, torch.channels_last)
    geometry = (spec.stride, spec.sides((23, 21)), spec.dilation, spec.groups)
    threads, results = torch.get_num_threads(), set()
    try:
        with convforge.set_precision("exact"):
            for batch, count, x_format, w_format in product((1, 3, 16), (1, 2), formats, formats):
                torch.set_num_threads(count)
                images, weights = x[:batch].contiguous(memory_format=x_format), w.contiguous(memory_format=w_format)
                learned = weights.clone().requires_grad_()
                calls = [convforge.conv2d(images, learned, bias, *geometry).detach()]
                with torch.no_grad():
                    calls += [convforge.conv2d(images, weights, bias, *geometry) for _ in range(3)]
                results |= {y[0].contiguous().numpy().tobytes() for y in calls}
    finally:
        torch.set_num_threads(threads)
    assert len(results) == 1
