"""Images read at points that a grid says: for each output pixel one, two or four rows and columns of the input.

A point's column and row are worked out side by side, as two lanes, and its channels in vectors. Points may be any
numbers: only pixels of the image are read.
"""

from __future__ import annotations

from llvmlite import ir

from ...native.ir import I32, I64, Arguments, Function, Int, Value, Vector, kernel, tasks
from ...native.program import Step, code, step
from ...native.target import DTYPE_BYTES, Target
from ..operations import GridSample
from ..operations.sampling import CUBIC
from ..tensor import Tensor
from .loops import each_channel, worth

_ARGUMENTS = Arguments(
    "x x_n x_c x_h x_w grid grid_n grid_h grid_w grid_p y y_n y_c y_h y_w images channels height width out_height "
    "out_width"
)
_VECTORS = 4
"""Of channels, whose sums are in registers at the same time."""


def sampling(
    operation: GridSample, x: Tensor, grid: Tensor, y: Tensor, dtype: str, target: Target, threads: int
) -> tuple[Step, ...]:
    """y = x at the grid's points."""
    images, channels, out_height, out_width = y.shape
    numbers = x.steps("x") | y.steps("y")
    numbers |= {f"grid_{axis}": stride for axis, stride in zip("nhwp", grid.strides, strict=True)}
    numbers |= {"images": images, "channels": channels, "height": x.shape[2], "width": x.shape[3]}
    numbers |= {"out_height": out_height, "out_width": out_width}
    tensors = {"x": x, "grid": grid, "y": y}
    at = {name: tensor.place(DTYPE_BYTES[dtype]) for name, tensor in tensors.items()}
    beside = x.strides[1] == y.strides[1] == 1
    kernels = code(_build, ("sample",), dtype, target, operation, beside)
    taps = {"nearest": 1, "bilinear": 4, "bicubic": 16}[operation.mode]
    return (step(kernels["sample"], worth(threads, y.numbers * (taps + 1)), _ARGUMENTS, numbers, at),)


def _build(module: ir.Module, dtype: str, target: Target, operation: GridSample, beside: bool) -> None:
    lanes = target.lanes(dtype) if beside else 1
    f, a = kernel(module, "sample", dtype, _ARGUMENTS)
    points = _Points(f, operation, a)
    with tasks(f, a["images"] * a["out_height"]) as task:
        image, row = task.index // a["out_height"], task.index % a["out_height"]
        x = f.address(a["x"]).at(image * a["x_n"])
        y_row = f.address(a["y"]).at(image * a["y_n"] + row * a["y_h"])
        grid_row = f.address(a["grid"]).at(image * a["grid_n"] + row * a["grid_h"])
        with f.loop(a["out_width"]) as column:
            at = grid_row.at(column.index * a["grid_w"])
            taps = points.taps(at.scalar(), at.at(a["grid_p"]).scalar())
            y = y_row.at(column.index * a["y_w"])
            corners = []
            for _, r, down, row_there in taps:
                for c, _, across, column_there in taps:
                    share = f.builder.fmul(points.lane(down, 1), points.lane(across, 0))
                    there = f.builder.and_(points.lane(row_there, 1), points.lane(column_there, 0))
                    corners.append((x.at(r * a["x_h"] + c * a["x_w"]), f.splat(share, lanes), there))

            def channels(channel: Int, vectors: int, mask: Value | None) -> None:
                totals = [f.zeros(lanes)] * vectors
                for corner, share, there in corners:
                    pixel = corner.at(channel * a["x_c"])
                    for n in range(vectors):
                        value = f.load(pixel.at(a["x_c"] * (n * lanes)), lanes, mask)
                        value = f.builder.select(there, value, f.zeros(lanes))
                        totals[n] = f.fma(value, share, totals[n])
                for n, total in enumerate(totals):
                    f.store(y.at((channel + n * lanes) * a["y_c"]), total, mask)

            each_channel(f, a["channels"], lanes, beside, _VECTORS, channels)
    f.done()


class _Points:
    """From a point of the grid to pixels, as `GridSample` says it. Lane 0 is for columns, lane 1 for rows."""

    def __init__(self, f: Function, operation: GridSample, a: dict[str, Int]) -> None:
        self.f, self.operation = f, operation
        self.size = self._pair(*(f.builder.sitofp(a[name].value, f.float) for name in ("width", "height")))

    def _pair(self, column: Value, row: Value) -> Vector:
        f = self.f
        return f.vector(f.shuffle(f.splat(column, 1), f.splat(row, 1), [0, 1]))

    def lane(self, pair: Value, number: int) -> Value:
        """Of two lanes, the one for columns (0) or rows (1)."""
        return self.f.builder.extract_element(pair, ir.Constant(I32, number))

    def taps(self, column: Value, row: Value) -> list[tuple[Int, Int, Value, Value]]:
        """Of a point: columns and rows, how much of each is taken, and whether there is such a column and row; the
        first one stands for those that there are not."""
        return [(*self._whole(at), share.value, self._there(at)) for at, share in self._shares(column, row)]

    def _shares(self, column: Value, row: Value) -> list[tuple[Vector, Vector]]:
        f, mode = self.f, self.operation.mode
        points = self._pair(column, row) + 1.0  # from 0 to 2
        points = points * (self.size - 1.0) if self.operation.align_corners else points * self.size - 1.0
        points = points * 0.5
        if mode != "bicubic":
            points = self._inside(points)
        if mode == "nearest":
            number = f.builder.fcmp_ordered("ord", points.value, points.value)
            return [(points.by_llvm("rint"), points.like(1.0).where(number, points))]
        first = points.by_llvm("floor")
        share = points - first
        rest = 1.0 - share
        if mode == "bilinear":
            return [(first, rest), (first + 1.0, share)]
        weights = _far(share + 1.0), _near(share), _near(rest), _far(rest + 1.0)
        return [(self._inside(first + float(n)), weight) for n, weight in zip(range(-1, 3), weights, strict=True)]

    def _inside(self, points: Vector) -> Vector:
        """Points beyond the border brought back where it is repeated or reflected."""
        operation, last = self.operation, self.size - 1.0
        if operation.beyond == "zeros":
            return points
        if operation.beyond == "reflection":
            low, span = (0.0, last) if operation.align_corners else (-0.5, self.size)
            period = span * 2.0
            away = abs(points - low)
            # The middles of a single pixel are no distance apart: what comes of it is brought to 0 below.
            some = period.where(period.above(0.0), 1.0)
            away = away - (away / some).by_llvm("floor") * some
            points = away.by_llvm("minimum", period - away) + low
        return points.at_least(0.0).at_most(last)

    def _there(self, at: Vector) -> Value:
        b = self.f.builder
        return b.and_(b.fcmp_ordered(">=", at.value, self.f.zeros(2)), b.fcmp_ordered("<", at.value, self.size.value))

    def _whole(self, at: Vector) -> tuple[Int, Int]:
        """The column and the row, 0 for those that there are not: other numbers may be none of 64 bits."""
        b = self.f.builder
        safe = at.where(self._there(at), 0.0).value
        column, row = (Int(b, b.fptosi(self.lane(safe, n), I64)) for n in range(2))
        return column, row


def _near(d: Vector) -> Vector:
    """How much cubic interpolation takes of what is at this distance, of up to 1."""
    return ((CUBIC + 2) * d - (CUBIC + 3)) * d * d + 1.0


def _far(d: Vector) -> Vector:
    """Of what is 1 to 2 away."""
    return ((CUBIC * d - 5 * CUBIC) * d + 8 * CUBIC) * d - 4 * CUBIC
