"""The forms in which the page's server answers: JSON, float32 numbers, and one sentence for what went wrong."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
from fastapi import Response
from numpy.typing import NDArray

from ..errors import UserError
from ..shown import shown

MOST_BYTES = 64 * 2**20
"""Of one answer."""


def plain(value: Any) -> Any:
    """As JSON can have it: numbers that are not finite are null, and text, which may be the name of a file, is shown.

    >>> plain({"a": np.array([1.0, np.nan]), "b": (2, float("inf")), "c": "caf\\udce9.png"})
    {'a': [1.0, None], 'b': [2, None], 'c': 'caf\\\\xe9.png'}
    """
    if isinstance(value, str):
        return shown(value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return value.tolist() if np.isfinite(value).all() else plain(value.tolist())
    if isinstance(value, (list, tuple, range)):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def as_json(value: Any, status: int = 200) -> Response:
    return Response(json.dumps(plain(value), ensure_ascii=False), status, media_type="application/json")


def as_floats(values: NDArray[Any]) -> Response:
    """float32, little-endian, with the shape in a header."""
    if values.size * 4 > MOST_BYTES:
        raise UserError(f"that would be {values.size * 4 / 2**20:,.0f} MiB: ask for fewer at a time (first, count).")
    content = np.ascontiguousarray(values, "<f4").reshape(-1).view(np.uint8).data  # the numbers themselves, no copy
    shape = ",".join(str(n) for n in values.shape)
    return Response(content, media_type="application/octet-stream", headers={"X-Shape": shape})


def as_error(sentence: str, status: int) -> Response:
    return as_json({"error": sentence}, status)
