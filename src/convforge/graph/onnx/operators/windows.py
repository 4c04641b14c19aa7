"""What slides over images: rows taken for images, and padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ....spec import Pair, Sides, same_ceil_pad
from ...nodes import Shape
from ..attributes import Attributes, Cannot
from ..values import Value, Varies
from .common import rank

if TYPE_CHECKING:
    from ..reading import Reading


class Rows:
    """Rows `(N, C, L)` as images `(N, C, 1, L)`, and back again; images stay as they are."""

    def __init__(self, r: Reading, x: Value) -> None:
        self._r, self.rows = r, rank(x) == 3
        if rank(x) not in (3, 4):
            raise Cannot(f"is over {rank(x) - 2} axes, and known are images (N, C, H, W) and rows (N, C, L)")
        self.axes = rank(x) - 2
        self.x = self.image(x)

    def image(self, x: Value) -> Value:
        if not self.rows:
            return x
        return self._r.reshape(x, [(*shape[:2], 1, shape[2]) for shape in x.shapes])

    def back(self, y: Value) -> Value:
        return self._r.reshape(y, [(*shape[:2], shape[3]) for shape in y.shapes]) if self.rows else y

    def pair(self, numbers: Sequence[int] | None, usual: int) -> Pair:
        """Numbers by axis as (vertical, horizontal)."""
        if numbers is None:
            return usual, usual
        return (usual, numbers[0]) if self.rows else (numbers[0], numbers[1])

    def sides(self, pads: Sequence[int]) -> Sides:
        """ONNX's order, all that is before and then all that is after, as sides."""
        if self.rows:
            return (0, 0), (pads[0], pads[1])
        return (pads[0], pads[2]), (pads[1], pads[3])


def window_sides(
    a: Attributes, rows: Rows, kernel: Pair, stride: Pair, dilation: Pair, by_rule: bool, by_ceil: Sequence[int] = ()
) -> Sides | str:
    """Padding, as numbers; or, for a convolution, by the rule that it follows for any size. None along the axes
    `by_ceil`."""
    rule, pads = a.text("auto_pad", "NOTSET"), a.ints("pads", 2 * rows.axes)
    if rule in ("NOTSET", ""):
        return rows.sides(pads or (0,) * 2 * rows.axes)
    if rule == "VALID":
        return (0, 0), (0, 0)
    if rule not in ("SAME_UPPER", "SAME_LOWER"):
        raise Cannot(f"has the padding {rule!r}, which is not known")
    if rule == "SAME_UPPER" and by_rule:
        return "same_ceil"
    sizes_must_stay(rows.x.shapes, [axis for axis in (0, 1) if stride[axis] > 1 and axis not in by_ceil])
    size = rows.x.shapes[0][2:]
    vertical, horizontal = (
        (0, 0) if axis in by_ceil else same_ceil_pad(size[axis], kernel[axis], stride[axis], dilation[axis])
        for axis in (0, 1)
    )
    if rule == "SAME_LOWER":
        vertical, horizontal = vertical[::-1], horizontal[::-1]
    return vertical, horizontal


def sizes_must_stay(shapes: Sequence[Shape], axes: Sequence[int]) -> None:
    """What follows depends on the height (0) or width (1) in a way that a node cannot say."""
    for probe, shape in enumerate(shapes):
        if any(shape[2 + axis] != shapes[0][2 + axis] for axis in axes):
            raise Varies(probe)
