"""Photographs without labels as a data set: what a network learns from when nobody has said what is to be seen.

Patches of the photographs are the classes, and what random changes make of a patch are its examples: shifted, scaled,
turned, and changed in contrast, brightness, saturation and hue. To tell thousands of views of a few hundred patches
apart, whatever their colours and places, a network needs edges, textures and colours (Dosovitskiy, Fischer,
Springenberg, Riedmiller & Brox, "Discriminative unsupervised feature learning with exemplar convolutional neural
networks", 2014). As there, patches are drawn where the picture changes, in proportion to the squared gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, pi
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import UserError
from ..images.photographs import photographs
from ..images.read import image_shape, read_image
from ..learned.film import first_convolution
from ..shown import shown
from .data import Data, Found, Track, prepared, untracked
from .split import Split

SIDE = 32
SMALLEST_SIDE, LARGEST_SIDE = 16, 128
PATCHES = 200
EXAMPLES, HELD_OUT = 40, 8
# A photograph is reduced to this before patches are drawn: finer detail has no edges in 32 pixels, only noise.
_LONGEST_SIDE = 384

# How far examples differ from their patch, each drawn evenly from −1 to 1 times this.
_SHIFT = 0.25  # of the patch's side
_SCALE = 0.3  # as a power of e
_TURN = 20.0  # degrees
_CONTRAST, _BRIGHTNESS = 0.5, 0.3
_SATURATION = 0.8
_HUE = 120.0  # degrees

NETWORK = {"widths": [32, 64, 128], "convs": 1, "first": 7}
"""What the network has that learns from these examples: a first layer that is large enough to see something in."""
_QUIET = 0.1

# Light and two axes of colour at right angles to it: what changes saturation and hue leaves light alone.
_OPPONENT = torch.tensor([[1.0, 1, 1], [1, -1, 0], [1, 1, -2]]) / torch.tensor([[3.0], [2], [6]]).sqrt()


def load(
    source: str | None = None,
    *,
    seed: int = 0,
    size: int | None = None,
    flips: bool | None = None,
    track: Track = untracked,
) -> Data:
    """Examples of patches.

    Args:
        source: a folder with photographs, in sub-folders or not, or one photograph; None for those that scikit-image
            and scikit-learn carry.
        seed: of the patches and of every change.
        size: pixels a side, 32 by default.
        flips: whether examples are mirrored, too; not by default, for then the network would have to take an edge that
            is bright on the left for one that is bright on the right, and would rather look at level ones.
        track: shows how far reading is.

    Raises:
        UserError: if there are no photographs, or none that can be read.

    >>> data = load()
    >>> len(data.classes), data.input_shape, len(data.train)
    (200, (3, 32, 32), 8000)
    """
    side = SIDE if size is None else size
    if not SMALLEST_SIDE <= side <= LARGEST_SIDE:
        raise UserError(f"--size must be from {SMALLEST_SIDE} to {LARGEST_SIDE} pixels for patches, not {side}.")
    names = {file: file.stem for file in photographs()} if source is None else _listed(Path(source).expanduser())
    draw = torch.Generator().manual_seed(seed)
    found = Found(_name(source), (), Split(torch.empty(0), torch.empty(0)), flips=False)
    usable = _usable(list(names), side, found.skipped, draw)
    each = ceil(PATCHES / max(1, len(usable)))
    classes: list[str] = []
    examples: list[Tensor] = []
    for file in track(usable, "drawing patches", len(usable)):
        try:
            photograph = _read(file, side)
        except UserError as reason:
            found.skipped.append(shown(str(reason)))
            continue
        for number, centre in enumerate(_interesting(photograph, min(each, PATCHES - len(classes)), side, draw), 1):
            classes.append(f"{names[file]} {number}")
            examples.append(_examples(photograph, centre, side, EXAMPLES + HELD_OUT, draw))
    if len(classes) < 2:
        first = f" The first: {found.skipped[0]}" if found.skipped else ""
        raise UserError(f"none of the {len(names):,} files of {found.name} is a photograph to learn from.{first}")
    found.classes = tuple(classes)
    pixels = torch.stack(examples)
    labels = torch.arange(len(classes)).unsqueeze(1)
    found.train, found.test = (
        Split(part.flatten(0, 1), labels.expand(-1, part.shape[1]).flatten())
        for part in (pixels[:, :EXAMPLES], pixels[:, EXAMPLES:])
    )
    found.notes.append(
        f"No labels: {len(classes)} patches of {len(usable):,} photographs are the classes, "
        "and random changes of a patch are its examples."
    )
    return prepared(found, seed, flips=flips)


def quieten(model: nn.Module) -> None:
    """Make the first layer's random weights small, so that what is seen in the end was learned. A batch norm follows
    them, so what the network computes stays the same."""
    found = first_convolution(model)
    if found is not None:
        with torch.no_grad():
            found[1].weight *= _QUIET


def _name(source: str | None) -> str:
    if source is None:
        return "exemplars"
    return f"exemplars-{shown(Path(source).expanduser().resolve().stem) or 'photographs'}"


def _listed(path: Path) -> dict[Path, str]:
    """The files and what to call them."""
    if path.is_file():
        return {path: shown(path.stem)}
    if not path.is_dir():
        raise UserError(f"there is no folder {shown(path)}; give a folder of photographs, or none for scikit-image's.")
    files = sorted(
        file
        for file in path.rglob("*")
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(path).parts)
    )
    if not files:
        raise UserError(
            f"there are no files in {shown(path)}; give a folder of photographs, or none for scikit-image's."
        )
    return {file: shown(file.relative_to(path).with_suffix("")) for file in files}


def _usable(files: Sequence[Path], side: int, skipped: list[str], draw: torch.Generator) -> list[Path]:
    """Photographs that are large enough, by their headers; of more than there are patches, a random choice."""
    usable: list[Path] = []
    for index in torch.randperm(len(files), generator=draw).tolist():
        try:
            _, height, width = image_shape(files[index])
            if min(height, width) < 2 * side:
                raise UserError(f"{files[index]} is {height}×{width}, too small for patches of {side}×{side}.")
            usable.append(files[index])
        except UserError as reason:
            skipped.append(shown(str(reason)))
        if len(usable) == PATCHES:
            break
    return sorted(usable)


def _read(file: Path, side: int) -> Tensor:
    """The photograph in colour, float from 0 to 1, `(3, H, W)`."""
    _, height, width = image_shape(file)
    scale = max(min(1.0, _LONGEST_SIDE / max(height, width)), 2 * side / min(height, width))
    pixels = read_image(file, 3, (round(height * scale), round(width * scale)))
    return torch.from_numpy(pixels).float().div_(255)


def _interesting(photograph: Tensor, count: int, side: int, draw: torch.Generator) -> Sequence[tuple[float, float]]:
    """Centres of patches, (row, column), at random in proportion to the squared gradient around them."""
    light = photograph.mean(0)
    down, right = light[1:, :-1] - light[:-1, :-1], light[:-1, 1:] - light[:-1, :-1]
    energy = functional.avg_pool2d((down**2 + right**2)[None], side, stride=1)[0]
    # The square root of both: else every patch would lie on the one sharpest edge.
    chances = (energy.sqrt() + 1e-6).flatten()
    chosen = torch.multinomial(chances, count, replacement=len(chances) < count, generator=draw)
    return [(place // energy.shape[1] + side / 2, place % energy.shape[1] + side / 2) for place in chosen.tolist()]


def _examples(photograph: Tensor, centre: tuple[float, float], side: int, count: int, draw: torch.Generator) -> Tensor:
    """What random changes make of the patch around `centre`: uint8 `(count, 3, side, side)`."""
    down, right, scale, turn, contrast, brightness, saturation, hue = torch.rand(8, count, 1, 1, generator=draw) * 2 - 1
    # Two samples a pixel, averaged below, so that reducing does not alias.
    steps = (torch.arange(2 * side) + 0.5) / 2 - side / 2
    y, x = steps.view(1, -1, 1) * (scale * _SCALE).exp(), steps.view(1, 1, -1) * (scale * _SCALE).exp()
    # Photographs hold more level and upright edges than slanted ones: each patch is turned by an angle of its own.
    own = 2 * pi * torch.rand(1, generator=draw)
    angle = own + turn * (_TURN * pi / 180)
    rows = centre[0] + down * (_SHIFT * side) + y * angle.cos() - x * angle.sin()
    columns = centre[1] + right * (_SHIFT * side) + y * angle.sin() + x * angle.cos()
    height, width = photograph.shape[1:]
    grid = torch.stack([2 * columns / width - 1, 2 * rows / height - 1], dim=3)
    found = functional.grid_sample(
        photograph.expand(count, -1, -1, -1), grid, mode="bilinear", padding_mode="reflection", align_corners=False
    )
    found = functional.avg_pool2d(found, 2)
    planes = torch.einsum("ac,ncij->naij", _OPPONENT, found)
    light, one, other = planes.unbind(1)
    mean = light.mean((1, 2), keepdim=True)
    light = mean + (light - mean) * (1 + contrast * _CONTRAST) + brightness * _BRIGHTNESS
    turned = hue * (_HUE * pi / 180)
    strength = 1 + saturation * _SATURATION
    one, other = (
        strength * (one * turned.cos() - other * turned.sin()),
        strength * (one * turned.sin() + other * turned.cos()),
    )
    changed = torch.einsum("ac,naij->ncij", _OPPONENT, torch.stack([light, one, other], dim=1))
    return changed.clamp_(0, 1).mul_(255).round_().byte()
