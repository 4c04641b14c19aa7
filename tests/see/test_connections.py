"""Connections that keep the server waiting are closed, those that do not are not, and there are never too many.

The server's patience is short here; that a connection is closed is seen by its end, however long that takes.
"""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from convforge.see.pictures import Pictures

from .conftest import MEAN, STD, Serving, Site
from .networks import Kinds, opened

PATIENCE, MOST = 1.0, 8
SIDE = 1600  # of noise, whose PNG is far larger than what a socket's buffers take


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    file = tmp_path_factory.mktemp("noise") / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(file, compress_level=0)
    return Pictures([file], (3, 48, 40), MEAN, STD)


@pytest.fixture(scope="module")
def serving(noise: Pictures) -> Iterator[Serving]:
    serving = Serving(opened(Kinds), noise, patience=PATIENCE, most=MOST)
    yield serving
    serving.stop()


@pytest.fixture
def hasty(serving: Serving) -> Site:
    """A server that waits for a second, and takes eight connections."""
    return serving.site


def connected(site: Site) -> socket.socket:
    parts = urlsplit(site.address)
    assert parts.hostname is not None
    return socket.create_connection((parts.hostname, parts.port or 80), timeout=30)


def head(site: Site, request: str, *more: str) -> bytes:
    lines = [f"{request} HTTP/1.1", f"Host: {urlsplit(site.address).netloc}", f"Authorization: Bearer {site.token}"]
    return "\r\n".join([*lines, *more, "", ""]).encode()


def until_it_ends(connection: socket.socket) -> bytes:
    """What else comes; raises TimeoutError if the server does not close the connection."""
    found = b""
    try:
        while part := connection.recv(2**16):
            found += part
    except ConnectionResetError:
        pass
    return found


def network_of(site: Site) -> int:
    """The status of an answer to a client that behaves."""
    connection = http.client.HTTPConnection(urlsplit(site.address).netloc, timeout=30)
    connection.request("GET", "/api/network", headers={"Authorization": f"Bearer {site.token}"})
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status


@pytest.mark.parametrize(
    "begin",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"GET /api/net", id="half a line"),
        pytest.param(b"GET /api/network HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ", id="half a header"),
    ],
)
def test_a_request_that_is_not_finished_is_closed(hasty: Site, begin: bytes) -> None:
    with connected(hasty) as connection:
        connection.sendall(begin)
        assert until_it_ends(connection) == b""
    assert network_of(hasty) == 200


def test_a_body_that_is_not_finished_is_closed(hasty: Site) -> None:
    with connected(hasty) as connection:
        connection.sendall(head(hasty, "POST /api/jobs", "Content-Type: application/json", "Content-Length: 60000"))
        connection.sendall(b"{")
        assert b"200 OK" not in until_it_ends(connection)


def test_a_client_that_sends_a_byte_now_and_then_is_closed(hasty: Site) -> None:
    request = head(hasty, "GET /api/network", "X-Long: " + "a" * 4000)[:60]
    with connected(hasty) as connection, pytest.raises((ConnectionResetError, BrokenPipeError)):
        for byte in request:
            connection.sendall(bytes([byte]))
            time.sleep(PATIENCE / 4)


def test_a_second_request_that_is_not_finished_is_closed(hasty: Site) -> None:
    with connected(hasty) as connection:
        connection.sendall(head(hasty, "GET /theme.js") + b"GET /")
        answer = until_it_ends(connection)
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert answer.count(b"HTTP/1.1") == 1


def test_a_client_that_does_not_take_its_answer_is_closed(hasty: Site, serving: Serving) -> None:
    with connected(hasty) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
        connection.sendall(head(hasty, "GET /api/images/0?view=original"))
        connection.recv(1)  # it has begun to answer
        deadline = time.monotonic() + 30
        while serving.server.server_state.connections and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not serving.server.server_state.connections
        assert len(until_it_ends(connection)) < SIDE * SIDE * 3


def test_a_client_that_takes_its_answer_slowly_gets_all_of_it(noise: Pictures) -> None:
    patience = 3.0
    patient = Serving(opened(Kinds), noise, patience=patience)
    connection = http.client.HTTPConnection(urlsplit(patient.site.address).netloc, timeout=30)
    connection.request("GET", "/api/images/0?view=original", headers={"Authorization": f"Bearer {patient.site.token}"})
    answer = connection.getresponse()
    taken = 0
    while part := answer.read(2**18):  # all of it takes longer than the server's patience, no piece of it does
        taken += len(part)
        time.sleep(patience / 20)
    assert taken == int(str(answer.getheader("content-length"))) > SIDE * SIDE * 3
    connection.close()
    patient.stop()


def test_there_are_never_more_connections_than_the_server_takes(hasty: Site) -> None:
    connections = [connected(hasty) for _ in range(MOST + 4)]
    told = [found for found in map(until_it_ends, connections) if found]
    for connection in connections:
        connection.close()
    assert len(told) >= 4
    for answer in told:
        lines, _, body = answer.partition(b"\r\n\r\n")
        assert lines.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        assert f"{MOST} connections are open" in json.loads(body)["error"]
    assert network_of(hasty) == 200  # all of them were closed in the end


def test_an_answer_may_take_longer_than_the_server_waits_for_a_request(
    hasty: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(number: int, side: int) -> bytes:
        time.sleep(3 * PATIENCE)
        return b"at last"

    monkeypatch.setattr(hasty.pictures, "thumbnail", slow)
    with connected(hasty) as connection:
        connection.sendall(head(hasty, "GET /api/images/0?view=thumb"))
        assert until_it_ends(connection).endswith(b"at last")
