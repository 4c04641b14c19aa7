"""Files whose names are no text, or are more than text: opened by their names, shown by what can be shown of them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from convforge.cli import main
from convforge.see.export import export
from convforge.see.network import Network
from convforge.see.pictures import Pictures
from convforge.see.shelf import Shelf

from .networks import SHAPE, Kinds, opened
from .test_server import client_of

# As the file system has them, and as they are shown.
NAMES = {
    b"caf\xe9.png": r"caf\xe9.png",
    b"\x1b]0;mine\x07\x1b[31m.png": r"\x1b]0;mine\x07\x1b[31m.png",
    b"two\nlines.png": r"two\x0alines.png",
    "\u202egnp.\u2028exe.png".encode(): r"\u202egnp.\u2028exe.png",
    b"<script>alert(1)<_script>.png": "<script>alert(1)<_script>.png",
}
CLASSES = {b"k\xe4lber": r"k\xe4lber", b"\x1b[2Jcows": r"\x1b[2Jcows"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Each name in each class."""
    noise = np.random.default_rng(0)
    for label in CLASSES:
        (tmp_path / os.fsdecode(label)).mkdir()
        for name in NAMES:
            image = Image.fromarray(noise.integers(0, 256, (20, 30, 3), np.uint8))
            image.save(tmp_path / os.fsdecode(label) / os.fsdecode(name))
    return tmp_path


@pytest.fixture(scope="module")
def network() -> Network:
    return opened(Kinds, name=os.fsdecode(b"runs/\xff\x1b[1m"), classes=tuple(map(os.fsdecode, [*CLASSES, *NAMES])))


def assert_plain(text: str) -> None:
    assert text.encode().decode() == text
    odd = {character for character in text if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")}
    assert odd <= {"\n"}, odd
    assert not set(text) & set("\u202e\u2066")


def test_the_server_shows_names_that_are_no_text(folder: Path, network: Network) -> None:
    pictures = Pictures([folder], SHAPE, network.mean, network.std)
    with client_of(network, pictures) as client:
        answer = client.get("/api/network")
        assert answer.status_code == 200
        assert_plain(answer.text)
        found = answer.json()
        assert found["name"] == r"runs/\xff\x1b[1m"
        assert found["classes"] == [*CLASSES.values(), *NAMES.values()]
        assert {image["name"] for image in found["images"]} == {
            f"{c}/{n}" for c in CLASSES.values() for n in NAMES.values()
        }
        assert {image["label"] for image in found["images"]} == set(CLASSES.values())
        for image in found["images"]:
            assert client.get(f"/api/images/{image['id']}?view=thumb").status_code == 200
        for kind in ("patches", "classes"):
            status: Any = client.post("/api/jobs", json={"kind": kind, "layer": 0, "channel": 0}).json()
            while status["state"] == "running":
                answer = client.get(f"/api/jobs/{status['id']}")
                assert_plain(answer.text)
                status = answer.json()
            assert status["state"] == "done"
        assert {one["name"] for one in status["result"]["classes"]} == set(CLASSES.values())
        os.unlink(pictures[0].path)
        gone = client.get("/api/images/0?view=thumb&side=99")
        assert gone.status_code == 404
        assert_plain(gone.text)


def test_an_exported_page_shows_names_that_are_no_text(folder: Path, network: Network) -> None:
    page = export(network, Pictures([folder], SHAPE, network.mean, network.std), Shelf(None))
    assert_plain(page)
    assert "<script>alert" not in page
    stored = re.search(r'id="stored">(.*?)</script>', page, re.DOTALL)
    assert stored is not None
    names = [image["name"] for image in json.loads(stored[1])["/api/network"]["json"]["images"]]
    assert len(names) == 4
    assert set(names) <= {f"{label}/{name}" for label in CLASSES.values() for name in NAMES.values()}


@pytest.mark.skipif(sys.platform == "win32", reason="there, names are not bytes")
def test_the_command_opens_and_writes_them_and_prints_what_can_be_shown(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    files = [os.fsencode(folder / os.fsdecode(b"k\xe4lber")) + b"/" + name for name in NAMES]
    out = os.fsencode(folder) + b"/p\xe4ge\x1b[5m.html"
    words = [b"see", b"conv 2 3x3, relu", *files, b"--input", b"3x12x12", b"--export", out]
    code = b"from convforge.cli import main; main()"
    cache = {"CONVFORGE_CACHE": str(folder / "cache")}
    done = subprocess.run(
        [os.fsencode(sys.executable), b"-c", code, *words], capture_output=True, env={**os.environ, **cache}
    )
    assert done.returncode == 0, done.stderr
    assert rb"p\xe4ge\x1b[5m.html: " in done.stdout
    assert_plain(done.stdout.decode())
    assert_plain(done.stderr.decode())
    assert_plain(Path(os.fsdecode(out)).read_text())

    torn = os.fsencode(folder) + b"/t\xf6rn\x1b[5m.png"
    Path(os.fsdecode(torn)).write_bytes(b"torn")
    words = [b"see", b"conv 2 3x3, relu", torn, b"--input", b"3x12x12", b"--export", out]
    monkeypatch.setenv("CONVFORGE_CACHE", cache["CONVFORGE_CACHE"])
    monkeypatch.setattr(sys, "argv", ["convforge", *map(os.fsdecode, words)])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    said = capfdbinary.readouterr().err
    assert rb"t\xf6rn\x1b[5m.png is not an image" in said
    assert_plain(said.decode())
