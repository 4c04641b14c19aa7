"""`convforge run` as its users meet it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from torch import Tensor, nn
from typer.testing import CliRunner, Result

import convforge
from convforge.cli import run as verb
from convforge.errors import UserError
from convforge.models.checkpoint import Architecture, save
from convforge.models.export import export

CLASSES = ("cat", "dog\x1b[31m[bold]", "<script>")


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return nn.functional.interpolate(x, scale_factor=2), x.mean((2, 3))


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("networks")
    torch.manual_seed(0)
    architecture = Architecture("vgg", {"widths": [4], "convs": 1}, CLASSES, (1, 8, 8), mean=(0.5,), std=(0.25,))
    save(folder / "pets", architecture.build(), architecture)
    for form in ("bundle", "onnx"):
        export(folder / "pets", form, folder / f"pets.{form}")
    convforge.compile(Doubled().eval(), torch.zeros(1, 3, 4, 4), mean=[0] * 3, std=[1] * 3).save(folder / "maps.bundle")
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).eval()
    convforge.compile(plain, torch.zeros(1, 3, 8, 8)).save(folder / "unnamed.bundle")
    for name in ("one.png", "two.png"):
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 20), np.uint8)).save(folder / name)
    Image.new("RGB", (9, 9), (255, 0, 51)).save(folder / "red.png")
    (folder / "torn.png").write_bytes((folder / "one.png").read_bytes()[:60])
    (folder / "names.txt").write_text("first\n\n second \n", encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def _there(networks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(networks)


def run(*arguments: str) -> Result:
    app = typer.Typer(rich_markup_mode="rich", pretty_exceptions_enable=False)
    app.callback()(lambda: None)
    verb.register(app)
    return CliRunner().invoke(app, ["run", *arguments])


@pytest.mark.parametrize("network", ["pets", "pets.bundle", "pets.onnx"])
def test_one_line_an_image_and_no_name_is_obeyed(network: str) -> None:
    result = run(network, "one.png", "two.png", "--top", "3")
    assert result.exit_code == 0, result.exception
    lines = result.stdout.splitlines()
    assert len(lines) == 6
    assert [line.split()[0] for line in lines[::3]] == ["one.png", "two.png"]
    assert all(line.endswith("%") for line in lines)
    assert r"dog\x1b[31m[bold]" in result.stdout
    assert "\x1b" not in result.stdout
    assert result.stderr == ""


def test_it_answers_as_predict_does() -> None:
    from convforge.cli import predict

    app = typer.Typer()
    app.callback()(lambda: None)
    predict.register(app)
    answered = CliRunner().invoke(app, ["predict", "pets", "one.png", "two.png", "--top", "2"])
    assert run("pets.bundle", "one.png", "two.png", "--top", "2").stdout == answered.stdout


def test_json() -> None:
    result = run("pets.bundle", "one.png", "torn.png", "--json")
    assert result.exit_code == 2
    answer = json.loads(result.stdout)
    assert answer["predictions"][0]["image"] == "one.png"
    assert answer["predictions"][0]["class"] in CLASSES
    assert answer["errors"][0]["image"] == "torn.png"
    assert result.stderr.splitlines()[1].startswith("  torn.png")


def test_what_names_no_classes_says_what_comes_out() -> None:
    result = run("maps.bundle", "red.png", "torn.png")
    assert result.exit_code == 2
    first, second = result.stdout.splitlines()
    assert first == "red.png  1×3×8×8  0 to 1, mean 0.4"
    assert second == "red.png  1×3  0 to 1, mean 0.4"
    assert result.stderr.splitlines()[1].startswith("  torn.png")
    answer = json.loads(run("maps.bundle", "red.png", "--json").stdout)
    assert answer["errors"] == []
    assert answer["outputs"][0]["outputs"][0]["shape"] == [1, 3, 8, 8]
    assert answer["outputs"][0]["outputs"][1]["mean"] == pytest.approx(0.4)


def test_without_images_it_is_described() -> None:
    lines = run("pets.onnx").stdout.splitlines()
    assert lines[0].split() == ["step", "by", "makes"]
    assert lines[1].startswith("3×3, 1→4")
    assert "all on convforge's engine" in lines[-2]
    report = json.loads(run("pets.onnx", "--json").stdout)
    assert report["steps"][0]["makes"] == [1, 4, 8, 8]


def test_what_the_file_does_not_say() -> None:
    mistake = run("unnamed.bundle", "red.png").exception
    assert isinstance(mistake, UserError)
    assert "0.485,0.456,0.406" in str(mistake)
    said = ("--mean", "0,0,0", "--std", "1,1,1")
    result = run("unnamed.bundle", "red.png", "--top", "2", *said)
    assert {line.split()[-2] for line in result.stdout.splitlines()} == {"0", "1"}
    result = run("unnamed.bundle", "red.png", "--top", "2", *said, "--classes", "names.txt")
    assert {line.split()[-2] for line in result.stdout.splitlines()} == {"first", "second"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nothing.onnx", "one.png"), "there is no nothing.onnx"),
        (("one.png", "one.png"), "one.png cannot be read as an ONNX file"),
        (("pets.bundle", "one.png", "--top", "0"), "--top must be 1 or more"),
        (("pets.bundle", "one.png", "--input", "8"), "the input size must be"),
        (("pets.bundle", "one.png", "--input", "1x8x8"), "says itself what its images are"),
        (("pets.bundle", "one.png", "--mean", "a", "--std", "1"), "--mean must be numbers with commas"),
        (("pets.bundle", "one.png", "--mean", "1"), None),
        (("pets.bundle", "one.png", "--classes", "names.txt"), "2 names of classes"),
        (("pets.bundle", "one.png", "--classes", "nothing.txt"), "nothing.txt cannot be read (No such file"),
        (("pets.bundle", "one.png", "--classes", "one.png"), "one.png cannot be read (it is no text in UTF-8)"),
    ],
)
def test_mistakes_are_one_sentence(arguments: tuple[str, ...], words: str | None) -> None:
    result = run(*arguments)
    if words is None:  # the file has the std
        assert result.exit_code == 0
        return
    assert isinstance(result.exception, UserError)
    assert words in str(result.exception)


def test_the_help_teaches() -> None:
    words = " ".join(run("--help").stdout.split())
    assert "convforge run pets.bundle cat.jpg --top 3" in words
    assert "without PyTorch" in words
