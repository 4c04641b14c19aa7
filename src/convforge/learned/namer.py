"""What a first-layer kernel looks for, named by measurement: an edge with its angle, a colour, a blob, a texture.

A kernel w (C, kh, kw) is a small picture. None of the figures that decide changes when w is multiplied by a number,
and only the angle changes when w is turned by 90° or mirrored.

**Light and colour.** Three input channels are turned onto the opponent axes, which are orthonormal, so that squares of
weights are shared out and none is counted twice: light (R+G+B)/√3, red against green (R−G)/√2, yellow against blue
(R+G−2B)/√6. For any other number of channels light is their sum over √C, and what differs between them takes the place
of colour.

- `colour`: the part of the squared weights on the two colour axes.
- `one_colour`: that part, times (|Σ c| / Σ |c|)², where c is the colour at a position, a vector: 1 where all positions
  want the same colour, however it fades towards the border, 0 where opposite colours stand side by side.
- `uniform`: the part that is the mean of each axis, the answer to a plain surface. What is left is the structure, q.
- `coherence`: the part of q's squares in one pattern that all axes share, in proportion (the largest singular value of
  q as a matrix of axes × positions, squared). Of one channel it is 1. Learned kernels have 0.9 and noise in three
  channels of 3×3 has 0.6.

**Frequency.** P(f) is the power of q's Fourier transform, summed over the axes: how strongly the kernel answers to a
grating of frequency f.

- `cycles`: the |f| of the largest P(f), in cycles a kernel.
- `periods`: the same in the part of the kernel where q is, whose width is √12 standard deviations of q² along f (as of
  a stretch of that width). A step has half a period, a line one; from one and a half on it repeats, and is a texture.
- `occupied` = (Σ P)² / (n Σ P²): the part of the frequencies that is in use. Where P is random, as that of noise, its
  mean square is twice its squared mean, so one plane of noise occupies ½ and three occupy ¾; patterns, under 0.3.

**Direction and roundness, of 4×4 weights or more.** Photographs have power in proportion to 1/|f|² (Field, 1987), so
P(f)/|f|² says where the kernel's answer to photographs comes from. With φ the direction of f,

    z = Σ P(f)/|f|² · e^{2iφ}  /  Σ P(f)/|f|²,     |f| ≤ ½ cycle a pixel.

- `selectivity` = |z|: 0 where no direction is preferred, 1 for a grating without end. The angle is doubled because a
  direction and its opposite are the same (the structure tensor, Bigün & Granlund, 1987, in the Fourier domain). A step
  at the middle gives 0.5, a line 0.6 to 0.8; a spot in a corner, which answers to a diagonal step, too, 0.3.
- `roundness`: the part of the squared weights that a narrow Gaussian, a wide one 1.6 times its width, and a constant
  explain about one point (centre and surround, Marr & Hildreth, 1980), at the best point and width, counted as
  adjusted R² is: 1 − (1 − R²) · n / (n − 3).

**Direction and roundness, of fewer weights.** There are too few frequencies; moments tell more. They are q's
coefficients for patterns of length 1, on each axis: x and y; x² − y² and xy; and what the two Gaussians about the
middle explain, a signed length r, negative where the middle stands out brightly. A step is odd: only x and y see it. A
line is even, and bends in one direction only: its second derivatives, [[r + d, m], [m, r − d]] / √2 with d and m for
x² − y² and xy, have one eigenvalue that is zero. The orientation tensor of Farnebäck (2002), of squares of both,
says how far that is so.

- `step` = |Σ (b_x + i b_y)²| and `line` = |Σ 2r (d + i m)|, over Σ w²: differences of the tensor's eigenvalues. A
  straight line gives 1, a round spot and a saddle give 0. `selectivity` is the larger of the two.
- `roundness`: Σ r² over Σ w². `light`: the part that is plain light.

`angle` is along the edge, in degrees anticlockwise from horizontal, 0 to 180. `strength` is the length of w beside the
root mean square length of its layer's kernels.

**The name** is the first that applies. Limits lie half way between the figures of what they separate, noise added:

    unclear      strength < 0.05: nearly silent; what is seen in it has no effect
    colour blob  one_colour ≥ ½ (three channels)
    texture      periods ≥ 1.5 and occupied < 0.37

of 4×4 weights or more:

    … edge       selectivity ≥ 0.4, occupied < 0.37 and uniform ≤ ¾: horizontal, vertical or diagonal to within 22.5°
    blob         roundness ≥ 0.6: a spot, a centre with its surround, or plain brightness

of fewer:

    … edge, blob (roundness or light) or colour blob, by the largest of selectivity, roundness, light and one_colour, if
                 that is ≥ ¼ and coherence ≥ 0.8. In one channel, noise of so few weights cannot be told from a pattern.

    unclear      otherwise
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import atan2, cos, degrees, floor, hypot, log2, pi, radians, sin, sqrt

import numpy as np
from numpy.typing import NDArray

NAMES = ("horizontal edge", "vertical edge", "diagonal edge", "colour blob", "blob", "texture", "unclear")

SILENT = 0.05
ONE_COLOUR = 0.5
SELECTIVE = 0.4
PLAIN = 0.75
NOISY = 0.37
REPEATS = 1.5
ROUND = 0.6
FEW = 16
LARGEST_OF_FEW = 0.25
COHERENT = 0.8
# What nine of ten random kernels in three channels stay below: of 3×3 weights; and of 4×4, below which larger ones stay
# all the more. What is above it is said, even where it is no name.
_LEANING_OF_FEW = {"selectivity": 0.38, "one_colour": 0.21, "roundness": 0.36}
_LEANING_OF_MANY = {"selectivity": 0.29, "one_colour": 0.11, "roundness": 0.33}

_OPPONENT = np.array([[1, 1, 1], [1, -1, 0], [1, 1, -2]]) / np.sqrt([[3], [2], [6]])
# Where a hue ends, in degrees of the colour circle, and how it is called.
_HUES = (
    (15, "red"), (45, "orange"), (70, "yellow"), (165, "green"), (190, "cyan"), (255, "blue"), (290, "violet"),
    (335, "magenta"), (360, "red"),
)  # fmt: skip
_LABELS = {
    "colour": "share of colour",
    "one_colour": "one colour",
    "uniform": "uniform share",
    "cycles": "cycles a kernel",
    "occupied": "occupied spectrum",
}
_SIDES = ("right", "upper right", "above", "upper left", "left", "lower left", "below", "lower right")


@dataclass(frozen=True)
class Verdict:
    """What a kernel looks for.

    Args:
        name: one of `NAMES`.
        figures: what was measured, by the names at the top of this module, with blanks and units; the figure that
            decided comes first. `angle °` is there for edges and textures that have one, `colour` (#rrggbb) for colour
            blobs.
        words: the name in a sentence, with the figure that decided.
    """

    name: str
    figures: Mapping[str, float | str]
    words: str


def name_kernels(kernels: NDArray[np.floating]) -> tuple[Verdict, ...]:
    """Name each kernel of a layer.

    Args:
        kernels: `(K, C, kh, kw)`, the weights of a convolution that sees an image.

    >>> sobel = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]) * np.ones((1, 3, 1, 1))
    >>> name_kernels(np.concatenate([sobel, sobel.swapaxes(2, 3)]))[1].words
    'horizontal edge at 0°: bright below dark; selectivity 0.89'
    """
    lengths = np.sqrt((kernels.astype(np.float64) ** 2).sum((1, 2, 3)))
    known = lengths[np.isfinite(lengths)]
    usual = sqrt(float((known**2).mean())) if len(known) else 0.0
    return tuple(
        name_kernel(kernel, float(length) / usual if usual > 0 else 0.0)
        for kernel, length in zip(kernels, lengths, strict=True)
    )


def name_kernel(kernel: NDArray[np.floating], strength: float = 1.0) -> Verdict:
    """Name one kernel `(C, kh, kw)`; `strength` is its length beside the usual one of its layer."""
    weights = kernel.astype(np.float64)
    if not np.isfinite(weights).all():
        return Verdict("unclear", {}, "unclear: some of its weights are not numbers")
    largest = float(np.abs(weights).max(initial=0.0))
    if largest == 0:
        return Verdict("unclear", {"strength": 0.0}, "unclear: all its weights are zero")
    planes = _planes(weights / largest)
    structure = _structure(planes)
    figures = {"strength": strength, **_colour(planes, structure), **_frequency(structure)}
    few = planes[0].size < FEW
    figures |= _moments(planes, structure) if few else _directions(planes, structure)
    name, deciding = (_name_of_few if few else _name_of_many)(figures, colours=len(weights) == 3)
    words = _in_words(name, figures, planes, structure)
    shown: dict[str, float | str] = {deciding.replace("_", " "): round(figures[deciding], 3)}
    if name.endswith("edge") or (name == "texture" and figures["selectivity"] >= SELECTIVE):
        shown["angle °"] = round(figures["angle"], 1)
    if name == "colour blob":
        shown["colour"] = _paint(planes.sum((1, 2)))
    if name == "texture":
        shown["cycles a kernel"] = round(figures["cycles"], 2)
    shown.update(
        (_LABELS.get(figure, figure), round(value, 3)) for figure, value in figures.items() if figure != "angle"
    )
    if strength < SILENT:
        shown = {"strength": round(strength, 3), **shown}
        return Verdict("unclear", shown, f"unclear: nearly silent, {strength:.1%} of the layer's usual strength")
    return Verdict(name, shown, f"{words}; {deciding.replace('_', ' ')} {figures[deciding]:.2f}")


@dataclass(frozen=True)
class Split:
    """How a layer's kernels split: how many have each of the `NAMES`, and the same in a sentence."""

    counts: Mapping[str, int]
    words: str


def split(verdicts: Sequence[Verdict]) -> Split:
    """Count a layer's verdicts.

    >>> split(name_kernels(np.random.default_rng(0).normal(size=(3, 1, 7, 7)))).words
    '3 kernels: 3 unclear'
    """
    counted = Counter(verdict.name for verdict in verdicts)
    counts = {name: counted[name] for name in NAMES}
    plural = {"unclear": "unclear"}
    parts = [
        f"{count} {plural.get(name, name if count == 1 else name + 's')}" for name, count in counts.items() if count
    ]
    total = f"{len(verdicts)} kernel{'' if len(verdicts) == 1 else 's'}"
    return Split(counts, f"{total}: {', '.join(parts)}" if parts else f"{total}")


# ---------------------------------------------------------------------------------------------------------------------
# The figures
# ---------------------------------------------------------------------------------------------------------------------


def _planes(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Light first, then colour: `(axes, kh, kw)`, with the same sum of squares as the weights."""
    channels = len(weights)
    if channels == 3:
        return np.tensordot(_OPPONENT, weights, axes=1)
    light: NDArray[np.float64] = weights.sum(0, keepdims=True) / sqrt(channels)
    return light if channels == 1 else np.concatenate([light, weights - weights.mean(0)])


def _structure(planes: NDArray[np.float64]) -> NDArray[np.float64]:
    """The planes without their means; exactly zero where only rounding would be left."""
    rest: NDArray[np.float64] = planes - planes.mean((1, 2), keepdims=True)
    return rest if float((rest**2).sum()) > 1e-12 * float((planes**2).sum()) else np.zeros_like(rest)


def _colour(planes: NDArray[np.float64], structure: NDArray[np.float64]) -> dict[str, float]:
    total, left = float((planes**2).sum()), float((structure**2).sum())
    colours = planes[1:]
    share = float((colours**2).sum()) / total
    lengths = float(np.sqrt((colours**2).sum(0)).sum())
    agreement = float(np.sqrt((colours.sum((1, 2)) ** 2).sum())) / lengths if lengths > 0 else 0.0
    largest = float(np.linalg.svd(structure.reshape(len(structure), -1), compute_uv=False)[0])
    return {
        "colour": share,
        "one_colour": share * agreement**2,
        "uniform": 1 - left / total,
        "coherence": largest**2 / left if left > 0 else 1.0,
    }


def _transform(structure: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """The power of the Fourier transform, on a grid at least four times as fine as the kernel's own, and the
    frequencies, x to the right and y upwards, in cycles a pixel."""
    grid = max(32, 4 * max(structure.shape[1:]))
    frequencies = np.fft.fftfreq(grid)
    power = (np.abs(np.fft.fft2(structure, (grid, grid))) ** 2).sum(0)
    fx, fy = np.meshgrid(frequencies, -frequencies)
    return power, fx, fy


def _frequency(structure: NDArray[np.float64]) -> dict[str, float]:
    if not structure.any():
        return {"cycles": 0.0, "periods": 0.0, "occupied": 0.0}
    power, fx, fy = _transform(structure)
    energy = (structure**2).sum(0) / (structure**2).sum()
    x, y = _positions(*energy.shape)
    found = []
    # Two at least, a frequency and its opposite, which are the same.
    for peak in zip(*np.nonzero(power >= (1 - 1e-9) * power.max()), strict=True):
        right, up = float(fx[peak]), float(fy[peak])
        frequency = hypot(right, up)
        # At half a cycle a pixel a grating is its own mirror image.
        for sign in (1, -1) if max(abs(right), abs(up)) == 0.5 else (1,):
            along = (x * right + sign * y * up) / frequency
            variance = float((energy * (along - (energy * along).sum()) ** 2).sum())
            # A pixel is a stretch itself, with a variance of 1/12.
            found.append((frequency * sqrt(12 * variance + 1), frequency))
    periods, frequency = min(found)
    return {
        "cycles": frequency * max(energy.shape),
        "periods": periods,
        "occupied": float(power.sum() ** 2 / ((power**2).sum() * power.size)),
    }


def _positions(height: int, width: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """x to the right and y upwards, from the middle, in pixels."""
    x, y = np.meshgrid(np.arange(width) - (width - 1) / 2, (height - 1) / 2 - np.arange(height))
    return x, y


def _along(across: complex) -> float:
    """The angle of an edge, from the direction across it, doubled."""
    return (degrees(atan2(across.imag, across.real)) / 2 + 90) % 180


def _directions(planes: NDArray[np.float64], structure: NDArray[np.float64]) -> dict[str, float]:
    """Of kernels with enough weights for a spectrum."""
    roundness = _roundness(planes)
    if not structure.any():
        return {"selectivity": 0.0, "angle": 0.0, "roundness": roundness}
    power, fx, fy = _transform(structure)
    squared = fx**2 + fy**2
    inside = (squared > 0) & (squared <= 0.25)
    answer = power[inside] / squared[inside]
    doubled = (fx[inside] + 1j * fy[inside]) ** 2 / squared[inside]
    z = complex((doubled * answer).sum() / answer.sum())
    return {"selectivity": abs(z), "angle": _along(z), "roundness": roundness}


def _moments(planes: NDArray[np.float64], structure: NDArray[np.float64]) -> dict[str, float]:
    """Of kernels with few weights."""
    total = float((planes**2).sum())
    x, y = _positions(*planes.shape[1:])
    b_x, b_y, d, m = (_coefficients(structure, pattern) for pattern in (x, y, x * x - y * y, x * y))
    patterns = _round_patterns(*planes.shape[1:], middle=True)
    found = np.einsum("bpd,ap->bad", patterns, structure.reshape(len(structure), -1))
    best = int((found**2).sum((1, 2)).argmax())
    lengths = np.sqrt((found[best] ** 2).sum(1))
    in_the_middle = found[best] @ patterns[best, int((x * x + y * y).argmin())]
    r = np.where(in_the_middle > 0, -lengths, lengths)
    step = complex(((b_x + 1j * b_y) ** 2).sum()) / total
    line = complex((2 * r * (d + 1j * m)).sum()) / total
    return {
        # In a row of weights, x² is both round and directed.
        "selectivity": min(1.0, max(abs(step), abs(line))),
        "angle": _along(max(step, line, key=abs)),
        "step": abs(step),
        "line": min(1.0, abs(line)),
        "roundness": float((r**2).sum()) / total,
        "light": planes[0].size * float(planes[0].mean() ** 2) / total,
    }


def _coefficients(structure: NDArray[np.float64], pattern: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of the pattern without its mean and of length 1, on each axis."""
    rest = pattern - pattern.mean()
    length = float(np.sqrt((rest**2).sum()))
    # In a row of two, x² is a constant, and rounding has no direction.
    return (structure * rest).sum((1, 2)) / length if length > 1e-9 else np.zeros(len(structure))


def _roundness(planes: NDArray[np.float64]) -> float:
    positions = planes[0].size
    found = np.einsum("bpd,ap->bad", _round_patterns(*planes.shape[1:]), planes.reshape(len(planes), -1))
    explained = float((found**2).sum((1, 2)).max() / (planes**2).sum())
    adjusted: float = 1 - (1 - explained) * positions / (positions - 3)
    return max(0.0, adjusted)


@lru_cache(maxsize=16)
def _round_patterns(height: int, width: int, middle: bool = False) -> NDArray[np.float64]:
    """Orthonormal bases `(points × widths, positions, 3)` of a constant, a narrow Gaussian and a wide one."""
    x, y = (axis.reshape(-1, 1) for axis in _positions(height, width))
    if middle:
        points_x, points_y = np.zeros(1), np.zeros(1)
    else:
        # Half a pixel apart, but no more than eleven points a side.
        columns, rows = ((np.linspace(0.5, -0.5, min(11, 2 * side - 1)) * (side - 1)) for side in (width, height))
        points_x, points_y = (points.ravel() for points in np.meshgrid(columns, rows))
    squared = (x - points_x) ** 2 + (y - points_y) ** 2
    steps = range(1 + max(0, floor(2 * log2(max(height, width)))))
    bases = []
    for sigma in (0.5 * sqrt(2) ** step for step in steps):
        narrow, wide = np.exp(-squared / (2 * sigma**2)), np.exp(-squared / (2 * (1.6 * sigma) ** 2))
        bases.append(np.stack([np.ones_like(narrow), narrow, wide], axis=2).swapaxes(0, 1))
    orthonormal, triangle = np.linalg.qr(np.concatenate(bases))
    # Where two are the same, as about the middle of 2×2, the decomposition makes up a third direction.
    independent = np.abs(np.diagonal(triangle, axis1=1, axis2=2)) > 1e-6
    found: NDArray[np.float64] = orthonormal * independent[:, np.newaxis, :]
    return found


# ---------------------------------------------------------------------------------------------------------------------
# The name
# ---------------------------------------------------------------------------------------------------------------------


def _name_of_many(figures: Mapping[str, float], colours: bool) -> tuple[str, str]:
    """The name, and the figure that decided, for 4×4 weights or more."""
    if colours and figures["one_colour"] >= ONE_COLOUR:
        return "colour blob", "one_colour"
    structured = figures["occupied"] < NOISY and figures["uniform"] <= PLAIN
    if structured and figures["periods"] >= REPEATS:
        return "texture", "periods"
    if structured and figures["selectivity"] >= SELECTIVE:
        return direction(figures["angle"]), "selectivity"
    if figures["roundness"] >= ROUND:
        return "blob", "roundness"
    return "unclear", "selectivity"


def _name_of_few(figures: Mapping[str, float], colours: bool) -> tuple[str, str]:
    """The same for fewer."""
    if colours and figures["one_colour"] >= ONE_COLOUR:
        return "colour blob", "one_colour"
    if figures["occupied"] < NOISY and figures["uniform"] <= PLAIN and figures["periods"] >= REPEATS:
        return "texture", "periods"
    named = {"selectivity": direction(figures["angle"]), "roundness": "blob", "light": "blob"}
    if colours:
        named["one_colour"] = "colour blob"
    largest = max(named, key=lambda figure: figures[figure])
    if figures["coherence"] < COHERENT:
        return "unclear", "coherence"
    return (named[largest] if figures[largest] >= LARGEST_OF_FEW else "unclear"), largest


def direction(angle: float) -> str:
    """The name of an edge along `angle` degrees.

    >>> direction(10), direction(100), direction(130), direction(170)
    ('horizontal edge', 'vertical edge', 'diagonal edge', 'horizontal edge')
    """
    from_horizontal = min(angle % 180, 180 - angle % 180)
    if from_horizontal < 22.5:
        return "horizontal edge"
    return "vertical edge" if from_horizontal > 67.5 else "diagonal edge"


def _in_words(
    name: str, figures: Mapping[str, float], planes: NDArray[np.float64], structure: NDArray[np.float64]
) -> str:
    if name == "colour blob":
        return f"colour blob, {hue(planes.sum((1, 2)))}"
    if name == "blob":
        return f"blob: {_round_words(planes[int((planes**2).sum((1, 2)).argmax())])}"
    if name == "unclear":
        return f"unclear: {_leaning(figures, planes)}"
    angle = f"{round(figures['angle']) % 180}°"
    if name == "texture":
        lines = f" along {angle}" if figures["selectivity"] >= SELECTIVE else ""
        return f"texture of {figures['cycles']:.1f} cycles a kernel{lines}"
    return f"{name} at {angle}: {_edge_words(figures['angle'], structure)}"


def _leaning(figures: Mapping[str, float], planes: NDArray[np.float64]) -> str:
    """What can be said of a kernel that has no name: where it leans, and towards which colour, however little."""
    limits = _LEANING_OF_FEW if planes[0].size < FEW else _LEANING_OF_MANY
    leans = {figure for figure, limit in limits.items() if figures[figure] >= limit}
    said = [f"an edge at {round(figures['angle']) % 180}°"] if "selectivity" in leans else []
    if len(planes) == 3 and "one_colour" in leans:
        said.append(hue(planes.sum((1, 2))))
    if "roundness" in leans:
        said.append("a spot")
    return f"leans to {' and '.join(said)}" if said else f"its {planes.size} weights are like noise"


def hue(opponent: NDArray[np.float64]) -> str:
    """The name of a colour on the opponent axes (light, red against green, yellow against blue).

    >>> [hue(_OPPONENT @ rgb) for rgb in np.array([(1, 0, 0), (1, 1, 0), (-1, 0, 0), (0, 0, 1), (1, 0.5, 0)])]
    ['red', 'yellow', 'cyan', 'blue', 'orange']
    """
    red, green, blue = _OPPONENT[1:].T @ opponent[1:]
    lowest, highest = min(red, green, blue), max(red, green, blue)
    # The colour circle of HSV: six straight pieces of 60°, from red over green and blue to red.
    span = highest - lowest
    if highest == red:
        turn = (green - blue) / span % 6
    elif highest == green:
        turn = (blue - red) / span + 2
    else:
        turn = (red - green) / span + 4
    return next(name for end, name in _HUES if turn * 60 <= end)


def _paint(opponent: NDArray[np.float64]) -> str:
    """The hue of a colour on the opponent axes, as strong as a screen can show it around grey."""
    rgb = _OPPONENT[1:].T @ opponent[1:]
    return "#" + "".join(f"{round(127.5 + 127.5 * float(part)):02x}" for part in rgb / np.abs(rgb).max())


def _edge_words(angle: float, structure: NDArray[np.float64]) -> str:
    """Step or line, which side of it is bright, or in colours where these are stronger than light."""
    across = radians(angle - 90)
    x, y = _positions(*structure.shape[1:])
    energy = (structure**2).sum(0)
    along = x * cos(across) + y * sin(across)
    along = along - float((energy * along).sum() / energy.sum())
    spread = sqrt(float((energy * along**2).sum() / energy.sum()))
    step = (structure * along).sum((1, 2)) / float(np.sqrt((along**2).sum()))
    bend = along**2 - (along**2).mean()
    line = -(structure * bend).sum((1, 2)) / max(float(np.sqrt((bend**2).sum())), 1e-9)
    energies = (structure**2).sum((1, 2))
    is_line = spread > 0 and float((line**2).sum()) > float((step**2).sum())
    found = line if is_line else step
    if len(structure) == 3 and energies[1:].sum() > energies[0] and found[1:].any():
        here, there = hue(found), hue(-found)
        return f"a line of {here} on {there}" if is_line else f"{here} {_side(across)} {there}"
    bright = float(found[int(energies.argmax())]) > 0
    if is_line:
        return "a bright line" if bright else "a dark line"
    return f"bright {_side(across if bright else across + pi)} dark"


def _side(towards: float) -> str:
    """Where something is that lies towards an angle, in radians."""
    where = _SIDES[round(degrees(towards) / 45) % 8]
    return where if where in ("above", "below") else f"{where} of"


def _round_words(plane: NDArray[np.float64]) -> str:
    height, width = plane.shape
    agreement = abs(float(plane.sum())) / float(np.abs(plane).sum())
    if float(plane.mean() ** 2) > PLAIN * float((plane**2).mean()):
        return "brightness all over" if plane.sum() > 0 else "darkness all over"
    row, column = np.unravel_index(int(np.abs(plane).argmax()), plane.shape)
    sign = "bright" if plane[row, column] > 0 else "dark"
    central = abs(row - (height - 1) / 2) <= height / 6 and abs(column - (width - 1) / 2) <= width / 6
    where = "" if central else ", off the centre"
    return f"a {sign} spot{where}" if agreement >= 0.5 else f"a {sign} spot in its surround{where}"
