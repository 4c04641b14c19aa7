"""What all requests together take of the machine: so many are worked on at a time, and answers leave in pieces.

A browser asks for six things at a time. Hundreds of clients would hold an answer each, of up to 64 MiB and several
times, since what is written at once is copied on its way to the network. Whoever has to wait here has only asked yet,
which takes next to nothing.
"""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

AT_ONCE = 12
"""Requests that are worked on at the same time, until their answers have been taken."""

PIECE = 256 * 1024
"""Bytes of an answer that are written at once: a client's pace is seen by them."""


class Bounded:
    """Middleware that lets requests through as others are done, in the order of their arrival.

    Args:
        app: what answers.
        at_once: requests.
    """

    def __init__(self, app: ASGIApp, at_once: int = AT_ONCE) -> None:
        self._app, self._turns = app, asyncio.Semaphore(at_once)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_in_pieces(message: Message) -> None:
            content = memoryview(message.get("body", b""))
            last = max(0, len(content) - 1) // PIECE * PIECE
            for begin in range(0, last, PIECE):
                piece = bytes(content[begin : begin + PIECE])
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({**message, "body": bytes(content[last:])} if content else message)

        async with self._turns:
            await self._app(scope, receive, send_in_pieces)
