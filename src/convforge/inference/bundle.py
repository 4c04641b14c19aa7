"""Bundles: a network in one file, safe to take from anybody. docs/bundle.md says what each byte is.

A bundle is a safetensors file. Its tensors are the graph's constants; under the key `convforge.bundle` of its metadata
stands everything else, as JSON. So the numbers are read by a library that many have looked at, other tools can open the
file, and nothing that stands in it is executed.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..files import brief, each_once, header_is_short, opened
from ..graph.coding import decoded, encoded, members
from ..graph.mapped import mapped, still
from ..graph.nodes import Graph
from ..shown import shown
from . import answers
from .about import About

KEY = "convforge.bundle"
VERSION = 1
_DTYPES = {"float32": "F32", "float64": "F64"}
_MEMBERS = ("version", "dtype", "graph", "answer", "classes", "mean", "std")
_RESERVED = "__metadata__"
"""The one name that safetensors has for itself."""


@dataclass(frozen=True)
class Contents:
    """What a bundle holds."""

    graph: Graph
    dtype: str
    answer: answers.Template
    about: About


def to_bytes(contents: Contents) -> bytes:
    """The file. The same contents always give the same bytes.

    Raises `UserError` where a constant has the one name that the format has for itself.
    """
    from safetensors.numpy import save

    graph, about = contents.graph, contents.about
    if _RESERVED in graph.constants:
        raise UserError(f"a bundle cannot hold weights of the name {_RESERVED!r}: rename them.")
    described = {
        "version": VERSION,
        "dtype": contents.dtype,
        "graph": encoded(graph),
        "answer": answers.to_json(contents.answer),
        "classes": about.classes,
        "mean": about.mean,
        "std": about.std,
    }
    text = json.dumps(described, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    tensors = {name: np.ascontiguousarray(still(array), contents.dtype) for name, array in graph.constants.items()}
    content: bytes = save(tensors, {KEY: text})
    return content


def read(path: str | os.PathLike[str]) -> Contents:
    """What a bundle holds, checked.

    Memory is taken for as many numbers as the file has, and only when all sizes have been found to fit it.

    Raises:
        UserError: with one sentence, for a file that is no bundle, damaged, of a newer version, or malicious.
    """
    from safetensors import SafetensorError

    place, called = Path(path), shown(path)
    try:
        if not place.is_file():
            raise UserError(f"{called} is not a file: give a bundle, such as convforge export --to bundle writes.")
        with place.open("rb") as file:
            start = file.read(8)
        if not header_is_short(start):
            raise UserError(f"{called} is not a bundle: it does not begin as one.")
        with opened(place, "np") as file:
            text = (file.metadata() or {}).get(KEY)
            if text is None:
                raise UserError(f"{called} is a safetensors file, but not a bundle: it has no {KEY!r} in its metadata.")
            described = _described(text)
            dtype = described["dtype"]
            for name in file.keys():  # noqa: SIM118 (not a mapping)
                if (found := file.get_slice(name).get_dtype()) != _DTYPES[dtype]:
                    raise UserError(f"the tensor {name[:80]!r} is {found}, and the network computes in {dtype}.")
        return _contents(described, _tensors(place, dtype))
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{called} cannot be read ({brief(error)}); it is damaged or was cut short.") from error
    except UserError as error:
        words = shown(str(error))
        raise UserError(words if words.startswith(called) else f"{called} is not a sound bundle: {words}") from error


def _tensors(path: Path, dtype: str) -> dict[str, np.ndarray[Any, Any]]:
    """Its numbers, which stay in the file, whose header has been found to be sound.

    Raises ValueError where it is another file by now.
    """
    content = mapped(path)
    begin = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(bytes(content[8:begin]), object_pairs_hook=each_once)
    found = {}
    for name, said in header.items():
        if name != _RESERVED:
            shape, (first, _) = said["shape"], said["data_offsets"]
            count = math.prod(shape)
            flat = np.frombuffer(content, dtype, count, begin + first) if count else np.empty(0, dtype)
            found[name] = flat.reshape(shape)
    return found


def _described(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text, object_pairs_hook=each_once, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise UserError(f"its description cannot be read as JSON ({brief(error)}).") from error
    version = value.get("version") if isinstance(value, dict) else None
    if type(version) is int and version > VERSION:
        raise UserError(f"it has the version {version}, and this convforge reads {VERSION}: update convforge.")
    found = members(value, "its description", _MEMBERS)
    if type(version) is not int or version != VERSION:
        raise UserError(f"its version cannot be {str(version)[:80]!r}.")
    if not isinstance(found["dtype"], str) or found["dtype"] not in _DTYPES:
        raise UserError(f"its numbers are {str(found['dtype'])[:80]!r}, and may be {' or '.join(_DTYPES)}.")
    return found


def _no_number(word: str) -> float:
    raise ValueError(f"{word} is no number in JSON")


def _contents(described: dict[str, Any], tensors: dict[str, Any]) -> Contents:
    for name in ("classes", "mean", "std"):
        if described[name] is not None and not isinstance(described[name], list):
            raise UserError(f"its {name} must be a list or null.")
    about = About(described["classes"], described["mean"], described["std"])
    graph = decoded(described["graph"], tensors)
    answer = answers.from_json(described["answer"], len(graph.outputs))
    return Contents(graph, described["dtype"], answer, about)
