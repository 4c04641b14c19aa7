"""A fingerprint of numbers in memory, taken at the speed of memory: has anything written to them since?

The words of 32 bits are dealt out to 4 × 16 lanes, and each lane is two chains over the words that it meets:

    a ← (a ⊕ word) · c,   a ← a ⊕ (a ≫ 15)        c odd
    b ← b · d + word                               d odd

For given words every link is a bijection, so a change of one word in a lane always changes both. Several changes must
cancel in both to go unnoticed. Each alone has pairs that always do: flipped signs in b (2³¹ · d + 2³¹ = 0), and in a
a sign with the sign and bit 16 of the lane's next word, which is where the shift brings a flipped sign. What cancels in
b has no bits below the lowest one that was changed first, and what cancels in a has: the shift puts them there.

The 8 chains of 2 to 4 dependent instructions take in 256 bytes in some 10 cycles, faster than memory delivers them.
Memory of more than `_SHARED_BYTES` is cut into pieces, each with a fingerprint of its own, which the threads share.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache, lru_cache

from llvmlite import ir

from . import runtime
from . import target as targets
from .ir import I32, I64, PTR, Arguments, Function, Int, Pointer, Value, kernel, share
from .prepared import Program, step

_CHAINS, _LANES = 4, 16
_WORDS = _CHAINS * _LANES
_WIDE_MULTIPLIER = 0x9E3779B97F4A7C15  # 2⁶⁴ by the golden ratio: bits without pattern
_MULTIPLIER, _OTHER_MULTIPLIER = _WIDE_MULTIPLIER >> 32 | 1, _WIDE_MULTIPLIER & 0xFFFFFFFF

_SHARED_BYTES = 256 << 10  # 8 µs of one thread: sharing them costs 2
_PIECES = 16

_PIECEWISE = Arguments("memory words results")


def fingerprint(address: int, size: int, threads: int = 1) -> int:
    """Of the `size` bytes at `address`, a multiple of 4; the same for any number of `threads`."""
    if size <= _SHARED_BYTES:
        return _at_once()(address, size // 4)
    program, results = _program(size), (ctypes.c_uint64 * _PIECES)()
    work, alive = runtime.workspace(program.bytes)
    buffers = (address, 0, ctypes.addressof(results), 0, 0, 0, 0, 0)
    runtime.call(program.block, program.address, work, threads, *buffers)
    del alive  # the workspace is ours until here
    return int.from_bytes(results, "little")


def _code() -> runtime.Code:
    return runtime.code("fingerprint", _build, ["at_once", "piecewise"], targets.current())


@cache
def _at_once() -> Callable[[int, int], int]:
    return ctypes.CFUNCTYPE(ctypes.c_uint64, *[ctypes.c_void_p] * 2)(_code()["at_once"])


@lru_cache(maxsize=256)
def _program(size: int) -> Program:
    at = {"memory": ("x", 0), "results": ("y", 0)}
    return Program((step(_code()["piecewise"], _PIECEWISE, {"words": size // 4}, at),))


def _build(module: ir.Module) -> None:
    words = Function(module, "words", [PTR, I64], "float32", internal=True, result=I64)
    words.done(_of_words(words, words.pointer(0, I32), words.integer(1)))

    f = Function(module, "at_once", [PTR, I64], "float32", result=I64)
    f.done(f.builder.call(words.function, [f.pointer(0, I32).value, f.integer(1).value]))

    f, array, thread, threads = kernel(module, "piecewise", "float32")
    a = _PIECEWISE.read(array)
    memory, results = f.address(a["memory"], I32), f.address(a["results"], I64)
    piece = a["words"] // (_PIECES * _WORDS) * _WORDS
    first, end = share(f.const(_PIECES), thread, threads)
    with f.loop(end, start=first) as task:
        rest = a["words"] - piece * task.index
        count = f.choose(task.index.compare("==", _PIECES - 1), rest, piece)
        begin = memory.at(piece * task.index)
        results.at(task.index).put(f.builder.call(words.function, [begin.value, count.value]))
    f.done()


def _of_words(f: Function, memory: Pointer, words: Int) -> Value:
    whole = words // _WORDS * _WORDS
    start = [_vector(seed * _LANES) for seed in range(2 * _CHAINS)]
    with f.loop(whole, step=_WORDS, carry=start) as line:
        lines = [memory.at(line.index + n * _LANES).vector(_LANES) for n in range(_CHAINS)]
        first = [_link(f, a, word) for a, word in zip(line.values[:_CHAINS], lines, strict=True)]
        line.carry(first + [_other_link(f, b, word) for b, word in zip(line.values[_CHAINS:], lines, strict=True)])

    # All lanes into one number of 64 bits, and then the words that are left.
    number = words.value
    for chain in line.values:
        for lane in range(_LANES):
            number = _wide_link(f, number, f.builder.extract_element(chain, ir.Constant(I32, lane)))
    with f.loop(words, start=whole, carry=[number]) as last:
        last.carry([_wide_link(f, last.values[0], memory.at(last.index).scalar())])
    return last.values[0]


def _vector(seed: int) -> Value:
    return ir.Constant(ir.VectorType(I32, _LANES), [seed + lane + 1 for lane in range(_LANES)])


def _link(f: Function, a: Value, word: Value) -> Value:
    b, constant = f.builder, ir.Constant(a.type, [_MULTIPLIER] * _LANES)
    product = b.mul(b.xor(a, word), constant)
    return b.xor(product, b.lshr(product, ir.Constant(a.type, [15] * _LANES)))


def _other_link(f: Function, b: Value, word: Value) -> Value:
    return f.builder.add(f.builder.mul(b, ir.Constant(b.type, [_OTHER_MULTIPLIER] * _LANES)), word)


def _wide_link(f: Function, a: Value, word: Value) -> Value:
    """The same in 64 bits, on one number."""
    b = f.builder
    product = b.mul(b.xor(a, b.zext(word, I64)), ir.Constant(I64, _WIDE_MULTIPLIER))
    return b.xor(product, b.lshr(product, ir.Constant(I64, 32)))
