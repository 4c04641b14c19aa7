"""From a module of LLVM IR to machine code, and memory to work in: compile, keep on disk, lend.

Compiled code is kept in memory for the life of the process and on disk between processes. A cache entry's name is a
hash of everything the code depends on (the source of all that writes code, llvmlite and LLVM versions, the target with
its CPU features, the kernel and its parameters); its content carries a hash of name and code together. An entry that
does not match, for whatever reason, is compiled again and never executed; a folder that others could write to is not
used. A process that finds all its code there never loads LLVM.
"""

from __future__ import annotations

import concurrent.futures.thread  # noqa: F401  what the compiler needs has to do at a fork must not begin during one
import contextlib
import hashlib
import itertools
import os
import platform
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from llvmlite import ir
from numpy.typing import NDArray

from ..disk import cache_folder, read_ours, write_ours
from . import target as targets
from .builtin import builtin, write_wrapper
from .lasting import for_good
from .linker import CannotLink, linked, parted
from .target import Target

if TYPE_CHECKING:
    import llvmlite.binding as llvm

compiling = targets.compiling


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


def python_function(name: str, address: int, arguments: int) -> Callable[..., int]:
    """The native function at `address`, which takes so many integers or addresses and returns an integer, for Python.
    It costs a third of what ctypes would, but knows numbers only."""

    def build(module: ir.Module) -> None:
        write_wrapper(module, arguments)

    return builtin(name, address, code("builtin", build, ["wrapper"], targets.current(), arguments)["wrapper"])


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


def compile_parts(build: Callable[[ir.Module], None], target: Target, cores: int) -> bytes:
    """What the compiler makes of it; it is imported here, with LLVM, when something is to be compiled."""
    from . import compiler

    return compiler.compile_parts(build, target, cores)


def _load(object_code: bytes, kernels: Sequence[str]) -> Code:
    files = parted(object_code)
    try:
        return Code(linked(files, kernels))
    except CannotLink:
        return _load_by_llvm(files, kernels)


@cache
def _jit() -> llvm.LLJIT:
    # Only linking is left to it, so the host's own machine description does for all targets.
    #
    # With JITLink: it lays all sections of an object into one block of memory and reaches other objects by stubs with
    # whole addresses. LLVM's older linker maps each section where the system has room. Sections address each other by
    # 32 bits; in a process that has mapped a great deal (torch with CUDA's libraries) they can lie further apart, and
    # then it aborts the process. Both take 0.7 ms a module; JITLink takes 60 KB more of memory for one.
    import llvmlite.binding as llvm

    from .compiler import host

    return for_good(llvm.create_lljit_compiler(host().create_target_machine(jit=True), use_jit_link=True))


_numbers = itertools.count()


def _load_by_llvm(files: Sequence[bytes], kernels: Sequence[str]) -> Code:
    import llvmlite.binding as llvm

    library = llvm.JITLibraryBuilder().add_current_process()
    for part in files:
        library = library.add_object_img(part)
    for name in kernels:
        library = library.export_symbol(name)
    tracker = for_good(library.link(_jit(), f"convforge{next(_numbers)}"))  # its code is freed with it
    return Code({name: tracker[name] for name in kernels})


# ---------------------------------------------------------------------------------------------------------------------
# Disk
# ---------------------------------------------------------------------------------------------------------------------


WRITERS = ("native", "engine", "graph/kernels", "pytorch", "bench")
"""The folders of the package with all that writes code."""


def _hash_of_source() -> str:
    digest, package = hashlib.sha256(), Path(__file__).parents[1]
    for folder in WRITERS:
        for path in sorted((package / folder).rglob("*.py")):
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
        versions = (_SOURCE_HASH, targets.llvm_version(), platform.machine(), platform.system())
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


def usable_threads() -> int:
    """Cores that this process may use: the default number of threads."""
    with contextlib.suppress(AttributeError):  # not on macOS and Windows
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


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
