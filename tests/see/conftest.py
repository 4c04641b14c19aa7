"""The page in a real browser: the server on a free port, Debian's chromium, and nothing but the two of them.

A test fails on any error on the console, on any exception in the page, and on any request that goes elsewhere.
"""

from __future__ import annotations

import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest
import torch
from torch import Tensor, nn

from convforge.see.network import Network
from convforge.see.pictures import Pictures

from .networks import SHAPE, Kinds, opened, photographs

CHROMIUM = os.environ.get("CONVFORGE_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
MEAN, STD = (0.5,) * 3, (0.25,) * 3
CLASSES = ("calm", "lively", "still", "loud", "wet")


@dataclass
class Site:
    """A server that runs, and what it serves."""

    address: str
    token: str
    network: Network
    pictures: Pictures

    @property
    def entrance(self) -> str:
        """The address that a browser opens first."""
        return f"{self.address}?token={self.token}"

    def index(self, name: str, nth: int = 0) -> int:
        """The number of the layer that is called so."""
        return [layer.index for layer in self.network.layers if layer.name == name][nth]

    def seen_by(self, module: nn.Module, image: int = 0) -> tuple[Tensor, Tensor]:
        """What a module is given and what it makes of an image, the first time that it is called."""
        found: list[tuple[Tensor, Tensor]] = []
        with self.network.turns.request(), torch.no_grad():  # or else it might be a call of one of the server's jobs
            hook = module.register_forward_hook(lambda _, given, made: found.append((given[0].clone(), made.clone())))
            self.network.model(self.pictures.input(image)[None])
            hook.remove()
        return found[0][0][0], found[0][1][0]


class Serving:
    """`create_app` behind uvicorn in a thread, until `stop`."""

    def __init__(self, network: Network, pictures: Pictures, **bounds: Any) -> None:
        import uvicorn

        from convforge.see.connections import settings
        from convforge.see.key import Key
        from convforge.see.server import create_app
        from convforge.see.shelf import Shelf

        self.listener = socket.socket()
        self.listener.bind(("127.0.0.1", 0))
        port = self.listener.getsockname()[1]
        key = Key(port)
        self.site = Site(f"http://127.0.0.1:{port}/", key.token, network, pictures)
        self.server = uvicorn.Server(settings(create_app(network, pictures, port, key, Shelf(None)), **bounds))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.listener]}, daemon=True)
        self.thread.start()
        deadline = time.monotonic() + 30
        while not self.server.started and time.monotonic() < deadline:
            time.sleep(0.02)
        assert self.server.started, "the server has not started"

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(20)
        self.listener.close()


@pytest.fixture(scope="session")
def chromium() -> str:
    """Where chromium is; skips, and says why, where it or playwright is not installed."""
    pytest.importorskip("playwright.sync_api", reason="the page's tests need playwright: pip install playwright")
    if CHROMIUM is None:
        pytest.skip("the page's tests need chromium: apt install chromium, or name it in CONVFORGE_CHROMIUM")
    return CHROMIUM


# Not for the whole session: while playwright's loop is there, other tests cannot have one of their own.
@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory, chromium: str) -> Iterator[Site]:
    """The network of every kind of convolution, with two classes of two images each."""
    folder = photographs(tmp_path_factory.mktemp("site") / "photographs")
    for name, files in (("calm", ("wide.png", "grey.png")), ("lively", ("tall.jpg", "clear.webp"))):
        (folder / name).mkdir()
        for file in files:
            (folder / file).rename(folder / name / file)
    serving = Serving(opened(Kinds, classes=CLASSES), Pictures([folder], SHAPE, MEAN, STD, labels=True))
    yield serving.site
    serving.stop()


@dataclass
class Watched:
    """Pages that are looked over: what must not happen in them is written down."""

    browser: Any
    allowed: str
    wrong: list[str] = field(default_factory=list)
    contexts: list[Any] = field(default_factory=list)
    expected: list[str] = field(default_factory=list)
    """Words of the console's messages that are no fault; they may come at any moment, also when the test is over."""

    def open(self, address: str, theme: str = "light", width: int = 1280, height: int = 800) -> Any:
        context = self.browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=theme, reduced_motion="reduce"
        )
        self.contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(8000)
        page.on("console", lambda message: message.type in ("error", "warning") and self.wrong.append(message.text))
        page.on("pageerror", lambda error: self.wrong.append(str(error)))
        page.on("request", self.request)
        page.goto(address)
        return page

    def request(self, request: Any) -> None:
        parts = urlsplit(request.url)
        if parts.scheme not in ("data", "blob") and not request.url.startswith(self.allowed):
            self.wrong.append(f"request to {request.url}")


@pytest.fixture
def watched(browser: Any, site: Site) -> Iterator[Watched]:
    watched = Watched(browser, site.address)
    yield watched
    for context in watched.contexts:
        context.close()
    assert not [line for line in watched.wrong if not any(words in line for words in watched.expected)]


@pytest.fixture
def visit(watched: Watched, site: Site) -> Callable[..., Any]:
    """`visit("#/slide?layer=0")` opens the page there, and waits until the view has its numbers."""

    def visit(address: str = "", **settings: Any) -> Any:
        page = watched.open(site.entrance + address, **settings)
        settled(page)
        return page

    return visit


_QUIET = """async () => {
  const busy = () => document.querySelector("[aria-busy]") || document.documentElement.hasAttribute("data-asking");
  for (let still = 0; still < 3; still = busy() ? 0 : still + 1) await new Promise((next) => setTimeout(next, 15));
}"""


def settled(page: Any) -> None:
    """Waits until the view is there and nothing is being loaded."""
    page.wait_for_selector("main .view")
    page.evaluate(_QUIET)


def number(text: str) -> float:
    """A number as the page writes it.

    >>> number("−1,234.5"), number("1.2 × 10⁻⁷")
    (-1234.5, 1.2e-07)
    """
    text = text.replace("−", "-").replace(",", "").strip()
    if "×" in text:
        factor, power = text.split("×")
        digits = power.strip()[2:].translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789"))
        return float(f"{factor.strip()}e{digits}")
    return float(text)


def shows(text: str, value: float) -> bool:
    """Whether what is written is the value, rounded to as many digits as are written."""
    if "×" in text:
        return number(text) == pytest.approx(value, rel=0.06)
    decimals = len(text.partition(".")[2])
    return abs(number(text) - value) <= 0.5001 * 10.0**-decimals + 1e-6 * abs(value)


def grid(table: Any) -> list[list[str]]:
    """The texts of a table of numbers."""
    return table.evaluate(
        "t => [...t.rows].map(r => [...r.cells].map(c => c.querySelector('input')?.value ?? c.textContent))"
    )


def saved_at(page: Any, part: str) -> None:
    """Waits until the address holds `part`: a cursor that moves is written down with a short delay."""
    page.wait_for_function("part => location.hash.includes(part)", arg=part)
