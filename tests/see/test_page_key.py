"""The token in a real browser: once in the address, then nowhere to be seen, and nothing without it."""

from __future__ import annotations

import json
from typing import Any

from .conftest import Site, Watched, settled


def test_the_token_leaves_the_address_and_views_keep_theirs(watched: Watched, site: Site) -> None:
    page = watched.open(site.entrance + "#/maps?layer=3")
    settled(page)
    assert page.url.startswith(f"{site.address}#/maps?layer=3")
    assert page.evaluate("document.cookie") == ""  # out of reach of scripts
    page.reload()
    settled(page)
    assert page.locator("main .view.maps").count() == 1

    bookmark = page.context.new_page()  # in the same browser
    bookmark.goto(f"{site.address}#/layers")
    settled(bookmark)
    assert bookmark.locator("main .view.layers").count() == 1


def test_another_browser_is_told_where_the_address_is(browser: Any, site: Site) -> None:
    context = browser.new_context()
    page = context.new_page()
    answer = page.goto(f"{site.address}#/layers")
    assert answer.status == 403
    assert "open the address that the command printed" in json.loads(answer.text())["error"]
    context.close()
