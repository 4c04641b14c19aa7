"""What requests to the page's server may say: everything else is refused before anything is done."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from ..spec import Conv2dSpec
from .arithmetic import changed
from .pictures import LONGEST_THUMBNAIL

_MOST_STEP, _MOST_PAD, _MOST_GROUPS = 64, 512, 65_536

Number: TypeAlias = Annotated[int, Field(ge=0, le=2**31 - 1)]
Count: TypeAlias = Annotated[int, Field(ge=1, le=65_536)]


def _integers(text: str, counts: tuple[int, ...], most: int, least: int) -> tuple[int, ...]:
    parts = text.split(",")
    if len(parts) not in counts or not all(p.isascii() and p.isdigit() and len(p) < 6 for p in parts):
        raise ValueError(
            f"must be {' or '.join(str(n) for n in counts)} integers with commas between, not {text[:40]!r}"
        )
    numbers = tuple(int(p) for p in parts)
    if not all(least <= n <= most for n in numbers):
        raise ValueError(f"must be from {least} to {most}, not {text[:40]!r}")
    return numbers


def _steps(text: str | None) -> str | None:
    if text is not None:
        _integers(text, (1, 2), _MOST_STEP, 1)
    return text


def _pads(text: str | None) -> str | None:
    if text is not None and text not in ("valid", "same", "same_ceil", "same_half"):
        _integers(text, (1, 2, 4), _MOST_PAD, 0)
    return text


class Asked(BaseModel):
    model_config = ConfigDict(extra="forbid")


class OfImage(Asked):
    image: Number


class OfAnswer(OfImage):
    top: Annotated[int, Field(ge=1, le=1000)] = 5


class OfClass(OfImage):
    """`of` is a class, `against` one that it is compared with; `layer` is LayerCAM's."""

    of: Number
    against: Number | None = None
    method: Literal["cam", "layercam"] = "cam"
    layer: Number | None = None


class OfRegion(OfClass):
    """A place of the maps; the whole image where none is named."""

    row: Number | None = None
    column: Number | None = None
    count: Annotated[int, Field(ge=1, le=256)] = 12


class ToOcclude(OfImage):
    of: Number
    against: Number | None = None


class OfWeight(OfImage):
    """A weight of the kernel of output channel `channel`, for input channel `read` of its group; where the place is not
    named, the one with the largest gradient. `of` is the class of the loss; the true one, if none is named."""

    of: Number | None = None
    channel: Number = 0
    read: Number | None = None
    row: Number | None = None
    column: Number | None = None


class OfLoss(OfImage):
    of: Number | None = None


class OfStep(OfLoss):
    rate: Annotated[float, Field(gt=0, le=100)] = 0.1


class Slice(OfImage):
    first: Number = 0
    count: Count = 16


class Changes(OfImage):
    channel: Number
    stride: Annotated[str | None, AfterValidator(_steps)] = None
    padding: Annotated[str | None, AfterValidator(_pads)] = None
    dilation: Annotated[str | None, AfterValidator(_steps)] = None
    groups: Annotated[int | None, Field(ge=1, le=_MOST_GROUPS)] = None

    def spec(self, spec: Conv2dSpec) -> Conv2dSpec:
        """The layer's spec with what was asked for."""
        pair = [None if text is None else _pair(text) for text in (self.stride, self.dilation)]
        padding: Any = self.padding
        if padding is not None and padding[0].isdigit():
            numbers = tuple(int(n) for n in padding.split(","))
            padding = (numbers[:2], numbers[2:]) if len(numbers) == 4 else [(n, n) for n in _pair(padding)]
        return changed(spec, pair[0], padding, pair[1], self.groups)

    @property
    def any(self) -> bool:
        return any(value is not None for value in (self.stride, self.padding, self.dilation, self.groups))


def _pair(text: str) -> tuple[int, int]:
    numbers = [int(n) for n in text.split(",")]
    return numbers[0], numbers[-1]


def _two(text: str) -> str:
    _integers(text, (2,), 2**20, 0)
    return text


class OfUnit(Changes):
    row: Number
    column: Number
    channels: Annotated[str, AfterValidator(_two)] = "0,16"


class View(Asked):
    view: Literal["original", "input", "thumb"] = "original"
    side: Annotated[int, Field(ge=16, le=LONGEST_THUMBNAIL)] = 128
    box: Annotated[str | None, Field(max_length=60, pattern=r"^-?\d{1,6},-?\d{1,6},\d{1,5},\d{1,5}$")] = None


class Place(Asked):
    row: Number
    column: Number


class SomeKernels(Asked):
    first: Number = 0
    count: Count = 65_536
