"""Groups of few channels as lanes: which inputs a vector of outputs meets, and how they are spread over its lanes."""

from __future__ import annotations

from dataclasses import dataclass

from ...spec import ceil_div
from .ir import Function, Int, Pointer, Value


@dataclass(frozen=True, slots=True)
class Group:
    """Channels of a group: `depth` of them are summed for each of `outputs`. Depthwise has one of both.

    The lanes of a vector of outputs belong to `lanes / outputs` groups, or all to one. Lane l meets as its channel c
    number l//outputs·depth + c of the inputs from the first of these groups on: a shuffle of what is loaded once, or,
    where all are of one group, a broadcast.
    """

    depth: int = 1
    outputs: int = 1

    def fits(self, lanes: int) -> bool:
        """Whole groups to a vector, whose inputs are two vectors at most; or whole vectors to a group."""
        whole = lanes % self.outputs == 0 and lanes // self.outputs * self.depth <= 2 * lanes
        return whole or self.outputs % lanes == 0

    def inputs(self, lanes: int) -> int:
        """Channels of input that a vector of outputs meets."""
        return max(1, lanes // self.outputs) * self.depth

    def first_input(self, channel: Int) -> Int:
        """Of the vector that begins at this output."""
        return channel if self.depth == self.outputs == 1 else channel // self.outputs * self.depth

    def load(self, x: Pointer, lanes: int) -> list[Value]:
        """What is loaded once for all channels of the groups."""
        if self.outputs >= lanes:
            return []
        count = self.inputs(lanes)
        return [x.vector(count)] if count <= lanes else [x.vector(lanes), x.at(lanes).vector(count - lanes)]

    def spread(self, f: Function, x: Pointer, loaded: list[Value], c: int, lanes: int) -> Value:
        """Channel c of its own group in every lane."""
        if self.outputs >= lanes:
            return f.splat(x.at(c).scalar(), lanes)
        if self.depth == self.outputs == 1:
            return loaded[0]
        low, high = (loaded * 2)[:2]
        if high.type.count < low.type.count:  # a shuffle takes two vectors of one size
            high = f.shuffle(high, high, [*range(high.type.count), *[0] * (low.type.count - high.type.count)])
        return f.shuffle(low, high, [lane // self.outputs * self.depth + c for lane in range(lanes)])

    def loads(self, lanes: int, channels: int) -> int:
        """Loads of an input, for so many channels of its group."""
        return channels if self.outputs >= lanes else ceil_div(self.inputs(lanes), lanes)
