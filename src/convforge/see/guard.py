"""Who may ask: requests of one user's own browser to this server's own page, of bounded size. Nobody else.

A server on loopback is still within reach of every web page that is open in the same browser. Such a page cannot fake
the Host header, which keeps out names that were made to resolve to this machine (DNS rebinding), nor Origin and
Sec-Fetch-Site, which say that a request comes from elsewhere. Answers carry no permission for other origins, and say
that nothing but this server may be part of the page. Other users of the machine, who can send what they like, do not
know the key.
"""

from __future__ import annotations

import json
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .key import Key

MOST_QUERY, MOST_BODY = 2048, 64 * 1024
_CHANGES = "/api/jobs"
_NO_KEY = "this page is for the user who started it: open the address that the command printed, with the token in it."
_NOTHING: dict[str, str] = {}

HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",  # another network may be at this address tomorrow
}


class Guard:
    """Middleware that lets requests of the page through and refuses all others with one sentence.

    Args:
        app: what is guarded.
        port: of this server.
        key: what requests must bring; None where no socket leads to the application.
        changes: the one address at which, and below which, something may be changed.
    """

    def __init__(self, app: ASGIApp, port: int, key: Key | None, changes: str = _CHANGES) -> None:
        self._app, self._key, self._changes = app, key, changes
        self._hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}
        self._origins = {f"http://{host}" for host in self._hosts}
        if port == 80:
            self._hosts |= {"127.0.0.1", "localhost"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # no WebSockets here
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = _headers(scope)
        refused = self._refused(scope, headers)
        if refused:
            await _answer(send, *refused)
            return
        if self._key is not None:
            if scope["path"] == "/" and self._key.visits(scope["query_string"].decode("latin-1")):
                # To the same page without the token, which would else stay in the history and be shared with a view.
                await _answer(send, 303, "", {"Location": "/", "Set-Cookie": self._key.cookie})
                return
            if not self._key.opens(headers.get("cookie"), headers.get("authorization")):
                await _answer(send, 403, _NO_KEY)
                return
        body = await _read(receive)
        if body is None:
            await _answer(send, 413, _too_long())
            return
        given = False

        async def receive_again() -> Message:
            nonlocal given
            if given:
                return await receive()  # that the client has gone
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_as_bytes(HEADERS)]
            await send(message)

        await self._app(scope, receive_again, send_with_headers)

    def _refused(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str] | None:
        """Status and sentence, if the request is not answered."""
        if headers.get("host", "").lower() not in self._hosts:
            return 403, "this server answers only to its own address on this machine: open the one that it printed."
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        if (origin is not None and origin.lower() not in self._origins) or site not in (None, "same-origin", "none"):
            return 403, "this server answers only its own page."
        if scope["method"] not in ("GET", "HEAD") and not (
            scope["method"] in ("POST", "DELETE") and _is_below(scope["path"], self._changes)
        ):
            return 405, "that method is not allowed at this address."
        if len(scope["query_string"]) > MOST_QUERY or len(scope["path"]) > MOST_QUERY:
            return 414, f"an address has at most {MOST_QUERY} characters here."
        length = headers.get("content-length")
        if length is not None and (not length.isdigit() or len(length) > 9 or int(length) > MOST_BODY):
            return 413, _too_long()
        return None


def _headers(scope: Scope) -> dict[str, str]:
    """By name in small letters; of one that is there several times, all values."""
    headers: dict[str, str] = {}
    for name, value in scope["headers"]:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        between = "; " if key == "cookie" else ", "
        headers[key] = f"{headers[key]}{between}{text}" if key in headers else text
    return headers


async def _read(receive: Receive) -> bytes | None:
    """The whole body, before anything is done with it; None if it is too long, whatever its announced length."""
    body = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return body
        part: bytes = message.get("body", b"")
        body += part
        if len(body) > MOST_BODY:
            return None
        if not message.get("more_body"):
            return body


def _is_below(path: str, place: str) -> bool:
    return path == place or path.startswith(f"{place}/")


def _too_long() -> str:
    return f"a request has at most {MOST_BODY // 1024} KiB here."


def _as_bytes(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]


async def _answer(send: Send, status: int, sentence: str, more: dict[str, str] = _NOTHING) -> None:
    body = json.dumps({"error": sentence}).encode() if sentence else b""
    headers: Any = _as_bytes({"Content-Type": "application/json", "Content-Length": str(len(body)), **HEADERS, **more})
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
