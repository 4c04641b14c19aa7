"""From what an algorithm writes to object code: LLVM IR, cut into a part for each core, optimised and emitted.

A kernel's module takes half a second of one core: a quarter in Python, where the IR is built and printed, the rest in
LLVM. Its functions are independent of each other (the tiles are not inlined), so they are dealt out to as many modules
as there are cores, which are emitted at the same time and linked again when they are loaded. Measured on two cores for
the five modules of ResNet-50's three passes: 4.5 s as one module each with Python's collector running, 2.8 s with the
collector paused (it looks in vain through the 100,000 objects of a module, again and again), 1.8 s in two parts.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import llvmlite.binding as llvm
from llvmlite import ir

from .linker import joined
from .target import Target

_MOST_PARTS = 4  # printing takes turns in Python: more would wait for it
_WORTH_A_PART = 1000  # instructions; half a millisecond of LLVM's for ten


def assembly(build: Callable[[ir.Module], None], target: Target) -> str:
    """What `build` writes into a module, as text."""
    machine, module = _optimised(str(_built(build, target)), target)
    return str(machine.emit_assembly(module))


def _built(build: Callable[[ir.Module], None], target: Target) -> ir.Module:
    module = ir.Module("convforge")
    module.triple = target.triple or llvm.get_process_triple()
    build(module)
    return module


def compile_parts(build: Callable[[ir.Module], None], target: Target, cores: int) -> bytes:
    """The code of it in a part for each core, as object files, joined."""
    with _collector_paused(), ThreadPoolExecutor(_MOST_PARTS, "convforge-compiler") as pool:
        module = _built(build, target)
        parts = _deal_out(module, min(cores, _MOST_PARTS))
        jobs = [pool.submit(_object_of, _text(module, names), target) for names in parts]
        objects = [job.result() for job in jobs]
    return joined(objects)


@contextlib.contextmanager
def _collector_paused() -> Iterator[None]:
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


# --- parts ------------------------------------------------------------------------------------------------------------


def _deal_out(module: ir.Module, parts: int) -> list[set[str]]:
    """The names of the functions of each part: the longest first, each to the part that has least so far."""
    lengths = {f.name: sum(len(block.instructions) for block in f.blocks) for f in module.functions if f.blocks}
    parts = max(1, min(parts, sum(lengths.values()) // _WORTH_A_PART))
    names: list[set[str]] = [set() for _ in range(parts)]
    sizes = [0] * parts
    for name, length in sorted(lengths.items(), key=lambda item: -item[1]):
        part = sizes.index(min(sizes))
        names[part].add(name)
        sizes[part] += length
    if parts > 1:
        for function in module.functions:
            if function.linkage == "internal":
                function.linkage = "hidden"  # seen by the other parts, and by nobody else
    return names


def _text(module: ir.Module, names: set[str]) -> str:
    """A module with the named functions; the others are declared."""
    others = {function: function.blocks for function in module.functions if function.name not in names}
    for function in others:
        function.blocks = []
    text = str(module)
    for function, blocks in others.items():
        function.blocks = blocks
    return text


# --- LLVM -------------------------------------------------------------------------------------------------------------


@cache
def host() -> llvm.Target:
    """LLVM's description of this kind of machine. LLVM is loaded here, when it is first needed: a tenth of a second."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm.Target.from_default_triple()


def _object_of(text: str, target: Target) -> bytes:
    return _emitted(*_optimised(text, target))


def _optimised(text: str, target: Target) -> tuple[llvm.TargetMachine, llvm.ModuleRef]:
    # A context of its own, since LLVM's threads must not share one.
    try:
        module = llvm.parse_assembly(text, llvm.create_context())
        module.verify()
    except RuntimeError as problem:  # not for users to live with, as with a machine that has no memory left
        raise AssertionError(f"a kernel's code is not valid: {problem}") from problem
    machine = _machine(target)
    # The kernels are unrolled and vectorised as they should be; LLVM's own attempts would only undo the tiling. These
    # five passes give the inner loops that -O2 gives, in a sixth of its time.
    passes = llvm.create_new_module_pass_manager()
    passes.add_simplify_cfg_pass()
    passes.add_instruction_combine_pass()
    passes.add_loop_rotate_pass()
    passes.add_new_gvn_pass()
    passes.add_simplify_cfg_pass()
    passes.run(module, llvm.create_pass_builder(machine, llvm.PipelineTuningOptions(speed_level=2)))
    return machine, module


def _machine(target: Target) -> llvm.TargetMachine:
    description = host()
    if target.triple:
        llvm.initialize_all_targets()
        llvm.initialize_all_asmprinters()
        description = llvm.Target.from_triple(target.triple)
    return description.create_target_machine(
        cpu=target.cpu, features=target.features, opt=1, reloc="pic", codemodel="small"
    )


def _emitted(machine: llvm.TargetMachine, module: llvm.ModuleRef) -> bytes:
    """What `machine.emit_object(module)` gives, without the lock that llvmlite puts around every call into LLVM: it
    protects the context that llvmlite shares by default, and this module has one of its own."""
    lib = llvm.ffi.lib
    locked = lib.LLVMPY_TargetMachineEmitToMemory
    emit = getattr(locked, "_cfn", locked)
    with llvm.ffi.OutputString() as error:
        buffer = emit(machine, module, 1, error)
        if not buffer:
            raise RuntimeError(str(error))
    try:
        return ctypes.string_at(lib.LLVMPY_GetBufferStart(buffer), lib.LLVMPY_GetBufferSize(buffer))
    finally:
        lib.LLVMPY_DisposeMemoryBuffer(buffer)
