"""The Slide view in Chromium: every number on the screen against torch."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from .conftest import Site, Watched, grid, number, saved_at, settled, shows

# Layer, output channel, row, column: corners and edges, where padding takes part, and the middle.
UNITS = [
    ("stem", 0, 0, 0),
    ("stem", 7, 23, 19),
    ("depthwise", 5, 0, 11),
    ("dilated", 11, 1, 1),
    ("dilated", 3, 12, 9),
    ("grouped", 6, 10, 0),
    ("twice", 2, 5, 19),
]


def parts(site: Site, name: str, channel: int, row: int, column: int, **changed: Any) -> dict[str, Any]:
    """Patch, kernel, products and sums of one output number, the plain way."""
    module = getattr(site.network.model, name)
    given, _ = site.seen_by(module)
    settings: dict[str, Any] = {"stride": module.stride, "padding": module.padding, "dilation": module.dilation}
    settings |= {key: (value, value) for key, value in changed.items()}
    (top, left), (v, h), (dv, dh) = settings["padding"], settings["stride"], settings["dilation"]
    padded = F.pad(given, (left, left, top, top)).double()
    per_group = module.in_channels // module.groups
    first = channel // (module.out_channels // module.groups) * per_group
    kh, kw = module.kernel_size
    rows = torch.arange(kh) * dv + row * v
    columns = torch.arange(kw) * dh + column * h
    patch = padded[first : first + per_group][:, rows][:, :, columns]
    kernel = module.weight[channel].detach().double()
    bias = 0.0 if module.bias is None else float(module.bias[channel])
    products = patch * kernel
    sums = products.sum((1, 2))
    return {"patch": patch, "kernel": kernel, "products": products, "sums": sums, "total": float(sums.sum()) + bias,
            "bias": bias, "first": first}  # fmt: skip


def check_numbers(page: Any, expected: dict[str, Any]) -> int:
    """Compares all grids that are shown; returns how many channels they are of."""
    cards = page.locator(".arithmetic .channel").all()
    for card in cards:
        channel = int(re.findall(r"channel (\d+)", card.locator("h3").inner_text())[0]) - expected["first"]
        for table, name in zip(card.locator("table").all(), ("patch", "kernel", "products"), strict=True):
            for line, values in zip(grid(table), expected[name][channel], strict=True):
                for text, value in zip(line, values, strict=True):
                    assert shows(text, float(value)), (name, text, float(value))
        assert shows(card.locator("output").inner_text(), float(expected["sums"][channel]))
    assert shows(page.locator(".result .total .value").inner_text(), expected["total"])
    assert number(page.locator(".result .total .value").get_attribute("title")) == pytest.approx(
        expected["total"], rel=1e-5, abs=1e-6
    )
    return len(cards)


def test_patch_kernel_products_and_sums_are_those_of_the_model(visit: Callable[..., Any], site: Site) -> None:
    page = visit("#/slide")
    for name, channel, row, column in UNITS:
        place = f"layer={site.index(name)}&image=0&channel={channel}&row={row}&column={column}"
        page.goto(f"{site.address}#/slide?{place}")
        heading = f"row {row}, column {column} of output channel {channel}"
        page.wait_for_function(
            "text => document.querySelector('.arithmetic h2').textContent.endsWith(text)", arg=heading
        )
        settled(page)
        expected = parts(site, name, channel, row, column)
        assert check_numbers(page, expected) >= 1
        _, made = site.seen_by(getattr(site.network.model, name))
        model = float(made[channel, row, column])
        assert number(page.locator(".result .model .value").get_attribute("title")) == pytest.approx(model, rel=1e-5)
        difference = number(page.locator(".result .difference .value").inner_text())
        assert difference == pytest.approx(expected["total"] - model, abs=2e-6)


def test_the_mouse_shows_a_number_and_a_click_keeps_it(visit: Callable[..., Any], site: Site) -> None:
    page = visit(f"#/slide?layer={site.index('depthwise')}&image=1&channel=1&row=2&column=3")
    heading = page.locator(".arithmetic h2")
    assert "row 2, column 3" in heading.inner_text()
    canvas = page.locator("canvas.board.live")
    box = canvas.bounding_box()
    # 24 × 20 outputs without padding: the middle of row 10, column 5.
    at = box["x"] + box["width"] * 5.5 / 20, box["y"] + box["height"] * 10.5 / 24
    page.mouse.move(*at)
    page.wait_for_function("() => document.querySelector('.arithmetic h2').textContent.includes('row 10, column 5')")
    page.mouse.move(box["x"] - 30, box["y"] - 30)
    page.wait_for_function("() => document.querySelector('.arithmetic h2').textContent.includes('row 2, column 3')")
    page.mouse.click(*at)
    page.mouse.move(5, 5)
    saved_at(page, "row=10&column=5")
    settled(page)
    given, _ = site.seen_by(site.network.model.depthwise, 1)
    patch = F.pad(given, (1, 1, 1, 1))[1, 10:13, 5:8]
    shown = grid(page.locator(".channel table").first)
    assert all(shows(t, float(v)) for line, vs in zip(shown, patch, strict=True) for t, v in zip(line, vs, strict=True))


def test_arrow_keys_move_and_the_result_is_read_out(visit: Callable[..., Any], site: Site) -> None:
    page = visit(f"#/slide?layer={site.index('dilated')}&image=0&channel=2&row=4&column=4")
    page.locator("canvas.board.live").focus()
    for key in ("ArrowDown", "ArrowRight", "ArrowRight", "ArrowUp", "ArrowLeft"):
        page.keyboard.press(key)
    saved_at(page, "row=4&column=5")
    page.wait_for_function("() => document.getElementById('live').textContent.startsWith('Row 4, column 5:')")
    spoken = page.locator("#live").text_content()
    total = parts(site, "dilated", 2, 4, 5)["total"]
    assert number(spoken.split(": ")[1].split(", from")[0]) == pytest.approx(total, rel=1e-5)
    assert "The model computed" in spoken
    page.keyboard.press("Control+End")
    saved_at(page, "row=23&column=19")
    assert "Chosen: row 23, column 19" in page.locator("canvas.board.live").get_attribute("aria-label")


def test_stride_padding_and_dilation_take_effect_at_once(visit: Callable[..., Any], site: Site) -> None:
    page = visit(f"#/slide?layer={site.index('dilated')}&image=0&channel=4&row=3&column=3")
    assert "= 24" in page.locator(".formula").inner_text()
    for label, keys in (("Stride", ["ArrowUp"]), ("Padding", ["ArrowUp"]), ("Dilation", ["ArrowUp"])):
        field = page.get_by_label(label, exact=True)
        for key in keys:
            field.press(key)
        settled(page)
    saved_at(page, "stride=2")
    formula = page.locator(".formula").inner_text()
    # 24 rows, padding 3, dilation 3: the kernel spans 7; stride 2.
    assert "(24 + 3 + 3 − 3·(3 − 1) − 1)" in formula.replace("\n", " ")
    assert "+ 1 = 12" in formula
    page.wait_for_selector(".result .none")
    page.wait_for_function("() => document.querySelector('.arithmetic h2').textContent.includes('row 3, column 3')")
    check_numbers(page, parts(site, "dilated", 4, 3, 3, stride=2, padding=3, dilation=3))
    page.get_by_role("button", name="As in the model").click()
    page.wait_for_selector(".result .model")
    assert "stride" not in page.evaluate("location.hash")
    page.go_back()
    page.wait_for_selector(".result .none")
    assert page.get_by_label("Stride", exact=True).input_value() == "2"


def test_groups_split_what_is_summed(visit: Callable[..., Any], site: Site) -> None:
    page = visit(f"#/slide?layer={site.index('dilated')}&image=0&channel=4&row=3&column=3")
    page.get_by_label("Groups", exact=True).press("ArrowUp")
    settled(page)
    page.wait_for_function("() => document.querySelectorAll('.channel').length === 4")
    module = site.network.model.dilated
    given, _ = site.seen_by(module)
    # Two groups: output 4 of 12 is in the first, and reads inputs 0 to 3 of 8 with its own first four slices.
    made = F.conv2d(given[None, :4].double(), module.weight[4:5, :4].double(), padding=2, dilation=2)[0, 0, 3, 3]
    total = float(made.detach()) + float(module.bias[4])
    assert shows(page.locator(".result .total .value").inner_text(), total)


def test_what_does_not_fit_is_said_in_a_sentence(visit: Callable[..., Any], watched: Watched, site: Site) -> None:
    watched.expected.append("400 (Bad Request)")  # the browser itself notes on the console that the server refused it
    page = visit(f"#/slide?layer={site.index('twice')}&image=0&channel=0")
    page.locator("canvas.board.live").wait_for()
    page.evaluate("location.hash = location.hash.replace(/&row.*/, '') + '&dilation=30'")
    notice = page.locator(".notice")
    notice.wait_for()
    assert "kernel" in notice.inner_text()


def test_an_address_brings_back_the_same_view(visit: Callable[..., Any], site: Site) -> None:
    page = visit(f"#/slide?layer={site.index('grouped')}&image=2&channel=5&row=6&column=7&padding=1")
    before = page.locator("main").inner_text()
    page.reload()
    settled(page)
    page.wait_for_selector(".channel")
    assert page.locator("main").inner_text() == before


def test_changing_the_layer_can_be_taken_back(visit: Callable[..., Any], site: Site) -> None:
    page = visit(f"#/slide?layer={site.index('stem')}&image=0&channel=3&row=1&column=1")
    before = page.locator("main").inner_text()
    page.get_by_label("Layer", exact=True).select_option(str(site.index("grouped")))
    settled(page)
    page.wait_for_function("() => document.querySelector('.arithmetic h2').textContent.includes('output channel')")
    assert f"layer={site.index('grouped')}" in page.evaluate("location.hash")
    page.go_back()
    settled(page)
    page.wait_for_function("() => document.querySelector('.arithmetic h2').textContent.includes('row 1, column 1')")
    assert page.locator("main").inner_text() == before


def test_it_plays_steps_and_scrubs(visit: Callable[..., Any], site: Site) -> None:
    page = visit(f"#/slide?layer={site.index('grouped')}&image=0&channel=0&row=0&column=0")
    where = page.locator(".transport .where")
    page.get_by_role("button", name="One step on").click()
    saved_at(page, "row=0&column=1")
    assert where.inner_text() == "2 of 220"
    page.get_by_text("Fast").click()
    page.get_by_role("button", name="Play").click()
    page.wait_for_function("() => parseInt(document.querySelector('.where').textContent) > 6")
    page.get_by_role("button", name="Pause").click()
    slider = page.get_by_label("Position of the kernel")
    slider.fill("219")
    saved_at(page, "row=10&column=19")
    assert where.inner_text() == "220 of 220"


def test_many_input_channels_can_be_ordered_by_what_they_contribute(visit: Callable[..., Any], site: Site) -> None:
    page = visit(f"#/slide?layer={site.index('dilated')}&image=0&channel=0&row=8&column=8")
    page.wait_for_selector(".channel")
    expected = parts(site, "dilated", 0, 8, 8)
    sums: Tensor = expected["sums"]
    best = int(sums.abs().argmax())
    page.wait_for_function("c => document.querySelector('.channel h3').textContent.endsWith(c)", arg=f"channel {best}")
    check_numbers(page, expected)
