"""A network, its layers and the images in words and numbers: the first that the page asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .network import Layer, Network
from .pictures import Pictures


def describe(network: Network, pictures: Pictures, film: bool) -> dict[str, Any]:
    """The network, its layers and the images: the first that the page asks for."""
    first = network.first_convolution
    return {
        "name": network.name,
        "short": _short(network.name),
        "input": network.input_shape,
        "mean": network.mean,
        "std": network.std,
        "images": [_image(pictures, number) for number in range(len(pictures))],
        "classes": network.classes,
        "layers": [_layer(layer) for layer in network.layers],
        "totals": network.plan.totals.to_dict(),
        "first_conv": None if first is None else first.index,
        "film": film,
        "notes": [*network.notes, *pictures.notes],
    }


def _short(name: str) -> str:
    """Of a folder its own name: what stands before it tells nobody what it is, and is what a narrow page would show."""
    try:
        return Path(name).resolve().name if Path(name).is_dir() else name
    except (OSError, ValueError):  # a long line of layers is no path
        return name


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
        "given_shape": row.input_shape[1:],
        "output_shape": row.output_shape[1:],
        "map_shape": layer.map_shape if layer.has_maps else None,
        "kernel": row.kernel,
        "stride": spec.stride if spec else row.stride,
        "spread": layer.convolution.spread if layer.convolution else None,
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
