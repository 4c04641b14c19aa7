"""Decisions beside a folder's images: training follows them, says so, and touches no image."""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path

import pytest

import convforge
from convforge.errors import UserError
from convforge.images import decisions
from convforge.images.decisions import Decision
from convforge.train.data import load


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*.png")}


def counts(folder: Path) -> dict[str, int]:
    data = load(str(folder))
    labels = [*data.train.labels.tolist(), *data.test.labels.tolist()]
    return {name: labels.count(number) for number, name in enumerate(data.classes)}


def test_other_classes_and_images_left_out_are_followed_and_said(photos: Path) -> None:
    before = contents(photos)
    assert load(str(photos)).notes == ()
    assert counts(photos) == {"left": 15, "middle": 15, "right": 15}
    decisions.put(
        photos,
        {
            "left/0.png": Decision("left", "right"),
            "left/1.png": Decision("left", "right"),
            "left/2.png": Decision("left", None),
            "middle/3.png": Decision("middle", "middle"),
        },
    )
    assert counts(photos) == {"left": 12, "middle": 15, "right": 17}
    assert load(str(photos)).notes == (f"2 images are relabelled, and 1 left out, by {photos}/relabelled.json.",)
    assert contents(photos) == before
    decisions.put(photos, dict.fromkeys(decisions.read(photos)))
    assert counts(photos) == {"left": 15, "middle": 15, "right": 15}


def test_a_run_says_what_changed(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    decisions.put(photos, {"left/0.png": Decision("left", "right")})
    convforge.train(photos, epochs=1, batch=8, threads=1, out=photos.parent / "runs")
    assert "1 image is relabelled, and 0 left out, by " in capsys.readouterr().out


def test_folders_with_a_split_are_called_from_above(photos: Path) -> None:
    whole = photos.parent / "whole"
    whole.mkdir()
    photos.rename(whole / "train")
    for name in ("left", "middle", "right"):
        (whole / "test" / name).mkdir(parents=True)
        (whole / "train" / name / "0.png").rename(whole / "test" / name / "0.png")
    decisions.put(whole, {"test/left/0.png": Decision("left", "right"), "train/left/1.png": Decision("left", None)})
    data = load(str(whole))
    assert sorted(data.test.labels.tolist()) == [1, 2, 2]
    assert data.train.labels.tolist().count(0) == 13


def test_entries_of_images_that_have_gone_are_said_and_stop_nothing(photos: Path) -> None:
    decisions.put(photos, {f"left/{name}.png": Decision("left", "right") for name in ("a", "b", "0")})
    (gone,) = (note for note in load(str(photos)).notes if "not there" in note)
    assert gone == f"Images of {photos}/relabelled.json that are not there any more: 2 (left/a.png, left/b.png)."
    assert counts(photos)["right"] == 16


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "does not hold decisions about images"),
        ("[]", 'must be an object with "version": 1'),
        ('{"version": 2, "images": {}}', 'must be an object with "version": 1'),
        ('{"version": 1, "images": {"left/0.png": "right"}}', "the entry of 'left/0.png' must be like"),
        ('{"version": 1, "images": {"left/0.png": {"was": "left", "is": 3}}}', "the entry of 'left/0.png' must be"),
        (
            '{"version": 1, "images": {"left/0.png": {"was": "left", "is": "up"}}}',
            "no class of that name: there are left",
        ),
        ('{"version": 1, "version": 1, "images": {}}', "an entry is there twice"),
        ("[" * 100_000, "does not hold decisions about images"),
    ],
)
def test_a_file_that_says_something_else_is_named(photos: Path, text: str, words: str) -> None:
    decisions.file_of(photos).write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"relabelled\.json") as mistake:
        load(str(photos))
    assert words in str(mistake.value)


def test_the_file_is_what_the_documentation_says(photos: Path) -> None:
    decisions.put(photos, {"left/0.png": Decision("left", "right"), "left/1.png": Decision("left", None)})
    found = json.loads(decisions.file_of(photos).read_text(encoding="utf-8"))
    assert found == {
        "version": 1,
        "images": {"left/0.png": {"was": "left", "is": "right"}, "left/1.png": {"was": "left", "is": None}},
    }


def test_two_who_decide_at_once_lose_nothing(photos: Path) -> None:
    def decide(who: str) -> None:
        for number in range(20):
            decisions.put(photos, {f"{who}/{number}.png": Decision(who, "right")})

    threads = [threading.Thread(target=decide, args=(name,)) for name in ("left", "middle")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(decisions.read(photos)) == 40


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, names of files are not bytes")
def test_names_that_are_no_text(photos: Path) -> None:
    name = os.fsdecode(b"left/caf\xe9.png")
    (photos / "left" / "0.png").rename(photos / name)
    decisions.put(photos, {name: Decision("left", "right")})
    assert counts(photos) == {"left": 14, "middle": 15, "right": 16}
