"""Why, in Chromium: the printed parts add up to the model's number, and a place leads to channels and products."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch

from .conftest import CLASSES, Site, number, saved_at, settled


def logits(site: Site, image: int) -> torch.Tensor:
    with torch.no_grad():
        return site.network.model(site.pictures.input(image)[None])[0].double()


def printed(page: Any, kind: str) -> float:
    """A number of the sum, as exactly as the page knows it."""
    return number(page.locator(f".adds-up .{kind} dd").get_attribute("title"))


def places(page: Any) -> list[list[float]]:
    answers = page.evaluate("async address => (await fetch(address)).text()", "api/why" + page.why)
    values: list[list[float]] = json.loads(answers)["values"]
    return values


def test_the_printed_sum_is_the_logit(visit: Callable[..., Any], site: Site) -> None:
    page = visit("#/why?image=1")
    found = logits(site, 1)
    best = int(found.argmax())
    assert page.get_by_label("Class", exact=True).input_value() == str(best)
    assert printed(page, "places") + printed(page, "bias") == pytest.approx(float(found[best]), abs=1e-5)
    assert printed(page, "total") == pytest.approx(float(found[best]), abs=1e-5)
    assert printed(page, "model") == pytest.approx(float(found[best]), abs=1e-5)
    assert abs(number(page.locator(".adds-up .difference dd").inner_text())) < 1e-5
    page.why = f"?image=1&of={best}"
    assert sum(map(sum, places(page))) + printed(page, "bias") == pytest.approx(float(found[best]), abs=1e-5)


def test_two_classes_are_compared(visit: Callable[..., Any], site: Site) -> None:
    page = visit("#/why?image=2")
    found = logits(site, 2)
    page.get_by_label("Class", exact=True).select_option("4")
    saved_at(page, "of=4")
    page.get_by_label("Compared with").select_option("0")
    saved_at(page, "against=0")
    settled(page)
    page.locator(".adds-up .total dt", has_text=f"{CLASSES[4]} rather than {CLASSES[0]}").wait_for()
    assert printed(page, "total") == pytest.approx(float(found[4] - found[0]), abs=1e-5)
    assert printed(page, "model") == pytest.approx(float(found[4] - found[0]), abs=1e-5)


def test_a_place_leads_to_channels_and_a_channel_to_its_products(visit: Callable[..., Any], site: Site) -> None:
    page = visit("#/why?image=0&of=3")
    board = page.locator(".boards canvas").nth(1)
    board.focus()
    page.keyboard.press("Control+Home")
    page.keyboard.press("ArrowDown")
    saved_at(page, "row=1")
    settled(page)
    page.wait_for_function("() => document.querySelector('.view > .card h2').textContent.includes('row 1, column 0')")
    rows = page.locator(".carried tbody tr")
    assert rows.count() == 8
    parts = [number(row.locator("td").nth(2).get_attribute("title")) for row in rows.all()]
    page.why = "?image=0&of=3"
    assert sum(parts) == pytest.approx(places(page)[1][0], abs=1e-6)
    channel = int(rows.first.locator("th").inner_text())
    rows.first.get_by_role("link", name="its products").click()
    page.wait_for_selector(".view.slide .arithmetic .channel")
    settled(page)
    assert (
        page.locator(".arithmetic h2").inner_text()
        == f"The products behind row 1, column 0 of output channel {channel}"
    )
    layer = site.index("twice", 1)
    assert f"layer={layer}" in page.evaluate("location.hash")


def test_other_methods_are_named_for_what_they_are(visit: Callable[..., Any], site: Site) -> None:
    page = visit("#/why?image=0")
    page.get_by_text("LayerCAM", exact=True).click()
    saved_at(page, "method=layercam")
    settled(page)
    assert "its numbers add up to nothing" in page.locator(".view > .reading").inner_text()
    assert not page.locator(".adds-up").is_visible()
    page.get_by_label("At the layer").select_option(str(site.index("dilated")))
    settled(page)
    page.wait_for_function("() => document.querySelector('.view > .reading').textContent.includes('layer dilated')")
    page.get_by_text("Occlusion", exact=True).click()
    page.locator(".view > .reading", has_text="Occlusion for").wait_for(timeout=20000)
    assert page.locator(".boards canvas").first.is_visible()
    assert not page.locator(".carried").is_visible()
