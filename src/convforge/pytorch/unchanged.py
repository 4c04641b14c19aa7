"""Whether Python's dictionaries hold what they held, and memory the numbers that it had: asked in a few microseconds.

Before a network is run, thousands of things must be what they were when it was made: every attribute of every module,
and where every weight lies. Python takes 30 ns to look at one of them, machine code 2.

What is asked of Python belongs to the stable part of its C interface (PEP 384), and is asked with the interpreter's
lock held. Where dictionaries have version tags (PEP 509), these are asked first.
"""

from __future__ import annotations

import ctypes
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir

from ..native import runtime
from ..native import target as targets
from ..native.ir import I32, I64, PTR, VOID, Value

_LINE = 64
_LINES = 4
"""Of each piece of memory that are looked at: the first, the last and two between, each of `_LINE` bytes."""

_TP_DESCR_GET = 54
"""The slot's number in Python's C interface."""

_MULTIPLIER = 0x9E3779B97F4A7C15


def _tag_of(dictionary: dict[Any, Any], offset: int) -> int:
    return ctypes.c_uint64.from_address(id(dictionary) + offset).value


def _where_tags_are() -> int:
    """Where in a dictionary its version tag is: a number that no other dictionary has, nor this one after a change
    (PEP 509). 0 where there is none, which is tried out by everything that changes a dictionary."""
    if sys.implementation.name != "cpython" or not (3, 11) <= sys.version_info < (3, 13):
        return 0
    offset = object.__basicsize__ + ctypes.sizeof(ctypes.c_ssize_t)  # behind ma_used
    value, other = object(), object()

    class Attributes:
        pass

    holder: Any = Attributes()
    holder.a = value
    dictionaries = [{"a": value}, OrderedDict(a=value), vars(holder)]
    changes: list[Callable[[dict[Any, Any]], object]] = [
        lambda d: d.__setitem__("a", other),
        lambda d: d.__setitem__("b", value),
        lambda d: d.update(b=other),
        lambda d: d.pop("b"),
        lambda d: d.setdefault("c", value),
        lambda d: d.__delitem__("c"),
        lambda d: d.popitem(),
        lambda d: d.__ior__({"a": value}),
        lambda d: d.clear(),
    ]
    seen: set[int] = set()
    for d in dictionaries:
        for change in changes:
            before = _tag_of(d, offset)
            if before != _tag_of(d, offset) or before in seen:
                return 0
            seen.add(before)
            change(d)
    mine = vars(holder)
    for n in range(100):  # until the interpreter has special code for it
        seen.add(_tag_of(mine, offset))
        holder.a = n
        if _tag_of(mine, offset) in seen:
            return 0
    return offset


_TAGS = _where_tags_are()


class Held:
    """What dictionaries hold: the same objects under the same keys, in the same order.

    It keeps dictionaries, keys and values alive, so that nothing else can come to lie at their addresses. Not so `own`,
    a dictionary that is handed over at each question: whoever keeps what is kept here may keep it there.

    >>> settings = {"a": 1}
    >>> held = Held({}, [settings])
    >>> held.same({})
    True
    >>> settings["b"] = 2
    >>> held.same({})
    False
    """

    def __init__(self, own: dict[Any, Any], dictionaries: Sequence[dict[Any, Any]], without: object = None) -> None:
        """`without`: a value that is not kept alive."""
        every = [own, *dictionaries]
        pairs = [pair for one in every for pair in dict.items(one)]  # in the order of their memory, OrderedDict's too
        self._alive = (list(dictionaries), [key for key, _ in pairs], [v for _, v in pairs if v is not without])
        self._numbers = (
            np.array([0, *map(id, dictionaries)], np.int64),
            np.cumsum([len(one) for one in every], dtype=np.int64),
            np.array([(id(key), id(value)) for key, value in pairs], np.int64),
        )
        self._at = (*(int(array.ctypes.data) for array in self._numbers), len(every))
        self._same, self._tagged = _functions()[0], _functions()[3]
        self._tags: tuple[Any, int] | None = None
        """Those at a time when nothing had changed, `own`'s first, and their address."""

    def same(self, own: dict[Any, Any]) -> bool:
        """Whether they do still."""
        tags = self._tags
        if tags is not None and self._tagged(id(own), self._at[0], tags[1], self._at[3], _TAGS):
            return True
        # The tags are read first: what changes after that is noticed by them, and what has changed before, now.
        now = np.array([_tag_of(one, _TAGS) for one in (own, *self._alive[0])], np.uint64) if _TAGS else None
        same = bool(self._same(id(own), *self._at))
        if same and now is not None:
            self._tags = now, int(now.ctypes.data)
        return same


class Counted:
    """What objects say about themselves: a number that each counts its changes with, where its memory is, and some of
    the numbers there.

    Args:
        objects: each with its address and bytes, a multiple of 4.
        counter: a property of theirs that is written in C and gives an integer, as their class has it.
        address_of: the address of a native function, `void *f(PyObject *)`, that says where an object's memory is. It
            must not fail for objects of the types that these have.

    A change of any number in memory of up to 64 bytes is noticed though nothing has counted it, and that of all numbers
    in any.
    """

    def __init__(self, objects: Sequence[tuple[Any, int, int]], counter: Any, address_of: int) -> None:
        self._alive = [(one, counter) for one, _, _ in objects]
        looks = [look for _, address, size in objects for look in _looks(address, size)]
        read = counter.__get__
        self._numbers = (
            np.array([(id(one), id(type(one)), read(one), address) for one, address, _ in objects], np.int64),
            np.array(looks, np.int64),
        )
        at, looks_at = (int(array.ctypes.data) for array in self._numbers)
        _, self._counted, total, _ = _functions()
        objects_at = at, len(objects), id(counter), _getter(type(counter)), address_of
        self._arguments = (*objects_at, looks_at, len(looks), total(looks_at, len(looks)))

    def same(self) -> bool:
        """Whether all is as it was."""
        return bool(self._counted(*self._arguments))


def _getter(kind: type) -> int:
    """The native function by which properties of this kind are read."""
    slot = ctypes.pythonapi.PyType_GetSlot
    slot.restype, slot.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_int)
    return slot(kind, _TP_DESCR_GET) or 0


def _looks(address: int, size: int) -> list[tuple[int, int]]:
    """Addresses in a piece of memory, and how many numbers of 8 bytes are looked at there; 0 for one of 4 bytes."""
    if size < 8:
        return [(address, 0)] if size else []
    if size <= _LINE:
        return [(address, size // 8), *([(address + size - 4, 0)] if size % 8 else [])]
    return [(address + (size - _LINE) * n // (_LINES - 1) // 4 * 4, _LINE // 8) for n in range(_LINES)]


@cache
def _functions() -> tuple[Callable[..., int], ...]:
    """`same`, `counted`, `sum` and `tagged`, which keep the interpreter's lock."""
    counts = {"same": 5, "counted": 8, "sum": 2, "tagged": 5}
    code = runtime.code("unchanged", _build, list(counts), targets.current())
    return tuple(
        ctypes.PYFUNCTYPE(ctypes.c_uint64, *[ctypes.c_void_p] * count)(code[name]) for name, count in counts.items()
    )


def _build(module: ir.Module) -> None:
    _build_same(module)
    _build_tagged(module)
    _build_counted(module, _build_sum(module))


def _build_same(module: ir.Module) -> None:
    """`same(own, dictionaries, ends, pairs, count)`: pairs of key and value, and where each dictionary's end."""
    following = ir.Function(module, ir.FunctionType(I32, [PTR] * 4), "PyDict_Next")
    f = ir.Function(module, ir.FunctionType(I64, [I64, PTR, PTR, PTR, I64]), "same")
    own, dictionaries, ends, pairs, count = f.args
    b = ir.IRBuilder(f.append_basic_block("entry"))
    position, key, value, seen = (b.alloca(I64) for _ in range(4))
    b.store(_number(0), seen)
    with _each(b, f, count) as n:
        other = b.inttoptr(_at(b, dictionaries, n), PTR)
        first = b.icmp_unsigned("==", n, _number(0))
        dictionary = b.select(first, b.inttoptr(own, PTR), other)
        b.store(_number(0), position)
        again, inside, over = (f.append_basic_block(name) for name in ("again", "inside", "over"))
        b.branch(again)
        b.position_at_end(again)
        found = b.call(following, [dictionary, position, key, value])
        b.cbranch(b.icmp_unsigned("!=", found, ir.Constant(I32, 0)), inside, over)
        b.position_at_end(inside)
        at = b.load(seen, typ=I64)
        _return_unless(b, b.icmp_unsigned("<", at, _at(b, ends, n)))
        for held, offset in ((key, 0), (value, 1)):
            place = b.add(b.mul(at, _number(2)), _number(offset))
            _return_unless(b, b.icmp_unsigned("==", b.load(held, typ=I64), _at(b, pairs, place)))
        b.store(b.add(at, _number(1)), seen)
        b.branch(again)
        b.position_at_end(over)
        _return_unless(b, b.icmp_unsigned("==", b.load(seen, typ=I64), _at(b, ends, n)))
    b.ret(_number(1))


def _build_tagged(module: ir.Module) -> None:
    """`tagged(own, dictionaries, tags, count, offset)`: whether each dictionary's number at that offset is still so."""
    f = ir.Function(module, ir.FunctionType(I64, [I64, PTR, PTR, I64, I64]), "tagged")
    own, dictionaries, tags, count, offset = f.args
    b = ir.IRBuilder(f.append_basic_block("entry"))
    with _each(b, f, count) as n:
        first = b.icmp_unsigned("==", n, _number(0))
        dictionary = b.select(first, own, _at(b, dictionaries, n))
        tag = b.load(b.inttoptr(b.add(dictionary, offset), PTR), typ=I64)
        _return_unless(b, b.icmp_unsigned("==", tag, _at(b, tags, n)))
    b.ret(_number(1))


def _build_counted(module: ir.Module, total: Any) -> None:
    """`counted(objects, count, counter, getter, address_of, looks, how many, their sum)`: of each object, itself, its
    type, what the counter said, and where its memory was."""

    def interface(name: str, result: Any, *takes: Any) -> Any:
        return ir.Function(module, ir.FunctionType(result, takes), name)

    type_of, release = interface("PyObject_Type", I64, I64), interface("Py_DecRef", VOID, I64)
    as_number, forget = interface("PyLong_AsLongLong", I64, I64), interface("PyErr_Clear", VOID)
    f = ir.Function(module, ir.FunctionType(I64, [PTR, I64, I64, I64, I64, PTR, I64, I64]), "counted")
    objects, count, counter, getter, address_of, looks, how_many, found = f.args
    b = ir.IRBuilder(f.append_basic_block("entry"))
    read = b.inttoptr(getter, ir.FunctionType(I64, [I64] * 3).as_pointer())
    place_of = b.inttoptr(address_of, ir.FunctionType(I64, [I64]).as_pointer())
    with _each(b, f, count) as n:
        first = b.mul(n, _number(4))
        one, kind, number, place = (_at(b, objects, b.add(first, _number(k))) for k in range(4))
        its_type = b.call(type_of, [one])
        b.call(release, [its_type])
        _return_unless(b, b.icmp_unsigned("==", its_type, kind))
        said = b.call(read, [counter, one, its_type])
        with b.if_then(b.icmp_unsigned("==", said, _number(0)), likely=False):
            b.call(forget, [])
            b.ret(_number(0))
        counted = b.call(as_number, [said])
        b.call(release, [said])
        _return_unless(b, b.icmp_unsigned("==", counted, number))
        _return_unless(b, b.icmp_unsigned("==", b.call(place_of, [one]), place))
    b.ret(b.zext(b.icmp_unsigned("==", b.call(total, [looks, how_many]), found), I64))


def _build_sum(module: ir.Module) -> Any:
    """`sum(looks, count)`: the numbers found there, each mixed in itself and times an odd number of its own, so that a
    change of one always changes the sum."""
    f = ir.Function(module, ir.FunctionType(I64, [PTR, I64]), "sum")
    looks, count = f.args
    b = ir.IRBuilder(f.append_basic_block("entry"))
    total, factor = b.alloca(I64), b.alloca(I64)
    b.store(_number(0), total)
    b.store(_number(_MULTIPLIER), factor)

    def take(number: Value) -> None:
        times = b.load(factor, typ=I64)
        spread = b.mul(b.xor(number, times), _number(_MULTIPLIER))
        mixed = b.xor(spread, b.lshr(spread, _number(32)))  # or signs would cancel: each is the uppermost bit
        b.store(b.add(b.load(total, typ=I64), b.mul(mixed, times)), total)
        b.store(b.add(times, _number(2 * _MULTIPLIER % 2**64)), factor)

    with _each(b, f, count) as n:
        first = b.mul(n, _number(2))
        address, words = b.inttoptr(_at(b, looks, first), PTR), _at(b, looks, b.add(first, _number(1)))
        with b.if_then(b.icmp_unsigned("==", words, _number(0))):
            take(b.zext(b.load(address, typ=I32, align=4), I64))
        with _each(b, f, words) as word:
            take(b.load(b.gep(address, [word], source_etype=I64), typ=I64, align=4))
    b.ret(b.load(total, typ=I64))
    return f


def _number(value: int) -> Value:
    return ir.Constant(I64, value)


def _at(b: Any, array: Value, index: Value) -> Value:
    """Number `index` of an array of int64."""
    return b.load(b.gep(array, [index], source_etype=I64), typ=I64)


def _return_unless(b: Any, condition: Value) -> None:
    """Return 0 from here."""
    with b.if_then(b.not_(condition), likely=False):
        b.ret(_number(0))


@contextmanager
def _each(b: Any, f: Any, count: Value) -> Iterator[Value]:
    """A loop from 0 to `count`."""
    before = b.block
    test, body, after = (f.append_basic_block(name) for name in ("test", "body", "after"))
    b.branch(test)
    b.position_at_end(test)
    index = b.phi(I64)
    index.add_incoming(_number(0), before)
    b.cbranch(b.icmp_unsigned("<", index, count), body, after)
    b.position_at_end(body)
    yield index
    index.add_incoming(b.add(index, _number(1)), b.block)
    b.branch(test)
    b.position_at_end(after)
