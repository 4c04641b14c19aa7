"""Hostile image files: each is a picture or one sentence, and takes no more memory than it may."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convforge.images.read import MOST_BYTES_OF_ONE

from .conftest import Soak

# Reads each file as a thumbnail, a picture and a network's input are read; says what came of it, and the most memory
# that it took. Writing 5 there begins the measurement of the peak anew.
_OPEN = """
import json, sys
from pathlib import Path
from convforge.errors import UserError
from convforge.images.read import image_shape, read_image
def status(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))
for name in sys.stdin:
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    try:
        path = json.loads(name)
        image_shape(path)
        said = [read_image(path, channels, (side, side)).shape for channels, side in ((3, 64), (3, 800), (1, 224))]
    except UserError as mistake:
        said = str(mistake)
    print(json.dumps([said, status("VmHWM") - before]), flush=True)
"""
_PICTURE = [[3, 64, 64], [3, 800, 800], [1, 224, 224]]


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims a size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def odd_files(generator: np.random.Generator) -> dict[str, bytes]:
    """One of each kind that is not an ordinary photograph."""
    noise = Image.fromarray(generator.integers(0, 256, (60, 80, 3), np.uint8))
    frames = [Image.fromarray(generator.integers(0, 256, (60, 80, 3), np.uint8)) for _ in range(4)]
    exif = Image.Exif()
    exif[0x0112] = 6
    files = {
        "empty.png": b"",
        "zeros.png": bytes(5000),
        "jpeg in truth.png": encoded(noise, "JPEG"),
        "png in truth.gif": encoded(noise, "PNG"),
        "text.jpg": b"not a picture",
        "animated.gif": encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "animated.webp": encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:]),
        "animated.png": encoded(frames[0], "PNG", save_all=True, append_images=frames[1:]),
        "cmyk.jpg": encoded(noise.convert("CMYK"), "JPEG"),
        "cmyk.tif": encoded(noise.convert("CMYK"), "TIFF"),
        "progressive.jpg": encoded(noise, "JPEG", progressive=True),
        "deep.png": encoded(Image.fromarray(generator.integers(0, 65536, (60, 80), np.uint16)), "PNG"),
        "floats.tif": encoded(Image.fromarray(generator.random((60, 80), np.float32)), "TIFF"),
        "clear palette.png": encoded(noise.quantize(16), "PNG", transparency=bytes(range(16))),
        "one clear colour.gif": encoded(noise.quantize(16), "GIF", transparency=3),
        "bits.png": encoded(noise.convert("1"), "PNG"),
        "turned.jpg": encoded(noise, "JPEG", exif=exif),
        "broken exif.jpg": encoded(noise, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\xee" * 30),
        "broken exif.png": encoded(noise, "PNG", exif=b"MM\0*\0\0\0\x08\xff\xff"),
        "one row.png": encoded(Image.new("RGB", (60_000, 1)), "PNG"),
        "one column.png": encoded(Image.new("RGBA", (1, 60_000)), "PNG"),
        "one pixel.png": encoded(Image.new("L", (1, 1)), "PNG"),
        "bomb.png": bomb(100_000, 100_000),
        "nearly a bomb.png": bomb(9_459, 9_459),
        "a long row.png": bomb(80_000_000, 1),
        "layers.tif": encoded(frames[0], "TIFF", save_all=True, append_images=frames[1:]),
        "\x1b[31m\u202e.png": encoded(noise, "PNG"),
        "-rf.png": encoded(noise, "PNG"),
        "a" * 240 + ".png": encoded(noise, "PNG"),
        os.fsdecode(b"caf\xe9.png"): b"torn",
    }
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "JPEG2000"):
        whole = encoded(noise, kind)
        for kept in (0.1, 0.5, 0.95):
            files[f"{kind} {kept} of it.png"] = whole[: int(len(whole) * kept)]
    return files


def mutated(generator: np.random.Generator, count: int) -> dict[str, bytes]:
    """Files with some bytes changed, some taken out, some put in."""
    noise = Image.fromarray(generator.integers(0, 256, (24, 32, 3), np.uint8))
    kinds = [encoded(noise, kind) for kind in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "JPEG2000")]
    files = {}
    for n in range(count):
        data = bytearray(kinds[n % len(kinds)])
        for _ in range(int(generator.integers(1, 12))):
            # Headers, which say how large everything is, stand at the beginning.
            place = int(generator.integers(0, len(data) if generator.random() < 0.5 else min(len(data), 100)))
            change = int(generator.integers(0, 4))
            if change == 0:
                del data[place : place + int(generator.integers(1, 40))]
            elif change == 1:
                data[place:place] = generator.bytes(int(generator.integers(1, 40)))
            else:
                data[place : place + 1] = generator.bytes(1)
            if not data:
                break
        files[f"mutated {n}.png"] = bytes(data)
    return files


def large(side: int) -> dict[str, bytes]:
    """Small files of large pictures, as each format packs them."""
    plain = Image.new("RGB", (side, side), (120, 60, 30))
    return {
        "large.png": encoded(plain, "PNG", compress_level=1),
        "large clear.png": encoded(plain.convert("RGBA"), "PNG", compress_level=1),
        "large palette.png": encoded(Image.new("P", plain.size), "PNG", compress_level=1, transparency=0),
        "large.jpg": encoded(plain, "JPEG"),
        "large progressive.jpg": encoded(plain, "JPEG", progressive=True, subsampling=0),
        "large.webp": encoded(plain, "WEBP", method=0),
        "large.gif": encoded(plain, "GIF"),
        "large.tif": encoded(plain, "TIFF", compression="tiff_lzw"),
        "large.jp2": encoded(plain, "JPEG2000"),
    }


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is read from /proc")
def test_hostile_images_are_a_picture_or_a_sentence(soak: Soak, tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    files = odd_files(generator)
    files |= mutated(generator, soak.length(70, 10_000))
    files |= large(soak.length(1000, 9000))
    most = 0
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", _OPEN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for name, content in files.items():
            path = tmp_path / name
            path.write_bytes(content)
            print(json.dumps(str(path)), file=process.stdin, flush=True)
            with soak.case(ascii(name)):
                line = process.stdout.readline()
                assert line, "the process has died"
                said, taken = json.loads(line)
                most = max(most, taken)
                assert said == _PICTURE or _is_a_sentence(said), said
                # What one image may take, if it is large or its header may have come to say so, and what the strips and
                # scaled pictures take.
                bound = MOST_BYTES_OF_ONE if name.startswith(("large", "nearly", "mutated")) else 0
                assert taken < bound + 64 * 2**20, f"{taken / 2**20:.0f} MiB"
            path.unlink()
        process.stdin.close()
    soak.figure("most memory", f"{most / 2**20:.0f} MiB")


def _is_a_sentence(said: object) -> bool:
    return isinstance(said, str) and said.endswith(".") and said.isprintable() and "Traceback" not in said
