"""The page's server: decisions are in the file before it answers, and nobody else decides."""

from __future__ import annotations

import os
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from convforge.images import decisions
from convforge.images.decisions import Decision
from convforge.relabel.server import Desk, counted, create_app
from convforge.see.key import Key

from .conftest import WRONG

PORT = 8643
HERE = f"http://127.0.0.1:{PORT}"


@pytest.fixture
def client(desk: Desk) -> TestClient:
    key = Key(PORT)
    headers = {"Authorization": f"Bearer {key.token}"}
    return TestClient(create_app(desk, PORT, key), base_url=HERE, headers=headers)


def number_of(desk: Desk, name: str) -> int:
    return next(number for number, suspect in enumerate(desk.suspects) if suspect.image.name == name)


def test_the_images_are_told(client: TestClient, desk: Desk) -> None:
    told = client.get("/api/images").json()
    assert told["classes"] == ["bright", "dark"]
    assert [image["name"] for image in told["images"]] == [suspect.image.name for suspect in desk.suspects]
    first = told["images"][0]
    assert first["name"] in WRONG
    assert first["answers"][0]["class"] != first["was"]
    assert sum(answer["share"] for answer in first["answers"]) == pytest.approx(1)
    assert first["decided"] is False
    picture = client.get("/api/images/0")
    assert picture.headers["content-type"] == "image/png"
    assert Image.open(BytesIO(picture.content)).size == (24, 20)


def test_a_decision_is_in_the_file_when_it_is_answered(client: TestClient, desk: Desk, folder: Path) -> None:
    number = number_of(desk, WRONG[0])
    answer = client.post("/api/decisions", json={"image": number, "label": "bright"})
    assert answer.json() == {"image": number, "decided": True, "label": "bright"}
    assert decisions.read(folder) == {WRONG[0]: Decision("dark", "bright")}
    client.post("/api/decisions", json={"image": number, "label": None})
    assert decisions.read(folder) == {WRONG[0]: Decision("dark", None)}
    assert client.get("/api/images").json()["images"][number]["decided"] is True
    assert counted(folder) == {"left out": 1}
    assert client.delete(f"/api/decisions/{number}").json() == {"image": number, "decided": False, "label": "dark"}
    assert decisions.read(folder) == {}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"image": 0, "label": "tiger"}, "there is no class 'tiger': there are bright, dark."),
        ({"image": 99, "label": "dark"}, "there is no image 99"),
        ({"image": -1, "label": "dark"}, "there is no image -1"),
        ({"image": "0", "label": "dark"}, "image: "),
        ({"image": 0}, "label: "),
        ({"image": 0, "label": "dark", "file": "/etc"}, "file: "),
    ],
)
def test_mistakes_are_one_sentence_and_decide_nothing(
    client: TestClient, folder: Path, body: dict[str, Any], words: str
) -> None:
    answer = client.post("/api/decisions", json=body)
    assert answer.status_code in (400, 404)
    assert words in answer.json()["error"]
    assert not decisions.file_of(folder).exists()


def test_nobody_else_decides(client: TestClient, desk: Desk, folder: Path) -> None:
    body = {"image": 0, "label": "dark"}
    for headers in ({"Origin": "http://elsewhere.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Host": "evil.example"}):
        assert client.post("/api/decisions", json=body, headers=headers).status_code == 403
    stranger = TestClient(create_app(desk, PORT, Key(PORT)), base_url=HERE)
    assert stranger.post("/api/decisions", json=body).status_code == 403
    assert stranger.get("/api/images/0").status_code == 403
    assert client.post("/api/images", json=body).status_code == 405
    assert client.post("/api/jobs", json=body).status_code == 405
    assert client.get("/../relabelled.json").status_code == 404
    assert client.get("/see/main.js").status_code == 404
    assert not decisions.file_of(folder).exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_cannot_be_written(client: TestClient, folder: Path) -> None:
    folder.chmod(0o500)
    try:
        answer = client.post("/api/decisions", json={"image": 0, "label": "dark"})
    finally:
        folder.chmod(0o700)
    assert answer.status_code == 400
    assert "cannot write" in answer.json()["error"]
