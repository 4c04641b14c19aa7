"""Augmentation moves what is in the image, a little, and as the generator says."""

from __future__ import annotations

import torch

from convforge.train.augment import augment


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_it_follows_the_generator_and_keeps_the_shape() -> None:
    images = torch.rand(6, 3, 20, 30, generator=draw())
    first, again, other = (augment(images, draw(seed), flips=True) for seed in (1, 1, 2))
    assert first.shape == images.shape
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_it_moves_each_image_differently_but_only_a_little() -> None:
    images = torch.zeros(64, 1, 40, 60)
    images[:, :, 18:22, 28:32] = 1
    moved = augment(images, draw(), flips=False)
    mass = moved.sum((1, 2, 3))
    rows = (moved.sum((1, 3)) * torch.arange(40)).sum(1) / mass
    columns = (moved.sum((1, 2)) * torch.arange(60)).sum(1) / mass
    # The centre of a centred square moves by the shift alone, at most 8 % of the size and the scale of 10 %.
    assert 1 < (rows - 19.5).abs().max() < 40 * 0.08 * 1.12
    assert 2 < (columns - 29.5).abs().max() < 60 * 0.08 * 1.12
    assert len(rows.unique()) > 60


def test_flips_mirror_about_half_and_only_if_asked() -> None:
    images = torch.zeros(200, 1, 24, 24)
    images[..., :12] = 1
    left_is_bright = {
        flips: (lambda moved: moved[..., :6].mean((1, 2, 3)) > 0.5)(augment(images, draw(), flips)).sum().item()
        for flips in (True, False)
    }
    assert left_is_bright[False] == 200
    assert 70 < left_is_bright[True] < 130


def test_turning_keeps_lengths_in_images_that_are_not_square() -> None:
    images = torch.zeros(100, 1, 30, 90)
    images[:, :, 14:16, 20:70] = 1
    moved = augment(images, draw(), flips=False)
    for image in moved[:, 0]:
        rows, columns = (image > 0.3).nonzero().unbind(1)
        length = ((rows.max() - rows.min()) ** 2 + (columns.max() - columns.min()) ** 2) ** 0.5
        assert 50 / 1.1 - 4 < length < 50 / 0.9 + 4
