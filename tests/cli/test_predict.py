"""`convforge predict` as its users meet it: output, errors, exit status."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner, Result

from convforge import Model, compile, load
from convforge.cli import predict as verb
from convforge.errors import UserError
from convforge.inference import pictures
from convforge.models.checkpoint import Architecture, save
from convforge.models.export import export

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
    warning, *errors = result.stderr.splitlines()
    assert warning == "warning: 2 of 4 images cannot be read and were left out:"
    assert len(errors) == 2
    assert errors[0].startswith("  torn.png is damaged")
    assert errors[1].startswith("  absent.png does not exist")
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
    assert str(mistake).startswith("there is no runs/dogs: give ")


def holiday(folder: Path, count: int) -> dict[str, str]:
    """A folder with images in it and below, and other files; the class of each image, asked for one by one."""
    (folder / "holiday" / "beach").mkdir(parents=True)
    (folder / "holiday" / ".hidden").mkdir()
    noise = np.random.default_rng(1).integers(0, 256, (count, 12, 9), np.uint8)
    for number, pixels in enumerate(noise):
        place = folder / "holiday" / ("beach" if number % 2 else "")
        Image.fromarray(np.clip(pixels * (number + 1) / count, 0, 255).astype(np.uint8)).save(
            place / f"{number:03}.png"
        )
    (folder / "holiday" / "notes.txt").write_text("no image")
    (folder / "holiday" / ".hidden" / "x.png").write_bytes((folder / "one.png").read_bytes())
    network = load(folder / "pets")
    files = sorted((folder / "holiday").glob("**/[0-9]*.png"))
    assert len(files) == count
    return {str(file.relative_to(folder)): network.predict(file)[0].ranking[0][0] for file in files}


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_a_folder_is_answered_in_a_file_image_by_image(folder: Path, form: str) -> None:
    expected = holiday(folder, 37)
    (folder / "holiday" / "torn.png").write_bytes((folder / "torn.png").read_bytes())
    result = convforge("pets", "holiday", f"--{form}", f"answers.{form}", "--top", "2")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[0] == "warning: 1 of 38 images cannot be read and were left out:"
    text = (folder / f"answers.{form}").read_text(encoding="utf-8")
    if form == "csv":
        rows = list(csv.DictReader(text.splitlines()))
        assert list(rows[0]) == ["image", "class", "probability", "class 2", "probability 2"]
        assert all(float(row["probability"]) >= float(row["probability 2"]) for row in rows)
    else:
        rows = [json.loads(line) for line in text.splitlines()]
        assert all(len(row["top"]) == 2 for row in rows)
    assert {row["image"]: row["class"] for row in rows} == expected
    counts = Counter(expected.values()).most_common()
    assert result.stdout.startswith(f"wrote 37 answers to answers.{form}: ")
    assert all(f" {count}" in result.stdout for _, count in counts)


@pytest.mark.usefixtures("folder")
def test_a_file_that_is_there_is_replaced_only_with_force(folder: Path) -> None:
    (folder / "answers.csv").write_text("mine")
    mistake = convforge("pets", "one.png", "--csv", "answers.csv").exception
    assert isinstance(mistake, UserError)
    assert "answers.csv is already there" in str(mistake)
    assert (folder / "answers.csv").read_text() == "mine"
    assert convforge("pets", "one.png", "--csv", "answers.csv", "--force").exit_code == 0
    assert (folder / "answers.csv").read_text().startswith("image,class,probability\none.png,")


@pytest.mark.usefixtures("folder")
def test_answers_are_written_as_they_come(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever stops it has the answers until then, and memory holds a few images, however many there are."""
    read: list[str] = []
    seen: list[tuple[int, int]] = []
    really = pictures.pixels

    def reading(picture: object, name: str, *others: object) -> object:
        read.append(name)
        if len(read) == 150:
            raise KeyboardInterrupt
        return really(picture, name, *others)  # type: ignore[arg-type]

    def ranked(self: Model, shares: object, top: int) -> tuple[tuple[str, float], ...]:
        seen.append((len(read), len(seen)))
        return (("cat", 1.0),)

    monkeypatch.setattr(pictures, "pixels", reading)
    monkeypatch.setattr(Model, "_ranking", ranked)
    convforge("pets", *["one.png"] * 200, "--csv", "answers.csv")
    rows = (folder / "answers.csv").read_text().splitlines()
    assert 50 < len(rows) < 151
    assert max(ahead - done for ahead, done in seen) <= 80


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, names of files are not bytes")
def test_names_that_are_no_text_come_out_as_their_bytes(folder: Path) -> None:
    name = b"caf\xe9.png"
    (folder / "one.png").rename(folder / os.fsdecode(name))
    result = convforge("pets", os.fsdecode(name), "--csv", "-")
    assert result.stdout_bytes.splitlines()[1].startswith(name + b",")
    (answer,) = convforge("pets", os.fsdecode(name), "--jsonl", "-").stdout.splitlines()
    assert os.fsencode(json.loads(answer)["image"]) == name


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("one.png", "--csv", "a", "--json"), "give one of them"),
        (("one.png", "--csv", "."), "is a folder: name a file in it"),
        (("one.png", "--csv", "nowhere/a.csv"), "nowhere/a.csv cannot be written (No such file or directory)"),
        (("empty",), "there are no images in empty"),
    ],
)
def test_mistakes_are_one_sentence(folder: Path, arguments: tuple[str, ...], words: str) -> None:
    (folder / "empty").mkdir()
    mistake = convforge("pets", *arguments).exception
    assert isinstance(mistake, UserError)
    assert words in str(mistake)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("form", ["bundle", "onnx"])
def test_every_form_of_a_network_answers_alike(folder: Path, form: str) -> None:
    export(folder / "pets", form, folder / f"pets.{form}")
    images = ("one.png", "two.png", "--top", "3")
    answer = convforge("pets", *images).stdout
    assert len(answer.splitlines()) == 6
    assert convforge(f"pets.{form}", *images).stdout == answer
    assert convforge("pets/model.safetensors", *images).stdout == answer


@pytest.mark.usefixtures("folder")
def test_a_network_without_classes_is_for_run(folder: Path) -> None:
    layer = torch.nn.Conv2d(3, 4, 3).eval()
    compile(layer, torch.zeros(1, 3, 8, 8), mean=[0] * 3, std=[1] * 3).save(folder / "maps.bundle")
    mistake = convforge("maps.bundle", "one.png").exception
    assert isinstance(mistake, UserError)
    assert "convforge run says" in str(mistake)


@pytest.mark.usefixtures("folder")
def test_no_class_at_all_is_a_sentence() -> None:
    mistake = convforge("pets", "one.png", "--top", "0").exception
    assert isinstance(mistake, UserError)
    assert str(mistake) == "--top must be 1 or more, not 0."


def test_the_help_says_what_the_images_should_look_like() -> None:
    words = " ".join(convforge("--help").stdout.split())
    assert "should look like the training images" in words
    assert "convforge predict runs/mnist seven.png" in words
