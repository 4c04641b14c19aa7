"""So many requests at a time, in order, and answers in pieces that are together what was answered."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from convforge.see.bounded import PIECE, Bounded

SCOPE = {"type": "http"}


async def nothing() -> dict[str, Any]:
    return {"type": "http.disconnect"}


def test_so_many_are_worked_on_at_a_time_until_their_answers_are_taken_and_none_is_forgotten() -> None:
    working, most, done = 0, 0, []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal working, most
        working += 1
        most = max(most, working)
        await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": b""})
        working -= 1
        done.append(scope["number"])

    async def slow(_: Any) -> None:
        await asyncio.sleep(0.001)

    async def all_at_once() -> None:
        bounded = Bounded(app, at_once=3)
        await asyncio.gather(*(bounded({**SCOPE, "number": n}, nothing, slow) for n in range(50)))

    asyncio.run(all_at_once())
    assert most == 3
    assert sorted(done) == list(range(50))


def test_who_fails_gives_its_turn_on() -> None:
    async def app(*_: Any) -> None:
        raise ZeroDivisionError

    async def twice() -> None:
        bounded = Bounded(app, at_once=1)
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                await asyncio.wait_for(bounded(SCOPE, nothing, nothing), 10)

    asyncio.run(twice())


@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE, 3 * PIECE + 7])
@pytest.mark.parametrize("more", [False, True])
def test_pieces_are_together_what_was_answered(size: int, more: bool) -> None:
    content = bytes(n % 251 for n in range(size))
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": memoryview(content), "more_body": more})

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(Bounded(app)(SCOPE, nothing, send))
    assert sent[0] == {"type": "http.response.start", "status": 200, "headers": []}
    assert b"".join(message["body"] for message in sent[1:]) == content
    assert all(len(message["body"]) <= PIECE for message in sent[1:])
    assert [message["more_body"] for message in sent[1:]] == [True] * (len(sent) - 2) + [more]
