"""What the page asks for about learning: where a weight's gradient comes from, and what one step changes."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query, Response

from .answers import as_floats, as_json
from .arithmetic import group_channels
from .asked import OfLoss, OfStep, OfWeight
from .backward import Backward, Learned
from .network import Network, NotThere
from .verdict import Verdicts

_LARGEST = 6


def backward_router(network: Network, verdicts: Verdicts, backward: Backward) -> APIRouter:
    """`GET …/backward` takes a weight's gradient apart, `GET …/backward/values` is what it met, what came back, and
    their products, and `GET …/backward/step` is what one step of learning changes. `GET …/backward/loss`, `…/incoming`
    and `…/gradient` are what the first two are made of, for all weights: an exported page has these."""
    router = APIRouter()

    def place(index: int, asked: OfWeight) -> tuple[int, int, int, int, int]:
        """The class, and the weight that was asked for: where none was named, the one with the largest gradient."""
        target = backward.target(asked.image, asked.of)
        gradient = backward.of(index, asked.image, target).gradient
        if asked.channel >= len(gradient):
            raise NotThere(f"there is no channel {asked.channel}: the layer has {len(gradient)}.")
        named = (asked.read, asked.row, asked.column)
        part = abs(gradient[asked.channel])
        if asked.read is not None and asked.read < len(part):
            part = np.where(np.arange(len(part))[:, None, None] == asked.read, part, -1)
        largest = [int(n) for n in np.unravel_index(int(part.argmax()), part.shape)]
        read, row, column = (one if given is None else given for one, given in zip(largest, named, strict=True))
        return target, asked.channel, read, row, column

    @router.get("/api/layers/{index}/backward")
    def products(index: int, asked: Annotated[OfWeight, Query()]) -> Response:
        target, channel, read, row, column = place(index, asked)
        came = backward.of(index, asked.image, target)
        found = backward.weight(index, asked.image, target, channel, read, row, column)
        convolution = network.layer(index).convolution
        assert convolution is not None
        reads = group_channels(convolution.spec, channel)
        each = found.products
        order = np.argsort(-abs(each), axis=None, kind="stable")[:_LARGEST]
        spots = [tuple(int(n) for n in np.unravel_index(int(at), each.shape)) for at in order]
        autograd = float(came.gradient[channel, read, row, column])
        return as_json(
            {
                "of": {"class": target, "name": verdicts.name(target)},
                "loss": came.loss,
                "probability": float(np.exp(-came.loss)),
                "read": read,
                "row": row,
                "column": column,
                "input": reads[read],
                "inputs": len(reads),
                "kernel": convolution.weight[channel, read].float().numpy(),
                "gradient": came.gradient[channel, read],
                "shape": each.shape,
                "total": found.total,
                "magnitude": float(abs(each).sum()),
                "autograd": autograd,
                "difference": found.total - autograd,
                "largest": [
                    {"row": r, "column": c, "met": found.met[r, c], "incoming": found.incoming[r, c]}
                    | {"product": each[r, c]}
                    for r, c in spots
                ],
            }
        )

    @router.get("/api/layers/{index}/backward/values")
    def values(index: int, asked: Annotated[OfWeight, Query()]) -> Response:
        found = backward.weight(index, asked.image, *place(index, asked))
        return as_floats(np.stack([found.met, found.incoming, found.products]))

    @router.get("/api/layers/{index}/backward/loss")
    def loss(index: int, asked: Annotated[OfLoss, Query()]) -> Response:
        target = backward.target(asked.image, asked.of)
        came = backward.of(index, asked.image, target)
        of = {"class": target, "name": verdicts.name(target)}
        return as_json({"of": of, "loss": came.loss, "probability": float(np.exp(-came.loss))})

    @router.get("/api/layers/{index}/backward/incoming")
    def incoming(index: int, asked: Annotated[OfLoss, Query()]) -> Response:
        return as_floats(backward.of(index, asked.image, backward.target(asked.image, asked.of)).incoming)

    @router.get("/api/layers/{index}/backward/gradient")
    def gradient(index: int, asked: Annotated[OfLoss, Query()]) -> Response:
        return as_floats(backward.of(index, asked.image, backward.target(asked.image, asked.of)).gradient)

    @router.get("/api/layers/{index}/backward/step")
    def step(index: int, asked: Annotated[OfStep, Query()]) -> Response:
        target = backward.target(asked.image, asked.of)
        before, alone, whole = backward.step(index, asked.image, target, asked.rate)
        return as_json({"before": _written(before), "layer": _written(alone), "network": _written(whole)})

    return router


def _written(learned: Learned) -> dict[str, Any]:
    return {"loss": learned.loss, "probability": learned.probability}
