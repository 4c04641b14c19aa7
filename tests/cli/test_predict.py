"""`convforge predict` as its users meet it: output, errors, exit status."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner, Result

from convforge.cli import predict as verb
from convforge.errors import UserError
from convforge.models.checkpoint import Architecture, save

CLASSES = ("cat", "dog\x1b[31m[bold]", "<script>")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run, and two images that can be read and one that cannot."""
    torch.manual_seed(0)
    architecture = Architecture("vgg", {"widths": [4], "convs": 1}, CLASSES, (1, 8, 8), mean=(0.5,), std=(0.25,))
    save(tmp_path / "pets", architecture.build(), architecture)
    for name in ("one.png", "two.png"):
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 20), np.uint8)).save(tmp_path / name)
    (tmp_path / "torn.png").write_bytes((tmp_path / "one.png").read_bytes()[:60])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def convforge(*arguments: str) -> Result:
    app = typer.Typer(rich_markup_mode="rich", pretty_exceptions_enable=False)
    app.callback()(lambda: None)
    verb.register(app)
    return CliRunner().invoke(app, ["predict", *arguments])


@pytest.mark.usefixtures("folder")
def test_one_line_an_image() -> None:
    result = convforge("pets", "one.png", "two.png")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["one.png", "two.png"]
    assert all(line.endswith("%") for line in lines)
    assert result.stderr == ""


@pytest.mark.usefixtures("folder")
def test_top_names_more_classes_under_the_image_and_obeys_no_name() -> None:
    result = convforge("pets", "one.png", "--top", "9")
    assert len(result.stdout.splitlines()) == 3
    assert r"dog\x1b[31m[bold]" in result.stdout
    assert "\x1b" not in result.stdout
    shares = [float(line.split()[-1].rstrip("%")) for line in result.stdout.splitlines()]
    assert sum(shares) == pytest.approx(100, abs=0.2)


@pytest.mark.usefixtures("folder")
def test_json() -> None:
    answer = json.loads(convforge("pets", "one.png", "--json", "--top", "2").stdout)
    (found,) = answer["predictions"]
    assert found["image"] == "one.png"
    assert found["class"] in CLASSES
    assert found["top"][0] == {"class": found["class"], "probability": found["probability"]}
    assert len(found["top"]) == 2
    assert answer["errors"] == []


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_one_bad_image_among_several(options: list[str]) -> None:
    result = convforge("pets", "one.png", "torn.png", "absent.png", "two.png", *options)
    assert result.exit_code == 2
    assert "one.png" in result.stdout
    assert "two.png" in result.stdout
    errors = result.stderr.splitlines()
    assert len(errors) == 2
    assert errors[0].startswith("error: torn.png is damaged")
    assert errors[1].startswith("error: absent.png does not exist")
    if options:
        assert [e["image"] for e in json.loads(result.stdout)["errors"]] == ["torn.png", "absent.png"]


@pytest.mark.usefixtures("folder")
def test_no_good_image_prints_no_answer() -> None:
    result = convforge("pets", "torn.png")
    assert (result.exit_code, result.stdout) == (2, "")


@pytest.mark.usefixtures("folder")
def test_a_run_that_is_not_there() -> None:
    mistake = convforge("runs/dogs", "one.png").exception
    assert isinstance(mistake, UserError)
    assert str(mistake).startswith("there is no folder runs/dogs; ")


@pytest.mark.usefixtures("folder")
def test_no_class_at_all_is_a_sentence() -> None:
    mistake = convforge("pets", "one.png", "--top", "0").exception
    assert isinstance(mistake, UserError)
    assert str(mistake) == "--top must be 1 or more, not 0."


def test_the_help_says_what_the_images_should_look_like() -> None:
    words = " ".join(convforge("--help").stdout.split())
    assert "should look like the training images" in words
    assert "convforge predict runs/mnist seven.png" in words
