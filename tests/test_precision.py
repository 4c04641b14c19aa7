"""The setting of how exact convolutions must be."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import convforge
from convforge import UserError, get_precision, set_precision


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
