"""`convforge.see(model, images)`: the page as one file, shown in a notebook's cell where it is computed."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from torch import nn

from ..errors import UserError
from ..images.photographs import photographs
from ..inference.pictures import Picture, listed, name_of, pixels
from ..models.resolve import ResolvedModel, resolve
from .export import IMAGES, export
from .opened import Seen, opened
from .pictures import InMemory, Pictures
from .shelf import Shelf

HEIGHT = 860
"""Of the frame in a notebook, in pixels."""


class Page:
    """The page about a network, as one HTML file that needs no server. A notebook shows it as a cell's result.

    Args:
        html: the file.
        what: what it shows, in words.
    """

    def __init__(self, html: str, what: str) -> None:
        self.html, self._what = html, what

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to a file, for later and for others. Raises `UserError` where that cannot be."""
        from ..files import write_atomically

        write_atomically(Path(path), self.html.encode())

    def _repr_html_(self) -> str:
        # Its scripts may run, and reach nothing of the notebook's: without allow-same-origin it is a stranger to it.
        return (
            f'<iframe title="{escape(self._what)}" srcdoc="{escape(self.html)}" sandbox="allow-scripts" '
            f'style="width: 100%; height: {HEIGHT}px; border: 0"></iframe>'
        )

    def __repr__(self) -> str:
        return f"<convforge page: {self._what}, {len(self.html) / 2**20:.1f} MiB>"


def see(
    model: nn.Module | str | os.PathLike[str],
    images: Picture | Iterable[Picture] | None = None,
    *,
    input_shape: tuple[int, int, int] | None = None,
    classes: Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    count: int = IMAGES,
) -> Page:
    """Look into a network: its answer and why, every product and sum, its layers, maps and kernels.

    Args:
        model: a module, or what the command takes: a run's folder, `timm:NAME`, `torchvision:NAME`, a line of layers.
        images: paths of files and folders, Pillow images, uint8 arrays `(H, W)`, `(H, W, 3)` or `(H, W, 4)`; one or
            several. Without any, photographs.
        input_shape: `(C, H, W)`; must be said for a module.
        classes: names of the outputs, where the model does not bring them.
        mean, std: one number a channel; the model is fed (pixel / 255 − mean) / std.
        count: how many of the images the page holds.

    Returns:
        a `Page`, which shows itself in a notebook, and can be saved.

    Raises:
        UserError: if the model or the images cannot be used, with the way out.

    >>> import numpy as np
    >>> page = see("conv 2 3x3, relu, gap, linear 2", np.zeros((8, 8, 3), np.uint8), input_shape=(3, 8, 8))
    >>> page._repr_html_()[:27]
    '<iframe title="conv 2 3x3, '
    """
    if count < 1:
        raise UserError(f"count must be 1 or more, not {count}.")
    if isinstance(model, nn.Module):
        if input_shape is None:
            raise UserError("the size of the model's images is not known: say it, as input_shape=(3, 224, 224).")
        # Opened, a network's parameters ask for no gradients any more; the caller's goes on as it is.
        resolved = ResolvedModel(copy.deepcopy(model), input_shape, False, type(model).__name__)
    else:
        resolved = resolve(os.fspath(model), input_shape, ready=True, partly=True)
    if classes is not None:
        resolved = ResolvedModel(**{**vars(resolved), "classes": tuple(classes)})
    network, pictures = opened(resolved, _seen(images, resolved.input_shape), mean, std)
    held = min(count, len(pictures))
    return Page(_exported(network, pictures, held), f"{network.name} and {held} of {len(pictures)} images")


def _seen(images: Picture | Iterable[Picture] | None, shape: tuple[int, int, int]) -> Seen:
    if images is None:
        return Seen(photographs())
    paths: list[Path] = []
    in_memory: list[InMemory] = []
    for number, picture in enumerate(listed(images)):
        if isinstance(picture, str | os.PathLike):
            paths.append(Path(picture))
            continue
        name = name_of(picture, number)
        in_memory.append(InMemory(name, pixels(picture, name, 3 if shape[0] == 3 else 1, shape[1:])))
    return Seen(paths, None, tuple(in_memory))


def _exported(network: object, pictures: Pictures, held: int) -> str:
    """In another thread, for a notebook has an event loop of its own in this one."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as other:
        return other.submit(export, network, pictures, Shelf.of_the_user(), images=held).result()  # type: ignore[arg-type]
