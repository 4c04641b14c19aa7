"""The images that a run held out, found again: the same ones, with their classes, or a sentence that says why not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convforge.errors import UserError
from convforge.train.data import load
from convforge.train.held_out import held_out
from convforge.train.options import Options


@pytest.fixture
def run(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(15):
            pixels = random.integers(0, 256, (9, 8, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{number}.png")
    folder = tmp_path / "run"
    folder.mkdir()
    data = load(str(tmp_path / "photos"), seed=5)
    config = {
        "options": Options(str(tmp_path / "photos"), seed=5).to_dict(),
        "data": {"fingerprint": data.fingerprint()},
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_they_are_those_that_the_run_was_tested_with(run: Path) -> None:
    test = load(str(run.parent / "photos"), seed=5).test
    found = held_out(run, 100)
    assert len(found) == len(test) == 6
    for one in found:
        assert np.array_equal(one.pixels, test.images[one.number])
        assert one.label == ("cat", "dog")[int(test.labels[one.number])]


def test_of_many_some_are_taken_from_all_over(run: Path) -> None:
    assert [one.number for one in held_out(run, 3)] == [0, 2, 4]
    assert [one.number for one in held_out(run, 4)] == [0, 2, 4]


def test_other_images_than_those_of_the_run_are_not_taken_for_them(run: Path) -> None:
    (run.parent / "photos" / "cat" / "0.png").unlink()
    with pytest.raises(UserError, match=r"the images of photos are not those that .* has learned from"):
        held_out(run, 3)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, "does not say what the run has learned from"),
        ({"options": Options(task="exemplar").to_dict(), "data": {}}, "classes"),
    ],
)
def test_a_run_without_held_out_images_says_so(run: Path, config: dict[str, object], words: str) -> None:
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=words):
        held_out(run, 3)
