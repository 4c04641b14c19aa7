"""What the network answers, in Chromium: beside the image in every view, and in the row of the layer that answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .conftest import CLASSES, Site, settled
from .test_page_views import VIEWS


def answer(site: Site, image: int) -> torch.Tensor:
    with torch.no_grad():
        return site.network.model(site.pictures.input(image)[None])[0].double().softmax(0)


def test_every_view_has_the_answer_beside_the_image(visit: Callable[..., Any], site: Site) -> None:
    page = visit("#/slide?image=1")
    shares = answer(site, 1)
    order = shares.argsort(descending=True).tolist()
    for view in (view for view in VIEWS if view != "play"):
        page.goto(f"{site.address}#/{view}?image=1")
        page.wait_for_selector(f".view.{view} h1")
        settled(page)
        entries = page.locator("#asked .share")
        assert entries.locator(".class").all_inner_texts() == [CLASSES[number] for number in order[:3]], view
        assert entries.first.locator(".percent").inner_text() == f"{100 * float(shares.max()):.1f}%"
        assert page.locator("#asked .picker .name").inner_text() == site.pictures.name(1)
        truth = site.pictures.label(1)
        assert page.locator("#asked .truth b").inner_text() == truth
        assert ("right" in page.locator("#asked .truth").inner_text()) == (CLASSES[order[0]] == truth)
    page.goto(f"{site.address}#/play")
    page.wait_for_selector(".view.play h1")
    assert not page.locator("#asked").is_visible()


def test_another_image_has_another_answer(visit: Callable[..., Any], site: Site) -> None:
    page = visit("#/maps")
    page.locator("#asked .picker").click()
    page.locator("#asked .images .image").nth(3).click()
    page.wait_for_function("() => location.hash.includes('image=3')")
    settled(page)
    top = CLASSES[int(answer(site, 3).argmax())]
    page.wait_for_function("name => document.querySelector('#asked .share .class').textContent === name", arg=top)
    assert page.locator("#asked .percent").first.inner_text() == f"{100 * float(answer(site, 3).max()):.1f}%"


def test_the_last_layers_row_reads_like_the_answer(visit: Callable[..., Any], site: Site) -> None:
    head = site.index("head")
    page = visit(f"#/layers?image=2&layer={head}")
    shares = answer(site, 2)
    order = shares.argsort(descending=True).tolist()
    assert CLASSES[order[0]] in page.locator("tr.chosen").inner_text()
    listed = page.locator(".panel .shares .share")
    assert listed.locator(".class").all_inner_texts() == [CLASSES[number] for number in order]
    assert listed.locator(".percent").all_inner_texts() == [f"{100 * float(shares[number]):.1f}%" for number in order]
    page.goto(f"{site.address}#/layers?image=2&layer=0")
    page.wait_for_function("() => !document.querySelector('.panel .shares').checkVisibility()")
    page.goto(f"{site.address}#/maps?image=2&layer={head}")
    page.wait_for_selector(".view.maps .tile")
    settled(page)
    names = page.locator(".tile span").all_inner_texts()
    assert sorted(names) == sorted(f"{number}: {name}" for number, name in enumerate(CLASSES))
