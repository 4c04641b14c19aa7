"""What the page asks for about layers: maps, the products and sums behind one number, kernels."""

from __future__ import annotations

from functools import cache, partial
from typing import Annotated, Any

import numpy as np
import torch
from fastapi import APIRouter, Query, Response
from numpy.typing import NDArray
from torch import Tensor

from ..errors import UserError
from ..learned.namer import name_kernels, split
from ..spec import Conv2dSpec
from .answers import MOST_BYTES, as_floats, as_json
from .arithmetic import Unit, group_channels, kernel_of, size_formula, unit
from .asked import Changes, OfImage, OfUnit, Place, Slice, SomeKernels
from .network import Layer, Network, NotThere, map_shape
from .pictures import Pictures
from .watch import Convolution, Moment


def layers_router(network: Network, pictures: Pictures) -> APIRouter:
    """What layers are given and make, and how each number of it comes about."""
    router = APIRouter()

    def look(index: int, image: int) -> Moment:
        pictures[image]
        return network.look(image, partial(pictures.input, image), index)

    def summed_up(maps: NDArray[Any]) -> dict[str, Any]:
        channels = statistics(maps)
        return {"shape": maps.shape, "channels": channels, "order": most_active_first(channels)}

    @router.get("/api/layers/{index}/maps")
    def maps(index: int, asked: Annotated[OfImage, Query()]) -> Response:
        return as_json(summed_up(_maps(_made(look(index, asked.image)))))

    @router.get("/api/layers/{index}/maps/values")
    def map_values(index: int, asked: Annotated[Slice, Query()]) -> Response:
        return as_floats(_maps(_made(look(index, asked.image)))[asked.first : asked.first + asked.count])

    @router.get("/api/layers/{index}/input")
    def given(index: int, asked: Annotated[OfImage, Query()]) -> Response:
        tensor = _given(network.layer(index), look(index, asked.image))
        own = False
        if tuple(tensor.shape[1:]) == network.input_shape:
            own = torch.equal(tensor[0], pictures.input(asked.image).to(tensor.dtype))
        return as_json(summed_up(_maps(tensor)) | {"image": own})

    @router.get("/api/layers/{index}/input/values")
    def given_values(index: int, asked: Annotated[Slice, Query()]) -> Response:
        maps = _maps(_given(network.layer(index), look(index, asked.image)))
        return as_floats(maps[asked.first : asked.first + asked.count])

    @router.get("/api/layers/{index}/unit")
    def one_unit(index: int, asked: Annotated[OfUnit, Query()]) -> Response:
        moment = look(index, asked.image)
        found, size = _unit(network.layer(index), moment, asked)
        first, count = (int(n) for n in asked.channels.split(","))
        model = None if asked.any else float(_convolved(moment)[asked.channel, asked.row, asked.column])
        return as_json(
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

    @router.get("/api/layers/{index}/slide")
    def slide(index: int, asked: Annotated[Changes, Query()]) -> Response:
        moment = look(index, asked.image)
        spec, size = asked.spec(_convolution(network.layer(index), moment).spec), _input_size(moment)
        shape = (spec.out_channels, *spec.output_size(size))
        _channel_exists(asked.channel, spec)
        return as_json({"spec": spec_of(spec, size), "output_shape": shape, "formula": _formulas(spec, size)})

    @router.get("/api/layers/{index}/slide/values")
    def slide_values(index: int, asked: Annotated[Changes, Query()]) -> Response:
        moment = look(index, asked.image)
        convolution = _convolution(network.layer(index), moment)
        _channel_exists(asked.channel, convolution.spec)
        if not asked.any:
            return as_floats(_array(_convolved(moment)[asked.channel]))
        spec = asked.spec(convolution.spec)
        return as_floats(network.compute_at_once(lambda: one_map(spec, moment, asked.channel)))

    @router.get("/api/layers/{index}/field")
    def field(index: int, asked: Annotated[Place, Query()]) -> Response:
        return as_json({"box": network.box(index, asked.row, asked.column)})

    return router


def one_map(spec: Conv2dSpec, moment: Moment, channel: int) -> NDArray[Any]:
    """The map of one output channel with a changed spec, `(H_out, W_out)`, in float64."""
    convolution = moment.convolution
    assert convolution is not None
    assert moment.input is not None
    reads = group_channels(spec, channel)
    size = _input_size(moment)
    height, width = spec.output_size(size)
    if (height * width + len(reads) * size[0] * size[1]) * 8 > MOST_BYTES * 4:
        raise UserError("this map would be too large to show: use a larger stride, less padding, or a smaller --input.")
    kernel = kernel_of(spec, _array(convolution.weight), channel, convolution.spec.groups)
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


def _unit(layer: Layer, moment: Moment, asked: OfUnit) -> tuple[Unit, tuple[int, int]]:
    convolution = _convolution(layer, moment)
    assert moment.input is not None
    spec = asked.spec(convolution.spec)
    weight, bias = convolution.weight, convolution.bias
    _channel_exists(asked.channel, spec)
    made = unit(
        spec,
        _array(moment.input[0]),
        _array(weight),
        None if bias is None else _array(bias),
        asked.channel,
        asked.row,
        asked.column,
        convolution.spec.groups,
    )
    return made, _input_size(moment)


def _array(tensor: Tensor) -> NDArray[Any]:
    """The tensor's own memory, but for a type that NumPy does not have."""
    array: NDArray[Any] = (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).numpy()
    return array


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


def _convolved(moment: Moment) -> Tensor:
    """What the convolution made, `(K, H, W)`, in the model's own precision."""
    tensor = moment.convolved if moment.convolved is not None else _made(moment)
    return tensor[0]


def _input_size(moment: Moment) -> tuple[int, int]:
    assert moment.input is not None
    return moment.input.shape[-2], moment.input.shape[-1]


# ---------------------------------------------------------------------------------------------------------------------
# Maps in figures
# ---------------------------------------------------------------------------------------------------------------------


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
# Kernels
# ---------------------------------------------------------------------------------------------------------------------


def kernels_router(network: Network) -> APIRouter:
    """The weights of convolutions, and what those of the first look for."""
    router = APIRouter()

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

    @router.get("/api/layers/{index}/kernels")
    def kernels(index: int) -> Response:
        weight = weights(index)
        known = names(index) if network.layer(index) is network.first_convolution else {"names": None}
        return as_json({"shape": list(weight.shape), "scale": float(weight.abs().max()), **known})

    @router.get("/api/layers/{index}/kernels/values")
    def kernel_values(index: int, asked: Annotated[SomeKernels, Query()]) -> Response:
        return as_floats(weights(index)[asked.first : asked.first + asked.count].numpy())

    @router.get("/api/layers/{index}/bias/values")
    def bias(index: int) -> Response:
        weight, layer = weights(index), network.layer(index)
        added = layer.convolution.bias if layer.convolution else None
        return as_floats(np.zeros(weight.shape[0]) if added is None else added.float().numpy())

    return router
