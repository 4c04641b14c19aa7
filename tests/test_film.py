"""The film of a first layer: what it holds, how large it gets, and files that are none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from convforge.errors import UserError
from convforge.learned import film
from convforge.learned.film import Recorder, chosen_steps, first_convolution, read


def record(folder: Path, model: nn.Sequential, steps: int, done: int = 0) -> Recorder:
    """A run whose step sets every weight to the number of the step."""
    recorder = Recorder(folder, model, done, steps, per_epoch=10)
    for step in range(done + 1, steps + 1):
        with torch.no_grad():
            model[0].weight.fill_(step)
        recorder.look(step)
    recorder.write()
    return recorder


def test_frames_are_the_kernels_at_their_steps(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 5), nn.Conv2d(4, 2, 3))
    before = model[0].weight.detach().clone()
    record(tmp_path, model, 100)
    found = read(tmp_path)
    assert found is not None
    assert (found.layer, found.shape) == ("0", (4, 3, 5, 5))
    assert [frame.step for frame in found.frames] == chosen_steps(100, film.FRAMES_AT_MOST)
    assert torch.equal(torch.from_numpy(found.values(0)), before)
    for number, frame in enumerate(found.frames[1:], 1):
        assert (found.values(number) == frame.step).all()
        assert frame.epoch == frame.step / 10
    assert found.frames[0].label == "before learning"
    assert found.frames[-1].label == "step 100, epoch 10.00"
    for number in (-1, len(found.frames)):
        with pytest.raises(IndexError, match=str(number)):
            found.values(number)


@given(st.integers(1, 10**6), st.integers(2, 60))
def test_steps_are_early_bounded_and_hold_both_ends(steps: int, frames: int) -> None:
    chosen = chosen_steps(steps, frames)
    assert chosen[0] == 0
    assert chosen[-1] == steps
    assert len(chosen) == len(set(chosen)) <= frames
    if len(chosen) > 4:
        assert chosen[len(chosen) // 2] <= steps / 2


def test_large_layers_get_fewer_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(film, "BYTES_AT_MOST", 5 * 4 * 4 * 3 * 25)
    record(tmp_path, nn.Sequential(nn.Conv2d(3, 4, 5)), 100)
    found = read(tmp_path)
    assert found is not None
    assert [frame.step for frame in found.frames] == chosen_steps(100, 5)


def test_networks_without_a_convolution_make_no_film(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 2))
    assert first_convolution(model) is None
    recorder = Recorder(tmp_path, model, 0, 10, 10)
    recorder.look(10)
    recorder.write()
    assert read(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_a_stopped_run_goes_on_where_it_was(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    first = nn.Conv2d(1, 2, 3)
    weights = first.weight.detach().clone()
    record(whole, nn.Sequential(first), 60)
    with torch.no_grad():
        first.weight.copy_(weights)
    stopped = Recorder(parts, nn.Sequential(first), 0, 60, 10)
    # It was killed at step 40 and had last saved at step 30: what came after is recorded again.
    for step in range(1, 41):
        with torch.no_grad():
            first.weight.fill_(step if step <= 30 else -1)
        stopped.look(step)
    stopped.write()
    record(parts, nn.Sequential(first), 60, done=30)
    assert (whole / film.FILM).read_bytes() == (parts / film.FILM).read_bytes()


@pytest.mark.parametrize(
    ("frames", "shape", "dtype"),
    [
        ([[0, 0.0]], (2, 1, 1, 3, 3), torch.float32),
        ([[0, 0.0]], (1, 1, 3, 3), torch.float32),
        ([[0, 0.0]], (1, 1, 1, 3, 3), torch.float64),
        ([["now", 0.0]], (1, 1, 1, 3, 3), torch.float32),
        ([[0]], (1, 1, 1, 3, 3), torch.float32),
        ("{", (1, 1, 1, 3, 3), torch.float32),
        ("[" * 100_000, (1, 1, 1, 3, 3), torch.float32),
        ("1", (1, 1, 1, 3, 3), torch.float32),
        ('{"layer": 3, "frames": [[0, 0.0]]}', (1, 1, 1, 3, 3), torch.float32),
    ],
)
def test_files_that_are_no_film_are_named(
    tmp_path: Path, frames: object, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    described = frames if isinstance(frames, str) else json.dumps({"layer": "0", "frames": frames})
    save_file({"kernels": torch.zeros(shape, dtype=dtype)}, tmp_path / film.FILM, {"film": described})
    with pytest.raises(UserError, match=r"film\.safetensors is not a film"):
        read(tmp_path)


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\xff" * 100])
def test_damaged_files_are_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / film.FILM).write_bytes(content)
    with pytest.raises(UserError, match=r"film\.safetensors"):
        read(tmp_path)


def test_a_film_that_went_away_is_said(tmp_path: Path) -> None:
    record(tmp_path, nn.Sequential(nn.Conv2d(1, 1, 3)), 5)
    found = read(tmp_path)
    assert found is not None
    (tmp_path / film.FILM).unlink()
    with pytest.raises(UserError, match="cannot be read any more"):
        found.values(0)
