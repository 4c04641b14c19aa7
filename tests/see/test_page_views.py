"""The other views in Chromium: numbers against torch, the plan and the namer; mouse, keyboard, addresses, themes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from convforge.see.jobs import Progress

from .conftest import Site, grid, number, saved_at, settled, shows

VIEWS = ("slide", "why", "layers", "maps", "kernels", "detects", "count", "play")


# ---------------------------------------------------------------------------------------------------------------------
# Layers
# ---------------------------------------------------------------------------------------------------------------------


def test_the_layers_are_those_of_the_plan(visit: Callable[..., Any], site: Site) -> None:
    page = visit("#/layers", width=1900)
    rows = page.locator(".layer-table tbody tr").all()
    plan = site.network.plan
    assert len(rows) == len(plan.rows)
    for shown, row in zip(rows, plan.rows, strict=True):
        texts = shown.locator("th, td").all_inner_texts()
        assert texts[0].startswith(row.name)
        assert texts[2] == " × ".join(str(n) for n in row.output_shape[1:])
        if row.parameters:
            assert number(texts[4]) == row.parameters
        if isinstance(row.receptive_field, tuple):
            assert texts[3] == "×".join(str(n) for n in row.receptive_field)
        if row.macs:
            assert number(shown.locator("td").nth(4).get_attribute("title")) == row.macs
        if row.dense:
            assert number(shown.locator("td").nth(5).get_attribute("title")) == row.dense.same_maps
    assert number(page.locator("tfoot td").nth(3).inner_text()) == plan.totals.parameters


def test_a_layer_is_chosen_by_mouse_and_by_keyboard_and_its_field_is_told(
    visit: Callable[..., Any], site: Site
) -> None:
    page = visit("#/layers")
    stem, second = site.index("stem"), site.index("twice", 1)
    page.locator(".layer-table tbody tr").nth(second - 1).click()
    settled(page)
    page.locator(".layer-table tbody tr a[aria-current]").focus()
    page.keyboard.press("ArrowDown")
    saved_at(page, f"layer={second}")
    settled(page)
    assert page.locator(".panel h2").inner_text() == "Layer twice"
    unit = page.locator(".panel canvas.live")
    unit.focus()
    page.keyboard.press("Control+Home")
    saved_at(page, "row=0&column=0")
    settled(page)
    top, left, height, width = site.network.box(second, 0, 0)
    sentence = page.locator(".sight p").inner_text().replace("−", "-")
    assert (
        f"{height}×{width} pixels: rows {top} to {top + height - 1}, columns {left} to {left + width - 1}" in sentence
    )
    assert "beyond the border" in sentence
    page.go_back()
    settled(page)
    assert page.locator(".panel h2").inner_text() == f"Layer {site.network.layers[stem].name}"


# ---------------------------------------------------------------------------------------------------------------------
# Feature maps
# ---------------------------------------------------------------------------------------------------------------------


def test_maps_are_sorted_and_their_values_are_true(visit: Callable[..., Any], site: Site) -> None:
    page = visit(f"#/maps?layer={site.index('dilated')}&image=3")
    _, made = site.seen_by(site.network.model.dilated, 3)
    order = made.flatten(1).std(1, unbiased=False).argsort(descending=True).tolist()
    tiles = page.locator(".tile")
    assert tiles.evaluate_all("all => all.map((tile) => Number(tile.dataset.channel))") == order
    assert page.locator(".panel h2").inner_text() == f"Channel {order[0]}"
    tiles.nth(2).click()
    settled(page)
    board = page.locator(".panel canvas")
    box = board.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 3.5 / 20, box["y"] + box["height"] * 17.5 / 24)
    page.wait_for_function("() => document.querySelector('.reading').textContent.startsWith('row 17, column 3')")
    assert number(page.locator(".reading output").inner_text()) == pytest.approx(float(made[order[2], 17, 3]), rel=1e-6)
    board.focus()
    page.keyboard.press("Control+Home")
    page.keyboard.press("ArrowDown")
    page.mouse.move(2, 2)
    saved_at(page, "row=1&column=0")
    assert number(page.locator(".reading output").inner_text()) == pytest.approx(float(made[order[2], 1, 0]), rel=1e-6)
    facts = dict(
        zip(page.locator(".facts dt").all_inner_texts(), page.locator(".facts dd").all_inner_texts(), strict=True)
    )
    chosen = made[order[2]]
    assert shows(facts["smallest"], float(chosen.min()))
    assert shows(facts["largest"], float(chosen.max()))
    assert shows(facts["deviation"], float(chosen.std(unbiased=False)))


def test_tiles_are_reached_with_arrow_keys_and_the_address_keeps_all(visit: Callable[..., Any], site: Site) -> None:
    page = visit(f"#/maps?layer={site.index('stem')}&image=0")
    page.get_by_text("By channel").click()
    page.get_by_text("One for all").click()
    page.locator(".tile[tabindex='0']").focus()
    page.keyboard.press("Control+Home")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    saved_at(page, "channel=2")
    settled(page)
    before = page.locator("main").inner_text()
    page.reload()
    settled(page)
    page.wait_for_selector(".reading output")
    assert page.locator("main").inner_text() == before
    assert page.get_by_label("By channel").is_checked()
    page.get_by_role("link", name="The products behind this number").click()
    settled(page)
    page.wait_for_selector(".channel")
    assert "output channel 2" in page.locator(".arithmetic h2").inner_text()


def test_another_image_is_chosen_in_the_dialog(visit: Callable[..., Any], site: Site) -> None:
    page = visit(f"#/maps?layer={site.index('stem')}&image=0&channel=1&row=4&column=4")
    page.get_by_label("Image", exact=True).click()
    page.get_by_label("Find an image by name").fill("tall")
    page.locator(".image").click()
    wanted = next(n for n in range(4) if "tall" in site.pictures[n].name)
    saved_at(page, f"image={wanted}")
    settled(page)
    _, made = site.seen_by(site.network.model.stem, wanted)
    page.wait_for_function("() => document.querySelector('.reading output')")
    assert number(page.locator(".reading output").inner_text()) == pytest.approx(float(made[1, 4, 4]), rel=1e-6)


# ---------------------------------------------------------------------------------------------------------------------
# Kernels
# ---------------------------------------------------------------------------------------------------------------------


def test_first_kernels_have_their_weights_and_names(visit: Callable[..., Any], site: Site) -> None:
    page = visit("#/kernels")
    weight = site.network.model.stem.weight.detach()
    page.locator(".tile").nth(5).click()
    saved_at(page, "channel=5")
    for table, plane in zip(page.locator(".panel table").all(), weight[5], strict=True):
        for line, values in zip(grid(table), plane, strict=True):
            assert all(shows(text, float(value)) for text, value in zip(line, values, strict=True))
    namer = pytest.importorskip("convforge.learned.namer")
    verdicts = namer.name_kernels(weight.numpy())
    tiles = page.locator(".tile").all()
    counted = page.locator(".reading").inner_text()
    for tile, verdict in zip(tiles, verdicts, strict=True):
        named = [] if verdict.name == "unclear" else [verdict.name]
        assert tile.locator("strong").all_inner_texts() == named
    for name in {verdict.name for verdict in verdicts}:
        assert f"{[verdict.name for verdict in verdicts].count(name)} {name}" in counted
    assert counted.count("unclear") <= 2  # said once, and once more what can be said of all of them


def test_deeper_kernels_are_shown_by_input_channel(visit: Callable[..., Any], site: Site) -> None:
    page = visit(f"#/kernels?layer={site.index('dilated')}&channel=3")
    assert page.locator(".tile").count() == 8
    weight = site.network.model.dilated.weight.detach()
    order = weight[3].square().sum((1, 2)).argsort(descending=True).tolist()
    assert page.locator(".tile span").all_inner_texts() == [str(channel) for channel in order]  # the largest first
    assert page.locator(".panel h2").inner_text() == f"Kernel 3, input channel {order[0]}"
    page.get_by_text("By channel").click()
    saved_at(page, "order=channel")
    page.locator(".tile").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    saved_at(page, "input=1")
    for line, values in zip(grid(page.locator(".panel table")), weight[3, 1], strict=True):
        assert all(shows(text, float(value)) for text, value in zip(line, values, strict=True))
    page.locator(".deep canvas").focus()
    page.keyboard.press("ArrowDown")
    saved_at(page, "channel=4")
    page.wait_for_function("() => document.querySelector('.panel h2').textContent === 'Kernel 4, input channel 1'")
    for line, values in zip(grid(page.locator(".panel table")), weight[4, 1], strict=True):
        assert all(shows(text, float(value)) for text, value in zip(line, values, strict=True))


# ---------------------------------------------------------------------------------------------------------------------
# Detects
# ---------------------------------------------------------------------------------------------------------------------


def test_patches_syntheses_and_classes_come_by_themselves(visit: Callable[..., Any], site: Site) -> None:
    last = site.index("twice", 1)
    layers = f"{site.index('stem')},{site.index('dilated')},{last}"
    page = visit(f"#/detects?layers={layers}&channels=1,2,3")
    page.wait_for_selector(".stage:nth-child(2) .patches img", timeout=20000)
    values = [number(text) for text in page.locator(".stage").nth(1).locator(".patches li span").all_inner_texts()]
    best = max(float(site.seen_by(site.network.model.dilated, image)[1][2].max()) for image in range(4))
    assert values[0] == pytest.approx(best, rel=6e-3)
    assert values == sorted(values, reverse=True)
    page.wait_for_function("() => document.querySelectorAll('.ascent-figure img').length === 3", timeout=40000)
    page.wait_for_function("() => document.querySelectorAll('.classes').length === 3", timeout=20000)
    settled(page)
    assert set(page.locator(".stage").first.locator(".classes .name").all_inner_texts()) == {"calm", "lively"}
    maxima = {"calm": [], "lively": []}
    for image in range(4):
        maxima[site.pictures[image].label].append(float(site.seen_by(site.network.model.stem, image)[1][1].max()))
    top = page.locator(".stage").first.locator(".classes .number").first.inner_text()
    assert number(top) == pytest.approx(max(sum(v) / len(v) for v in maxima.values()), rel=6e-3)
    page.locator(".stage").nth(1).locator(".patches a").first.click()
    settled(page)
    page.wait_for_selector(".arithmetic .channel")
    shown = number(page.locator(".result .model .value").get_attribute("title"))
    assert shown == pytest.approx(best, rel=1e-4)


# ---------------------------------------------------------------------------------------------------------------------
# Count
# ---------------------------------------------------------------------------------------------------------------------


def test_counts_are_those_of_the_plan_and_of_the_lesson(visit: Callable[..., Any], site: Site) -> None:
    page = visit(f"#/count?layer={site.index('grouped')}")
    text = page.locator("main").inner_text()
    assert "224 × 224 × 3 × 1,000 = 150,528,000" in text
    assert "3 × 3 × 3 × 64 = 1,728" in text
    assert "87,111" in text
    dense = site.network.plan.rows[site.index("grouped")].dense
    assert f"= {dense.weights:,}" in text
    assert f"= {dense.to_neurons:,}" in text
    assert f"= {dense.same_maps:,}" in text
    page.locator(".sharing canvas").first.focus()
    for _ in range(5):
        page.keyboard.press("ArrowDown")
    saved_at(page, "unit=5")
    assert "Output row 1, column 1" in page.locator(".reading").inner_text()
    assert page.locator(".sharing svg").first.locator("line").count() == 9
    assert page.locator(".sharing svg").last.locator("line").count() == 36


# ---------------------------------------------------------------------------------------------------------------------
# All of them
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_view_opens_in_both_themes_with_words_for_every_picture(
    visit: Callable[..., Any], site: Site, theme: str
) -> None:
    page = visit(f"#/layers?layer={site.index('dilated')}&image=1", theme=theme)
    bright = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]")
    assert (bright > 128) == (theme == "light")
    for view in VIEWS:
        page.locator("nav a", has_text={"maps": "Feature maps"}.get(view, view.capitalize())).first.click()
        page.wait_for_selector(f".view.{view} h1")
        settled(page)
        assert page.locator("nav a[aria-current='page']").count() == 1
        nameless = page.evaluate(
            """() => [...document.querySelectorAll("main button, main canvas, main input, main select, main img")]
                .filter((node) => node.checkVisibility() && !node.closest("[aria-hidden]"))
                .filter((node) => !(node.closest("button") && node.matches("canvas, img")))
                .filter((node) => !(node.ariaLabel || node.alt || node.labels?.length || node.textContent.trim()
                    || (node.matches("img") && node.closest("[aria-label]"))))
                .map((node) => node.outerHTML)"""
        )
        assert nameless == []
        wordless = page.evaluate(
            """() => [...document.querySelectorAll("main canvas[aria-label]")]
                .filter((node) => node.checkVisibility() && !/\\d/.test(node.ariaLabel))
                .map((node) => node.outerHTML)"""
        )
        assert wordless == [], view
    toggled = page.get_by_role("button", name="Light or dark")
    toggled.click()
    assert (page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]") > 128) == (
        theme == "dark"
    )


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nothing_is_cut_off_or_wider_than_the_window(visit: Callable[..., Any], site: Site, theme: str) -> None:
    page = visit("#/slide", theme=theme)
    places = [f"#/{view}?image=1" for view in VIEWS]
    places += [f"#/slide?layer={site.index(name)}" for name in ("dilated", "grouped", "depthwise")]
    places.append(f"#/slide?layer={site.index('stem')}&direction=backward")
    places += [f"#/{view}?layer={site.index('head')}" for view in ("layers", "maps")]
    places += [f"#/kernels?layer={site.index('grouped')}", "#/play?kernel=own&weights=" + ",".join(["-1.2345"] * 49)]
    for place in places:
        page.goto(site.address + place)
        view = place[2:].partition("?")[0]
        page.wait_for_selector(f".view.{view} h1")
        for width in (400, 1024, 1280, 1920):
            page.set_viewport_size({"width": width, "height": 800})
            settled(page)
            cut = page.evaluate(
                """() => [...document.querySelectorAll(`#asked, .card, .channel, .tile, .panel, .tables, .equation,
                        .split > *, .result, .shares`)]
                    .filter((node) => node.checkVisibility() && node.scrollWidth > node.clientWidth)
                    .map((node) => `${node.className || node.id}: ${node.scrollWidth} in ${node.clientWidth}`)"""
            )
            assert cut == [], (place, width)
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (place, width)


def test_an_unknown_address_opens_the_first_view(visit: Callable[..., Any]) -> None:
    page = visit("#/nothing?layer=99999&image=-5&channel=x&row=1e9")
    page.wait_for_selector(".view.slide .channel")
    assert torch.isfinite(torch.tensor(number(page.locator(".result .total .value").inner_text())))


def test_a_job_can_be_cancelled_from_the_page(
    visit: Callable[..., Any], site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def held(progress: Progress, done: int, total: int, what: str = "") -> None:
        """A job that gets no further until somebody cancels it, however fast the machine is."""
        if progress._job is not None:
            progress._job.stop.wait(30)
        reported(progress, done, total, what)

    reported = Progress.__call__
    layers = f"{site.index('stem')},{site.index('dilated')},{site.index('grouped')}"
    before = visit(f"#/detects?layers={layers}&channels=1,1,1")  # what is found for patches is kept, and not held below
    for one in before.locator(".stage").all():
        one.locator(".part").nth(1).locator("img").wait_for(timeout=60000)
    with monkeypatch.context() as slow:
        slow.setattr(Progress, "__call__", held)
        page = visit(f"#/detects?layers={layers}&channels=7,7,7")
        part = page.locator(".stage .part").nth(1)
        for one in page.locator(".stage").all():  # the first is under way, and the others wait for their turns
            one.locator(".part").nth(1).get_by_role("button", name="Cancel").click()
        part.get_by_role("button", name="Synthesise").wait_for()
    assert part.locator("img").count() == 0
    part.get_by_role("button", name="Synthesise").click()
    part.locator("img").wait_for(timeout=30000)
