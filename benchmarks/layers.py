"""Convolution layers on the engine and in torch, side by side, with the share of the FMA peak measured in the same run.

    python benchmarks/layers.py                            # a few 3×3, 1×1, strided and depthwise layers
    python benchmarks/layers.py 8,128,28,128,3 …           # batch,channels,size,outputs,kernel[,stride[,groups]]
    python benchmarks/layers.py --list tests/shapes/vgg_19.txt --batch 1

Every layer runs in all three passes, in channels_last (torch also in its plain layout; the faster of the two counts),
interleaved in rounds, and the median of the rounds is taken. Each result is compared with torch's float64 one first.
Memory is kept by the allocator, as docs/performance.md explains: run with

    MALLOC_MMAP_THRESHOLD_=8589934592 MALLOC_TRIM_THRESHOLD_=8589934592 MALLOC_TOP_PAD_=268435456
"""

from __future__ import annotations

import argparse
import ctypes
import json
import re
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from llvmlite import ir
from rich.console import Console
from rich.table import Table

import convforge
from convforge import Conv2dSpec
from convforge.engine import runtime, target
from convforge.engine.ir import kernel

DEFAULT = (
    "1,64,224,64,3 1,64,56,64,3 1,128,56,128,3 1,256,28,256,3 1,512,14,512,3 1,512,7,512,3 "
    "16,64,56,64,3 16,256,14,256,3 1,256,56,64,1 1,1024,14,256,1 1,128,56,128,3,2 1,3,224,64,7,2 "
    "1,256,28,256,3,1,256 1,64,112,64,3,2,64"
)


@dataclass(frozen=True, slots=True)
class Layer:
    batch: int
    spec: Conv2dSpec
    size: tuple[int, int]

    def __str__(self) -> str:
        s = self.spec
        kernel_size = "×".join(map(str, s.kernel_size))
        extra = "" if s.stride == (1, 1) else f" s{s.stride[0]}"
        extra += "" if s.dilation == (1, 1) else f" d{s.dilation[0]}"
        extra += "" if s.groups == 1 else f" g{s.groups}"
        return f"{self.batch}×{s.in_channels}×{self.size[0]}×{self.size[1]} → {s.out_channels}, {kernel_size}{extra}"


def read_layer(text: str) -> Layer:
    numbers = [int(n) for n in text.split(",")]
    batch, channels, size, outputs, k, stride, groups = numbers + [1, 1][len(numbers) - 5 :]
    return Layer(batch, Conv2dSpec(channels, outputs, k, stride, k // 2, groups=groups, bias=False), (size, size))


def read_list(path: Path, batch: int) -> list[Layer]:
    """A list in the notation of oneDNN's benchdnn (tests/shapes/README.md)."""
    layers = []
    for line in path.read_text().splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        d = {name: int(number) for name, number in re.findall(r"([a-z]+)(\d+)", line.split('n"')[0])}
        axes = []
        defaults = {"s": 1, "d": 0, "p": 0}
        for a, other in (("h", "w"), ("w", "h")):  # a missing width copies the height
            known = {what: d.get(what + a, d.get(what + other, defaults.get(what))) for what in "ioksdp"}
            size, out, k, step, gap, before = (known[what] for what in "ioksdp")
            gap += 1
            after = max(0, (out - 1) * step + (k - 1) * gap + 1 - size - before)
            axes.append((size, k, step, gap, (before, after)))
        sizes, ks, steps, gaps, pads = zip(*axes, strict=True)
        spec = Conv2dSpec(d["ic"], d["oc"], ks, steps, pads, gaps, d.get("g", 1), bias=False)
        layers.append(Layer(batch, spec, sizes))
    return layers


def fma_peak(threads: int) -> float:
    """GFLOP/s of multiply-adds that wait for nothing: 24 independent sums, in registers."""
    here, sums, steps = target.current(), 24, 4096
    lanes = here.lanes("float32")

    def build(module: ir.Module) -> None:
        f, _, _, _ = kernel(module, "peak", "float32")
        x = f.pointer(0).vector(lanes)
        start = [f.pointer(0).at(n).vector(lanes) for n in range(sums)]
        with f.loop(steps, carry=start) as step:
            step.carry([f.fma(x, x, s) for s in step.values])
        for n, total in enumerate(step.values):
            f.pointer(0).at((n + 8) * lanes).put(total)
        f.done()

    address = runtime.code("peak", build, ["peak"], here)["peak"]
    block, _ = runtime.program([(address, [0] * 1024)], first=0, end=1, rounds=20)
    program = (ctypes.c_int64 * len(block))(*block)
    best = 0.0
    for _ in range(50):
        begin = time.perf_counter()
        runtime.run(program, threads)
        best = max(best, 20 * 2 * lanes * sums * steps * threads / (time.perf_counter() - begin) / 1e9)
    return best


def interleaved(contenders: Sequence[Callable[[], object]], seconds: float) -> list[float]:
    """Median seconds of each, taken in rounds so that a slow moment of the machine meets all of them."""
    for run in contenders:
        run()
    times: list[list[float]] = [[] for _ in contenders]
    end = time.perf_counter() + seconds
    while len(times[0]) < 5 or time.perf_counter() < end:
        for run, taken in zip(contenders, times, strict=True):
            begin = time.perf_counter()
            run()
            taken.append(time.perf_counter() - begin)
    return [statistics.median(taken) for taken in times]


def measure(layer: Layer, seconds: float) -> list[dict[str, object]]:
    """One row a pass."""
    s, (height, width) = layer.spec, layer.size
    (top, bottom), (left, right) = s.sides(layer.size)
    x = torch.randn(layer.batch, s.in_channels, height, width)
    w = torch.randn(s.weight_shape) * (s.weights / s.out_channels) ** -0.5
    if (top, left) != (bottom, right):  # torch pads evenly; let both have the input padded before
        x = F.pad(x, (left, right, top, bottom))
        s, top, left = Conv2dSpec(s.in_channels, s.out_channels, s.kernel_size, s.stride, 0, s.dilation, s.groups), 0, 0
    pads = (top, left)
    plain = (x, w)
    last = (x.contiguous(memory_format=torch.channels_last), w.contiguous(memory_format=torch.channels_last))
    dy = torch.randn_like(F.conv2d(*plain, None, s.stride, pads, s.dilation, s.groups))
    dy_last = dy.contiguous(memory_format=torch.channels_last)
    ours = torch.ops.convforge
    geometry = (s.stride, (top, top, left, left), s.dilation, s.groups)

    def torch_backward(data: tuple[torch.Tensor, torch.Tensor], g: torch.Tensor, which: int) -> torch.Tensor:
        wanted = [which == 0, which == 1, False]
        return torch.ops.aten.convolution_backward(
            g, *data, None, s.stride, pads, s.dilation, False, (0, 0), s.groups, wanted
        )[which]

    size, k = x.shape[2:], s.kernel_size
    passes = {
        "forward": (
            lambda: ours.conv2d(*last, None, *geometry),
            *(lambda d=d: F.conv2d(*d, None, s.stride, pads, s.dilation, s.groups) for d in (last, plain)),
        ),
        "input gradient": (
            lambda: ours.conv2d_input_gradient(dy_last, last[1], size, *geometry, True),
            *(lambda d=d, g=g: torch_backward(d, g, 0) for d, g in ((last, dy_last), (plain, dy))),
        ),
        "weight gradient": (
            lambda: ours.conv2d_weight_gradient(last[0], dy_last, k, *geometry, True),
            *(lambda d=d, g=g: torch_backward(d, g, 1) for d, g in ((last, dy_last), (plain, dy))),
        ),
    }
    exact = {
        "forward": F.conv2d(x.double(), w.double(), None, s.stride, pads, s.dilation, s.groups),
        "input gradient": torch_backward((x.double(), w.double()), dy.double(), 0),
        "weight gradient": torch_backward((x.double(), w.double()), dy.double(), 1),
    }
    rows: list[dict[str, object]] = []
    for name, contenders in passes.items():
        error, theirs = (float((run().double() - exact[name]).norm() / exact[name].norm()) for run in contenders[:2])
        mine, channels_last, contiguous = interleaved(contenders, seconds)
        gflop = 2 * s.macs((size[0], size[1]), layer.batch) / 1e9
        rows.append(
            {
                "layer": str(layer),
                "pass": name,
                "gflops": gflop / mine,
                "torch_gflops": gflop / min(channels_last, contiguous),
                "ratio": min(channels_last, contiguous) / mine,
                "error": error,
                "torch_error": theirs,
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("layers", nargs="*", help="batch,channels,size,outputs,kernel[,stride[,groups]]")
    parser.add_argument("--list", type=Path, help="a layer list in benchdnn's notation")
    parser.add_argument("--batch", type=int, default=1, help="batch size for --list")
    parser.add_argument("--seconds", type=float, default=0.5, help="measuring time of a layer and pass")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    assert convforge.conv2d  # the operators are registered

    layers = [read_layer(text) for text in options.layers]
    if options.list:
        layers += read_list(options.list, options.batch)
    layers = layers or [read_layer(text) for text in DEFAULT.split()]
    rows = []
    peaks = [fma_peak(options.threads)]
    for layer in layers:
        rows += measure(layer, options.seconds)
        peaks.append(fma_peak(options.threads))
    peak = max(peaks)
    if options.json:
        json.dump({"fma_peak_gflops": peak, "threads": options.threads, "rows": rows}, sys.stdout, indent=1)
        return
    table = Table(title=f"FMA peak {peak:.0f} GFLOP/s on {options.threads} threads, {target.current().name}")
    for heading, side in (
        ("layer", "left"), ("pass", "left"), ("GFLOP/s", "right"), ("of peak", "right"), ("torch", "right"),
        ("ratio", "right"), ("error", "right"), ("torch's", "right"),
    ):  # fmt: skip
        table.add_column(heading, justify=side)  # type: ignore[arg-type]
    for r in rows:
        table.add_row(
            str(r["layer"]) if r["pass"] == "forward" else "", str(r["pass"]), f"{r['gflops']:.0f}",
            f"{r['gflops'] / peak:.0%}", f"{r['torch_gflops']:.0f}", f"{r['ratio']:.2f}", f"{r['error']:.1e}",
            f"{r['torch_error']:.1e}",
        )  # fmt: skip
    Console(width=max(120, Console().width)).print(table)
    print(f"geometric mean of the ratios: {statistics.geometric_mean([float(r['ratio']) for r in rows]):.2f}")


if __name__ == "__main__":
    main()
