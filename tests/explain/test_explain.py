"""What an algorithm says of itself agrees with what it does, and with the code that is made of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from io import StringIO

import pytest
from rich.console import Console

from convforge.bench.layers import parse
from convforge.bench.machine import Machine
from convforge.engine.geometry import Problem
from convforge.engine.kernels.tile import STEPS
from convforge.engine.nest import Held, Inner, Level, Nest, RegisterTile, TileStep, largest_tile
from convforge.engine.plan import Algorithm, Job, Pass
from convforge.engine.select import considered
from convforge.explain.assembly import find, inner_loop
from convforge.explain.gather import Considered, Explanation, PassExplained
from convforge.explain.text import as_text
from convforge.native import target as targets

# How many times fewer products than the definition, by kernel and algorithm.
WINOGRAD = {(3, "winograd 4×4"): 4, (3, "winograd 2×2"): 2.25, (5, "winograd 2×2 of 5×5"): 100 / 36}

LAYERS = (
    "64,56,128,3,stride=2,padding=1", "3,224,64,7,stride=2,padding=3", "1024,14,256,1", "20,9,6,3,groups=2",
    "40,12,40,3,padding=1,groups=40", "64,56,64,3,padding=1", "512,14,512,3,padding=1",
    "20,23,40,5,dilation=2,groups=2", "32,28,32,3,stride=2,padding=1,groups=32", "64,14,128,3,padding=1,groups=16",
    "40,9,40,7,padding=3,groups=40",
)  # fmt: skip


compiled_once = cache(inner_loop)
"""Many nests have the same innermost function, with weights that are kept as without."""


def nests(text: str, which: Pass, target: targets.Target) -> Iterator[tuple[Algorithm, Nest]]:
    """Of every algorithm that applies."""
    layer = parse(text)
    for kept in (False, True):
        job = Job.of(Problem.of(layer.spec, layer.batch, layer.size), which, 2, kept, target=target)
        for choice in considered(job).choices:
            yield choice.algorithm, choice.plan.nest


@pytest.mark.parametrize("name", targets.available())
@pytest.mark.parametrize("which", Pass)
@pytest.mark.parametrize("text", LAYERS)
def test_the_loops_do_all_products(text: str, which: Pass, name: str) -> None:
    """The product of all counts is no less than the products that there are, and for the direct algorithm not much
    more: the last block, tile and vector may be smaller than the others."""
    layer = parse(text)
    problem = Problem.of(layer.spec, layer.batch, layer.size)
    macs = max(s.macs for s in which.slidings(problem))
    seen = set()
    for algorithm, d in nests(text, which, targets.named(name)):
        seen.add(algorithm.name)
        done = d.tile.multiply_adds * d.tile.lanes
        for loop in d.loops:
            done *= loop.count
        saved = 1 if algorithm.exact else WINOGRAD[layer.spec.kernel_size[0], algorithm.name]
        assert macs / saved <= done
        if algorithm.name == "direct" and layer.spec.groups == 1 and which is not Pass.INPUT_GRADIENT:
            assert done < 1.6 * macs
        assert d.tile.registers_used <= d.tile.registers
    assert "direct" in seen


@pytest.mark.parametrize("name", targets.available())
@pytest.mark.parametrize("which", [Pass.FORWARD, Pass.WEIGHT_GRADIENT])
@pytest.mark.parametrize(
    "text",
    [
        "64,56,128,3,padding=1",
        "64,56,64,3,padding=1,groups=64",
        "64,56,64,3,padding=1,groups=16",
        "64,56,3,5,padding=2",
    ],
)
def test_the_inner_loop_has_the_multiply_adds_of_the_tile(text: str, which: Pass, name: str) -> None:
    for algorithm, d in nests(text, which, targets.named(name)):
        if algorithm.name == "direct" and parse(text).spec.groups > 1:
            continue  # tiles of a single channel; nobody takes it
        loop = compiled_once(d.inner, "float32", targets.named(name))
        assert loop is not None
        steps, rest = divmod(loop.multiply_adds, d.tile.multiply_adds)
        assert (rest, steps) in ((0, 1), (0, STEPS)), "one step of the tile, or a round of them"
        assert loop.reads >= steps * d.tile.loads
        assert len(loop.lines) == loop.instructions


def test_tile_arithmetic() -> None:
    tile = RegisterTile(14, "pixels", 2, "channels", 16, 32)
    assert (tile.sums, tile.registers_used, tile.loads, tile.cycles, tile.limit) == (
        28,
        31,
        16,
        14.0,
        "the multipliers",
    )
    lanewise = RegisterTile(14, "pixels", 2, "channels", 16, 32, lanewise=True)
    assert (lanewise.loads, lanewise.cycles, lanewise.limit) == (30, 15.0, "loads")
    shared = RegisterTile(8, "pixels", 1, "channels", 16, 32, step=TileStep(24, 3, 10))
    assert (shared.registers_used, shared.loads, shared.cycles, shared.limit) == (12, 13, 12.0, "the multipliers")
    small = RegisterTile(2, "pixels", 1, "channels", 16, 32)
    assert (small.cycles, small.limit) == (4.0, "the multiply-add's own four cycles")
    assert [largest_tile(n, 14) for n in (1, 14, 15, 28, 29)] == [1, 14, 8, 14, 10]


def test_the_loop_is_told_from_the_rest_of_the_function() -> None:
    x86 = """
f:
\tvfmadd231ps\t%zmm0, %zmm1, %zmm2
.LBB0_1:
\tvfmadd231ps\t%zmm0, %zmm1, %zmm2
\tvfmadd231ps\t%zmm0, %zmm1, %zmm3
\tvfmadd231ps\t%zmm0, %zmm1, %zmm4
\tjmp\t.LBB0_3
.LBB0_2:                                # %body
                                        # =>This Inner Loop Header: Depth=1
\tvbroadcastss\t(%rdi), %zmm0
\tvfmadd231ps\t64(%rsi), %zmm0, %zmm2   # a comment
\taddq\t$4, %rdi
\tjne\t.LBB0_2
# %bb.4:
\tvfmadd231ps\t%zmm0, %zmm1, %zmm2
.LBB0_3:
\tretq
g:
.LBB1_1:
\tjne\t.LBB1_1
"""
    loop = find(x86, "f")
    assert loop is not None
    assert (loop.multiply_adds, loop.reads, loop.instructions) == (1, 2, 4)
    assert loop.lines[1] == "vfmadd231ps 64(%rsi), %zmm0, %zmm2"
    assert find(x86, "g") is None
    assert find(x86, "h") is None
    arm = """
_f:
LBB0_0:
.LBB0_2:
\tld1r\t{ v0.4s }, [x0]
\tfmla\tv1.4s, v0.4s, v2.4s
\tb.ne\t.LBB0_2
"""
    loop = find(arm, "f")
    assert loop is not None
    assert (loop.multiply_adds, loop.reads, loop.instructions) == (1, 1, 3)


def test_the_text_is_as_it_was_judged_good(golden: Callable[[str, str], None]) -> None:
    target = replace(
        targets.current(), name="avx512", vector_bytes=64, registers=32, l1_bytes=48 << 10, l2_bytes=1 << 20
    )
    limits = Machine("avx512", 2, peak=450e9, memory=45e9, cache=290e9)
    layer = parse("64,56,128,3,stride=2,padding=1")
    description = Nest(
        (
            Level(12, "task", "shared out among 2 threads: 3 blocks × 4 panels", "copy the block's input"),
            Level(1, "part", "of the sum"),
            Level(20, "tile", "of at most 14 pixels of a row"),
            Level(384, "product", "added to every sum of the tile"),
        ),
        RegisterTile(14, "result pixels", 2, "result channels", 16, 32),
        (Held("all weights, packed", 294912), Held("a block's packed input", 306432, "L2")),
        Inner(lambda: None, "forward_14x2"),
        after="bring the result into its layout",
        note="the largest of 4 phases",
    )
    common = {
        "which": Pass.FORWARD, "algorithm": "direct", "reason": "it is the best", "description": description,
        "considered": (Considered("direct", 301e-6, 322e-6), Considered("depthwise", None, 541e-6)),
        "refused": {"winograd 4×4": "is for stride 1"},
        "bytes": layer.bytes(Pass.FORWARD), "intensity": layer.intensity(Pass.FORWARD),
        "attainable": 450e9, "predicted": 301e-6, "measured": 322e-6, "kept": True, "otherwise": 341e-6,
        "work_bytes": 612864,
        "inner_loop": find("f:\n.L1:\n  mulps (%rax), %xmm1\n  jne .L1\n", "f"),
    }  # fmt: skip
    bare = common | {
        "which": Pass.WEIGHT_GRADIENT, "predicted": None, "kept": False, "otherwise": None,
        "refused": {},
        "attainable": 100e9, "intensity": 100 / 45,
    }  # fmt: skip
    console = Console(file=StringIO(), width=100, color_system=None, legacy_windows=False, force_jupyter=False)
    with console.capture() as capture:
        explanation = Explanation(layer, target, limits, (PassExplained(**common), PassExplained(**bare)))  # type: ignore[arg-type]
        console.print(as_text(explanation))
    golden("explain.txt", "\n".join(line.rstrip() for line in capture.get().splitlines()))
