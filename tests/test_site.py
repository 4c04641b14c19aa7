"""The site that `make docs` builds: strictly, with every page, and in a browser on a phone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from html import unescape
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import typer

import convforge
from convforge.cli import app

ROOT = Path(__file__).parents[1]
CHROMIUM = os.environ.get("CONVFORGE_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
PHONE = {"width": 400, "height": 800}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make docs` makes. A page that is in no menu, a link or an anchor that leads nowhere would fail it."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


def text_of(page: Path) -> str:
    """What a page says, without its markup."""
    return unescape(re.sub(r"<[^>]+>", "", page.read_text(encoding="utf-8")))


def test_every_page_is_there(site: Path) -> None:
    written = {file.relative_to(ROOT / "docs").with_suffix(".html") for file in (ROOT / "docs").rglob("*.md")}
    made = {Path("index.html"), Path("command.html"), Path("python.html"), Path("CONTRIBUTING.html")}
    assert len(written) > 7
    for page in written | made:
        assert len(text_of(site / page)) > 1000, page
    assert (site / "tour.ipynb").exists()


def test_links_from_one_folder_to_another_are_right_on_both_sides(site: Path) -> None:
    """In the repository README is above docs/, on the site beside its pages."""
    assert 'href="guides/pytorch.html"' in (site / "index.html").read_text(encoding="utf-8")
    assert 'src="see/slide.png"' in (site / "index.html").read_text(encoding="utf-8")
    assert 'href="../CONTRIBUTING.html"' in (site / "guides" / "understanding.html").read_text(encoding="utf-8")
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *(ROOT / "docs").rglob("*.md")]:
        for link in re.findall(r'\]\(([^)#:]+)[^):]*\)|src="([^"]+)"', page.read_text(encoding="utf-8")):
            assert (page.parent / "".join(link)).exists(), (page, link)


def test_every_verb_with_its_options_is_described(site: Path) -> None:
    words = text_of(site / "command.html")
    program: Any = typer.main.get_command(app)
    for name, verb in program.commands.items():
        _, _, rest = words.partition(f"$ convforge {name} ")
        described, _, _ = rest.partition("$ convforge ")
        for parameter in verb.params:
            for option in parameter.opts if parameter.param_type_name == "option" else ():
                assert option in described, (name, option)
    assert "[bold]" not in words
    assert "[cyan]" not in words


def test_every_public_name_is_described(site: Path) -> None:
    page = (site / "python.html").read_text(encoding="utf-8")
    headings = text_of(site / "python.html").splitlines()
    assert {name for name in convforge.__all__ if not any(f"convforge.{name}" in line for line in headings)} == set()
    assert "&gt;&gt;&gt;" in page  # examples are code
    assert "<blockquote>" not in page  # and no quotation of a quotation of a quotation


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """Where the site is served."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def phone() -> Iterator[Any]:
    """A page in a browser of a phone's width."""
    if CHROMIUM is None:
        pytest.skip("there is no chromium: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, of the extra dev")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser.new_context(viewport=PHONE).new_page()
        browser.close()


def test_each_page_can_be_read_on_a_phone(site: Path, address: str, phone: Any) -> None:
    """None is wider than the screen, every picture is there, and nothing is asked for of any other place."""
    wrong: list[str] = []
    left = "net::ERR_ABORTED"  # what is still on its way when the next page is opened
    phone.on("requestfailed", lambda request: wrong.append(request.url) if request.failure != left else None)
    phone.on("request", lambda request: wrong.append(request.url) if not request.url.startswith(address) else None)
    phone.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    pages = [file.relative_to(site).as_posix() for file in site.rglob("*.html") if file.name != "404.html"]
    assert len(pages) > 12
    for page in pages:
        phone.goto(address + page)
        width, missing = phone.evaluate(
            "[document.documentElement.scrollWidth, [...document.images].filter(i => !i.naturalWidth).map(i => i.src)]"
        )
        assert (page, width, missing, wrong) == (page, PHONE["width"], [], [])


def test_it_is_light_or_dark_as_the_system_is(address: str, phone: Any) -> None:
    grounds = {}
    for scheme in ("light", "dark"):
        phone.emulate_media(color_scheme=scheme)
        phone.goto(f"{address}tour.html")
        colour = phone.evaluate("getComputedStyle(document.body).backgroundColor")
        grounds[scheme] = sum(map(int, re.findall(r"\d+", colour)[:3]))
    assert grounds["light"] > 3 * 230
    assert grounds["dark"] < 3 * 50


def test_it_can_be_searched(address: str, phone: Any) -> None:
    phone.goto(f"{address}index.html")
    phone.locator("label[for=__search].md-header__button").click()
    phone.locator("input.md-search__input").press_sequentially("fingerprint")
    phone.locator(".md-search-result__link").first.wait_for()
    found = phone.eval_on_selector_all(".md-search-result__link", "links => links.map(link => link.pathname)")
    assert any(link.startswith("/promises.html") for link in found)
