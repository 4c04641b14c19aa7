"""What is kept on disk is given back as it was, or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from convforge.see.shelf import Shelf

KEY = "ab" * 32
ARRAYS = {
    "values": np.arange(12, dtype=np.float32).reshape(3, 4), "images": np.arange(3, dtype=np.int32),
    "one": np.array(2.5), "none": np.zeros((0, 4)),
}  # fmt: skip
OUTLINE = {name: np.zeros_like(array) for name, array in ARRAYS.items()}


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


def file(shelf: Shelf) -> Path:
    assert shelf.folder is not None
    (found,) = shelf.folder.iterdir()
    return found


def test_arrays_come_back_as_they_were(shelf: Shelf) -> None:
    assert shelf.read(KEY, OUTLINE) is None
    shelf.write(KEY, ARRAYS)
    found = shelf.read(KEY, OUTLINE)
    assert found is not None
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array, strict=True)
    assert shelf.read("cd" * 32, OUTLINE) is None
    assert file(shelf).stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "outline",
    [
        OUTLINE | {"images": np.zeros(4, np.int32)},
        OUTLINE | {"images": np.zeros(3, np.float32)},
        OUTLINE | {"values": np.zeros((4, 3), np.float32)},
        OUTLINE | {"more": np.zeros(1)},
        {"values": OUTLINE["values"]},
    ],
)
def test_other_arrays_than_expected_are_not_given(shelf: Shelf, outline: dict[str, np.ndarray]) -> None:
    shelf.write(KEY, ARRAYS)
    assert shelf.read(KEY, outline) is None


def test_every_damage_is_noticed(shelf: Shelf) -> None:
    shelf.write(KEY, ARRAYS)
    path = file(shelf)
    content = path.read_bytes()
    for length in (0, 1, 100, len(content) - 1):
        path.write_bytes(content[:length])
        assert shelf.read(KEY, OUTLINE) is None
    for place in range(0, len(content), 7):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :])
        found = shelf.read(KEY, OUTLINE)
        if found is not None:  # a byte that means nothing, such as a time in the archive
            for name, array in ARRAYS.items():
                np.testing.assert_array_equal(found[name], array, strict=True)


def test_a_pickle_is_not_opened(shelf: Shelf) -> None:
    assert shelf.folder is not None
    np.savez(shelf.folder / f"{KEY}.npz", **ARRAYS | {"one": np.array(object(), object)})
    assert shelf.read(KEY, OUTLINE) is None


def test_what_others_could_write_is_not_read(shelf: Shelf) -> None:
    shelf.write(KEY, ARRAYS)
    file(shelf).chmod(0o666)
    assert shelf.read(KEY, OUTLINE) is None


def test_what_was_not_used_for_longest_makes_room(tmp_path: Path) -> None:
    keys = [letter * 64 for letter in "abcd"]
    array = {"numbers": np.zeros(1000, np.uint8)}
    shelf = Shelf(tmp_path, most_bytes=4000)  # room for three
    for age, key in enumerate(keys[:3]):
        shelf.write(key, array)
        os.utime(tmp_path / f"{key}.npz", ns=(0, 10**9 * (age + 1)))
    assert shelf.read(keys[0], array) is not None  # so it is no longer the oldest
    shelf.write(keys[3], array)
    assert [key for key in keys if shelf.read(key, array) is not None] == [keys[0], keys[2], keys[3]]


def test_without_a_folder_nothing_is_kept() -> None:
    shelf = Shelf(None)
    shelf.write(KEY, ARRAYS)
    assert shelf.read(KEY, OUTLINE) is None


def test_the_folder_is_below_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVFORGE_CACHE", str(tmp_path))
    assert Shelf.of_the_user().folder == tmp_path / "see"
    (tmp_path / "see").chmod(0o777)
    assert Shelf.of_the_user().folder is None
