"""Whatever lies under the names of the code cache's entries: what is not whole is never executed, and is made again."""

from __future__ import annotations

import ctypes
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convforge.native import runtime, target
from convforge.native.ir import I64, Arguments, kernel

from .conftest import Soak

IN_TIME = 120
"""Seconds for a process that should be done in one: only what hangs is to be found."""


def doubling(module: Any) -> None:
    """The smallest kernel that shows that it ran: its second number is twice the first."""
    f, _ = kernel(module, "double", "float32", Arguments(""))
    block = f.pointer("arguments", I64)
    block.at(1).put((block.at(0).integer() * 2).value)
    f.done()


def tripling(module: Any) -> None:
    f, _ = kernel(module, "double", "float32", Arguments(""))
    block = f.pointer("arguments", I64)
    block.at(1).put((block.at(0).integer() * 3).value)
    f.done()


class Cache:
    """The code cache of a folder, as a process that has just begun sees it; counts what it compiles."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CONVFORGE_CACHE", str(folder))
        self.folder, self.compiled, self.loaded = folder, 0, list[bytes]()
        compile_parts, load = runtime.compile_parts, runtime._load

        def compiling(*arguments: Any) -> bytes:
            self.compiled += 1
            return compile_parts(*arguments)

        def loading(object_code: bytes, kernels: Any) -> runtime.Code:
            self.loaded.append(object_code)
            return load(object_code, kernels)

        monkeypatch.setattr(runtime, "compile_parts", compiling)
        monkeypatch.setattr(runtime, "_load", loading)
        self._forget: Callable[[], None] = lambda: monkeypatch.setattr(runtime, "_compiled", {})

    def run(self, build: Callable[[Any], None] = doubling, of: int = 21) -> int:
        """What a new process would compute; it asks for `build` under its own name."""
        self._forget()
        numbers = np.array([of, -1], np.int64)
        code = runtime.code(build.__name__, build, ["double"], target.current())
        ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)(code["double"])(
            numbers.ctypes.data, 0, 1
        )
        return int(numbers[1])


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    return Cache(tmp_path / "code", monkeypatch)


@pytest.fixture
def entry(cache: Cache) -> Path:
    """The entry of a kernel, written by a first process."""
    assert cache.run() == 42
    (path,) = cache.folder.glob("*.o")
    assert cache.run() == 42
    assert cache.compiled == 1
    return path


def made_again(cache: Cache, entry: Path, whole: bytes) -> None:
    """The result is right, the only code that was loaded is the whole one, and that has taken its place again."""
    before = cache.compiled
    cache.loaded.clear()
    assert cache.run() == 42
    assert cache.compiled == before + 1, "it was believed"
    assert cache.loaded == [whole[32:]]
    assert entry.read_bytes() == whole
    assert cache.run() == 42
    assert cache.compiled == before + 1, "it was not kept"


def test_flipped_bits(cache: Cache, entry: Path, soak: Soak) -> None:
    whole, choose = entry.read_bytes(), random.Random(soak.length(1, random.randrange(10**9)))
    for n in range(soak.length(60, 4000)):
        position, bit = choose.randrange(len(whole)), choose.randrange(8)
        if n < 32:
            position = n  # the hash itself
        with soak.case(f"bit {bit} of byte {position} of {len(whole)}"):
            damaged = bytearray(whole)
            damaged[position] ^= 1 << bit
            entry.write_bytes(damaged)
            made_again(cache, entry, whole)


def test_every_length(cache: Cache, entry: Path, soak: Soak) -> None:
    """Cut short, filled up with zeros as after a power failure, and longer."""
    whole = entry.read_bytes()
    lengths = {0, 1, 31, 32, 33, 40, len(whole) - 1, *range(0, len(whole), soak.length(400, 7))}
    for length in sorted(lengths):
        for what, content in (
            ("cut", whole[:length]),
            ("zeros from", whole[:length] + bytes(len(whole) - length)),
            ("longer by", whole + bytes(length + 1)),
        ):
            if content == whole:  # which ends with zeros
                continue
            with soak.case(f"{what} {length}"):
                entry.write_bytes(content)
                made_again(cache, entry, whole)


def test_code_of_another_kernel(cache: Cache, entry: Path, soak: Soak) -> None:
    """Whole entries with whole code, that compute something else."""
    assert cache.run(tripling) == 63
    (other,) = (path for path in cache.folder.glob("*.o") if path != entry)
    whole, foreign = entry.read_bytes(), other.read_bytes()
    contents = {
        "another entry": foreign,
        "another's code under its own hash": whole[:32] + foreign[32:],
        "its own code under another's hash": foreign[:32] + whole[32:],
        "another's code alone": foreign[32:],
    }
    for what, content in contents.items():
        with soak.case(what):
            entry.write_bytes(content)
            made_again(cache, entry, whole)
    for what, link in (("symbolic", os.symlink), ("hard", os.link)):
        with soak.case(f"{what} link to another entry"):
            entry.unlink()
            link(other, entry)
            made_again(cache, entry, whole)
            assert other.read_bytes() == foreign, "it wrote through the link"


def test_links_to_files_elsewhere(cache: Cache, entry: Path, soak: Soak, tmp_path: Path) -> None:
    """What they lead to is neither executed nor written."""
    whole, elsewhere = entry.read_bytes(), tmp_path / "elsewhere"
    for what, link in (("symbolic", os.symlink), ("hard", os.link)):
        for content, mode in ((b"not code", 0o600), (whole[:-1], 0o600), (whole, 0o666), (b"", 0o400)):
            with soak.case(f"{what} link to {len(content)} bytes that are {mode:o}"):
                elsewhere.write_bytes(content)
                elsewhere.chmod(mode)
                entry.unlink()
                link(elsewhere, entry)
                made_again(cache, entry, whole)
                assert elsewhere.read_bytes() == content
                elsewhere.unlink()
    with soak.case("link to nothing"):
        entry.unlink()
        entry.symlink_to(elsewhere)
        made_again(cache, entry, whole)
        assert not elsewhere.exists()


def _folder(path: Path) -> None:
    path.mkdir()
    (path / "with a file").touch()


def _socket(path: Path) -> None:
    import socket

    here = Path.cwd()
    os.chdir(path.parent)  # a socket's name may have 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind("socket")
    finally:
        os.chdir(here)
    (path.parent / "socket").rename(path)


def _enormous(path: Path) -> None:
    """A hole of a terabyte, which takes no room on disk."""
    with open(path, "wb") as file:
        file.truncate(1 << 40)


ODD: dict[str, Callable[[Path], None]] = {
    "a folder": _folder,
    "a pipe": lambda path: os.mkfifo(path),
    "a link to a pipe": lambda path: (os.mkfifo(path.parent.parent / path.stem), path.symlink_to(f"../{path.stem}"))[1],
    "a link to itself": lambda path: path.symlink_to(path),
    "a link to its folder": lambda path: path.symlink_to(path.parent),
    "a link to /dev/zero": lambda path: path.symlink_to("/dev/zero"),
    "a link to a terminal": lambda path: path.symlink_to("/dev/tty"),
    "a socket": _socket,
    "a terabyte of zeros": _enormous,
}

ALONE = """
import sys
sys.path.insert(0, sys.argv[1])
import pytest
from pathlib import Path
from soak.test_code_cache import Cache
with pytest.MonkeyPatch.context() as patch:
    cache = Cache(Path(sys.argv[2]), patch)
    print(cache.run(), cache.compiled)
"""


def alone(folder: Path) -> tuple[int, int]:
    """Result and number of compilations of a process that must not hang or be killed for its memory."""
    environment = os.environ | {"CONVFORGE_CACHE": str(folder)}
    arguments = [sys.executable, "-c", ALONE, str(Path(__file__).parents[1]), str(folder)]
    try:
        done = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=IN_TIME, check=False)
    except subprocess.TimeoutExpired:
        raise AssertionError("it hangs") from None
    assert done.returncode == 0, done.stderr[-1000:]
    result, compiled = map(int, done.stdout.split())
    return result, compiled


@pytest.mark.skipif(sys.platform != "linux", reason="pipes, sockets and devices")
def test_what_is_no_file(cache: Cache, entry: Path, soak: Soak) -> None:
    whole = entry.read_bytes()
    for what in soak.length(("a pipe", "a terabyte of zeros"), tuple(ODD)):
        with soak.case(what):
            entry.unlink()
            ODD[what](entry)
            assert alone(cache.folder) == (42, 1)
            left = {path.name for path in cache.folder.iterdir()} - {"cpus.json"}
            assert left == {entry.name}, "no temporary file is left"
            if what == "a folder":  # which nobody wants removed with all that is in it
                assert [path.name for path in entry.iterdir()] == ["with a file"]
                shutil.rmtree(entry)
                assert alone(cache.folder) == (42, 1)
            assert entry.read_bytes() == whole


def test_entries_that_are_damaged_while_they_are_read(cache: Cache, entry: Path, soak: Soak) -> None:
    """One thread damages, cuts, removes and mends the file, in place; the others read it, and some write it."""
    whole, stop = entry.read_bytes(), threading.Event()
    found = runtime._Entry(entry)
    choose = random.Random(3)

    def damage() -> None:
        while not stop.is_set():
            content = bytearray(whole)
            content[choose.randrange(len(whole))] ^= 1 << choose.randrange(8)
            what = choose.randrange(4)
            if what == 0:
                entry.write_bytes(content)
            elif what == 1:
                entry.write_bytes(whole[: choose.randrange(len(whole))])
            elif what == 2:
                entry.unlink(missing_ok=True)
            else:
                entry.write_bytes(whole)

    damaging = threading.Thread(target=damage)
    damaging.start()
    try:
        seen = {"whole": 0, "nothing": 0}
        for n in range(soak.length(3000, 200_000)):
            with soak.case(f"read {n}"):
                content = found.read()
                assert content in (None, whole[32:])
                seen["nothing" if content is None else "whole"] += 1
            if n % 50 == 0:
                found.write(whole[32:])
        assert min(seen.values()) > 0, seen
    finally:
        stop.set()
        damaging.join()
    assert cache.run() == 42


WRITER = """
import os, sys
from pathlib import Path
from convforge.native import runtime
entry = runtime._Entry(Path(sys.argv[1]))
print(flush=True)
content = os.urandom(16 << 20)
while True:
    entry.write(content)
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_writers_that_are_killed(cache: Cache, entry: Path, soak: Soak) -> None:
    """What they leave under the name is whole; what they leave beside it is removed when it is old."""
    choose, other = random.Random(5), entry.with_name("0" * 64 + ".o")
    environment = os.environ | {"CONVFORGE_CACHE": str(cache.folder)}
    for n in range(soak.length(3, 60)):
        with soak.case(f"writer {n}"):
            writer = subprocess.Popen(
                [sys.executable, "-c", WRITER, str(other)], env=environment, stdout=subprocess.PIPE
            )
            assert writer.stdout is not None
            writer.stdout.readline()
            time.sleep(choose.uniform(0.01, 0.2))
            writer.send_signal(signal.SIGKILL)
            writer.communicate()
            if other.exists():
                content = runtime._Entry(other).read()
                assert content is not None, "it is not whole"
                assert len(content) == 16 << 20
    left = [path for path in cache.folder.iterdir() if path.suffix not in (".o", ".json")]
    soak.figure("files that killed writers left", len(left))
    # a copy of one of them, new, as if a writer were at it
    if left:
        (cache.folder / left[0].name.replace(left[0].name[:4], "zzzz", 1)).write_bytes(b"half of it")
    for path in left:
        os.utime(path, (time.time() - 7 * 86400,) * 2)
    with soak.case("a later process"):
        entry.unlink()
        assert alone(cache.folder) == (42, 1)
        still = [path.name for path in left if path.exists()]
        assert not still, "files a week old are still there"
        if left:
            assert any(path.name.startswith("zzzz") for path in cache.folder.iterdir()), "a writer's file was removed"


def test_processes_that_damage_and_use_one_folder(cache: Cache, entry: Path, soak: Soak) -> None:
    """Each process computes what it should, whatever the others' entries look like at that moment."""
    environment = os.environ | {"CONVFORGE_CACHE": str(cache.folder)}
    arguments = [sys.executable, "-c", ALONE, str(Path(__file__).parents[1]), str(cache.folder)]
    choose, whole = random.Random(7), entry.read_bytes()
    for n in range(soak.length(1, 20)):
        with soak.case(f"round {n}"):
            together = [
                subprocess.Popen(arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
                for _ in range(3)
            ]
            while any(process.poll() is None for process in together):
                damaged = bytearray(whole)
                damaged[choose.randrange(len(whole))] ^= 1
                entry.write_bytes(damaged)
                time.sleep(0.005)
            for process in together:
                said, complaint = process.communicate(timeout=IN_TIME)
                assert process.returncode == 0, complaint[-1000:]
                assert said.split()[0] == "42"
    entry.unlink()
    assert alone(cache.folder) == (42, 1)
    assert entry.read_bytes() == whole
