"""Which images are shown first: the wrong ones, and then those that are hard to tell."""

from __future__ import annotations

from pathlib import Path

import pytest

import convforge
from convforge.errors import UserError
from convforge.images.decisions import Decision
from convforge.relabel.suspects import labelled, parts_of, suspects
from convforge.train import Result
from convforge.train.data import load

from .conftest import WRONG


def test_images_in_the_wrong_folder_come_first(run: Result, folder: Path) -> None:
    classes, images = labelled(folder)
    assert classes == ("bright", "dark")
    assert len(images) == 41
    found = suspects(convforge.load(run.folder), images, {}, most=5)
    wrong = [suspect for suspect in found if suspect.group == "wrong"]
    assert {suspect.image.name for suspect in wrong} == set(WRONG)
    assert all(suspect.ranking[0][0] != suspect.image.was == suspect.label for suspect in wrong)
    shares = [dict(suspect.ranking)[suspect.image.was] for suspect in wrong]
    assert shares == sorted(shares)
    unsure = [suspect for suspect in found if suspect.group == "unsure"]
    assert len(unsure) == 5
    margins = [suspect.ranking[0][1] - suspect.ranking[1][1] for suspect in unsure]
    everyone = suspects(convforge.load(run.folder), images, {}, most=99)
    assert len(everyone) == 40  # the one that cannot be read is passed over
    others = [suspect.ranking[0][1] - suspect.ranking[1][1] for suspect in everyone[2:]]
    assert margins == sorted(others)[:5]


def test_what_was_decided_stands_last_as_it_was_decided(run: Result, folder: Path) -> None:
    _, images = labelled(folder)
    known = {WRONG[0]: Decision("dark", None), "bright/03.png": Decision("bright", "bright")}
    found = suspects(convforge.load(run.folder), images, known, most=3)
    assert [suspect.group for suspect in found] == ["wrong", "unsure", "unsure", "unsure", "decided", "decided"]
    assert {suspect.image.name: suspect.label for suspect in found[-2:]} == {WRONG[0]: None, "bright/03.png": "bright"}


def test_each_says_whether_the_run_held_it_out_or_learned_from_it(run: Result, folder: Path) -> None:
    _, images = labelled(folder)
    found = suspects(convforge.load(run.folder), images, {}, most=99, parts=parts_of(run.folder))
    data = load(str(folder))
    assert len(data.test.names) == 8
    assert {suspect.image.name for suspect in found if suspect.part == "held out"} == set(data.test.names)
    assert {suspect.image.name for suspect in found if suspect.part == "learned from"} == set(data.train.names)
    assert parts_of(run.folder)("dark/torn.png") == "not seen"


def test_of_runs_that_did_not_write_it_down_nothing_is_said_and_a_damaged_list_is_named(tmp_path: Path) -> None:
    assert parts_of(tmp_path)("dark/03.png") is None
    for damaged in ("file,part\ndark/03.png,eaten\n", "", "\x00\n", "file,part\na\n"):
        (tmp_path / "split.csv").write_text(damaged, encoding="utf-8")
        with pytest.raises(UserError, match=r"split\.csv does not say which images were held out"):
            parts_of(tmp_path)
