"""The page's server under everything at once: whatever it is asked, and however, its answers are plain and bounded."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from PIL import Image
from schemathesis.generation import GenerationMode
from see.networks import SHAPE, Kinds, opened, photographs

from convforge.see.key import Key
from convforge.see.pictures import Pictures
from convforge.see.server import create_app
from convforge.see.shelf import Shelf

from .conftest import Soak

PORT = 8642

# ---------------------------------------------------------------------------------------------------------------------
# Whatever it is asked
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.name.lower())
def test_whatever_is_asked_is_answered_plainly(soak: Soak, tmp_path: Path, mode: GenerationMode) -> None:
    """Requests that fit the API's description, and requests that do not, drawn by schemathesis."""
    network = opened(Kinds)
    key = Key(PORT)
    app = create_app(
        network, Pictures([photographs(tmp_path)], SHAPE, network.mean, network.std), PORT, key, Shelf(None)
    )
    described = app.openapi()
    # The page's own files: any path at all, which are not there.
    described["paths"] = {path: what for path, what in described["paths"].items() if path.startswith("/api/")}
    assert len(described["paths"]) > 10
    schema = schemathesis.openapi.from_dict(described)
    headers = {"Authorization": f"Bearer {key.token}", "Host": f"127.0.0.1:{PORT}"}
    cancel = schema["/api/jobs/{id}"]["DELETE"]
    for found in schema.get_all_operations():
        operation = found.ok()

        @settings(
            max_examples=soak.length(2, 300),
            phases=[Phase.generate],  # failures are noted, and not made small
            suppress_health_check=list(HealthCheck),
            database=None,
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case: Any) -> None:
            with soak.case(case.as_curl_command()):
                answer = case.call(app=app, base_url=f"http://127.0.0.1:{PORT}", headers=headers)
                assert answer.status_code in (200, 400, 403, 404, 405, 413, 414), answer.status_code
                if answer.status_code != 200:
                    sentence = answer.json()["error"]
                    assert sentence.endswith("."), sentence
                    assert "Traceback" not in sentence, sentence
                elif case.path == "/api/jobs":  # begun, and not waited for
                    cancelled = cancel.Case(path_parameters={"id": answer.json()["id"]})
                    cancelled.call(app=app, base_url=f"http://127.0.0.1:{PORT}", headers=headers)

        # An operation that takes nothing cannot be asked wrongly.
        with contextlib.suppress(Unsatisfiable if mode is GenerationMode.NEGATIVE else ()):
            ask()


# ---------------------------------------------------------------------------------------------------------------------
# However it is asked
# ---------------------------------------------------------------------------------------------------------------------


class Server:
    """`convforge see` in a process of its own, on a free port."""

    def __init__(self, folder: Path) -> None:
        code = "from convforge.cli import main; main()"
        line = "conv 8 3x3 same, relu, pool 2, conv 16 3x3 same, relu, gap, linear 2"
        words = ["see", line, str(folder), "--input", "3x224x224", "--port", "0", "--no-browser"]
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:(\d+)/\?token=(\S+)", self.process.stdout.readline())
        assert found is not None
        self.port, self.headers = int(found[1]), {"Authorization": f"Bearer {found[2]}"}

    def ask(self, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        with contextlib.closing(connection):
            connection.request("GET", path, headers=self.headers)
            answer = connection.getresponse()
            return answer.status, answer.read()

    def memory(self, key: str) -> int:
        """Bytes: VmRSS is what there is, VmHWM the most that there was."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

    def stop(self) -> str:
        """What it has written about errors."""
        self.process.terminate()
        return self.process.communicate(timeout=60)[1]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    for n in range(3):
        noise = np.random.default_rng(n).integers(0, 256, (300, 400, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / f"small{n}.png")
    for name in ("one", "two"):
        Image.new("RGB", (4500, 4500), (120, 60, 30)).save(tmp_path / f"vast{name}.png", compress_level=1)
    server = Server(tmp_path)
    yield server
    server.process.kill()
    server.process.communicate()


def asked_by(client: int) -> list[str]:
    """What one of many clients asks for: sizes that nobody else has asked for, so that nothing is at hand."""
    side = 16 + client % 400
    return [
        f"/api/images/{3 + client % 2}?view=thumb&side={side}",
        "/",
        f"/api/layers/{client % 2 * 3}/maps?image={client % 5}",
        f"/api/layers/0/maps/values?image={client % 5}&first=0&count=8",
        f"/api/images/{client % 3}?view=original",
        f"/api/layers/0/slide/values?image={client % 5}&channel={client % 8}&padding={client % 7}",
        "/api/network",
        "/api/nothing",
    ]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_many_clients_of_all_kinds_are_served_within_bounds(soak: Soak, server: Server) -> None:
    for path in asked_by(399):  # whatever is loaded and compiled once
        server.ask(path)
    before = server.memory("VmRSS")
    clients, asleep = soak.length(10, 160), soak.length(6, 20)  # together fewer than the server refuses
    answers: list[tuple[str, int, bytes]] = []

    def client(number: int) -> None:
        for path in asked_by(number):
            answers.append((path, *server.ask(path)))

    with contextlib.ExitStack() as stack:
        for n in range(asleep):  # they begin, and do not go on
            half = stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            half.sendall(b"GET /api/network HTTP/1.1\r\nHost: 127"[: n % 40])
            slow = stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            lines = ["GET /api/images/0?view=original HTTP/1.1", f"Host: 127.0.0.1:{server.port}"]
            lines += [f"{name}: {value}" for name, value in server.headers.items()]
            slow.sendall("\r\n".join([*lines, "", ""]).encode())  # and never reads
        threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for path, status, content in answers:
        with soak.case(path):
            assert status == (404 if path == "/api/nothing" else 200), content[:200]
    with soak.case("every client has had all its answers"):
        assert len(answers) == clients * len(asked_by(0))
    taken = server.memory("VmHWM") - before
    soak.figure("memory", f"{taken / 2**20:.0f} MiB")
    with soak.case("memory"):
        # 384 MiB of pictures that are being decoded, and what is kept of the answers.
        assert taken < 640 * 2**20, f"{taken / 2**20:.0f} MiB"
    with soak.case("still there, and nothing went wrong"):
        status, content = server.ask("/api/network")
        assert status == 200
        assert json.loads(content)["images"]
        assert "Traceback" not in server.stop()
