"""Images for the network: listed, read when looked at, made what it takes, and gone without harm."""

from __future__ import annotations

import os
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from convforge.errors import UserError
from convforge.images.photographs import photographs as installed
from convforge.images.read import read_image
from convforge.see import pictures as module
from convforge.see.network import NotThere
from convforge.see.pictures import Pictures

from .networks import SHAPE, photographs

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return photographs(tmp_path / "photographs")


def opened(*paths: Path, labels: bool | None = None, shape: tuple[int, int, int] = SHAPE) -> Pictures:
    return Pictures(paths, shape, (*MEAN,)[: shape[0]], (*STD,)[: shape[0]], labels)


def test_the_network_is_fed_what_training_and_prediction_feed_it(folder: Path) -> None:
    pictures = opened(folder)
    pixels = read_image(folder / "wide.png", 3, SHAPE[1:])
    assert np.array_equal(pictures.pixels(3), pixels)
    expected = (pixels / 255 - np.reshape(MEAN, (3, 1, 1))) / np.reshape(STD, (3, 1, 1))
    assert pictures.input(3).numpy() == pytest.approx(expected, abs=1e-6)
    assert pictures.input(3).dtype is torch.float32


def test_a_model_of_one_channel_is_shown_the_brightness_and_one_of_four_the_same_in_each(folder: Path) -> None:
    one = Pictures([folder], (1, 20, 30), (0.5,), (0.5,))
    assert one.pixels(3).shape == (1, 20, 30)
    assert np.array_equal(one.pixels(3), read_image(folder / "wide.png", 1, (20, 30)))
    four = Pictures([folder], (4, 20, 30), (0.5,) * 4, (0.5,) * 4)
    assert four.pixels(3).shape == (4, 20, 30)
    assert np.array_equal(four.pixels(3)[2], one.pixels(3)[0])
    assert Image.open(BytesIO(four.seen(3))).size == (30, 20)


def test_folders_are_searched_and_files_taken_as_they_are(folder: Path, tmp_path: Path) -> None:
    below = folder / "more" / "below"
    below.mkdir(parents=True)
    Image.new("RGB", (5, 5)).save(below / "deep.PNG")
    Image.new("RGB", (5, 5)).save(folder / ".hidden.png")
    (folder / "notes.txt").write_text("not an image, and not taken for one")
    named = tmp_path / "no-suffix"
    Image.new("RGB", (6, 7)).save(named, "PNG")
    pictures = opened(folder, named)
    names = [pictures.name(n) for n in range(len(pictures))]
    assert names == ["clear.webp", "grey.png", "more/below/deep.PNG", "tall.jpg", "wide.png", "no-suffix"]
    assert (pictures[5].width, pictures[5].height) == (6, 7)
    assert pictures.notes == ()


def test_sub_folders_are_classes_where_all_images_lie_in_them_or_it_is_said(tmp_path: Path) -> None:
    for name in ("cats", "dogs"):
        photographs(tmp_path / name)
    assert {opened(tmp_path).label(n) for n in range(8)} == {"cats", "dogs"}
    assert {opened(tmp_path, labels=False).label(n) for n in range(8)} == {None}
    Image.new("RGB", (5, 5)).save(tmp_path / "stray.png")
    assert {opened(tmp_path).label(n) for n in range(9)} == {None}
    labels = [opened(tmp_path, labels=True).label(n) for n in range(9)]
    assert labels == ["cats"] * 4 + ["dogs"] * 4 + [None]
    assert opened(tmp_path / "cats").label(0) is None


def test_files_that_cannot_be_read_are_named_and_the_others_shown(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(7):
        (folder / f"torn{n}.png").write_bytes((folder / "wide.png").read_bytes()[:20])
    pictures = opened(folder)
    assert len(pictures) == 4
    assert len(pictures.notes) == 6
    assert "torn0.png" in pictures.notes[0]
    assert pictures.notes[-1] == "Left out: 2 more files that could not be read."
    monkeypatch.setattr(module, "MOST", 3)
    assert opened(folder / "..").notes[-1] == "Left out: 8 images beyond the first 3."


@pytest.mark.parametrize(
    ("name", "words"),
    [("absent.png", "does not exist"), ("empty", "there are no images"), ("torn.png", "is not an image")],
)
def test_nothing_to_show_is_a_sentence(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "torn.png").write_bytes(b"torn")
    with pytest.raises(UserError, match=words):
        opened(tmp_path / name)


def test_a_pipe_or_a_huge_header_neither_blocks_nor_takes_memory(folder: Path) -> None:
    os.mkfifo(folder / "pipe.png")
    huge = Image.new("1", (1, 1))
    huge.save(folder / "huge.png")
    content = bytearray((folder / "huge.png").read_bytes())
    content[16:24] = (200_000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    (folder / "huge.png").write_bytes(content)
    pictures = opened(folder)
    assert len(pictures) == 4
    assert any("more than 89,478,485 pixels" in note for note in pictures.notes)


def test_what_is_kept_is_bounded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_INPUTS_KEPT", 2 * 3 * 48 * 40)
    monkeypatch.setattr(module, "_FILES_KEPT", 20_000)
    pictures = opened(folder)
    for n in range(4):
        pictures.input(n)
        pictures.original(n)
        pictures.thumbnail(n, 64)
        pictures.seen(n)
    assert pictures._inputs.bytes == 2 * 3 * 48 * 40
    assert 0 < pictures._files.bytes <= 20_000


def test_who_asks_for_what_is_being_read_waits_for_it_and_does_not_read_it_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = opened(folder)
    everybody, reads = threading.Barrier(6), []

    def read(path: Path, channels: int, size: tuple[int, int]) -> object:
        reads.append(path)
        time.sleep(0.05)  # the others come meanwhile
        return read_image(path, channels, size)

    def ask(_: int) -> bytes:
        everybody.wait()
        return pictures.thumbnail(0, 64)

    monkeypatch.setattr(module, "read_image", read)
    with ThreadPoolExecutor(6) as pool:
        assert len(set(pool.map(ask, range(6)))) == 1
    assert len(reads) == 1


def test_one_that_cannot_be_read_is_tried_again(folder: Path) -> None:
    pictures = opened(folder / "grey.png")
    whole = (folder / "grey.png").read_bytes()
    (folder / "grey.png").write_bytes(whole[:100])
    for _ in range(2):
        with pytest.raises(UserError, match=r"grey\.png is damaged"):
            pictures.thumbnail(0, 64)
    (folder / "grey.png").write_bytes(whole)
    assert Image.open(BytesIO(pictures.thumbnail(0, 64))).size == (64, 64)


def test_originals_and_thumbnails_keep_their_shape_and_are_bounded(folder: Path) -> None:
    Image.new("RGB", (5000, 10)).save(folder / "long.png")
    pictures = opened(folder)
    number = next(n for n in range(len(pictures)) if pictures.name(n) == "long.png")
    assert Image.open(BytesIO(pictures.original(number))).size == (1600, 3)
    assert Image.open(BytesIO(pictures.thumbnail(number, 100))).size == (100, 1)
    assert Image.open(BytesIO(pictures.thumbnail(number, 10**9))).size[0] == 512


def test_turned_photographs_are_listed_upright(folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 20)).save(folder / "turned.jpg", exif=exif)
    pictures = opened(folder / "turned.jpg")
    assert (pictures[0].width, pictures[0].height) == (20, 30)
    assert Image.open(BytesIO(pictures.original(0))).size == (20, 30)


def test_the_fingerprint_changes_with_the_list_the_files_and_the_normalisation(folder: Path) -> None:
    first = opened(folder).fingerprint()
    assert opened(folder).fingerprint() == first
    assert opened(folder / "wide.png").fingerprint() != first
    assert Pictures([folder], SHAPE, MEAN, (0.3, 0.3, 0.3)).fingerprint() != first
    assert opened(folder, shape=(3, 48, 48)).fingerprint() != first
    pictures = opened(folder)
    (folder / "wide.png").unlink()
    assert pictures.fingerprint() != first
    Image.new("RGB", (90, 60)).save(folder / "wide.png")
    assert opened(folder).fingerprint() != first


def test_the_first_few_are_the_same_images(folder: Path) -> None:
    pictures = opened(folder)
    few = pictures.first(2)
    assert (len(few), len(pictures), len(pictures.first(99))) == (2, 4, 4)
    assert few[1] == pictures[1]
    assert few.fingerprint() != pictures.fingerprint()
    with pytest.raises(NotThere):
        few.pixels(2)


def test_one_that_is_gone_or_never_was(folder: Path) -> None:
    pictures = opened(folder)
    for number in (-1, 4):
        with pytest.raises(NotThere, match=f"there is no image {number}"):
            pictures.input(number)
    (folder / "grey.png").unlink()
    with pytest.raises(NotThere, match=r"grey\.png is no longer there"):
        pictures.input(1)


def test_installed_photographs_can_all_be_shown() -> None:
    pictures = opened(*installed())
    assert len(pictures) >= 10
    assert {"astronaut.png", "chelsea.png", "coffee.png"} <= {pictures.name(n) for n in range(len(pictures))}
    assert pictures.notes == ()
