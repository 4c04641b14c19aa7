"""Backward, in Chromium: the printed sum of products is autograd's gradient; and transposed convolutions slide."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from convforge.see.pictures import Pictures

from .conftest import CLASSES, Serving, Site, Watched, grid, number, saved_at, settled, shows
from .networks import opened, photographs
from .test_page_slide import check_numbers


def gradient(site: Site, module: Any, image: int, of: int) -> torch.Tensor:
    module.weight.requires_grad_()
    F.cross_entropy(site.network.model(site.pictures.input(image)[None]), torch.tensor([of])).backward()
    found, module.weight.grad = module.weight.grad.clone(), None
    module.weight.requires_grad_(False)
    return found


def test_the_products_behind_a_weights_gradient(visit: Callable[..., Any], site: Site) -> None:
    page = visit(f"#/slide?layer={site.index('dilated')}&image=1&channel=3")
    page.get_by_text("Backward", exact=True).click()
    saved_at(page, "direction=backward")
    settled(page)
    of = CLASSES.index(site.pictures.label(1) or "")
    expected = gradient(site, site.network.model.dilated, 1, of)[3]
    assert f"probability of {CLASSES[of]}" in page.locator(".backward .says").inner_text()
    largest = float(expected.flatten()[expected.abs().argmax()])

    def printed(kind: str) -> float:
        return number(page.locator(f".backward .result .{kind} .value").get_attribute("title"))

    assert printed("total") == pytest.approx(largest, abs=1e-5, rel=1e-5)
    assert printed("model") == pytest.approx(largest, abs=1e-6, rel=1e-5)
    page.get_by_role("spinbutton", name="Input channel").fill("5")
    page.get_by_role("spinbutton", name="Input channel").press("Enter")
    saved_at(page, "read=5")
    page.locator(".backward .pairs canvas.live").focus()
    page.keyboard.press("Control+Home")
    saved_at(page, "wrow=0&wcolumn=0")
    page.locator(".backward h2", has_text="weight 0, 0 comes from").wait_for()
    page.keyboard.press("ArrowRight")
    saved_at(page, "wcolumn=1")
    page.locator(".backward h2", has_text="weight 0, 1 comes from: kernel 3, input channel 5").wait_for()
    assert printed("total") == pytest.approx(float(expected[5, 0, 1]), abs=1e-5, rel=1e-5)
    before, after = page.locator(".backward .tables table").all()
    weight = site.network.model.dilated.weight[3, 5]
    for line, other, values, slopes in zip(grid(before), grid(after), weight, expected[5], strict=True):
        for text, changed, value, slope in zip(line, other, values, slopes, strict=True):
            assert shows(text, float(value))
            assert shows(changed, float(value - 0.001 * slope))
    losses = [number(text) for text in page.locator(".learning td:nth-child(2)").all_inner_texts()]
    assert losses[0] > losses[2]
    page.get_by_text("Forward", exact=True).click()
    page.locator(".arithmetic .channel").first.wait_for()


def up() -> nn.Module:
    return nn.Sequential(
        nn.ConvTranspose2d(3, 4, 3, 2, 1, 1), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )


@pytest.fixture
def rising(tmp_path: Path, chromium: str) -> Iterator[Site]:
    network = opened(up, (3, 10, 9))
    serving = Serving(network, Pictures([photographs(tmp_path / "p")], (3, 10, 9), network.mean, network.std))
    yield serving.site
    serving.stop()


def test_a_transposed_convolution_slides_over_its_spread_input(watched: Watched, rising: Site) -> None:
    watched.allowed = rising.address
    page = watched.open(rising.entrance + "#/slide?layer=0&image=0&channel=2&row=7&column=6")
    settled(page)
    page.locator(".arithmetic .channel").first.wait_for()
    assert "A transposed convolution of stride 2" in page.locator(".says.spread").inner_text()
    model: Any = rising.network.model
    given, made = rising.seen_by(model[0])
    spread = torch.zeros(3, 19, 17, dtype=torch.float64)
    spread[:, ::2, ::2] = given
    padded = F.pad(spread, (1, 2, 1, 2))
    patch = padded[:, 7:10, 6:9]
    kernel = model[0].weight[:, 2].detach().double().flip(1, 2)
    bias = float(model[0].bias[2])
    sums = (patch * kernel).sum((1, 2))
    parts = {"patch": patch, "kernel": kernel, "products": patch * kernel, "sums": sums, "first": 0}
    assert check_numbers(page, {**parts, "total": float(sums.sum()) + bias, "bias": bias}) == 3
    model_says = number(page.locator(".result .model .value").first.get_attribute("title"))
    assert model_says == pytest.approx(float(made[2, 7, 6]), rel=1e-5)
    assert not page.get_by_label("Stride", exact=True).is_visible()
