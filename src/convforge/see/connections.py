"""The server's connections: how many there may be, and how long one may keep the server waiting.

uvicorn closes a connection that is idle after an answer, but waits for ever for a request that was begun, and for a
client that does not take its answer. Here every connection must bring a whole request, and take a piece of an answer,
within some seconds, however slowly the bytes come; it may take as long as it likes to be answered.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

PATIENCE = 20.0
"""Seconds until a request must be whole, and until a piece of an answer must be taken."""

MOST_CONNECTIONS = 256
"""At the same time. A browser has six to a server."""

_MOST_HEADERS = 16384


def settings(app: ASGIApp, patience: float = PATIENCE, most: int = MOST_CONNECTIONS) -> uvicorn.Config:
    """How uvicorn serves the page: over HTTP/1.1, in silence, with nothing that waits for ever.

    Args:
        app: what is served.
        patience: seconds, see `PATIENCE`.
        most: connections; who comes when there are so many is told so and sent away.
    """
    kind = type("_Bounded", (_Connection,), {"patience": patience, "most": most})
    return uvicorn.Config(
        app,
        http=kind,
        ws="none",
        log_level="warning",
        server_header=False,
        h11_max_incomplete_event_size=_MOST_HEADERS,
    )


class _Connection(H11Protocol):
    """One connection, as uvicorn keeps it, with two alarms."""

    patience: float
    most: int
    _unasked: asyncio.TimerHandle | None = None
    _untaken: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.most:
            transport.write(_full(self.most))
            transport.close()
        self._expect_a_request()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        super().data_received(data)
        self._expect_a_request()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._expect_a_request()

    def connection_lost(self, exc: Exception | None) -> None:
        for alarm in (self._unasked, self._untaken):
            if alarm is not None:
                alarm.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._untaken = self.loop.call_later(self.patience, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._untaken is not None:
            self._untaken.cancel()

    def _expect_a_request(self) -> None:
        """The alarm is on from when a request can begin until it is whole; what comes meanwhile does not put it off."""
        expected = self.conn.their_state in (h11.IDLE, h11.SEND_BODY, h11.ERROR)
        if not expected and self._unasked is not None:
            self._unasked.cancel()
            self._unasked = None
        elif expected and self._unasked is None:
            self._unasked = self.loop.call_later(self.patience, self.transport.abort)


def _full(most: int) -> bytes:
    sentence = f"{most} connections are open, which is all that this server takes: close some pages, and try again."
    body = json.dumps({"error": sentence}).encode()
    head: list[Any] = [
        b"HTTP/1.1 503 Service Unavailable",
        b"Content-Type: application/json",
        b"Content-Length: %d" % len(body),
        b"Connection: close",
    ]
    return b"\r\n".join([*head, b"", body])
