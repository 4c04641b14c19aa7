"""Passes prepared for arm64, compiled, linked and run by an emulator: the very programs that run on such a machine.

While passes are prepared, `native.target.current` is arm64 and `native.runtime.code` writes libraries instead of
loading code: a kernel's "address" is its line in a list, which the harness replaces by the address it has there.
"""

from __future__ import annotations

import itertools
import shutil
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llvmlite import ir

from convforge.engine.prepared import Prepared
from convforge.native import runtime, target, team
from convforge.native.linker import parted

Array = np.ndarray[Any, Any]

COMPILER, EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64"
LIBRARIES = "/usr/aarch64-linux-gnu"  # where Debian puts arm64's C library


def missing() -> str:
    """What must be installed first; "" where nothing is missing."""
    needs = {
        COMPILER: shutil.which(COMPILER),
        EMULATOR: shutil.which(EMULATOR),
        "libc6-dev-arm64-cross": Path(LIBRARIES).is_dir(),
    }
    return ", ".join(name for name, there in needs.items() if not there)


class Arm64:
    """An arm64 machine in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.target = folder, target.arm64()
        self.lines: list[str] = []
        self._codes: dict[tuple[object, ...], runtime.Code] = {}
        self._numbers = itertools.count()
        self._emulator: subprocess.Popen[str] | None = None
        self.harness = folder / "harness"
        _run(
            COMPILER,
            "-O1",
            "-Wall",
            "-Werror",
            "-o",
            self.harness,
            Path(__file__).parent / "harness.c",
            "-ldl",
            "-pthread",
        )
        self.code("runner", lambda module: team._build(module, self.target), ["call"], self.target)

    def prepares(self, patch: pytest.MonkeyPatch) -> None:
        """From now on, what is compiled is compiled for this machine."""
        patch.setattr(runtime, "code", self.code)

    def code(
        self,
        name: str,
        build: Callable[[ir.Module], None],
        kernels: Sequence[str],
        to: target.Target,
        *parameters: object,
    ) -> runtime.Code:
        """In place of `runtime.code`."""
        key = (name, *parameters)
        if key not in self._codes:
            assert to is self.target
            library = self.folder / f"{next(self._numbers)}.so"
            with runtime.compiling:  # and kept on disk, as for any target
                compiled = runtime._object_code(repr((name, to, *parameters)), build, to)
            objects = [library.with_suffix(f".{n}.o") for n, _ in enumerate(parted(compiled))]
            for file, part in zip(objects, parted(compiled), strict=True):
                file.write_bytes(part)
            _run(COMPILER, "-shared", "-nostdlib", "-Wl,-z,defs", "-o", library, *objects)
            first = len(self.lines)
            self.lines += [f"{library} {kernel}" for kernel in kernels]
            self._codes[key] = runtime.Code({kernel: first + n for n, kernel in enumerate(kernels)})
        return self._codes[key]

    def _emulate(self, *files: Path) -> None:
        """Have the harness do a job. One that fails has ended, and the next job is done by a new one."""
        if self._emulator is None:
            words = [EMULATOR, "-L", LIBRARIES, str(self.harness), *map(str, files)]
            with (self.folder / "errors").open("w") as errors:
                self._emulator = subprocess.Popen(
                    words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
                )
        assert self._emulator.stdin is not None
        assert self._emulator.stdout is not None
        alarm = threading.Timer(120, self._emulator.kill)
        alarm.start()
        self._emulator.stdin.write("\n")
        self._emulator.stdin.flush()
        said = self._emulator.stdout.readline()
        alarm.cancel()
        if said != "done\n":
            self.stop()
            raise AssertionError("the harness has ended without a result")

    def stop(self) -> None:
        """Let the harness end, which must have nothing to say."""
        if self._emulator is not None:
            emulator, self._emulator = self._emulator, None
            emulator.communicate(timeout=120)
            said = (self.folder / "errors").read_text()
            assert emulator.returncode == 0, f"{EMULATOR} ended with {emulator.returncode}: {said}"

    def run(self, prepared: Prepared, each_packs: bool, **given: tuple[Array, Array]) -> None:
        """Run the pass, with the weights packed first, or by each thread for itself. `given` names its buffers: memory,
        which is changed in place, and the view of it that is the tensor. Work memory begins as NaN, and what lies
        behind it must stay so."""
        program = prepared.compute.preceded_by(prepared.weights.steps, prepared.weights.work_bytes)
        if each_packs:
            assert prepared.unpacked is not None
            program = prepared.unpacked
        nan, size = np.full(8, np.nan), {"work": program.work_bytes, "packed": prepared.packed_bytes}
        for name, length in size.items():
            memory = np.full(-(-length // 8) + nan.size, np.nan)
            given[name] = (memory, memory)
        given["zeros"] = (prepared.zeros.copy(),) * 2

        block = program.block
        system_call = block[team._HEADER.index("team")] + team._TEAM["system_call"]
        sizes = (len(team._HEADER), len(team._PHASE), team._HEADER.index("phases"), system_call, block.size)
        job = [np.array(sizes, np.int64), block]
        job.append(np.array([len(team.BUFFERS)], np.int64))
        nothing = (np.empty(0),) * 2
        buffers = [given.get(name, nothing) for name in team.BUFFERS]
        for memory, view in buffers:
            job += [np.array([memory.nbytes, _address(view) - _address(memory)], np.int64), memory]
        kernels, job_file, result = (self.folder / name for name in ("kernels", "job", "result"))
        kernels.write_text("\n".join(self.lines))
        job_file.write_bytes(b"".join(part.tobytes() for part in job))
        self._emulate(kernels, job_file, result)

        content = np.fromfile(result, np.uint8)
        for memory, _ in buffers:
            memory.view(np.uint8)[:] = content[: memory.nbytes]
            content = content[memory.nbytes :]
        for name in size:
            assert given[name][0][-nan.size :].tobytes() == nan.tobytes(), f"something was written behind {name!r}"


def _address(array: Array) -> int:
    return int(array.__array_interface__["data"][0])


def _run(*command: str | Path) -> None:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"{command[0]} ended with {done.returncode}: {done.stderr}"
