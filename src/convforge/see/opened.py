"""A model that was resolved, and images, made ready to be looked into."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from ..images.photographs import photographs
from ..models.resolve import ResolvedModel
from .network import Network
from .pictures import InMemory, Pictures


@dataclass(frozen=True)
class Seen:
    """The images to look at: files and folders, whether sub-folders are classes, images that are in no file, and
    sentences about them. Without any, photographs."""

    paths: Sequence[Path] = ()
    labels: bool | None = None
    in_memory: tuple[InMemory, ...] = ()
    notes: tuple[str, ...] = ()


def opened(
    resolved: ResolvedModel,
    seen: Seen,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> tuple[Network, Pictures]:
    """The network and its images; `mean` and `std` are said by the user, and go before those that the model brings.

    Raises:
        UserError: if the model or no image can be used.
    """
    if any(value <= 0 for value in std or ()):
        raise UserError("--std must be greater than zero in every channel.")
    notes = [*resolved.notes, *seen.notes]
    if resolved.unfit is not None:
        notes.append(f"these are the layers that fit; {resolved.unfit}")
    if resolved.assumed:
        size = "x".join(str(n) for n in resolved.input_shape)
        notes.append(f"the input was taken to be {size}; --input says otherwise.")
    if (mean or resolved.mean) is None:
        notes.append(
            "how its images are normalised is not known: pixels are fed as 0 to 1; --mean and --std change it."
        )
    network = Network(
        resolved.module,
        resolved.input_shape,
        resolved.title,
        mean or resolved.mean,
        std or resolved.std,
        resolved.classes,
        notes,
    )
    paths = seen.paths or ([] if seen.in_memory else photographs())
    return network, Pictures(paths, network.input_shape, network.mean, network.std, seen.labels, seen.in_memory)
