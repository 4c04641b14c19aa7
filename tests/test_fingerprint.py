"""A fingerprint changes with any number that it covers, and with nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from convforge.pytorch.fingerprint import fingerprint

AT_ONCE = [0, 4, 60, 508, 512, 516, 5 * 2048, 7 * 2048 + 20, 256 << 10]
IN_PIECES = [(256 << 10) + 4, 300_000, (1 << 20) + 36]


def numbers(size: int) -> NDArray[np.uint32]:
    return np.random.default_rng(size).integers(0, 1 << 32, size // 4, np.uint32)


def of(array: NDArray[np.uint32], threads: int = 1) -> int:
    return fingerprint(int(array.ctypes.data), array.nbytes, threads)


@pytest.mark.parametrize("size", AT_ONCE + IN_PIECES)
def test_every_bit_of_every_word_counts(size: int) -> None:
    array = numbers(size)
    before = of(array)
    assert of(array) == before
    for n in {*range(0, array.size, max(1, array.size // 500)), *range(max(0, array.size - 200), array.size)}:
        bit = np.uint32(1 << n % 32)
        array[n] ^= bit
        assert of(array) != before, n
        array[n] ^= bit
    assert of(array) == before


@pytest.mark.parametrize("size", AT_ONCE[1:] + IN_PIECES)
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


@pytest.mark.parametrize("words", [4096, 131072])
def test_changes_that_cancel_in_one_of_the_two_chains_are_seen(words: int) -> None:
    """A sign, and what another word of the lane needs so that a chain does not see it."""
    for seed in range(20):
        array = np.random.default_rng(seed).integers(0, 1 << 32, words, np.uint32)
        before = of(array)
        for distance in (16, 32, 64, 128, 256):
            for partner in (0x8001_0000, 0x8000_0000):
                changed = array.copy()
                changed[0] ^= np.uint32(0x8000_0000)
                changed[distance] ^= np.uint32(partner)
                assert of(changed) != before, (distance, hex(partner))


def test_pieces_that_change_places_are_seen() -> None:
    array = numbers(16 * 512 * 64)
    halves = np.concatenate([array[array.size // 2 :], array[: array.size // 2]])
    assert of(halves) != of(array)


def test_equal_numbers_of_different_count_and_value_differ() -> None:
    memory = np.empty(2048, np.float32)
    seen = set()
    for value in (0, 1, -1, 2, -2, 0.5):
        memory[:] = value
        seen |= {fingerprint(int(memory.ctypes.data), size) for size in range(4, memory.nbytes, 52)}
    assert len(seen) == 6 * len(range(4, memory.nbytes, 52))


@pytest.mark.parametrize("size", AT_ONCE + IN_PIECES)
def test_threads_do_not_count(size: int) -> None:
    array = numbers(size)
    assert len({of(array, threads) for threads in (1, 2, 3, 5, 40)}) == 1


@pytest.mark.parametrize("size", [3 * 2048, 400_000])
def test_nothing_beside_the_numbers_counts(size: int) -> None:
    array = numbers(size + 760)
    inner = array[100:-90]
    before = of(inner)
    array[:100] = array[-90:] = 0
    assert of(inner) == before
