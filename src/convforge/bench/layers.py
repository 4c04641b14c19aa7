"""Layers to measure: from one line of text in either of two notations, from a list, or from a model.

The readable notation is `CHANNELS,SIZE,OUTPUTS,KERNEL` and options by name; one number stands for two equal ones:

    64,56x56,128,3x3,stride=2,padding=1,groups=1,batch=1          also: dilation=2, padding=0/1/0/1, padding=same

Options may be written as in a line of layers, too: `stride 2`, `same`, `pad 1`, `depthwise`.

benchdnn's, that of oneDNN's published lists, names every number: mb batch, g groups, ic oc channels, ih iw oh ow sizes,
kh kw kernel, sh sw stride, dh dw dilation minus one, ph pw padding at the top and left. A missing width copies the
height, and n"…" is a name, in which *3 means that the network has three such layers:

    mb1ic64ih56oc128oh28kh3sh2ph1n"some_layer*3"
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..engine.plan import Pass
from ..errors import UserError
from ..models.resolve import resolve
from ..models.sizes import Shape
from ..models.words import PADDINGS, split
from ..planning import Row, plan
from ..spec import Conv2dSpec, Pair, SpecError, output_size

_READABLE = re.compile(r"\s*\d+\s*,")
_BENCHDNN = re.compile(r"(?:[a-z]+\d+_?)*?ic\d+")
_FIELDS = ("g", "mb", "ic", "oc", "ih", "iw", "oh", "ow", "kh", "kw", "sh", "sw", "dh", "dw", "ph", "pw")
_OPTIONS = ("stride", "padding", "dilation", "groups", "batch")
_EXAMPLE = "64,56x56,128,3x3,stride=2,padding=1,groups=1,batch=1"
_MOST = 2**40  # larger numbers are mistakes, and a product of five of them must not become a memory error
_ITEMSIZE = 4  # float32 throughout


@dataclass(frozen=True, slots=True)
class Layer:
    """A convolution on images of one size; `count` of them are in the network that it comes from."""

    spec: Conv2dSpec
    size: Pair
    batch: int = 1
    name: str = ""
    count: int = 1

    @property
    def x_shape(self) -> tuple[int, int, int, int]:
        return (self.batch, self.spec.in_channels, *self.size)

    @property
    def y_shape(self) -> tuple[int, int, int, int]:
        return (self.batch, self.spec.out_channels, *self.spec.output_size(self.size))

    @property
    def flops(self) -> int:
        """Operations of any of the three passes: a product and a sum for each multiply-accumulate."""
        return 2 * self.spec.macs(self.size, self.batch)

    def bytes(self, which: Pass) -> int:
        """What a pass cannot avoid to move: input, weights and output, each number once. The input gradient is written
        everywhere; the other passes leave out pixels that no kernel meets (1×1 at stride 2 reads a quarter)."""
        sides = self.spec.sides(self.size)
        met = [
            self.size[a] if which is Pass.INPUT_GRADIENT else _met(self.size[a], self.y_shape[2 + a], self.spec, a, pad)
            for a, (pad, _) in enumerate(sides)
        ]
        n, k, out_height, out_width = self.y_shape
        x = self.batch * self.spec.in_channels * met[0] * met[1]
        return _ITEMSIZE * (x + self.spec.weights + n * k * out_height * out_width)

    def intensity(self, which: Pass) -> float:
        """Arithmetic intensity: operations a byte that must be moved."""
        return self.flops / self.bytes(which)

    def text(self) -> str:
        """The layer in the readable notation.

        >>> parse("mb1ic64ih56oc128oh28kh3sh2ph1").text()
        '64,56x56,128,3x3,stride=2,padding=1'
        """
        s = self.spec
        parts = [str(s.in_channels), _by(self.size), str(s.out_channels), _by(s.kernel_size)]
        sides = s.sides(self.size)
        written = {
            "stride": _short(s.stride),
            "padding": _short((sides[0][0], sides[1][0])) if all(a == b for a, b in sides) else _sides(sides),
            "dilation": _short(s.dilation),
            "groups": str(s.groups),
            "batch": str(self.batch),
        }
        usual = {"stride": "1", "padding": "0", "dilation": "1", "groups": "1", "batch": "1"}
        return ",".join(parts + [f"{name}={value}" for name, value in written.items() if value != usual[name]])

    def __str__(self) -> str:
        """The layer for a table.

        >>> str(parse("64,56x56,128,3x3,stride=2,padding=1"))
        '1×64×56×56 → 128, 3×3 s2'
        """
        s = self.spec
        extra = "" if s.stride == (1, 1) else f" s{_short(s.stride, '×')}"
        extra += "" if s.dilation == (1, 1) else f" d{_short(s.dilation, '×')}"
        extra += "" if s.groups == 1 else f" g{s.groups}"
        shape = "×".join(map(str, self.x_shape))
        return f"{shape} → {s.out_channels}, {_by(s.kernel_size, '×')}{extra}"

    def evenly_padded(self) -> Layer:
        """The same convolution with the padding put around the image beforehand, where its sides differ: then every
        library can have it. Padding that is not of zeros is never a matter of the kernels."""
        (top, bottom), (left, right) = self.spec.sides(self.size)
        if top == bottom and left == right and self.spec.padding_mode == "zeros":
            return self
        size = (self.size[0] + top + bottom, self.size[1] + left + right)
        return replace(self, spec=_respec(self.spec, 0), size=size)


def _respec(s: Conv2dSpec, padding: object) -> Conv2dSpec:
    return Conv2dSpec(
        s.in_channels, s.out_channels, s.kernel_size, s.stride, padding, s.dilation, s.groups, bias=False  # type: ignore[arg-type]
    )  # fmt: skip


def _met(size: int, out: int, spec: Conv2dSpec, axis: int, pad: int) -> int:
    """Positions of one axis that some kernel meets."""
    stride, met = spec.stride[axis], np.zeros(size, bool)
    for tap in range(spec.kernel_size[axis]):
        first = tap * spec.dilation[axis] - pad  # what the first kernel has under this tap, if it is in the image
        inside = first if first >= 0 else first % stride
        met[inside : max(0, first + (out - 1) * stride + 1) : stride] = True
    return int(met.sum())


def _by(pair: Pair, sign: str = "x") -> str:
    return f"{pair[0]}{sign}{pair[1]}"


def _short(pair: Pair, sign: str = "x") -> str:
    return str(pair[0]) if pair[0] == pair[1] else _by(pair, sign)


def _sides(sides: tuple[Pair, Pair]) -> str:
    return "/".join(str(n) for pair in sides for n in pair)


# ---------------------------------------------------------------------------------------------------------------------
# Reading
# ---------------------------------------------------------------------------------------------------------------------


def is_spec(text: str) -> bool:
    """Whether this is meant as a layer in one of the notations, not as the name of a model."""
    return bool(_READABLE.match(text) or _BENCHDNN.match(text.strip()))


def parse(text: str, batch: int | None = None) -> Layer:
    """One layer, in either notation; `batch` overrides what it says.

    Raises:
        UserError: where it cannot be read, with what is wrong and an example.
        SpecError: where there is no such convolution.

    >>> parse("64,56,128,3,padding=same").y_shape
    (1, 128, 56, 56)
    """
    text = text.strip()
    layer = _benchdnn(text) if _BENCHDNN.match(text) else _readable(text)
    layer.spec.output_size(layer.size)
    return layer if batch is None else replace(layer, batch=batch)


def _readable(text: str) -> Layer:
    parts = [split(part) for part in text.split(",")]
    plain = [words[0] for words in parts[:4] if len(words) == 1]
    if len(plain) != 4:
        raise UserError(
            f"a layer is CHANNELS,SIZE,OUTPUTS,KERNEL and then options by name, such as {_EXAMPLE}, not {text!r}."
        )
    options = dict(_option(words, plain[0], text) for words in parts[4:])
    channels, outputs = (_number(plain[n], what, text) for n, what in ((0, "CHANNELS"), (2, "OUTPUTS")))
    size, kernel = (_pair(plain[n], what, text) for n, what in ((1, "SIZE"), (3, "KERNEL")))
    stride, dilation = (_pair(options.get(what, "1"), what, text) for what in ("stride", "dilation"))
    groups, batch = (_number(options.get(what, "1"), what, text) for what in ("groups", "batch"))
    padding = _padding(options.get("padding", "0"), text)
    spec = Conv2dSpec(channels, outputs, kernel, stride, padding, dilation, groups, bias=False)
    return Layer(spec, size, batch)


def _option(words: list[str], channels: str, whole: str) -> tuple[str, str]:
    """An option's name and value, from what stands between two commas."""
    if len(words) == 1 and words[0] in PADDINGS:
        return "padding", words[0]
    if words == ["depthwise"]:
        return "groups", channels
    name = "padding" if words and words[0] == "pad" else words[0] if words else ""
    if name not in _OPTIONS:
        known = f"{', '.join(_OPTIONS)}, depthwise, {', '.join(PADDINGS)}"
        raise UserError(f"{name!r} in {whole!r} is not an option of a layer: there are {known}.")
    if len(words) != 2:
        raise UserError(f"{name!r} in {whole!r} takes one value, such as stride=2 or stride 2; an example: {_EXAMPLE}.")
    return name, words[1]


def _number(text: str, what: str, whole: str, least: int = 1) -> int:
    if not re.fullmatch(r"[0-9]{1,12}", text) or not least <= int(text) < _MOST:
        raise UserError(f"{what} in {whole!r} must be a number from {least} on, not {text!r}; an example: {_EXAMPLE}.")
    return int(text)


def _pair(text: str, what: str, whole: str, least: int = 1) -> Pair:
    numbers = [_number(n, what, whole, least) for n in re.split("[x×]", text)]
    if len(numbers) > 2:
        raise UserError(f"{what} in {whole!r} must be one number or two such as 3x3, not {text!r}.")
    return numbers[0], numbers[-1]


def _padding(text: str, whole: str) -> str | tuple[Pair, Pair]:
    if text.isascii() and text.replace("_", "").isalpha():
        return text  # a rule by its name; the spec knows which there are
    if "/" not in text:
        vertical, horizontal = _pair(text, "padding", whole, least=0)
        return (vertical, vertical), (horizontal, horizontal)
    numbers = [_number(n, "padding", whole, least=0) for n in text.split("/")]
    if len(numbers) != 4:
        raise UserError(f"padding in {whole!r} must be a number, 1x2, top/bottom/left/right or a rule, not {text!r}.")
    top, bottom, left, right = numbers
    return (top, bottom), (left, right)


def _benchdnn(line: str) -> Layer:
    quoted = re.search(r'n"(.*)"', line)
    label = quoted.group(1) if quoted else ""
    unnamed = line.split('n"')[0]
    known = {key: int(value) for key, value in re.findall(r"([a-z]+)([0-9]+)", unnamed)}
    leftover = re.sub(r"[a-z]+[0-9]+|_", "", unnamed).strip()
    unknown = [key for key in known if key not in _FIELDS]
    if unknown or leftover:
        raise UserError(
            f"{(unknown or [leftover])[0]!r} in {line!r} is nothing that benchdnn's notation has; "
            f"it has {', '.join(_FIELDS)}, each with a number."
        )
    missing = [key for key in ("ic", "oc", "ih", "oh", "kh") if not known.get(key)]
    if missing:
        raise UserError(f"{missing[0]!r} is missing in {line!r}; an example: mb1ic64ih56oc128oh28kh3sh2ph1.")
    for key, value in known.items():
        if value >= _MOST or (value < 1 and key in ("g", "mb", "iw", "ow", "kw", "sh", "sw")):
            raise UserError(f"{key}{value} in {line!r} cannot be; it must be a number from 1 on.")

    def axis(letter: str) -> tuple[int, ...]:
        def value(what: str, default: int) -> int:
            return known.get(what + letter, known.get(what + "h", default))

        size, out, kernel = value("i", 0), value("o", 0), value("k", 0)
        stride, gap, before = value("s", 1), value("d", 0) + 1, value("p", 0)
        after = max(0, (out - 1) * stride + gap * (kernel - 1) + 1 - size - before)
        if after >= gap * (kernel - 1) + 1:
            raise UserError(
                f"the output in {line!r} is larger than image and padding are; it would be all padding there."
            )
        if output_size(size, kernel, stride, (before, before), gap) == out:
            after = before  # the same convolution, in the words of libraries that pad evenly
        return size, out, kernel, stride, gap, before, after

    size, out, kernel, stride, dilation, before, after = ((v, h) for v, h in zip(axis("h"), axis("w"), strict=True))
    sides = tuple(zip(before, after, strict=True))
    spec = Conv2dSpec(known["ic"], known["oc"], kernel, stride, sides, dilation, known.get("g", 1), bias=False)
    if spec.output_size(size) != out:
        raise UserError(f"the output in {line!r} would be {_by(spec.output_size(size))}, not {_by(out)}.")
    name, _, count = label.partition("*")
    return Layer(spec, size, known.get("mb", 2), name, int(count) if count.isdecimal() else 1)


def read_list(path: Path, batch: int | None = None) -> list[Layer]:
    """The layers of a file, one a line, in either notation; `#` starts a comment.

    Raises:
        UserError: if it cannot be read, or a line of it, with the line's number.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not a text file"
        raise UserError(f"the list {str(path)!r} cannot be read: {reason}.") from error
    layers = []
    for number, line in enumerate(lines, start=1):
        code = line.split("#")[0].strip()
        if code:
            try:
                layers.append(parse(code, batch))
            except (UserError, SpecError) as error:
                raise UserError(f"line {number} of {str(path)!r}: {error}") from error
    if not layers:
        raise UserError(f"the list {str(path)!r} has no layers: write one a line, such as {_EXAMPLE}.")
    return layers


def gather(
    texts: Iterable[str], lists: Iterable[Path] = (), input_shape: Shape | None = None, batch: int | None = None
) -> tuple[list[Layer], list[str]]:
    """What a command line names, layers, models and lists, or `USUAL` where it names nothing; and sentences about the
    models."""
    found: list[Layer] = []
    said: list[str] = []
    for text in texts:
        if is_spec(text):
            found.append(parse(text, batch))
        else:
            more, sentence = of_model(text, input_shape, batch or 1)
            found += more
            said += [sentence] if sentence else []
    for path in lists:
        found += read_list(path, batch)
    return found or [parse(text, batch) for text in USUAL], said


def only(text: str, input_shape: Shape | None = None, batch: int | None = None) -> Layer:
    """The one layer that a text names: in either notation, or as a line for images of `input_shape`.

    >>> only("conv 128 3x3 stride 2 pad 1", (64, 56, 56)) == parse("64,56,128,3,stride=2,padding=1")
    True

    Raises:
        UserError, SpecError: where there is no such layer, or where there are several.
    """
    if is_spec(text):
        return parse(text, batch)
    layers, _ = of_model(text, input_shape, batch or 1)
    if len(layers) > 1:
        some = "; ".join(layer.text() for layer in layers[:3]) + ("; …" if len(layers) > 3 else "")
        raise UserError(f"{text!r} has {len(layers)} different convolutions: name one of them, such as {some}.")
    return replace(layers[0], name="", count=1)


def of_model(model: str, input_shape: Shape | None = None, batch: int = 1) -> tuple[list[Layer], str]:
    """The two-dimensional convolutions of a model (`convforge.models.resolve` says which models there are), equal ones
    once; and a sentence about what was left out, or about an assumed image size.

    Raises:
        UserError, SpecError: where there is no such model, or nothing of it can be measured.
    """
    resolved = resolve(model, input_shape)
    rows = [row for row in plan(resolved.module, resolved.input_shape, batch).rows if row.dense is not None]
    layers = [layer for row in rows if (layer := _of_row(row)) is not None]
    if not layers:
        raise UserError(f"{resolved.title!r} has no two-dimensional convolution that could be measured.")
    said = []
    if resolved.assumed:
        said.append(f"The input was taken to be {'x'.join(map(str, resolved.input_shape))}; --input says otherwise.")
    if len(layers) < len(rows):
        said.append(f"{len(rows) - len(layers)} convolutions are not of the plain two-dimensional kind; left out.")
    return merged(layers), " ".join(said)


def _of_row(row: Row) -> Layer | None:
    """A plan's row as a layer; None where it is another kind of convolution."""
    plain = len(row.input_shape) == len(row.output_shape) == 4 and "ranspose" not in row.type
    if not plain or row.kernel is None or row.stride is None or row.padding is None or row.dilation is None:
        return None
    n, channels, height, width = row.input_shape
    try:
        spec = Conv2dSpec(
            channels, row.output_shape[1], row.kernel, row.stride, row.padding, row.dilation, row.groups, bias=False
        )
        layer = Layer(spec, (height, width), n, row.name)
        fits = layer.y_shape == row.output_shape
    except SpecError:
        return None
    return layer if fits else None


def merged(layers: Iterable[Layer]) -> list[Layer]:
    """Equal layers once, with the name of the first of them and their number."""
    found: dict[Layer, Layer] = {}
    for layer in layers:
        key = replace(layer, name="", count=1)
        first = found.get(key)
        found[key] = layer if first is None else replace(first, count=first.count + layer.count)
    return list(found.values())


# Layers of all common kinds, for a first look: 3×3 at four image sizes, one image and sixteen; 1×1; stride 2; a stem;
# depthwise.
USUAL = (
    "64,224,64,3,padding=1", "64,56,64,3,padding=1", "128,56,128,3,padding=1", "256,28,256,3,padding=1",
    "512,14,512,3,padding=1", "512,7,512,3,padding=1", "64,56,64,3,padding=1,batch=16",
    "256,14,256,3,padding=1,batch=16", "256,56,64,1", "1024,14,256,1", "128,56,128,3,stride=2,padding=1",
    "3,224,64,7,stride=2,padding=3", "256,28,256,3,padding=1,groups=256", "64,112,64,3,stride=2,padding=1,groups=64",
)  # fmt: skip
