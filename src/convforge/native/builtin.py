"""Machine code as a function that Python calls as it calls its own: `len` and the like.

`ctypes` takes 630 ns to turn ten numbers into arguments, more than a small convolution takes to compute. A built-in
function is handed the numbers as they lie on the interpreter's stack; the few instructions that take them from there to
the registers are generated here, as all other code is, and ten numbers take 100 ns.

All that is used of Python's C interface belongs to its stable part (PEP 384).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from llvmlite import ir

from .ir import I32, I64, PTR, VOID
from .lasting import for_good

_METH_FASTCALL = 0x80


class _Definition(ctypes.Structure):
    """`PyMethodDef`."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    )


def builtin(name: str, address: int, wrapper: int) -> Callable[..., int]:
    """The native function at `address` for Python; `wrapper` is the address of what `write_wrapper` wrote for it.

    It takes integers of up to 64 bits, and no keywords, and returns one; for anything else it raises a TypeError or an
    OverflowError. While it runs other threads of Python may.
    """
    new = ctypes.pythonapi.PyCFunction_NewEx
    new.restype, new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.py_object, ctypes.py_object)
    # A built-in function looks at its definition until its own end, which may come after that of every module.
    definition = for_good(_Definition(name.encode(), wrapper, _METH_FASTCALL, None))
    made: Callable[..., int] = new(ctypes.addressof(definition), address, None)
    return made


def write_wrapper(module: ir.Module, arguments: int) -> None:
    """`PyObject *wrapper(PyObject *self, PyObject **arguments, Py_ssize_t count)` for native functions of so many
    arguments, integers or addresses, that return an integer; `self` is a Python integer, the function's address."""

    def interface(name: str, result: Any, *takes: Any) -> Any:
        return ir.Function(module, ir.FunctionType(result, takes), name)

    as_number = interface("PyLong_AsVoidPtr", I64, PTR)
    as_object = interface("PyLong_FromUnsignedLongLong", PTR, I64)
    is_wrong = interface("PyErr_Occurred", PTR)
    bad_call = interface("PyErr_BadArgument", I32)
    release = interface("PyEval_SaveThread", PTR)
    take_back = interface("PyEval_RestoreThread", VOID, PTR)

    null = ir.Constant(PTR, None)
    wrapper = interface("wrapper", PTR, PTR, PTR, I64)
    b = ir.IRBuilder(wrapper.append_basic_block("entry"))
    itself, given, count = wrapper.args
    with b.if_then(b.icmp_signed("!=", count, ir.Constant(I64, arguments)), likely=False):
        b.call(bad_call, [])
        b.ret(null)
    places = [b.gep(given, [ir.Constant(I64, n)], source_etype=PTR) for n in range(arguments)]
    numbers = [b.call(as_number, [b.load(place, typ=PTR)]) for place in places]
    function = b.call(as_number, [itself])
    with b.if_then(b.icmp_unsigned("!=", b.ptrtoint(b.call(is_wrong, []), I64), ir.Constant(I64, 0)), likely=False):
        b.ret(null)
    thread = b.call(release, [])
    result = b.call(b.inttoptr(function, ir.FunctionType(I64, [I64] * arguments).as_pointer()), numbers)
    b.call(take_back, [thread])
    b.ret(b.call(as_object, [result]))
