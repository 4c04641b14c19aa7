"""What the report shows of a trained network: collected from the model and test images, and drawn as small PNGs.

Collecting works on any torch classifier with `Conv2d` layers. Drawing is pixel art: one matrix element is one square,
nothing is smoothed. Pictures carry no background of their own where a value is zero or absent (they are transparent
there), so they read on a light page and on a dark one.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from ..learned.film import first_convolution
from ..spec import ceil_div
from .evaluation import at_a_time

STAGES = ("early", "middle", "deep")
SAMPLES = 6
MAPS_PER_LAYER = 4
MISTAKES = 24
UNSURE = 12
_UNSURE_BELOW = 0.5  # of lead; beyond it nobody would call the network unsure
KERNELS = 64

# The longest side, in pixels, that images and maps are embedded with; larger ones are averaged down.
_IMAGE_SIDE = 96
_MAP_SIDE = 56

# Negative and positive weights: both readable on white and on black. Opacity is the size of the weight.
NEGATIVE, POSITIVE = (46, 120, 210), (226, 104, 36)
# Dark to light, rising evenly in lightness, so that order survives greyscale printing and colour blindness.
_GLOW = ((14, 12, 34), (58, 28, 104), (138, 44, 124), (212, 82, 100), (248, 158, 96), (253, 244, 200))

_FOLLOWS_A_CONVOLUTION = (
    nn.BatchNorm2d,
    nn.InstanceNorm2d,
    nn.GroupNorm,
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.ELU,
    nn.SiLU,
    nn.GELU,
    nn.Hardswish,
)


@dataclass(frozen=True)
class Mistake:
    """A test image and what was said of it: uint8 `(C, H, W)`, class indices, the probabilities of both, and what to
    call it. Of one that was recognised both classes are the same."""

    image: NDArray[np.uint8]
    true: int
    predicted: int
    probability: float
    probability_of_true: float
    name: str = ""


@dataclass(frozen=True)
class FeatureMaps:
    """What one layer makes of the sample images: `maps` is `(channels, images, height, width)`, as the next layer gets
    them (after norm and activation where these follow as modules); `of` is how many channels the layer has."""

    stage: str
    layer: str
    channels: tuple[int, ...]
    of: int
    maps: NDArray[np.float32]

    @property
    def size(self) -> tuple[int, int]:
        return self.maps.shape[2], self.maps.shape[3]


@dataclass(frozen=True)
class Pictures:
    """Everything that `collect` found. `confusion[t, p]` counts test images of class t that were taken for p; `unsure`
    are images with the smallest lead of what was said over the next class; kernels are `(K, C, k, k)`, before and after
    learning; `samples`, uint8 `(N, C, H, W)`, are the images of the maps; `probabilities` are of every image."""

    confusion: NDArray[np.int64]
    mistakes: tuple[Mistake, ...] = ()
    unsure: tuple[Mistake, ...] = ()
    kernels_before: NDArray[np.float32] | None = None
    kernels_after: NDArray[np.float32] | None = None
    samples: NDArray[np.uint8] = field(default_factory=lambda: np.zeros((0, 1, 1, 1), np.uint8))
    sample_labels: tuple[int, ...] = ()
    layers: tuple[FeatureMaps, ...] = ()
    probabilities: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 1), np.float32))


def collect(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    normalise: Callable[[Tensor], Tensor],
    classes: int,
    kernels_before: NDArray[np.float32] | None = None,
    names: Sequence[str] = (),
) -> Pictures:
    """Run the test images through the model, and keep what the report shows.

    Args:
        model: a classifier of `(N, C, H, W)` into `(N, classes)` logits; it is left as it was.
        images: the raw test images, uint8 `(N, C, H, W)`.
        labels: their class indices, `(N,)`.
        normalise: makes of a uint8 batch what the model is fed.
        classes: how many classes there are.
        kernels_before: `first_kernels(model)` from before training.
        names: what to call each image.

    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    >>> images, labels = torch.randint(0, 256, (10, 1, 8, 8), dtype=torch.uint8), torch.arange(10) % 2
    >>> pictures = collect(model, images, labels, lambda batch: batch / 255, classes=2)
    >>> int(pictures.confusion.sum()), pictures.layers[0].maps.shape
    (10, (4, 6, 6, 6))
    """
    probabilities = class_probabilities(model, images, normalise)
    truth = labels.cpu().numpy().astype(np.int64)
    guesses = probabilities.argmax(1)
    chosen = _samples(probabilities, truth)
    return Pictures(
        confusion=confusion_matrix(truth, guesses, classes),
        mistakes=worst_mistakes(images, probabilities, truth, names=names),
        unsure=most_unsure(images, probabilities, truth, names=names),
        probabilities=probabilities,
        kernels_before=kernels_before,
        kernels_after=first_kernels(model),
        samples=images[chosen].cpu().numpy(),
        sample_labels=tuple(int(label) for label in truth[chosen]),
        layers=feature_maps(model, normalise(images[chosen])) if len(chosen) else (),
    )


# ---------------------------------------------------------------------------------------------------------------------
# Collecting
# ---------------------------------------------------------------------------------------------------------------------


@contextmanager
def _looking(model: nn.Module) -> Iterator[None]:
    """Eval mode, no gradients; every module's own mode comes back afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        with torch.no_grad():
            model.eval()
            yield
    finally:
        for module, training in modes:
            module.training = training


def class_probabilities(model: nn.Module, images: Tensor, normalise: Callable[[Tensor], Tensor]) -> NDArray[np.float32]:
    """Softmax of the logits for raw images `(N, C, H, W)`: `(N, classes)`, in batches that fit in memory."""
    with _looking(model):
        parts = torch.split(images, at_a_time(images.shape))
        found = [model(normalise(batch)).float().softmax(1).cpu() for batch in parts]
    result: NDArray[np.float32] = torch.cat(found).numpy()
    return result


def confusion_matrix(truth: NDArray[Any], predicted: NDArray[Any], classes: int) -> NDArray[np.int64]:
    """`[t, p]`: how many of class t were taken for p.

    >>> confusion_matrix(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).tolist()
    [[1, 1], [0, 1]]
    """
    counts = np.bincount(truth.astype(np.int64) * classes + predicted, minlength=classes * classes)
    return counts.reshape(classes, classes).astype(np.int64)


def worst_mistakes(
    images: Tensor,
    probabilities: NDArray[np.float32],
    truth: NDArray[np.int64],
    count: int = MISTAKES,
    names: Sequence[str] = (),
) -> tuple[Mistake, ...]:
    """The images that the network got wrong, those it was most certain of first."""
    guesses = probabilities.argmax(1)
    wrong = np.flatnonzero(guesses != truth)
    order = wrong[np.argsort(-probabilities[wrong, guesses[wrong]], kind="stable")][:count]
    return tuple(_said(images, probabilities, truth, int(i), names) for i in order)


def most_unsure(
    images: Tensor,
    probabilities: NDArray[np.float32],
    truth: NDArray[np.int64],
    count: int = UNSURE,
    names: Sequence[str] = (),
) -> tuple[Mistake, ...]:
    """The images, recognised or not, for which the first class has the smallest lead over the second."""
    if probabilities.shape[1] < 2 or not len(probabilities):
        return ()
    ranked = np.sort(probabilities, axis=1)
    lead = np.nan_to_num(ranked[:, -1] - ranked[:, -2])
    order = np.argsort(lead, kind="stable")[:count]
    return tuple(_said(images, probabilities, truth, int(i), names) for i in order if lead[i] < _UNSURE_BELOW)


def _said(
    images: Tensor,
    probabilities: NDArray[np.float32],
    truth: NDArray[np.int64],
    i: int,
    names: Sequence[str],
) -> Mistake:
    guess = int(probabilities[i].argmax())
    return Mistake(
        image=images[i].cpu().numpy(),
        true=int(truth[i]),
        predicted=guess,
        probability=float(probabilities[i, guess]),
        probability_of_true=float(probabilities[i, truth[i]]),
        name=names[i] if names else "",
    )


def first_kernels(model: nn.Module) -> NDArray[np.float32] | None:
    """A copy of the first convolution's kernels, `(K, C, k, k)`; None where the model has no convolution."""
    found = first_convolution(model)
    if found is None:
        return None
    kernels: NDArray[np.float32] = found[1].weight.detach().float().cpu().numpy().copy()
    return kernels


def _samples(probabilities: NDArray[np.float32], truth: NDArray[np.int64], count: int = SAMPLES) -> list[int]:
    """Images of classes spread evenly over all there are, rightly recognised ones first; where there are fewer classes
    than places, second images of each."""
    right = probabilities.argmax(1) == truth
    by_class = [sorted(np.flatnonzero(truth == label), key=lambda i: not right[i]) for label in np.unique(truth)]
    if len(by_class) > count:
        by_class = [by_class[int(place)] for place in np.linspace(0, len(by_class) - 1, count)]
    rounds = zip_longest(*by_class)
    return [int(index) for turn in rounds for index in turn if index is not None][:count]


def feature_maps(model: nn.Module, inputs: Tensor, channels: int = MAPS_PER_LAYER) -> tuple[FeatureMaps, ...]:
    """The maps of an early, a middle and a deep convolution for a few normalised images `(N, C, H, W)`.

    Early is the first convolution that runs, deep the last one with more than one position, middle the one between.
    Where there are fewer than three, there are fewer stages. Of each layer the channels are shown whose maps have
    most contrast and resemble each other least.
    """
    names = {module: name for name, module in model.named_modules()}
    found: dict[nn.Module, Tensor] = {}
    latest: tuple[nn.Module, Tensor] | None = None

    def keep(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        nonlocal latest
        if isinstance(module, nn.Conv2d):
            latest = module, output
        elif latest is not None and arguments and arguments[0] is latest[1]:
            latest = latest[0], output
        else:
            return
        found[latest[0]] = output.clone()  # a later layer may work in place

    watched = (nn.Conv2d, *_FOLLOWS_A_CONVOLUTION)
    hooks = [module.register_forward_hook(keep) for module in model.modules() if isinstance(module, watched)]
    try:
        with _looking(model):
            model(inputs)
    finally:
        for hook in hooks:
            hook.remove()

    spatial = [(module, maps) for module, maps in found.items() if maps.ndim == 4 and maps[0, 0].numel() > 1]
    # A 1×1 convolution mixes channels but sees no pattern: choose among the others where there are any.
    seeing = [pair for pair in spatial if isinstance(pair[0], nn.Conv2d) and max(pair[0].kernel_size) > 1] or spatial
    places = {0: "early", len(seeing) - 1: "deep"} if seeing else {}
    if len(seeing) > 2:
        places[(len(seeing) - 1) // 2] = "middle"
    if len(seeing) == 1:
        places = {0: "early"}
    return tuple(
        _most_telling(places[i], names[seeing[i][0]], seeing[i][1].float().cpu().numpy(), channels)
        for i in sorted(places)
    )


def _most_telling(stage: str, layer: str, maps: NDArray[np.float32], count: int) -> FeatureMaps:
    chosen = _strong_and_unlike(np.nan_to_num(maps), count)
    return FeatureMaps(
        stage=stage,
        layer=layer,
        channels=tuple(chosen),
        of=maps.shape[1],
        maps=np.ascontiguousarray(maps[:, chosen].swapaxes(0, 1)),
    )


def _strong_and_unlike(maps: NDArray[np.float32], count: int) -> list[int]:
    """Channels of `(N, C, H, W)` with contrast within the images; each next one also unlike those before it."""
    contrast = maps.std((2, 3)).mean(0)
    flat = maps.swapaxes(0, 1).reshape(maps.shape[1], -1)
    flat = flat - flat.mean(1, keepdims=True)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    flat = flat / np.where(length > 0, length, 1)
    chosen: list[int] = []
    novelty = np.ones(len(flat))
    for _ in range(min(count, len(flat))):
        score = contrast * novelty
        score[chosen] = -1
        chosen.append(int(score.argmax()))
        novelty = np.minimum(novelty, 1 - np.abs(flat @ flat[chosen[-1]]))
    return chosen


# ---------------------------------------------------------------------------------------------------------------------
# Drawing
# ---------------------------------------------------------------------------------------------------------------------


def data_uri(image: Image.Image) -> str:
    """The picture as a PNG inside a `data:` address, so that a page needs no file beside it."""
    buffer = BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{b64encode(buffer.getvalue()).decode()}"


def draw_image(pixels: NDArray[np.uint8], side: int = _IMAGE_SIDE) -> Image.Image:
    """An image `(C, H, W)` of 1 or 3 channels; at most `side` pixels long, since a report shows it small."""
    image = Image.fromarray(pixels[0] if pixels.shape[0] == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    image.thumbnail((side, side), Image.Resampling.BOX)
    return image


def draw_map(values: NDArray[np.float32], low: float, high: float) -> Image.Image:
    """A feature map `(H, W)`: `low` is dark, `high` is bright; at most 56 pixels long."""
    span = high - low if high > low else 1.0
    levels = np.nan_to_num((values - low) / span).clip(0, 1)
    small = Image.fromarray(np.rint(levels * 255).astype(np.uint8))
    small.thumbnail((_MAP_SIDE, _MAP_SIDE), Image.Resampling.BOX)
    small.putpalette(_glow_palette())
    return small


def kernel_scale(*kernels: NDArray[np.float32] | None) -> float:
    """The largest absolute weight of all kernels given: what the colours of all of them are measured by."""
    largest = max((float(np.abs(k).max()) for k in kernels if k is not None and k.size), default=0.0)
    return largest if np.isfinite(largest) and largest > 0 else 1.0


def draw_kernels(
    kernels: NDArray[np.float32], scale: float, columns: int = 8, tile: int = 48, gap: int = 14
) -> Image.Image:
    """Kernels `(K, C, k, k)` as one picture of tiles, `columns` in a row.

    Three input channels are shown as the colour that the kernel looks for (grey is zero), any other number as their
    sum: orange where the weight is positive, blue where it is negative, clear where it is zero. `scale` is the weight
    that gets the full colour.
    """
    count, channels, height, width = kernels.shape
    grow = max(1, tile // max(height, width))
    step_y, step_x = height * grow + gap, width * grow + gap
    columns = min(columns, count)
    rows = ceil_div(count, columns)
    canvas = np.zeros((rows * step_y - gap, columns * step_x - gap, 4), np.uint8)
    for i, kernel in enumerate(np.nan_to_num(kernels) / scale):
        colours = _true_colour(kernel) if channels == 3 else _diverging(kernel.sum(0))
        y, x = (i // columns) * step_y, (i % columns) * step_x
        canvas[y : y + height * grow, x : x + width * grow] = colours.repeat(grow, 0).repeat(grow, 1)
    return Image.fromarray(canvas)


def draw_confusion(confusion: NDArray[np.int64], colour: tuple[int, int, int] = POSITIVE) -> Image.Image:
    """One pixel a pair of classes; opacity is the share of the true class, lifted so that one mistake can be seen."""
    share = confusion / confusion.sum(1, keepdims=True).clip(1)
    canvas = np.empty((*share.shape, 4), np.uint8)
    canvas[..., :3] = colour
    canvas[..., 3] = np.rint(255 * np.sqrt(share))
    np.einsum("iic->ic", canvas)[..., :3] = NEGATIVE
    return Image.fromarray(canvas)


def _true_colour(kernel: NDArray[np.float32]) -> NDArray[np.uint8]:
    colours = np.full((*kernel.shape[1:], 4), 255, np.uint8)
    colours[..., :3] = np.rint(127.5 + 127.5 * kernel.clip(-1, 1).transpose(1, 2, 0))
    return colours


def _diverging(weights: NDArray[np.float32]) -> NDArray[np.uint8]:
    colours = np.empty((*weights.shape, 4), np.uint8)
    colours[..., :3] = np.where((weights < 0)[..., np.newaxis], NEGATIVE, POSITIVE)
    colours[..., 3] = np.rint(255 * np.abs(weights).clip(0, 1))
    return colours


def _glow_palette() -> list[int]:
    positions = np.linspace(0, len(_GLOW) - 1, 256)
    anchors: Sequence[Sequence[int]] = list(zip(*_GLOW, strict=True))
    channels = [np.interp(positions, range(len(_GLOW)), anchor) for anchor in anchors]
    return [int(value) for value in np.rint(np.stack(channels, 1)).ravel()]
