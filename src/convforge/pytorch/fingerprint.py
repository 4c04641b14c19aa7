"""A fingerprint of numbers in memory, taken at the speed of memory: has anything written to them since?

The words of 32 bits are dealt out to the lanes of four vectors, and each lane is two chains over the words it meets:

    a ← (a ⊕ word) · c,   a ← a ⊕ (a ≫ 15)        c odd
    b ← (b turned left by 5 bits) + word

For given words every link is a bijection, so a change of one word in a lane always changes both. Several changes must
cancel in both to go unnoticed. Each alone has pairs that always do: in a, a sign with the sign and bit 16 of the lane's
next word, where the shift brings a flipped sign; in b, a bit with one five places on. But what cancels in b is as
simple as what was changed first, and in a, but for signs, the multiplication has spread it.

The multiplication is what takes time: a cycle a vector on most CPUs, two to four on older ones, which is still as fast
as memory delivers. A second one, in b, made a core of 2017 half as fast.
Memory of more than `_SHARED_BYTES` is cut into pieces, each with a fingerprint of its own, which the threads share.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache, lru_cache

from llvmlite import ir

from ..native import runtime, team
from ..native import target as targets
from ..native.ir import I32, I64, Arguments, Function, Int, Pointer, Value, kernel, tasks
from ..native.program import Program, step

_CHAINS = 4
_WIDE_MULTIPLIER = 0x9E3779B97F4A7C15  # 2⁶⁴ by the golden ratio: bits without pattern
_MULTIPLIER = _WIDE_MULTIPLIER >> 32
_TURN = 5

_SHARED_BYTES = 256 << 10  # 8 µs of one thread: sharing them costs 2
_PIECES = 16

_PIECEWISE = Arguments("memory words results")


def fingerprint(address: int, size: int, threads: int = 1) -> int:
    """Of the `size` bytes at `address`, a multiple of 4; the same for any number of `threads`."""
    if size <= _SHARED_BYTES:
        return _at_once()(address, size // 4)
    program, results = _program(size, threads), (ctypes.c_uint64 * _PIECES)()
    work, alive = runtime.workspace(program.bytes)
    buffers = (address, 0, ctypes.addressof(results), 0, 0, 0, 0, 0)
    team.call(program.block, program.address, work, *buffers)
    del alive  # the workspace is ours until here
    return int.from_bytes(results, "little")


def _code() -> runtime.Code:
    here = targets.current()
    lanes = here.lanes("float32")

    def build(module: ir.Module) -> None:
        _build(module, lanes)

    return runtime.code("fingerprint", build, ["at_once", "piecewise"], here)


@cache
def _at_once() -> Callable[..., int]:
    return runtime.python_function("fingerprint", _code()["at_once"], 2)


@lru_cache(maxsize=256)
def _program(size: int, threads: int) -> Program:
    at = {"memory": ("x", 0), "results": ("y", 0)}
    return Program((step(_code()["piecewise"], threads, _PIECEWISE, {"words": size // 4}, at),))


def _build(module: ir.Module, lanes: int) -> None:
    words = Function(module, "words", "*memory count", "float32", internal=True, result=I64)
    words.done(_of_words(words, words.pointer("memory", I32), words.integer("count"), lanes))

    f = Function(module, "at_once", "*memory count", "float32", result=I64)
    f.done(f.builder.call(words.function, [f.pointer("memory", I32).value, f.integer("count").value]))

    f, a = kernel(module, "piecewise", "float32", _PIECEWISE)
    memory, results = f.address(a["memory"], I32), f.address(a["results"], I64)
    piece = a["words"] // _PIECES
    with tasks(f, f.const(_PIECES)) as task:
        rest = a["words"] - piece * task.index
        count = f.choose(task.index.compare("==", _PIECES - 1), rest, piece)
        begin = memory.at(piece * task.index)
        results.at(task.index).put(f.builder.call(words.function, [begin.value, count.value]))
    f.done()


def _of_words(f: Function, memory: Pointer, words: Int, lanes: int) -> Value:
    block = _CHAINS * lanes
    whole = words // block * block
    start = [_vector(seed * lanes, lanes) for seed in range(2 * _CHAINS)]
    with f.loop(whole, step=block, carry=start) as line:
        vectors = [memory.at(line.index + n * lanes).vector(lanes) for n in range(_CHAINS)]
        a, b = line.values[:_CHAINS], line.values[_CHAINS:]
        line.carry([_link(f, *each) for each in zip(a, vectors, strict=True)]
                   + [_other_link(f, *each) for each in zip(b, vectors, strict=True)])  # fmt: skip

    # The vectors of each kind into one, their lanes into a number of 64 bits, and then the words that are left.
    a, b = line.values[0], line.values[_CHAINS]
    for n in range(1, _CHAINS):
        a, b = _link(f, a, line.values[n]), _other_link(f, b, line.values[_CHAINS + n])
    number = words.value
    for lane in range(lanes):
        for chain in (a, b):
            number = _wide_link(f, number, f.builder.extract_element(chain, ir.Constant(I32, lane)))
    with f.loop(words, start=whole, carry=[number]) as last:
        last.carry([_wide_link(f, last.values[0], memory.at(last.index).scalar())])
    return last.values[0]


def _vector(seed: int, lanes: int) -> Value:
    return ir.Constant(ir.VectorType(I32, lanes), [seed + lane + 1 for lane in range(lanes)])


def _link(f: Function, a: Value, word: Value) -> Value:
    b = f.builder
    product = b.mul(b.xor(a, word), _all(a, _MULTIPLIER))
    return b.xor(product, b.lshr(product, _all(a, 15)))


def _other_link(f: Function, b: Value, word: Value) -> Value:
    turned = f.builder.or_(f.builder.shl(b, _all(b, _TURN)), f.builder.lshr(b, _all(b, 32 - _TURN)))
    return f.builder.add(turned, word)


def _all(like: Value, number: int) -> Value:
    return ir.Constant(like.type, [number] * like.type.count)


def _wide_link(f: Function, a: Value, word: Value) -> Value:
    """The same in 64 bits, on one number."""
    b = f.builder
    product = b.mul(b.xor(a, b.zext(word, I64)), ir.Constant(I64, _WIDE_MULTIPLIER))
    return b.xor(product, b.lshr(product, ir.Constant(I64, 32)))
