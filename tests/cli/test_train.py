"""The verb `train` as its users type it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convforge.cli import main


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    draw = np.random.default_rng(0)
    for name in ("cat", "dog"):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        for number in range(6):
            Image.fromarray(draw.integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / f"{number}.png")
    return tmp_path / "photos"


def convforge(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["convforge", *map(str, arguments)])
    with pytest.raises(SystemExit) as left:
        main()
    return left.value.code if isinstance(left.value.code, int) else 0


def test_it_trains_and_says_where_the_report_is(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(photos.parent)
    assert convforge(monkeypatch, "train", "photos", "--epochs", 1, "--batch", 4, "--name", "pets", "--threads", 1) == 0
    assert "runs/pets/report.html" in capsys.readouterr().out
    assert (photos.parent / "runs" / "pets" / "report.html").exists()


def test_json_is_alone_on_stdout(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = photos.parent / "elsewhere"
    assert convforge(monkeypatch, "train", photos, "--epochs", 1, "--batch", 4, "--out", out, "--json") == 0
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert result["finished"]
    assert Path(result["report"]).exists()
    assert 0 <= result["test_accuracy"] <= 1
    assert "epoch 1/1" in printed.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["./nowhere"], "nowhere"),
        (["--epochs", 0], "--epochs"),
        (["--model", "alexnet"], "alexnet"),
        (["--task", "guess"], "guess"),
        (["nowhere", "--task", "exemplar"], "nowhere"),
        (["--resume", "runs/none"], "runs/none"),
        (["--resume", "runs/none", "--lr", 1], "leave out --lr"),
        (["photos", "--resume", "runs/none"], "leave out DATA"),
    ],
)
def test_mistakes_are_one_sentence_with_status_2(
    arguments: list[object],
    said: str,
    photos: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(photos.parent)
    assert convforge(monkeypatch, "train", *arguments) == 2
    printed = capsys.readouterr()
    assert said in printed.err
    assert "Traceback" not in printed.err
    assert len(printed.err.splitlines()) == 1
    assert not (photos.parent / "runs").exists()


def test_help_teaches_with_examples(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert convforge(monkeypatch, "train", "--help") == 0
    text = capsys.readouterr().out
    for word in ("Examples", "convforge train photos/", "--resume", "--dense-twin", "MNIST-5k", "--task exemplar"):
        assert word in text
