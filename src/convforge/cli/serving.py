"""A page on this machine, for `see` and `relabel`: its address with a token in it, a browser, and the end at Ctrl-C."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

import typer

from ..errors import UserError
from ..shown import shown

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import ASGIApp

    from ..see.key import Key


def serve(app_of: Callable[[int, Key], ASGIApp], what: str, port: int, browser: bool) -> None:
    """Serve until Ctrl-C.

    Args:
        app_of: makes the application, for a port and the key that requests must bring.
        what: is there, for the line with the address.
        port: 0 takes any that is free.
        browser: whether to open the page in one.
    """
    import uvicorn

    from ..see.connections import settings
    from ..see.key import Key

    listener = _listen(port)
    with listener:
        port = listener.getsockname()[1]
        key = Key(port)
        address = f"http://127.0.0.1:{port}/?token="
        app = app_of(port, key)
        typer.echo(shown(f"{what} {address}{key.token}  (Ctrl-C ends it)"))
        server = uvicorn.Server(settings(app))
        if browser:
            threading.Thread(target=_open_browser, args=(address + key.once(),), daemon=True).start()
        server.run(sockets=[listener])


def _open_browser(address: str) -> None:
    import webbrowser

    try:
        browser = webbrowser.get()
    except webbrowser.Error:
        return
    # Text browsers, which are of this very class, would take the terminal for themselves.
    if type(browser) is not webbrowser.GenericBrowser:
        browser.open(address)


def _listen(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
        listener.listen()  # whoever comes before the server has started waits
    except OSError as reason:
        listener.close()
        raise UserError(
            f"port {port} cannot be had ({reason.strerror}): choose another with --port, or 0 for any that is free."
        ) from reason
    return listener
