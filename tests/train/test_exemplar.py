"""Learning from unlabelled photographs: what the examples are, and what the first layer learns from them."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from convforge.errors import UserError
from convforge.images.photographs import photographs
from convforge.learned import film
from convforge.learned.namer import name_kernels, split
from convforge.models import checkpoint
from convforge.train import Options, exemplar, train
from convforge.train.data import Data


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four photographs of noise that gets coarser, in folders and not, and files that are none."""
    draw = np.random.default_rng(0)
    place = tmp_path / "shots"
    (place / "more").mkdir(parents=True)
    for number in range(4):
        small = Image.fromarray(draw.integers(0, 256, (8 << number, 10 << number, 3), dtype=np.uint8))
        small.resize((160, 128)).save(place / ("more" if number % 2 else ".") / f"{number}.png")
    (place / "notes.txt").write_text("no photograph")
    Image.new("RGB", (20, 20)).save(place / "tiny.png")
    return place


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exemplar, "PATCHES", 10)
    monkeypatch.setattr(exemplar, "EXAMPLES", 6)
    monkeypatch.setattr(exemplar, "HELD_OUT", 2)


def same(one: Data, other: Data) -> bool:
    return one.fingerprint() == other.fingerprint()


@pytest.mark.usefixtures("few")
def test_every_patch_is_a_class_with_as_many_examples(folder: Path) -> None:
    data = exemplar.load(str(folder))
    assert data.name == "exemplars-shots"
    assert data.input_shape == (3, 32, 32)
    assert len(data.classes) == len(set(data.classes)) == 10
    assert data.train.labels.bincount().tolist() == [6] * 10
    assert data.test.labels.bincount().tolist() == [2] * 10
    assert not data.flips
    assert len(data.skipped) == 2
    assert any("notes.txt" in sentence for sentence in data.skipped)
    assert any("too small" in sentence for sentence in data.skipped)


@pytest.mark.usefixtures("few")
def test_the_seed_decides_everything(folder: Path) -> None:
    assert same(exemplar.load(str(folder), seed=1), exemplar.load(str(folder), seed=1))
    assert not same(exemplar.load(str(folder), seed=1), exemplar.load(str(folder), seed=2))


@pytest.mark.usefixtures("few")
def test_size_is_followed_and_one_photograph_is_enough(folder: Path) -> None:
    data = exemplar.load(str(folder / "0.png"), size=48)
    assert data.input_shape == (3, 48, 48)
    assert len(data.classes) == 10
    assert data.skipped == ()


@pytest.mark.usefixtures("few")
def test_examples_resemble_their_patch_and_differ_in_colour() -> None:
    data = exemplar.load()
    light = data.train.images.float().mean(1).flatten(1)
    light = light - light.mean(1, keepdim=True)
    light = light / light.norm(dim=1, keepdim=True)
    likeness = light @ light.T
    together = data.train.labels[:, None] == data.train.labels[None]
    assert likeness[together].mean() > likeness[~together].mean() + 0.1
    means = data.train.images.float().mean((2, 3)).view(10, 6, 3)
    assert means.std(1).min() > 1  # of 255: no channel of any patch stays as it was


def test_what_is_changed_can_be_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any change, an example is the photograph itself."""
    for name in ("_SHIFT", "_SCALE", "_TURN", "_CONTRAST", "_BRIGHTNESS", "_SATURATION", "_HUE"):
        monkeypatch.setattr(exemplar, name, 0.0)
    monkeypatch.setattr(torch, "rand", lambda *size, generator: torch.zeros(size))
    photograph = torch.linspace(0, 1, 3 * 64 * 80).view(3, 64, 80)
    found = exemplar._examples(photograph, (30.0, 40.0), 32, 2, torch.Generator())
    expected = photograph[:, 14:46, 24:56].mul(255)
    assert (found[0].float() - expected).abs().max() <= 0.51
    assert torch.equal(found[0], found[1])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda place: None, "there is no folder"),
        (lambda place: place.mkdir(), "there are no files"),
        (lambda place: (place.mkdir(), (place / "a.txt").write_text("a")), "none of the 1 files"),
    ],
)
def test_without_photographs_it_is_one_sentence(tmp_path: Path, make: object, said: str) -> None:
    assert callable(make)
    make(tmp_path / "place")
    with pytest.raises(UserError, match=said):
        exemplar.load(str(tmp_path / "place"))


def test_nothing_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def connecting(*_arguments: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr("socket.socket.connect", connecting)
    monkeypatch.setitem(sys.modules, "pooch", None)
    monkeypatch.delitem(sys.modules, "skimage.data", raising=False)  # which another test may have imported
    exemplar._read(photographs()[0], 32)
    assert "skimage.data" not in sys.modules


@pytest.mark.usefixtures("few")
def test_a_run_leaves_what_every_run_leaves_and_comes_out_the_same(folder: Path, tmp_path: Path) -> None:
    options = Options(
        str(folder), task="exemplar", epochs=2, batch=8, threads=1, seed=3, out=str(tmp_path / "runs"), name="a"
    )
    first, again = train(options).folder, train(replace(options, name="b")).folder
    assert {path.name for path in first.iterdir()} == {
        "architecture.json", "config.json", "film.safetensors", "last", "metrics.jsonl", "model.safetensors",
        "predictions.csv", "report.html", "skipped.txt",
    }  # fmt: skip
    ours, theirs = (load_file(place / "last" / "model.safetensors") for place in (first, again))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    model, architecture = checkpoint.load(first)
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    assert architecture.arguments["first"] == 7
    assert json.loads((first / "config.json").read_text())["options"]["task"] == "exemplar"
    found = film.read(first)
    assert found is not None
    assert found.shape == (32, 3, 7, 7)
    assert np.array_equal(found.values(len(found.frames) - 1), ours[f"{found.layer}.weight"].numpy())
    assert "Named by measurement" in (first / "report.html").read_text()


def test_the_first_layer_learns_edges_and_colours(tmp_path: Path) -> None:
    """A quarter of the epochs that a run takes by default is enough for that, and little more than half of the pixels.
    Before it there is nothing to see."""
    result = train(Options(task="exemplar", epochs=3, size=24, threads=2, out=str(tmp_path), name="run"))
    found = film.read(result.folder)
    assert found is not None
    before, after = (split(name_kernels(found.values(number))).counts for number in (0, len(found.frames) - 1))
    assert before["unclear"] >= 30, before
    edges = [after[name] for name in ("horizontal edge", "vertical edge", "diagonal edge")]
    assert sum(edges) >= 7, after
    assert min(edges) >= 1, after
    assert after["colour blob"] >= 3, after
    assert after["unclear"] <= 6, after


@pytest.mark.parametrize("size", [15, 129])
def test_sizes_that_nothing_is_learned_at_are_refused(size: int) -> None:
    with pytest.raises(UserError, match=f"not {size}"):
        exemplar.load(size=size)


def test_unknown_tasks_are_refused() -> None:
    with pytest.raises(UserError, match="'guess'"):
        Options(task="guess")
