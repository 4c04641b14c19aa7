"""Compiled code on disk: found again, never believed when damaged, never taken from where others can write."""

from __future__ import annotations

import os
import platform
import re
import shutil
import stat
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
from processes import CROWDED, SWEEP, answer, python, sweep

from convforge import disk
from convforge.native import runtime, target
from convforge.native.target import current

# Counts what is compiled and what is loaded while a program convolves.
PROGRAM = """
import json, sys
import numpy as np
from convforge import Conv2dSpec, disk, engine
from convforge.native import runtime

compiled, loaded, compile_parts, load = [], [], runtime.compile_parts, runtime._load
def counting_compile(*arguments):
    compiled.append(compile_parts(*arguments))
    return compiled[-1]
def counting_load(object_code, kernels):
    loaded.append(object_code)
    return load(object_code, kernels)
runtime.compile_parts, runtime._load = counting_compile, counting_load
spec = Conv2dSpec(3, 20, 3, padding=1)
x, w = np.ones((1, 3, 9, 9), np.float32), np.ones((20, 3, 3, 3), np.float32)
y = engine.conv2d(x, w, None, spec, threads=2)
dw = engine.weight_gradient(x, y, spec, threads=2)
llvm = "llvmlite.binding" in sys.modules
print(json.dumps({"compiled": len(compiled), "loaded": len(loaded), "llvm": llvm, "y": float(y.sum()),
                  "dw": float(dw.sum()), "folder": str(disk.cache_folder())}))
"""
Y = 20 * 3 * 25.0**2  # ones convolved with ones: the taps that meet the 9×9 image, summed over the image


def run(folder: Path) -> dict[str, object]:
    found: dict[str, object] = answer("-c", PROGRAM, CONVFORGE_CACHE=str(folder))
    assert found["y"] == Y
    return found


@pytest.fixture(scope="module")
def first_filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder as a first process has filled it, which no test touches."""
    folder = tmp_path_factory.mktemp("filled") / "code"
    first = run(folder)
    assert first["compiled"] == first["loaded"] == len(list(folder.glob("*.o"))) > 0
    return folder


@pytest.fixture
def filled(first_filled: Path, tmp_path: Path) -> Path:
    """A cache folder that a first process has filled: a copy of it, with its modes and times."""
    return Path(shutil.copytree(first_filled, tmp_path / "code"))


def test_a_second_process_compiles_nothing(filled: Path) -> None:
    again = run(filled)
    assert again["compiled"] == 0
    assert again["loaded"] == len(list(filled.glob("*.o")))


@pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="elsewhere it is LLVM that links what is on disk"
)
def test_a_second_process_does_without_llvm(filled: Path) -> None:
    """Which would take 50 MB of its memory."""
    assert run(filled)["llvm"] is False
    (filled / "cpus.json").write_text("{}")
    assert run(filled)["llvm"] is True, "it is asked what the CPU is"
    assert run(filled)["llvm"] is False


@pytest.mark.parametrize("table", ["[]", '{"x', "{KEY: 3}", "{KEY: {}}", '{KEY: {"znver3": {"avx2": 1}}}'])
def test_a_damaged_table_of_cpus_is_not_believed(table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = target._host.__wrapped__()
    monkeypatch.setenv("CONVFORGE_CACHE", str(tmp_path))
    tmp_path.chmod(0o700)
    (tmp_path / "cpus.json").write_text(table.replace("KEY", f'"{target._cpu()}"'))
    (tmp_path / "cpus.json").chmod(0o600)
    assert target._host.__wrapped__() == target._host.__wrapped__() == known


def test_the_folder_and_its_entries_are_for_their_owner(filled: Path) -> None:
    assert stat.S_IMODE(filled.stat().st_mode) == 0o700
    for entry in filled.iterdir():
        assert not entry.stat().st_mode & 0o077
        assert entry.suffix == ".o" or entry.name == "cpus.json"


def _flip(entry: Path, position: int) -> None:
    content = bytearray(entry.read_bytes())
    content[position] ^= 1
    entry.write_bytes(content)


DAMAGE = {
    "first byte flipped": lambda entry: _flip(entry, 0),
    "middle byte flipped": lambda entry: _flip(entry, entry.stat().st_size // 2),
    "last byte flipped": lambda entry: _flip(entry, -1),
    "truncated": lambda entry: entry.write_bytes(entry.read_bytes()[:-100]),
    "longer": lambda entry: entry.write_bytes(entry.read_bytes() + b"\0"),
    "hash only": lambda entry: entry.write_bytes(entry.read_bytes()[:32]),
    "empty": lambda entry: entry.write_bytes(b""),
    "text": lambda entry: entry.write_text("not code"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_entry_is_compiled_again_and_never_loaded(damage: str, filled: Path) -> None:
    entries = sorted(filled.glob("*.o"))
    whole = {entry: entry.read_bytes() for entry in entries}
    for entry in entries:
        DAMAGE[damage](entry)
    again = run(filled)
    assert again["compiled"] == again["loaded"] == len(entries)
    assert {entry: entry.read_bytes() for entry in entries} == whole, "the entries are whole again"


def test_another_entrys_content_under_an_entrys_name_is_not_loaded(filled: Path) -> None:
    entries = sorted(filled.glob("*.o"))
    contents = [entry.read_bytes() for entry in entries]
    for entry, other in zip(entries, contents[1:] + contents[:1], strict=True):
        entry.write_bytes(other)
    assert run(filled)["compiled"] == len(entries)


def test_an_entry_that_others_can_write_is_not_loaded(filled: Path) -> None:
    entries = sorted(filled.glob("*.o"))
    for entry in entries:
        entry.chmod(0o666)
    assert run(filled)["compiled"] == len(entries)


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o1777])
def test_a_folder_that_others_can_write_is_not_used(mode: int, filled: Path) -> None:
    before = {entry.name: entry.stat().st_mtime_ns for entry in filled.glob("*.o")}
    filled.chmod(mode)
    again = run(filled)
    assert again["folder"] == "None"
    assert again["compiled"] == len(before)
    assert before == {entry.name: entry.stat().st_mtime_ns for entry in filled.glob("*.o")}


def test_a_folder_of_someone_else_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVFORGE_CACHE", str(tmp_path))
    tmp_path.chmod(0o700)
    assert disk.cache_folder() == tmp_path
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    assert disk.cache_folder() is None


def test_a_folder_that_cannot_be_written_is_read(filled: Path) -> None:
    filled.chmod(0o500)
    try:
        assert run(filled)["compiled"] == 0
    finally:
        filled.chmod(0o700)


def test_where_nothing_can_be_written_everything_still_runs(tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("a file, not a folder")
    assert run(in_the_way / "code")["folder"] == "None"
    assert run(in_the_way)["folder"] == "None"


def test_a_full_disk_leaves_no_half_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVFORGE_CACHE", str(tmp_path))
    tmp_path.chmod(0o700)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    entry = runtime._Entry.named("some key")
    assert entry is not None
    for step in ("os.replace", "tempfile.mkstemp"):
        with monkeypatch.context() as patch:
            patch.setattr(step, full)
            entry.write(b"code")
        assert list(tmp_path.iterdir()) == []
    entry.write(b"code")
    assert entry.read() == b"code"


def test_entries_depend_on_everything_that_the_code_depends_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVFORGE_CACHE", str(tmp_path))
    tmp_path.chmod(0o700)
    names = {runtime._Entry.named(key).path for key in ("one", "two")}  # type: ignore[union-attr]
    for what, value in (("targets.llvm_version", lambda: ("0.0", 0)), ("_SOURCE_HASH", "other source")):
        with monkeypatch.context() as patch:
            patch.setattr(f"convforge.native.runtime.{what}", value)
            names.add(runtime._Entry.named("one").path)  # type: ignore[union-attr]
    assert len(names) == 4


def test_code_depends_on_the_source_of_every_room_that_writes_any() -> None:
    """Or a new version would run what an older one has left on disk."""
    package = Path(runtime.__file__).parents[1]
    writers = [path for path in package.rglob("*.py") if re.search(r"import llvmlite|\bir import", path.read_text())]
    outside = [path for path in writers if not any(path.is_relative_to(package / folder) for folder in runtime.WRITERS)]
    assert len(writers) > 20
    assert not outside


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names on this system")
def test_pipes_folders_and_loops_in_the_place_of_entries(filled: Path) -> None:
    entries = sorted(filled.glob("*.o"))
    for n, entry in enumerate(entries):
        entry.unlink()
        if n % 3 == 0:
            os.mkfifo(entry)
        elif n % 3 == 1:
            entry.mkdir()
        else:
            entry.symlink_to(entry)
    os.mkfifo(filled / "choices.json")
    assert run(filled)["compiled"] == len(entries)
    assert all(entry.is_file() for n, entry in enumerate(entries) if n % 3 != 1)


def test_what_killed_writers_left_is_removed(filled: Path) -> None:
    old, new, other = filled / "convforge-a.part", filled / "convforge-b.part", filled / "holiday.mp4.part"
    for left in (old, new, other):
        left.write_bytes(b"half of it")
    os.utime(old, (0, 0))
    os.utime(other, (0, 0))
    for entry in list(filled.glob("*.o"))[:1]:
        entry.unlink()
    run(filled)
    assert not old.exists()
    assert new.exists(), "somebody may be writing it at this moment"
    assert other.exists(), "it is not ours"


def test_reading_an_entry_takes_the_memory_of_the_entry(tmp_path: Path) -> None:
    """And not of the largest that there may be, which a full address space has no room for."""
    entry = tmp_path / "entry"
    disk.write_ours(entry, b"code" * 1000)
    tracemalloc.start()
    try:
        assert disk.read_ours(entry, 256 << 20) == b"code" * 1000
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_what_cannot_be_loaded_says_why_though_memory_errors_are_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> bytes:
        raise MemoryError

    monkeypatch.setattr(runtime, "_object_code", full)
    with pytest.raises(runtime.CannotLoad, match=r"memory is exhausted"):
        runtime.code("a kernel that only this test asks for", lambda _: None, [], current())


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc/self/maps and MAP_FIXED_NOREPLACE")
def test_code_is_loaded_wherever_memory_is_free(tmp_path: Path) -> None:
    """Compiled, and then read from disk, in an address space of holes that are further apart than 32 bits reach."""
    for _ in range(2):
        done = python(str(CROWDED), CONVFORGE_CACHE=str(tmp_path / "code"))
        assert (done.returncode, done.stdout.split()) == (0, ["right"]), done.stderr


def test_targets_share_a_folder(tmp_path: Path) -> None:
    """What one target left is not run by another."""
    folder = str(tmp_path / "code")
    for name in ("baseline", "", "baseline"):
        assert sweep(10, 3, CONVFORGE_TARGET=name, CONVFORGE_CACHE=folder)["right"] == 10


def test_processes_that_fill_an_empty_folder_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "code"
    environment = os.environ | {"CONVFORGE_CACHE": str(folder), "OMP_NUM_THREADS": "1"}
    together = [
        subprocess.Popen(
            [sys.executable, str(SWEEP), "10", str(seed)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for seed in range(4)
    ]
    for process in together:
        _, complaint = process.communicate(timeout=300)
        assert process.returncode == 0, complaint.decode()
    assert {entry.suffix for entry in folder.iterdir()} <= {".o", ".json"}, "no temporary file is left"
    assert answer("-c", PROGRAM, CONVFORGE_CACHE=str(folder))["compiled"] == 0
