"""Numbers put back to where pooling has found them: each to a place of its image that another number says.

Places may be any numbers, from a file for instance: whatever they are, nothing is written outside of the image.
"""

from __future__ import annotations

from llvmlite import ir

from ...native.ir import I64, Arguments, Function, Int, Value, kernel, tasks
from ...native.program import Step, code, step
from ...native.target import DTYPE_BYTES, Target
from ...spec import ceil_div, round_up
from ..tensor import Tensor
from .elementwise import elementwise
from .loops import worth

_ARGUMENTS = Arguments(
    "x x_n x_c x_h x_w places places_n places_c places_h places_w y y_n y_c y_h y_w images channels height width "
    "out_width pixels block"
)
_LINE = 16
"""Channels that no two threads share, which are a cache line of float32."""
_LARGEST = 2.0**53
"""Places from here on, negative ones and NaN are taken for the first one. What is no integer of 64 bits cannot be made
one."""


def unpooling(x: Tensor, places: Tensor, y: Tensor, dtype: str, target: Target, threads: int) -> tuple[Step, ...]:
    """y = zeros, and x's numbers where `places`, of x's shape, says.

    One thread puts all numbers of a channel, so that of several at a place the last one stays, whoever puts them. A
    task is as many channels as leave each thread one: fewer would go through the same memory again and again.
    """
    images, channels, height, width = x.shape
    team = worth(threads, x.numbers * 4)
    block = round_up(ceil_div(channels, ceil_div(team, max(images, 1))), _LINE)
    numbers = x.steps("x") | places.steps("places") | y.steps("y")
    numbers |= {"images": images, "channels": channels, "height": height, "width": width}
    numbers |= {"out_width": y.shape[3], "pixels": y.shape[2] * y.shape[3], "block": block}
    tensors = {"x": x, "places": places, "y": y}
    at = {name: tensor.place(DTYPE_BYTES[dtype]) for name, tensor in tensors.items()}
    dense = y.strides[2] == y.shape[3] * y.strides[3]
    kernels = code(_build, ("unpool",), dtype, target, dense)
    zeros = elementwise((("=0.0", ()),), [], y, dtype, target, threads)
    return (*zeros, step(kernels["unpool"], team, _ARGUMENTS, numbers, at))


def _build(module: ir.Module, dtype: str, target: Target, dense: bool) -> None:
    f, a = kernel(module, "unpool", dtype, _ARGUMENTS)
    blocks = (a["channels"] + a["block"] - 1) // a["block"]
    with tasks(f, a["images"] * blocks) as task:
        image, first = task.index // blocks, task.index % blocks * a["block"]
        end = (first + a["block"]).at_most(a["channels"])
        x, places, y = (f.address(a[name]).at(image * a[f"{name}_n"]) for name in ("x", "places", "y"))
        with f.loop(a["height"]) as row, f.loop(a["width"]) as column, f.loop(end, start=first) as channel:
            value, place = (
                at.at(channel.index * a[f"{n}_c"] + row.index * a[f"{n}_h"] + column.index * a[f"{n}_w"]).scalar()
                for n, at in (("x", x), ("places", places))
            )
            number = _whole(f, place, a["pixels"])
            if dense:  # pixels at equal distances, over the ends of rows
                offset = number * a["y_w"]
            else:
                offset = number // a["out_width"] * a["y_h"] + number % a["out_width"] * a["y_w"]
            y.at(channel.index * a["y_c"] + offset).put(value)
    f.done()


def _whole(f: Function, place: Value, pixels: Int) -> Int:
    """The number of a pixel of its image."""
    b = f.builder
    zero, most = f.scalar_zero(), ir.Constant(f.float, _LARGEST)
    usual = b.and_(b.fcmp_ordered(">=", place, zero), b.fcmp_ordered("<", place, most))
    number = Int(b, b.fptosi(b.select(usual, place, zero), I64))
    inside: list[Int] = f.only_if(number.compare(">=", pixels), [number], lambda: [number % pixels])
    return inside[0]
