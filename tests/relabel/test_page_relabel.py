"""The page in Chromium: keys decide, and what they decided is in the file."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from see.conftest import Watched

from convforge.images import decisions
from convforge.images.decisions import Decision
from convforge.relabel.server import Desk, create_app

from .conftest import WRONG


@contextmanager
def served(desk: Desk) -> Iterator[tuple[str, str]]:
    """The page's address and the token."""
    import uvicorn

    from convforge.see.connections import settings
    from convforge.see.key import Key

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        key = Key(port)
        server = uvicorn.Server(settings(create_app(desk, port, key)))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        deadline = time.monotonic() + 30
        while not server.started and time.monotonic() < deadline:
            time.sleep(0.02)
        yield f"http://127.0.0.1:{port}/", key.token
        server.should_exit = True
        thread.join(20)


@pytest.fixture
def serving(desk: Desk) -> Iterator[tuple[str, str]]:
    with served(desk) as address:
        yield address


@pytest.fixture
def watched(browser: Any, serving: tuple[str, str]) -> Iterator[Watched]:
    watched = Watched(browser, serving[0])
    yield watched
    for context in watched.contexts:
        context.close()
    assert not [line for line in watched.wrong if not any(words in line for words in watched.expected)]


@pytest.fixture
def visit(watched: Watched, serving: tuple[str, str]) -> Callable[..., Any]:
    def visit(**settings: Any) -> Any:
        page = watched.open(f"{serving[0]}?token={serving[1]}", **settings)
        page.wait_for_selector("main[data-ready]")
        return page

    return visit


def name(page: Any) -> str:
    return str(page.locator("figcaption strong").inner_text())


def pressed(page: Any, key: str) -> None:
    """Presses a key that decides, and waits until the next image is there."""
    before = page.locator("#progress").inner_text()
    page.keyboard.press(key)
    page.wait_for_function("before => document.getElementById('progress').textContent !== before", arg=before)


def test_keys_decide_and_each_is_written_at_once(visit: Callable[..., Any], desk: Desk, folder: Path) -> None:
    page = visit()
    names = [suspect.image.name for suspect in desk.suspects]
    assert name(page) == names[0]
    other = {"bright": "dark", "dark": "bright"}[desk.suspects[0].image.was]
    assert page.locator("h1").inner_text() == f"{desk.suspects[0].image.was}, or {other}?"
    pressed(page, str(1 + ["bright", "dark"].index(other)))
    assert decisions.read(folder)[names[0]] == Decision(desk.suspects[0].image.was, other)
    assert name(page) == names[1]
    pressed(page, "x")
    assert decisions.read(folder)[names[1]].now is None
    pressed(page, "Enter")
    assert decisions.read(folder)[names[2]] == Decision(desk.suspects[2].image.was, desk.suspects[2].image.was)
    assert page.locator("#progress").inner_text() == "3 of 7 decided: 1 relabelled, 1 left out, 1 kept"
    page.keyboard.press("ArrowLeft")
    assert name(page) == names[2]
    pressed(page, "u")
    assert names[2] not in decisions.read(folder)
    assert name(page) == names[2]
    page.close()  # and nothing is lost
    assert set(decisions.read(folder)) == set(WRONG)
    again = visit()
    assert name(again) == names[2]
    assert again.locator("#progress").inner_text() == "2 of 7 decided: 1 relabelled, 1 left out, 0 kept"
    assert again.locator(".tile .mark:visible").count() == 2


def test_the_mouse_does_it_too_and_the_end_is_said(visit: Callable[..., Any], desk: Desk, folder: Path) -> None:
    page = visit()
    page.locator(".tile").nth(4).click()
    assert name(page) == desk.suspects[4].image.name
    pressed(page, "Enter")  # the key is for the image, though a tile was clicked
    assert decisions.read(folder)[desk.suspects[4].image.name].now == desk.suspects[4].image.was
    for _ in range(6):
        before = page.locator("#progress").inner_text()
        page.locator("#out").click()
        page.wait_for_function("before => document.getElementById('progress').textContent !== before", arg=before)
    assert len(decisions.read(folder)) == 7
    assert page.locator(".notice").inner_text().startswith("All 7 images are decided.")


def test_what_cannot_be_written_is_said_and_the_image_stays(
    visit: Callable[..., Any], watched: Watched, folder: Path
) -> None:
    page = visit()
    before = name(page)
    decisions.file_of(folder).write_text("mine", encoding="utf-8")
    watched.expected.append("status of 400")
    page.keyboard.press("Enter")
    page.wait_for_selector("[role='alert']")
    assert "does not hold decisions about images" in page.locator("[role='alert']").inner_text()
    assert name(page) == before
    assert decisions.file_of(folder).read_text(encoding="utf-8") == "mine"


def test_of_many_classes_digits_are_the_networks_answers_and_any_can_be_typed(
    browser: Any, desk: Desk, folder: Path
) -> None:
    classes = (*desk.classes, *(f"kind {letter}" for letter in "abcdefghijk"))
    ranking = tuple((name, 2.0**-rank) for rank, name in enumerate(reversed(classes), 1))
    many = [replace(suspect, ranking=ranking) for suspect in desk.suspects]
    with served(Desk(folder, "run", classes, many, desk.pictures)) as (address, token):
        watched = Watched(browser, address)
        page = watched.open(f"{address}?token={token}")
        page.wait_for_selector("main[data-ready]")
        pressed(page, "2")
        assert decisions.read(folder)[many[0].image.name].now == "kind j"
        page.keyboard.press("/")
        page.keyboard.type("kind")
        page.keyboard.press("Enter")  # eleven begin so: nothing is decided
        page.keyboard.press("Control+A")
        page.keyboard.type("KIND C")
        pressed(page, "Enter")
        assert decisions.read(folder)[many[1].image.name].now == "kind c"
        assert len(decisions.read(folder)) == 2
        for context in watched.contexts:
            context.close()
        assert watched.wrong == []


def test_card_and_list_say_what_the_run_did_with_an_image(visit: Callable[..., Any], desk: Desk) -> None:
    page = visit()
    assert {suspect.part for suspect in desk.suspects} == {"held out", "learned from"}
    words = {"held out": "The run held it out", "learned from": "The run has learned from it"}
    for number, suspect in enumerate(desk.suspects):
        tile = page.locator(".tile").nth(number)
        assert suspect.part is not None
        assert tile.locator(".seen-as").inner_text() == suspect.part.removesuffix(" from")
        assert f"{suspect.image.name}, {suspect.part}" in (tile.get_attribute("aria-label") or "")
        tile.click()
        assert page.locator(".says.seen-as").inner_text().startswith(words[suspect.part])


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1024, 1280, 1920])
def test_nothing_is_clipped(visit: Callable[..., Any], width: int, theme: str) -> None:
    page = visit(width=width, theme=theme)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    wide = page.evaluate(
        """() => [...document.querySelectorAll("header *, .desk *:not(.hidden), .saved, .strip h2")]
          .filter((node) => node.scrollWidth > node.clientWidth + 1 && getComputedStyle(node).display !== "inline")
          .map((node) => node.outerHTML.slice(0, 80))"""
    )
    assert wide == []
    wrapped = page.evaluate(
        """() => [...document.querySelectorAll(".answers .share, .tile .seen-as")]
          .filter((node) => node.getBoundingClientRect().height > 1.9 * parseFloat(getComputedStyle(node).fontSize)
            || node.scrollWidth > node.clientWidth).map((node) => node.textContent)"""
    )
    assert wrapped == []
    outside = page.evaluate(
        """() => [...document.querySelectorAll("button, h1, p, .answers > *")]
          .filter((node) => node.getBoundingClientRect().right > innerWidth + 1).map((node) => node.outerHTML)"""
    )
    assert outside == []
