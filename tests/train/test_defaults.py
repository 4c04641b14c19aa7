"""What is chosen from the data where the user leaves it open, and that it is stored and said."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from convforge.errors import UserError
from convforge.train import Options, defaults, train
from convforge.train.balance import class_weights
from convforge.train.data import load


@pytest.fixture
def options(photos: Path, tmp_path: Path) -> Options:
    return Options(str(photos), out=str(tmp_path / "runs"), name="tiny", threads=1, flips=True)


def test_everything_is_decided_and_what_was_said_stays(photos: Path) -> None:
    data = load(str(photos))
    chosen = defaults.chosen(Options(), data)
    assert None not in (chosen.model, chosen.epochs, chosen.passes, chosen.batch, chosen.lr, chosen.patience)
    assert chosen.augment == "strong"
    said = Options(
        model="resnet", epochs=3, batch=5, lr=0.1, patience=2, weight_decay=0.0, label_smoothing=0.0, augment="light"
    )
    assert defaults.chosen(said, data) == replace(said, passes=1)
    assert defaults.chosen(Options(augment=False), data).augment == "none"


def test_few_images_are_shown_more_often_in_smaller_batches(photos: Path) -> None:
    few = load(str(photos))
    many = replace(few, train=few.train.take(torch.arange(36).repeat(200)))
    little, much = (defaults.chosen(Options(), data) for data in (few, many))
    assert little.batch < much.batch
    assert little.passes > much.passes == 1
    assert little.passes * little.epochs > 10 * much.passes * much.epochs


def test_patches_have_a_fixed_length() -> None:
    chosen = defaults.chosen(Options(task="exemplar"), load())
    assert (chosen.epochs, chosen.batch, chosen.patience, chosen.augment) == (12, 64, 0, "light")


def test_large_images_are_made_as_small_as_so_many_of_them_can_be_paid_for(tmp_path: Path) -> None:
    for name in ("a-class", "b-class"):
        (tmp_path / name).mkdir()
        for number in range(2):
            Image.fromarray(np.zeros((140, 150, 3), np.uint8)).save(tmp_path / name / f"{number}.png")
    asked = []

    def largest(images: int) -> int:
        asked.append(images)
        return 72

    assert load(str(tmp_path), largest=largest).input_shape == (3, 72, 72)
    assert asked == [4]


def test_the_configuration_says_what_was_chosen_and_a_run_by_it_is_the_same(options: Options, tmp_path: Path) -> None:
    options = replace(options, epochs=2)
    printed = io.StringIO()
    folder = train(options, Console(file=printed, width=200)).folder
    stored = json.loads((folder / "config.json").read_text())["options"]
    assert stored["batch"] == 16
    assert f"{stored['batch']} a step" in printed.getvalue()
    again = train(replace(Options.from_dict(stored, "it"), data=options.data, name="again")).folder
    assert (again / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_val_is_the_part_of_each_class_that_is_held_out(photos: Path) -> None:
    assert load(str(photos), val=0.4).test.labels.bincount().tolist() == [6, 6, 6]
    assert load(str(photos)).test.labels.bincount().tolist() == [3, 3, 3]
    one, same, other = (load(str(photos), val=0.4, seed=seed) for seed in (1, 1, 2))
    assert one.test.names == same.test.names != other.test.names
    assert not set(one.test.names) & set(one.train.names)


@pytest.mark.parametrize("val", [0.0, 1.0, -1.0, float("nan")])
def test_parts_that_leave_nothing_are_refused(val: float) -> None:
    with pytest.raises(UserError, match="--val must be"):
        Options(val=val)


def test_val_beside_a_split_of_the_data_is_refused(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "split").mkdir()
    for part in ("train", "test"):
        (tmp_path / "split" / part).symlink_to(photos)
    with pytest.raises(UserError, match="leave it out"):
        load(str(tmp_path / "split"), val=0.5)


def test_classes_of_unequal_size_are_said_and_weighed_alike(options: Options, photos: Path) -> None:
    for number in range(4, 15):
        (photos / "left" / f"{number}.png").unlink()
    for balance, words in ((False, "--balance makes each count alike"), (True, "each counts alike (--balance)")):
        printed = io.StringIO()
        train(replace(options, epochs=1, batch=8, balance=balance, name=str(balance)), Console(file=printed, width=200))
        assert "left 3" in printed.getvalue()
        assert words in printed.getvalue()
    weighted, plain = (
        json.loads((Path(options.out) / name / "metrics.jsonl").read_text())["test_loss"] for name in ("True", "False")
    )
    assert weighted != plain


def test_weights_make_classes_count_alike() -> None:
    labels = torch.tensor([0] * 30 + [1] * 10 + [2] * 5)
    weights = class_weights(labels, 3)
    sums = [float(weights[labels[labels == label]].sum()) for label in range(3)]
    assert sums == pytest.approx([15, 15, 15])


def test_digits_are_not_mirrored_whatever_is_beside_them(tmp_path: Path) -> None:
    for name in ("digit 1", "digit 2", "shoe", "bag"):
        (tmp_path / "mixed" / name).mkdir(parents=True)
        for number in range(2):
            Image.new("L", (8, 8)).save(tmp_path / "mixed" / name / f"{number}.png")
    assert not load(str(tmp_path / "mixed")).flips
