"""The patches that are found are those of a search through all activations, and show what the units see."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from convforge.errors import UserError
from convforge.see import detects as module
from convforge.see.detects import Detects
from convforge.see.hooks import has_channels, watched
from convforge.see.jobs import Cancelled, Progress
from convforge.see.network import Network
from convforge.see.shelf import Shelf
from convforge.see.topmost import KEPT

from .networks import Kinds, opened

SHAPE = (3, 48, 40)


class Drawn:
    """Images that are drawn at random, with what `Detects` asks of pictures."""

    def __init__(self, many: int, labels: Callable[[int], str | None] = lambda n: None, seed: int = 0) -> None:
        self.many, self.labels, self.seed = many, labels, seed
        self.damaged: set[int] = set()
        self.read = 0

    def __len__(self) -> int:
        return self.many

    def label(self, number: int) -> str | None:
        return self.labels(number)

    def input(self, number: int) -> Tensor:
        self.read += 1
        if number in self.damaged:
            raise UserError(f"image {number} is damaged.")
        noise = torch.Generator().manual_seed(1000 * self.seed + number)
        return nn.functional.interpolate(torch.randn((1, 3, 12, 10), generator=noise), scale_factor=4)[0]

    def fingerprint(self) -> str:
        return f"{self.many} {self.seed}"


def detects_of(network: Network, pictures: Any, shelf: Shelf | None = None) -> Detects:
    return Detects(network, pictures, shelf or Shelf(None))


def all_maps(network: Network, pictures: Drawn, layer: int) -> Tensor:
    """(N, K, H, W), seen one image at a time by the explorer's own way."""
    maps = []
    for number in range(len(pictures)):
        output = network.look(number, lambda number=number: pictures.input(number), layer).output
        assert output is not None
        maps.append(output.reshape(network.layer(layer).map_shape))
    return torch.stack(maps)


@pytest.mark.parametrize("many", [45, 12], ids=["many images", "few images"])
def test_patches_are_those_of_a_search_through_everything(many: int) -> None:
    network, pictures = opened(Kinds), Drawn(many)
    found = detects_of(network, pictures)
    found.fill(0)
    layers = [layer for layer in network.layers if has_channels(layer)]
    assert {layer.name for layer in layers} >= {"stem", "norm", "relu", "depthwise", "grouped", "twice", "head"}
    assert sum(layer.name == "twice" for layer in layers) == 2
    for layer in layers:
        assert found.is_ready(layer.index)
        maps = all_maps(network, pictures, layer.index)
        for channel in range(maps.shape[1]):
            patches = found.patches(layer.index, channel)
            values = [patch.value for patch in patches]
            assert len(patches) == KEPT
            assert len({(patch.image, patch.row, patch.column) for patch in patches}) == KEPT
            for patch in patches:
                truth = float(maps[patch.image, channel, patch.row, patch.column])
                assert patch.value == pytest.approx(truth, rel=1e-4, abs=1e-5)
                assert patch.box == network.box(layer.index, patch.row, patch.column)
            best = np.sort(maps[:, channel].amax((1, 2)).numpy())[::-1]
            if many == 45:
                assert len({patch.image for patch in patches}) == KEPT
                np.testing.assert_allclose(values, best[:KEPT], rtol=1e-4, atol=1e-5)
            else:  # two of an image are allowed, so the best of each image are among them, or better ones
                assert values == sorted(values, reverse=True)
                assert values[0] == pytest.approx(float(best[0]), rel=1e-4, abs=1e-5)
                assert all(value >= other - 1e-4 for value, other in zip(values, best, strict=False))


def test_a_box_holds_the_pixels_that_the_unit_depends_on() -> None:
    """With positive weights those are the pixels where the gradient is not zero. Corners, borders and the middle."""
    network = opened(Kinds, SHAPE)
    model = network.model.double()
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.is_floating_point():
                tensor.uniform_(0.1, 1)
    image = torch.rand(1, *SHAPE, dtype=torch.float64, requires_grad=True)
    maps: dict[int, Tensor] = {}
    layers = [layer for layer in network.layers if has_channels(layer)]
    with watched(model, layers, lambda index, output: maps.update({index: output.clone()})):
        model(image)
    for layer in layers:
        _, height, width = layer.map_shape
        for row, column in {(0, 0), (height - 1, width - 1), (height // 2, width // 2), (0, width // 3)}:
            (gradient,) = torch.autograd.grad(maps[layer.index][0, 1, row, column], image, retain_graph=True)
            expected = torch.zeros(SHAPE[1:], dtype=torch.bool)
            box = network.box(layer.index, row, column)
            if box == "all":
                expected[:] = True
            else:
                assert isinstance(box, tuple)
                top, left, tall, wide = box
                expected[max(0, top) : top + tall, max(0, left) : left + wide] = True
            assert torch.equal(gradient[0].abs().sum(0) > 0, expected), (layer.name, row, column)


def test_classes_are_ranked_by_their_mean_highest_activation() -> None:
    network = opened(Kinds)
    pictures = Drawn(20, lambda n: (None, "cat", "dog", "dog")[n % 4])
    found = detects_of(network, pictures)
    assert found.classes == ["cat", "dog"]
    found.fill(0)
    head = next(layer.index for layer in network.layers if layer.name == "head")
    for layer in (0, head):
        peaks = all_maps(network, pictures, layer).amax((2, 3))
        for channel in (0, 3):
            expected = {
                name: float(peaks[[n for n in range(20) if pictures.label(n) == name], channel].mean())
                for name in found.classes
            }
            ranked = found.preferences(layer, channel)
            assert [one.mean for one in ranked] == sorted((one.mean for one in ranked), reverse=True)
            assert {one.name: one.count for one in ranked} == {"cat": 5, "dog": 10}
            assert {one.name: one.mean for one in ranked} == pytest.approx(expected, rel=1e-4)


def test_progress_is_told_and_a_cancelled_pass_leaves_nothing() -> None:
    network, pictures = opened(Kinds), Drawn(500)
    found = detects_of(network, pictures)
    told: list[tuple[int, int, str]] = []

    class Impatient(Progress):
        def __call__(self, done: int, total: int, what: str = "") -> None:
            told.append((done, total, what))
            if done >= 10:
                raise Cancelled

    with pytest.raises(Cancelled):
        found.fill(0, Impatient())
    assert told[-1] == (10, 500, "showing the network image 11 of 500")
    assert pictures.read == 10
    assert not found.is_ready(0)


def test_results_are_kept_for_this_network_and_these_images(tmp_path: Path) -> None:
    shelf, network = Shelf(tmp_path), opened(Kinds)
    first, again = Drawn(5), Drawn(5)
    found = detects_of(network, first, shelf)
    found.fill(0)
    expected = [found.patches(0, channel) for channel in range(8)]
    kept = detects_of(opened(Kinds), again, shelf)
    kept.fill(0)
    assert again.read == 0
    assert [kept.patches(0, channel) for channel in range(8)] == expected

    for other, pictures in (
        (opened(Kinds), Drawn(5, seed=1)),
        (opened(Kinds), Drawn(5, lambda n: "a")),
        (opened(Kinds, mean=(0.4, 0.5, 0.5)), Drawn(5)),
        (changed(opened(Kinds)), Drawn(5)),
    ):
        detects_of(other, pictures, shelf).fill(0)
        assert pictures.read == 5


def changed(network: Network) -> Network:
    with torch.no_grad():
        network.model.get_parameter("dilated.weight")[3, 2, 1, 1] += 1e-3
    return network


@pytest.mark.parametrize("damage", ["cut", "changed", "of other images"])
def test_a_damaged_entry_is_computed_again(tmp_path: Path, damage: str) -> None:
    shelf = Shelf(tmp_path)
    found = detects_of(opened(Kinds), Drawn(5), shelf)
    found.fill(0)
    (file,) = tmp_path.iterdir()
    content = file.read_bytes()
    if damage == "cut":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "changed":
        file.write_bytes(content[:200] + b"\xff" * 16 + content[216:])
    else:
        arrays = dict(np.load(file))
        arrays["images"] += 100
        np.savez(file, **arrays)
    pictures = Drawn(5)
    repaired = detects_of(opened(Kinds), pictures, shelf)
    repaired.fill(0)
    assert pictures.read == 5
    assert repaired.patches(0, 3) == found.patches(0, 3)
    pictures.read = 0
    detects_of(opened(Kinds), pictures, shelf).fill(0)
    assert pictures.read == 0


def test_an_image_that_cannot_be_read_is_left_out() -> None:
    network, pictures = opened(Kinds), Drawn(6, lambda n: "ab"[n % 2])
    pictures.damaged = {2, 5}
    found = detects_of(network, pictures)
    found.fill(0)
    assert {patch.image for patch in found.patches(0, 0)} == {0, 1, 3, 4}
    assert {one.name: one.count for one in found.preferences(0, 0)} == {"a": 2, "b": 2}
    pictures.damaged = set(range(6))
    with pytest.raises(UserError, match="image 0 is damaged"):
        detects_of(network, pictures).fill(0)


def test_where_memory_is_short_fewer_layers_are_filled_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    network = opened(Kinds)
    bytes_a_channel = KEPT * 16
    learned = sum(layer.output_shape[0] for layer in network.layers if layer.kind in ("conv", "linear"))
    for room, ready in ((learned * bytes_a_channel, {"conv", "linear"}), (100, {"conv"})):
        monkeypatch.setattr(module, "_TABLE_BYTES", room)
        found = detects_of(network, Drawn(2))
        found.fill(0)
        filled = [layer for layer in network.layers if found.is_ready(layer.index)]
        assert {layer.kind for layer in filled} == ready
        assert len(filled) > 1 or room == 100
        pool = next(layer.index for layer in network.layers if layer.name == "norm")
        found.fill(pool)
        assert found.is_ready(pool)


def test_what_is_no_module_and_channels_that_are_not_there_are_said_so() -> None:
    network = opened(Kinds)
    found = detects_of(network, Drawn(2))
    join = next(layer for layer in network.layers if layer.module is None)
    with pytest.raises(UserError, match="is not a module with channels"):
        found.fill(join.index)
    with pytest.raises(UserError, match="there is no layer 99"):
        found.fill(99)
    found.fill(0)
    with pytest.raises(UserError, match="'stem' has channels 0 to 7, not 8"):
        found.patches(0, 8)


def test_the_pass_does_not_change_the_network() -> None:
    network = opened(Kinds)
    before = {name: tensor.clone() for name, tensor in network.model.state_dict().items()}
    detects_of(network, Drawn(40)).fill(0)
    for name, tensor in network.model.state_dict().items():
        assert torch.equal(tensor, before[name])
    hooks = [len(m._forward_hooks) for m in network.model.modules()]
    assert sum(hooks) == 0


def test_a_batch_takes_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between batches a request can be served; none is kept waiting for the whole pass."""
    network, pictures = opened(Kinds), Drawn(30)
    turns = count()
    background = network.turns.background
    monkeypatch.setattr(network.turns, "background", lambda: (next(turns), background())[1])
    detects_of(network, pictures).fill(0)
    assert next(turns) >= 2
