"""ONNX files that prepare pictures themselves, as training and prediction prepare them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import convforge
from convforge.images.photographs import photographs
from convforge.images.read import to_array
from convforge.models.checkpoint import Architecture, save
from convforge.models.export import export
from convforge.models.preprocessing import with_preprocessing

onnx = pytest.importorskip("onnx")
reference = pytest.importorskip("onnx.reference")

SIZES = [(24, 30), (12, 15), (48, 90), (25, 31), (97, 40), (200, 301)]
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)


def architecture(channels: int) -> Architecture:
    settings = {"widths": [4, 8], "convs": 1}
    return Architecture("vgg", settings, ("a", "b", "c"), (channels, 24, 30), MEAN[:channels], STD[:channels])


def prepared(channels: int, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What the nodes make of pixels, computed by the reference of ONNX's own package: behind them is nothing."""
    nothing = onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["" : 20]>
        network (float[batch, {channels}, 24, 30] images) => (float[batch, {channels}, 24, 30] logits) {{
            logits = Identity (images)
        }}"""
    )
    model = with_preprocessing(nothing, architecture(channels), "images")
    onnx.checker.check_model(model, full_check=True)
    (made,) = reference.ReferenceEvaluator(model).run(None, {"pixels": pixels})
    return made


def picture(channels: int, size: tuple[int, int]) -> Image.Image:
    with Image.open(photographs()[0]) as image:
        return image.convert("L" if channels == 1 else "RGB").resize(size[::-1])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_are_those_of_training_within_one_level_of_255(channels: int, size: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*size, channels), np.uint8)
    photograph = np.asarray(picture(channels, size)).reshape(*size, channels)
    pixels = np.stack([noise, photograph])
    made = prepared(channels, pixels)
    levels = (made * np.array(STD[:channels])[:, None, None] + np.array(MEAN[:channels])[:, None, None]) * 255
    for ours, image in zip(levels, pixels, strict=True):
        flat = Image.fromarray(image[..., 0] if channels == 1 else image)
        expected = to_array(flat, channels, (24, 30)).astype(float)
        difference = np.abs(ours - expected)
        assert difference.max() < 1.01  # a sum that falls to the other side of a half
        assert (difference > 0.01).mean() < 0.08
        if size in ((24, 30), (48, 90)):  # here all weights are eighths, and nothing is rounded
            assert difference.max() < 0.01


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("preprocessing") / "pets"
    torch.manual_seed(0)
    model = architecture(3).build().train()
    model(torch.randn(16, 3, 24, 30))
    save(folder, model, architecture(3))
    export(folder, "onnx", folder / "whole.onnx", with_preprocessing=True)
    export(folder, "onnx", folder / "plain.onnx")
    return folder


def test_onnx_runtime_answers_as_predict_does_for_pictures_of_any_size(run: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    session: Any = onnxruntime.InferenceSession(run / "whole.onnx")
    (given,) = session.get_inputs()
    assert (given.name, given.type, given.shape) == ("pixels", "tensor(uint8)", ["batch", "height", "width", 3])
    network = convforge.load(run)
    for size in SIZES:
        image = picture(3, size)
        (logits,) = session.run(None, {"pixels": np.asarray(image)[None]})
        ours = dict(network.predict(image)[0].ranking)
        shares = torch.from_numpy(logits)[0].softmax(0).tolist()
        assert dict(zip("abc", shares, strict=True)) == pytest.approx(ours, abs=5e-3)


def test_convforge_takes_the_file_too_and_prepares_pictures_itself(run: Path) -> None:
    whole, alone = convforge.load(run / "whole.onnx"), convforge.load(run)
    assert whole.input_shape == alone.input_shape == (3, 24, 30)
    assert whole.classes == ("a", "b", "c")
    x = torch.randn(2, 3, 24, 30)
    assert torch.allclose(whole(x), alone(x), atol=1e-5)
    image = picture(3, (200, 301))
    assert dict(whole.predict(image)[0].ranking) == pytest.approx(dict(alone.predict(image)[0].ranking), abs=1e-5)


@pytest.mark.parametrize(
    "said", ["", "[]", '{"makes": "images"}', '{"makes": "logits", "shape": [3, -1, 2]}', "[" * 5000]
)
def test_metadata_of_that_name_that_says_nothing_is_left_alone(run: Path, tmp_path: Path, said: str) -> None:
    model = onnx.load(run / "plain.onnx")
    model.metadata_props.add(key="convforge.preprocessing", value=said)
    onnx.save(model, tmp_path / "plain.onnx")
    assert convforge.load(tmp_path / "plain.onnx").input_shape == (3, 24, 30)
