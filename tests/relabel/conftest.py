"""A folder with two wrong labels and a run that has learned from it, and a desk with its images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from see.conftest import browser, chromium  # noqa: F401  (fixtures)

import convforge
from convforge.images import decisions
from convforge.relabel.server import Desk
from convforge.relabel.suspects import labelled, parts_of, suspects
from convforge.see.pictures import Pictures
from convforge.train import Result

WRONG = ("dark/odd.png", "bright/odd.png")
"""Whose pixels are those of the other class."""


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """Dark and bright noise, 20 images each, one of each in the wrong folder."""
    place = tmp_path_factory.mktemp("relabel")
    draw = np.random.default_rng(0)
    for name, level in (("dark", 40), ("bright", 160)):
        (place / "photos" / name).mkdir(parents=True)
        for number in range(20):
            which = level if number else 200 - level
            pixels = draw.integers(which - 30, which + 60, (20, 24, 3)).astype(np.uint8)
            file = "odd" if number == 0 else f"{number:02}"
            Image.fromarray(pixels).save(place / "photos" / name / f"{file}.png")
    (place / "photos" / "dark" / "torn.png").write_bytes(b"no image")
    settings = {"epochs": 4, "batch": 8, "threads": 1, "augment": False}
    return convforge.train(place / "photos", out=place, name="run", quiet=True, **settings)


@pytest.fixture
def folder(run: Result) -> Iterator[Path]:
    """The images; what was decided about them is forgotten afterwards."""
    folder = run.folder.parent / "photos"
    yield folder
    decisions.file_of(folder).unlink(missing_ok=True)


@pytest.fixture
def desk(run: Result, folder: Path) -> Desk:
    network = convforge.load(run.folder)
    classes, images = labelled(folder)
    found = suspects(network, images, decisions.read(folder), most=5, parts=parts_of(run.folder))
    pictures = Pictures([suspect.image.path for suspect in found], (3, 20, 24), network.mean, network.std, False)
    return Desk(folder, "run", classes, found, pictures)
