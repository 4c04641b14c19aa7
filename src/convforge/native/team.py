"""Programs of kernels, and the team of threads that runs one: one native call, one fork, however many steps it has.

A program is one block of numbers. First what `_HEADER` names; then, for each phase (a kernel and its arguments), what
`_PHASE` names; then what its team shares (`_TEAM`); then, a phase after the other, its shares' counters and its
arguments. After these `length` numbers come `patches` triples (position, buffer, offset): where the address of a buffer
belongs. A call works on a copy with the addresses in their places, so that the program stays as it is (other threads
may be running it) and counters begin at 0.

**Nobody waits for a thread that does nothing.** A phase is so many shares of its work. The leader, who is the caller,
makes it known and takes its own share first, as every member does, and then whatever nobody has taken yet (kernels with
`ir.tasks` let it help with the others, too). It goes on to the next phase when all shares are done: for a member that
has not come it does not wait, and one that comes late finds everything taken.

**Nobody looks for long.** Who has to wait looks for some microseconds, for that is how far apart the members are as
long as each has a core; then it sleeps. A thread that only looked would keep the core that the others may be waiting
for: OpenMP's barriers do that, and beside one other busy process take milliseconds each.

Layers are run by the OpenMP runtime that is in the process already, torch's where torch is there: a second team would
fight that one for the cores between one layer and the next. Whole networks, and everything where there is no OpenMP,
have a team of our own (`Team`).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import re
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

import numpy as np
from llvmlite import ir
from numpy.typing import NDArray

from ..spec import round_up
from . import runtime
from . import target as targets
from .ir import COUNTERS, I32, I64, PTR, VOID, Function, Int, Pointer, Value
from .lasting import for_good
from .runtime import compiling
from .target import Target

T = TypeVar("T")

_HEADER = ("parallel", "thread_number", "threads", "phases", "team", "length", "patches")
_PHASE = ("kernel", "start", "threads", "clock")
_THREADS, _LENGTH, _PATCHES = (_HEADER.index(name) for name in ("threads", "length", "patches"))

# Two cache lines: what the leader writes and the others look at, and what all write or nobody.
_TEAM = {"ticket": 0, "sleepers": 1, "block": 2, "entry": 3} | {
    "inside": 8,
    "leader_sleeps": 9,
    "system_call": 10,
    "futex": 11,
}
_TEAM_NUMBERS = 16
_OVER = -1
"""The ticket after which members leave."""
_TAKEN, _DONE = 2, 3
"""Counters of a share, behind those of `ir.tasks`: whether it is taken; and, of the first, how many are done."""

BUFFERS = ("x", "w", "y", "bias", "residual", "packed", "work", "zeros")
"""The memory that a pass of one layer may work on, in the order in which `call` takes the addresses."""

_COPIED_AT_ONCE = 8
_LOOKS = 2_000
"""Before a member sleeps; each takes 15 to 60 ns."""


@cache
def _openmp() -> tuple[int, int]:
    """Where the OpenMP runtime is that is in the process already (torch's own, when torch is there): the addresses that
    the header has, or zeros. It is never loaded by us, so that two of them never fight for the cores."""
    try:
        mapped = Path("/proc/self/maps").read_text()
    except OSError:
        return 0, 0
    for path in dict.fromkeys(re.findall(r"(/\S*lib(?:gomp|iomp5|omp)\b\S*\.so\S*)", mapped)):
        with contextlib.suppress(OSError, AttributeError):
            library = ctypes.CDLL(path)
            return _address(library, "GOMP_parallel"), _address(library, "omp_get_thread_num")
    return 0, 0


def _address(library: ctypes.CDLL, name: str) -> int:
    return ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0


@cache
def _sleeping() -> tuple[int, int]:
    """How threads sleep: the C library's `syscall` and the number of the call by which they wait for a change; where
    there is no such call, `usleep` and 0."""
    number = {"x86_64": 202, "aarch64": 98}.get(platform.machine(), 0) if sys.platform == "linux" else 0
    with contextlib.suppress(OSError, AttributeError):
        return _address(ctypes.CDLL(None), "syscall" if number else "usleep"), number
    return 0, 0


def _new_team() -> list[int]:
    """What a team shares, before it has done anything."""
    shared = [0] * _TEAM_NUMBERS
    shared[_TEAM["system_call"]], shared[_TEAM["futex"]] = _sleeping()
    return shared


@dataclass(frozen=True, slots=True)
class Step:
    """One kernel call: its address, its threads, its numbers, and which of these are addresses: (position, buffer,
    byte offset)."""

    kernel: int
    threads: int
    numbers: tuple[int, ...]
    addresses: tuple[tuple[int, str, int], ...]


def program(steps: Sequence[Step], buffers: Sequence[str]) -> NDArray[np.int64]:
    """A program, for `call` where its `buffers` are the BUFFERS, or for `Team.lead_on`."""
    table: list[int] = []
    patches: list[int] = []
    begin = len(_HEADER) + len(_PHASE) * len(steps)
    team = round_up(begin, COUNTERS)
    numbers = [0] * (team - begin) + _new_team()
    for step in steps:
        to_a_line = -(begin + len(numbers)) % COUNTERS
        numbers += [0] * (to_a_line + COUNTERS * step.threads)
        start = begin + len(numbers)
        table += [step.kernel, start, step.threads, 0]
        for position, buffer, offset in step.addresses:
            patches += [start + position, buffers.index(buffer), offset]
        numbers += step.numbers
    numbers += [0] * (-(begin + len(numbers)) % _COPIED_AT_ONCE)
    most = max((step.threads for step in steps), default=1)
    header = [*_openmp(), most, len(steps), team, begin + len(numbers), len(patches) // 3]
    return np.array([*header, *table, *numbers, *patches], np.int64)


# ---------------------------------------------------------------------------------------------------------------------
# What runs a program, in IR: one call from Python does all phases, and an address costs nanoseconds
# ---------------------------------------------------------------------------------------------------------------------


def _build(module: ir.Module, target: Target) -> None:
    """`call(block, copy, addresses of the BUFFERS …)`: a copy of the program, with the addresses in their places, is
    run by OpenMP's threads, or where it is for one thread, by that. `lead_on(block, copy, table, team)`: it is led, by
    a team of our own, on the addresses of a table; `follow(team, thread)`: what the team's members do.
    """
    waiting = _waiting(module, target)
    work = _work(module)
    lead = _lead(module, work, waiting, target)
    run = _run(module, lead, _follow(module, work, waiting))
    place = _place(module)

    f = Function(module, "lead_on", "*block *copy *table *team", "float32", result=I64)
    f.call(place, block=f.pointer("block"), copy=f.pointer("copy"), table=f.pointer("table"))
    f.call(lead, block=f.pointer("copy"), team=f.pointer("team"))
    f.done(f.const(0).value)

    on_table = Function(module, "call_on", "*block *copy *table", "float32")
    f = on_table
    f.call(place, block=f.pointer("block"), copy=f.pointer("copy"), table=f.pointer("table"))
    f.call(run, block=f.pointer("copy"))
    f.done()

    f = Function(module, "call", f"*block *copy {' '.join(BUFFERS)}", "float32", result=I64)
    table = Pointer(f.builder, f.builder.alloca(I64, len(BUFFERS)), I64)
    for n, name in enumerate(BUFFERS):
        table.at(n).put(f.integer(name).value)
    f.call(on_table, block=f.pointer("block"), copy=f.pointer("copy"), table=table)
    f.done(f.const(0).value)


def _place(module: ir.Module) -> Function:
    f = Function(module, "place", "*block *copy *table", "float32", internal=True)
    block, copy, table = (f.pointer(name, I64) for name in ("block", "copy", "table"))
    length, patches = block.at(_LENGTH).integer(), block.at(_PATCHES).integer()
    with f.loop(length, step=_COPIED_AT_ONCE) as word:
        copy.at(word.index).put(block.at(word.index).vector(_COPIED_AT_ONCE))
    with f.loop(patches) as patch:
        position, buffer, offset = (block.at(length + patch.index * 3 + n).integer() for n in range(3))
        copy.at(position).put((table.at(buffer).integer() + offset).value)
    f.done()
    return f


class _Shared:
    """A word that several threads read and write, all of whose changes are in one order for all of them."""

    def __init__(self, place: Pointer) -> None:
        self.builder, self.place = place.builder, place

    def now(self) -> Int:
        return Int(self.builder, self.builder.load_atomic(self.place.value, "seq_cst", 8, typ=I64))

    def put(self, number: Int | int) -> None:
        value = number.value if isinstance(number, Int) else ir.Constant(I64, number)
        self.builder.atomic_rmw("xchg", self.place.value, value, "seq_cst")

    def plus(self, number: int) -> Int:
        """Changed by so much; what it then is."""
        return (
            Int(self.builder, self.builder.atomic_rmw("add", self.place.value, ir.Constant(I64, number), "seq_cst"))
            + number
        )


class _Members:
    """What a team shares, in IR."""

    def __init__(self, f: Function, team: Pointer) -> None:
        self.f, self.team = f, team

    def __getitem__(self, name: str) -> _Shared:
        return _Shared(self.team.at(_TEAM[name]))

    def _ask_system(self, word: Pointer, operation: int, value: Int) -> None:
        b = self.f.builder
        system_call, futex = (self.team.at(_TEAM[name]).integer() for name in ("system_call", "futex"))
        call_type = ir.FunctionType(I64, [I64, PTR, I64, I64, I64], var_arg=True)
        arguments = [futex.value, word.value, self.f.const(operation | _PRIVATE).value, value.value]
        b.call(_callee(b, system_call, call_type), [*arguments, self.f.const(0).value])

    def sleep(self, word: Pointer, seen: Int) -> None:
        """Until a word, whose lower half the system looks at, is not what was seen, or somebody wakes the sleepers; or,
        where the system has no such call, for a moment."""
        b = self.f.builder
        with self.f.if_else(self.team.at(_TEAM["futex"]).integer().compare("!=", 0)) as (can, cannot):
            with can:
                self._ask_system(word, _WAIT, seen)
            with cannot:
                moment = ir.FunctionType(I32, [I32])
                b.call(_callee(b, self.team.at(_TEAM["system_call"]).integer(), moment), [ir.Constant(I32, 100)])

    def wake(self, word: Pointer, sleepers: str) -> None:
        """Those who sleep until that word changes, which it has."""
        here = self[sleepers].now().compare(">", 0)
        with self.f.if_(self.f.all_of(here, self.team.at(_TEAM["futex"]).integer().compare("!=", 0))):
            self._ask_system(word, _WAKE, self.f.const(0x7FFFFFFF))


_WAIT, _WAKE, _PRIVATE = 0, 1, 128  # FUTEX_WAIT, FUTEX_WAKE, FUTEX_PRIVATE_FLAG


def _waiting(module: ir.Module, target: Target) -> Function:
    """`wait(word, number, equal, sleepers, team)`: comes back when the word is that number, or, where not `equal`, when
    it is another one.

    A sleeper counts itself before it looks for the last time, and who changes the word does so before looking for
    sleepers. So whichever comes first, the other one sees it.
    """
    f = Function(module, "wait", "*word number equal *sleepers *team", "float32", internal=True)
    word, sleepers = _Shared(f.pointer("word", I64)), _Shared(f.pointer("sleepers", I64))
    equal = f.integer("equal").compare("!=", 0)

    def goes_on(seen: Int) -> Value:
        return f.builder.icmp_unsigned("!=", seen.compare("==", f.integer("number")), equal)

    with f.loop(_LOOKS):
        with f.if_(f.builder.not_(goes_on(word.now()))):
            f.done()
        f.pause(target.x86)
    sleepers.plus(1)
    with f.while_([word.now()], goes_on) as nap:
        _Members(f, f.pointer("team", I64)).sleep(word.place, nap.index)
        nap.carry([word.now()])
    sleepers.plus(-1)
    f.done()
    return f


def _shares(f: Function, arguments: Pointer, shares: Int) -> Callable[[Int | int, int], Pointer]:
    """A share's counters, which stand before the arguments, by its number and theirs."""
    return lambda share, number: arguments.at((f.const(0) + share - shares) * COUNTERS + number)


def _phase(f: Function, block: Pointer, entry: Pointer) -> tuple[Int, Pointer, Int]:
    """A phase's kernel, its arguments and how many shares it has."""
    kernel, start, shares = (entry.at(_PHASE.index(name)).integer() for name in ("kernel", "start", "threads"))
    return kernel, block.at(start), shares


def _work(module: ir.Module) -> Function:
    """`work(team, entry, thread)`: of a phase, the share that is the thread's, and each that nobody has taken."""
    f = Function(module, "work", "*team *entry thread", "float32", internal=True)
    b, members, entry = f.builder, _Members(f, f.pointer("team", I64)), f.pointer("entry", I64)
    block = f.address(members.team.at(_TEAM["block"]).integer(), I64)
    kernel, arguments, shares = _phase(f, block, entry)
    counter = _shares(f, arguments, shares)
    with f.loop(shares) as nth:
        share = (f.integer("thread") + nth.index) % shares
        with f.if_(counter(share, _TAKEN).count().compare("==", 0)):
            b.call(_callee(b, kernel, _KERNEL), [arguments.value, share.value, shares.value])
            done = _Shared(counter(0, _DONE))
            with f.if_(done.plus(1).compare("==", shares)):
                members.wake(done.place, "leader_sleeps")
    f.done()
    return f


def _lead(module: ir.Module, work: Function, waiting: Function, target: Target) -> Function:
    f = Function(module, "lead", "*block *team", "float32", internal=True)
    b, block, members = f.builder, f.pointer("block", I64), _Members(f, f.pointer("team", I64))
    leader_sleeps = members["leader_sleeps"].place
    members.team.at(_TEAM["block"]).put(block.number().value)
    with f.loop(block.at(_HEADER.index("phases")).integer()) as phase:
        entry = block.at(phase.index * len(_PHASE) + len(_HEADER))
        kernel, arguments, shares = _phase(f, block, entry)
        with f.if_else(shares.compare("==", 1)) as (alone, together):
            with alone:
                b.call(_callee(b, kernel, _KERNEL), [arguments.value, f.const(0).value, shares.value])
            with together:
                members["entry"].put(entry.number())
                members["ticket"].plus(1)
                members.wake(members["ticket"].place, "sleepers")
                f.call(work, team=members.team, entry=entry, thread=0)
                done = _shares(f, arguments, shares)(0, _DONE)
                f.call(waiting, word=done, number=shares, equal=1, sleepers=leader_sleeps, team=members.team)
        if target.x86:  # on arm64 a program may not be allowed to read the clock
            entry.at(_PHASE.index("clock")).put(f._intrinsic("llvm.readcyclecounter", I64))
    # Members that came late may still be looking for shares; afterwards the block is somebody else's.
    members["entry"].put(0)
    inside = members["inside"].place
    f.call(waiting, word=inside, number=0, equal=1, sleepers=leader_sleeps, team=members.team)
    f.done()
    return f


def _follow(module: ir.Module, work: Function, waiting: Function) -> Function:
    f = Function(module, "follow", "*team thread", "float32")
    members = _Members(f, f.pointer("team", I64))
    ticket, inside, sleepers = members["ticket"], members["inside"], members["sleepers"].place
    with f.while_([f.const(0)], lambda last: last.compare("!=", _OVER)) as each:
        f.call(waiting, word=ticket.place, number=each.index, equal=0, sleepers=sleepers, team=members.team)
        now = ticket.now()
        with f.if_(now.compare("!=", _OVER)):
            inside.plus(1)  # before the entry is read: the leader takes the entry away before it looks who is inside
            entry = members["entry"].now()
            with f.if_(entry.compare("!=", 0)):
                f.call(work, team=members.team, entry=f.address(entry, I64), thread=f.integer("thread"))
            with f.if_(inside.plus(-1).compare("==", 0)):
                members.wake(inside.place, "leader_sleeps")
        each.carry([now])
    f.done()
    return f


def _run(module: ir.Module, lead: Function, follow: Function) -> Function:
    # What each thread of an OpenMP team does with the block that `run` has passed on. There may be fewer than
    # were asked for.
    f = Function(module, "in_team", "*block", "float32", internal=True)
    b, block = f.builder, f.pointer("block", I64)
    number = b.call(_callee(b, block.at(1).integer(), ir.FunctionType(I32, [])), [])
    thread, team = Int(b, b.sext(number, I64)), block.at(block.at(_HEADER.index("team")).integer())
    with f.if_else(thread.compare("==", 0)) as (leader, member):
        with leader:
            members = _Members(f, team)
            f.call(lead, block=block, team=team)
            members["ticket"].put(_OVER)
            members.wake(members["ticket"].place, "sleepers")
        with member:
            f.call(follow, team=team, thread=thread)
    f.done()
    in_team = f

    f = Function(module, "run", "*block", "float32", internal=True)
    b, block = f.builder, f.pointer("block", I64)
    threads = block.at(_THREADS).integer()
    with f.if_else(threads.compare("==", 1)) as (alone, together):
        with alone:
            f.call(lead, block=block, team=block.at(block.at(_HEADER.index("team")).integer()))
        with together:
            parallel = ir.FunctionType(VOID, [PTR, PTR, I32, I32])
            fork = [in_team.function, block.value, b.trunc(threads.value, I32), ir.Constant(I32, 0)]
            b.call(_callee(b, block.at(0).integer(), parallel), fork)
    f.done()
    return f


_KERNEL = ir.FunctionType(VOID, [PTR, I64, I64])


def _callee(builder: ir.IRBuilder, address: Int, signature: ir.FunctionType) -> object:
    return builder.inttoptr(address.value, signature.as_pointer())


@cache
def _code() -> runtime.Code:
    here = targets.current()

    def build(module: ir.Module) -> None:
        _build(module, here)

    return runtime.code("team", build, ["call", "call_on", "lead_on", "follow"], here)


def ready(prepared: T) -> T:
    """The same; what runs it is loaded, so that `CannotLoad` is raised now or not at all."""
    _caller()
    return prepared


@cache
def _function(name: str, arguments: int) -> Callable[..., None]:
    # Addresses and numbers alike: ctypes takes a c_void_p in half the time of a c_int64.
    return ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * arguments)(_code()[name])


@cache
def _caller() -> Callable[..., int]:
    return runtime.python_function("call", _code()["call"], 2 + len(BUFFERS))


# ---------------------------------------------------------------------------------------------------------------------
# Calls
# ---------------------------------------------------------------------------------------------------------------------


class Team:
    """Threads of our own, asleep until there is a program to run; one program at a time.

    They are Python's threads inside a native function that they never leave, and do not keep the process from ending.
    """

    def __init__(self, threads: int) -> None:
        memory = for_good(np.zeros(_TEAM_NUMBERS + COUNTERS, np.int64))  # its threads look at it to the end
        first = -(memory.ctypes.data // 8) % COUNTERS
        memory[first : first + _TEAM_NUMBERS] = _new_team()
        self._address = int(memory.ctypes.data) + 8 * first
        self._busy = threading.Lock()
        self._lead_on = runtime.python_function("lead_on", _code()["lead_on"], 4)
        follow = _function("follow", 2)
        for thread in range(1, threads):
            threading.Thread(target=follow, args=(self._address, thread), name="convforge", daemon=True).start()

    @staticmethod
    @cache
    def of(threads: int) -> Team:
        """The process's team of so many threads, the caller included."""
        return Team(threads)

    def lead_on(self, address: int, copy: int, table: int) -> None:
        """Run the program at `address` on the buffers of a table; its copy goes to `copy`."""
        with self._busy:
            self._lead_on(address, copy, table, self._address)


def call(
    block: NDArray[np.int64],
    address: int,
    copy: int,
    x: int,
    w: int,
    y: int,
    bias: int,
    residual: int,
    packed: int,
    work: int,
    zeros: int,
) -> None:
    """Run a program, which lies at `address`, on these BUFFERS; its copy goes to `copy`. (One parameter for each:
    gathering them would take as long as the call.)"""
    if block.item(0) or not _needs_team(block):
        _caller()(address, copy, x, w, y, bias, residual, packed, work, zeros)
    else:
        table = (ctypes.c_int64 * len(BUFFERS))(x, w, y, bias, residual, packed, work, zeros)
        Team.of(int(block[_THREADS])).lead_on(address, copy, ctypes.addressof(table))


def call_on(block: NDArray[np.int64], address: int, copy: int, table: int) -> None:
    """As `call`, on the buffers of a table, which are as many as the program has."""
    if block.item(0) or not _needs_team(block):
        _function("call_on", 3)(address, copy, table)
    else:
        Team.of(int(block[_THREADS])).lead_on(address, copy, table)


def _needs_team(block: NDArray[np.int64]) -> bool:
    """Whether it is for several threads, and there is no OpenMP runtime."""
    return bool(not block[0] and block[_THREADS] > 1)


def clocks(copy: int, count: int) -> list[int]:
    """When each of so many phases ended, by the CPU's time stamp counter; the program's last copy lies at `copy`."""
    words = (ctypes.c_int64 * (len(_HEADER) + len(_PHASE) * count)).from_address(copy)
    return [words[len(_HEADER) + len(_PHASE) * phase + _PHASE.index("clock")] for phase in range(count)]


def _renew_after_fork() -> None:
    """A forked child inherits the teams without their threads."""
    Team.of.cache_clear()
    compiling.release()


# A fork waits until no thread compiles: the child would inherit the locks of LLVM, of llvmlite, of modules that are
# being imported and of the compiling threads as they are, and nobody to open them.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=lambda: compiling.acquire(),
        after_in_parent=lambda: compiling.release(),
        after_in_child=_renew_after_fork,
    )
