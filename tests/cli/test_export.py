"""`convforge export` as its users meet it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner, Result

from convforge import load
from convforge.cli import export as verb
from convforge.errors import UserError
from convforge.models.checkpoint import Architecture, save


@pytest.fixture(autouse=True)
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    torch.manual_seed(0)
    architecture = Architecture("vgg", {"widths": [4], "convs": 1}, ("a", "b"), (1, 8, 8), mean=(0.5,), std=(0.25,))
    save(tmp_path / "pets", architecture.build(), architecture)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "pets"


def convforge(*arguments: str) -> Result:
    app = typer.Typer(rich_markup_mode="rich", pretty_exceptions_enable=False)
    app.callback()(lambda: None)
    verb.register(app)
    return CliRunner().invoke(app, ["export", *arguments])


def test_it_says_what_it_wrote_and_how_far_it_is_from_the_network(run: Path) -> None:
    result = convforge("pets", "--to", "torch")
    assert result.exit_code == 0, result.exception
    size = (run / "pets.pt2").stat().st_size
    first, second, third, *lines = result.stdout.splitlines()
    assert first == f"wrote pets/pets.pt2, {size:,} bytes"
    assert second.startswith("ran it again: largest difference ")
    assert third == "to use it:"
    assert "torch.export.load('pets/pets.pt2')" in lines[-1]
    assert result.stderr == ""


def test_a_bundle_says_how_it_is_run(run: Path) -> None:
    result = convforge("pets", "--to", "bundle")
    assert result.exit_code == 0, result.exception
    first, second, third = result.stdout.splitlines()
    assert first == f"wrote pets/pets.bundle, {(run / 'pets.bundle').stat().st_size:,} bytes"
    assert second.startswith("ran it again: largest difference ")
    assert third == (
        "to use it: convforge.load('pets/pets.bundle').predict(['image.png']), "
        "or convforge run pets/pets.bundle image.png"
    )


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("form", [("onnx",), ("onnx", "--with-preprocessing"), ("torch",)])
def test_the_lines_that_are_printed_do_what_predict_does(run: Path, form: tuple[str, ...], channels: int) -> None:
    """As a user would paste them, on a picture of another size and shape, which a camera has turned."""
    mean, std = (0.3, 0.4, 0.5)[:channels], (0.2, 0.25, 0.3)[:channels]
    architecture = Architecture("vgg", {"widths": [4], "convs": 1}, ("a", "b"), (channels, 8, 12), mean, std)
    save(run, architecture.build(), architecture)
    turned = Image.Exif()
    turned[0x0112] = 6
    noise = np.random.default_rng(0).integers(0, 256, (41, 30, 3), np.uint8)
    Image.fromarray(noise).save("image.png", exif=turned)
    result = convforge("pets", "--to", *form)
    assert result.exit_code == 0, result.exception
    lines = result.stdout.partition("to use it:\n")[2].splitlines()
    names: dict[str, Any] = {}
    exec("\n".join(line.removeprefix("  ") for line in lines), names)
    logits = torch.as_tensor(names["logits"])
    (expected,) = load("pets").predict("image.png", top=2)
    found = dict(zip(("a", "b"), logits[0].softmax(0).tolist(), strict=True))
    assert found == pytest.approx(dict(expected.ranking), abs=2e-3)


def test_preprocessing_is_for_onnx() -> None:
    mistake = convforge("pets", "--to", "torch", "--with-preprocessing").exception
    assert isinstance(mistake, UserError)
    assert str(mistake).startswith("--with-preprocessing is for --to onnx, not torch")


def test_output_and_force() -> None:
    assert convforge("pets", "--to", "safetensors", "--output", "mine.st").exit_code == 0
    again = convforge("pets", "--to", "safetensors", "--output", "mine.st")
    assert isinstance(again.exception, UserError)
    assert convforge("pets", "--to", "safetensors", "--output", "mine.st", "--force").exit_code == 0


def test_a_format_that_there_is_not() -> None:
    mistake = convforge("pets", "--to", "tflite").exception
    assert isinstance(mistake, UserError)
    assert str(mistake) == "'tflite' is not a format to export to: choose one of bundle, onnx, torch, safetensors."


def test_the_help_teaches() -> None:
    words = " ".join(convforge("--help").stdout.split())
    assert "convforge export runs/mnist --to onnx" in words
    assert "(pixel / 255 − mean) / std" in words
