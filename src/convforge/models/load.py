"""`load`: a network from a file or folder, ready to be called.

Torch is imported for checkpoints only: ONNX files and bundles run without it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..inference import bundle
from ..inference.about import About
from ..inference.compiled import Compiled
from ..inference.model import Model
from ..shown import shown

if TYPE_CHECKING:
    from torch import nn

    from ..graph.onnx import File
    from .checkpoint import Architecture

FORMS = "the folder of a run, a bundle (convforge export --to bundle), or an ONNX file"

_CHECKPOINT = ("model.safetensors", "architecture.json")
_PICKLES = (".pt", ".pth", ".ckpt", ".bin", ".pkl")
_DOUBLE = 11
"""ONNX's number for float64; whatever else goes in is computed in float32."""
_ONNX_KEY = "convforge"
"""Where `convforge export --to onnx` leaves classes and normalisation."""


def load(
    path: str | os.PathLike[str],
    input_shape: Sequence[int] | None = None,
    *,
    classes: Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    threads: int = 0,
) -> Model:
    """The network in a file or folder. Nothing that stands there is executed.

    Weights of ONNX files and bundles are read from the file when they are packed for the kernels, and again for sizes
    of images that pack them in another way. So the file may be removed, or replaced in one step, while the network is
    in use; where it was written to instead, what needs its weights again says so.

    Args:
        path: a run's folder, an `.onnx` file from any framework, or a bundle.
        input_shape: `(C, H, W)`, where an ONNX file leaves it open.
        classes: names in the order of the outputs, where the file has none, or in the place of its own.
        mean, std: one number a channel, likewise: `predict` feeds (pixel / 255 − mean) / std.
        threads: how many to use; 0 for all cores.

    Raises:
        UserError: with one sentence, for what is missing, damaged or malicious, for a network with an operator that is
            not known, and for classes or a normalisation that do not fit it.

    >>> import tempfile
    >>> from convforge.graph.nodes import Graph, Node, Unary
    >>> doubled = Compiled(Graph({"x": (1, 3, 2, 2)}, ("y",), (Node(Unary("relu"), ("x",), "y"),), {}))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Model(doubled).save(f"{folder}/relu.bundle")
    ...     load(f"{folder}/relu.bundle")
    <convforge.Model for 3×2×2>
    """
    place, called = Path(path), shown(path)
    given = {"classes": classes, "mean": mean, "std": std}
    said: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if not place.exists():
        raise UserError(f"there is no {called}: give {FORMS}.")
    if place.name in _CHECKPOINT:
        place = place.parent
    if place.is_dir():
        _as_it_is(called, input_shape)
        return _checkpoint(place, said, threads)
    if place.suffix in _PICKLES:
        raise UserError(
            f"{called} is a pickle, which can run any code when it is loaded, so it is not: build the model, load its "
            "state_dict, and give it to convforge.compile."
        )
    if not _like_safetensors(place):
        with _said_of(called):
            return _onnx(place, input_shape, said, threads)
    contents = bundle.read(place)
    _as_it_is(called, input_shape)
    with _said_of(called):
        network = Compiled(contents.graph, contents.dtype, threads)
        return Model(network, replace(contents.about, **said), contents.answer)


@contextmanager
def _said_of(called: str) -> Iterator[None]:
    """The file's name in front of what is said of its network."""
    try:
        yield
    except UserError as error:
        words = shown(str(error))
        raise UserError(words if words.startswith(called) else f"{called} cannot be run: {words}") from error


def _as_it_is(called: str, input_shape: Sequence[int] | None) -> None:
    if input_shape is not None:
        raise UserError(f"{called} says itself what its images are: input_shape is for ONNX files that leave it open.")


def _like_safetensors(path: Path) -> bool:
    """Whether it begins as such files do, of which bundles are some: the length of a header, and its brace."""
    try:
        if not path.is_file():
            raise UserError(f"{shown(path)} is neither a file nor a folder: give {FORMS}.")
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise UserError(f"{shown(path)} cannot be read: {error.strerror or error}.") from error
    return path.suffix == ".bundle" or start[8:] == b"{"


# ---------------------------------------------------------------------------------------------------------------------
# Checkpoints
# ---------------------------------------------------------------------------------------------------------------------


def _checkpoint(folder: Path, said: dict[str, Any], threads: int) -> Model:
    from .checkpoint import load as read

    module, architecture = read(folder)
    return compiled(module, architecture, said, threads)


def compiled(
    module: nn.Module, architecture: Architecture, said: dict[str, Any] | None = None, threads: int = 0
) -> Model:
    """A checkpoint's module as a whole; layer by layer where it cannot be compiled.

    What is `said` of classes and normalisation goes before what the checkpoint says.
    """
    import torch

    from ..graph.capture import CannotCapture
    from ..graph.lowering.base import CannotLower
    from ..inference.compile import compile
    from .by_layer import LayerByLayer

    about = {"classes": architecture.classes, "mean": architecture.mean, "std": architecture.std} | (said or {})
    try:
        return compile(module, torch.zeros(1, *architecture.input_shape), threads=threads, **about)
    except (CannotCapture, CannotLower) as error:
        network = LayerByLayer(module, architecture.input_shape, str(error.__cause__ or error))
    return Model(network, About(**about))


# ---------------------------------------------------------------------------------------------------------------------
# ONNX
# ---------------------------------------------------------------------------------------------------------------------


def _onnx(path: Path, input_shape: Sequence[int] | None, said: dict[str, Any], threads: int) -> Model:
    from ..graph.onnx import opened, read
    from .preprocessing import without_preprocessing

    file = without_preprocessing(opened(path))
    graph = read(file, _shapes(file, input_shape))
    about = replace(_about(file.metadata.get(_ONNX_KEY)), **said)
    double = all(images.type.tensor_type.elem_type == _DOUBLE for images in file.inputs)
    del file  # its weights may be most of the machine's memory
    return Model(Compiled(graph, "float64" if double else "float32", threads), about)


def _shapes(file: File, input_shape: Sequence[int] | None) -> dict[str, tuple[int, ...]]:
    """The shape of the images, where the file leaves it open and the user has said it."""
    if not file.inputs:
        return {}
    images = file.inputs[0]
    sizes = [dim.dim_value for dim in images.type.tensor_type.shape.dim]
    if input_shape is not None:
        return {images.name: (sizes[0] if sizes and sizes[0] > 0 else 1, *input_shape)}
    if not images.type.tensor_type.HasField("shape") or any(size < 1 for size in sizes[1:]):
        raise UserError(
            "it leaves the shape of its images open: say it, as input_shape=(3, 224, 224) or --input 3x224x224."
        )
    return {}


def _about(metadata: str | None) -> About:
    """Classes and normalisation, where `convforge export` has left them in the file."""
    if metadata is None:
        return About()
    try:
        found = json.loads(metadata)
        return About(found["classes"], found["mean"], found["std"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return About()  # somebody else's, by the same name
