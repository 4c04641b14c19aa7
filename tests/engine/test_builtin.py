"""Machine code as a built-in function of Python's."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from llvmlite import ir

from convforge.native import runtime
from convforge.native import target as targets
from convforge.native.ir import I64, Function

LAST = 2**64 - 1


def weighted(count: int) -> Callable[..., int]:
    """a + 2·b + 3·c + …, modulo 2⁶⁴: each argument has to arrive in its place."""

    def build(module: ir.Module) -> None:
        names = [f"n{n}" for n in range(count)]
        f = Function(module, "weighted", " ".join(names), "float32", result=I64)
        total = f.const(0)
        for n, name in enumerate(names):
            total = f.integer(name) * (n + 1) + total
        f.done(total.value)

    code = runtime.code("test of built-in functions", build, ["weighted"], targets.current(), count)
    return runtime.python_function("weighted", code["weighted"], count)


@pytest.mark.parametrize("count", [0, 1, 2, 6, 7, 10, 13])
def test_every_argument_arrives(count: int) -> None:
    function = weighted(count)
    for numbers in (range(count), [2**63 + n for n in range(count)], [LAST] * count, [-n for n in range(count)]):
        assert function(*numbers) == sum((n + 1) * number for n, number in enumerate(numbers)) % 2**64


WRONG: list[tuple[Any, ...]] = [(), (1,), (1, 2, 3), (1, "2"), (1.5, 2), (None, 2), (1, 2**64), (-(2**63) - 1, 2)]


@pytest.mark.parametrize("arguments", WRONG, ids=str)
def test_what_it_does_not_take_is_refused(arguments: tuple[Any, ...]) -> None:
    function = weighted(2)
    for _ in range(3):
        with pytest.raises((TypeError, OverflowError)):
            function(*arguments)
        assert function(1, 2) == 5
    with pytest.raises(TypeError):
        function(1, n1=2)


def test_other_threads_run_meanwhile() -> None:
    """The function waits until another thread has set a number, which it can do only if it is let."""

    def build(module: ir.Module) -> None:
        f = Function(module, "wait", "*flag most", "float32", result=I64)
        flag, b = f.pointer("flag", I64), f.builder
        head, done = b.append_basic_block("head"), b.append_basic_block("done")
        entry = b.block
        b.branch(head)
        b.position_at_end(head)
        tries = b.phi(I64)
        tries.add_incoming(ir.Constant(I64, 0), entry)
        following = b.add(tries, ir.Constant(I64, 1))
        tries.add_incoming(following, head)
        seen = b.load_atomic(flag.value, "acquire", 8, typ=I64)
        go_on = b.and_(
            b.icmp_signed("==", seen, ir.Constant(I64, 0)), b.icmp_signed("<", tries, f.integer("most").value)
        )
        b.cbranch(go_on, head, done)
        b.position_at_end(done)
        b.ret(b.load(flag.value, typ=I64))

    wait = runtime.python_function(
        "wait", runtime.code("test of waiting", build, ["wait"], targets.current())["wait"], 2
    )
    flag = ctypes.c_int64(0)

    def set_it() -> None:
        time.sleep(0.02)
        flag.value = 7

    other = threading.Thread(target=set_it)
    other.start()
    assert wait(ctypes.addressof(flag), 10**10) == 7
    other.join()


OUTLIVING = """
import ctypes, gc, sys
from convforge.native import runtime, target
from convforge.native.ir import I64, Function

def build(module):
    f = Function(module, "same", "n", "float32", result=I64)
    f.done(f.integer("n").value)

code = runtime.code("test of a function that outlives its module", build, ["same"], target.current())
same = runtime.python_function("same", code["same"], 1)
vars(sys.modules.pop("convforge.native.builtin")).clear()  # as the interpreter does when it ends
gc.collect()
others = [(ctypes.c_char * 32).from_buffer_copy(b"\\xff" * 32) for _ in range(1000)]
assert same(7) == 7 and same.__name__ == "same", same
"""


def test_a_function_outlives_its_module() -> None:
    """At the interpreter's end modules are cleared in any order, and functions look at their definitions until then."""
    done = subprocess.run([sys.executable, "-c", OUTLIVING], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
