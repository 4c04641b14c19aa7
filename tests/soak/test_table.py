"""The soak harness itself: it notes what fails, and goes on."""

from __future__ import annotations

import pytest

from .conftest import Soak


def test_a_case_that_fails_is_noted_and_the_next_is_tried() -> None:
    soak = Soak(long=False)
    for n in range(3):
        with soak.case(f"case {n}"):
            assert n != 1, "wrong"
    assert soak.tried == 3
    assert len(soak.failures) == 1
    assert soak.failures[0].startswith("case 1: AssertionError: wrong")


@pytest.mark.parametrize("long", [False, True])
def test_lengths(long: bool) -> None:
    assert Soak(long).length(3, 300) == (300 if long else 3)
