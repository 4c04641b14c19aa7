"""The stand-alone slide in Chromium: what it computes, against torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from .conftest import grid, number, saved_at, settled, shows

SQUARE = torch.tensor([[9.0 if 1 <= r <= 4 and 2 <= c <= 5 else 1.0 for c in range(7)] for r in range(7)])
KERNELS = {
    "identity": [[0, 0, 0], [0, 1, 0], [0, 0, 0]],
    "box-blur": [[1 / 9] * 3] * 3,
    "gaussian": [[1 / 16, 2 / 16, 1 / 16], [2 / 16, 4 / 16, 2 / 16], [1 / 16, 2 / 16, 1 / 16]],
    "sharpen": [[0, -1, 0], [-1, 5, -1], [0, -1, 0]],
    "emboss": [[-2, -1, 0], [-1, 1, 1], [0, 1, 2]],
    "sobel-x": [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]],
    "sobel-y": [[-1, -2, -1], [0, 0, 0], [1, 2, 1]],
    "prewitt-x": [[-1, 0, 1], [-1, 0, 1], [-1, 0, 1]],
    "prewitt-y": [[-1, -1, -1], [0, 0, 0], [1, 1, 1]],
    "laplacian": [[0, 1, 0], [1, -4, 1], [0, 1, 0]],
}


def convolved(kernel: list[list[float]], image: torch.Tensor = SQUARE, **settings: int) -> torch.Tensor:
    return F.conv2d(image[None, None].double(), torch.tensor(kernel).double()[None, None], **settings)[0, 0]


def output(page: Any) -> list[list[float]]:
    """All numbers of the output, as they are told to those who cannot see it."""
    words = page.locator("canvas[aria-label^='Output']").get_attribute("aria-label")
    rows = [part.split(":")[1].strip(" .") for part in words.split(". ")[-1].split(";")]
    return [[number(text) for text in row.split(" ")] for row in rows]


def close(shown: list[list[float]], expected: torch.Tensor) -> bool:
    return torch.allclose(torch.tensor(shown).double(), expected, atol=0.006)


@pytest.mark.parametrize(
    ("preset", "size", "settings"),
    [
        ("lesson-stride-1", 5, {}),
        ("lesson-stride-2", 3, {"stride": 2}),
        ("lesson-same", 7, {"padding": 1}),
    ],
)
def test_the_lessons_examples(visit: Callable[..., Any], preset: str, size: int, settings: dict[str, int]) -> None:
    page = visit(f"#/play?preset={preset}")
    assert f"= {size}" in page.locator(".formula").inner_text()
    assert page.locator(".boards h2").last.inner_text() == f"Output, {size}×{size}"
    assert close(output(page), convolved(KERNELS["sobel-x"], **settings))


def test_the_classic_kernels_are_what_they_are_called(visit: Callable[..., Any]) -> None:
    page = visit("#/play")
    for name, kernel in KERNELS.items():
        page.locator(".middle select").select_option(name)
        assert close(output(page), convolved(kernel)), name
        shown = grid(page.locator("table.editable"))
        assert all(shows(t, v) for line, vs in zip(shown, kernel, strict=True) for t, v in zip(line, vs, strict=True))


def test_a_kernel_can_be_typed_and_its_address_shared(visit: Callable[..., Any]) -> None:
    page = visit("#/play?preset=lesson-same&stride=2")
    weights = [[0.5, 0, 0], [0, -1.25, 0], [0, 0, 2]]
    for i, line in enumerate(weights):
        for j, weight in enumerate(line):
            page.get_by_label(f"Weight in row {i + 1}, column {j + 1}").fill(str(weight).replace("-", "−"))
            page.keyboard.press("Tab")
    expected = convolved(weights, stride=2, padding=1)
    assert close(output(page), expected)
    saved_at(page, "weights=0.5,0,0,0,-1.25,0,0,0,2")
    page.locator("canvas[aria-label^='Output']").focus()
    page.keyboard.press("Control+End")
    saved_at(page, "row=3&column=3")
    assert shows(page.locator(".result .total .value").inner_text(), float(expected[3, 3]))
    before = page.locator("main").inner_text()
    page.reload()
    settled(page)
    assert page.locator("main").inner_text() == before
    assert close(output(page), expected)


def test_the_image_can_be_painted_with_mouse_and_keyboard(visit: Callable[..., Any]) -> None:
    page = visit("#/play?kernel=identity&padding=1")
    canvas = page.locator("canvas[aria-label^='Input']")
    box = canvas.bounding_box()
    cell = box["width"] / 9  # 7 pixels and the border
    page.mouse.click(box["x"] + 1.5 * cell, box["y"] + 7.5 * cell)
    page.keyboard.press("ArrowRight")
    page.keyboard.press("4")
    expected = SQUARE.clone()
    expected[6, 0], expected[6, 1] = 9, 4
    saved_at(page, "pixels=")
    assert close(output(page), expected.double())
    page.reload()
    settled(page)
    assert close(output(page), expected.double())


def test_without_padding_three_convolutions_leave_one_pixel_and_a_fourth_does_not_fit(
    visit: Callable[..., Any],
) -> None:
    page = visit("#/play?preset=lesson-shrinks")
    heading = page.locator(".boards h2").last
    image = SQUARE.double()
    for size in (5, 3, 1):
        assert heading.inner_text() == f"Output, {size}×{size}"
        image = convolved(KERNELS["gaussian"], image)
        assert close(output(page), image)
        page.get_by_role("button", name="Feed the output in again").click()
    assert "does not fit" in page.locator(".notice").inner_text()
    page.go_back()
    page.wait_for_function("() => document.querySelector('.notice').hidden")
    assert heading.inner_text() == "Output, 1×1"


def test_dilation_and_groups(visit: Callable[..., Any]) -> None:
    page = visit("#/play?preset=lesson-same&kernel=sharpen&dilation=3&padding=3")
    assert close(output(page), convolved(KERNELS["sharpen"], dilation=3, padding=3))
    page.goto(page.url.split("#")[0] + "#/play?preset=groups&channel=2&row=5&column=6")
    page.wait_for_function("() => document.querySelectorAll('.channel').length === 1")
    assert page.locator(".channel h3").inner_text() == "Input channel 2, blue"
    alone = output(page)
    page.get_by_label("Groups", exact=True).press("ArrowDown")
    page.wait_for_function("() => document.querySelectorAll('.channel').length === 3")
    together = output(page)
    assert together[5][6] > alone[5][6]
    sums = [number(text) for text in page.locator(".channel output").all_inner_texts()]
    assert sum(sums) == pytest.approx(together[5][6], abs=0.01)
    assert sums[2] == pytest.approx(alone[5][6], abs=0.01)


def test_it_works_without_the_network(watched: Any, site: Any) -> None:
    page = watched.open("about:blank")
    page.route("**/api/network", lambda route: route.fulfill(status=404, json={"error": "no network"}))
    page.goto(site.entrance + "#/slide")
    page.wait_for_selector("main .notice")
    assert page.locator("main .notice").inner_text() == "no network"
    page.get_by_role("link", name="Play").click()
    page.wait_for_selector("main .view.play")
    assert close(output(page), convolved(KERNELS["sobel-x"]))
    watched.wrong = [line for line in watched.wrong if "404" not in line and "about:blank" not in line]


def test_the_chain_of_stages_stands_side_by_side_with_and_without_padding(visit: Callable[..., Any]) -> None:
    page = visit("#/play?preset=lesson-shrinks")
    without, kept = page.locator(".chain-line").all()
    assert without.locator("h3").inner_text() == "Without padding: 7×7 → 5×5 → 3×3 → 1×1"
    assert "1×1 is left; the kernel spans 3 and does not fit into 1×1" in without.inner_text()
    assert kept.locator("h3").inner_text() == "With padding 1: 7×7 → 7×7 → 7×7 → 7×7 → 7×7"
    without.locator("button").nth(3).click()
    saved_at(page, "again=3")
    text = page.locator("main").inner_text()
    assert "nothing is left" not in text
    assert "No output: 1×1 is left" in text
    assert "After 3 convolutions 1×1 is left." in page.locator(".notice").inner_text()
    page.locator(".chain-line").nth(1).locator("button").nth(2).click()
    saved_at(page, "padding=1")
    assert not page.locator(".notice").is_visible()
    page.get_by_role("heading", name="Output, 7×7").wait_for()
