"""Learning from Python, as the README shows it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import convforge
from convforge.errors import UserError

README = Path(__file__).parents[2] / "README.md"


def test_the_readmes_example_runs(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All of it, on a folder of the names that it uses."""
    (example,) = (
        block for block in re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
        if "convforge.train(" in block
    )  # fmt: skip
    (photos / "left").rename(photos / "cat")
    (photos.parent / "holiday").mkdir()
    Image.open(photos / "cat" / "0.png").save(photos.parent / "cat.jpg")
    Image.open(photos / "right" / "3.png").save(photos.parent / "holiday" / "dog.png")
    monkeypatch.chdir(photos.parent)
    names: dict[str, object] = {}
    exec(example, names)
    printed = capsys.readouterr().out
    assert "held out: loss" in printed
    assert "cat.jpg: " in printed
    assert "holiday/dog.png: " in printed
    network = names["network"]
    assert isinstance(network, convforge.Model)
    assert network.classes == ("cat", "middle", "right")


def test_it_takes_paths_and_says_nothing_when_quiet(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = convforge.train(photos, epochs=1, batch=8, threads=1, out=photos.parent / "runs", name="a", quiet=True)
    assert capsys.readouterr().out == ""
    assert result.folder == photos.parent / "runs" / "a"
    assert result.finished
    assert isinstance(result, convforge.train.Result)  # the package of that name is still there


def test_a_run_is_asked_about_a_mixture_of_pictures(photos: Path) -> None:
    result = convforge.train(photos, epochs=1, batch=8, threads=1, out=photos.parent / "runs", quiet=True)
    network = convforge.load(result.folder)
    files = sorted(photos.rglob("*.png"))
    with Image.open(files[1]) as image:
        image.load()
        found = network.predict([files[0], image, np.asarray(Image.open(files[2])), photos / "right"], top=2)
    assert len(found) == 3 + 15
    alone = [network.predict(file, top=2)[0] for file in (*files[:3], *sorted((photos / "right").iterdir()))]
    for ours, by_itself in zip(found, alone, strict=True):
        assert dict(ours.ranking) == pytest.approx(dict(by_itself.ranking), abs=1e-5)
    assert [answer.image for answer in found[:3]] == [str(files[0]), str(files[1]), "picture 3"]
    assert network(torch.zeros(2, *network.input_shape)).shape == (2, 3)
    assert "steps in one call" in str(network.report())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"epoch": 3}, "has no option 'epoch' (did you mean 'epochs'?)"),
        ({"epochs": 0}, "--epochs must be from 1"),
    ],
)
def test_mistakes_are_one_sentence(options: dict[str, int], words: str) -> None:
    with pytest.raises(UserError, match=re.escape(words)):
        convforge.train(**options)
