"""`convforge relabel` as its users meet it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner, Result

import convforge
from convforge.cli import relabel as verb
from convforge.errors import UserError


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("relabel")
    draw = np.random.default_rng(0)
    for level, name in enumerate(("cat", "dog")):
        (place / "photos" / name).mkdir(parents=True)
        for number in range(6):
            pixels = draw.integers(100 * level, 100 * level + 150, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(place / "photos" / name / f"{number}.png")
    settings = {"epochs": 1, "batch": 4, "threads": 1, "quiet": True, "out": place}
    convforge.train(place / "photos", name="pets", **settings)
    (place / "patches").mkdir()
    config = json.loads((place / "pets" / "config.json").read_text(encoding="utf-8"))
    for name, change in (("embedded", {"data": None}), ("patches", {"task": "exemplar"}), ("gone", {"data": "/none"})):
        (place / name).mkdir(exist_ok=True)
        changed = config | {"options": config["options"] | change}
        (place / name / "config.json").write_text(json.dumps(changed), encoding="utf-8")
    return place


@pytest.fixture(autouse=True)
def _there(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


def relabel(*arguments: str) -> Result:
    app = typer.Typer(rich_markup_mode="rich", pretty_exceptions_enable=False)
    app.callback()(lambda: None)
    verb.register(app)
    return CliRunner().invoke(app, ["relabel", *arguments])


@pytest.mark.parametrize("in_the_background", [False, True])
def test_it_serves_writes_and_says_what_was_decided(in_the_background: bool, place: Path) -> None:
    """A shell that is a script has those of its programs ignore Ctrl-C that run in the background."""
    (place / "photos" / "relabelled.json").unlink(missing_ok=True)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN if in_the_background else signal.default_int_handler)
    try:
        _serve_write_and_say(place)
    finally:
        signal.signal(signal.SIGINT, before)


def _serve_write_and_say(place: Path) -> None:
    command = [sys.executable, "-m", "convforge", "relabel", "pets", "--port", "0", "--no-browser", "--images", "3"]
    quiet = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=quiet) as process:
        assert process.stdout is not None
        address = re.search(r"at (http://127\.0\.0\.1:\d+/)\?token=(\S+)", process.stdout.readline())
        assert address is not None
        request = urllib.request.Request(
            address[1] + "api/decisions",
            json.dumps({"image": 0, "label": None}).encode(),
            {"Authorization": f"Bearer {address[2]}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request) as answer:
            assert json.load(answer)["decided"] is True
        process.send_signal(signal.SIGINT)
        said = process.stdout.read()
    (entry,) = json.loads((place / "photos" / "relabelled.json").read_text(encoding="utf-8"))["images"].values()
    assert entry["is"] is None
    assert "relabelled.json: 0 relabelled, 1 left out, 0 kept" in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nothing",), "nothing"),
        (("embedded",), "embedded has learned from an embedded data set"),
        (("patches",), "patches has learned without labels"),
        (("gone",), "gone has learned from /none, which is no folder here"),
        (("pets", "none"), "none: name the one that pets has learned from"),
        (("pets", "pets"), "pets has last: name the folder that it has learned from"),
        (("pets", "photos", "--images", "0"), "--images must be 1 or more"),
    ],
)
def test_mistakes_are_one_sentence(arguments: tuple[str, ...], words: str) -> None:
    mistake = relabel(*arguments).exception
    assert isinstance(mistake, UserError)
    assert words in str(mistake)


def test_the_folder_must_have_the_runs_classes(place: Path) -> None:
    for name in ("cat", "tiger"):
        (place / "others" / name).mkdir(parents=True)
        Image.new("L", (8, 8)).save(place / "others" / name / "0.png")
    mistake = relabel("pets", "others").exception
    assert isinstance(mistake, UserError)
    assert "pets tells cat, dog apart, and " in str(mistake)
    assert "others has cat, tiger" in str(mistake)


def test_the_help_teaches() -> None:
    words = " ".join(relabel("--help").stdout.split())
    assert "convforge relabel runs/pets" in words
    assert "No image is moved, renamed or deleted" in words
