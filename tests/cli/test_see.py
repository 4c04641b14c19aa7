"""`convforge see` as its users meet it: what is opened, what is refused, and a server that can be asked and stopped."""

from __future__ import annotations

import http.client
import json
import os
import queue
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner, Result

from convforge.cli import see as verb
from convforge.errors import UserError
from convforge.models.checkpoint import Architecture, save
from convforge.train.data import load
from convforge.train.options import Options

LINE = "conv 4 3x3 same, relu, pool 2, gap, linear 2"


def convforge(*arguments: str) -> Result:
    app = typer.Typer(rich_markup_mode="rich", pretty_exceptions_enable=False)
    app.callback()(lambda: None)
    verb.register(app)
    return CliRunner().invoke(app, ["see", *arguments])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two runs, of which `pets` is the newer, and an image."""
    torch.manual_seed(0)
    for age, name in enumerate(("pets", "digits")):
        channels = 1 + age
        architecture = Architecture(
            "vgg", {"widths": [4], "convs": 1}, ("a", "b"), (channels, 8, 8), (0.5,) * channels, (0.25,) * channels
        )
        save(tmp_path / "runs" / name, architecture.build(), architecture)
        os.utime(tmp_path / "runs" / name / "model.safetensors", (10**9 - age, 10**9 - age))
    (tmp_path / "runs" / "begun").mkdir()
    (tmp_path / "empty").mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)).save(tmp_path / "cat.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CONVFORGE_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.mark.usefixtures("folder")
def test_without_a_model_the_newest_run_is_opened() -> None:
    result = convforge("cat.png", "--export", "out.html")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("out.html: runs/pets and 1 of 1 images, ")
    page = Path("out.html").read_text()
    network = json.loads(re.search(r'id="stored">(.*?)</script>', page, re.DOTALL)[1])["/api/network"]["json"]  # type: ignore[index]
    assert (network["input"], network["mean"], network["std"]) == ([1, 8, 8], [0.5], [0.25])
    assert network["classes"] == ["a", "b"]
    assert network["images"][0]["name"] == "cat.png"


@pytest.mark.usefixtures("folder")
def test_a_network_that_learned_from_patches_is_shown_whole_photographs() -> None:
    Path("runs/pets/config.json").write_text(json.dumps({"options": {"task": "exemplar"}}))
    result = convforge("runs/pets", "cat.png", "--export", "out.html")
    assert result.exit_code == 0, result.output
    assert "it learned from patches of 8×8 pixels" in result.stderr
    assert '"input": [1, 224, 224]' in Path("out.html").read_text()
    convforge("runs/pets", "cat.png", "--input", "1x32x32", "--export", "out.html")
    assert '"input": [1, 32, 32]' in Path("out.html").read_text()


@pytest.mark.usefixtures("folder")
def test_a_run_is_opened_with_the_images_that_it_held_out() -> None:
    random = np.random.default_rng(0)
    for name in "ab":
        Path("photos", name).mkdir(parents=True)
        for number in range(10):
            Image.fromarray(random.integers(0, 256, (8, 8), np.uint8)).save(f"photos/{name}/{number}.png")
    options = Options(str(Path("photos").resolve()), seed=3)
    known = {"fingerprint": load(options.data, seed=3).fingerprint()}
    Path("runs/pets/config.json").write_text(json.dumps({"options": options.to_dict(), "data": known}))
    result = convforge("runs/pets", "--export", "out.html")
    assert result.exit_code == 0, result.output
    assert "runs/pets and 4 of 4 images" in result.stdout
    stored = json.loads(re.search(r'id="stored">(.*?)</script>', Path("out.html").read_text(), re.DOTALL)[1])  # type: ignore[index]
    images = stored["/api/network"]["json"]["images"]
    assert [image["name"] for image in images] == ["held-out 0", "held-out 1", "held-out 2", "held-out 3"]
    assert sorted(image["label"] for image in images) == ["a", "a", "b", "b"]
    assert stored["/api/answer?image=0&top=10"]["json"]["truth"]["name"] == images[0]["label"]
    Path("photos/a/0.png").unlink()
    result = convforge("runs/pets", "--export", "out.html")
    assert result.exit_code == 0, result.output
    assert (
        "note: these are photographs, not the images that the run held out: the images of photos are" in result.stderr
    )


@pytest.mark.usefixtures("folder")
def test_the_file_holds_as_many_images_as_are_asked_for_and_says_so() -> None:
    for number in range(6):
        Image.fromarray(np.full((9, 9, 3), 40 * number, np.uint8)).save(f"{number}.png")
    names = [f"{number}.png" for number in range(6)]
    for asked, held in ((["--images", "2"], 2), ([], 4), (["--images", "60"], 6)):
        result = convforge(LINE, *names, "--input", "3x16x16", "--export", "out.html", *asked)
        assert result.exit_code == 0, result.output
        assert f" and {held} of 6 images, " in result.stdout
        assert ("--images puts more of them in" in result.stdout) == (held < 6)
        stored = json.loads(re.search(r'id="stored">(.*?)</script>', Path("out.html").read_text(), re.DOTALL)[1])  # type: ignore[index]
        network = stored["/api/network"]["json"]
        assert (len(network["images"]), network["images_in_all"]) == (held, 6)
    result = convforge(LINE, *names, "--images", "3")
    assert "--images says how many images the file of --export holds" in str(result.exception)


@pytest.mark.usefixtures("folder")
def test_a_line_of_layers_has_weights_that_are_the_same_every_time_and_says_that_they_are_random() -> None:
    pages = []
    for _ in range(2):
        result = convforge(LINE, "cat.png", "--input", "3x16x16", "--mean", "0.5,0.5,0.5", "--export", "out.html")
        assert result.exit_code == 0, result.output
        pages.append(Path("out.html").read_text())
    assert "note: its weights are random, for nothing has trained it." in result.stderr
    assert "normalised" not in result.stderr
    assert pages[0] == pages[1]


@pytest.mark.usefixtures("folder")
def test_of_a_line_the_layers_that_fit_are_opened() -> None:
    line = "conv 1 3x3, conv 1 3x3, conv 1 3x3, conv 1 3x3"
    result = convforge(line, "cat.png", "--input", "1x7x7", "--export", "out.html")
    assert result.exit_code == 0, result.output
    assert "note: these are the layers that fit; layer 'conv4' (conv 1 3x3): a 3×3 kernel cannot be" in result.stderr
    stored = json.loads(re.search(r'id="stored">(.*?)</script>', Path("out.html").read_text(), re.DOTALL)[1])  # type: ignore[index]
    layers = stored["/api/network"]["json"]["layers"]
    assert [layer["output_shape"] for layer in layers] == [[1, 5, 5], [1, 3, 3], [1, 1, 1]]


@pytest.mark.usefixtures("folder")
def test_a_callable_is_normalised_as_it_says_itself() -> None:
    Path("nets.py").write_text(
        "from torch import nn\n"
        "def net():\n"
        "    model = nn.Conv2d(3, 2, 3)\n"
        "    model.pretrained_cfg = {'mean': (0.1, 0.2, 0.3), 'std': (0.4, 0.5, 0.6)}\n"
        "    return model\n"
    )
    result = convforge("nets:net", "cat.png", "--input", "3x8x8", "--export", "out.html")
    assert result.exit_code == 0, result.output
    assert '"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]' in Path("out.html").read_text()


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["absent"], "is not a model"),
        (["runs/absent"], "there is no folder"),
        ([LINE, "absent.png"], r"absent\.png does not exist"),
        ([LINE, "cat.png", "--mean", "1,2"], "the mean must have 3 numbers, one a channel, not 2"),
        ([LINE, "cat.png", "--mean", "a"], "--mean must be numbers with commas between"),
        ([LINE, "cat.png", "--std", "1,0,1"], "--std must be greater than zero"),
        ([LINE, "cat.png", "--std", "nan,1,1"], "--std must be numbers"),
        ([LINE, "cat.png", "--input", "3x0x5"], "input size"),
        ([LINE, "cat.png", "--export", "runs"], "runs is a folder"),
        ([LINE, "runs/begun", "empty"], "there are no images in runs/begun, empty; name image files"),
        ([LINE, "--port", "65536"], "--port must be from 0 to 65535, not 65536"),
        (["linear 100000"], "would take .* GiB"),
        (["weights.pt", "cat.png"], "is a pickle"),
    ],
)
def test_each_mistake_is_one_sentence(arguments: list[str], words: str) -> None:
    mistake = convforge(*arguments).exception
    assert isinstance(mistake, UserError), mistake
    assert re.search(words, str(mistake)), mistake


@pytest.mark.usefixtures("folder")
def test_a_folder_that_the_page_cannot_go_into_is_said_before_anything_is_computed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("convforge.models.resolve.resolve", lambda *_, **__: pytest.fail("the model was built"))
    mistake = convforge("runs/pets", "cat.png", "--export", "no/such/page.html").exception
    assert isinstance(mistake, UserError), mistake
    assert str(mistake) == "there is no folder no/such for the page: make it first, or name another place."
    assert not Path("no").exists()


@pytest.mark.usefixtures("folder")
def test_without_any_run_it_says_how_to_make_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    mistake = convforge().exception
    assert isinstance(mistake, UserError)
    assert "convforge train" in str(mistake)


@pytest.mark.usefixtures("folder")
def test_a_port_that_is_taken_is_a_sentence() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        mistake = convforge("cat.png", "--no-browser", "--port", str(port)).exception
    assert isinstance(mistake, UserError)
    assert f"port {port} cannot be had" in str(mistake)


def test_the_help_teaches() -> None:
    words = " ".join(convforge("--help").stdout.split())
    assert "every number can be traced to the products behind it" in words
    assert "asks for nothing on the network" in words
    assert "convforge see runs/pets cat.jpg --export cat.html" in words


@pytest.fixture
def server(folder: Path) -> Iterator[subprocess.Popen[str]]:
    words = ["see", "cat.png", "--no-browser", "--port", "0"]
    code = "from convforge.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    yield process
    process.kill()
    process.communicate()


def test_the_server_is_on_loopback_answers_and_stops_at_ctrl_c(server: subprocess.Popen[str]) -> None:
    assert server.stdout is not None
    found = re.search(r"http://127\.0\.0\.1:(\d+)/\?token=(\S+)  ", server.stdout.readline())
    assert found is not None
    port = int(found[1])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/api/layers/0/maps?image=0")
    answer = connection.getresponse()
    assert answer.status == 403
    assert "open the address that the command printed" in json.load(answer)["error"]
    connection.request("GET", f"/?token={found[2]}")
    answer = connection.getresponse()
    assert (answer.status, answer.read()) == (303, b"")
    cookie = str(answer.getheader("set-cookie")).partition(";")[0]
    connection.request("GET", "/api/layers/0/maps?image=0", headers={"Cookie": cookie})
    answer = connection.getresponse()
    assert answer.status == 200
    assert json.load(answer)["shape"] == [4, 8, 8]
    assert answer.getheader("server") is None
    connection.request("GET", "/", headers={"Host": "evil.example"})
    assert connection.getresponse().status == 403
    connection.close()
    assert _listening_at(port) == {"0100007F"}
    server.send_signal(signal.SIGINT)
    assert server.wait(30) in (0, 130, -signal.SIGINT)
    assert server.stderr is not None
    assert "Traceback" not in server.stderr.read()


@pytest.mark.usefixtures("folder")
def test_the_browser_is_not_started_with_the_token_that_stays_good(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = queue.SimpleQueue[str]()
    monkeypatch.setattr("convforge.cli.serving._open_browser", opened.put)
    monkeypatch.setattr("uvicorn.Server.run", lambda *_, **__: None)
    printed = re.search(r"http://\S+", convforge("cat.png", "--port", "0").stdout)
    assert printed is not None
    given = opened.get(timeout=30)
    assert given.partition("=")[0] == printed[0].partition("=")[0]
    assert given != printed[0]


def _listening_at(port: int) -> set[str]:
    """The addresses, as the kernel writes them, at which something listens on a port."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    lines += (
        [line.split() for line in Path("/proc/net/tcp6").read_text().splitlines()[1:]]
        if Path("/proc/net/tcp6").exists()
        else []
    )
    places = [line[1].split(":") for line in lines if line[3] == "0A"]
    return {address for address, hexadecimal in places if int(hexadecimal, 16) == port}
