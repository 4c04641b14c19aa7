"""A fingerprint of numbers in memory, taken at the speed of memory: has anything written to them since?

The memory is cut into pages of 2 KB. A fingerprint covers every `step`-th page, beginning with page `first`, so that
`step` fingerprints cover everything. A page passes through 8 accumulators of 64 bytes, each a chain over 32-bit words:

    a ← (a ⊕ word) · c,   a ← a ⊕ (a ≫ 15)        c odd

For given words every link is a bijection of a, so a change of one word in a chain always changes the result. The shift
brings high bits down again: without it, flipped signs (2³¹ · cⁿ = 2³¹) and changed exponents would add up to zero
over an even number of words. Where several words of one chain differ, chance decides: they agree once in 2³².

Eight chains of 4 dependent instructions (8 cycles) take in 512 bytes, faster than L2 delivers them. Measured: 33 GB/s
from memory, 120 GB/s from L2, on one thread.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache

from llvmlite import ir

from . import runtime
from . import target as targets
from .ir import I32, I64, PTR, Function, Value

PAGE = 2048
_CHAINS, _LANES = 8, 16
_WORDS = PAGE // 4
_MULTIPLIER, _WIDE_MULTIPLIER = 0x9E3779B1, 0x9E3779B97F4A7C15  # 2³² and 2⁶⁴ by the golden ratio: bits without pattern


def fingerprint(address: int, size: int, first: int = 0, step: int = 1) -> int:
    """Of pages first, first + step, … of the `size` bytes at `address`; `size` is a multiple of 4."""
    return _kernel()(address, size // 4, first, step)


def pages(size: int) -> int:
    return -(-size // PAGE)


@cache
def _kernel() -> Callable[[int, int, int, int], int]:
    made = runtime.code("fingerprint", _build, ["fingerprint"], targets.current())
    return ctypes.CFUNCTYPE(ctypes.c_uint64, *[ctypes.c_void_p] * 4)(made["fingerprint"])


def _build(module: ir.Module) -> None:
    f = Function(module, "fingerprint", [PTR, I64, I64, I64], "float32", result=I64)
    memory, words, first, step = f.pointer(0, I32), f.integer(1), f.integer(2), f.integer(3)
    whole_pages = words // _WORDS
    start = [_vector(seed * _LANES) for seed in range(_CHAINS)]
    with f.loop(whole_pages, start=first, step=step, carry=start) as page:
        here = memory.at(page.index * _WORDS)
        with f.loop(_WORDS, step=_CHAINS * _LANES, carry=page.values) as line:
            lines = [here.at(line.index + n * _LANES).vector(_LANES) for n in range(_CHAINS)]
            line.carry([_link(f, a, word) for a, word in zip(line.values, lines, strict=True)])
        page.carry(line.values)

    # The chains into one, its lanes into one number of 64 bits, and then the last page, where it is not whole.
    chain, *others = page.values
    for other in others:
        chain = _link(f, chain, other)
    number = words.value
    for lane in range(_LANES):
        number = _wide_link(f, number, f.builder.extract_element(chain, ir.Constant(I32, lane)))
    turn = f.all_of(whole_pages.compare(">=", first), ((whole_pages - first) % step).compare("==", 0))
    rest = f.choose(turn, words - whole_pages * _WORDS, 0)
    with f.loop(rest, carry=[number]) as last:
        last.carry([_wide_link(f, last.values[0], memory.at(whole_pages * _WORDS + last.index).scalar())])
    f.builder.ret(last.values[0])


def _vector(seed: int) -> Value:
    return ir.Constant(ir.VectorType(I32, _LANES), [seed + lane + 1 for lane in range(_LANES)])


def _link(f: Function, a: Value, word: Value) -> Value:
    b, constant = f.builder, ir.Constant(a.type, [_MULTIPLIER] * _LANES)
    product = b.mul(b.xor(a, word), constant)
    return b.xor(product, b.lshr(product, ir.Constant(a.type, [15] * _LANES)))


def _wide_link(f: Function, a: Value, word: Value) -> Value:
    """The same in 64 bits, on one number."""
    b = f.builder
    product = b.mul(b.xor(a, b.zext(word, I64)), ir.Constant(I64, _WIDE_MULTIPLIER))
    return b.xor(product, b.lshr(product, ir.Constant(I64, 32)))
