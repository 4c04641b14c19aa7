"""The server: each address with its answer compared to torch's, each mistake with its sentence, and who is refused."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fastapi.testclient import TestClient
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from convforge.learned.film import Film, Recorder
from convforge.learned.film import read as read_film
from convforge.see import server
from convforge.see.answers import plain
from convforge.see.described import describe
from convforge.see.guard import MOST_BODY
from convforge.see.key import Key
from convforge.see.network import Network
from convforge.see.pictures import Pictures
from convforge.see.server import create_app
from convforge.see.server_layers import most_active_first, statistics
from convforge.see.shelf import Shelf

from .networks import NETWORKS, SHAPE, opened, photographs

PORT = 8642
HERE = f"http://127.0.0.1:{PORT}"
STEM, DEPTHWISE, DILATED, GROUPED = 0, 3, 5, 7


def client_of(network: Network, pictures: Pictures, film: Callable[[], Film | None] = lambda: None) -> TestClient:
    """With a key, as the command serves, and with the token that opens it."""
    key = Key(PORT)
    app = create_app(network, pictures, PORT, key, Shelf(None), film)
    headers = {"Authorization": f"Bearer {key.token}"}
    return TestClient(app, base_url=HERE, headers=headers, raise_server_exceptions=False)


@pytest.fixture(scope="module")
def network() -> Network:
    return opened(NETWORKS["kinds"])


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    return Pictures([photographs(tmp_path_factory.mktemp("photographs"))], SHAPE, (0.5,) * 3, (0.25,) * 3)


@pytest.fixture(scope="module")
def client(network: Network, pictures: Pictures) -> Iterator[TestClient]:
    with client_of(network, pictures) as client:
        yield client


Get = Callable[..., Any]


@pytest.fixture
def get(client: TestClient) -> Get:
    def get(path: str, **parameters: Any) -> Any:
        answer = client.get(path, params=parameters)
        assert answer.status_code == 200, answer.text
        kind = answer.headers["content-type"]
        if kind == "application/json":
            return answer.json()
        if kind == "application/octet-stream":
            shape = [int(n) for n in answer.headers["x-shape"].split(",") if n]
            return np.frombuffer(answer.content, "<f4").reshape(shape)
        return answer

    return get


def seen(network: Network, pictures: Pictures, layer: int, image: int = 0) -> Any:
    return network.look(image, lambda: pictures.input(image), layer)


# --- what is answered -------------------------------------------------------------------------------------------------


def test_a_run_is_called_by_its_folder_not_by_the_way_there(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "pets"
    run.mkdir(parents=True)
    network = Network(nn.Sequential(nn.Conv2d(1, 2, 3)), (1, 5, 5), str(run))
    found = describe(network, Pictures([photographs(tmp_path / "some")], (1, 5, 5), (0.0,), (1.0,)), False)
    assert (found["name"], found["short"]) == (str(run), "pets")


def test_the_network(get: Get, network: Network) -> None:
    found = get("/api/network")
    assert found["short"] == found["name"] == network.name
    assert found["input"] == list(SHAPE)
    assert (found["mean"], found["std"]) == ([0.5] * 3, [0.25] * 3)
    assert [image["name"] for image in found["images"]] == ["clear.webp", "grey.png", "tall.jpg", "wide.png"]
    assert found["images"][2] == {"id": 2, "name": "tall.jpg", "width": 40, "height": 80}
    assert found["first_conv"] == STEM
    assert found["totals"]["macs"] == sum(layer["macs"] for layer in found["layers"])
    stem, dilated = found["layers"][STEM], found["layers"][DILATED]
    assert stem["output_shape"] == [8, 24, 20]
    assert stem["field"] == {"size": [7, 7], "jump": [2.0, 2.0], "start": [-3, -3]}
    assert stem["dense"]["same_maps"] == 3 * 48 * 40 * 8 * 24 * 20
    assert (dilated["kind"], dilated["padding"], dilated["dilation"]) == ("conv", [[2, 2], [2, 2]], [2, 2])
    assert [layer["index"] for layer in found["layers"] if layer["slides"]] == [0, 3, 5, 7, 9, 11]
    assert {layer["kind"] for layer in found["layers"]} == {"conv", "norm", "act", "join", "pool", "linear"}
    assert found["layers"][-1]["map_shape"] == [5, 1, 1]
    assert found["layers"][-1]["field"] == "all"


def test_images(get: Get, pictures: Pictures) -> None:
    def opened_png(answer: Any) -> Image.Image:
        assert answer.headers["content-type"] == "image/png"
        return Image.open(BytesIO(answer.content))

    assert opened_png(get("/api/images/3")).size == (90, 60)
    assert opened_png(get("/api/images/3", view="thumb", side=30)).size == (30, 20)
    as_seen = np.asarray(opened_png(get("/api/images/3", view="input")))
    assert np.array_equal(as_seen[..., :3].transpose(2, 0, 1), pictures.pixels(3))
    part = np.asarray(opened_png(get("/api/images/3", box="-2,35,10,8")))
    assert part.shape == (10, 8, 4)
    assert np.array_equal(part[2:, :5, :3], as_seen[:8, 35:, :3])
    clear = part[..., 3] == 0
    assert clear[:2].all()
    assert clear[:, 5:].all()
    assert not clear[2:, :5].any()
    values = get("/api/images/3/values")
    assert values == pytest.approx((pictures.pixels(3) / 255 - 0.5) / 0.25, abs=1e-6)


def test_maps(get: Get, network: Network, pictures: Pictures) -> None:
    maps = seen(network, pictures, GROUPED, image=1).output[0].numpy()
    found = get(f"/api/layers/{GROUPED}/maps", image=1)
    assert found["shape"] == list(maps.shape)
    for channel, values in zip(found["channels"], maps, strict=True):
        assert channel["min"] == values.min()
        assert channel["max"] == values.max()
        assert channel["mean"] == pytest.approx(values.mean(), abs=1e-6)
        assert channel["deviation"] == pytest.approx(values.std(), abs=1e-6)
        assert channel["active"] == pytest.approx((values > 0).mean())
    deviations = [found["channels"][k]["deviation"] for k in found["order"]]
    assert deviations == sorted(deviations, reverse=True)
    assert np.array_equal(get(f"/api/layers/{GROUPED}/maps/values", image=1, first=2, count=3), maps[2:5])
    assert get(f"/api/layers/{GROUPED}/maps/values", image=1, first=6, count=16).shape == (2, 11, 20)  # clipped
    assert get(f"/api/layers/{GROUPED}/maps/values", image=1, first=99).shape == (0, 11, 20)


def test_inputs(get: Get, network: Network, pictures: Pictures) -> None:
    given = seen(network, pictures, DILATED).input[0].numpy()
    assert np.array_equal(get(f"/api/layers/{DILATED}/input/values", image=0, first=0, count=16), given)
    assert get(f"/api/layers/{DILATED}/input", image=0)["image"] is False
    first = get(f"/api/layers/{STEM}/input", image=0)
    assert (first["image"], first["shape"]) == (True, list(SHAPE))
    assert np.array_equal(get(f"/api/layers/{STEM}/input/values", image=0), pictures.input(0).numpy())


@pytest.mark.parametrize("layer", [STEM, DEPTHWISE, DILATED, GROUPED])
def test_a_unit(get: Get, network: Network, pictures: Pictures, layer: int) -> None:
    moment = seen(network, pictures, layer)
    _, channels, height, width = moment.output.shape
    for k, y, x in [(0, 0, 0), (channels - 1, height - 1, width - 1), (1, height // 2, 0)]:
        found = get(f"/api/layers/{layer}/unit", image=0, channel=k, row=y, column=x, channels="0,100")
        model = float(moment.convolved[0, k, y, x])
        assert found["model"] == model
        assert found["difference"] == found["total"] - model
        assert abs(found["difference"]) <= 1e-6 * found["magnitude"]
        products = np.array(found["patch"]) * np.array(found["kernel"])
        assert np.array_equal(products, found["products"])
        assert products.sum() + found["bias"] == pytest.approx(found["total"], abs=1e-9)
        assert products.sum((1, 2)) == pytest.approx(np.array(found["sums"]))
        for i, row in enumerate(found["inputs"]["sources"]["rows"]):
            assert (row is None) == (not 0 <= found["inputs"]["rows"][i] < moment.input.shape[2])
            if row is None:
                assert not np.array(found["patch"])[:, i].any()


def test_of_a_unit_of_many_channels_some_are_shown_and_all_are_summed(get: Get) -> None:
    whole = get(f"/api/layers/{DILATED}/unit", image=0, channel=2, row=3, column=4)
    part = get(f"/api/layers/{DILATED}/unit", image=0, channel=2, row=3, column=4, channels="5,2")
    assert part["first"] == 5
    assert part["patch"] == whole["patch"][5:7]
    assert part["sums"] == whole["sums"]
    assert len(whole["sums"]) == 8


@pytest.mark.parametrize(
    ("changes", "settings"),
    [
        ({"stride": "2"}, {"stride": 2, "padding": 2, "dilation": 2}),
        ({"stride": "1,3", "padding": "0"}, {"stride": (1, 3), "dilation": 2}),
        ({"padding": "same", "dilation": "3,1"}, {"padding": "same", "dilation": (3, 1)}),
        ({"padding": "1,4"}, {"padding": (1, 4), "dilation": 2}),
        ({"groups": "4"}, {"padding": 2, "dilation": 2, "groups": 4}),
    ],
)
def test_changed_settings_take_effect_as_in_torch(
    get: Get, network: Network, pictures: Pictures, changes: dict[str, str], settings: dict[str, Any]
) -> None:
    moment = seen(network, pictures, DILATED)
    weight = moment.convolution.weight.double()
    groups = settings.get("groups", 1)
    k = 7
    first = k // (12 // groups) * (8 // groups)
    if groups > 1:  # what is left of each kernel when the weights between groups are struck out
        starts = torch.arange(12) // (12 // groups) * (8 // groups)
        weight = torch.stack([w[s : s + 8 // groups] for w, s in zip(weight, starts, strict=True)])
    expected = F.conv2d(moment.input.double(), weight, moment.convolution.bias.double(), **settings)[0]
    found = get(f"/api/layers/{DILATED}/slide", image=0, channel=k, **changes)
    assert found["output_shape"] == list(expected.shape)
    assert found["formula"]["height"].endswith(f"= {expected.shape[1]}")
    assert found["formula"]["width"].endswith(f"= {expected.shape[2]}")
    made = get(f"/api/layers/{DILATED}/slide/values", image=0, channel=k, **changes)
    assert made == pytest.approx(expected[k].numpy(), abs=1e-6)
    unit = get(f"/api/layers/{DILATED}/unit", image=0, channel=k, row=1, column=2, **changes)
    assert unit["total"] == pytest.approx(float(expected[k, 1, 2]), abs=1e-9)
    assert unit["model"] is None
    assert unit["inputs"]["channels"] == list(range(first, first + 8 // groups))


def test_padding_side_by_side(get: Get) -> None:
    found = get(f"/api/layers/{DILATED}/slide", image=0, channel=0, padding="0,1,2,3")
    assert found["spec"]["padding"] == [[0, 1], [2, 3]]
    assert found["formula"]["height"] == "⌊(24 + 0 + 1 − 2·(3 − 1) − 1) / 1⌋ + 1 = 21"


def test_a_map_that_nothing_was_changed_of_is_the_models_own(get: Get, network: Network, pictures: Pictures) -> None:
    made = seen(network, pictures, GROUPED).convolved[0].numpy()
    assert np.array_equal(get(f"/api/layers/{GROUPED}/slide/values", image=0, channel=5), made[5])
    assert get(f"/api/layers/{GROUPED}/slide", image=0, channel=5)["spec"]["groups"] == 4


def test_borders_that_are_not_zeros(tmp_path: Path) -> None:
    network = opened(NETWORKS["borders"])
    pictures = Pictures([photographs(tmp_path)], SHAPE, (0.5,) * 3, (0.25,) * 3)
    client = client_of(network, pictures)
    for layer in network.layers:
        if layer.convolution is None:
            continue
        found = client.get(f"/api/layers/{layer.index}/unit?image=0&channel=1&row=0&column=0").json()
        assert abs(found["difference"]) <= 1e-6 * found["magnitude"], layer.name
        changed = {"image": 0, "channel": 1, "stride": 1}
        made = client.get(f"/api/layers/{layer.index}/slide/values", params=changed)
        values = np.frombuffer(made.content, "<f4").reshape([int(n) for n in made.headers["x-shape"].split(",")])
        unit = client.get(f"/api/layers/{layer.index}/unit", params=changed | {"row": 0, "column": 3}).json()
        assert values[0, 3] == pytest.approx(unit["total"], abs=1e-5)
    reflected = client.get("/api/layers/0/unit?image=0&channel=1&row=0&column=0").json()["inputs"]
    assert reflected["rows"] == [-2, -1, 0, 1, 2]
    assert reflected["sources"]["rows"] == [2, 1, 0, 1, 2]


def test_fields(get: Get, network: Network) -> None:
    assert get(f"/api/layers/{STEM}/field", row=0, column=1) == {"box": [-3, -1, 7, 7]}
    assert get("/api/layers/14/field", row=0, column=0) == {"box": "all"}
    box = get(f"/api/layers/{GROUPED}/field", row=3, column=4)["box"]
    assert box == list(network.box(GROUPED, 3, 4))  # type: ignore[arg-type]


def test_kernels(get: Get, network: Network) -> None:
    weight = network.model.stem.weight.numpy()
    found = get(f"/api/layers/{STEM}/kernels")
    assert found["shape"] == [8, 3, 7, 7]
    assert found["scale"] == pytest.approx(np.abs(weight).max())
    assert len(found["names"]) == 8
    assert found["names"][0].keys() == {"name", "figures", "words"}
    assert sum(found["split"]["counts"].values()) == 8
    assert np.array_equal(get(f"/api/layers/{STEM}/kernels/values"), weight)
    assert np.array_equal(get(f"/api/layers/{STEM}/kernels/values", first=2, count=3), weight[2:5])
    assert not get(f"/api/layers/{STEM}/bias/values").any()
    assert get(f"/api/layers/{DILATED}/kernels")["names"] is None
    assert np.array_equal(get(f"/api/layers/{DILATED}/bias/values"), network.model.dilated.bias.numpy())


def test_a_job_from_beginning_to_end(client: TestClient) -> None:
    status = client.post("/api/jobs", json={"kind": "patches", "layer": DILATED, "channel": 1, "count": 4}).json()
    while status["state"] == "running":
        status = client.get(f"/api/jobs/{status['id']}").json()
    patches = status["result"]["patches"]
    assert [patch["value"] for patch in patches] == sorted((patch["value"] for patch in patches), reverse=True)
    assert client.get(patches[0]["src"]).headers["content-type"] == "image/png"
    assert client.delete("/api/jobs/nothing").status_code == 404


def test_a_film_of_its_kernels(network: Network, pictures: Pictures, tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, network.model, 0, 10, 5)
    recorder.look(10)
    recorder.write()
    client = client_of(network, pictures, lambda: read_film(tmp_path))
    assert client.get("/api/network").json()["film"] is True
    found = client.get("/api/film").json()
    assert found["layer"] == STEM
    assert found["frames"][0] == {"step": 0, "epoch": 0.0, "label": "before learning"}
    answer = client.get("/api/film/1")
    assert answer.headers["x-shape"] == "8,3,7,7"
    assert np.array_equal(np.frombuffer(answer.content, "<f4"), network.model.stem.weight.numpy().ravel())
    assert client.get("/api/film/2").status_code == 404
    (tmp_path / "film.safetensors").unlink()
    assert client.get("/api/film/1").status_code == 404


def test_a_film_of_another_network_is_not_shown(pictures: Pictures, tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, opened(NETWORKS["ours"]).model, 0, 10, 5)
    recorder.write()
    network = opened(NETWORKS["kinds"])
    client = client_of(network, pictures, lambda: read_film(tmp_path))
    assert client.get("/api/network").json()["film"] is False
    assert "there is no film" in client.get("/api/film").json()["error"]


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/api/layers/99/maps?image=0", 404, "there is no layer 99"),
        ("/api/layers/-1/maps?image=0", 404, "there is no layer -1"),
        ("/api/layers/x/maps?image=0", 400, "index"),
        ("/api/layers/0/maps", 400, "image"),
        ("/api/layers/0/maps?image=4", 404, "there is no image 4"),
        ("/api/layers/0/maps?image=0&more=1", 400, "more"),
        ("/api/layers/0/maps/values?image=0&count=0", 400, "count"),
        ("/api/layers/0/maps/values?image=99999999999999999999", 400, "image"),
        ("/api/images/7", 404, "there is no image 7"),
        ("/api/images/../../etc/passwd", 404, "nothing at this address"),
        ("/api/images/0?view=raw", 400, "view"),
        ("/api/images/0?view=thumb&side=100000", 400, "side"),
        ("/api/images/0?box=1,2,3", 400, "box"),
        ("/api/images/0?box=0,0,0,5", 400, "1 to 4096 pixels a side, not 0×5"),
        ("/api/images/0?box=0,0,99999,99999", 400, "1 to 4096 pixels a side"),
        ("/api/layers/1/unit?image=0&channel=0&row=0&column=0", 404, "nothing slides in it"),
        ("/api/layers/0/unit?image=0&channel=8&row=0&column=0", 404, "there is no channel 8"),
        ("/api/layers/0/unit?image=0&channel=0&row=24&column=0", 400, "there is no row 24: the output is 8×24×20"),
        ("/api/layers/0/unit?image=0&channel=0&row=0&column=0&stride=0", 400, "from 1 to 64"),
        ("/api/layers/0/unit?image=0&channel=0&row=0&column=0&stride=1,2,3", 400, "1 or 2 integers"),
        ("/api/layers/0/unit?image=0&channel=0&row=0&column=0&channels=1", 400, "2 integers"),
        ("/api/layers/0/slide?image=0&channel=0&padding=full", 400, "1 or 2 or 4 integers"),
        ("/api/layers/0/slide?image=0&channel=0&padding=same", 400, "same_ceil"),
        ("/api/layers/0/slide?image=0&channel=0&padding=99999", 400, "from 0 to 512"),
        ("/api/layers/0/slide?image=0&channel=0&groups=5", 400, "groups=5"),
        ("/api/layers/0/slide?image=0&channel=0&dilation=20", 400, "H_out = ⌊(48 + 3 + 3 − 121) / 2⌋ + 1"),
        ("/api/layers/0/slide/values?image=0&channel=8", 404, "there is no channel 8"),
        ("/api/layers/0/field?row=24&column=0", 404, "no unit at row 24"),
        ("/api/layers/1/kernels", 404, "has no kernels"),
        ("/api/jobs/unknown", 404, "job"),
        ("/api/nothing", 404, "nothing at this address"),
        ("/%2e%2e/pyproject.toml", 404, "nothing at this address"),
        ("/..%2f..%2fpyproject.toml", 404, "nothing at this address"),
        ("/page/bundle.py", 404, "nothing at this address"),
        ("/bundle.py", 404, "nothing at this address"),
        ("/__init__.py", 404, "nothing at this address"),
    ],
)
def test_each_mistake_is_one_sentence(client: TestClient, path: str, status: int, words: str) -> None:
    answer = client.get(path)
    assert answer.status_code == status, answer.text
    assert answer.json().keys() == {"error"}
    assert words in answer.json()["error"]
    assert "\n" not in answer.json()["error"]


def test_an_image_that_was_deleted_meanwhile_is_said_to_be(network: Network, tmp_path: Path) -> None:
    folder = photographs(tmp_path / "photographs")
    pictures = Pictures([folder], SHAPE, (0.5,) * 3, (0.25,) * 3)
    client = client_of(network, pictures)
    assert client.get("/api/images/0?view=input").status_code == 200
    (folder / "grey.png").unlink()
    (folder / "wide.png").write_bytes(b"something else")
    for path in ("/api/images/1", "/api/images/1/values", "/api/images/1?view=thumb"):
        answer = client.get(path)
        assert answer.status_code == 404
        assert answer.json()["error"].startswith("grey.png is no longer there")
    assert "is not an image" in client.get("/api/images/3/values").json()["error"]
    assert client.get("/api/network").status_code == 200


def test_a_model_that_fails_is_one_sentence(tmp_path: Path) -> None:
    class Failing(nn.Conv2d):
        calls = 0

        def forward(self, input: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            if self.calls > 2:  # the plan, and the first pass
                raise IndexError("out of range")
            return super().forward(input)

    model = nn.Sequential(Failing(3, 2, 3))
    network = Network(model, (3, 16, 16), name="nets:failing")
    pictures = Pictures([photographs(tmp_path)], (3, 16, 16), network.mean, network.std)
    model[0].calls = 99
    answer = client_of(network, pictures).get("/api/layers/0/maps?image=0")
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("nets:failing fails with an image of 3×16×16: IndexError")


def test_a_slow_forward_pass_keeps_no_small_request_waiting(tmp_path: Path) -> None:
    begun, go = threading.Event(), threading.Event()

    class Slow(nn.Conv2d):
        waits = False

        def forward(self, input: torch.Tensor) -> torch.Tensor:
            if self.waits:
                begun.set()
                assert go.wait(30)
            return super().forward(input)

    network = Network(nn.Sequential(Slow(3, 2, 3)), (3, 16, 16))
    network.model[0].waits = True
    pictures = Pictures([photographs(tmp_path)], (3, 16, 16), network.mean, network.std)
    found: list[int] = []
    with client_of(network, pictures) as client:
        threads = [
            threading.Thread(target=lambda n=n: found.append(client.get(f"/api/layers/0/maps?image={n}").status_code))
            for n in range(4)
        ]
        for thread in threads:
            thread.start()
        assert begun.wait(30)
        for path in ("/api/network", "/api/images/0?view=input", "/api/layers/0/kernels", "/main.js"):
            assert client.get(path).status_code == 200
        assert found == []
        go.set()
        for thread in threads:
            thread.join()
    assert found == [200] * 4


def test_a_bug_is_a_sentence_too_and_gives_nothing_away(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("/secret/path")

    monkeypatch.setattr(server, "describe", broken)
    answer = client.get("/api/network")
    assert answer.status_code == 500
    assert "RuntimeError" in answer.json()["error"]
    assert "secret" not in answer.text


# --- who may ask ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1",
        f"127.0.0.1:{PORT + 1}",
        f"evil.example:{PORT}",
        "",
        f"localhost.evil:{PORT}",
        "127.0.0.1:8642@evil",
    ],
)
def test_other_hosts_are_refused(client: TestClient, host: str) -> None:
    for path in ("/", "/api/network", "/nothing"):
        answer = client.get(path, headers={"Host": host})
        assert answer.status_code == 403
        assert answer.json().keys() == {"error"}


@pytest.mark.parametrize("host", [f"127.0.0.1:{PORT}", f"localhost:{PORT}", f"LOCALHOST:{PORT}"])
def test_this_host_is_served(client: TestClient, host: str) -> None:
    assert client.get("/api/network", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "http://localhost:1"},
    ],
)
def test_pages_from_elsewhere_are_refused(client: TestClient, headers: dict[str, str]) -> None:
    assert client.get("/api/network", headers=headers).status_code == 403
    assert client.post("/api/jobs", headers=headers, json={}).status_code == 403


def test_its_own_page_is_served(client: TestClient) -> None:
    headers = {"Origin": HERE, "Sec-Fetch-Site": "same-origin"}
    assert client.get("/api/network", headers=headers).status_code == 200
    assert client.post("/api/jobs", headers=headers, json={}).status_code == 400


@pytest.fixture
def stranger(network: Network, pictures: Pictures) -> Iterator[tuple[TestClient, Key]]:
    """A client that brings nothing, and the key that it should bring."""
    key = Key(PORT)
    app = create_app(network, pictures, PORT, key, Shelf(None))
    with TestClient(app, base_url=HERE, follow_redirects=False) as client:
        yield client, key


def test_without_the_token_nothing_is_answered(stranger: tuple[TestClient, Key]) -> None:
    client, key = stranger
    wrong = "x" * len(key.token)
    for headers in (
        {},
        {"Authorization": f"Bearer {wrong}"},
        {"Authorization": f"Basic {key.token}"},
        {"Authorization": "Bearer é".encode("latin-1")},
        {"Cookie": f"convforge-{PORT}={wrong}"},
        {"Cookie": f"convforge-{PORT + 1}={key.token}"},
        {"Cookie": f"convforge-{PORT}="},
    ):
        for path in ("/", "/main.js", "/api/network", "/api/images/0", "/nothing", f"/?token={wrong}", "/?token="):
            answer = client.get(path, headers=headers)
            assert answer.status_code == 403, (path, headers)
            assert "open the address that the command printed" in answer.json()["error"]
            assert "set-cookie" not in answer.headers
        assert client.post("/api/jobs", json={}, headers=headers).status_code == 403
        assert client.delete("/api/jobs/x", headers=headers).status_code == 403
    # The token is taken in one place only, from which it is sent away again.
    assert client.get(f"/api/network?token={key.token}").status_code == 403


def test_the_first_visit_exchanges_the_token_for_a_cookie(stranger: tuple[TestClient, Key]) -> None:
    client, key = stranger
    answer = client.get(f"/?token={key.token}")
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = {part.strip() for part in answer.headers["set-cookie"].split(";")}
    assert cookie >= {f"convforge-{PORT}={key.token}", "HttpOnly", "SameSite=Strict", "Path=/"}
    assert answer.headers["cache-control"] == "no-store"
    for path in ("/", "/main.js", "/api/network"):
        assert client.get(path).status_code == 200  # the client has kept the cookie
    assert client.get(f"/?token={key.token}").status_code == 303  # again in the same browser
    assert client.get("/?token=of-yesterday").status_code == 200  # the cookie opens
    assert client.get("/api/network", headers={"Origin": "https://evil.example"}).status_code == 403


def test_the_browser_that_is_started_gets_a_token_for_one_visit(stranger: tuple[TestClient, Key]) -> None:
    client, key = stranger
    once = key.once()
    assert once != key.token
    assert client.get(f"/?token={once}").status_code == 303
    client.cookies.clear()
    assert client.get(f"/?token={once}").status_code == 403


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_only_jobs_are_more_than_read(client: TestClient, method: str) -> None:
    for path in ("/", "/api/network", "/api/layers/0/maps", "/api/jobsmore"):
        answer = client.request(method, path)
        assert answer.status_code == 405, path
        assert "access-control-allow-origin" not in answer.headers


def test_requests_are_bounded(client: TestClient) -> None:
    assert client.get("/api/network?" + "a" * 3000).status_code == 414
    assert client.get("/" + "a" * 3000).status_code == 414
    large = b"x" * (MOST_BODY + 1)
    assert client.post("/api/jobs", content=large).status_code == 413

    def pieces() -> Iterator[bytes]:
        for _ in range(MOST_BODY // 1000 + 2):
            yield b"x" * 1000

    assert client.post("/api/jobs", content=pieces()).status_code == 413  # its length is not said beforehand
    for length in ("-1", "1e3", "9" * 30):
        assert client.post("/api/jobs", content=b"", headers={"Content-Length": length}).status_code == 413


def test_jobs_are_validated(client: TestClient) -> None:
    for body in (
        {"kind": "mine"},
        {"kind": "patches", "layer": -1, "channel": 0},
        [],
        {"kind": "patches", "layer": 0, "channel": 0, "x": 1},
    ):
        answer = client.post("/api/jobs", json=body)
        assert answer.status_code == 400
        assert answer.json().keys() == {"error"}
    plain_text = client.post(
        "/api/jobs",
        content=json.dumps({"kind": "patches", "layer": 0, "channel": 0}),
        headers={"Content-Type": "text/plain"},
    )
    assert plain_text.status_code == 400  # what a form of another page could send


def test_every_answer_says_that_nothing_else_may_be_part_of_the_page(client: TestClient) -> None:
    for path in ("/", "/api/network", "/api/nothing", "/api/images/0"):
        headers = client.get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'self'; img-src 'self' data: blob:")
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert "access-control-allow-origin" not in headers


def test_the_page_and_its_files(client: TestClient) -> None:
    page = client.get("/")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert client.get("/main.js").headers["content-type"].startswith("text/javascript")
    assert client.get("/style.css").headers["content-type"].startswith("text/css")
    assert client.head("/api/network").status_code in (200, 405)


# --- figures ----------------------------------------------------------------------------------------------------------


def test_numbers_that_are_not_finite_are_null() -> None:
    maps: NDArray[Any] = np.array([[[1, np.nan]], [[np.inf, 0]], [[0, 3]]], np.float32)
    figures = plain(statistics(maps))
    json.dumps(figures, allow_nan=False)
    assert figures[0]["mean"] is None
    assert figures[2]["max"] == 3
    assert most_active_first(statistics(maps))[0] == 2


def test_single_numbers_are_ordered_by_themselves() -> None:
    assert most_active_first(statistics(np.array([[[1.0]], [[3.0]], [[-2.0]]]))) == [1, 0, 2]


def test_infinite_maps_and_weights_are_shown_too(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3))
    with torch.no_grad():
        model[0].weight[0, 0, 0, 0] = float("inf")
    network = Network(model, (1, 12, 12))
    client = client_of(network, Pictures([photographs(tmp_path)], (1, 12, 12), network.mean, network.std))
    found = client.get("/api/layers/0/unit?image=0&channel=0&row=0&column=0").json()
    assert found["kernel"][0][0][0] is None
    assert client.get("/api/layers/0/maps?image=0").json()["channels"][0]["max"] is None
    assert client.get("/api/layers/0/kernels").status_code == 200
