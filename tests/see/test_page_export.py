"""The exported file in Chromium: it opens by itself, asks for nothing, and its sums are done in the browser."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from convforge.see.page.bundle import bundle
from convforge.see.why import cover

from .conftest import CLASSES, Site, Watched, number, saved_at, settled, shows
from .test_page_backward import gradient
from .test_page_slide import UNITS, check_numbers, parts
from .test_page_views import VIEWS


@pytest.fixture(scope="module")
def exported(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from convforge.see.export import export
    from convforge.see.shelf import Shelf

    path = tmp_path_factory.mktemp("exported") / "out.html"
    with ThreadPoolExecutor() as other:  # in this one playwright's loop is running
        page = other.submit(export, site.network, site.pictures, Shelf(None)).result()
    path.write_text(page, encoding="utf-8")
    return path


@pytest.fixture
def file(watched: Watched, exported: Path) -> Callable[[str], Any]:
    watched.allowed = exported.as_uri()

    def file(address: str) -> Any:
        page = watched.open(exported.as_uri() + address)
        settled(page)
        return page

    return file


def test_every_view_opens_without_a_server(file: Callable[[str], Any]) -> None:
    page = file("#/layers")
    for view in VIEWS:
        page.evaluate("view => { location.hash = `#/${view}` }", view)
        page.wait_for_selector(f".view.{view} h1")
        settled(page)
        assert page.locator(".notice").evaluate_all("all => all.filter((one) => one.checkVisibility()).length") == 0, (
            view
        )


def test_it_says_how_many_of_the_images_it_holds(file: Callable[[str], Any]) -> None:
    page = file("#/why?image=1")
    page.locator(".notes summary").click()
    assert "It holds 4 images of 4, and the layers that fit" in page.locator(".notes").inner_text()


def test_the_answer_is_taken_apart_in_it(file: Callable[[str], Any], site: Site) -> None:
    page = file("#/why?image=1")
    with torch.no_grad():
        logits = site.network.model(site.pictures.input(1)[None])[0]
    total = page.locator(".adds-up .total dd").get_attribute("title")
    assert number(total) == pytest.approx(float(logits.max()), abs=1e-5)
    assert page.locator(".carried tbody tr").count() == 8
    page.locator(".boards canvas").nth(1).focus()
    page.keyboard.press("Control+Home")
    saved_at(page, "row=0")
    page.get_by_text("These are not in this file").wait_for()  # of maps of so many places


def test_its_sums_are_those_of_the_model(file: Callable[[str], Any], site: Site) -> None:
    page = file("#/slide")
    for name, channel, row, column in UNITS:
        place = f"layer={site.index(name)}&image=0&channel={channel}&row={row}&column={column}"
        page.evaluate("place => { location.hash = `#/slide?${place}` }", place)
        heading = f"row {row}, column {column} of output channel {channel}"
        page.wait_for_function(
            "text => document.querySelector('.arithmetic h2').textContent.endsWith(text)", arg=heading
        )
        settled(page)
        check_numbers(page, parts(site, name, channel, row, column))
        _, made = site.seen_by(getattr(site.network.model, name))
        model = number(page.locator(".result .model .value").get_attribute("title"))
        assert model == pytest.approx(float(made[channel, row, column]), rel=1e-5)


def test_changed_layers_are_computed_in_the_browser(file: Callable[[str], Any], site: Site) -> None:
    page = file(f"#/slide?layer={site.index('dilated')}&image=1&channel=7&row=2&column=3&stride=3&padding=1&dilation=1")
    check_numbers(page, {**parts_of(site, 1), "first": 0})
    page.get_by_label("Groups", exact=True).press("ArrowUp")
    page.wait_for_selector(".channel")
    saved_at(page, "groups=2")
    module = site.network.model.dilated
    given, _ = site.seen_by(module, 1)
    # Two groups: output 7 of 12 is in the second, and reads inputs 4 to 7 with its last four slices.
    made = F.conv2d(given[None, 4:].double(), module.weight[7:8, 4:].double(), stride=3, padding=1)[0, 0, 2, 3]
    total = float(made.detach()) + float(module.bias[7])
    page.wait_for_function("() => document.querySelector('.channel h3').textContent === 'Input channel 4'")
    assert shows(page.locator(".result .total .value").inner_text(), total)


def parts_of(site: Site, image: int) -> dict[str, Any]:
    module = site.network.model.dilated
    given, _ = site.seen_by(module, image)
    patch = F.pad(given, (1, 1, 1, 1)).double()[:, 6:9, 9:12]
    kernel = module.weight[7].detach().double()
    sums = (patch * kernel).sum((1, 2))
    total = float(sums.sum()) + float(module.bias[7])
    return {"patch": patch, "kernel": kernel, "products": patch * kernel, "sums": sums, "total": total}


def test_backward_is_in_it_and_its_sums_are_autograds(file: Callable[[str], Any], site: Site) -> None:
    of = CLASSES.index(site.pictures.label(1) or "")
    for name in ("stem", "dilated"):
        module, at = getattr(site.network.model, name), site.index(name)
        expected = gradient(site, module, 1, of)
        largest = int(expected[3].abs().argmax())
        for place in ("", "&read=1&wrow=1&wcolumn=0"):
            page = file(f"#/slide?layer={at}&image=1&channel=3&direction=backward{place}")
            page.locator(".backward .result .total").wait_for()
            wanted = float(expected[3, 1, 1, 0] if place else expected[3].flatten()[largest])
            for kind in ("total", "model"):
                printed = number(page.locator(f".backward .result .{kind} .value").get_attribute("title"))
                assert printed == pytest.approx(wanted, abs=1e-5, rel=1e-5)
        assert page.locator(".learning tbody tr").count() == 3


def test_backward_of_other_layers_is_said_not_to_be_in_it(file: Callable[[str], Any], site: Site) -> None:
    page = file("#/slide?direction=backward")
    inside = {"stem", "dilated", "twice"}
    other = next(layer for layer in site.network.layers if layer.convolution and layer.name not in inside)
    page.evaluate("place => { location.hash = place }", f"#/slide?layer={other.index}&image=1&direction=backward")
    assert page.locator(".intro .says").inner_text().startswith("The other direction: choose a weight")
    notice = page.get_by_text(f"What the loss of this image sends back to layer {other.name} is not in this file")
    notice.wait_for()
    assert "convforge see" in notice.inner_text()


def test_occlusion_and_layercam_are_in_it(file: Callable[[str], Any], site: Site) -> None:
    with torch.no_grad():
        order = site.network.model(site.pictures.input(1)[None])[0].argsort(descending=True).tolist()
    found = cover(site.network, site.pictures.input(1), lambda *_: None)
    for against in (None, order[1]):
        lost = found.lost(order[0], against)
        row, column = divmod(int(abs(lost.drops).argmax()), lost.drops.shape[1])
        fall = float(lost.drops[row, column])
        chosen = f"of={order[0]}&row={row}&column={column}" + (f"&against={against}" if against is not None else "")
        page = file(f"#/why?image=1&method=occlusion&{chosen}")
        page.get_by_text(f"What covering each place takes away, {'×'.join(map(str, lost.drops.shape))}").wait_for()
        words = re.fullmatch(
            r"Row (\d+), column (\d+): the number (rises|falls) by (.+), from (.+) to (.+)\.",
            page.locator(".lost").inner_text(),
        )
        assert words is not None
        assert words.groups()[:3] == (str(row), str(column), "rises" if fall < 0 else "falls")
        for text, value in zip(words.groups()[3:], (abs(fall), lost.logit, lost.logit - fall), strict=True):
            assert shows(text, value)
    page = file("#/why?image=1&method=layercam")
    page.get_by_text("LayerCAM for").wait_for()
    page = file(f"#/why?image=1&method=occlusion&of={order[-1]}&against={order[0]}")
    page.get_by_text("Occlusion for this image and class is not in this file").wait_for()


def test_names_in_the_data_cannot_end_the_script(watched: Watched, tmp_path: Path) -> None:
    network = {"name": "</script><script>alert(1)</script>", "input": [1, 2, 2], "images": [], "layers": [],
               "totals": {"parameters": 0, "macs": 0, "dense": None}, "classes": None, "first_conv": None}  # fmt: skip
    path = tmp_path / "hostile.html"
    path.write_text(bundle({"/api/network": {"json": network}}), encoding="utf-8")
    watched.allowed = path.as_uri()
    page = watched.open(path.as_uri() + "#/slide")
    page.wait_for_selector("main .notice")
    assert page.locator("#network").inner_text().startswith("</script>")
    assert page.locator("script").count() == 2


def test_stored_numbers_are_exact(exported: Path, site: Site) -> None:
    """float32 numbers pass through base64 unchanged."""
    text = re.search(r'id="stored">(.*?)</script>', exported.read_text(encoding="utf-8"))
    assert text is not None
    stored = json.loads(text[1])
    weights = stored[f"/api/layers/{site.index('stem')}/kernels/values"]
    values = torch.frombuffer(bytearray(b64decode(weights["base64"])), dtype=torch.float32)
    assert torch.equal(values.view(weights["shape"]), site.network.model.stem.weight.detach())
