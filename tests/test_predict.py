"""Prediction: the pixels go the way they went in training, and one bad file stops nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from convforge.errors import UserError
from convforge.inference.prediction import Prediction
from convforge.models.checkpoint import Architecture
from convforge.models.load import compiled

CLASSES = ("dark", "middling", "bright")


class ByBrightness(nn.Module):
    """Knows the normalised mean: certain of 'bright' above +1, of 'dark' below −1, of 'middling' between."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        level = images.mean((1, 2, 3))
        return 20 * torch.stack([-1 - level, 0.5 - level.abs(), level - 1], dim=1)


def predict(model: nn.Module, architecture: Architecture, files: Sequence[Path], top: int = 1) -> list[Prediction]:
    return compiled(model.eval(), architecture).predict(files, top)


def architecture(channels: int = 1) -> Architecture:
    return Architecture("vgg", {}, CLASSES, (channels, 8, 8), mean=(0.5,) * channels, std=(0.25,) * channels)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    made = []
    for name, level in (("black", 0), ("grey", 128), ("white", 255)):
        made.append(tmp_path / f"{name}.png")
        Image.fromarray(np.full((20, 30), level, np.uint8)).save(made[-1])
    return made


def test_the_network_gets_the_file_normalised_channel_by_channel(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "noise.png")
    seen = []

    class Watching(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.append(images.numpy().copy())  # which cannot be captured: so the module itself is called
            return torch.zeros(len(images), 3)

    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)
    predict(Watching(), Architecture("vgg", {}, CLASSES, (3, 8, 8), mean, std), [tmp_path / "noise.png"])
    expected = (pixels / 255 - np.array(mean)) / np.array(std)
    np.testing.assert_allclose(seen[-1][0], expected.transpose(2, 0, 1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_each_image_gets_its_class(files: list[Path], channels: int) -> None:
    answers = predict(ByBrightness(), architecture(channels), files)
    assert [answer.ranking[0][0] for answer in answers] == ["dark", "middling", "bright"]
    assert [answer.image for answer in answers] == [str(file) for file in files]
    assert all(answer.ranking[0][1] > 0.99 for answer in answers)


def test_the_ranking_falls_and_adds_up_to_one(files: list[Path]) -> None:
    (answer,) = predict(ByBrightness(), architecture(), files[:1], top=99)
    probabilities = [probability for _, probability in answer.ranking]
    assert probabilities == sorted(probabilities, reverse=True)
    assert sum(probabilities) == pytest.approx(1, abs=1e-6)
    assert sorted(name for name, _ in answer.ranking) == sorted(CLASSES)


def test_a_bad_image_among_good_ones_keeps_its_place(files: list[Path], tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(files[0].read_bytes()[:40])
    mixed = [tmp_path / "bad.png", files[2], tmp_path / "absent.png", files[0]]
    answers = predict(ByBrightness(), architecture(), mixed)
    assert [bool(answer.error) for answer in answers] == [True, False, True, False]
    assert "bad.png" in (answers[0].error or "")
    assert [answers[1].ranking[0][0], answers[3].ranking[0][0]] == ["bright", "dark"]


def test_more_images_than_fit_in_a_batch(files: list[Path]) -> None:
    answers = predict(ByBrightness(), architecture(), files * 50)
    assert [answer.ranking[0][0] for answer in answers] == ["dark", "middling", "bright"] * 50


def test_a_network_without_numbers(files: list[Path]) -> None:
    class Broken(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.full((len(images), 3), torch.nan)

    with pytest.raises(UserError, match="not numbers"):
        predict(Broken(), architecture(), files)
