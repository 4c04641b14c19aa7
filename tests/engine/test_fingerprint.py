"""A fingerprint changes with any number that it covers, and covers what it says."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from convforge.engine.fingerprint import PAGE, fingerprint, pages

SIZES = [0, 4, 60, PAGE - 4, PAGE, PAGE + 4, 5 * PAGE, 7 * PAGE + 20]


def numbers(size: int) -> NDArray[np.uint32]:
    return np.random.default_rng(size).integers(0, 1 << 32, size // 4, np.uint32)


def of(array: NDArray[np.uint32], first: int = 0, step: int = 1) -> int:
    return fingerprint(int(array.ctypes.data), array.nbytes, first, step)


@pytest.mark.parametrize("size", SIZES)
def test_every_bit_of_every_word_counts(size: int) -> None:
    array = numbers(size)
    before = of(array)
    assert of(array) == before
    for n in range(0, array.size, max(1, array.size // 500)):
        bit = np.uint32(1 << n % 32)
        array[n] ^= bit
        assert of(array) != before, n
        array[n] ^= bit
    assert of(array) == before


@pytest.mark.parametrize("size", SIZES[1:])
def test_changes_that_cancel_in_a_plain_sum_are_seen(size: int) -> None:
    """All signs turned, everything doubled (2²³ added to each), two numbers exchanged, the order turned around."""
    array = numbers(size)
    exchanged = array.copy()
    exchanged[[0, -1]] = exchanged[[-1, 0]]
    seen = [of(c) for c in (array, array ^ np.uint32(1 << 31), array + np.uint32(1 << 23), array * np.uint32(2))]
    assert len(set(seen)) == len(seen)
    if size > 4:
        assert of(exchanged) != seen[0]
        assert of(array[::-1].copy()) != seen[0]


def test_equal_numbers_of_different_count_and_value_differ() -> None:
    memory = np.empty(4 * PAGE, np.float32)
    seen = set()
    for value in (0, 1, -1, 2, -2, 0.5):
        memory[:] = value
        seen |= {fingerprint(int(memory.ctypes.data), size) for size in range(4, 4 * PAGE, 52)}
    assert len(seen) == 6 * len(range(4, 4 * PAGE, 52))


@pytest.mark.parametrize("step", [1, 2, 3, 8, 11])
@pytest.mark.parametrize("size", SIZES)
def test_turns_cover_everything_once(size: int, step: int) -> None:
    array = numbers(size)
    before = [of(array, first, step) for first in range(step)]
    for n in range(0, array.size, max(1, array.size // 50)):
        array[n] ^= np.uint32(1)
        changed = [first for first in range(step) if of(array, first, step) != before[first]]
        assert changed == [n * 4 // PAGE % step]
        array[n] ^= np.uint32(1)
    assert pages(size) == -(-size // PAGE)


def test_nothing_beside_the_numbers_counts() -> None:
    array = numbers(3 * PAGE)
    inner = array[100:-90]
    before = of(inner)
    array[:100] = array[-90:] = 0
    assert of(inner) == before
