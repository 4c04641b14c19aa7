"""The three passes, ready to run: which kernels, with which numbers, in which order, with how much memory.

Everything that depends on sizes and layouts alone is worked out once and kept (`prepare_…` are cached); a call then
fills in addresses. A `Prepared` is immutable, so threads may run the same one at the same time.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from llvmlite import ir

from . import direct, direct_weight_gradient, runtime
from . import target as targets
from .geometry import Blocking, Problem, Sliding, blocking
from .ir import Arguments
from .select import Algorithm, choose
from .target import DTYPE_BYTES, Target

_LINE = 64
_ZEROS = np.zeros(64)  # what the sums of a panel are added to where there is no bias
_ZEROS_ADDRESS = int(_ZEROS.ctypes.data)

# Below this a fork and join (half a microsecond each) costs more than a second thread brings.
_MACS_WORTH_A_THREAD = 20_000

# The longest chain of float32 additions (see direct.py).
_PRODUCTS_A_PART = 512


@dataclass(frozen=True, slots=True)
class Step:
    """One kernel call: its address, its numbers, and which of them are addresses: (position, buffer, byte offset)."""

    kernel: int
    numbers: bytes
    addresses: tuple[tuple[int, str, int], ...]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A pass for one problem: run it as often as you like."""

    steps: tuple[Step, ...]
    threads: int
    workspace_bytes: int
    algorithm: str

    def run(self, **buffers: int) -> None:
        """Run on the addresses `x`, `w`, `y` and `bias`, as far as the pass knows them."""
        buffers["work"], alive = runtime.workspace(self.workspace_bytes)
        buffers["zeros"] = _ZEROS_ADDRESS
        phases = []
        for step in self.steps:
            numbers = (ctypes.c_int64 * (len(step.numbers) // 8)).from_buffer_copy(step.numbers)
            for position, buffer, offset in step.addresses:
                numbers[position] = buffers[buffer] + offset
            phases.append((step.kernel, numbers))
        runtime.run(phases, self.threads)
        del alive  # the workspace is ours until here


class _Layout:
    """Memory of one call, handed out piece by piece in whole cache lines."""

    def __init__(self) -> None:
        self.size = 0

    def take(self, size: int) -> int:
        offset = self.size
        self.size += -(-size // _LINE) * _LINE
        return offset


@lru_cache(maxsize=4096)
def prepare_forward(problem: Problem, threads: int, bias: bool) -> Prepared:
    """y from x, w and, where `bias`, one number an output channel."""
    return _slide([problem.forward()], problem.dtype, threads, ("x", "w", "y"), bias)


@lru_cache(maxsize=4096)
def prepare_input_gradient(problem: Problem, threads: int) -> Prepared:
    """x's gradient, into `x`, from y's gradient, in `y`, and w."""
    return _slide(list(problem.input_gradient()), problem.dtype, threads, ("y", "w", "x"), bias=False)


def _slide(slidings: list[Sliding], dtype: str, threads: int, roles: tuple[str, str, str], bias: bool) -> Prepared:
    """Each sliding: pack its weights, run. `roles` are the buffers read, multiplied by, and written."""
    source, weights, result = roles
    size, target = DTYPE_BYTES[dtype], targets.current()
    panel = target.lanes(dtype) * target.tile_vectors
    threads = _worth(threads, sum(s.macs for s in slidings))
    steps: list[Step] = []
    workspace_bytes = 0
    algorithm = _algorithm(slidings[0])
    code = _code(direct.build, ("pack_weights", "sliding"), dtype, target, algorithm.name)
    for s in (algorithm.arranged(sliding.simplified(), panel) for sliding in slidings):
        layout = _Layout()  # the slidings run one after the other and share the memory
        v, h = s.vertical, s.horizontal
        # A panel of output that must cross to another layout is staged in an eighth of L2.
        blocks = blocking(s, dtype, target, target.l2_bytes // 8 // (panel * size), threads)
        panels = -(-s.outputs // panel)
        packed = layout.take(s.groups * panels * panel * s.taps * size)
        staging = -(-blocks.scratch_numbers // (_LINE // size)) * (_LINE // size)
        staged = 0 if s.y_c == 1 else blocks.rows * blocks.columns * panel
        per_thread = -(-(staging + staged) * size // _LINE) * _LINE
        scratch = layout.take(per_thread * threads)
        if s.taps:
            at = {"w": (weights, s.w_start * size), "packed": ("work", packed)}
            steps.append(_step(code["pack_weights"], direct.PACK_WEIGHTS, _weights(s, panel), at))
        numbers = blocks.arguments(s)
        slide = numbers | _sum_parts(v.kernel, numbers["runs"], numbers["run_length"]) | {
            "y_n": s.y_n, "y_c": s.y_c, "y_h": v.y_step, "y_w": h.y_step, "outputs": s.outputs, "panels": panels,
            "bias_step": int(bias), "staging": staging, "scratch_bytes": per_thread,
        }  # fmt: skip
        at = {
            "x": (source, s.x_start * size),
            "y": (result, s.y_start * size),
            "weights": ("work", packed),
            "scratch": ("work", scratch),
            "bias": ("bias", 0) if bias else ("zeros", 0),
        }
        steps.append(_step(code["sliding"], direct.SLIDING, slide, at))
        workspace_bytes = max(workspace_bytes, layout.size)
    return Prepared(tuple(steps), threads, workspace_bytes, algorithm.name)


def _algorithm(s: Sliding) -> Algorithm:
    return choose(s.groups, s.channels, s.outputs)


def _weights(s: Sliding, panel: int) -> dict[str, int]:
    """The weights as panels of outputs."""
    return s.weights | {"panels": -(-s.weights["outputs"] // panel)}


def _sum_parts(tap_rows: int, runs: int, run_length: int) -> dict[str, int]:
    """How much of (tap rows, runs, numbers of a run) makes a part of at most `_PRODUCTS_A_PART` products."""
    l_part = min(run_length, _PRODUCTS_A_PART)
    v_part = min(runs, _PRODUCTS_A_PART // max(l_part, 1)) if l_part == run_length else 1
    u_part = min(tap_rows, _PRODUCTS_A_PART // max(v_part * l_part, 1)) if v_part == runs else 1
    return {"u_part": max(u_part, 1), "v_part": max(v_part, 1), "l_part": max(l_part, 1)}


@lru_cache(maxsize=4096)
def prepare_weight_gradient(problem: Problem, threads: int) -> Prepared:
    """w's gradient, into `w`, from x and y's gradient, in `y`."""
    dtype, target = problem.dtype, targets.current()
    size, panel = DTYPE_BYTES[dtype], target.lanes(dtype) * target.tile_vectors
    algorithm = _algorithm(problem.forward())
    s = algorithm.arranged(problem.forward().simplified(), panel)
    v, h = s.vertical, s.horizontal
    threads = _worth(threads, s.macs)
    # A panel of dy stays in L1 while all taps pass over it; the rest of L1 is for the lines of the input.
    blocks = blocking(s, dtype, target, target.l1_bytes * 5 // 8 // (panel * size), 1)
    code = _code(direct_weight_gradient.build, ("accumulate", "collect"), dtype, target, algorithm.name)
    panels = -(-s.outputs // panel)
    splits, chunks = _units(s, blocks, panels, threads)
    layout = _Layout()
    parts = layout.take(splits * s.groups * panels * panel * s.taps * size)
    panel_dy = -(-blocks.scratch_numbers // (_LINE // size)) * (_LINE // size)
    per_thread = -(-(panel_dy + blocks.rows * blocks.columns * panel) * size // _LINE) * _LINE
    scratch = layout.take(per_thread * threads)
    accumulate = blocks.arguments(s) | {
        "dy_n": s.y_n, "dy_c": s.y_c, "dy_h": v.y_step, "dy_w": h.y_step, "outputs": s.outputs, "panels": panels,
        "splits": splits, "chunks": chunks, "panel_dy": panel_dy, "scratch_bytes": per_thread,
        "row_step": 1,
    }  # fmt: skip
    if s.lanewise:  # a tile's rows are the taps of a kernel row
        accumulate |= {"runs": 1, "run_length": h.kernel, "row_step": h.dilation * blocks.pitch}
    collect = _weights(s, panel) | {"splits": splits}
    at = {
        "x": ("x", s.x_start * size),
        "dy": ("y", s.y_start * size),
        "scratch": ("work", scratch),
        "parts": ("work", parts),
    }
    collected = {"parts": ("work", parts), "w": ("w", s.w_start * size)}
    steps = (
        _step(code["accumulate"], direct_weight_gradient.ACCUMULATE, accumulate, at),
        _step(code["collect"], direct_weight_gradient.COLLECT, collect, collected),
    )
    return Prepared(steps, threads, layout.size, algorithm.name)


def _units(s: Sliding, blocks: Blocking, panels: int, threads: int) -> tuple[int, int]:
    """Into how many splits of the pixels and chunks of the panels the work is cut, so that every thread has as much.

    Chunks alone where they come out even: they need no further memory. Else the pixels are split as well.
    """
    for chunks in range(1, panels + 1):
        if panels % chunks == 0 and s.groups * chunks % threads == 0:
            return 1, chunks
    if s.groups * panels >= 8 * threads:
        return 1, panels
    block_count = s.images * -(-s.vertical.out // blocks.rows) * -(-s.horizontal.out // blocks.columns)
    return max(1, min(threads, block_count)), 1


def _worth(threads: int, macs: int) -> int:
    return max(1, min(threads, macs // _MACS_WORTH_A_THREAD))


def _code(
    build: Callable[[ir.Module, str, Target, bool], None],
    kernels: tuple[str, ...],
    dtype: str,
    target: Target,
    algorithm: str,
) -> runtime.Code:
    lanewise = algorithm == "depthwise"
    return runtime.code(
        build.__module__, lambda module: build(module, dtype, target, lanewise), kernels, target, dtype, lanewise
    )


def _step(kernel: int, arguments: Arguments, numbers: dict[str, int], at: dict[str, tuple[str, int]]) -> Step:
    values = arguments.pack(numbers | dict.fromkeys(at, 0))
    addresses = tuple((arguments.position(name), buffer, offset) for name, (buffer, offset) in at.items())
    return Step(kernel, np.asarray(values, np.int64).tobytes(), addresses)
