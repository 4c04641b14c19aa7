"""From a module of LLVM IR to a call: compile, keep on disk, share threads, lend memory.

Compiled code is kept in memory for the life of the process and on disk between processes. A cache entry's name is a
hash of everything the code depends on (the engine's own source, llvmlite and LLVM versions, the target with its CPU
features, the kernel and its parameters); its content carries a hash of name and code together. An entry that does not
match, for whatever reason, is compiled again and never executed; a folder that others could write to is not used.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import platform
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import repeat
from pathlib import Path
from typing import Any, TypeVar

import llvmlite
import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numpy.typing import NDArray

from . import target as targets
from .builtin import builtin, write_wrapper
from .compiler import compile_parts, host, objects_of
from .disk import cache_folder, read_ours, write_ours
from .kernels.ir import COUNTERS, I32, I64, PTR, VOID, Function, Int, Pointer
from .target import Target

T = TypeVar("T")

compiling = threading.RLock()
"""Held by whoever makes or loads code; a fork waits for it."""


class CannotLoad(RuntimeError):
    """Machine code could not be made or brought into memory; the message says why."""


# ---------------------------------------------------------------------------------------------------------------------
# Compile
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Code:
    """Machine code in memory: the address of each kernel by its name. It stays for the life of the process."""

    addresses: Mapping[str, int]

    def __getitem__(self, name: str) -> int:
        return self.addresses[name]


_compiled: dict[tuple[object, ...], Code | str] = {}
"""The code, or why there is none."""


def code(
    name: str, build: Callable[[ir.Module], None], kernels: Sequence[str], target: Target, *parameters: object
) -> Code:
    """The compiled form of what `build` writes into a module: from memory, from disk, or made now.

    `name` and `parameters` identify it; two builds that differ must differ in them. Raises `CannotLoad`, then and at
    every later call, where threads or memory for it are not to be had.
    """
    key = (name, replace(target, costs=targets.USUAL), *parameters)
    found = _compiled.get(key)
    if found is None:
        with compiling:
            found = _compiled.get(key)
            if found is None:
                found = _compiled[key] = _made(repr(key), build, kernels, target)
    if isinstance(found, str):
        raise CannotLoad(found)  # a new one each time: an exception holds on to all that its callers had in hand
    return found


def _made(key: str, build: Callable[[ir.Module], None], kernels: Sequence[str], target: Target) -> Code | str:
    try:
        return _load(_object_code(key, build, target), kernels)
    except (RuntimeError, OSError, MemoryError) as problem:  # no memory, no threads, nothing that LLVM can link
        return f"its machine code cannot be made or loaded here ({str(problem) or 'memory is exhausted'})."


def _object_code(key: str, build: Callable[[ir.Module], None], target: Target) -> bytes:
    """The object file, from disk or compiled; what was compiled is put on disk."""
    entry = _Entry.named(key)
    stored = entry.read() if entry else None
    if stored is not None:
        return stored
    made = compile_parts(build, target, usable_threads())
    if entry:
        entry.write(made)
    return made


@cache
def _jit() -> llvm.LLJIT:
    # Only linking is left to it, so the host's own machine description does for all targets.
    #
    # With JITLink: it lays all sections of an object into one block of memory and reaches other objects by stubs with
    # whole addresses. LLVM's older linker maps each section where the system has room. Sections address each other by
    # 32 bits; in a process that has mapped a great deal (torch with CUDA's libraries) they can lie further apart, and
    # then it aborts the process. Both take 0.7 ms a module; JITLink takes 60 KB more of memory for one.
    return llvm.create_lljit_compiler(host().create_target_machine(jit=True), use_jit_link=True)


_trackers: list[object] = []  # code is freed with its tracker, so they are all kept


def _load(object_code: bytes, kernels: Sequence[str]) -> Code:
    library = llvm.JITLibraryBuilder().add_current_process()
    for part in objects_of(object_code):
        library = library.add_object_img(part)
    for name in kernels:
        library = library.export_symbol(name)
    tracker = library.link(_jit(), f"convforge{len(_trackers)}")
    _trackers.append(tracker)
    return Code({name: tracker[name] for name in kernels})


# ---------------------------------------------------------------------------------------------------------------------
# Disk
# ---------------------------------------------------------------------------------------------------------------------


def _hash_of_source() -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


# Taken at import, with the modules: were it taken later, a program that runs while the files are edited would put code
# from the old ones under the name of the new ones.
_SOURCE_HASH = _hash_of_source()


_MOST_CODE_BYTES = 256 << 20


@dataclass(frozen=True)
class _Entry:
    """One object file on disk: the hash of name and code, then the code."""

    path: Path

    @classmethod
    def named(cls, key: str) -> _Entry | None:
        folder = cache_folder()
        if folder is None:
            return None
        versions = (_SOURCE_HASH, llvmlite.__version__, llvm.llvm_version_info, platform.machine(), platform.system())
        return cls(folder / (hashlib.sha256(repr((versions, key)).encode()).hexdigest() + ".o"))

    def read(self) -> bytes | None:
        content = read_ours(self.path, _MOST_CODE_BYTES)
        if content is None:
            return None
        digest, object_code = content[:32], content[32:]
        return object_code if digest == self._digest(object_code) else None

    def write(self, object_code: bytes) -> None:
        """Whole or not at all: a full disk or a crash leaves no half entry under the name."""
        with contextlib.suppress(OSError):
            write_ours(self.path, self._digest(object_code) + object_code)

    def _digest(self, object_code: bytes) -> bytes:
        return hashlib.sha256(self.path.name.encode() + object_code).digest()


# ---------------------------------------------------------------------------------------------------------------------
# Threads
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OpenMP:
    """Addresses in the OpenMP runtime that this process has loaded: torch's own, when torch is there."""

    parallel: int
    thread_number: int
    thread_count: int


@cache
def _openmp() -> OpenMP | None:
    """The runtime already in the process; it is never loaded by us, so that two of them never fight for the cores."""
    try:
        mapped = Path("/proc/self/maps").read_text()
    except OSError:
        return None
    for path in dict.fromkeys(re.findall(r"(/\S*lib(?:gomp|iomp5|omp)\b\S*\.so\S*)", mapped)):
        with contextlib.suppress(OSError, AttributeError):
            library = ctypes.CDLL(path)
            names = ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads")
            addresses = [ctypes.cast(getattr(library, name), ctypes.c_void_p).value for name in names]
            return OpenMP(*(int(address or 0) for address in addresses))
    return None


# A program is one block of numbers: first what `program` names here, then what a phase is made of for each of them,
# then, a phase after the other, the counters of its threads (`ir.tasks`) and its arguments; after these `length`
# numbers come `patches` triples (position, buffer, offset): where the address of a buffer belongs.
_HEADER = ("parallel", "thread_number", "thread_count", "phases", "length", "patches")
_PHASE = ("kernel", "start", "threads")
_LENGTH, _PATCHES = _HEADER.index("length"), _HEADER.index("patches")

BUFFERS = ("x", "w", "y", "bias", "residual", "packed", "work", "zeros")
"""The memory that a pass may work on, in the order in which `call` takes the addresses."""

_Block = Any  # a ctypes array of int64

_COPIED_AT_ONCE = 8


def program(phases: Sequence[tuple[int, int, Sequence[int]]]) -> tuple[list[int], list[int]]:
    """Kernels, each with its threads and its arguments, as one block, and where in it each one's arguments begin."""
    omp = _openmp()
    control = [0, 0, 0] if omp is None else [omp.parallel, omp.thread_number, omp.thread_count]
    starts: list[int] = []
    table: list[int] = []
    numbers: list[int] = []
    begin = len(_HEADER) + len(_PHASE) * len(phases)
    for kernel_address, threads, arguments in phases:
        to_a_line = -(begin + len(numbers)) % COUNTERS
        numbers += [0] * (to_a_line + COUNTERS * threads)
        starts.append(begin + len(numbers))
        table += [kernel_address, starts[-1], threads]
        numbers += arguments
    length = begin + len(numbers)
    padding = -length % _COPIED_AT_ONCE
    header = [*control, len(phases), length + padding, 0]
    return [*header, *table, *numbers, *[0] * padding], starts


def with_addresses(block: list[int], addresses: Sequence[tuple[int, str, int]]) -> NDArray[np.int64]:
    """A program for `call`, which puts the address of each (position, buffer, byte offset) in its place."""
    patches = [number for position, buffer, offset in addresses for number in (position, BUFFERS.index(buffer), offset)]
    whole = np.array([*block, *patches], np.int64)
    whole[_PATCHES] = len(addresses)
    return whole


def _build_run(module: ir.Module) -> None:
    """`run(block)`: each phase of a program, a kernel and its arguments, on its threads; then the next.
    `call(block, copy, addresses of the buffers …)`: the same on a copy, with the addresses in their places.

    Written in IR, so that one call from Python does all phases, each with a fork and a join of about half a
    microsecond, and so that the addresses of a call cost nanoseconds and the program stays as it is: other threads may
    be running it, and the counters of the copy begin at 0.
    """
    body_type = ir.FunctionType(VOID, [PTR, I64, I64])
    query = ir.FunctionType(I32, [])
    parallel = ir.FunctionType(VOID, [PTR, PTR, I32, I32])

    # What each thread of a team does; `data` is (kernel, arguments, thread_number, thread_count).
    member = Function(module, "member", "*data", "float32", internal=True)
    b, data = member.builder, member.pointer("data", I64)
    words = [data.at(n).integer() for n in range(4)]
    number, count = (b.sext(b.call(_callee(b, words[n], query), []), I64) for n in (2, 3))
    b.call(_callee(b, words[0], body_type), [b.inttoptr(words[1].value, PTR), number, count])
    member.done()

    f = Function(module, "run", "*block", "float32")
    b, block = f.builder, f.pointer("block", I64)
    team = b.alloca(I64, 4)
    with f.loop(block.at(_HEADER.index("phases")).integer()) as phase:
        entry = block.at(phase.index * len(_PHASE) + len(_HEADER))
        body, start, threads = (entry.at(n).integer() for n in range(len(_PHASE)))
        arguments = block.at(start)
        with f.if_else(threads.compare("==", 1)) as (alone, together):
            with alone:
                one_thread = [arguments.value, f.const(0).value, f.const(1).value]
                b.call(_callee(b, body, body_type), one_thread)
            with together:
                for n, value in enumerate((body, arguments.number(), block.at(1).integer(), block.at(2).integer())):
                    b.store(value.value, b.gep(team, [ir.Constant(I64, n)], source_etype=I64))
                fork = [member.function, team, b.trunc(threads.value, I32), ir.Constant(I32, 0)]
                b.call(_callee(b, block.at(0).integer(), parallel), fork)
    f.done()
    run = f

    f = Function(module, "call", f"*block *copy {' '.join(BUFFERS)}", "float32", result=I64)
    block, copy = f.pointer("block", I64), f.pointer("copy", I64)
    buffers = Pointer(f.builder, f.builder.alloca(I64, len(BUFFERS)), I64)
    for n, name in enumerate(BUFFERS):
        buffers.at(n).put(f.integer(name).value)
    length, patches = block.at(_LENGTH).integer(), block.at(_PATCHES).integer()
    with f.loop(length, step=_COPIED_AT_ONCE) as word:
        copy.at(word.index).put(block.at(word.index).vector(_COPIED_AT_ONCE))
    with f.loop(patches) as patch:
        position, buffer, offset = (block.at(length + patch.index * 3 + n).integer() for n in range(3))
        copy.at(position).put((buffers.at(buffer).integer() + offset).value)
    f.call(run, block=copy)
    f.done(f.const(0).value)


def _callee(builder: ir.IRBuilder, address: Int, signature: ir.FunctionType) -> object:
    return builder.inttoptr(address.value, signature.as_pointer())


def usable_threads() -> int:
    """Cores that this process may use: the default number of threads."""
    with contextlib.suppress(AttributeError):  # not on macOS and Windows
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="convforge")


def _renew_after_fork() -> None:
    """A forked child inherits the pool without its threads."""
    _pool.cache_clear()
    compiling.release()


# A fork waits until no thread compiles: the child would inherit the locks of LLVM, llvmlite and the compiling threads
# as they are, and nobody to open them.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=lambda: compiling.acquire(),
        after_in_parent=lambda: compiling.release(),
        after_in_child=_renew_after_fork,
    )

_KERNEL = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)


def run(block: _Block) -> None:
    """Run a program as it is. Its counters are used up by that: where kernels have `tasks`, it can be run once."""
    if _without_openmp(block):
        _run_on_pool(block)
    else:
        _runner()(block)


def _phases(block: _Block) -> Iterator[tuple[int, int, int]]:
    """Kernel, where its arguments begin, and threads."""
    for phase in range(block[_HEADER.index("phases")]):
        first = len(_HEADER) + len(_PHASE) * phase
        kernel_address, start, threads = block[first : first + len(_PHASE)]
        yield int(kernel_address), int(start), int(threads)


def _without_openmp(block: _Block) -> bool:
    return not block[0] and any(threads > 1 for _, _, threads in _phases(block))


def _run_on_pool(block: _Block) -> None:
    """The same where there is no OpenMP runtime."""
    for kernel_address, start, threads in _phases(block):
        arguments = ctypes.addressof(block) + 8 * start
        one = partial(_KERNEL(kernel_address), arguments)
        list(_pool(threads).map(one, range(threads), repeat(threads)))


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
    """Run a program made by `with_addresses`, which lies at `address`, on these BUFFERS; its copy goes to `copy`.
    (One parameter for each: gathering them would take as long as the call.)"""
    if block.item(0) or not _without_openmp(block):
        _caller()(address, copy, x, w, y, bias, residual, packed, work, zeros)
    else:
        buffers = (x, w, y, bias, residual, packed, work, zeros)
        length = int(block[_LENGTH])
        patched = block[:length].copy()
        for position, buffer, offset in block[length:].reshape(-1, 3):
            patched[position] = buffers[buffer] + offset
        _run_on_pool((ctypes.c_int64 * length)(*patched.tolist()))


@cache
def _control() -> Code:
    return code("run", _build_run, ["run", "call"], targets.current())


def ready(prepared: T) -> T:
    """The same; what runs it is loaded, so that `CannotLoad` is raised now or not at all."""
    _caller()
    return prepared


@cache
def _runner() -> Callable[[object], None]:
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p)(_control()["run"])


@cache
def _caller() -> Callable[..., int]:
    return python_function("call", _control()["call"], 2 + len(BUFFERS))


def python_function(name: str, address: int, arguments: int) -> Callable[..., int]:
    """The native function at `address`, which takes so many integers or addresses and returns an integer, for Python.
    It costs a third of what ctypes would, but knows numbers only."""

    def build(module: ir.Module) -> None:
        write_wrapper(module, arguments)

    return builtin(name, address, code("builtin", build, ["wrapper"], targets.current(), arguments)["wrapper"])


# ---------------------------------------------------------------------------------------------------------------------
# Memory
# ---------------------------------------------------------------------------------------------------------------------

_ALIGNMENT = 64
KEPT_BYTES = 64 << 20
"""The largest workspace that is kept between calls."""


class _Workspace(threading.local):
    buffer: NDArray[np.uint8] = np.empty(0, np.uint8)
    address = size = 0


_workspace = _Workspace()


def workspace(size: int) -> tuple[int, object]:
    """The address of `size` bytes for the duration of one call, aligned to a cache line, and what keeps them alive.

    Each calling thread keeps its last buffer, up to `KEPT_BYTES`: memory fresh from the system costs a page fault every
    4 KB, which can be more than the convolution.
    """
    own = _workspace
    if own.size >= size:
        return own.address, own.buffer
    address, buffer = memory(size)
    if size <= KEPT_BYTES:
        own.buffer, own.address, own.size = buffer, address, size
    return address, buffer


def memory(size: int) -> tuple[int, NDArray[np.uint8]]:
    """The address of `size` new bytes, aligned to a cache line, and what keeps them alive."""
    buffer = np.empty(size + _ALIGNMENT, np.uint8)
    address = int(buffer.ctypes.data)
    return address + -address % _ALIGNMENT, buffer
