"""`convforge predict --out`: each name once, on this machine and on a Ray cluster of it of which a worker is killed.

The command itself is killed in tests/soak/test_scale.py."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep

import numpy as np
import pytest
import torch
from PIL import Image

from convforge import load
from convforge.errors import UserError
from convforge.many import results
from convforge.many.sources import pieces
from convforge.models.checkpoint import Architecture, save

pa = pytest.importorskip("pyarrow", reason="answers are written with pyarrow")
from pyarrow import parquet  # noqa: E402  (which may not be there)

CLASSES = ("cat", "dog")
ALONE = results.Share()


def png(number: int) -> bytes:
    page = io.BytesIO()
    Image.fromarray(np.random.default_rng(number).integers(0, 256, (12, 12), np.uint8)).save(page, "png")
    return page.getvalue()


def shard(path: Path, numbers: range) -> Path:
    with tarfile.open(path, "w") as tar:
        for number in numbers:
            for ending, content in (("png", png(number)), ("cls", b"0")):
                entry = tarfile.TarInfo(f"{number:05}.{ending}")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    return path


@pytest.fixture
def network(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    architecture = Architecture("vgg", {"widths": [4], "convs": 1}, CLASSES, (1, 8, 8), mean=(0.5,), std=(0.25,))
    save(tmp_path / "pets", architecture.build(), architecture)
    return tmp_path / "pets"


@pytest.fixture
def inputs(tmp_path: Path) -> list[str]:
    """A folder, a list, two shards, a table: 40 images, of which one is torn, one is not there; and a torn shard."""
    (tmp_path / "photos" / "more").mkdir(parents=True)
    for number in range(8):
        (tmp_path / "photos" / ("more" if number % 2 else "") / f"{number}.png").write_bytes(png(number))
    (tmp_path / "photos" / "torn.png").write_bytes(png(0)[:50])
    listed = [str(tmp_path / "photos" / "0.png"), str(tmp_path / "gone.png")]
    (tmp_path / "list.txt").write_text("\n".join(listed) + "\n")
    (tmp_path / "shards").mkdir()
    shard(tmp_path / "shards" / "a.tar", range(10, 20))
    (tmp_path / "shards" / "b.tar").write_bytes(shard(tmp_path / "whole.tar", range(20, 30)).read_bytes()[:9000])
    rows = [{"bytes": png(number), "path": f"{number}.png"} for number in range(30, 40)]
    parquet.write_table(pa.table({"image": rows, "label": list(range(10))}), tmp_path / "table.parquet")
    return [str(tmp_path / name) for name in ("photos", "list.txt", "shards", "table.parquet")]


def rows(out: Path) -> dict[str, tuple[str | None, float | None, bool]]:
    """Class, probability and whether there is a reason, by name; each name must be there once."""
    table = parquet.read_table(out).to_pylist()
    assert len({row["image"] for row in table}) == len(table)
    return {row["image"]: (row["class"], row["probability"], row["error"] is not None) for row in table}


def convforge(*words: str, **environment: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "convforge", "predict", *words]
    return subprocess.Popen(command, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def answered(network: Path, inputs: list[str], out: Path, share: results.Share = ALONE, files: int = 4) -> None:
    results.begin(out, network, 1)
    results.write(load(network, threads=1), pieces(inputs), out, 1, share, rows=files)


def test_every_kind_of_input_is_answered_as_predict_answers(network: Path, inputs: list[str], tmp_path: Path) -> None:
    answered(network, inputs, tmp_path / "out")
    found = rows(tmp_path / "out")
    unread = sorted(Path(name).name for name, (_, _, failed) in found.items() if failed)
    assert unread == ["b.tar", "gone.png", "torn.png"]
    # Of the torn shard what comes before the tear is answered.
    names = [Path(name).name for name in found]
    assert len(names) == 8 + 2 + 10 + 10 + 1 + sum("b.tar/" in name for name in found)
    assert 0 < sum("b.tar/" in name for name in found) < 10
    model = load(network)
    for number in (0, 7, 10, 19, 35):
        (tmp_path / "one.png").write_bytes(png(number))
        said, share = model.predict(tmp_path / "one.png", 1)[0].ranking[0]
        name = next(name for name in found if Path(name).stem in (f"{number}", f"{number:05}"))
        assert found[name] == (said, pytest.approx(share, abs=1e-6), False)


def test_what_whole_files_hold_is_not_answered_again(network: Path, inputs: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    answered(network, inputs, out)
    whole, files = rows(out), sorted(out.glob("*.parquet"))
    before = {file.name: file.stat().st_mtime_ns for file in files}
    files[1].unlink()
    files[2].write_bytes(files[2].read_bytes()[:100])  # as Ray leaves a file whose writer is killed
    (out / ".part-x.parquet-1.part").write_bytes(b"begun")  # and we
    answered(network, inputs, out)
    assert rows(out) == whole
    assert not (out / ".part-x.parquet-1.part").exists()
    for file in files[3:]:
        assert file.stat().st_mtime_ns == before[file.name]


def test_processes_share_an_input(network: Path, inputs: list[str], tmp_path: Path) -> None:
    answered(network, inputs, tmp_path / "alone")
    for number in (1, 0, 2):
        answered(network, inputs, tmp_path / "out", results.Share(number, 3))
    assert rows(tmp_path / "out") == rows(tmp_path / "alone")


def test_answers_of_another_network_are_not_added_to(network: Path, inputs: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    answered(network, inputs, out)
    with pytest.raises(UserError, match="another --top"):
        results.begin(out, network, 2)
    results.begin(out, network, 2, force=True)
    assert not list(out.glob("*.parquet"))
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").touch()
    with pytest.raises(UserError, match="other files"):
        results.begin(tmp_path / "notes", network, 1, force=True)
    with pytest.raises(UserError, match="is a file"):
        results.begin(tmp_path / "notes" / "mine.txt", network, 1)


def _wait(process: subprocess.Popen[bytes], until: Callable[[], bool]) -> None:
    end = monotonic() + 900
    while not until():
        assert process.poll() is None, process.communicate()[0]
        assert monotonic() < end
        sleep(0.005)


def test_ray_answers_the_same_though_a_worker_and_the_command_are_killed(
    network: Path, inputs: list[str], tmp_path: Path
) -> None:
    # Some 60 s: two clusters are begun, whose processes import torch, and of the first one another one is needed. What
    # is left of that cluster must write nothing while the second one does.
    pytest.importorskip("ray.data", reason="Ray is not installed: pip install 'convforge[ray]'")
    for part in range(4):
        inputs.append(str(shard(tmp_path / f"many {part}.tar", range(1000 * part, 1000 * (part + 1)))))
    answered(network, inputs, tmp_path / "alone", files=500)
    out = tmp_path / "out"
    actors: list[int] = []
    with tempfile.TemporaryDirectory() as short:  # the paths of its sockets must not be long
        process = convforge(str(network), *inputs, "--out", str(out), "--ray", RAY_TMPDIR=short)
        _wait(process, lambda: bool(actors.extend(_actors(process.pid)) or actors))
        os.kill(actors[0], signal.SIGKILL)
        _wait(process, lambda: bool(results.answered(out, alone=False)))  # a whole file: Ray writes them in place
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()  # what Ray has begun may keep its other end open
    before = len(results.answered(out))
    with tempfile.TemporaryDirectory() as short:
        process = convforge(str(network), *inputs, "--out", str(out), "--ray", RAY_TMPDIR=short)
        said, _ = process.communicate(timeout=900)
    assert process.returncode == 2, said  # some cannot be read
    alone, found = rows(tmp_path / "alone"), rows(out)
    assert 0 < before < len(found)
    assert found.keys() == alone.keys()
    for name, (said_class, share, failed) in alone.items():
        assert found[name] == (said_class, share and pytest.approx(share, abs=1e-6), failed)


def _actors(pid: int) -> list[int]:
    """Ray's processes of this cluster that hold the network: they have named themselves after our class."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "cmdline").read_bytes()
            if b"_Actor" in words and words.startswith(b"ray::") and _is_below(int(place.name), pid):
                found.append(int(place.name))
        except OSError:
            continue
    return found


def _is_below(pid: int, ancestor: int) -> bool:
    while pid > 1:
        if pid == ancestor:
            return True
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return False
