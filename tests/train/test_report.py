"""The report: what is collected is what happened, and the page is whole, self-contained and safe."""

from __future__ import annotations

import errno
import os
import re
import sys
from base64 import b64decode
from html.parser import HTMLParser
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from convforge.errors import UserError
from convforge.train import charts, pictures
from convforge.train import report as report_module
from convforge.train.pictures import Pictures, collect
from convforge.train.report import Report, render, write_report

VOID = {"meta", "img", "br", "link", "input", "hr"}
HOSTILE = ["<script>alert(1)</script>", '" onload="alert(2)', "{{ 7 * 7 }}", "</title><b>", "a\x00b\ud800c"]


class Structure(HTMLParser):
    """Every element closed in the right order; its tags, attributes and text."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), (tag, attrs)
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, (tag, self.getpos())

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def words(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.text))


def small(channels: int, classes: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(inplace=True),
        nn.Conv2d(6, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 1),
        nn.Conv2d(8, 10, 3, stride=2, padding=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(10, classes),
    )


def halved(batch: torch.Tensor) -> torch.Tensor:
    return batch.float() / 255 - 0.5


def collected(classes: int, channels: int = 1, count: int = 60, side: int = 16) -> tuple[nn.Module, Pictures]:
    torch.manual_seed(0)
    model = small(channels, classes)
    before = pictures.first_kernels(model)
    with torch.no_grad():
        model[0].weight += 0.1
    images = torch.randint(0, 256, (count, channels, side, side), dtype=torch.uint8)
    return model, collect(model, images, torch.arange(count) % classes, halved, classes, before)


def epochs(count: int) -> list[dict[str, float]]:
    return [
        {
            "epoch": i + 1,
            "train_loss": 2 / (i + 1),
            "train_accuracy": 1 - 0.5 / (i + 1),
            "test_loss": 2.2 / (i + 1),
            "test_accuracy": 1 - 0.6 / (i + 1),
            "lr": 0.001,
            "seconds": 1.5,
            "images_per_second": 1234.0,
        }
        for i in range(count)
    ]


def full_report(classes: list[str], channels: int = 1, **changes: Any) -> Report:
    return Report(
        **{
            "title": "digits",
            "classes": classes,
            "epochs": epochs(3),
            "pictures": collected(len(classes), channels)[1],
            "data": {"Training images": 4000, "Size": (1, 16, 16)},
            "skipped": ["cat.png is damaged"],
            "plan": [{"layer": "conv1", "parameters": 1728}, {"layer": "relu", "parameters": None}],
            "parameters": 1234567,
            "comparison": [{"": "convolutional", "parameters": 10}, {"": "fully connected", "parameters": 9999}],
            "settings": {"seed": 0, "flip": False},
        }
        | changes
    )


# ---------------------------------------------------------------------------------------------------------------------
# Collecting
# ---------------------------------------------------------------------------------------------------------------------


class ReadsItsFirstPixel(nn.Module):
    """Logits that the test can compute by hand: pixel (0, 0) names the class, pixel (0, 1) the certainty."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(len(images), 3)
        logits[torch.arange(len(images)), images[:, 0, 0, 0].long()] = images[:, 0, 0, 1]
        return logits


def test_confusion_and_worst_mistakes_against_a_classifier_known_by_hand() -> None:
    images = torch.zeros(5, 1, 8, 8, dtype=torch.uint8)
    images[:, 0, 0, 0] = torch.tensor([0, 1, 2, 0, 1])
    images[:, 0, 0, 1] = torch.tensor([3, 1, 2, 4, 5])
    truth = torch.tensor([0, 2, 2, 1, 0])
    found = collect(ReadsItsFirstPixel(), images, truth, lambda batch: batch.float(), classes=3)
    assert found.confusion.tolist() == [[1, 1, 0], [1, 0, 0], [0, 1, 1]]
    assert [(m.true, m.predicted) for m in found.mistakes] == [(0, 1), (1, 0), (2, 1)]
    certainty = [float(np.exp(c) / (np.exp(c) + 2)) for c in (5, 4, 1)]
    np.testing.assert_allclose([m.probability for m in found.mistakes], certainty, rtol=1e-5)
    assert found.mistakes[0].probability_of_true == pytest.approx((1 - certainty[0]) / 2, rel=1e-4)
    np.testing.assert_array_equal(found.mistakes[0].image, images[4].numpy())
    assert found.layers == ()
    assert found.kernels_after is None


def test_feature_maps_are_those_that_the_next_layer_gets() -> None:
    model, _ = collected(3)
    model.eval()
    inputs = torch.randn(4, 1, 16, 16)
    with torch.no_grad():
        expected = {"0": model[:3](inputs), "3": model[:5](inputs), "6": model[:7](inputs)}
    layers = pictures.feature_maps(model, inputs, channels=3)
    assert [(layer.stage, layer.layer, layer.of, layer.size) for layer in layers] == [
        ("early", "0", 6, (16, 16)),
        ("middle", "3", 8, (8, 8)),  # the 1×1 convolution, layer 5, sees no pattern
        ("deep", "6", 10, (4, 4)),
    ]
    for layer in layers:
        for channel, maps in zip(layer.channels, layer.maps, strict=True):
            np.testing.assert_array_equal(maps, expected[layer.layer][:, channel].numpy())


@pytest.mark.parametrize(
    ("model", "stages"),
    [
        (nn.Sequential(nn.Conv2d(1, 3, 3)), ["early"]),
        (nn.Sequential(nn.Conv2d(1, 3, 3), nn.Conv2d(3, 3, 3)), ["early", "deep"]),
        (nn.Sequential(nn.Conv2d(1, 3, 8)), []),
        (nn.Sequential(nn.Conv2d(1, 3, 1)), ["early"]),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), []),
    ],
)
def test_fewer_convolutions_give_fewer_stages(model: nn.Module, stages: list[str]) -> None:
    assert [layer.stage for layer in pictures.feature_maps(model, torch.randn(2, 1, 8, 8))] == stages


def test_the_model_is_left_as_it_was() -> None:
    model = small(1, 3)
    model.train()
    model[1].eval()  # a frozen norm stays frozen
    before = {name: value.clone() for name, value in model.state_dict().items()}
    collect(model, torch.zeros(4, 1, 16, 16, dtype=torch.uint8), torch.zeros(4, dtype=torch.long), halved, 3)
    assert model.training
    assert not model[1].training
    assert model[0].training
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    assert all(not module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("factor", [1.5, 30.0])
def test_kernels_are_named_and_how_far_they_moved_is_said(factor: float) -> None:
    torch.manual_seed(0)
    model = small(3, 3)
    before = pictures.first_kernels(model)
    with torch.no_grad():
        model[0].weight *= factor
    images = torch.randint(0, 256, (12, 3, 16, 16), dtype=torch.uint8)
    found = collect(model, images, torch.arange(12) % 3, halved, 3, before)
    words = Structure(render(Report("run", ["a", "b", "c"], epochs(1), found))).words
    assert "Named by measurement, after learning: 6 kernels: " in words
    assert "Before it: " in words
    assert ("29.0 times their own length" if factor > 2 else "50.0% of their own length") in words


def test_kernels_before_are_a_copy() -> None:
    model = small(1, 3)
    before = pictures.first_kernels(model)
    assert before is not None
    kept = before.copy()
    with torch.no_grad():
        model[0].weight.zero_()
    np.testing.assert_array_equal(before, kept)


def test_samples_are_spread_over_the_classes() -> None:
    _, found = collected(30, count=90)
    assert found.sample_labels == (0, 5, 11, 17, 23, 29)
    _, found = collected(2, count=9)
    assert found.sample_labels == (0, 1, 0, 1, 0, 1)


# ---------------------------------------------------------------------------------------------------------------------
# Drawing
# ---------------------------------------------------------------------------------------------------------------------


def test_kernels_are_zero_centred_on_one_scale() -> None:
    kernels = np.array([[[[1.0, -1.0], [0.0, 0.5]]], [[[2.0, 0.0], [0.0, -2.0]]]], np.float32)
    assert pictures.kernel_scale(kernels, None) == 2.0
    drawn = np.array(pictures.draw_kernels(kernels, scale=2.0, tile=4, gap=2))
    assert drawn.shape == (4, 10, 4)
    assert tuple(drawn[0, 0]) == (*pictures.POSITIVE, 128)
    assert tuple(drawn[1, 3]) == (*pictures.NEGATIVE, 128)
    assert drawn[3, 0, 3] == 0  # zero is clear
    assert tuple(drawn[0, 6]) == (*pictures.POSITIVE, 255)
    assert not drawn[:, 4:6].any()  # the gap


def test_kernels_of_three_channels_are_in_true_colour() -> None:
    kernel = np.zeros((1, 3, 1, 1), np.float32)
    kernel[0, :, 0, 0] = 1, 0, -1
    assert np.array(pictures.draw_kernels(kernel, 1.0))[0, 0].tolist() == [255, 128, 0, 255]


def test_maps_rise_in_lightness_and_survive_nan() -> None:
    ramp = np.linspace(0, 1, 56, dtype=np.float32)[None]
    grey = np.array(pictures.draw_map(ramp, 0, 1).convert("L")).astype(int)
    assert (np.diff(grey[0]) >= 0).all()
    assert grey[0, -1] - grey[0, 0] > 200
    pictures.draw_map(np.full((3, 3), np.nan, np.float32), 0, 0)


def test_large_images_are_embedded_small() -> None:
    assert pictures.draw_image(np.zeros((3, 600, 300), np.uint8)).size == (48, 96)
    assert pictures.draw_map(np.zeros((224, 224), np.float32), 0, 1).size == (56, 56)


def test_chart_labels_stand_apart_and_inside() -> None:
    made = charts.chart("Loss", [1, 2], {"a": [3.0, 1.0], "b": [2.0, 1.0], "c": [2.0, 1.01]}, "{:.2f}".format)
    places = sorted(line.label_y for line in made.lines)
    assert min(np.diff(places)) >= 2 * charts._LABEL_GAP - 1e-9
    assert places[-1] <= charts.BOTTOM


@pytest.mark.parametrize("values", [[], [1.0], [0.0, 0.0], [float("nan")], [float("inf"), 1.0], [1e-30, 1e30]])
def test_charts_of_odd_values(values: list[float]) -> None:
    made = charts.chart("Loss", list(range(len(values))), {"train": values}, "{:.3g}".format)
    numbers = [float(n) for line in made.lines for path in line.paths for n in re.split("[ ,]", path)]
    assert all(0 <= n <= charts.WIDTH for n in numbers)


@pytest.mark.parametrize("values", [[1.0], [1.0, 1.0], [1.0, 0.9999], [1.0, 1 - 1e-15], [0.0, 0.0]])
def test_charts_of_accuracies_that_hardly_change(values: list[float]) -> None:
    made = charts.chart("Accuracy", list(range(len(values))), {"test": values}, "{:.1%}".format, top=1.0)
    numbers = [float(n) for line in made.lines for path in line.paths for n in re.split("[ ,]", path)]
    assert all(0 <= n <= charts.WIDTH for n in numbers)
    assert max(made.y_ticks, key=lambda tick: -tick.at).label == "100.0%"
    assert len({tick.label for tick in made.y_ticks}) == len(made.y_ticks) > 1


# ---------------------------------------------------------------------------------------------------------------------
# The page
# ---------------------------------------------------------------------------------------------------------------------


def test_the_page_is_whole_and_needs_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report(path, full_report([str(i) for i in range(10)]))
    page = path.read_text(encoding="utf-8")
    assert len(page) < 3_000_000
    assert not re.search(r"https?:|//\w|@import|url\(", re.sub(r"data:image/png;base64,[\w+/=]+", "", page))
    found = Structure(page)
    assert not {"script", "link", "iframe", "object", "form"} & {tag for tag, _ in found.tags}
    for attributes in found.all("img"):
        assert attributes["alt"]
        kind, _, data = (attributes["src"] or "").partition(",")
        assert kind == "data:image/png;base64"
        with Image.open(BytesIO(b64decode(data, validate=True))) as image:
            image.load()
    for attributes in found.all("a"):
        target = (attributes["href"] or "").removeprefix("#")
        assert any(a.get("id") == target for _, a in found.tags), target


def test_the_page_tells_and_shows_what_it_was_given() -> None:
    report = full_report([str(i) for i in range(10)])
    found = Structure(render(report))
    mistakes = len(report.pictures.mistakes)
    maps = sum(layer.maps.shape[0] * layer.maps.shape[1] for layer in report.pictures.layers)
    assert (mistakes, maps) == (24, 72)
    unsure = len(report.pictures.unsure)
    assert unsure == 12
    # kernels before, after, change; the images; the early layer's own kernels; the maps; the mistakes; the unsure ones
    assert len(found.all("img")) == 3 + 6 + 4 + maps + mistakes + unsure
    assert len(found.all("svg")) == 2
    assert len(found.all("polyline")) == 4
    right = int(np.trace(report.pictures.confusion))
    for words in (
        f"{right / 60 * 100:.1f}%",
        "4,000",
        "1 × 16 × 16",
        "1,234,567",
        "cat.png is damaged",
        "conv1",
        "1,728",
        "fully connected",
        "9,999",
        "1,234 images a second",
        "Early layer",
        "Middle layer",
        "Deep layer",
    ):
        assert words in found.words, words
    assert "Stopped early" not in found.words


def test_headings_do_not_skip_a_level() -> None:
    levels = [int(tag[1]) for tag, _ in Structure(render(full_report(["a", "b"]))).tags if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_hostile_names_are_text_everywhere(tmp_path: Path) -> None:
    report = full_report(
        HOSTILE,
        title=HOSTILE[0],
        data={name: name for name in HOSTILE},
        skipped=HOSTILE,
        plan=[{name: name for name in HOSTILE}],
        comparison=[{name: name for name in HOSTILE}],
        settings={name: name for name in HOSTILE},
        stopped_early=HOSTILE[0],
    )
    write_report(tmp_path / "report.html", report)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    found = Structure(page)
    assert "script" not in {tag for tag, _ in found.tags}
    assert "<b>" not in page
    assert not [name for _, attributes in found.tags for name in attributes if name.startswith("on")]
    assert HOSTILE[0] in found.words
    assert HOSTILE[2] in found.words  # not evaluated


@pytest.mark.parametrize("channels", [1, 3])
def test_a_hundred_classes_become_a_heat_map_and_lists(channels: int) -> None:
    names = [f"class number {i}" for i in range(100)]
    found = Structure(render(full_report(names, channels, pictures=collected(100, channels, count=300)[1])))
    assert [a for a in found.all("img") if a.get("class") == "heat"]
    assert not [a for a in found.all("table") if "confusion" in (a.get("class") or "")]
    assert "taken for" in found.words


def test_large_noisy_photos_keep_the_page_small() -> None:
    _, found = collected(30, channels=3, count=60, side=224)
    assert len(render(full_report([str(i) for i in range(30)], pictures=found))) < 3_000_000


def test_the_heat_map_is_blue_on_the_diagonal_and_orange_beside_it() -> None:
    drawn = np.array(pictures.draw_confusion(np.array([[3, 1], [0, 0]])))
    assert tuple(drawn[0, 0, :3]) == pictures.NEGATIVE
    assert tuple(drawn[0, 1]) == (*pictures.POSITIVE, round(255 * 0.5))
    assert drawn[1, :, 3].tolist() == [0, 0]


def test_a_run_that_ended_before_it_began() -> None:
    empty = Pictures(confusion=np.zeros((2, 2), np.int64))
    found = Structure(render(Report("none", ["a", "b"], [], empty, stopped_early=True)))
    assert "Stopped early" in found.words
    assert "No epoch was finished" in found.words
    assert "no test images" in found.words


def test_losses_that_are_not_numbers() -> None:
    rows = epochs(4)
    rows[1] |= {"train_loss": float("nan"), "test_loss": float("inf"), "test_accuracy": float("nan")}
    found = Structure(render(full_report(["a", "b"], epochs=rows)))
    assert len(found.all("polyline")) == 4 + 3  # three curves have a gap


def test_weights_that_are_not_numbers() -> None:
    report = full_report(["a", "b"])
    assert report.pictures.kernels_after is not None
    report.pictures.kernels_after[0, 0, 0, 0] = np.nan
    Structure(render(report))


def test_a_perfect_network_has_no_mistakes_to_show() -> None:
    perfect = Pictures(confusion=np.diag([5, 5]))
    found = Structure(render(full_report(["a", "b"], pictures=perfect)))
    assert "Nothing was confused" in found.words
    assert "100%" in found.words
    assert "Worst mistakes" not in found.words


def test_a_report_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*report\.html: "):
        write_report(tmp_path / "file" / "report.html", full_report(["a", "b"]))


def test_a_full_disk_leaves_the_report_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.html"
    path.write_text("the report of an earlier epoch")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left on device"):
        write_report(path, full_report(["a", "b"]))
    assert [(found.name, found.read_text()) for found in tmp_path.iterdir()] == [
        ("report.html", "the report of an earlier epoch")
    ]


def test_without_jinja_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    report_module._page.cache_clear()
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(UserError, match=r"pip install 'convforge\[train\]'"):
        render(full_report(["a", "b"]))
