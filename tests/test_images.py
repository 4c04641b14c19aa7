"""Reading image files: what is right comes out right, and what is wrong becomes one sentence with the file's name."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from convforge.errors import UserError
from convforge.images import read as module
from convforge.images.read import MAX_PIXELS, decode_image, image_shape, read_image, to_array

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (24, 32, 3), dtype=np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_claiming(width: int, height: int) -> bytes:
    """A complete PNG file of a few bytes whose header claims a size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 9)) + chunk(b"IEND", b"")
    )


def test_pixels_of_the_right_size_come_through_untouched(tmp_path: Path) -> None:
    file = tmp_path / "noise.png"
    file.write_bytes(encoded(Image.fromarray(NOISE)))
    np.testing.assert_array_equal(read_image(file, 3, (24, 32)), NOISE.transpose(2, 0, 1))
    assert image_shape(file) == (3, 24, 32)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_format_into_every_number_of_channels(kind: str, channels: int) -> None:
    flat = np.full((40, 30, 3), (200, 60, 60), dtype=np.uint8)
    pixels = decode_image(encoded(Image.fromarray(flat), kind), "flat", channels, (16, 16))
    assert pixels.shape == (channels, 16, 16)
    assert pixels.dtype == np.uint8
    expected = [200, 60, 60] if channels == 3 else [round(0.299 * 200 + 0.587 * 60 + 0.114 * 60)]
    np.testing.assert_allclose(pixels.mean((1, 2)), expected, atol=3)


def test_grey_into_rgb_repeats_the_channel() -> None:
    grey = Image.fromarray(NOISE[..., 0])
    pixels = decode_image(encoded(grey), "grey", 3, (24, 32))
    assert (pixels == NOISE[..., 0]).all()


def test_transparency_lies_on_white() -> None:
    layers = np.zeros((4, 4, 4), dtype=np.uint8)
    layers[0, 0] = (0, 0, 0, 255)
    pixels = decode_image(encoded(Image.fromarray(layers)), "alpha", 1, (4, 4))
    assert pixels[0, 0, 0] == 0
    assert pixels[0, 1:, 1:].min() == 255


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_turns_the_picture_upright(orientation: int, tmp_path: Path) -> None:
    upright = Image.fromarray(NOISE)
    # How the camera would have stored it: the inverse of what the tag asks the reader to do.
    stored_by = {
        1: lambda i: i,
        2: lambda i: i.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: lambda i: i.transpose(Image.Transpose.ROTATE_180),
        4: lambda i: i.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: lambda i: i.transpose(Image.Transpose.TRANSPOSE),
        6: lambda i: i.transpose(Image.Transpose.ROTATE_90),
        7: lambda i: i.transpose(Image.Transpose.TRANSVERSE),
        8: lambda i: i.transpose(Image.Transpose.ROTATE_270),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = tmp_path / "turned.png"
    stored_by[orientation](upright).save(file, exif=exif)
    assert image_shape(file) == (3, 24, 32)
    np.testing.assert_array_equal(read_image(file, 3, (24, 32)), NOISE.transpose(2, 0, 1))


@pytest.mark.parametrize("orientation", [3, 6])
def test_turned_before_or_after_it_is_made_small_is_the_same_but_for_rounding(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = decode_image(encoded(Image.fromarray(NOISE), exif=exif), "turned", 3, (11, 9))
    upright = ImageOps.exif_transpose(Image.open(BytesIO(encoded(Image.fromarray(NOISE), exif=exif))))
    expected = np.asarray(ImageOps.fit(upright, (9, 11), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    assert np.abs(turned.astype(int) - expected).max() <= 1


COLOURS = Image.fromarray(RNG.integers(0, 256, (57, 43, 4), np.uint8))
MODES = {
    "RGB": COLOURS.convert("RGB"),
    "RGBA": COLOURS,
    "LA": COLOURS.convert("LA"),
    "P": COLOURS.convert("RGB").quantize(16),
    "1": COLOURS.convert("1"),
    "CMYK": COLOURS.convert("RGB").convert("CMYK"),
    "I;16": Image.fromarray(RNG.integers(0, 65536, (57, 43), np.uint16)),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(57, 43), (20, 20), (9, 40), (40, 9), (100, 130), (1, 1)])
def test_strips_give_what_the_whole_image_gives_but_for_rounding(
    mode: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_STRIP", 5 * 43)
    image = MODES[mode]
    whole = image.convert("RGBA") if mode in ("RGBA", "LA") else image
    if mode == "I;16":
        whole = Image.fromarray(((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8))
    if whole.mode == "RGBA":
        whole = Image.alpha_composite(Image.new("RGBA", whole.size, "white"), whole)
    expected = ImageOps.fit(whole.convert("RGB"), size[::-1], Image.Resampling.BILINEAR)
    # Pillow chooses for itself whether it rounds after the width or after the height.
    assert np.abs(to_array(image, 3, size).astype(int) - np.asarray(expected).transpose(2, 0, 1)).max() <= 1


def test_broken_exif_costs_the_orientation_and_not_the_picture() -> None:
    data = encoded(Image.fromarray(NOISE), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\xee" * 30)
    assert decode_image(data, "odd", 3, (24, 32)).shape == (3, 24, 32)


def test_sixteen_bits_keep_black_middle_and_white() -> None:
    values = np.array([[0, 32768, 65535]], dtype=np.uint16)
    for kind in ("PNG", "TIFF"):
        pixels = decode_image(encoded(Image.fromarray(values), kind), "deep", 1, (1, 3))
        assert pixels.tolist() == [[[0, 128, 255]]]


def test_pixels_without_a_range_are_refused() -> None:
    data = encoded(Image.fromarray(np.full((4, 4), 0.5, dtype=np.float32)), "TIFF")
    with pytest.raises(UserError, match=r"heights\.tif: its pixels have no defined range \(mode F, 0\.5 to 0\.5\)"):
        decode_image(data, "heights.tif", 1, (4, 4))


def test_the_picture_is_cropped_at_the_centre_and_never_stretched() -> None:
    wide = np.zeros((10, 30), dtype=np.uint8)
    wide[:, 10:20] = 255
    assert (decode_image(encoded(Image.fromarray(wide)), "wide", 1, (10, 10)) == 255).all()


def test_a_large_jpeg_is_scaled_like_a_large_png() -> None:
    ramp = np.linspace(0, 255, 1024).astype(np.uint8)
    large = Image.fromarray(np.tile(ramp, (1024, 1)))
    jpeg, png = (decode_image(encoded(large, kind), kind, 1, (32, 32)) for kind in ("JPEG", "PNG"))
    np.testing.assert_allclose(jpeg.astype(int), png.astype(int), atol=4)


def test_grey_is_recognised_in_its_disguises(tmp_path: Path) -> None:
    grey = Image.fromarray(NOISE[..., 0])
    for name, image in (("l", grey), ("la", grey.convert("LA")), ("1", grey.convert("1")), ("p", grey.convert("P"))):
        image.save(tmp_path / f"{name}.png")
        assert image_shape(tmp_path / f"{name}.png")[0] == 1, name
    Image.fromarray(NOISE).convert("P").save(tmp_path / "colour.png")
    assert image_shape(tmp_path / "colour.png")[0] == 3


def test_wrong_number_of_channels() -> None:
    with pytest.raises(UserError, match=r"1 channel \(greyscale\) or 3 \(RGB\), not 4"):
        to_array(Image.fromarray(NOISE), 4, (8, 8))


# ---------------------------------------------------------------------------------------------------------------------
# What is wrong
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("kept", [0, 0.02, 0.3, 0.6, 0.9])
def test_a_truncated_file_is_named(kind: str, kept: float, tmp_path: Path) -> None:
    whole = encoded(Image.fromarray(NOISE), kind)
    file = tmp_path / f"short.{kind.lower()}"
    file.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(UserError, match=r"short\.\w+ is (damaged|not an image)"):
        read_image(file, 3, (24, 32))


def test_a_text_file_with_an_image_name(tmp_path: Path) -> None:
    file = tmp_path / "holiday.jpg"
    file.write_text("not a picture")
    with pytest.raises(UserError, match=r"holiday\.jpg is not an image, whatever its name says"):
        read_image(file, 3, (8, 8))


def test_postscript_is_never_handed_to_an_interpreter(tmp_path: Path) -> None:
    file = tmp_path / "run.png"
    file.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
    with pytest.raises(UserError, match="is not an image"):
        read_image(file, 3, (8, 8))


@pytest.mark.parametrize("side", [100_000, 12_000, 9_500])
def test_a_decompression_bomb_is_refused_by_its_header(side: int, tmp_path: Path) -> None:
    file = tmp_path / "bomb.png"
    file.write_bytes(png_claiming(side, side))
    assert file.stat().st_size < 200
    for read in (lambda: read_image(file, 1, (8, 8)), lambda: image_shape(file)):
        with pytest.raises(UserError, match=rf"bomb\.png claims to have more than {MAX_PIXELS:,} pixels"):
            read()


def test_the_limit_holds_where_pillow_s_own_was_lifted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    file = tmp_path / "bomb.png"
    file.write_bytes(png_claiming(100_000, 100_000))
    with pytest.raises(UserError, match="claims to have more than"):
        read_image(file, 1, (8, 8))


def test_missing_folder_pipe_and_forbidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"absent\.png does not exist"):
        read_image(tmp_path / "absent.png", 1, (8, 8))
    with pytest.raises(UserError, match="is a folder"):
        read_image(tmp_path, 1, (8, 8))
    with pytest.raises(UserError, match="does not exist"):
        read_image("nul\0byte.png", 1, (8, 8))
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.png")
        with pytest.raises(UserError, match="is not a regular file"):
            read_image(tmp_path / "pipe.png", 1, (8, 8))

    file = tmp_path / "mine.png"
    file.write_bytes(encoded(Image.fromarray(NOISE)))

    # File modes do not bind root, under whom tests may run.
    def refuse(self: Path, mode: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UserError, match=r"mine\.png cannot be read \(Permission denied\)"):
        read_image(file, 1, (8, 8))


def test_one_row_cannot_be_as_large_as_an_image(tmp_path: Path) -> None:
    file = tmp_path / "row.png"
    file.write_bytes(png_claiming(1_000_001, 1))
    for read in (lambda: read_image(file, 1, (8, 8)), lambda: image_shape(file)):
        with pytest.raises(UserError, match=r"row\.png claims a side of 1,000,001 pixels, and at most 1,000,000"):
            read()


def test_what_would_take_too_much_memory_is_refused_before_it_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_BYTES_OF_ONE", 2**30)
    file = tmp_path / "wall.webp"
    file.write_bytes(encoded(Image.new("RGB", (64, 64)), "WEBP", lossless=True))
    assert read_image(file, 3, (8, 8)).shape == (3, 8, 8)
    monkeypatch.setattr(module, "MOST_BYTES_OF_ONE", 64 * 64 * 15)
    for read in (lambda: read_image(file, 3, (8, 8)), lambda: image_shape(file)):
        with pytest.raises(UserError, match=r"wall\.webp would take 0\.0 GiB of memory to decode, and at most"):
            read()


def test_a_hostile_name_is_shown_escaped(tmp_path: Path) -> None:
    file = tmp_path / os.fsdecode(b"caf\xe9\x1b[31m\n.png")
    with pytest.raises(UserError) as mistake:
        read_image(file, 3, (8, 8))
    assert r"caf\xe9\x1b[31m\x0a.png does not exist" in str(mistake.value)
    file.write_bytes(encoded(Image.fromarray(NOISE)))
    assert read_image(file, 3, (8, 8)).shape == (3, 8, 8)


# Peak memory is of a whole process, so each measurement has one of its own. VmHWM and not getrusage, whose figure
# begins with that of the process that started it.
_MEASURE = """
import sys
from concurrent.futures import ThreadPoolExecutor
from convforge.images.read import read_image
def status(key):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(key))
path, threads = sys.argv[1], int(sys.argv[2])
before = status("VmRSS")
with ThreadPoolExecutor(threads) as pool:
    list(pool.map(lambda _: read_image(path, 3, (64, 64)), range(threads)))
    print(status("VmHWM") - before, status("VmRSS") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize(
    ("mode", "threads", "most"), [("RGB", 1, 140), ("RGBA", 1, 140), ("P", 1, 70), ("RGB", 6, 384 + 80)]
)
def test_memory_is_that_of_the_picture_once_and_however_many_threads_read_bounded(
    mode: str, threads: int, most: int, tmp_path: Path
) -> None:
    file = tmp_path / "large.png"
    Image.new(mode, (5000, 5000)).save(file, compress_level=1)
    command = [sys.executable, "-c", _MEASURE, str(file), str(threads)]
    peak, left = map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    assert peak < most * 2**20
    assert left < 64 * 2**20


def assert_image_or_user_error(data: bytes) -> None:
    message = ""
    try:
        assert decode_image(data, "hostile", 3, (8, 8)).shape == (3, 8, 8)
    except UserError as mistake:
        message = str(mistake)
    assert message == "" or message.startswith("hostile")


@given(
    st.binary(max_size=300),
    st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a", b"BM", b"II*\0"]),
)
def test_arbitrary_bytes_are_an_image_or_a_user_error(data: bytes, magic: bytes) -> None:
    assert_image_or_user_error(magic + data)


WHOLE = {kind: encoded(Image.fromarray(NOISE), kind) for kind in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP")}


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(sorted(WHOLE)), st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=8))
def test_flipped_bytes_are_an_image_or_a_user_error(kind: str, flips: list[tuple[float, int]]) -> None:
    data = bytearray(WHOLE[kind])
    for place, value in flips:
        data[int(place * (len(data) - 1))] = value
    assert_image_or_user_error(bytes(data))
