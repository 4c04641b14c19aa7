"""What the page asks for about why: contributions of places and channels to a class, and what covering places does."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from .answers import as_json
from .asked import OfClass, OfRegion, ToOcclude
from .jobs import Jobs
from .lru import Kept
from .network import Network, NotThere
from .pictures import Pictures
from .verdict import Verdicts
from .why import AddsUpNowhere, Contributions, Covered, Why, cover

_KEPT = 32 * 2**20  # bytes of what networks answered to covered images


def why_router(network: Network, pictures: Pictures, verdicts: Verdicts, jobs: Jobs) -> APIRouter:
    """`GET /api/why` is the contribution of each place, `GET /api/why/region` the channels that carried it, and
    `POST /api/jobs/occlusion` begins a job."""
    router = APIRouter()
    why = Why(network, pictures, verdicts)
    answered = Kept[Covered](_KEPT, lambda found: found.bytes)

    def taken_apart(asked: OfClass) -> Contributions:
        return why.of(asked.image, asked.of, asked.against, asked.method, asked.layer)

    @router.get("/api/why")
    def places(asked: Annotated[OfClass, Query()]) -> Response:
        try:
            found = taken_apart(asked)
        except AddsUpNowhere as reason:
            return as_json({"values": None, "why": str(reason), "layers": [layer.index for layer in why.layers()]})
        return as_json(_described(found) | {"layers": [layer.index for layer in why.layers()]})

    @router.get("/api/why/region")
    def region(asked: Annotated[OfRegion, Query()]) -> Response:
        found = taken_apart(asked)
        carried, total = why.carried(found, asked.row, asked.column, asked.count)
        box: Any = None
        if asked.row is not None and asked.column is not None:
            box = network.box(found.layer, asked.row, asked.column)
        return as_json(
            {
                "layer": found.layer,
                "channels": [
                    {"channel": one.channel, "activation": one.activation, "weight": one.weight, "value": one.value}
                    | {"slide": slide(asked, found, one.channel)}
                    for one in carried
                ],
                "count": found.activations.shape[0],
                "sum": total,
                "box": box,
            }
        )

    def slide(asked: OfRegion, found: Contributions, channel: int) -> dict[str, int] | None:
        """Where the products of a channel's number are: at the place asked for, or where it contributed most."""
        row, column = asked.row, asked.column
        if row is None or column is None:
            values = abs(found.values[channel])
            row, column = divmod(int(values.argmax()), values.shape[1])
        place = why.origin(asked.image, found.layer, channel, row, column)
        return None if place is None else place._asdict()

    @router.post("/api/jobs/occlusion")
    def occlusion(asked: ToOcclude) -> Response:
        verdict = verdicts.of(asked.image)
        for number in (asked.of, asked.against):
            if number is not None and number >= len(verdict.logits):
                raise NotThere(f"there is no class {number}: there are {len(verdict.logits)}.")

        def work(progress: Any) -> dict[str, Any]:
            covered = answered.find(asked.image, lambda: cover(network, pictures.input(asked.image), progress))
            found = covered.lost(asked.of, asked.against)
            return {"values": found.drops.tolist(), "side": found.side, "step": found.step, "logit": found.logit}

        id = jobs.start(work, "covering places of the image", repr(asked))
        return as_json(jobs.status(id).to_dict())

    return router


def _described(found: Contributions) -> dict[str, Any]:
    """`sum` and `bias` make the `total`, which is compared with the model's `logit` where the method adds up."""
    places = found.by_place
    total = float(places.sum()) + found.bias
    exact = found.method == "cam"
    return {
        "method": found.method,
        "exact": exact,
        "layer": found.layer,
        "ending": found.ending,
        "values": places,
        "sum": float(places.sum()),
        "bias": found.bias,
        "total": total,
        "logit": found.logit,
        "difference": total - found.logit if exact else None,
    }
