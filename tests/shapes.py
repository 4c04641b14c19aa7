"""Layer lists of published networks: the text files under `shapes/`, whose README explains the notation."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from convforge import Conv2dSpec

FOLDER = Path(__file__).parent / "shapes"
_FIELDS = ("g", "mb", "ic", "oc", "ih", "iw", "oh", "ow", "kh", "kw", "sh", "sw", "dh", "dw", "ph", "pw")
LISTS = sorted(path.stem for path in FOLDER.glob("*.txt"))


@dataclass(frozen=True)
class Layer:
    """One line of a list: a convolution, the input it has in its network, and how many such layers there are."""

    name: str
    spec: Conv2dSpec
    size: tuple[int, int]
    batch: int
    count: int

    def cut(self, most_macs: int) -> tuple[int, int]:
        """An input size that needs at most about `most_macs` for one image: fewer output rows and columns, while
        kernel, stride, padding, channels and the rows left over at the bottom stay as they are."""
        height, width = self.spec.output_size(self.size)
        size = list(self.size)
        pixels = max(1, most_macs // self.spec.weights)
        share = min(1.0, (pixels / (height * width)) ** 0.5)
        for axis, out in ((0, height), (1, width)):
            kept = max(min(out, 3), int(out * share))
            size[axis] -= (out - kept) * self.spec.stride[axis]
            (before, after), extent = self.spec.sides(self.size)[axis], self.spec.kernel_size[axis]
            size[axis] = max(size[axis], extent - before - after, 1)
        return size[0], size[1]


def read_layers(name: str) -> list[Layer]:
    """The layers of the list `name`, e.g. "vgg_19".

    >>> first = read_layers("alexnet")[0]
    >>> first.name, first.size, first.spec.kernel_size, first.spec.output_size(first.size), first.count
    ('alexnet:conv1', (227, 227), (11, 11), (55, 55), 1)
    """
    lines = (line.split("#")[0].strip() for line in (FOLDER / f"{name}.txt").read_text().splitlines())
    return [_layer(line) for line in lines if line]


def _layer(line: str) -> Layer:
    quoted = re.search(r'n"(.*)"', line)
    label = quoted.group(1) if quoted else line
    numbers = {key: int(value) for key, value in re.findall(r"([a-z]+)(\d+)", line.split('n"')[0])}
    unknown = numbers.keys() - {*_FIELDS}
    if unknown:
        raise ValueError(f"{line}: what is {unknown}?")

    def axis(letter: str) -> tuple[int, int, int, int, int, int]:
        def value(what: str, default: int) -> int:
            return numbers.get(what + letter, numbers.get(what + "h", default))

        size, out, kernel = value("i", 0), value("o", 0), value("k", 0)
        stride, dilation, before = value("s", 1), value("d", 0) + 1, value("p", 0)
        after = (out - 1) * stride + dilation * (kernel - 1) + 1 - size - before  # negative: rows left over
        return size, kernel, stride, dilation, before, max(after, 0)

    (ih, kh, sh, dh, top, bottom), (iw, kw, sw, dw, left, right) = axis("h"), axis("w")
    channels, outputs = numbers["ic"], numbers["oc"]
    sides = ((top, bottom), (left, right))
    spec = Conv2dSpec(channels, outputs, (kh, kw), (sh, sw), sides, (dh, dw), numbers.get("g", 1))
    name, _, count = label.partition("*")
    layer = Layer(name, spec, (ih, iw), numbers.get("mb", 2), int(count or 1))
    said = (numbers["oh"], numbers.get("ow", numbers["oh"]))
    if spec.output_size(layer.size) != said:
        raise ValueError(f"{line}: the output is {spec.output_size(layer.size)}, not {said}.")
    return layer
