"""The page's server: what the page asks for about a network and its images, as JSON, pixels and float32 numbers.

Nothing is read from disk but the page's own files and the images that were listed at the start, which requests know by
number only. See `guard.py` for who may ask at all.
"""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache, partial
from importlib import resources
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
import torch
from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from torch import Tensor

from ..errors import UserError
from ..spec import Conv2dSpec, SpecError
from .arithmetic import Unit, changed, group_channels, kernel_of, size_formula, unit
from .guard import Guard
from .jobs import Jobs
from .namer import name_kernels, split
from .network import Layer, Network, NotThere, map_shape
from .pictures import LONGEST_THUMBNAIL, Pictures
from .server_jobs import jobs_router
from .shelf import Shelf
from .watch import Convolution, Moment

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_MOST_BYTES = 64 * 2**20
_MOST_STEP, _MOST_PAD, _MOST_GROUPS = 64, 512, 65_536

Number: TypeAlias = Annotated[int, Field(ge=0, le=2**31 - 1)]
Count: TypeAlias = Annotated[int, Field(ge=1, le=65_536)]


# ---------------------------------------------------------------------------------------------------------------------
# What requests may say
# ---------------------------------------------------------------------------------------------------------------------


def _integers(text: str, counts: tuple[int, ...], most: int, least: int) -> tuple[int, ...]:
    parts = text.split(",")
    if len(parts) not in counts or not all(p.isascii() and p.isdigit() and len(p) < 6 for p in parts):
        raise ValueError(
            f"must be {' or '.join(str(n) for n in counts)} integers with commas between, not {text[:40]!r}"
        )
    numbers = tuple(int(p) for p in parts)
    if not all(least <= n <= most for n in numbers):
        raise ValueError(f"must be from {least} to {most}, not {text[:40]!r}")
    return numbers


def _steps(text: str | None) -> str | None:
    if text is not None:
        _integers(text, (1, 2), _MOST_STEP, 1)
    return text


def _pads(text: str | None) -> str | None:
    if text is not None and text not in ("valid", "same", "same_ceil", "same_half"):
        _integers(text, (1, 2, 4), _MOST_PAD, 0)
    return text


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _OfImage(_Asked):
    image: Number


class _Slice(_OfImage):
    first: Number = 0
    count: Count = 16


class _Changes(_OfImage):
    channel: Number
    stride: Annotated[str | None, AfterValidator(_steps)] = None
    padding: Annotated[str | None, AfterValidator(_pads)] = None
    dilation: Annotated[str | None, AfterValidator(_steps)] = None
    groups: Annotated[int | None, Field(ge=1, le=_MOST_GROUPS)] = None

    def spec(self, spec: Conv2dSpec) -> Conv2dSpec:
        """The layer's spec with what was asked for."""
        pair = [None if text is None else _pair(text) for text in (self.stride, self.dilation)]
        padding: Any = self.padding
        if padding is not None and padding[0].isdigit():
            numbers = tuple(int(n) for n in padding.split(","))
            padding = (numbers[:2], numbers[2:]) if len(numbers) == 4 else [(n, n) for n in _pair(padding)]
        return changed(spec, pair[0], padding, pair[1], self.groups)

    @property
    def any(self) -> bool:
        return any(value is not None for value in (self.stride, self.padding, self.dilation, self.groups))


def _pair(text: str) -> tuple[int, int]:
    numbers = [int(n) for n in text.split(",")]
    return numbers[0], numbers[-1]


def _two(text: str) -> str:
    _integers(text, (2,), 2**20, 0)
    return text


class _OfUnit(_Changes):
    row: Number
    column: Number
    channels: Annotated[str, AfterValidator(_two)] = "0,16"


class _View(_Asked):
    view: Literal["original", "input", "thumb"] = "original"
    side: Annotated[int, Field(ge=16, le=LONGEST_THUMBNAIL)] = 128
    box: Annotated[str | None, Field(max_length=60, pattern=r"^-?\d{1,6},-?\d{1,6},\d{1,5},\d{1,5}$")] = None


class _Place(_Asked):
    row: Number
    column: Number


class _Kernels(_Asked):
    first: Number = 0
    count: Count = 65_536


# ---------------------------------------------------------------------------------------------------------------------
# What they are answered with
# ---------------------------------------------------------------------------------------------------------------------


def plain(value: Any) -> Any:
    """JSON has no numbers that are not finite: they are null.

    >>> plain({"a": np.array([1.0, np.nan]), "b": (2, float("inf"))})
    {'a': [1.0, None], 'b': [2, None]}
    """
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return value.tolist() if np.isfinite(value).all() else plain(value.tolist())
    if isinstance(value, (list, tuple, range)):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _json(value: Any, status: int = 200) -> Response:
    return Response(json.dumps(plain(value), ensure_ascii=False), status, media_type="application/json")


def _floats(values: NDArray[Any]) -> Response:
    """float32, little-endian, with the shape in a header."""
    if values.size * 4 > _MOST_BYTES:
        raise UserError(f"that would be {values.size * 4 / 2**20:,.0f} MiB: ask for fewer at a time (first, count).")
    content = np.ascontiguousarray(values, "<f4").tobytes()
    shape = ",".join(str(n) for n in values.shape)
    return Response(content, media_type="application/octet-stream", headers={"X-Shape": shape})


def _error(sentence: str, status: int) -> Response:
    return _json({"error": sentence}, status)


def _maps(tensor: Tensor) -> NDArray[Any]:
    """A layer's tensor as `(K, H, W)` float numbers."""
    real = tensor.abs() if tensor.is_complex() else tensor
    maps: NDArray[Any] = real.reshape(map_shape(real.shape)).float().numpy()
    return maps


def statistics(maps: NDArray[Any]) -> list[dict[str, Any]]:
    """Per map: smallest, largest and mean value, standard deviation, and which share of it is above zero."""
    flat = maps.reshape(maps.shape[0], -1)
    if flat.shape[1] == 0:
        return []
    with np.errstate(invalid="ignore", over="ignore"):  # what comes of numbers that are not finite is no number
        figures = {
            "min": flat.min(1),
            "max": flat.max(1),
            "mean": flat.mean(1, dtype=np.float64),
            "deviation": flat.std(1, dtype=np.float64),
            "active": (flat > 0).mean(1),
        }
    columns = {name: values.astype(float).tolist() for name, values in figures.items()}
    return [{"index": k} | {name: column[k] for name, column in columns.items()} for k in range(len(flat))]


def most_active_first(channels: list[dict[str, Any]]) -> list[int]:
    """Maps in which something happens before maps that are the same all over: by their standard deviation. Where maps
    are single numbers, by the number."""
    flat = all(channel["deviation"] == 0 for channel in channels)
    figure = "max" if flat else "deviation"
    return sorted(range(len(channels)), key=lambda k: -np.nan_to_num(channels[k][figure], nan=-np.inf))


# ---------------------------------------------------------------------------------------------------------------------
# The application
# ---------------------------------------------------------------------------------------------------------------------


def create_app(network: Network, pictures: Pictures, port: int, shelf: Shelf | None = None) -> FastAPI:
    """The server of one network and its images, for requests to 127.0.0.1:`port` or localhost:`port`.

    What jobs have found is kept on `shelf`, for the next time.
    """
    jobs = Jobs()

    @asynccontextmanager
    async def until_it_ends(_: FastAPI) -> AsyncIterator[None]:
        yield
        jobs.close()

    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, lifespan=until_it_ends)
    app.add_middleware(Guard, port=port)
    _add_error_handlers(app)
    _add_network(app, network, pictures)
    _add_images(app, pictures)
    _add_layers(app, network, pictures)
    _add_kernels(app, network)
    app.include_router(jobs_router(network, pictures, jobs, shelf))
    _add_page(app)
    return app


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(NotThere)
    def not_there(_: Request, error: NotThere) -> Response:
        return _error(str(error), 404)

    @app.exception_handler(UserError)
    def mistake(_: Request, error: UserError) -> Response:
        return _error(str(error), 400)

    @app.exception_handler(SpecError)
    def does_not_fit(_: Request, error: SpecError) -> Response:
        return _error(str(error), 400)

    @app.exception_handler(RequestValidationError)
    def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"] if part not in ("query", "path", "body"))
        reason = str(first["msg"]).removeprefix("Value error, ")
        return _error(f"{name or 'the request'}: {reason}.", 400)

    @app.exception_handler(HTTPException)
    def other(_: Request, error: HTTPException) -> Response:
        words = {404: "there is nothing at this address.", 405: "that method is not allowed at this address."}
        return _error(words.get(error.status_code, f"{error.detail}."), error.status_code)

    @app.exception_handler(Exception)
    def bug(_: Request, error: Exception) -> Response:
        return _error(
            f"something went wrong in the server ({type(error).__name__}); its terminal has the details.", 500
        )


def _add_network(app: FastAPI, network: Network, pictures: Pictures) -> None:
    @app.get("/api/network")
    def described() -> Response:
        return _json(describe(network, pictures))

    @app.get("/api/layers/{index}/field")
    def field(index: int, asked: Annotated[_Place, Query()]) -> Response:
        return _json({"box": network.box(index, asked.row, asked.column)})


def describe(network: Network, pictures: Pictures) -> dict[str, Any]:
    """The network, its layers and the images: the first that the page asks for."""
    first = network.first_convolution
    return {
        "name": network.name,
        "input": network.input_shape,
        "mean": network.mean,
        "std": network.std,
        "images": [_image(pictures, number) for number in range(len(pictures))],
        "classes": network.classes,
        "layers": [_layer(layer) for layer in network.layers],
        "totals": network.plan.totals.to_dict(),
        "first_conv": None if first is None else first.index,
        "film": False,
        "notes": [*network.notes, *pictures.notes],
    }


def _image(pictures: Pictures, number: int) -> dict[str, Any]:
    picture = pictures[number]
    known = {} if picture.label is None else {"label": picture.label}
    return {"id": number, "name": picture.name, "width": picture.width, "height": picture.height} | known


def _layer(layer: Layer) -> dict[str, Any]:
    row = layer.row
    field: Any = row.receptive_field
    if isinstance(field, tuple):
        field = {"size": field, "jump": layer.jump, "start": layer.start}
    spec = layer.convolution.spec if layer.convolution else None
    return {
        "index": layer.index,
        "name": row.name,
        "type": row.type,
        "kind": layer.kind,
        "occurrence": layer.occurrence,
        "input_shape": layer.input_shape,
        "output_shape": row.output_shape[1:],
        "map_shape": layer.map_shape if layer.has_maps else None,
        "kernel": row.kernel,
        "stride": row.stride,
        "padding": spec.padding if spec else row.padding,
        "padding_mode": spec.padding_mode if spec else row.padding_mode,
        "dilation": row.dilation,
        "groups": row.groups,
        "bias": spec.bias if spec else None,
        "parameters": row.parameters,
        "shared": row.shared,
        "macs": row.macs,
        "field": field,
        "dense": row.dense.to_dict() if row.dense else None,
        "slides": spec is not None,
    }


# ---------------------------------------------------------------------------------------------------------------------
# Images
# ---------------------------------------------------------------------------------------------------------------------


def _add_images(app: FastAPI, pictures: Pictures) -> None:
    @app.get("/api/images/{number}")
    def image(number: int, asked: Annotated[_View, Query()]) -> Response:
        if asked.box is not None:
            top, left, height, width = (int(n) for n in asked.box.split(","))
            content = pictures.seen(number, (top, left, height, width))
        elif asked.view == "input":
            content = pictures.seen(number)
        elif asked.view == "thumb":
            content = pictures.thumbnail(number, asked.side)
        else:
            content = pictures.original(number)
        return Response(content, media_type="image/png")

    @app.get("/api/images/{number}/values")
    def values(number: int) -> Response:
        return _floats(pictures.input(number).numpy())


# ---------------------------------------------------------------------------------------------------------------------
# Layers
# ---------------------------------------------------------------------------------------------------------------------


def _add_layers(app: FastAPI, network: Network, pictures: Pictures) -> None:
    def look(index: int, image: int) -> Moment:
        pictures[image]
        return network.look(image, partial(pictures.input, image), index)

    def summed_up(maps: NDArray[Any]) -> dict[str, Any]:
        channels = statistics(maps)
        return {"shape": maps.shape, "channels": channels, "order": most_active_first(channels)}

    @app.get("/api/layers/{index}/maps")
    def maps(index: int, asked: Annotated[_OfImage, Query()]) -> Response:
        return _json(summed_up(_maps(_made(look(index, asked.image)))))

    @app.get("/api/layers/{index}/maps/values")
    def map_values(index: int, asked: Annotated[_Slice, Query()]) -> Response:
        return _floats(_maps(_made(look(index, asked.image)))[asked.first : asked.first + asked.count])

    @app.get("/api/layers/{index}/input")
    def given(index: int, asked: Annotated[_OfImage, Query()]) -> Response:
        tensor = _given(network.layer(index), look(index, asked.image))
        own = torch.equal(tensor.flatten(), pictures.input(asked.image).to(tensor.dtype).flatten())
        return _json(summed_up(_maps(tensor)) | {"image": own})

    @app.get("/api/layers/{index}/input/values")
    def given_values(index: int, asked: Annotated[_Slice, Query()]) -> Response:
        maps = _maps(_given(network.layer(index), look(index, asked.image)))
        return _floats(maps[asked.first : asked.first + asked.count])

    @app.get("/api/layers/{index}/unit")
    def one_unit(index: int, asked: Annotated[_OfUnit, Query()]) -> Response:
        moment = look(index, asked.image)
        found, size = _unit(network.layer(index), moment, asked)
        first, count = (int(n) for n in asked.channels.split(","))
        model = None if asked.any else float(_convolved(moment)[asked.channel, asked.row, asked.column])
        return _json(
            {
                "layer": index,
                "image": asked.image,
                "channel": asked.channel,
                "row": asked.row,
                "column": asked.column,
                "spec": spec_of(found.spec, size),
                "output_shape": found.output_shape,
                "formula": _formulas(found.spec, size),
                "inputs": {
                    "channels": found.channels,
                    "rows": found.rows,
                    "columns": found.columns,
                    "sources": {"rows": _sources(found.row_sources), "columns": _sources(found.column_sources)},
                },
                "first": first,
                "patch": found.patch[first : first + count],
                "kernel": found.kernel[first : first + count],
                "products": found.products[first : first + count],
                "sums": found.sums,
                "bias": found.bias,
                "total": found.total,
                "magnitude": found.magnitude,
                "model": model,
                "difference": None if model is None else found.total - model,
            }
        )

    @app.get("/api/layers/{index}/slide")
    def slide(index: int, asked: Annotated[_Changes, Query()]) -> Response:
        convolution = _convolution(network.layer(index), look(index, asked.image))
        spec, size = asked.spec(convolution.spec), _input_size(look(index, asked.image))
        shape = (spec.out_channels, *spec.output_size(size))
        _channel_exists(asked.channel, spec)
        return _json({"spec": spec_of(spec, size), "output_shape": shape, "formula": _formulas(spec, size)})

    @app.get("/api/layers/{index}/slide/values")
    def slide_values(index: int, asked: Annotated[_Changes, Query()]) -> Response:
        moment = look(index, asked.image)
        convolution = _convolution(network.layer(index), moment)
        _channel_exists(asked.channel, convolution.spec)
        if not asked.any:
            return _floats(_convolved(moment)[asked.channel])
        spec = asked.spec(convolution.spec)
        return _floats(network.compute(lambda: one_map(spec, moment, asked.channel)))


def one_map(spec: Conv2dSpec, moment: Moment, channel: int) -> NDArray[Any]:
    """The map of one output channel with a changed spec, `(H_out, W_out)`, in float64."""
    convolution = moment.convolution
    assert convolution is not None
    assert moment.input is not None
    reads = group_channels(spec, channel)
    size = _input_size(moment)
    height, width = spec.output_size(size)
    if (height * width + len(reads) * size[0] * size[1]) * 8 > _MOST_BYTES * 4:
        raise UserError("this map would be too large to show: use a larger stride, less padding, or a smaller --input.")
    kernel = kernel_of(spec, convolution.weight.double().numpy(), channel, convolution.spec.groups)
    (top, bottom), (left, right) = spec.sides(size)
    part = moment.input[:, reads.start : reads.stop].double()
    mode = {"zeros": "constant"}.get(spec.padding_mode, spec.padding_mode)
    padded = torch.nn.functional.pad(part, (left, right, top, bottom), mode=mode)
    made = torch.nn.functional.conv2d(
        padded, torch.from_numpy(kernel)[None], stride=spec.stride, dilation=spec.dilation
    )[0, 0]
    if convolution.bias is not None:
        made += convolution.bias[channel].double()
    values: NDArray[Any] = made.numpy()
    return values


def _unit(layer: Layer, moment: Moment, asked: _OfUnit) -> tuple[Unit, tuple[int, int]]:
    convolution = _convolution(layer, moment)
    assert moment.input is not None
    spec = asked.spec(convolution.spec)
    weight, bias = convolution.weight, convolution.bias
    _channel_exists(asked.channel, spec)
    made = unit(
        spec,
        moment.input[0].numpy() if moment.input.dtype != torch.bfloat16 else moment.input[0].float().numpy(),
        weight.float().numpy() if weight.dtype == torch.bfloat16 else weight.numpy(),
        None if bias is None else bias.double().numpy(),
        asked.channel,
        asked.row,
        asked.column,
        convolution.spec.groups,
    )
    return made, _input_size(moment)


def spec_of(spec: Conv2dSpec, size: tuple[int, int]) -> dict[str, Any]:
    """The settings as the page shows them, the padding worked out for an input of `size`."""
    return {
        "in_channels": spec.in_channels,
        "out_channels": spec.out_channels,
        "kernel": spec.kernel_size,
        "stride": spec.stride,
        "padding": spec.sides(size),
        "dilation": spec.dilation,
        "groups": spec.groups,
        "bias": spec.bias,
        "padding_mode": spec.padding_mode,
    }


def _formulas(spec: Conv2dSpec, size: tuple[int, int]) -> dict[str, str]:
    height, width = size_formula(spec, size)
    return {"height": height, "width": width}


def _sources(places: tuple[int, ...]) -> list[int | None]:
    return [None if place < 0 else place for place in places]


def _channel_exists(channel: int, spec: Conv2dSpec) -> None:
    if channel >= spec.out_channels:
        raise NotThere(f"there is no channel {channel}: the layer has {spec.out_channels}, and counting starts at 0.")


def _made(moment: Moment) -> Tensor:
    assert moment.output is not None  # `look` has seen to it
    return moment.output


def _given(layer: Layer, moment: Moment) -> Tensor:
    if moment.input is None:
        raise NotThere(f"{layer.name!r} is given no maps.")
    return moment.input


def _convolution(layer: Layer, moment: Moment) -> Convolution:
    if moment.convolution is None or moment.input is None:
        raise NotThere(f"{layer.name!r} ({layer.type}) is not a 2-D convolution: nothing slides in it.")
    return moment.convolution


def _convolved(moment: Moment) -> NDArray[Any]:
    tensor = moment.convolved if moment.convolved is not None else _made(moment)
    return _maps(tensor)


def _input_size(moment: Moment) -> tuple[int, int]:
    assert moment.input is not None
    return moment.input.shape[-2], moment.input.shape[-1]


# ---------------------------------------------------------------------------------------------------------------------
# Kernels
# ---------------------------------------------------------------------------------------------------------------------


def _add_kernels(app: FastAPI, network: Network) -> None:
    def weights(index: int) -> Tensor:
        layer = network.layer(index)
        if layer.convolution is None:
            raise NotThere(f"{layer.name!r} ({layer.type}) has no kernels that slide over an image.")
        return layer.convolution.weight.float()

    @cache
    def names(index: int) -> dict[str, Any]:
        verdicts = name_kernels(weights(index).numpy())
        described = [{"name": v.name, "figures": dict(v.figures), "words": v.words} for v in verdicts]
        return {"names": described, "split": {"counts": dict(split(verdicts).counts), "words": split(verdicts).words}}

    @app.get("/api/layers/{index}/kernels")
    def kernels(index: int) -> Response:
        weight = weights(index)
        known = names(index) if network.layer(index) is network.first_convolution else {"names": None}
        return _json({"shape": list(weight.shape), "scale": float(weight.abs().max()), **known})

    @app.get("/api/layers/{index}/kernels/values")
    def kernel_values(index: int, asked: Annotated[_Kernels, Query()]) -> Response:
        return _floats(weights(index)[asked.first : asked.first + asked.count].numpy())

    @app.get("/api/layers/{index}/bias/values")
    def bias(index: int) -> Response:
        weight, layer = weights(index), network.layer(index)
        added = layer.convolution.bias if layer.convolution else None
        return _floats(np.zeros(weight.shape[0]) if added is None else added.float().numpy())


# ---------------------------------------------------------------------------------------------------------------------
# The page's own files
# ---------------------------------------------------------------------------------------------------------------------


def page_files() -> dict[str, Any]:
    """The page's files by the path that they are asked for with; '' is index.html."""
    files: dict[str, Any] = {}

    def add(folder: Any, prefix: str) -> None:
        for entry in folder.iterdir():
            if entry.is_dir():
                add(entry, f"{prefix}{entry.name}/")
            elif any(entry.name.endswith(suffix) for suffix in _TYPES):
                files[prefix + entry.name] = entry

    add(resources.files("convforge.see") / "page", "")
    return files | ({"": files["index.html"]} if "index.html" in files else {})


def _add_page(app: FastAPI) -> None:
    # A path is looked up among the files that there are, and never put together.
    @app.get("/{path:path}")
    def page(path: str) -> Response:
        file = page_files().get(path)
        if file is None:
            raise NotThere("there is nothing at this address.")
        suffix = "." + file.name.rpartition(".")[2]
        return Response(file.read_bytes(), media_type=_TYPES[suffix])
