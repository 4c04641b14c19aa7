"""The verb `train` as its users type it."""

from __future__ import annotations

import json
import os
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


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, names of files are not bytes")
def test_names_that_are_no_text_are_opened_as_they_are_and_shown_escaped(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    hostile = os.fsdecode(b"caf\xe9\x1b[31m\n")
    (photos / "cat").rename(photos / hostile)
    (photos / hostile / "0.png").rename(photos / hostile / f"-{hostile}.png")
    (photos / hostile / "1.png").write_text("no image")
    (photos / hostile / "1.png").rename(photos / hostile / f"bad{hostile}.png")
    (photos / "loose").mkdir()
    photos = photos.rename(photos.parent / f"photos{hostile}")
    monkeypatch.chdir(photos.parent)
    folder, escaped = Path("runs") / f"run{hostile}", r"caf\xe9\x1b[31m\x0a"
    arguments = ("--epochs", 1, "--batch", 4, "--threads", 1, "--name", folder.name)

    assert convforge(monkeypatch, "train", photos.name, *arguments) == 2
    assert f"the class 'loose' of photos{escaped} has no readable images" in capfd.readouterr().err
    (photos / "loose").rmdir()

    assert convforge(monkeypatch, "train", photos.name, *arguments) == 0
    printed = capfd.readouterr().out
    assert "\x1b" not in printed
    assert f"2 classes: {escaped}, dog." in printed
    assert f"bad{escaped}.png is not an image" in printed
    assert f"runs/run{escaped}/report.html" in printed
    (skipped,) = (folder / "skipped.txt").read_text(encoding="utf-8").splitlines()
    assert f"bad{escaped}.png is not an image" in skipped
    report = (folder / "report.html").read_text(encoding="utf-8")
    assert "\x1b" not in report
    assert f"run{escaped}" in report
    assert json.loads((folder / "architecture.json").read_text(encoding="utf-8"))["classes"] == [escaped, "dog"]

    image = photos / hostile / f"-{hostile}.png"
    assert convforge(monkeypatch, "predict", folder, image) == 0
    printed = capfd.readouterr().out
    assert len(printed.splitlines()) == 1
    assert f"-{escaped}.png" in printed
    assert convforge(monkeypatch, "predict", folder, f"{image}\x1b") == 2
    assert r".png\x1b does not exist" in capfd.readouterr().err
    assert convforge(monkeypatch, "export", folder, "--to", "safetensors") == 0
    assert f"wrote runs/run{escaped}/run{escaped}.safetensors" in capfd.readouterr().out


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, names of files are not bytes")
def test_a_stopped_run_finds_its_images_again_under_names_that_are_no_text(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = photos.rename(photos.parent / os.fsdecode(b"caf\xe9"))
    arguments = ("--epochs", 1, "--batch", 4, "--threads", 1, "--out", photos.parent, "--name", "run")
    with monkeypatch.context() as patched:
        patched.setattr("convforge.train.loop.evaluate", lambda *_: (float("nan"), 0.0))
        assert convforge(patched, "train", photos, *arguments) == 2
    assert convforge(monkeypatch, "train", "--resume", photos.parent / "run") == 0


def test_folders_with_the_longest_names_there_are_have_runs_too(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = photos.rename(photos.parent / ("猫" * 85))
    out = photos.parent / "runs"
    assert convforge(monkeypatch, "train", photos, "--epochs", 1, "--batch", 4, "--threads", 1, "--out", out) == 0
    (run,) = out.iterdir()
    assert run.name.startswith("猫" * 48 + "-vgg-")
