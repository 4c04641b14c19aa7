"""A run that is killed at any moment, or finds the disk full at any write, is resumed to the files of an undisturbed
one; and no name in a training folder reaches a terminal, a list or a page as it is."""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from convforge.shown import shown

from .conftest import Soak
from .disturbed import Disturber, Ended

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the disturber reads /proc")

TRAIN = ("--epochs", "2", "--batch", "4", "--threads", "1", "--name", "run")
KINDS = {
    "classes": ("train", "../photos", *TRAIN),
    "twin": ("train", "../photos", "--dense-twin", *TRAIN),
    "exemplar": ("train", "../photos", "--task", "exemplar", "--size", "16", *TRAIN),
}
RESUME = ("train", "--resume", "runs/run")


@pytest.fixture(scope="module")
def disturber(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disturber]:
    made = Disturber(tmp_path_factory.mktemp("cache"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, disturber: Disturber) -> Callable[[str], Run]:
    """Kinds of runs by their names, each run undisturbed once."""
    draw, around = np.random.default_rng(0), tmp_path_factory.mktemp("runs")
    for name in ("cat", "dog"):
        (around / "photos" / name).mkdir(parents=True)
        for number in range(5):
            # Large enough for patches of them, small enough as images.
            pixels = draw.integers(0, 256, (32, 32), dtype=np.uint8)
            Image.fromarray(pixels).save(around / "photos" / name / f"{number}.png")
    (around / "photos" / "cat" / "broken.png").write_text("no image")
    return cache(lambda kind: Run(disturber, around / "place", kind))


def files(place: Path) -> dict[str, bytes]:
    run = place / "runs" / "run"
    return {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*") if path.is_file()}


class Run:
    """A kind of run, and what it leaves when nothing disturbs it."""

    def __init__(self, disturber: Disturber, place: Path, kind: str) -> None:
        self.disturber, self.place, self.arguments = disturber, place, KINDS[kind]
        for _ in range(2):  # the first one compiles
            self.clear()
            self.undisturbed = self.begin()
        assert self.undisturbed.status == 0, self.undisturbed.said
        self.expected = files(place)
        assert {"film.safetensors", "metrics.jsonl", "report.html", "config.json"} < self.expected.keys()

    def clear(self) -> None:
        shutil.rmtree(self.place, ignore_errors=True)
        self.place.mkdir()

    def begin(self, **disturbance: Any) -> Ended:
        """Begin it, or resume it where it has begun."""
        begun = (self.place / "runs" / "run").exists()
        return self.disturber.run(self.place, *(RESUME if begun else self.arguments), **disturbance)

    def must_come_out_the_same(self) -> None:
        """Resume it; all files must then be those of the undisturbed run."""
        ended = self.begin()
        assert ended.status == 0 or "is finished" in ended.said, ended.said
        found = files(self.place)
        differing = [name for name in found.keys() | self.expected.keys() if found.get(name) != self.expected.get(name)]
        assert not differing, f"{differing} differ"


def turns(soak: Soak, count: int, kind: str) -> list[int]:
    """Numbers from 1 to `count`: all of them for the first kind in the long run, else some, spread evenly."""
    if kind == "classes" and soak.long:
        return list(range(1, count + 1))
    tried = soak.length(2, 15)
    return [1 + round((n + 1) * (count - 1) / tried) for n in range(tried)]


def kinds(soak: Soak) -> tuple[str, ...]:
    return soak.length(("classes",), tuple(KINDS))


def test_killed_at_a_write(soak: Soak, runs: Callable[[str], Run]) -> None:
    for kind in kinds(soak):
        run = runs(kind)
        calls = run.undisturbed.calls
        for number in turns(soak, len(calls), kind):
            with soak.case(f"{kind}, killed at call {number}, {calls[number - 1]}"):
                run.clear()
                assert run.begin(die_at=number).status == -9
                run.must_come_out_the_same()
        soak.figure(f"writes of {kind}", len(calls))


def test_disk_full_at_a_write(soak: Soak, runs: Callable[[str], Run]) -> None:
    for kind in kinds(soak):
        run = runs(kind)
        calls = run.undisturbed.calls
        # The last calls remove what is no longer needed, which needs no space.
        last = max(number for number, call in enumerate(calls, 1) if not call.startswith(("unlink", "rmdir")))
        for number in turns(soak, last, kind):
            with soak.case(f"{kind}, disk full at call {number}, {calls[number - 1]}"):
                run.clear()
                ended = run.begin(full_at=number)
                assert ended.status == 2, ended.said
                assert len(ended.said.splitlines()) == 1, ended.said
                assert ended.said.startswith("error: cannot "), ended.said
                assert "No space left on device" in ended.said
                run.must_come_out_the_same()


def test_killed_at_a_random_moment(soak: Soak, runs: Callable[[str], Run]) -> None:
    kills, wanted, draw = 0, soak.length(2, 50), random.Random(0)
    names = kinds(soak)
    while kills < wanted:
        kind = names[soak.tried % len(names)]
        run = runs(kind)
        run.clear()
        with soak.case(f"{kind}, after {kills} kills"):
            for _ in range(soak.length(1, 4)):  # killed again when it is resumed
                ended = run.begin(die_after=draw.uniform(0, run.undisturbed.seconds))
                kills += ended.status == -9
            run.must_come_out_the_same()
    soak.figure("kills", kills)


HOSTILE = (
    b"new\nline", b"back\r\x08", b"\x1b[2J\x1b[31mred", b"\x1b]0;title\x07", b"\x9b31m", b"caf\xe9", b"\xff\xfe\xfd",
    b"\xed\xa0\x80", b"-rf", b"--help", "\u202egnp.exe".encode(), "\u2066\u2069\u200f".encode(),
    "\u2028\u2029".encode(), b"<script>alert(1)", b"&amp;\"'", b"{{ 7 * 7 }}", b"[red]markup[]", b" ", b"%s%n",
    b"a" * 200, "猫".encode() * 60, b"\x01\x02\x7f", b"C:\\con", b"#~*?",
)  # fmt: skip


def clean(text: str) -> bool:
    """Whether text holds nothing but lines that a terminal shows as they are, in the order in which they stand."""
    return all(character == "\n" or shown(character) == character for character in text)


def test_hostile_names_are_shown_escaped(soak: Soak, disturber: Disturber, tmp_path: Path) -> None:
    for task in soak.length(("classes",), ("classes", "exemplar")):
        (tmp_path / task).mkdir()
        try_hostile_names(soak, disturber, tmp_path / task, task)


def try_hostile_names(soak: Soak, disturber: Disturber, tmp_path: Path, task: str) -> None:
    names = soak.length(random.Random(task).sample(HOSTILE, 4), list(HOSTILE))
    draw, photos, place = np.random.default_rng(0), tmp_path / os.fsdecode(b"ph\xf6t\x1bs\n"), tmp_path / "place"
    place.mkdir()
    images = {}
    for half in (names[::2], names[1::2]):
        folder = photos / os.fsdecode(b"".join(half)[:120])
        folder.mkdir(parents=True)
        for name in half:
            images[name] = folder / os.fsdecode(name + b".png")
            pixels = draw.integers(0, 256, (32, 32), dtype=np.uint8)
            with images[name].open("wb") as file:
                Image.fromarray(pixels).save(file, format="PNG")
            images[name].with_suffix(".bad").write_text("no image")
    ended = disturber.run(place, "train", str(photos), *KINDS[task][2:])
    run = place / "runs" / "run"
    with soak.case(f"train, {task}"):
        assert ended.status == 0, ended.said
        assert clean(ended.printed + ended.said)
    for name in ("skipped.txt", "report.html", "architecture.json", "metrics.jsonl"):
        with soak.case(f"{name}, {task}"):
            assert clean((run / name).read_text(encoding="utf-8"))
    with soak.case(f"config.json, {task}"):
        assert json.loads((run / "config.json").read_text(encoding="utf-8"))["options"]["data"] == str(photos)
    with soak.case(f"skipped files, {task}"):
        listed = (run / "skipped.txt").read_text(encoding="utf-8").splitlines()
        assert task == "exemplar" or len(listed) == len(names)
        assert all(sum(shown(image.with_suffix(".bad")) in line for image in images.values()) for line in listed)
    with soak.case(f"report, {task}"):
        page = (run / "report.html").read_text(encoding="utf-8")
        assert "<script>alert" not in page
    with soak.case(f"predict, {task}"):
        ended = disturber.run(place, "predict", "runs/run", *map(str, images.values()), str(photos / "none\x1b\n.png"))
        assert ended.status == 2
        assert clean(ended.printed + ended.said)
        warning, reason = ended.said.splitlines()
        assert warning.startswith("warning: 1 of "), ended.said
        assert shown(str(photos / "none\x1b\n.png")) in reason
        for image, line in zip(images.values(), ended.printed.splitlines(), strict=True):
            assert line.startswith(shown(image))
    soak.figure("hostile names", len(names))
