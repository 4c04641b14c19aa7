"""What the page asks for that takes longer than a second: top patches, class preferences, pictures by ascent."""

from __future__ import annotations

import math
from base64 import b64encode
from typing import Any, Literal

import numpy as np
from fastapi import APIRouter, Response
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from ..errors import UserError
from .answers import as_json
from .ascent import LARGEST, MOST_STEPS, Ascents
from .crops import outside, png, shown
from .detects import Detects, Patch
from .hooks import check
from .jobs import Jobs, NoSuchJob, Progress, Status
from .network import Network, NotThere
from .pictures import Pictures
from .shelf import Shelf
from .topmost import KEPT


class _Asked(BaseModel):
    """A job. `count` is of patches; `size` (pixels of the longer side), `steps` and `seed` are of an ascent."""

    model_config = ConfigDict(extra="forbid")

    kind: Literal["patches", "ascent", "classes"]
    layer: int = Field(ge=0, le=2**31 - 1)
    channel: int = Field(ge=0, le=2**31 - 1)
    count: int = Field(default=KEPT, ge=1, le=KEPT)
    size: int | None = Field(default=None, ge=8, le=LARGEST)
    steps: int | None = Field(default=None, ge=1, le=MOST_STEPS)
    seed: int = Field(default=0, ge=0, le=2**31 - 1)


def jobs_router(network: Network, pictures: Pictures, jobs: Jobs, shelf: Shelf | None = None) -> APIRouter:
    """`POST /api/jobs` begins a job, or answers at once where the answer is known; `GET /api/jobs/ID` says how far it
    is, and `DELETE /api/jobs/ID` cancels it. All three answer with the job's status."""
    router = APIRouter()
    answers = Answers(network, pictures, shelf)

    @router.post("/api/jobs")
    def begin(asked: _Asked) -> Response:
        check(network.layer(asked.layer), asked.channel)
        if asked.kind == "classes" and not answers.detects.classes:
            raise UserError("the images have no classes: give a folder that has one sub-folder for each class.")
        known = answers.known(asked)
        if known is not None:
            return _answer(jobs.status(jobs.finished(known)))
        id = jobs.start(lambda progress: answers.work_out(asked, progress), _WORDS[asked.kind], repr(asked))
        return _answer(jobs.status(id))

    @router.get("/api/jobs/{id}")
    def status(id: str) -> Response:
        try:
            return _answer(jobs.status(id))
        except NoSuchJob as reason:
            raise NotThere(str(reason)) from None

    @router.delete("/api/jobs/{id}")
    def cancel(id: str) -> Response:
        try:
            return _answer(jobs.cancel(id))
        except NoSuchJob as reason:
            raise NotThere(str(reason)) from None

    return router


_WORDS = {
    "patches": "looking for what excites the channel",
    "classes": "looking for the classes that excite the channel",
    "ascent": "drawing what excites the channel",
}


def _answer(status: Status) -> Response:
    return as_json(status.to_dict())


class Answers:
    """The results of jobs as the page gets them."""

    def __init__(self, network: Network, pictures: Pictures, shelf: Shelf | None = None) -> None:
        self._network, self._pictures = network, pictures
        self.detects = Detects(network, pictures, shelf)
        self._ascents = Ascents(network, shelf)

    def known(self, asked: _Asked) -> dict[str, Any] | None:
        """The result, if it is in memory."""
        if asked.kind == "ascent" or not self.detects.is_ready(asked.layer):
            return None
        return self.work_out(asked, Progress())

    def work_out(self, asked: _Asked, progress: Progress) -> dict[str, Any]:
        """The result."""
        if asked.kind == "ascent":
            return self.ascent(asked.layer, asked.channel, asked.size, asked.steps, asked.seed, progress)
        self.detects.fill(asked.layer, progress)
        if asked.kind == "patches":
            return self.patches(asked.layer, asked.channel, asked.count)
        return self.classes(asked.layer, asked.channel)

    def patches(self, layer: int, channel: int, count: int = KEPT) -> dict[str, Any]:
        """`patches`, the most exciting first, of a layer that is ready. `box` is the receptive field, which may reach
        `outside` the image; `shown` is the part of it that `src` draws."""
        found = [self._patch(patch) for patch in self.detects.patches(layer, channel, count)]
        field = self._network.layer(layer).row.receptive_field
        return {"layer": layer, "channel": channel, "field": field, "patches": found}

    def _patch(self, patch: Patch) -> dict[str, Any]:
        picture = self._pictures[patch.image]
        described: dict[str, Any] = {
            "image": patch.image,
            "name": picture.name,
            "value": _finite(patch.value),
            "row": patch.row,
            "column": patch.column,
            "box": patch.box,
            "src": f"/api/images/{patch.image}?view=input",
        }
        if picture.label is not None:
            described["label"] = picture.label
        if isinstance(patch.box, tuple) and min(patch.box[2:]) > 0:
            size = self._network.input_shape[1:]
            part = shown(patch.box, size)
            described |= {"outside": outside(patch.box, size), "shown": part}
            described["src"] += "&box=" + ",".join(str(number) for number in part)
        return described

    def classes(self, layer: int, channel: int) -> dict[str, Any]:
        """`classes`, the most exciting first, of a layer that is ready."""
        found = self.detects.preferences(layer, channel)
        return {
            "layer": layer,
            "channel": channel,
            "classes": [{"name": one.name, "mean": _finite(one.mean), "count": one.count} for one in found],
        }

    def ascent(
        self, layer: int, channel: int, size: int | None, steps: int | None, seed: int, progress: Progress
    ) -> dict[str, Any]:
        """The picture, and `value`, what the channel answers to it; `best` is the highest answer to a real image, where
        that is known; a `note` where the picture does not show what it should. An input of other than 1 or 3 channels
        is shown as one grey picture a channel, side by side."""
        found = self._ascents.ascend(layer, channel, size, steps, seed, progress)
        patches = self.detects.patches(layer, channel, 1) if self.detects.is_ready(layer) else []
        best = _finite(patches[0].value) if patches else None
        described = {
            "layer": layer,
            "channel": channel,
            "src": "data:image/png;base64," + b64encode(png(_as_picture(found.pixels))).decode(),
            "size": found.pixels.shape[1:],
            "planes": found.pixels.shape[0],
            "window": found.is_window,
            "value": _finite(found.value),
            "best": best,
        }
        note = _note(found.value, best)
        return described | ({"note": note} if note else {})


_ALIKE = 0.005  # what three digits, which the page shows, cannot tell apart


def _note(value: float, best: float | None) -> str | None:
    """What must be said of a picture that does not show what excites the channel."""
    if best is not None and max(value, 0) < best * (1 - _ALIKE):
        return "A real image excites this channel more: the climb from noise has ended below it."
    if value <= 0:
        return "Nothing was found that excites this channel above zero."
    return None


def _as_picture(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(C, H, W) as (H, W, 1 or 3)."""
    if len(pixels) in (1, 3):
        return np.ascontiguousarray(pixels.transpose(1, 2, 0))
    gap = np.full((pixels.shape[1], 1), 255, np.uint8)
    planes = [part for plane in pixels for part in (plane, gap)]
    return np.concatenate(planes[:-1], axis=1)[..., None]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
