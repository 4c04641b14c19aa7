"""What the page asks for about the network's answer to an image."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from .answers import as_json
from .asked import OfAnswer
from .pictures import Pictures
from .verdict import NoClasses, Verdict, Verdicts


def answers_router(verdicts: Verdicts, pictures: Pictures) -> APIRouter:
    """`GET /api/answer` says which classes the network sees in an image, the most probable first."""
    router = APIRouter()

    @router.get("/api/answer")
    def answer(asked: Annotated[OfAnswer, Query()]) -> Response:
        label = pictures.label(asked.image)
        known = {"image": asked.image} | ({} if label is None else {"label": label})
        try:
            found = verdicts.of(asked.image)
        except NoClasses as reason:
            return as_json(known | {"ranking": None, "why": str(reason)})
        return as_json(known | _described(verdicts, found, asked.top))

    return router


def _described(verdicts: Verdicts, found: Verdict, top: int) -> dict[str, Any]:
    """`right` is there where the truth is known."""

    def entry(number: int) -> dict[str, Any]:
        return {
            "class": number,
            "name": verdicts.name(number),
            "probability": float(found.shares[number]),
            "value": float(found.logits[number]),
        }

    best = found.best(top)
    described = {
        "ranking": [entry(number) for number in best],
        "classes": len(found.shares),
        "logits": found.are_logits,
        "layer": found.layer,
    }
    if found.truth is None:
        return described
    return described | {"truth": entry(found.truth), "right": found.truth == best[0]}
