"""The table of the highest activations is what sorting all activations gives, however the images come in batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from convforge.see.topmost import KEPT, NOTHING, Table

Place = tuple[float, int, int, int]


def by_sorting(maps: Tensor, channel: int, apart: tuple[int, int] | None) -> list[Place]:
    """(value, image, row, column) of the best places, from all activations of a channel."""
    found: list[Place] = []
    for image, one in enumerate(maps[:, channel].tolist()):
        places = [(-value, row, column) for row, line in enumerate(one) for column, value in enumerate(line)]
        _, top, left = best = min(places)
        found.append((-best[0], image, top, left))
        others = [p for p in places if apart and (abs(p[1] - top) > apart[0] or abs(p[2] - left) > apart[1])]
        if others:
            value, row, column = min(others)
            found.append((-value, image, row, column))
    return sorted(found, key=lambda place: (-place[0], place[1:]))[:KEPT]


def in_table(table: Table, channel: int) -> list[Place]:
    columns = (table.values, table.images, table.rows, table.columns)
    places = list(zip(*(column[:, channel].tolist() for column in columns), strict=True))
    return [place for place in places if place[1] != NOTHING]


@given(
    seed=st.integers(0, 2**20),
    shape=st.tuples(st.integers(1, 40), st.integers(1, 5), st.integers(1, 6), st.integers(1, 6)),
    batch=st.integers(1, 13),
    levels=st.sampled_from([1, 3, 1000]),
    apart=st.sampled_from([None, (1, 2), (0, 9)]),
    last=st.booleans(),
)
def test_it_is_what_sorting_gives(
    seed: int, shape: tuple[int, ...], batch: int, levels: int, apart: tuple[int, int] | None, last: bool
) -> None:
    # Few levels: many values are equal, and which of them are kept must not depend on the batches.
    maps = torch.randint(-levels, levels, shape, generator=torch.Generator().manual_seed(seed)).float()
    maps = maps.contiguous(memory_format=torch.channels_last) if last else maps
    table = Table.empty(shape[1])
    for begin in range(0, shape[0], batch):
        part = maps[begin : begin + batch]
        table.consider(part, range(begin, begin + len(part)), apart=apart)
    for channel in range(shape[1]):
        assert in_table(table, channel) == by_sorting(maps, channel, apart)


def test_classes_are_summed_up() -> None:
    maps = torch.rand(7, 3, 4, 4)
    table = Table.empty(3, classes=2)
    classes = [0, 1, None, 1, 1, 0, None]
    table.consider(maps[:4], range(4), classes[:4])
    table.consider(maps[4:], range(4, 7), classes[4:])
    peaks = maps.amax((2, 3)).double().numpy()
    for label in (0, 1):
        expected = sum(peaks[image] for image in range(7) if classes[image] == label)
        np.testing.assert_allclose(table.sums[label], expected, rtol=1e-12)


def test_a_part_is_the_same_memory() -> None:
    table = Table.empty(5, classes=1)
    table.part(2, 4).consider(torch.ones(1, 2, 1, 1), [0], [0])
    assert table.values[0].tolist() == [-np.inf, -np.inf, 1, 1, -np.inf]
    assert table.sums.tolist() == [[0, 0, 1, 1, 0]]


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_what_is_no_number_excites_nothing(value: float) -> None:
    table = Table.empty(1)
    table.consider(torch.full((3, 1, 2, 2), value), range(3))
    assert in_table(table, 0) == []
