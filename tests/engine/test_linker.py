"""Object code in memory: what it computes there, what it calls of the process, and what is left to LLVM."""

from __future__ import annotations

import ctypes
import math
import platform
import struct
import sys
from typing import Any

import pytest
from llvmlite import ir

from convforge.native import compiler, linker, runtime
from convforge.native.ir import I64
from convforge.native.target import arm64, current

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="elsewhere LLVM links for itself"
)

F64 = ir.DoubleType()
_FUNCTION = ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_int64)
_SIGNATURE = ir.FunctionType(F64, [I64])
_POWERS = 40


def power(n: int) -> Any:
    """`power_n(x)`: xⁿ, and something that is a constant in memory."""

    def build(module: ir.Module) -> None:
        f = ir.Function(module, _SIGNATURE, f"power_{n}")
        b = ir.IRBuilder(f.append_basic_block())
        x = b.sitofp(f.args[0], F64)
        y: Any = ir.Constant(F64, 0.1 * n)
        for _ in range(n):
            y = b.fmul(y, x)
        b.ret(y)

    return build


def summing(module: ir.Module) -> None:
    """`sum(x)` of what all the powers give, which are in other files, and of log(x), which the process has."""
    f = ir.Function(module, _SIGNATURE, "sum")
    b = ir.IRBuilder(f.append_basic_block())
    x = b.sitofp(f.args[0], F64)
    y = b.call(ir.Function(module, ir.FunctionType(F64, [F64]), "log"), [x])
    for n in range(_POWERS):
        y = b.fadd(y, b.call(ir.Function(module, _SIGNATURE, f"power_{n}"), [f.args[0]]))
    b.ret(y)


def made(build: Any) -> bytes:
    (file,) = linker.parted(compiler.compile_parts(build, current(), 1))
    return file


def test_files_find_each_other_and_the_process() -> None:
    files = [made(build) for build in (summing, *map(power, range(_POWERS)))]
    names = ["sum", "power_3"]
    own, by_llvm = linker.linked(files, names), runtime._load_by_llvm(files, names)
    for x in (1, 2, 3):
        expected = math.log(x) + sum(0.1 * n * float(x) ** n for n in range(_POWERS))
        found = _FUNCTION(own["sum"])(x)
        assert found == pytest.approx(expected, rel=1e-12)
        assert found == _FUNCTION(by_llvm["sum"])(x)
        assert _FUNCTION(own["power_3"])(x) == pytest.approx(0.3 * x**3)


def test_code_cannot_be_written() -> None:
    address = linker.linked([made(power(2))], ["power_2"])["power_2"]
    with open("/proc/self/maps") as maps:
        ranges = [(line.split("-")[0], line.split()[0].split("-")[1], line.split()[1]) for line in maps]
    (access,) = (how for first, last, how in ranges if int(first, 16) <= address < int(last, 16))
    assert access.startswith("r-x")


def _changed(file: bytes, at: int, form: str, value: int) -> bytes:
    changed = bytearray(file)
    struct.pack_into(form, changed, at, value)
    return bytes(changed)


def test_what_is_of_another_kind_is_left_to_llvm() -> None:
    file = made(power(5))
    known = linker._Object(file)
    (relocations,) = (one for one in known.sections if one.kind == 4 and known.sections[one.info].flags & 4)
    section = next(n for n, one in enumerate(known.sections) if one.loaded)
    table = struct.unpack_from("<Q", file, 40)[0] + 64 * section
    odd = {
        "no ELF file": b"\xcf\xfa\xed\xfe" + file[4:],
        "another machine": compiler.compile_parts(power(5), arm64(), 1)[16:],
        "another kind of reference": _changed(file, relocations.offset + 8, "<I", 1),
        "memory that is written": _changed(file, table + 8, "<Q", known.sections[section].flags | 1),
    }
    for what, content in odd.items():
        with pytest.raises(linker.CannotLink):
            linker.linked([content], ["power_5"])
            pytest.fail(what)


def test_functions_that_nobody_has_are_left_to_llvm() -> None:
    with pytest.raises(linker.CannotLink, match="power_0"):
        linker.linked([made(summing)], ["sum"])


def test_what_cannot_be_linked_here_llvm_links(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise linker.CannotLink("not today")

    monkeypatch.setattr(runtime, "linked", refuse)
    code = runtime._load(linker.joined([made(power(4))]), ["power_4"])
    assert _FUNCTION(code["power_4"])(2) == pytest.approx(0.4 * 16)
