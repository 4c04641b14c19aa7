"""Jobs over HTTP: begun, asked for, cancelled, and answered at once where the answer is known."""

from __future__ import annotations

import threading
import time
from base64 import b64decode
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from convforge.see.network import Network
from convforge.see.pictures import Pictures
from convforge.see.server import create_app
from convforge.see.server_jobs import _note
from convforge.see.shelf import Shelf

from .networks import SHAPE, Kinds, opened, photographs


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    network = opened(Kinds)
    pictures = Pictures([photographs(tmp_path / "photographs")], SHAPE, network.mean, network.std)
    with serving(network, pictures) as client:
        yield client


def serving(network: Network, pictures: Pictures) -> TestClient:
    """To be used in a `with`: its thread ends with the block."""
    return TestClient(create_app(network, pictures, 80, None, Shelf(None)), base_url="http://localhost")


def begun(client: TestClient, **body: Any) -> dict[str, Any]:
    answer = client.post("/api/jobs", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def ended(client: TestClient, status: dict[str, Any]) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while status["state"] == "running" and time.monotonic() < deadline:
        time.sleep(0.02)
        status = client.get(f"/api/jobs/{status['id']}").json()
    return status


def test_patches_with_their_pictures(client: TestClient) -> None:
    status = ended(client, begun(client, kind="patches", layer=0, channel=2, count=5))
    assert status["state"] == "done"
    result = status["result"]
    assert (result["layer"], result["channel"], result["field"]) == (0, 2, [7, 7])
    patches = result["patches"]
    assert len(patches) == 5
    assert [p["value"] for p in patches] == sorted((p["value"] for p in patches), reverse=True)
    for patch in patches:
        top, left, height, width = patch["box"]
        assert (top, left, height, width) == (2 * patch["row"] - 3, 2 * patch["column"] - 3, 7, 7)
        beyond = {"top": -top, "left": -left, "bottom": top + 7 - SHAPE[1], "right": left + 7 - SHAPE[2]}
        assert patch["outside"] == {side: pixels for side, pixels in beyond.items() if pixels > 0}
        picture = Image.open(BytesIO(client.get(patch["src"]).content))
        assert picture.size == (7, 7)
        maps = np.frombuffer(
            client.get(f"/api/layers/0/maps/values?image={patch['image']}&first=2&count=1").content, "<f4"
        ).reshape(24, 20)
        assert patch["value"] == pytest.approx(float(maps[patch["row"], patch["column"]]), rel=1e-4, abs=1e-5)
        assert maps.max() >= patch["value"] - 1e-4

    at_once = begun(client, kind="patches", layer=0, channel=3)
    assert (at_once["state"], len(at_once["result"]["patches"])) == ("done", 8)  # two of each of four images
    assert client.get(f"/api/jobs/{at_once['id']}").json() == at_once


def test_a_unit_that_sees_everything_is_shown_the_whole_image(client: TestClient) -> None:
    layers = client.get("/api/network").json()["layers"]
    head = next(layer["index"] for layer in layers if layer["name"] == "head")
    result = ended(client, begun(client, kind="patches", layer=head, channel=0))["result"]
    assert result["field"] == "all"
    for patch in result["patches"]:
        assert patch["box"] == "all"
        assert Image.open(BytesIO(client.get(patch["src"]).content)).size == (SHAPE[2], SHAPE[1])


def test_an_ascent_is_a_picture_and_is_compared(client: TestClient) -> None:
    status = ended(client, begun(client, kind="ascent", layer=0, channel=1, steps=3))
    assert status["result"]["best"] is None
    ended(client, begun(client, kind="patches", layer=0, channel=1))
    result = ended(client, begun(client, kind="ascent", layer=0, channel=1, steps=30, seed=3))["result"]
    assert result["value"] > result["best"]
    assert (result["size"], result["planes"], result["window"]) == ([7, 7], 3, True)
    kind, _, data = result["src"].partition(",")
    assert kind == "data:image/png;base64"
    picture = Image.open(BytesIO(b64decode(data)))
    assert (picture.size, picture.mode) == ((7, 7), "RGB")


@pytest.mark.parametrize(("channels", "size", "mode"), [(1, (7, 7), "L"), (5, (39, 7), "L")])
def test_inputs_of_other_than_three_channels_are_grey_pictures(
    tmp_path: Path, channels: int, size: tuple[int, int], mode: str
) -> None:
    from torch import nn

    shape = (channels, 24, 24)
    network = opened(lambda: nn.Sequential(nn.Conv2d(channels, 4, 7)), shape)
    pictures = Pictures([photographs(tmp_path / "photographs")], shape, network.mean, network.std)
    with serving(network, pictures) as client:
        result = ended(client, begun(client, kind="ascent", layer=0, channel=1, steps=3))["result"]
    picture = Image.open(BytesIO(b64decode(result["src"].partition(",")[2])))
    assert (picture.size, picture.mode, result["planes"]) == (size, mode, channels)


def test_classes_that_excite(tmp_path: Path) -> None:
    folder = photographs(tmp_path / "photographs")
    for name in ("cat", "dog"):
        (folder / name).mkdir()
    for file, name in zip(sorted(folder.glob("*.*")), ("cat", "dog", "dog", "dog"), strict=True):
        file.rename(folder / name / file.name)
    network = opened(Kinds)
    with serving(network, Pictures([folder], SHAPE, network.mean, network.std)) as client:
        result = ended(client, begun(client, kind="classes", layer=0, channel=1))["result"]
        patches = ended(client, begun(client, kind="patches", layer=0, channel=1))["result"]["patches"]
    assert {one["name"]: one["count"] for one in result["classes"]} == {"cat": 1, "dog": 3}
    cat = max(patch["value"] for patch in patches if patch["label"] == "cat")
    assert next(one["mean"] for one in result["classes"] if one["name"] == "cat") == pytest.approx(cat, rel=1e-5)


def workers() -> int:
    return sum(thread.name == "convforge jobs" for thread in threading.enumerate())


@pytest.mark.parametrize(
    ("value", "best", "said"),
    [
        (2.0, 1.0, None),
        (1.0, None, None),
        (0.5, 1.0, "A real image"),
        (0.0, 0.0, "above zero"),
        (-1.0, None, "above zero"),
    ],
)
def test_a_picture_that_does_not_excite_says_so(value: float, best: float | None, said: str | None) -> None:
    note = _note(value, best)
    assert note is None if said is None else said in str(note)


def test_a_job_is_cancelled(client: TestClient) -> None:
    status = begun(client, kind="ascent", layer=3, channel=0, size=512, steps=2000)
    assert status["state"] == "running"
    assert client.delete(f"/api/jobs/{status['id']}").status_code == 200
    assert ended(client, status)["state"] == "cancelled"
    before = workers()
    assert ended(client, begun(client, kind="ascent", layer=0, channel=0, steps=1))["state"] == "done"
    assert workers() == before, "one thread does all jobs"


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        ({"kind": "patches", "layer": 99, "channel": 0}, 404, "there is no layer 99"),
        ({"kind": "patches", "layer": 0, "channel": 8}, 400, "'stem' has channels 0 to 7, not 8."),
        ({"kind": "classes", "layer": 0, "channel": 0}, 400, "one sub-folder for each class"),
        ({"kind": "other", "layer": 0, "channel": 0}, 400, "kind"),
        ({"kind": "patches", "layer": 0}, 400, "channel"),
        ({"kind": "ascent", "layer": 0, "channel": 0, "size": 4096}, 400, "size"),
        ({"kind": "ascent", "layer": 0, "channel": 0, "file": "/etc/passwd"}, 400, "file"),
    ],
)
def test_what_cannot_be_done_is_refused_at_once(
    client: TestClient, body: dict[str, Any], status: int, sentence: str
) -> None:
    answer = client.post("/api/jobs", json=body)
    assert answer.status_code == status
    assert sentence in answer.json()["error"]


def test_a_job_that_is_not_there(client: TestClient) -> None:
    for answer in (client.get("/api/jobs/abc"), client.delete("/api/jobs/abc")):
        assert (answer.status_code, "there is no job 'abc'" in answer.json()["error"]) == (404, True)
