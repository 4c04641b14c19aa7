"""Layer lists of published networks: the text files under `shapes/`, whose README explains the notation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from convforge import Conv2dSpec
from convforge.bench.layers import read_list

FOLDER = Path(__file__).parent / "shapes"
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
    """The layers of the list `name`, e.g. "vgg_19"; with biases, which the lists do not speak of.

    >>> first = read_layers("alexnet")[0]
    >>> first.name, first.size, first.spec.kernel_size, first.spec.output_size(first.size), first.count
    ('alexnet:conv1', (227, 227), (11, 11), (55, 55), 1)
    """
    layers = read_list(FOLDER / f"{name}.txt")
    return [Layer(layer.name, replace(layer.spec, bias=True), layer.size, layer.batch, layer.count) for layer in layers]
