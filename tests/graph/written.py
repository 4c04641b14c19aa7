"""Graphs written by hand or drawn at random, and the comparison of a pass's graph with the one before."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np

from convforge import Conv2dSpec
from convforge.graph.nodes import (
    END,
    BatchNorm,
    Binary,
    Concat,
    Convolution,
    Graph,
    GraphError,
    GroupNorm,
    LayerNorm,
    Linear,
    Node,
    Operation,
    Pad,
    Pooling,
    Reduce,
    Resize,
    Slice,
    Take,
    Transpose,
    TransposedConvolution,
    Unary,
)

IMAGE = (2, 6, 7, 8)


class Written:
    """A graph, written a line a node."""

    def __init__(self, shape: tuple[int, ...] = IMAGE, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.shape, self.nodes, self.constants = shape, list[Node](), dict[str, Any]()

    def __call__(self, operation: Operation, *inputs: str) -> str:
        output = f"v{len(self.nodes)}"
        self.nodes.append(Node(operation, inputs, output))
        return output

    def numbers(self, *shape: int, positive: bool = False) -> str:
        array = self.rng.standard_normal(shape)
        return self.constant(np.abs(array) + 0.5 if positive else array)

    def constant(self, array: Any) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(array)
        return name

    def convolution(self, x: str, spec: Conv2dSpec, bias: bool = False) -> str:
        given = [self.numbers(*spec.weight_shape), *([self.numbers(spec.out_channels)] if bias else [])]
        return self(Convolution(spec, bias), x, *given)

    def norm(self, x: str, channels: int) -> str:
        numbers = [self.numbers(channels) for _ in range(3)]
        return self(BatchNorm(1e-3), x, *numbers, self.numbers(channels, positive=True))

    def graph(self, *outputs: str) -> Graph:
        graph = Graph({"x": self.shape}, outputs, tuple(self.nodes), self.constants)
        graph.check()
        return graph


def same_meaning(before: Graph, one: Callable[[Graph], Graph], batch: int = 3) -> list[str]:
    """Compares a pass's graph with the one before, for another batch and image size, too; the names of the operations
    left."""
    after = one(before)
    after.check()
    n, *sizes = before.inputs["x"]
    shapes = [(n, *sizes), (batch, *sizes), (n, sizes[0], *(2 * size for size in sizes[1:]))]
    for shape in shapes:
        if shape[2:] != before.inputs["x"][2:] and not _takes(before, shape):
            continue  # its constants are for this image size
        x = np.random.default_rng(9).standard_normal(shape) * 3
        expected = before.with_input(shape).compute(x=x)
        made = after.with_input(shape).compute(x=x)
        assert len(made) == len(expected)
        for a, b in zip(made, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10 * max(1.0, float(np.abs(b).max(initial=0))))
    return [node.operation.name for node in after.nodes]


def _takes(graph: Graph, shape: tuple[int, ...]) -> bool:
    try:
        graph.with_input(shape)
    except GraphError:
        return False
    return True


# ---------------------------------------------------------------------------------------------------------------------
# Drawn
# ---------------------------------------------------------------------------------------------------------------------


class Drawn(Written):
    """A graph of random nodes, such as passes look for and such as stand in their way."""

    def __init__(self, seed: int, nodes: int = 14) -> None:
        super().__init__((2, 4, 8, 6), seed)
        self.draw = random.Random(seed)
        self.images = {"x": self.shape}
        moves = (self.product, self.product, self.arithmetic, self.arithmetic, self.function, self.resized, self.mixed)
        while len(self.nodes) < nodes:
            x = self.draw.choice(list(self.images)[-4:])
            made = self.draw.choice(moves)(x, *self.images[x])
            if made is not None:
                self.images[made] = self._shape(made)

    def drawn(self) -> Graph:
        """With the last value as an output, and perhaps others."""
        last = self.nodes[-1].output
        others = [name for name in self.images if name not in ("x", last) and self.draw.random() < 0.1]
        return self.graph(last, *others)

    def _shape(self, name: str) -> tuple[int, ...]:
        return self.graph(name).shapes()[name]

    def product(self, x: str, n: int, c: int, h: int, w: int) -> str:
        groups = self.draw.choice([g for g in (1, 2, c) if c % g == 0])
        out = groups * self.draw.choice([1, 2, max(1, 4 // groups)])
        kernel = self.draw.choice([1, 1, 3])
        pad = self.draw.choice([0, kernel // 2]) if min(h, w) >= kernel else kernel // 2
        spec = Conv2dSpec(c, out, kernel, self.draw.choice([1, 1, 2]), pad, groups=groups)
        if self.draw.random() < 0.1:
            up = Conv2dSpec(out, c, 2, stride=2, groups=groups)
            return self(TransposedConvolution(up), x, self.numbers(*up.weight_shape))
        made = self.convolution(x, spec, self.draw.random() < 0.5)
        return self.norm(made, out) if self.draw.random() < 0.5 else made

    def arithmetic(self, x: str, n: int, c: int, h: int, w: int) -> str:
        alike = [name for name, shape in self.images.items() if shape == (n, c, h, w)]
        other = self.draw.choice([self.numbers(c, 1, 1), self.constant(self.draw.choice([0.0, 1.0, 3.0])), *alike * 2])
        inputs = [x, other]
        self.draw.shuffle(inputs)
        return self(Binary(self.draw.choice(["add", "add", "mul", "sub"])), *inputs)

    def function(self, x: str, n: int, c: int, h: int, w: int) -> str:
        which = self.draw.randrange(4)
        if which == 0:
            return self(Binary("mul"), x, self(Unary("sigmoid"), x))
        if which == 1:
            clipped = self(Unary("relu6"), self(Binary("add"), x, self.constant(3.0)))
            return self(Binary("div"), self(Binary("mul"), clipped, x), self.constant(6.0))
        return self(Unary(self.draw.choice(["relu", "identity", "tanh", "hardsigmoid"])), x)

    def resized(self, x: str, n: int, c: int, h: int, w: int) -> str | None:
        which = self.draw.randrange(5)
        if which == 0:
            return self(Pad(((0, 0), (0, 0), (1, 0), (1, 1))), x)
        if which == 1:
            return self(Resize(scales=(2.0, 1.0)), x) if h < 16 else None
        if which == 2:
            return self(Binary("mul"), x, self(Unary("sigmoid"), self(Reduce("mean", (2, 3)), x)))
        pads = self.draw.choice([((0, 0), (0, 0)), ((1, 1), (1, 0))])
        if min(h, w) < 3:
            return None
        return self(Pooling(self.draw.choice(["max", "average"]), (3, 2), (2, 1), pads, count_padding=which == 3), x)

    def mixed(self, x: str, n: int, c: int, h: int, w: int) -> str:
        which = self.draw.randrange(6)
        if which == 5:
            return self(Binary("add"), x, self(Slice(2, -1, -END, -1), x))
        if which == 0:
            return self(Concat(1), self(Slice(1, c // 2), x), self(Slice(1, 0, c // 2), x)) if c > 1 else x
        if which == 1:
            return self(Take(1), x, self.constant(np.array([0, c - 1, c // 2])))
        if which == 2:
            groups = 2 if c % 2 == 0 else 1
            return self(GroupNorm(groups), x, self.numbers(c), self.numbers(c))
        last = self(Transpose((0, 2, 3, 1)), x)
        if which == 3:
            last = self(LayerNorm(), last, self.numbers(c), self.numbers(c))
        made = self(Unary("gelu"), self(Linear(True), last, self.numbers(3, c), self.numbers(3)))
        made = self(Transpose((0, 3, 1, 2)), self(Linear(), made, self.numbers(c, 3)))
        return self(Binary("mul"), made, self.numbers(c, 1, 1))
