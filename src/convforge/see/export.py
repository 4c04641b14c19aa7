"""The page as one file that needs no server: what it would ask for about some layers and images, asked beforehand.

The server's own application is asked, in this process, by the addresses that the page uses; the answers are put into
the file under these addresses. Sums need not be among them: the page does them itself, from the layer's input, kernels
and biases.
"""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping, Sequence
from math import prod
from typing import Any

from fastapi import FastAPI

from ..errors import UserError
from ..learned.film import Film
from .network import Layer, Network
from .page.bundle import bundle
from .pictures import Pictures
from .server import create_app
from .shelf import Shelf

IMAGES, MOST_IMAGES, MOST_SEARCHED = 4, 64, 64
"""Images that are shown if nothing else is said, and at most; and in which the patches that excite channels most are
looked for."""

MOST_BYTES = 24 * 2**20
"""Of the numbers in the file, before they are written as text, which makes a third more of them."""

_BLOCK = 16  # maps that the page asks for at a time
_PATCHES, _CHANNELS, _CLASSES = 9, 16, 10  # what the page asks for at a time
_TAKEN_APART, _CARRIED, _MOST_PLACES = 3, 12, 64
_RATES = ("0.001", "0.01", "0.1")  # of the steps of learning that the page offers
_COVERED = IMAGES  # images of which places are covered, each of which is to run the network some 170 times
_PORT = 80

Answers = dict[str, dict[str, Any]]


def export(
    network: Network,
    pictures: Pictures,
    shelf: Shelf | None = None,
    film: Callable[[], Film | None] = lambda: None,
    images: int = IMAGES,
    most_bytes: int = MOST_BYTES,
    say: Callable[[str], None] = lambda _: None,
) -> str:
    """The page of a network and of the first `images` images, as HTML.

    Of each image it has the maps of as many convolutions as fit, the early, middle and deep one that the page opens
    with before others; and of these three which patches excite their first channels most, and a picture made to excite
    the very first. Of these, and of the first convolution, it has what the loss of each image sends back, as far as
    half of the bytes go. `say` is told what takes its time.
    """
    app = create_app(network, pictures.first(MOST_SEARCHED), _PORT, None, shelf, film)
    return bundle(asyncio.run(_collected(app, network, len(pictures), images, most_bytes, say)))


async def _collected(
    app: FastAPI, network: Network, images_in_all: int, wanted: int, most_bytes: int, say: Callable[[str], None]
) -> Answers:
    count = min(images_in_all, wanted, MOST_IMAGES)
    images = range(count)
    stored: Answers = {}

    async def keep(path: str, **parameters: Any) -> Any:
        """The answer, put into the file by its address."""
        key = "&".join(f"{name}={value}" for name, value in sorted(parameters.items()))
        address = f"{path}?{key}" if key else path
        stored[address] = await _asked(app, "GET", address)
        return stored[address].get("json")

    async with app.router.lifespan_context(app):
        await keep("/api/network")
        shown = stored["/api/network"]["json"]
        shown |= {
            "images": shown["images"][:count],
            "images_in_all": images_in_all,
            "searched": min(images_in_all, MOST_SEARCHED),
        }
        for image in images:
            await keep(f"/api/images/{image}", view="input")
            compared = _compared(image, await keep("/api/answer", image=image, top=_CLASSES))
            await _keep_why(keep, compared)
            if compared and image < _COVERED:
                say(f"covering places of image {image} …")
                for one in compared:
                    await _keep_job(app, stored, one, "/api/jobs/occlusion")
        backward = sent_back(network, count, most_bytes)
        for layer in chosen(network, count, most_bytes - sum(_bytes_sent(layer, count) for layer in backward)):
            place = f"/api/layers/{layer.index}"
            for path in ("kernels", "kernels/values", "bias/values"):
                await keep(f"{place}/{path}")
            for image in images:
                for kind, channels in (("maps", layer.map_shape[0]), ("input", layer.input_shape[0])):
                    await keep(f"{place}/{kind}", image=image)
                    for first in range(0, channels, _BLOCK):
                        await keep(f"{place}/{kind}/values", image=image, first=first, count=_BLOCK)
        await _keep_backward(keep, backward, images, say)
        if shown["film"]:
            await keep("/api/film")
            for frame in range(len(stored["/api/film"]["json"]["frames"])):
                await keep(f"/api/film/{frame}")
        labelled = any("label" in image for image in shown["images"])
        for layer in opened_with(network):
            say(f"looking for what excites layer {layer.name} …")
            try:
                await _keep_jobs(app, stored, layer, labelled)
            except UserError as reason:  # the page says that it is not in the file
                say(f"left out: {reason}")
    return stored


def _compared(image: int, answer: Any) -> list[dict[str, int]]:
    """What the page takes apart: the most probable classes of an image, and the first beside the second."""
    ranking = [entry["class"] for entry in answer["ranking"] or ()][:_TAKEN_APART]
    asked: list[dict[str, int]] = [{"image": image, "of": number} for number in ranking]
    if len(ranking) > 1:
        asked.append({"image": image, "of": ranking[0], "against": ranking[1]})
    return asked


async def _keep_why(keep: Callable[..., Awaitable[Any]], asked: Sequence[Mapping[str, int]]) -> None:
    """Contributions, by both methods, and the channels behind them."""
    for one in asked:
        for method in ({}, {"method": "layercam"}):
            found = await keep("/api/why", **one, **method)
            if (values := found["values"]) is None:
                continue
            await keep("/api/why/region", **one, **method, count=_CARRIED)
            if not method and len(values) * len(values[0]) <= _MOST_PLACES:
                for row in range(len(values)):
                    for column in range(len(values[0])):
                        await keep("/api/why/region", **one, count=_CARRIED, row=row, column=column)


async def _keep_backward(
    keep: Callable[..., Awaitable[Any]], layers: Sequence[Layer], images: range, say: Callable[[str], None]
) -> None:
    """What the losses send back to some layers, of which the page makes each weight's products, and what steps of
    learning change."""
    for layer in layers:
        say(f"following the loss back to layer {layer.name} …")
        place = f"/api/layers/{layer.index}/backward"
        try:
            for image in images:
                for path in ("loss", "incoming", "gradient"):
                    await keep(f"{place}/{path}", image=image)
                for rate in _RATES:
                    await keep(f"{place}/step", image=image, rate=rate)
        except UserError as reason:
            say(f"left out: {reason}")


async def _keep_jobs(app: FastAPI, stored: Answers, layer: Layer, labelled: bool) -> None:
    """The results of the jobs that the page would start, by what it would ask for."""

    async def keep(channel: int, kind: str, **more: int) -> Any:
        return await _keep_job(app, stored, {"channel": channel, **more, "kind": kind, "layer": layer.index})

    # The page opens with the channel in which most happens for the first image.
    order = (await _asked(app, "GET", f"/api/layers/{layer.index}/maps?image=0"))["json"]["order"]
    for channel in order[:_CHANNELS]:
        for patch in (await keep(channel, "patches", count=_PATCHES))["patches"]:
            path, _, query = patch["src"].partition("?")
            address = f"{path}?{'&'.join(sorted(query.split('&')))}"
            if address not in stored:
                stored[address] = await _asked(app, "GET", address)
        if labelled:
            await keep(channel, "classes")
    await keep(order[0], "ascent")


async def _keep_job(app: FastAPI, stored: Answers, body: Mapping[str, Any], where: str = "/api/jobs") -> Any:
    """The result of a job, put into the file by what the page would ask for."""
    result = await _done(app, body, where)
    stored[f"job {json.dumps(body, separators=(',', ':'), sort_keys=True)}"] = {"json": result}
    return result


def opened_with(network: Network) -> list[Layer]:
    """An early, a middle and a deep layer: convolutions that see more than one position, where there are three."""
    spatial = [layer for layer in network.layers if layer.convolution and prod(layer.map_shape[1:]) > 1]
    seeing = [layer for layer in spatial if prod(layer.row.kernel or ()) > 1]
    found = next((layers for layers in (seeing, spatial) if len(layers) >= 3), spatial)
    if not found:
        return []
    return list(dict.fromkeys([found[0], found[(len(found) - 1) // 2], found[-1]]))


def chosen(network: Network, images: int, most_bytes: int) -> list[Layer]:
    """As many convolutions as fit into a file, those that the page opens with before others."""
    convolutions = [layer for layer in network.layers if layer.convolution]
    found = _fitting([*_first(network), *convolutions], lambda layer: _bytes_of(layer, images), most_bytes)
    if convolutions and not found:
        raise UserError("not even one layer of this network fits into a file: open it with a smaller --input.")
    return sorted(found, key=lambda layer: layer.index)


def sent_back(network: Network, images: int, most_bytes: int) -> list[Layer]:
    """Of the convolutions that the page opens with, those for which what losses send back fits, too: into half of the
    bytes at most, and beside what these layers have anyhow."""
    there = _fitting(_first(network), lambda layer: _bytes_of(layer, images), most_bytes)
    left = most_bytes - sum(_bytes_of(layer, images) for layer in there)
    return _fitting(there, lambda layer: _bytes_sent(layer, images), min(left, most_bytes // 2))


def _bytes_sent(layer: Layer, images: int) -> int:
    assert layer.convolution is not None
    return 4 * images * (prod(layer.map_shape) + layer.convolution.weight.numel())


def _first(network: Network) -> list[Layer]:
    """The first convolution, and those that the page opens with."""
    return [*[layer for layer in network.layers if layer.convolution][:1], *opened_with(network)]


def _fitting(layers: Sequence[Layer], size: Callable[[Layer], int], most_bytes: int) -> list[Layer]:
    """As many of the layers, each once, as do not take more bytes together; earlier ones before others."""
    found = []
    for layer in dict.fromkeys(layers):
        if size(layer) <= most_bytes:
            most_bytes -= size(layer)
            found.append(layer)
    return found


def _bytes_of(layer: Layer, images: int) -> int:
    assert layer.convolution is not None
    numbers = prod(layer.map_shape) + prod(layer.input_shape)
    return 4 * (images * numbers + layer.convolution.weight.numel())


# ---------------------------------------------------------------------------------------------------------------------
# Asking the application in this process
# ---------------------------------------------------------------------------------------------------------------------


async def _done(app: FastAPI, body: Mapping[str, Any], where: str) -> Any:
    """The result of a job that is begun at an address."""
    status = (await _asked(app, "POST", where, body))["json"]
    while status["state"] == "running":
        await asyncio.sleep(0.02)
        status = (await _asked(app, "GET", f"/api/jobs/{status['id']}"))["json"]
    if status["state"] != "done":
        raise UserError(status.get("error") or f"a job ended as {status['state']}.")
    return status["result"]


async def _asked(app: FastAPI, method: str, address: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What the application answers, as the file holds it.

    Raises:
        UserError: with the application's own sentence, if it refuses.
    """
    path, _, query = address.partition("?")
    content = b"" if body is None else json.dumps(body).encode()
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
        "path": path, "raw_path": path.encode(), "query_string": query.encode(), "root_path": "",
        "headers": [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")],
        "client": ("127.0.0.1", 0), "server": ("127.0.0.1", _PORT),
    }  # fmt: skip
    status, headers, parts = 0, {}, []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": content, "more_body": False}

    async def send(message: Any) -> None:
        nonlocal status, headers
        if message["type"] == "http.response.start":
            status = message["status"]
            headers = {name.decode().lower(): value.decode() for name, value in message["headers"]}
        else:
            parts.append(message.get("body", b""))

    await app(scope, receive, send)
    return _as_stored(status, headers, b"".join(parts))


def _as_stored(status: int, headers: Mapping[str, str], content: bytes) -> dict[str, Any]:
    kind = headers.get("content-type", "").partition(";")[0]
    if kind == "application/json":
        answer = json.loads(content)
        if status >= 400:
            raise UserError(answer["error"])
        return {"json": answer}
    text = b64encode(content).decode()
    if kind == "application/octet-stream":
        return {"shape": _shape(headers["x-shape"]), "base64": text}
    return {"type": kind, "base64": text}


def _shape(text: str) -> Sequence[int]:
    return [int(n) for n in text.split(",") if n]
